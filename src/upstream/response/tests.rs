//! Each framing with each ending: nothing whole counts as lost, nothing lost as whole.

use super::*;

/// How an answer went that was fed in pieces of this size and then ended by the endpoint's close.
#[derive(Debug, PartialEq)]
enum Went {
    /// All of this body, and whether the connection may be used again.
    Whole(Vec<u8>, bool),
    /// Only this much of the body.
    Lost(Vec<u8>),
    /// This much, then bytes that are no answer.
    Broken(Vec<u8>),
    Headless,
}

fn fed(input: &[u8], size: usize, is_head_request: bool) -> Went {
    let (mut response, mut out) = (Response::new(is_head_request), Vec::new());
    input.chunks(size).for_each(|piece| response.feed(piece, &mut out));
    let clean = response.is_clean();
    response.close(&mut out);
    let Some(end) = out.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if response.broken().is_some() { Went::Broken(out) } else { Went::Headless };
    };
    let head = String::from_utf8_lossy(&out[..end]).to_ascii_lowercase();
    let body = out[end + 4..].to_vec();
    let (body, whole) = match () {
        () if response.is_until_close() => (body, true),
        () if head.contains("transfer-encoding: chunked") && !body.is_empty() => joined(&body),
        () => (body, response.is_done()),
    };
    match (response.broken(), whole) {
        (Some(_), _) => Went::Broken(body),
        (None, true) => Went::Whole(body, clean),
        (None, false) => Went::Lost(body),
    }
}

/// What stands in chunks of the one form that is passed on, and whether the last one is there.
fn joined(mut chunks: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while !chunks.is_empty() {
        if chunks == LAST_CHUNK {
            return (body, true);
        }
        let size = usize::from_str_radix(str::from_utf8(&chunks[..8]).expect("digits"), 16).expect("a size");
        assert!(size > 0 && &chunks[8..10] == b"\r\n" && &chunks[10 + size..12 + size] == b"\r\n");
        body.extend_from_slice(&chunks[10..10 + size]);
        chunks = &chunks[12 + size..];
    }
    (body, false)
}

fn went(input: &str) -> Went {
    let at_once = fed(input.as_bytes(), usize::MAX, false);
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(fed(input.as_bytes(), size, false), at_once, "{input:?} by {size}");
    }
    at_once
}

fn whole(body: &str, clean: bool) -> Went {
    Went::Whole(body.into(), clean)
}

const SIZED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const OPEN: &str = "HTTP/1.1 200 OK\r\n\r\n";

#[test]
fn each_framing_has_its_own_end() {
    assert_eq!(went(&format!("{SIZED}hello")), whole("hello", true));
    assert_eq!(went(&format!("{CHUNKED}2\r\nhe\r\n003\r\nllo\r\n0\r\n\r\n")), whole("hello", true));
    assert_eq!(went(&format!("{CHUNKED}0\r\n\r\n")), whole("", true));
    assert_eq!(went(&format!("{CHUNKED}5\r\nhello\r\n0\r\nA: b\r\n\r\n")), whole("hello", true));
    assert_eq!(went(&format!("{OPEN}hello")), whole("hello", false));
    assert_eq!(went("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"), whole("{}", true));
}

#[test]
fn a_close_before_that_end_is_a_loss() {
    for end in 0..5 {
        assert_eq!(went(&format!("{SIZED}{}", &"hello"[..end])), Went::Lost(b"hello"[..end].to_vec()));
    }
    let chunks = "2\r\nhe\r\n3\r\nllo\r\n0\r\n";
    for end in 1..chunks.len() - 2 {
        assert!(matches!(went(&format!("{CHUNKED}{}", &chunks[..end])), Went::Lost(_)), "{end}");
    }
    // Every byte of the body is here, and it is known to be the last.
    assert_eq!(went(&format!("{CHUNKED}{chunks}")), whole("hello", false));
    for end in 0..SIZED.len() {
        assert_eq!(went(&SIZED[..end]), Went::Headless, "{end}");
    }
}

// U11, C8
#[test]
fn bytes_after_the_end_reach_nobody_and_spoil_the_connection() {
    for (answer, body) in [
        (format!("{SIZED}helloPOISON"), "hello"),
        (format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), "hello"),
        ("HTTP/1.1 204 No Content\r\n\r\nx".into(), ""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc".into(), ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx".into(), ""),
    ] {
        assert_eq!(went(&answer), whole(body, false), "{answer:?}");
    }
}

