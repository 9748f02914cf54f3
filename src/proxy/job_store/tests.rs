//! Unit tests of `job_store`.

use super::*;
use crate::http::head::{Limits, Parser};

fn head(fields: &str) -> Head {
    let text = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let limits = Limits { target: 100, head: 1000, fields: 10, body: 0 };
    Parser::default().parse(text.as_bytes(), &limits).expect("good").expect("whole").0
}

#[test]
fn a_preference_is_read_as_the_rfc_says() {
    let cases = [
        ("", Preference::Either),
        ("Prefer: respond-async\r\n", Preference::RespondAsync),
        ("prefer: Respond-Async; x=1, wait=10\r\n", Preference::RespondAsync),
        ("Prefer: wait=10, respond-async\r\n", Preference::Now),
        ("Prefer: handling=strict\r\nPrefer: wait\r\n", Preference::Now),
        ("Prefer: respond-asynchronously\r\n", Preference::Either),
    ];
    for (fields, wanted) in cases {
        assert_eq!(preference(&head(fields)), wanted, "{fields}");
    }
}

#[test]
fn a_request_is_kept_when_it_asks_for_it_or_all_are() {
    let chat = Forward::post("/v1/chat/completions");
    let on = Jobs { enabled: true, ..Jobs::default() };
    let always = Jobs { always: true, ..on.clone() };
    let off = Jobs { enabled: false, ..always.clone() };
    let hook = br#"{"webhookUrl":"https://h"}"#;
    let said = br#"{"messages":["webhookUrl"],"x":{"webhookUrl":1}}"#;
    use Preference::{Either, Now, RespondAsync};
    assert!(is_wanted(&on, RespondAsync, &chat, b"{}") && is_wanted(&on, Either, &chat, hook));
    assert!(!is_wanted(&on, Either, &chat, b"{}") && !is_wanted(&on, Either, &chat, said));
    assert!(is_wanted(&always, Either, &chat, b"{}") && !is_wanted(&always, Now, &chat, b"{}"));
    assert!(is_wanted(&always, Now, &chat, hook));
    assert!(
        !is_wanted(&off, RespondAsync, &chat, hook)
            && !is_wanted(&always, RespondAsync, &Forward::post("/v1/rerank"), hook)
    );
}
