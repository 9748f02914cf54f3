//! Looks inside prompts: for images, and for the line in Claude Code's system prompt that changes with every request.
//! Pure.

use crate::api::edit::{Change, MAX_CHANGES};
use crate::api::json::{ESCAPED, each_element, each_member, span, unescaped};
use memchr::memmem;
use serde_json::value::RawValue;

/// `x-anthropic-billing-header: cc_version=2.1.42.834; cc_entrypoint=cli; cch=65abc;`. The last part of the version and
/// `cch` are checksums of the request.
pub(crate) const BILLING_LINE: &str = "x-anthropic-billing-header:";
/// The `type` of an image part: OpenAI Chat, OpenAI Responses, Anthropic.
const IMAGES: [&str; 3] = ["image_url", "input_image", "image"];
/// How deep an image may be nested in a prompt, tool results included. Each level is parsed again by the next.
pub(crate) const DEPTH: u32 = 8;
/// Longest name or value looked at, in bytes as written.
const LONGEST: usize = ESCAPED * "input_image".len();

/// Properties of a prompt that routing uses besides the model.
pub(crate) trait PromptInfo {
    /// An estimate.
    fn tokens(&self) -> u64;
    /// Computed on demand.
    fn has_image(&self) -> bool;
}

/// Whether a part of a prompt is or contains an image, down to `depth` levels.
pub(crate) fn has_image(part: &RawValue, depth: u32) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let mut found = false;
    let _ = match part.get().as_bytes()[0] {
        b'[' => each_element(part.get(), |part| found = found || has_image(part, depth)),
        b'{' => each_member(part.get(), |name, value| {
            found |= match unescaped(name, LONGEST).as_deref() {
                Some("type") => unescaped(value, LONGEST).is_some_and(|kind| IMAGES.contains(&&*kind)),
                Some("content" | "output") => has_image(value, depth),
                _ => false,
            };
        }),
        _ => Ok(()),
    };
    found
}

/// Whether a message has the role `system` or `developer`.
pub(crate) fn is_system(message: &RawValue) -> bool {
    let mut is_system = false;
    let read = each_member(message.get(), |name, value| {
        if unescaped(name, LONGEST).is_some_and(|name| name == "role") {
            is_system |= unescaped(value, LONGEST).is_some_and(|role| role == "system" || role == "developer");
        }
    });
    is_system && read.is_ok()
}

/// Overwrites the checksums of billing lines with zeros, in the system prompts and system messages of `body`.
pub(crate) fn stabilize<'a>(
    body: &str,
    system: impl Iterator<Item = &'a RawValue>,
    messages: impl Iterator<Item = &'a RawValue>,
    changes: &mut Vec<Change>,
) {
    if memmem::find(body.as_bytes(), BILLING_LINE.as_bytes()).is_none() {
        return;
    }
    let mut overwrite = |part: &'a RawValue| {
        let room = MAX_CHANGES.saturating_sub(changes.len());
        let zeros = |checksum: &str| (span(body, checksum), vec![b'0'; checksum.len()]);
        changes.extend(checksums(part.get()).map(zeros).take(room));
    };
    system.for_each(&mut overwrite);
    for messages in messages {
        let _ = each_element(messages.get(), |message| {
            if is_system(message) {
                overwrite(message);
            }
        });
    }
}

/// The checksums in the billing lines of JSON text. A line starts at the start of a string or after `\n`, and ends at
/// the end of the string or at an escape.
fn checksums(text: &str) -> impl Iterator<Item = &str> {
    let starts = memmem::find_iter(text.as_bytes(), BILLING_LINE).filter(|at| {
        let before = text[..*at].trim_end_matches(' ');
        let before = before.strip_suffix('"').or_else(|| before.strip_suffix("\\n"));
        // `\\n` is an escaped backslash and the letter n, not a line break.
        before.is_some_and(|before| (before.len() - before.trim_end_matches('\\').len()).is_multiple_of(2))
    });
    let lines = starts.filter_map(|at| text[at + BILLING_LINE.len()..].split(['"', '\\']).next());
    let fields = lines.flat_map(|line| line.split(';')).filter_map(|field| field.trim().split_once('='));
    fields.filter_map(|(name, value)| match name {
        "cch" => Some(value),
        "cc_version" if value.matches('.').count() > 2 => value.rsplit('.').next(),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