// U11
#[test]
fn an_answer_without_a_body_ends_its_connection_since_a_late_one_would_be_the_next_clients() {
    for head in ["204 No Content", "304 Not Modified", "200 OK\r\nContent-Length: 0"] {
        assert_eq!(went(&format!("HTTP/1.1 {head}\r\n\r\n")), whole("", false), "{head}");
    }
    assert_eq!(fed(format!("{SIZED}hello").as_bytes(), 9, true), whole("", false), "HEAD");
}

// U22, C12
#[test]
fn interim_heads_are_swallowed_whatever_fields_they_have() {
    let interim = "HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 9\r\n\r\n\
                   HTTP/1.1 102 Processing\r\n\r\n";
    assert_eq!(went(&format!("{interim}{SIZED}hello")), whole("hello", true));
    assert_eq!(went(&interim.repeat(1000)), Went::Headless);
}

// U10
#[test]
fn chunks_in_an_http_10_answer_are_a_fault() {
    let head = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(went(&format!("{head}2\r\n{{}}\r\n0\r\n\r\n")), Went::Broken(vec![]));
}

#[test]
fn other_codings_and_lengths_that_differ_are_faults_and_both_framings_spoil_the_connection() {
    for fields in [
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 2",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: x",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 0x1",
        "Content-Length : 1",
        "X: a\r\n b",
        "X\r\n",
    ] {
        assert_eq!(went(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{{}}")), Went::Broken(vec![]), "{fields:?}");
    }
    assert_eq!(went("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"), whole("{}", true));
    // C10
    let both = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nTRANSFER-ENCODING: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    assert_eq!(fed(both.as_bytes(), 5, false), whole("{}", false));
}

// U25
#[test]
fn a_chunk_size_is_hexadecimal_and_nothing_else() {
    for size in ["+5", "-5", " 5 ", " 5", "5 ", "\t5", "0x5", "", "5\n", "5;\n", "00000000000000005", "G"] {
        assert_eq!(went(&format!("{CHUNKED}{size}\r\nhello\r\n0\r\n\r\n")), Went::Broken(vec![]), "{size:?}");
    }
    for size in ["+0", " 0", "0 ", "-0"] {
        let chunks = format!("{CHUNKED}5\r\nhello\r\n{size}\r\n\r\n");
        assert_eq!(went(&chunks), Went::Broken(b"hello".to_vec()), "{size:?}");
    }
}

// H7
#[test]
fn what_came_before_a_broken_chunk_is_passed_on_even_when_it_came_together() {
    for rest in ["zz\r\n", "5\r\nhelloX", "5\r\nhello\n", "0\r\nbad trailer\r\n\r\n"] {
        let before = if rest.starts_with('5') { "one,hello" } else { "one," };
        let answer = format!("{CHUNKED}4\r\none,\r\n{rest}");
        assert_eq!(fed(answer.as_bytes(), usize::MAX, false), Went::Broken(before.into()), "{rest:?}");
    }
}

// U26
#[test]
fn chunk_extensions_are_dropped_and_bounded_chunk_by_chunk() {
    let chunk = |length: usize| format!("1;{}\r\na\r\n", "x".repeat(length));
    assert_eq!(went(&format!("{CHUNKED}{}0;y\r\n\r\n", chunk(21))), whole("a", true));
    assert_eq!(went(&format!("{CHUNKED}{}0\r\n\r\n", chunk(2000).repeat(20))), whole(&"a".repeat(20), true));
    assert_eq!(went(&format!("{CHUNKED}{}{}", chunk(8192), chunk(8193))), Went::Broken(b"a".to_vec()));
}

#[test]
fn a_head_has_its_bounds() {
    let fields = |n: usize| (0..n).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let answer =
        |fields: &str| fed(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\n{{}}").as_bytes(), 4096, false);
    assert_eq!(answer(&fields(127)), whole("{}", true));
    assert_eq!(answer(&fields(128)), Went::Broken(vec![]));
    assert_eq!(answer(&format!("X: {}\r\n", "x".repeat(40 << 10))), whole("{}", true));
    assert_eq!(answer(&format!("X: {}\r\n", "x".repeat(70 << 10))), Went::Broken(vec![]));
}

#[test]
fn bytes_that_are_no_head_are_stray() {
    for (text, unexpected) in
        [("POISON", true), ("\x15\x03\x01", true), ("HTTP/1.1 abc", true), (SIZED, false), ("HTTP/1.", false)]
    {
        let (mut response, mut out) = (Response::new(false), Vec::new());
        response.feed(text.as_bytes(), &mut out);
        assert_eq!(response.is_unexpected(), unexpected, "{text:?}");
    }
}
