//! Which responses an endpoint made lately (OpenAI's Responses API): what follows one must go to the server that keeps it.

use crate::util::lock::lock;
use crate::util::lru::Lru;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

/// Ids of one generation: the last 4,096 to 8,192 responses of an endpoint, as hashes with a random key, 150 KB at most.
const GENERATION: usize = 4_096;
/// The id of a response stands in its first bytes, also where the fields come in alphabetical order.
const HEAD: usize = 8 << 10;
const LONGEST: usize = 512;

/// The responses of one endpoint. Takes no memory before the first.
#[derive(Default)]
pub(crate) struct Responses {
    keys: RandomState,
    ids: Mutex<Option<Lru<u64, ()>>>,
}

impl Responses {
    pub(crate) fn add(&self, id: &str) {
        lock(&self.ids).get_or_insert_with(|| Lru::new(GENERATION)).put(self.keys.hash_one(id), ());
    }

    /// Whether a response was made here.
    pub(crate) fn has(&self, id: &str) -> bool {
        lock(&self.ids).as_mut().is_some_and(|ids| ids.get(&self.keys.hash_one(id)).is_some())
    }
}

impl std::fmt::Debug for Responses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Responses")
    }
}

/// Looks for the id of a response in the first bytes of an answer, whole or streamed, however they are cut.
#[derive(Default)]
pub struct IdReader {
    head: Vec<u8>,
    seen: usize,
    found: bool,
}

impl IdReader {
    /// Takes in a piece; tells of each id that may be the response's: the first, and the first that says so (`resp_`).
    pub fn push(&mut self, chunk: &[u8], mut tell: impl FnMut(&str)) {
        if self.found || self.head.len() == HEAD {
            return;
        }
        self.head.extend_from_slice(&chunk[..chunk.len().min(HEAD - self.head.len())]);
        while let Some((id, end)) = next_id(&self.head, self.seen) {
            self.found = id.starts_with("resp");
            if self.found || self.seen == 0 {
                tell(id);
            }
            self.seen = end;
            if self.found {
                self.head = Vec::new();
                return;
            }
        }
    }
}

/// The next value of a member `id` that is complete, and where it ends.
fn next_id(text: &[u8], from: usize) -> Option<(&str, usize)> {
    let mut rest = &text[from..];
    while let Some(at) = memchr::memmem::find(rest, b"\"id\"") {
        rest = &rest[at + 4..];
        let value = rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        let Some(value) = value.and_then(|value| value.strip_prefix(b"\"")) else {
            continue;
        };
        let end = memchr::memchr2(b'"', b'\\', value)?;
        let id = str::from_utf8(&value[..end]).ok().filter(|id| !id.is_empty() && id.len() <= LONGEST);
        if let Some(id) = id.filter(|_| value[end] == b'"') {
            return Some((id, text.len() - value.len() + end));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(answer: &str, size: usize) -> Vec<String> {
        let (mut reader, mut ids) = (IdReader::default(), Vec::new());
        answer.as_bytes().chunks(size).for_each(|chunk| reader.push(chunk, |id| ids.push(id.to_owned())));
        ids
    }

    // R23
    #[test]
    fn the_id_is_found_whatever_stands_before_it_and_however_it_is_cut() {
        let recorded = include_str!("../../tests/data/responses_stream.raw");
        for (answer, wanted) in [
            (recorded, &["resp_UubmiH6o47CEUas4KVlZIccQ88BlVufw"][..]),
            (r#"{"id":"resp_1","output":[{"id":"msg_1"}]}"#, &["resp_1"]),
            (
                r#"{"output":[{"id":"msg_1","content":"\"id\":\"resp_9\""}], "id" : "resp_1","x":{"id":"resp_2"}}"#,
                &["msg_1", "resp_1"],
            ),
            (r#"{"previous_response_id":"resp_0","id":"ad56-63e6"}"#, &["ad56-63e6"]),
            (r#"{"id":7,"id":"","id":null,"error":{}}"#, &[]),
            (r#"{"id":"resp_"#, &[]),
        ] {
            for size in [1, 7, 10_000] {
                assert_eq!(ids(answer, size), wanted, "{answer}");
            }
        }
        let late = format!(r#"{{"x":"{}","id":"resp_1"}}"#, "x".repeat(HEAD));
        assert!(ids(&late, 100).is_empty());
    }

    // R23
    #[test]
    fn what_was_made_lately_is_known_and_memory_is_bounded() {
        let responses = Responses::default();
        assert!(!responses.has("resp_0"));
        (0..100_000).for_each(|n| responses.add(&format!("resp_{n}")));
        assert!(responses.has("resp_99999") && responses.has("resp_96000") && !responses.has("resp_0"));
        assert!(lock(&responses.ids).as_ref().is_some_and(|ids| ids.len() <= 2 * GENERATION));
    }
}
