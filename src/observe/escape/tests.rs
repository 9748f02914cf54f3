//! Unit tests of `escape`.

use super::*;

fn plainly(text: &str) -> String {
    let mut out = String::new();
    plain(&mut out, text).unwrap();
    out
}

#[test]
fn what_could_end_a_line_or_command_a_terminal_is_escaped() {
    // F12
    let table = [
        ("plain text, ünïcode 漢字 🦙", "plain text, ünïcode 漢字 🦙"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("tab\t", "tab\\t"),
        ("\u{1b}[31mred", "\\u001b[31mred"),
        ("nul\0 bell\u{7}", "nul\\u0000 bell\\u0007"),
        ("del\u{7f} csi\u{9b}31m nel\u{85}", "del\\u007f csi\\u009b31m nel\\u0085"),
        ("sep\u{2028}\u{2029} rlo\u{202e}txt\u{2066}", "sep\\u2028\\u2029 rlo\\u202etxt\\u2066"),
        ("say \"hi\" \\o/", "say \"hi\" \\o/"),
    ];
    for (text, escaped) in table {
        assert_eq!(plainly(text), escaped);
    }
}

#[test]
fn a_quoted_text_is_a_json_string_and_reads_back_the_same() {
    for text in ["", "a", "\"\\\"", "\r\n\0\u{1b}\u{7f}\u{9b}\u{2028}", "漢字 🦙", "\\u0041"] {
        let mut out = String::new();
        quoted(&mut out, text).unwrap();
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        assert!(!out.chars().any(harmful));
    }
}

#[test]
fn a_text_beyond_its_room_ends_in_an_ellipsis() {
    for long in ["x".repeat(ROOM * 2), "\n".repeat(ROOM * 2), "漢".repeat(ROOM)] {
        let mut out = String::new();
        quoted(&mut out, format_args!("{long}{long}")).unwrap();
        let back: String = serde_json::from_str(&out).unwrap();
        assert!(back.ends_with('…') && back.len() <= ROOM + '…'.len_utf8());
    }
    assert_eq!(plainly(&"x".repeat(ROOM - 1)).len(), ROOM - 1);
}

#[test]
fn a_text_is_cut_between_characters() {
    assert_eq!((cut("漢字🦙", 2), cut("漢字", 2), cut("", 2)), ("漢字", "漢字", ""));
}
