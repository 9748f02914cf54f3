//! Token counts read in passing: only what has not been looked through is kept, never the answer.

use memchr::memmem::Finder;
use serde::Deserialize;
use std::sync::LazyLock;

/// Longest object of counts that is waited for; llama-server's are under 1 KB together.
const LONGEST: usize = 8 << 10;

/// Counts as far as they came. They stand before the data of a long answer as well as behind them, and those of one
/// stream in several events.
#[derive(Default)]
pub(crate) struct Tail {
    /// The end of what came: a key that may be torn, or one whose value is not whole.
    rest: Vec<u8>,
    usage: Usage,
    timings: Timings,
}

/// What an answer cost, as far as it told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tokens {
    pub(crate) prompt: Option<u64>,
    /// Prompt tokens found in the cache.
    pub(crate) cached: Option<u64>,
    pub(crate) completion: Option<u64>,
    /// Generated tokens a second.
    pub(crate) per_second: Option<f64>,
}

/// llama-server's, unasked, in every final object.
#[derive(Default, Deserialize)]
struct Timings {
    cache_n: Option<u64>,
    prompt_n: Option<u64>,
    predicted_n: Option<u64>,
    predicted_per_second: Option<f64>,
}

/// OpenAI's, in its two spellings, and Anthropic's, whose `input_tokens` are those that no cache took part in.
#[derive(Default, Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    output_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

const USAGE: &[u8] = b"\"usage\"";
const TIMINGS: &[u8] = b"\"timings\"";
/// Made once: a finder costs more than a search through one chunk.
static FINDERS: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| [Finder::new(USAGE), Finder::new(TIMINGS)]);

impl Tail {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        for part in piece.chunks(LONGEST) {
            self.rest.extend_from_slice(part);
            let looked = self.look();
            self.rest.drain(..looked);
        }
    }

    /// Reads the counts in what came; how much of it is done with.
    fn look(&mut self) -> usize {
        // Forwards, since only that search is vectorised; there are one or two such keys.
        let mut keys: Vec<usize> = FINDERS.iter().flat_map(|finder| finder.find_iter(&self.rest)).collect();
        keys.sort_unstable();
        for at in keys {
            let text = &self.rest[at..];
            let whole = match text.starts_with(USAGE) {
                true => value::<Usage>(&text[USAGE.len()..]).map(|usage| usage.map(|usage| self.usage.merge(usage))),
                false => value::<Timings>(&text[TIMINGS.len()..]).map(|new| new.map(|new| self.timings = new)),
            };
            if whole.is_none() && text.len() < LONGEST {
                return at;
            }
        }
        self.rest.len() - self.rest.len().min(TIMINGS.len() - 1)
    }

    pub(crate) fn tokens(&self) -> Tokens {
        let (usage, timings) = (&self.usage, &self.timings);
        let read = usage.cache_read_input_tokens;
        let input = usage.input_tokens.map(|n| n + read.unwrap_or(0) + usage.cache_creation_input_tokens.unwrap_or(0));
        let details = usage.prompt_tokens_details.or(usage.input_tokens_details);
        let timed = timings.prompt_n.map(|n| n + timings.cache_n.unwrap_or(0));
        let completion = usage.completion_tokens.or(usage.output_tokens).or(timings.predicted_n);
        // A speed needs two tokens and the time between them.
        let speed = timings.predicted_per_second.filter(|speed| speed.is_finite() && *speed > 0.0);
        Tokens {
            prompt: usage.prompt_tokens.or(input).or(timed),
            cached: details.and_then(|details| details.cached_tokens).or(read).or(timings.cache_n),
            completion,
            per_second: speed.filter(|_| completion.is_none_or(|tokens| tokens > 1)),
        }
    }
}

impl Usage {
    /// Later counts replace earlier ones; what they do not tell stays.
    fn merge(&mut self, new: Self) {
        fn later<T>(old: &mut Option<T>, new: Option<T>) {
            *old = new.or(old.take());
        }
        later(&mut self.prompt_tokens, new.prompt_tokens);
        later(&mut self.input_tokens, new.input_tokens);
        later(&mut self.completion_tokens, new.completion_tokens);
        later(&mut self.output_tokens, new.output_tokens);
        later(&mut self.prompt_tokens_details, new.prompt_tokens_details);
        later(&mut self.input_tokens_details, new.input_tokens_details);
        later(&mut self.cache_read_input_tokens, new.cache_read_input_tokens);
        later(&mut self.cache_creation_input_tokens, new.cache_creation_input_tokens);
    }
}

/// The object that follows a key: `Some(None)` if something else does, `None` if it is not whole yet.
fn value<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<Option<T>> {
    let text = text.trim_ascii_start();
    let Some(value) = text.strip_prefix(b":").map(<[u8]>::trim_ascii_start) else {
        return (!text.is_empty()).then_some(None);
    };
    match value.first()? {
        b'{' => Some(serde_json::from_slice(&value[..object_end(value)?]).ok()),
        _ => Some(None),
    }
}

/// Where the object at the start of a text ends.
fn object_end(text: &[u8]) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted && depth == 1 => return Some(at + 1),
            b'}' if !quoted => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
