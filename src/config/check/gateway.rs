//! `groups`, `listeners` and what the main listener has in common with them.

use super::address::{listen_host, origin};
use super::endpoint::{proxy, unique};
use super::header;
use super::keys::rate_limit;
use super::routing::{known, retry, strategy};
use super::sections::{ANY_TIME, weight};
use crate::config::reader::{Field, Section, not_one_of};
use crate::config::{ClientKey, Endpoint, Group, KeysFor, Listener, ListenerPolicy, Member, Mode, Retry, Stages};
use std::time::Duration;

/// S002-15: documented default.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Names that listeners may refer to.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub groups: &'a [Group],
    pub keys: &'a [ClientKey],
}

pub(super) fn groups(root: &mut Section, endpoints: &[Endpoint], retry: &Retry) -> Vec<Group> {
    let mut names = Vec::new();
    root.field("groups").list(|item| item.item(|s| group(s, endpoints, retry, &mut names))).unwrap_or_default()
}

fn group(s: &mut Section, endpoints: &[Endpoint], base: &Retry, names: &mut Vec<String>) -> Option<Group> {
    let name = unique(&s.required("name"), "group", names);
    let field = s.required("endpoints");
    let mut members: Vec<Member> = Vec::new();
    field.list(|item| {
        let member = item.item(|s| member(s, endpoints))?;
        if members.iter().any(|other| other.endpoint == member.endpoint) {
            item.problem(format!("{:?} is in this group already", member.endpoint));
        }
        members.push(member);
        Some(())
    });
    let strategy = strategy(&s.field("strategy"));
    let retries = s.field("retry");
    let retries_given = retries.is_given();
    let retry = retries.section(|s| retry(s, base));
    let timeouts = s.field("timeouts").section(stages);
    let user_agent = s.field("userAgent").parse(header::value);
    let proxy = proxy(s);
    let stream = s.field("stream").flag().unwrap_or(true);
    let keep_alive = s.field("keepAlive").duration(ANY_TIME).unwrap_or(KEEP_ALIVE);
    Some(Group {
        name: name?,
        endpoints: members,
        strategy,
        retry: retries_given.then_some(retry),
        timeouts,
        user_agent,
        proxy,
        stream,
        keep_alive,
    })
}

fn member(s: &mut Section, endpoints: &[Endpoint]) -> Option<Member> {
    let endpoint = s.required("name").parse(|text| known(text, endpoints));
    let weight = weight(&s.field("weight"));
    Some(Member { endpoint: endpoint?, weight })
}

/// Limits of which each may be missing.
pub(super) fn stages(s: &mut Section) -> Stages {
    let mut limit = |key| s.field(key).duration(ANY_TIME);
    Stages { connect: limit("connect"), first_byte: limit("firstByte"), idle: limit("idle"), total: limit("total") }
}

pub(super) fn listeners(root: &mut Section, known: Known) -> Vec<Listener> {
    let mut names = vec!["main".to_owned()];
    root.field("listeners").list(|item| item.item(|s| listener(s, known, &mut names))).unwrap_or_default()
}

fn listener(s: &mut Section, known: Known, names: &mut Vec<String>) -> Option<Listener> {
    let name = unique(&s.required("name"), "listener", names);
    let host = s.field("host").parse(listen_host).unwrap_or_else(|| "127.0.0.1".into());
    let port = s.required("port").number("a port, or 0 for any free one", 0..=65_535);
    let rate_limit = rate_limit(s);
    let cors = s.field("cors").list(|item| item.parse(origin));
    let policy = ListenerPolicy {
        rate_limit,
        keys: keys(&s.field("keys").guarded(), known.keys),
        cors,
        ..policy(s, known.groups)
    };
    Some(Listener { name: name?, host, port: port?, policy })
}

/// `group` and `mode`, which the main listener has too.
pub(super) fn policy(s: &mut Section, groups: &[Group]) -> ListenerPolicy {
    let group = s.field("group").parse(|text| match groups.iter().any(|group| group.name == text) {
        true => Ok(text.to_owned()),
        false => {
            let error = not_one_of(text, groups.iter().map(|group| group.name.as_str()));
            Err(error.replacen("is not one of", "is no group of this file; there are", 1))
        }
    });
    let mode = s.field("mode").choice(&[("models", Mode::Models), ("raw", Mode::Raw), ("status", Mode::Status)]);
    let mode = mode.unwrap_or_default();
    ListenerPolicy { group, keys: KeysFor::Inherit, rate_limit: None, mode, cors: None }
}

fn keys(field: &Field, keys: &[ClientKey]) -> KeysFor {
    if !field.is_given() || field.is_word("inherit") {
        return KeysFor::Inherit;
    }
    if field.is_word("none") {
        return KeysFor::Nobody;
    }
    let names = field.list(|item| {
        item.parse(|text| match keys.iter().any(|key| key.name == text) {
            true => Ok(text.to_owned()),
            false => Err(not_one_of(text, keys.iter().map(|key| key.name.as_str()))),
        })
    });
    names.map_or(KeysFor::Inherit, KeysFor::Only)
}
