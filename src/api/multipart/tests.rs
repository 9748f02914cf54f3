//! Unit tests of `multipart`.

use super::*;

const FORM: &str = "multipart/form-data; boundary=b";

fn form(parts: &[(&str, &str)]) -> String {
    let parts: String = parts.iter().map(|(head, value)| format!("--b\r\n{head}\r\n\r\n{value}\r\n")).collect();
    parts + "--b--\r\n"
}

fn field(name: &str) -> String {
    format!("Content-Disposition: form-data; name={name}")
}

fn model(body: &str) -> Result<Option<String>, u16> {
    let found = multipart(FORM, body.as_bytes()).map_err(|failure| failure.kind.status())?;
    Ok(found.map(|named| {
        assert_eq!(named.name, body[named.span]);
        named.name
    }))
}

#[test]
fn the_model_field_is_found_among_others() {
    let file = "Content-Type: audio/wav\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a;name=\\\"model\\\".wav\"";
    let noise = "\r\n--\r\n--B\r\n --b\r\n--\0\r\r\n-";
    let look_alike = format!("{}\r\n\r\nno\r\n", field("\"model\""));
    for name in ["model", "\"model\"", "model ; x=y", "\"model\" ; x=\"\";"] {
        let parts = [
            (file, noise),
            (&field("\"language\""), &look_alike),
            (&field(name), "whisper-1"),
            (&field("models"), "x"),
        ];
        assert_eq!(model(&form(&parts)), Ok(Some("whisper-1".into())), "{name}");
        assert_eq!(model(&form(&parts[..2])), Ok(None));
    }
    assert_eq!(
        model(&form(&[("content-disposition:FORM-DATA;NAME=\"model\"\r\nContent-Type: text/plain", "")])),
        Ok(Some(String::new()))
    );
    assert_eq!(model(&format!("\r\n{}", form(&[(&field("model"), "\r\n")]))), Ok(Some("\r\n".into())));
    assert_eq!(model("--b--"), Ok(None));
}

#[test]
fn a_boundary_may_be_quoted() {
    let body = form(&[(&field("model"), "m")]).replace("--b", "--a b");
    for content_type in
        ["multipart/form-data; boundary=\"a b\"", "Multipart/Form-Data;charset=\"utf-8\";BOUNDARY=\"a b\""]
    {
        assert_eq!(multipart(content_type, body.as_bytes()).unwrap().map(|named| named.name), Some("m".into()));
    }
    for content_type in [
        "",
        "; boundary=",
        "; boundary=\"b",
        "; boundary=b; boundary=b",
        "; boundary",
        "; boundary =b",
        "; boundary=b\u{e9}",
        "; boundary=\"b \"",
    ] {
        let content_type = format!("multipart/form-data{content_type}");
        assert!(multipart(&content_type, body.as_bytes()).is_err(), "{content_type}");
    }
    assert!(multipart(&format!("multipart/form-data; boundary={}", "b".repeat(71)), body.as_bytes()).is_err());
}

// R22
#[test]
fn what_stands_around_a_form_and_pads_its_boundaries_says_nothing() {
    let head = field("model");
    let ok = form(&[(&head, "m"), ("Content-Disposition: form-data; name=f; filename*=utf-8''%e2%82%ac.wav", "x")]);
    for body in [
        format!("This is a multi-part message.\r\n\r\n{ok}"),
        format!("\r\n\r\n{ok}"),
        format!("{ok}\r\n"),
        format!("{ok}\r\nan epilogue\r\n--\r\n"),
        format!("{ok}{}", "\r\n".repeat(100_000)),
        ok.trim_end().to_owned(),
        ok.replace("--b\r\n", "--b \t \r\n"),
        ok.replace("--b--\r\n", "--b--\t "),
        ok.replace("--b--\r\n", "--b-- \r\n\r\n"),
        ok.replace(&head, &format!("{head}\r\nContent-Type: text/plain; charset=UTF-8")),
        ok.replace(&head, &format!("{head}\r\nContent-Type: text/plain;charset=\"us-ascii\"")),
        ok.replace(";", " ;  "),
    ] {
        assert_eq!(model(&body), Ok(Some("m".into())), "{body:?}");
    }
}

