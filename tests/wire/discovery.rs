//! SPEC 1, `--discover`: which servers of this machine are found, and what is said of them.

use crate::support::proxy::Setup;
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, KeyText};
use llmproxy::discover::{configuration, look_at};
use llmproxy::util::secret::Secret;

fn answering(script: Script) -> Upstream {
    let upstream = Upstream::start();
    upstream.always("/v1/models", script);
    upstream
}

// D9
#[test]
fn servers_that_ask_for_a_key_are_told_with_a_place_for_it() {
    let open = Upstream::serving(&["m"]);
    let keyed = answering(Script::error(401, "Invalid API Key"));
    let forbidding = answering(Script::error(403, "no key"));
    let airplay = answering(Script::answer(403, &[("Server", "AirTunes/860.7.1")], ""));
    let other = answering(Script::answer(200, &[("Content-Type", "text/html")], "<html>"));
    let all = [&open, &keyed, &forbidding, &airplay, &other].map(|upstream| upstream.addr().port());
    let found = look_at(&all);
    let kinds: Vec<_> = found.iter().map(|server| (server.endpoint.base.port, server.wants_key)).collect();
    assert_eq!(kinds, [(all[0], false), (all[1], true), (all[2], true)]);
    let text = configuration(&found);
    assert_eq!(text.matches("apiKey: ${LOCAL_").count(), 2, "{text}");
    assert!(text.contains(&format!("port: {}\n    apiKey: ${{LOCAL_{}_KEY}}", all[1], all[1])), "{text}");
}

// D9
#[test]
fn a_proxy_of_this_kind_is_never_found_whatever_it_serves() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    let empty = Setup::over(&[]).start();
    let key = ClientKey {
        name: "k".into(),
        key: KeyText::Plain(Secret::new("canary")),
        models: vec![],
        endpoints: vec![],
        max_parallel: None,
        rate_limit: None,
        background: false,
        admin: false,
    };
    let keyed = Setup::over(&[&upstream]).with(|config| config.keys = vec![key]).start();
    let ports = [&proxy, &empty, &keyed].map(|one| one.addr.port());
    assert_eq!(keyed.get("/v1/models").status(), 401);
    assert_eq!(look_at(&ports).len(), 0);
}
