//! The toys over the wire: shapes, pace, hang-ups, pause.

use super::*;
use crate::util::time;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;

/// Sends a request on a connection of its own and leaves the answer unread.
fn send(addr: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).unwrap();
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: toy\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    socket
}

/// Head and body; both are empty when the server closed without an answer.
fn request(addr: SocketAddr, method: &str, path: &str, body: &Value) -> (String, String) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut answer = String::new();
    // A reset counts as a close.
    let _ = send(addr, method, path, &body).read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (head.to_owned(), body.to_owned())
}

fn get(addr: SocketAddr, path: &str) -> Value {
    serde_json::from_str(&request(addr, "GET", path, &Value::Null).1).unwrap()
}

fn post(addr: SocketAddr, path: &str, body: Value) -> Value {
    serde_json::from_str(&request(addr, "POST", path, &body).1).unwrap()
}

/// Events of a stream, chunk frames taken off; each event must lie in one chunk.
fn events(addr: SocketAddr, path: &str, body: Value) -> Vec<String> {
    let (head, body) = request(addr, "POST", path, &body);
    assert!(head.contains("text/event-stream") && head.contains("chunked"), "{head}");
    let mut rest = body.as_str();
    let mut text = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        text += &after[..size];
        rest = after[size..].strip_prefix("\r\n").unwrap();
        if size == 0 {
            assert_eq!(rest, "");
            return text.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap().to_owned()).collect();
        }
    }
}

fn chat(words: &str, more: Value) -> Value {
    let mut body = json!({"model": SHARED, "messages": [{"role": "user", "content": words}], "max_tokens": 3});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn each_toy_lists_its_own_models_and_the_shared_one_in_llama_servers_shape() {
    let demo = start().unwrap();
    let listed: Vec<Vec<String>> = demo
        .servers
        .iter()
        .map(|toy| {
            let list = get(toy.addr, "/v1/models");
            assert_eq!((&list["object"], &list["data"][0]["object"]), (&json!("list"), &json!("model")));
            assert_eq!(list["models"][1]["name"], list["data"][1]["id"]);
            assert_eq!(get(toy.addr, "/health"), json!({"status": "ok"}));
            let props = get(toy.addr, "/props");
            assert_eq!(
                (&props["total_slots"], &props["default_generation_settings"]["n_ctx"]),
                (&json!(2), &json!(4096))
            );
            list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
        })
        .collect();
    assert_eq!(listed, [[SHARED, FAST], [SHARED, SLOW]]);
}

#[test]
fn a_chat_stream_has_role_words_finish_usage_timings_and_an_end_mark() {
    let demo = start().unwrap();
    let body = chat("one two", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = events(demo.servers[0].addr, "/v1/chat/completions", body);
    assert_eq!(events.last().unwrap(), "[DONE]");
    let events: Vec<Value> = events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": null}));
    let text: Vec<&str> = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, ["This ", "is ", "toy-a, "]);
    assert_eq!(events[4]["choices"][0]["finish_reason"], "length");
    let last = &events[5];
    assert_eq!(last["choices"], json!([]));
    assert_eq!((&last["usage"]["prompt_tokens"], &last["usage"]["total_tokens"]), (&json!(2), &json!(5)));
    assert_eq!((&last["timings"]["prompt_n"], &last["timings"]["predicted_n"]), (&json!(2), &json!(3)));
    assert!(events.iter().all(|e| e["id"] == events[0]["id"] && e["object"] == "chat.completion.chunk"));
}

#[test]
fn a_chat_stream_without_include_usage_has_timings_only() {
    let demo = start().unwrap();
    let events = events(demo.servers[0].addr, "/v1/chat/completions", chat("hi", json!({"stream": true})));
    let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(last["usage"].is_null() && last["timings"]["predicted_per_second"].is_number());
}

#[test]
fn a_whole_chat_ends_by_itself_and_names_its_server() {
    let demo = start().unwrap();
    let body = chat("hi", json!({"model": FAST, "max_tokens": null}));
    let whole = post(demo.servers[0].addr, "/v1/chat/completions", body);
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!(FAST)));
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert!(whole["choices"][0]["message"]["content"].as_str().unwrap().starts_with("This is toy-a, "));
    assert!(whole["usage"]["completion_tokens"].as_u64().unwrap() > 50);
}

#[test]
fn completions_answer_whole_and_streamed() {
    let demo = start().unwrap();
    let addr = demo.servers[1].addr;
    let body = |stream| json!({"model": SLOW, "prompt": "a b c", "max_tokens": 2, "stream": stream});
    let whole = post(addr, "/v1/completions", body(false));
    assert_eq!((&whole["choices"][0]["text"], &whole["object"]), (&json!("This is "), &json!("text_completion")));
    let events = events(addr, "/v1/completions", body(true));
    let last: Value = serde_json::from_str(&events[2]).unwrap();
    assert_eq!((&last["usage"]["total_tokens"], &last["choices"][0]["text"]), (&json!(5), &json!("")));
    assert_eq!((events.len(), events[3].as_str()), (4, "[DONE]"));
}

#[test]
fn embeddings_are_the_same_for_the_same_text_as_numbers_and_as_base64() {
    let demo = start().unwrap();
    let embed = |body| post(demo.servers[1].addr, "/v1/embeddings", body)["data"].clone();
    let list = embed(json!({"model": SHARED, "input": ["a red apple", "a pear"]}));
    let one = embed(json!({"model": SHARED, "input": "a red apple", "encoding_format": "float"}));
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!((&list[0]["embedding"], &list[1]["index"]), (&one[0]["embedding"], &json!(1)));
    let packed = embed(json!({"model": SHARED, "input": "a red apple", "encoding_format": "base64"}));
    // 16 numbers of 4 bytes.
    assert_eq!(packed[0]["embedding"].as_str().unwrap().len(), 88);
    assert_eq!(packed[0]["encoding_format"], "base64");
    let tokens = embed(json!({"model": SHARED, "input": [1, 2, 3]}));
    assert_eq!(tokens.as_array().unwrap().len(), 1);
}

