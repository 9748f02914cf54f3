//! Unit tests of `format_004`.

use super::*;
use crate::config::dotenv;
use crate::config::{Auth, CorsOrigin, Probe};

fn of(text: &str) -> Option<Result<Config, Vec<Problem>>> {
    let known = dotenv(text);
    read(&|name| known.get(name).cloned())
}

#[test]
fn the_documented_environment_means_what_its_document_says() {
    // S004-01, S004-02, S004-12, S004-18
    let text = "PORT=3000\nOPENAI_API_KEY=your-api-key-here\nOPENAI_API_BASE_URL=http://h:1/v1\nMAX_CONCURRENT=3\nAPI_KEY=mine\n";
    let config = of(text).expect("004").expect("right");
    assert_eq!((config.server.host.as_str(), config.server.port), ("0.0.0.0", 3000));
    assert_eq!(config.server.cors, [CorsOrigin::Any]);
    let [one] = &config.endpoints[..] else { panic!("one") };
    assert_eq!((one.base.host.as_str(), one.base.api.as_str(), &one.auth), ("h", "/v1", &Auth::Bearer));
    assert_eq!((one.api_keys[0].reveal(), &one.probe), ("your-api-key-here", &Probe::Never));
    assert_eq!((config.jobs.enabled, config.jobs.always, config.jobs.max_concurrent), (true, true, 3));
    assert!(matches!(&config.keys[..], [key] if matches!(&key.key, KeyText::Plain(text) if text.reveal() == "mine")));
    let bare = of("OPENAI_API_BASE_URL=http://h:1").expect("004").expect("right");
    assert_eq!((bare.keys.len(), bare.jobs.max_concurrent, bare.endpoints[0].api_keys.len()), (0, 2, 0));
    assert!(of("OPENAI_API_KEY=x").is_none());
}

#[test]
fn quotes_that_docker_leaves_and_a_port_are_read() {
    let quoted = |name: &str| match name {
        "OPENAI_API_BASE_URL" => Some("\"http://h:1/v1\"".to_owned()),
        "API_KEY" => Some("'mine'".to_owned()),
        "PORT" => Some("\"3001\"".to_owned()),
        _ => None,
    };
    let config = read(&quoted).expect("004").expect("right");
    assert_eq!((config.endpoints[0].base.host.as_str(), config.server.port), ("h", 3001));
    assert!(matches!(&config.keys[0].key, KeyText::Plain(text) if text.reveal() == "mine"));
    let problems = of("OPENAI_API_BASE_URL=http://h:1\nPORT=x\n").expect("004").expect_err("wrong");
    assert_eq!(problems[0].to_string(), "environment: PORT: this value is not a port (0 to 65535)");
}

#[test]
fn what_is_wrong_is_named_and_no_value_is_told() {
    let text = "OPENAI_API_BASE_URL=your-endpoint-here\nMAX_CONCURRENT=canary\nAPI_KEY=k\u{fc}canary\n";
    let problems = of(text).expect("004").expect_err("wrong");
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("environment: ") && !line.contains("canary")), "{lines:?}");
}