// R22: each byte of a large file is looked at once.
#[test]
fn a_large_file_that_is_full_of_beginnings_is_no_work() {
    let noise = "\r\n--\r\n--a\r\n\r\n".repeat(100_000);
    let file = "Content-Disposition: form-data; name=f; filename=x";
    assert_eq!(model(&form(&[(file, &noise), (&field("model"), "m")])), Ok(Some("m".into())));
}

#[test]
fn a_form_that_reads_in_two_ways_is_refused() {
    let (ok, head) = (form(&[(&field("model"), "m")]), field("model"));
    assert_eq!(model(&ok), Ok(Some("m".into())));
    for body in [
        form(&[(&head, "a"), (&head, "a")]),
        form(&[("Content-Type: text/plain", "m")]),
        form(&[(&format!("{head}\r\n{head}"), "m")]),
        form(&[(&format!("{head}; name=x"), "m")]),
        form(&[(&format!("{head}; filename=x"), "m")]),
        form(&[(&format!("{head}; name*=utf-8''x"), "m")]),
        form(&[(&format!("{head}\r\nContent-Transfer-Encoding: base64"), "m")]),
        form(&[(&format!("{head}\r\n folded"), "m")]),
        form(&[(&format!("{head}\r\nA : b"), "m")]),
        form(&[(&format!("{head}\nA: b"), "m")]),
        form(&[(&field("\"mod\\el\""), "m")]),
        form(&[(&field("mod\"el\""), "m")]),
        form(&[(&field(" model"), "m")]),
        form(&[(&field("\"model"), "m")]),
        form(&[(&field("\"model\"x"), "m")]),
        form(&[("Content-Disposition: attachment; name=model", "m")]),
        form(&[("Content-Disposition: form-data", "m")]),
        form(&[(&head, "a\r\n--bc")]),
        form(&[(&head, "a\r\n--b c")]),
        form(&[(&head, "a\r\n--b--")]),
        form(&[("A: b\r\n--b\r\nC: d", "m")]),
        form(&[("", "m")]),
        format!("--b\r\n{head}\r\n\r\n--b--\r\n"),
        form(&[("Content-Disposition: form-data; name=model\r\nContent-Type: text/plain; charset=utf-16", "m")]),
        // U27
        form(&[(&head, "a"), (&field("Model"), "b")]),
        form(&[(&field("\"MODEL\""), "b"), (&head, "a")]),
        form(&[(&field("Model"), "b")]),
        // R22: a preamble or an epilogue in which others may find a boundary
        format!("preamble{ok}"),
        format!("preamble\n{ok}"),
        format!("x--b\r\n\r\n{ok}"),
        // or another body
        format!(r#"{{"model":"x"}}{}{ok}"#, "\r\n"),
        format!("\r\n {{\"model\":\"x\"}}\r\n\r\n{ok}"),
        format!("{ok}{ok}"),
        format!("{ok}\n--b\r\n"),
        format!("{ok}x--b--"),
        ok.replace("--b--\r\n", "--b--epilogue"),
        ok.replace("--b--\r\n", "--b-- \n"),
        ok.replace("--b\r\n", "--b \n"),
        ok.replace("--b\r\n", "--b\u{b}\r\n"),
        ok.replace("--b\r\n", &format!("--b\r\nX: {}\r\n", "x".repeat(MAX_HEAD))),
        ok.replace("\r\n", "\n"),
        ok.replace("--b--", "--b"),
        ok.replace("--b--", "--b-"),
        String::new(),
        "--b".into(),
    ] {
        assert_eq!(model(&body), Err(400), "{body:?}");
    }
    let mut bytes = ok.into_bytes();
    let value = bytes.windows(5).position(|part| part == b"\r\nm\r\n").unwrap() + 2;
    bytes[value] = 0xff;
    assert!(multipart(FORM, &bytes).is_err());
}

#[test]
fn every_cut_of_a_form_is_refused() {
    let whole = form(&[(&field("file"), "x"), (&field("model"), "m")]);
    for end in 0..whole.len() - 2 {
        assert_eq!(model(&whole[..end]), Err(400), "{end}");
    }
}
