//! What error messages show of a value: nothing that may be a secret. And spelling suggestions for unknown words.

use super::node::Value;
use std::fmt::Write;

/// Prefixes of API keys and JWTs, in lower case.
const KEY_PREFIXES: [&str; 11] =
    ["sk-", "sk_", "gsk_", "ghp_", "github_pat_", "hf_", "nvapi-", "xai-", "aiza", "eyj", "whsec_"];

/// In bytes, with the prefix.
const SHORTEST_KEY: usize = 8;

/// Alphanumeric runs of at least this length with at least this many digits are taken for random.
const RANDOM: (usize, usize) = (20, 3);

/// Words that are shown even where a secret may stand.
const HARMLESS: [&str; 16] = [
    "append", "basic", "bearer", "delete", "digest", "false", "header", "inherit", "insert", "none", "null", "off",
    "remove", "replace", "token", "true",
];

/// Longest text, in characters, that is shown even where a secret may stand.
const SHORT: usize = 3;

/// A value as messages show it: nothing that came from a variable or looks like a secret.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => match number.as_f64() {
            Some(large) if large.abs() >= 1e15 => format!("{large:e}"),
            _ => number.to_string(),
        },
        Value::Text { text, literal } if !literal || looks_secret(text) => "this value".into(),
        Value::Text { text, .. } if text.chars().nth(60).is_some() => {
            format!("{:?}", text.chars().take(60).chain(['…']).collect::<String>())
        }
        Value::Text { text, .. } => format!("{text:?}"),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a map".into(),
        Value::Broken(_) => "this value".into(),
    }
}

/// The same, where a secret may stand: only short texts and well-known words.
pub(super) fn guarded(of: &Value) -> String {
    let shown = value(of);
    let may_be_one = match of {
        Value::Text { text, .. } => text.chars().count() > SHORT && !HARMLESS.contains(&text.as_str()),
        Value::Number(_) => shown.len() > SHORT,
        _ => false,
    };
    if may_be_one { "this value".into() } else { shown }
}

/// The path of a file, in full.
pub(super) fn path(of: &Value) -> String {
    match of {
        Value::Text { text, literal: true } if !looks_secret(text) => format!("{text:?}"),
        other => value(other),
    }
}

/// Whether a text may contain a credential: a key, a header value, a URL with a user or query, a long random word.
pub(super) fn looks_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    has_key(text)
        || ["bearer ", "basic ", "sha256:"].iter().any(|scheme| lower.contains(scheme))
        || text.contains('@')
        || text.contains('?') && (text.contains('=') || text.contains("://"))
        || text.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| {
            let digits = run.bytes().filter(u8::is_ascii_digit).count();
            run.len() >= RANDOM.0 && digits >= RANDOM.1 && digits < run.len()
        })
}

/// A name from the file, as a part of the path of a key.
pub(super) fn name(text: &str) -> &str {
    if has_key(text) { "***" } else { text }
}

/// Whether a word of the text starts like a key.
pub(super) fn has_key(text: &str) -> bool {
    let ends_word = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_';
    text.split(ends_word).filter(|word| word.len() >= SHORTEST_KEY).any(|word| {
        let word = word.to_ascii_lowercase();
        KEY_PREFIXES.iter().any(|prefix| word.starts_with(prefix))
    })
}

/// The word that `wrong` is most likely a misspelling of, if any of the first 200 is close enough.
pub(super) fn nearest<'a>(wrong: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(wrong);
    // A third of the letters may be wrong: `healtCheck` is a typo, `foo` is not a typo of `log`.
    let most = folded.len() / 3;
    // Keys are shorter than 64; the run time grows with the product of both lengths.
    let words = words.take(200).filter(|_| folded.len() <= 64);
    words.map(|word| (distance(&folded, &fold(word)), word)).filter(|(d, _)| *d <= most).min().map(|(_, word)| word)
}

const MAX_LISTED: usize = 20;

/// `predicate` ("is not one of"), the words, and a suggestion.
pub(super) fn none_of<'w>(text: &str, predicate: &str, words: impl Iterator<Item = &'w str> + Clone) -> String {
    let listed: Vec<_> = words.clone().take(MAX_LISTED).collect();
    let more = if words.clone().nth(MAX_LISTED).is_some() { ", ..." } else { "" };
    let mut message = format!("{predicate} {}{more}", listed.join(", "));
    if let Some(near) = nearest(text, words) {
        let _ = write!(message, "; did you mean `{near}`?");
    }
    message
}

/// Ignores case and word separators: `health-check`, `HealthCheck`.
fn fold(word: &str) -> Vec<char> {
    word.chars().filter(|c| *c != '_' && *c != '-').flat_map(char::to_lowercase).collect()
}

/// The optimal string alignment distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let wrong = usize::from(a[i - 1] != b[j - 1]);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                let swap = if swapped { rows[i - 2][j - 2] + 1 } else { usize::MAX };
                (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + wrong).min(swap)
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_credential_is_told_from_what_does_not() {
        // U24
        for text in [
            "sk-abcdef",
            "Bearer abc",
            "cloud - \"sk-abcdef\"",
            "session=sk-abcdef",
            "http://u:p@h",
            "https://h/v1?key=abc",
            "9f86d081884c7d659a2feaa0c55ad015",
            "eyJhbGciOi",
            "https://h/sk-abcdef",
        ] {
            assert!(looks_secret(text), "{text}");
        }
        for text in [
            "",
            "server1",
            "https://h/v1",
            "Qwen3-Coder-30B-A3B-Instruct-2507-Q4_K_M",
            "task-manager",
            "sk-1",
            "max_connections",
            "./keys/a-very-long-name-of-a-file-0",
        ] {
            assert!(!looks_secret(text), "{text}");
        }
    }

    #[test]
    fn a_guarded_place_shows_short_and_well_known_words_only() {
        // U24
        let text = |text: &str| guarded(&Value::Text { text: text.into(), literal: true });
        assert_eq!((text("add"), text("bearer")), ("\"add\"".into(), "\"bearer\"".into()));
        assert_eq!(
            (text("hunter2"), guarded(&Value::Number(12345.into()))),
            ("this value".into(), "this value".into())
        );
        assert_eq!(guarded(&Value::Number(5.into())), "5");
    }

    #[test]
    fn a_slip_finds_its_word_and_another_word_does_not() {
        let words = ["endpoints", "healthCheck", "server", "log", "url"];
        let near = |wrong| nearest(wrong, words.into_iter());
        assert_eq!(near("healtCheck"), Some("healthCheck"));
        assert_eq!(near("health-check"), Some("healthCheck"));
        assert_eq!(near("HEALTHCHECK"), Some("healthCheck"));
        assert_eq!(near("endpoint"), Some("endpoints"));
        assert_eq!(near("sevrer"), Some("server"));
        assert_eq!(near("lgo"), Some("log"));
        assert_eq!(near("foo"), None);
        assert_eq!(near("x"), None);
        assert_eq!(near(""), None);
        assert_eq!(near(&"e".repeat(100_000)), None);
    }
}
