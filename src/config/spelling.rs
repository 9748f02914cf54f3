//! The nearest right spelling of a wrong word.

use std::fmt::Write;

const MOST_WORDS: usize = 200;

/// The word of `words` that `wrong` was most likely meant to be, if one is near enough.
pub(super) fn nearest<'a>(wrong: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(wrong);
    // A third of the letters may be wrong: `healtCheck` is a slip, `foo` for `log` is another word.
    let most = folded.len() / 3;
    // No key is longer; the time grows with the product of both lengths.
    let words = words.take(MOST_WORDS).filter(|_| folded.len() <= 64);
    words.map(|word| (distance(&folded, &fold(word)), word)).filter(|(d, _)| *d <= most).min().map(|(_, word)| word)
}

const MOST_LISTED: usize = 20;

/// `is not one of a, b` and the nearest of them.
pub(super) fn not_one_of<'w>(text: &str, words: impl Iterator<Item = &'w str> + Clone) -> String {
    let listed: Vec<_> = words.clone().take(MOST_LISTED).collect();
    let more = if words.clone().nth(MOST_LISTED).is_some() { ", ..." } else { "" };
    let mut message = format!("is not one of {}{more}", listed.join(", "));
    if let Some(near) = nearest(text, words) {
        let _ = write!(message, "; did you mean `{near}`?");
    }
    message
}

/// Case and word separators are no difference: `health-check`, `HealthCheck`.
fn fold(word: &str) -> Vec<char> {
    word.chars().filter(|c| *c != '_' && *c != '-').flat_map(char::to_lowercase).collect()
}

/// Edits between two words: a letter missing, added, wrong, or swapped with its neighbour.
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