#[test]
fn what_a_toy_does_not_know_is_an_error_in_llama_servers_shape() {
    let demo = start().unwrap();
    let addr = demo.servers[0].addr;
    let (head, body) = request(addr, "POST", "/v1/chat/completions", &json!({"model": "no-such"}));
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
    let expected = r#"{"error":{"code":400,"message":"model 'no-such' not found","type":"invalid_request_error"}}"#;
    assert_eq!(body, expected);
    assert_eq!(get(addr, "/v1/models/")["error"]["code"], 404);
}

// S000-20
#[test]
fn a_paused_toy_closes_without_an_answer_until_it_is_resumed() {
    let demo = start().unwrap();
    let addr = demo.servers[0].addr;
    assert_eq!(post(addr, "/demo/pause", Value::Null)["paused"], true);
    assert_eq!(request(addr, "GET", "/health", &Value::Null).0, "");
    assert_eq!(request(addr, "POST", "/v1/chat/completions", &chat("hi", json!({}))).0, "");
    assert_eq!(get(demo.servers[1].addr, "/health"), json!({"status": "ok"}));
    assert_eq!(post(addr, "/demo/resume", Value::Null)["paused"], false);
    assert_eq!(get(addr, "/health"), json!({"status": "ok"}));
}

// C7
#[test]
fn a_pause_cuts_a_stream_in_the_middle() {
    let demo = start().unwrap();
    let addr = demo.servers[1].addr;
    let body = chat("hi", json!({"model": SLOW, "stream": true, "max_tokens": null}));
    let mut stream = BufReader::new(send(addr, "POST", "/v1/chat/completions", &body.to_string()));
    let mut line = String::new();
    while !line.contains("This") {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0);
    }
    post(addr, "/demo/pause", Value::Null);
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest);
    assert!(!rest.contains("[DONE]") && !rest.contains("\r\n0\r\n"), "{rest}");
    let stats = get(addr, "/demo/stats?cut=1");
    assert_eq!((&stats["cut"], &stats["cancelled"], &stats["finished"]), (&json!(1), &json!(0), &json!(0)));
}

// A22
#[test]
fn a_client_that_leaves_is_noticed_in_silence_and_between_words() {
    let demo = start().unwrap();
    let addr = demo.servers[1].addr;
    let asks = [
        chat("slow", json!({"stream": true})),
        chat("queued", json!({"stream": true})),
        chat("slow", json!({})),
        chat("hi", json!({"model": SLOW, "stream": true, "max_tokens": null})),
    ];
    for (body, count) in asks.iter().zip(1..) {
        let socket = send(addr, "POST", "/v1/chat/completions", &body.to_string());
        assert_eq!(get(addr, &format!("/demo/stats?started={count}"))["in_flight"], 1);
        let closed = time::now();
        drop(socket);
        let stats = get(addr, &format!("/demo/stats?cancelled={count}"));
        assert_eq!((&stats["cancelled"], &stats["in_flight"]), (&json!(count), &json!(0)));
        // Far below the 3 s and more that each would have taken.
        assert!((time::now() - closed).as_secs() < 2, "{body}");
    }
}

// A6
#[test]
fn a_length_beyond_reason_costs_one_connection_and_not_the_process() {
    let demo = start().unwrap();
    let addr = demo.servers[0].addr;
    for length in ["99999999999999", "18446744073709551615", "33554433"] {
        let mut socket = TcpStream::connect(addr).unwrap();
        write!(socket, "POST /v1/embeddings HTTP/1.1\r\nHost: toy\r\nContent-Length: {length}\r\n\r\nabc").unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        assert_eq!(answer, "");
    }
    assert_eq!(get(addr, "/health"), json!({"status": "ok"}));
}

#[test]
fn a_dropped_demo_ends_its_streams() {
    let demo = start().unwrap();
    let addr = demo.servers[0].addr;
    let mut waiting = send(addr, "POST", "/v1/chat/completions", &chat("slow", json!({"stream": true})).to_string());
    assert_eq!(waiting.read(&mut [0; 4]).unwrap(), 4);
    drop(demo);
    let mut rest = String::new();
    let _ = waiting.read_to_string(&mut rest);
    assert!(!rest.contains("data:"), "{rest}");
}

#[test]
fn the_configuration_serves_both_toys_on_a_free_port() {
    let demo = start().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert_eq!(free_port("127.0.0.1", taken.local_addr().unwrap().port()), 0);
    let config = config(&demo);
    let ports: Vec<u16> = config.endpoints.iter().map(|e| e.base.port).collect();
    assert_eq!(ports, [demo.servers[0].addr.port(), demo.servers[1].addr.port()]);
    assert_eq!((config.health_check.path.as_str(), config.health_check.failure_threshold), ("/health", 1));
}

#[test]
fn the_banner_holds_whole_curl_lines_for_the_addresses_in_use() {
    let demo = start().unwrap();
    let text = banner(SocketAddr::from(([0, 0, 0, 0], 18080)), "http://127.0.0.1:18080/admin/#token=t", &demo);
    let curls: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("curl ")).collect();
    assert_eq!(curls.len(), 6);
    let toy = format!("http://{}/", demo.servers[0].addr);
    assert!(curls.iter().all(|line| line.contains("http://127.0.0.1:18080/") || line.contains(&toy)));
    let body = curls[1].split('\'').nth(3).unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["stream"], true);
}
