//! `jobs`

use super::sections::SOME_TIME;
use crate::config::features::JOBS;
use crate::config::reader::{Field, Section};
use crate::config::{Jobs, Webhooks};

pub(super) fn jobs(s: &mut Section) -> Jobs {
    let default = Jobs::default();
    Jobs {
        enabled: s.field("enabled").switch(&JOBS).unwrap_or(default.enabled),
        max_concurrent: s.field("maxConcurrent").number("a number of jobs", 1..=256).unwrap_or(default.max_concurrent),
        attempts: s.field("attempts").number("a number of tries", 1..=100).unwrap_or(default.attempts),
        retention: s.field("retention").duration(SOME_TIME).unwrap_or(default.retention),
        timeout: s.field("timeout").duration(SOME_TIME).unwrap_or(default.timeout),
        max_queued: s.field("maxQueued").number("a number of jobs", 1..=100_000).unwrap_or(default.max_queued),
        dir: s.field("dir").parse(folder).map_or(default.dir, Into::into),
        always: s.field("always").flag().unwrap_or(default.always),
        webhooks: s.field("webhooks").guarded().section(webhooks),
    }
}

fn folder(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("is empty; name a folder".into()),
        _ if text.contains('\0') => Err("is no name of a folder".into()),
        _ => Ok(text.to_owned()),
    }
}

fn webhooks(s: &mut Section) -> Webhooks {
    let default = Webhooks::default();
    let allow = s.field("allow").list(|item: Field| {
        item.parse(|text| {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            let is_host = !bare.is_empty() && !bare.contains(['/', '@', ' ', '*']);
            if is_host { Ok(bare.to_ascii_lowercase()) } else { Err("is not a host, such as hooks.lan".into()) }
        })
    });
    Webhooks {
        allow: allow.unwrap_or(default.allow),
        secret: s.secret("secret"),
        attempts: s.field("attempts").number("a number of tries", 1..=100).unwrap_or(default.attempts),
    }
}
