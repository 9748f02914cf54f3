//! SPEC 4: nothing whole is called lost, and nothing lost looks whole, for every API's stream, ending and framing.

use crate::support::client::{Answer, Ended};
use crate::support::fact::Latch;
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;

/// A stream: its path, an event inside it, its own end, and its own error.
struct Api {
    path: &'static str,
    inside: &'static str,
    /// `None`: the API has no end of its own.
    end: Option<&'static str>,
    error: &'static str,
}

const ERROR: &str = "data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n\n";
const CHUNK: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"data: [DONE] message_stop\"}}]}\n\n";

const fn api(path: &'static str, inside: &'static str, end: &'static str) -> Api {
    Api { path, inside, end: Some(end), error: ERROR }
}

const DELTA: &str =
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
const APIS: [Api; 13] = [
    api(CHAT, CHUNK, "data: [DONE]\n\n"),
    api(CHAT, CHUNK, "data:[DONE]\n\n"),
    api(CHAT, CHUNK, "data: [DONE]\r\n\r\n"),
    api("/v1/completions", "data: {\"choices\":[{\"text\":\"a\"}]}\n\n", "data: [DONE]\n\n"),
    api("/completion", "data: {\"content\":\"a\",\"stop\":false}\n\n", "data: {\"content\":\"\",\"stop\":true}\n\n"),
    api("/infill", "data: {\"content\":\"a\",\"stop\": false}\n\n", "data: {\"stop\": true}\n\n"),
    api(
        "/v1/responses",
        DELTA,
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n",
    ),
    api("/v1/responses", DELTA, "data: {\"type\":\"response.incomplete\",\"response\":{}}\n\n"),
    api("/v1/responses", DELTA, "event: response.failed\ndata: {\"type\":\"response.failed\"}\n\n"),
    Api {
        path: "/v1/messages",
        inside: "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n",
        end: Some("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
        error: "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n",
    },
    api(
        "/v1/audio/speech",
        "data: {\"type\":\"speech.audio.delta\",\"audio\":\"AAAA\"}\n\n",
        "data: {\"type\":\"speech.audio.done\",\"usage\":{}}\n\n",
    ),
    api(
        "/v1/images/generations",
        "event: image_generation.partial_image\ndata: {\"b64_json\":\"AAAA\"}\n\n",
        "event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"A\"}\n\n",
    ),
    // KoboldCpp's own
    Api { path: "/v1/extra/generate", inside: "event: message\ndata: {\"token\":\"a\"}\n\n", end: None, error: ERROR },
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Chunked,
    Sized,
    Close,
}

/// A stream in this framing, which is whole or breaks off.
fn script(framing: Framing, body: &str, whole: bool) -> Script {
    let (length, kind) = ((body.len() + usize::from(!whole)).to_string(), ("Content-Type", "text/event-stream"));
    let script = match framing {
        Framing::Chunked => Script::head(200, &[kind, ("Transfer-Encoding", "chunked")]).chunk(body),
        Framing::Sized => Script::head(200, &[kind, ("Content-Length", &length)]).bytes(body),
        Framing::Close => Script::head(200, &[kind, ("Connection", "close")]).bytes(body),
    };
    if whole && framing == Framing::Chunked { script.end().cut() } else { script.cut() }
}

fn answered(api: &Api, script: Script) -> Answer {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(api.path, script);
    Setup::over(&[&upstream]).start().post(api.path, stream("m"))
}

fn is_whole(answer: &Answer, body: &str, what: &str) {
    assert_eq!((answer.text(), answer.ended), (body, Ended::Complete), "{what}");
}

fn is_lost(answer: &Answer, body: &str, what: &str) {
    assert_eq!(answer.ended, Ended::Cut, "{what}: {}", answer.text());
    let added = answer.text().strip_prefix(body).unwrap_or_else(|| panic!("{what}: {}", answer.text()));
    assert!(added.contains("is not complete") && added.ends_with("\n\n"), "{what}: {added:?}");
    assert!(!added.contains("[DONE]") && !added.contains("_stop"), "{what}: {added:?}");
}

#[test]
fn nothing_whole_is_called_lost_and_nothing_lost_looks_whole() {
    // R15, U17
    for api in &APIS {
        for framing in [Framing::Chunked, Framing::Sized, Framing::Close] {
            let what = |ending: &str| format!("{} {framing:?} {ending}", api.path);
            let begun = api.inside.repeat(3);
            let whole = format!("{begun}{}", api.end.unwrap_or_default());
            is_whole(&answered(api, script(framing, &whole, true)), &whole, &what("clean end"));

            // Its framing says that it is whole; where there is none only the API can.
            let unended = answered(api, script(framing, &begun, true));
            match framing {
                Framing::Close if api.end.is_some() => is_lost(&unended, &begun, &what("without its end")),
                _ => is_whole(&unended, &begun, &what("without its end")),
            }

            let torn = format!("{begun}{}", &api.inside[..api.inside.len() - 5]);
            is_lost(&answered(api, script(framing, &torn, false)), &torn, &what("inside an event"));

            let failed = format!("{begun}{}", api.error);
            is_whole(&answered(api, script(framing, &failed, true)), &failed, &what("its own error"));
        }
    }
}

#[test]
fn an_end_may_lack_its_last_line_breaks() {
    // R15: nothing is missing.
    for end in ["data: [DONE]\n", "data: [DONE]", "data:[DONE]"] {
        let body = event("one") + end;
        is_whole(&answered(&APIS[0], script(Framing::Close, &body, true)), &body, end);
    }
}

#[test]
fn text_that_speaks_of_the_end_is_not_the_end() {
    // U17
    for text in [
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\n\\ndata: [DONE]\\n\\n\"}}]}\n\n",
        "data: say\ndata: [DONE]\n\n",
        ": data: [DONE]\n\n",
        "data: {\"type\":\"x\",\"text\":\"response.completed\",\"inner\":{\"type\":\"message_stop\",\"stop\":true}}\n\n",
    ] {
        let body = event("one") + text;
        is_lost(&answered(&APIS[0], script(Framing::Close, &body, true)), &body, text);
    }
}

#[test]
fn bytes_of_sound_end_with_a_clean_close() {
    // R15
    let upstream = Upstream::serving(&["m"]);
    let sound = Script::head(200, &[("Content-Type", "audio/mpeg"), ("Connection", "close")]).bytes("sound").cut();
    upstream.on("/v1/audio/speech", sound);
    let answer = Setup::over(&[&upstream]).start().post("/v1/audio/speech", stream("m"));
    assert_eq!((answer.text(), answer.ended), ("sound", Ended::Complete));
}

#[test]
fn a_reset_after_the_apis_own_end_takes_nothing_away() {
    // R15
    let latch = Latch::new();
    let upstream = Upstream::serving(&["m"]);
    let head = Script::head(200, &[("Content-Type", "text/event-stream"), ("Connection", "close")]);
    upstream.on(CHAT, head.bytes(event("one") + "data: [DONE]\n\n").latch(&latch).reset());
    let proxy = Setup::over(&[&upstream]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    assert_eq!((client.event(), client.event()), (Some(event("one")), Some("data: [DONE]\n\n".into())));
    latch.open();
    assert_eq!((client.event(), client.ended()), (None, Ended::Complete));
}
