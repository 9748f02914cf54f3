//! Token counts read in passing: only the last bytes of an answer are kept, never the answer.

use memchr::memmem;
use serde::Deserialize;

/// `usage` and `timings` stand at the end; llama-server's are under 1 KB together.
const TAIL: usize = 8 << 10;

/// The last bytes of an answer.
#[derive(Default)]
pub struct Tail(Vec<u8>);

/// What an answer cost, as far as it told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tokens {
    /// Prompt tokens, cached ones included.
    pub prompt: Option<u64>,
    /// Prompt tokens found in the cache.
    pub cached: Option<u64>,
    /// Generated tokens.
    pub completion: Option<u64>,
    /// Generated tokens a second.
    pub per_second: Option<f64>,
}

/// llama-server's, unasked, in every final object.
#[derive(Deserialize)]
struct Timings {
    cache_n: Option<u64>,
    prompt_n: Option<u64>,
    predicted_n: Option<u64>,
    predicted_per_second: Option<f64>,
}

/// OpenAI's, in its two spellings, and Anthropic's.
#[derive(Deserialize)]
struct Usage {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u64>,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Tail {
    /// Takes in a piece.
    pub fn push(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(TAIL)..];
        if self.0.len() + piece.len() > 2 * TAIL {
            let keep = TAIL - piece.len();
            self.0.drain(..self.0.len().saturating_sub(keep));
        }
        self.0.extend_from_slice(piece);
    }

    /// Whether an event stream can end here: after an empty line, or before anything came.
    pub fn is_between_events(&self) -> bool {
        self.0.is_empty() || self.0.ends_with(b"\n\n") || self.0.ends_with(b"\r\n\r\n")
    }

    /// Whether the last bytes hold an end marker of one of the APIs' streams.
    pub fn has_end_marker(&self) -> bool {
        const MARKERS: [&str; 4] = ["data: [DONE]", "message_stop", "response.completed", "\"stop\":true"];
        MARKERS.iter().any(|marker| memmem::find(&self.0, marker.as_bytes()).is_some())
    }

    /// The counts in it.
    pub fn tokens(&self) -> Tokens {
        let mut tokens = Tokens::default();
        if let Some(usage) = last::<Usage>(&self.0, b"\"usage\"") {
            tokens.prompt = usage.prompt_tokens;
            tokens.completion = usage.completion_tokens;
            tokens.cached = usage.prompt_tokens_details.and_then(|d| d.cached_tokens).or(usage.cache_read_input_tokens);
        }
        if let Some(timings) = last::<Timings>(&self.0, b"\"timings\"") {
            tokens.prompt = tokens.prompt.or(timings.prompt_n.map(|n| n + timings.cache_n.unwrap_or(0)));
            tokens.cached = tokens.cached.or(timings.cache_n);
            tokens.completion = tokens.completion.or(timings.predicted_n);
            tokens.per_second = timings.predicted_per_second.filter(|speed| speed.is_finite());
        }
        tokens
    }
}

/// The value of the last such key that is an object.
fn last<'a, T: Deserialize<'a>>(text: &'a [u8], key: &[u8]) -> Option<T> {
    // Forwards, since only that search is vectorised; there are one or two such keys.
    let found: Vec<usize> = memmem::find_iter(text, key).collect();
    found.into_iter().rev().find_map(|at| {
        let value = text[at + key.len()..].trim_ascii_start().strip_prefix(b":")?;
        serde_json::Deserializer::from_slice(value).into_iter::<T>().next()?.ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(recorded: &str) -> Tokens {
        let mut tail = Tail::default();
        recorded.as_bytes().chunks(7).for_each(|piece| tail.push(piece));
        tail.tokens()
    }

    #[test]
    fn a_whole_answer_tells_usage_and_speed() {
        let tokens = of(include_str!("../../tests/data/chat.raw"));
        assert_eq!((tokens.prompt, tokens.cached, tokens.completion), (Some(56), Some(32), Some(12)));
        assert_eq!(tokens.per_second.map(f64::round), Some(2012.0));
    }

    #[test]
    fn a_stream_tells_in_its_last_events() {
        let with_usage = of(include_str!("../../tests/data/chat_stream_usage.raw"));
        assert_eq!((with_usage.prompt, with_usage.cached, with_usage.completion), (Some(56), Some(55), Some(8)));
        let timings_only = of(include_str!("../../tests/data/chat_stream.raw"));
        assert!(timings_only.prompt.is_some() && timings_only.completion.is_some());
        let messages = of(include_str!("../../tests/data/messages_stream.raw"));
        assert_eq!(messages.completion, Some(6));
        let responses = of(include_str!("../../tests/data/responses_stream.raw"));
        assert_eq!((responses.prompt, responses.cached, responses.completion), (Some(46), Some(45), Some(6)));
    }

    #[test]
    fn a_null_usage_and_a_torn_end_are_nothing() {
        assert_eq!(of(r#"{"usage":null}"#), Tokens::default());
        assert_eq!(of(r#"{"usage":{"prompt_to"#), Tokens::default());
    }

    #[test]
    fn only_the_last_bytes_are_kept() {
        let mut tail = Tail::default();
        for _ in 0..1000 {
            tail.push(&[b'x'; 1000]);
            tail.push(&[b'y'; 100_000]);
        }
        tail.push(br#""usage":{"prompt_tokens":5}"#);
        assert!(tail.0.capacity() <= 4 * TAIL);
        assert_eq!(tail.tokens().prompt, Some(5));
    }
}
