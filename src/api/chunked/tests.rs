//! Unit tests of `chunked`.

use super::*;

/// At once and byte by byte, which must not differ: the body and what was consumed, none while more must come, or the status.
fn decode(framing: Framing, input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, u16> {
    let mut whole = (Decoder::new(framing, 100), Vec::new());
    let at_once = whole.0.feed(input, &mut whole.1);
    let mut chunks = (Decoder::new(framing, 100), Vec::new());
    let mut grown = chunks.0.feed(&[], &mut chunks.1);
    for (at, byte) in input.iter().enumerate() {
        match &mut grown {
            Ok(Progress { complete: false, .. }) => grown = chunks.0.feed(&[*byte], &mut chunks.1),
            _ => break,
        }
        if let Ok(progress) = &mut grown {
            progress.consumed += at;
        }
    }
    assert_eq!((&at_once, &whole.1), (&grown, &chunks.1), "{}", input.escape_ascii());
    match at_once {
        Ok(progress) => Ok(progress.complete.then_some((whole.1, progress.consumed))),
        Err(failure) => Err(failure.kind.status()),
    }
}

fn chunked(input: impl AsRef<[u8]>) -> Result<Option<(Vec<u8>, usize)>, u16> {
    decode(Framing::Chunked, input.as_ref())
}

#[test]
fn a_sized_body_ends_at_its_size() {
    assert_eq!(decode(Framing::Sized(3), b"abcGET"), Ok(Some((b"abc".to_vec(), 3))));
    assert_eq!(decode(Framing::Sized(3), b"ab"), Ok(None));
    assert_eq!(decode(Framing::Sized(0), b"GET"), Ok(Some((vec![], 0))));
    assert_eq!(decode(Framing::None, b"GET"), Ok(Some((vec![], 0))));
}

#[test]
fn chunks_are_joined_and_what_follows_is_left_alone() {
    let input = b"3\r\nabc\r\n00A;x=\"y\";\xff\r\n\r\n0\r\n\r\n567\r\n0\r\nA: b\r\nContent-Length:\r\n\r\nGET";
    assert_eq!(chunked(input), Ok(Some((b"abc\r\n0\r\n\r\n567".to_vec(), input.len() - 3))));
    assert_eq!(chunked("0\r\n\r\n"), Ok(Some((vec![], 5))));
    assert_eq!(chunked("000;\r\n\r\n"), Ok(Some((vec![], 8))));
    for end in 0..input.len() - 3 {
        assert_eq!(chunked(&input[..end]), Ok(None), "{end}");
    }
}

// A7
#[test]
fn a_chunk_is_a_hexadecimal_size_a_line_end_and_as_many_bytes() {
    for input in [
        "+3\r\n",
        "-1\r\n",
        "0x3\r\n",
        "zz\r\n",
        "\r\n",
        ";\r\n",
        " 3\r\n",
        "3 \r\n",
        "3 ;a\r\n",
        "3\t\r\n",
        "3\nabc",
        "3\rabc",
        "3;a\n",
        "3;a\rb",
        "3;\0",
        "00000000000000003\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc0\r\n",
        "3\r\nabc\n0",
        "3\r\nabc\r0",
        "3\r\nabc\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "3_0\r\n",
        "3.\r\n",
        "\n0\r\n\r\n",
        "0\r\n\n",
        "0\r\n\r\r",
        "0\n\r\n",
        "0\r\n A: b\r\n",
        "0\r\nA: b\r\n c\r\n",
        "0\r\nA\r\n\r\n",
        "0\r\n: b\r\n",
        "0\r\nA : b\r\n",
        "0\r\nA: \0\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\rc",
        "0\r\nGET / HTTP/1.1\r\n",
    ] {
        assert_eq!(chunked(input), Err(400), "{input:?}");
    }
    assert_eq!(chunked("0000000000000003\r\nabc\r\n0\r\n\r\n"), Ok(Some((b"abc".to_vec(), 28))));
}

// A8
#[test]
fn extensions_and_trailers_have_their_bounds() {
    let extension = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length));
    assert!(matches!(chunked(extension(EXTENSIONS)), Ok(Some(_))));
    assert_eq!(chunked(extension(EXTENSIONS + 1)), Err(400));
    assert_eq!(chunked(format!("1;{}\r\na\r\n", "x".repeat(82)).repeat(100)), Err(400));
    let trailers = |length: usize| format!("0\r\nA:{}\r\n\r\n", "x".repeat(length - 4));
    assert!(matches!(chunked(trailers(TRAILERS)), Ok(Some((body, _))) if body.is_empty()));
    assert_eq!(chunked(trailers(TRAILERS + 1)), Err(431));
    assert_eq!(chunked(format!("0\r\n{}", "A: b\r\n".repeat(TRAILERS / 6 + 1))), Err(431));
}

// B6
#[test]
fn a_body_above_the_limit_is_refused_as_soon_as_it_is_announced() {
    assert_eq!(decode(Framing::Sized(101), b""), Err(413));
    assert_eq!(chunked("65\r"), Err(413));
    assert_eq!(chunked("65;"), Err(413));
    assert_eq!(chunked("ffffffffffffffff\r\n"), Err(413));
    let full = format!("64\r\n{}\r\n", "a".repeat(100));
    assert_eq!(chunked(format!("{full}0\r\n\r\n")), Ok(Some((vec![b'a'; 100], 111))));
    assert_eq!(chunked(format!("{full}1\r\n")), Err(413));
    assert_eq!(chunked("1\r\na\r\nffffffffffffffff\r\n"), Err(413));
}

// B6
#[test]
fn room_follows_what_came_and_not_what_was_announced() {
    for framing in [Framing::Sized(1 << 20), Framing::Sized(99_999_999_999_999), Framing::Chunked] {
        let mut decoder = Decoder::new(framing, u64::MAX);
        let mut out = Vec::new();
        if framing == Framing::Chunked {
            decoder.feed(b"ffffffffffffff\r\n", &mut out).unwrap();
        }
        for _ in 0..1 << 8 {
            decoder.feed(&[0; 1 << 12], &mut out).unwrap();
            assert!(out.capacity() <= out.len() * 3 / 2, "{} for {}", out.capacity(), out.len());
        }
        assert!(framing != Framing::Sized(1 << 20) || out.capacity() == 1 << 20);
    }
}
