//! Token counts read in passing: only what has not been looked through is kept, never the answer.

use crate::api::json::each_member;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Longest object of counts that is waited for; llama-server's are under 1 KB together.
const LONGEST: usize = 8 << 10;

/// Counts as far as they came. They stand before the data of a long answer as well as behind them, and those of one
/// stream in several events.
#[derive(Default)]
pub(crate) struct Tail {
    /// The end of what came: a key that may be torn, or one whose value is not whole.
    rest: Vec<u8>,
    counts: [Option<u64>; COUNTS.len()],
    per_second: Option<f64>,
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

/// The counts in `usage` and `timings`.
const COUNTS: [&str; 10] = [
    // OpenAI's, in its two spellings.
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    // Anthropic's, whose `input_tokens` are those that no cache took part in.
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    // llama-server's, unasked, in every final object.
    "prompt_n",
    "cache_n",
    "predicted_n",
];

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
            let key = if text.starts_with(USAGE) { USAGE } else { TIMINGS };
            let whole = object(&text[key.len()..]);
            if let Some(Some(object)) = whole {
                keep(object, &mut self.counts, &mut self.per_second);
            }
            if whole.is_none() && text.len() < LONGEST {
                return at;
            }
        }
        self.rest.len() - self.rest.len().min(TIMINGS.len() - 1)
    }

    pub(crate) fn tokens(&self) -> Tokens {
        let count = |name: &str| self.counts[COUNTS.iter().position(|known| *known == name)?];
        let read = count("cache_read_input_tokens");
        let beside = read.unwrap_or(0) + count("cache_creation_input_tokens").unwrap_or(0);
        let input = count("input_tokens").map(|n| n + beside);
        let timed = count("prompt_n").map(|n| n + count("cache_n").unwrap_or(0));
        let completion = count("completion_tokens").or(count("output_tokens")).or(count("predicted_n"));
        // A speed needs two tokens and the time between them.
        let speed = self.per_second.filter(|speed| speed.is_finite() && *speed > 0.0);
        Tokens {
            prompt: count("prompt_tokens").or(input).or(timed),
            cached: count("cached_tokens").or(read).or(count("cache_n")),
            completion,
            per_second: speed.filter(|_| completion.is_none_or(|tokens| tokens > 1)),
        }
    }
}

/// Takes the counts of an object. Later ones replace earlier ones; what an object does not tell stays.
fn keep(object: &str, counts: &mut [Option<u64>; COUNTS.len()], per_second: &mut Option<f64>) {
    // Of an object that is broken, what stands before the fault counts.
    let _ = each_member(object, |name, value| {
        let (name, value) = (name.get().trim_matches('"'), value.get());
        match COUNTS.iter().position(|known| *known == name) {
            Some(at) => counts[at] = value.parse().ok().or(counts[at]),
            None if name == "predicted_per_second" => *per_second = value.parse().ok().or(*per_second),
            None if matches!(name, "prompt_tokens_details" | "input_tokens_details") => keep(value, counts, per_second),
            None => {}
        }
    });
}

/// The object that follows a key: `Some(None)` if something else does, `None` if it is not whole yet.
fn object(text: &[u8]) -> Option<Option<&str>> {
    let text = text.trim_ascii_start();
    let Some(value) = text.strip_prefix(b":").map(<[u8]>::trim_ascii_start) else {
        return (!text.is_empty()).then_some(None);
    };
    match value.first()? {
        b'{' => Some(str::from_utf8(&value[..object_end(value)?]).ok()),
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
