//! What is looked for inside a prompt: images, and the line of Claude Code's system prompt that differs in every request.
//! Pure.

use crate::api::edit::{Change, MOST_CHANGES};
use crate::api::json::{each_element, each_member, unescaped};
use memchr::memmem;
use serde_json::value::RawValue;

/// `x-anthropic-billing-header: cc_version=2.1.42.834; cc_entrypoint=cli; cch=65abc;`, where the end of the version and
/// the last value are checksums of the request.
pub(crate) const BILLING_LINE: &str = "x-anthropic-billing-header:";
/// The `type` of a part that is an image, in each API.
const IMAGES: [&str; 3] = ["image_url", "input_image", "image"];
/// Lists and objects that are open between a prompt and an image, which may stand in the result of a tool. Each of them is
/// walked once more.
pub(crate) const DEPTH: u32 = 8;
/// `developer` or `input_image` with each letter as `\u0061`.
const LONGEST: usize = 6 * "input_image".len();

/// What decides, besides the model, where a prompt goes.
pub(crate) trait PromptInfo {
    /// Its length, estimated.
    fn tokens(&self) -> u64;
    /// Looked for only if it matters.
    fn has_image(&self) -> bool;
}

/// Whether a part of a prompt is an image or holds one, at most so deep.
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

/// Whether a message is of the role that servers put in front of a conversation.
pub(crate) fn is_system(message: &RawValue) -> bool {
    let mut is_system = false;
    let read = each_member(message.get(), |name, value| {
        if unescaped(name, LONGEST).is_some_and(|name| name == "role") {
            is_system |= unescaped(value, LONGEST).is_some_and(|role| role == "system" || role == "developer");
        }
    });
    is_system && read.is_ok()
}

/// Puts zeros in the place of what differs in each request's billing line, in system prompts and system messages of `body`.
pub(crate) fn stabilize<'a>(
    body: &str,
    system: impl Iterator<Item = &'a RawValue>,
    messages: impl Iterator<Item = &'a RawValue>,
    changes: &mut Vec<Change>,
) {
    if memmem::find(body.as_bytes(), BILLING_LINE.as_bytes()).is_none() {
        return;
    }
    let mut see = |part: &'a RawValue| {
        let room = MOST_CHANGES.saturating_sub(changes.len());
        let zeros = |value: &str| {
            let start = value.as_ptr() as usize - body.as_ptr() as usize;
            (start..start + value.len(), vec![b'0'; value.len()])
        };
        changes.extend(differing(part.get()).map(zeros).take(room));
    };
    system.for_each(&mut see);
    for messages in messages {
        let _ = each_element(messages.get(), |message| {
            if is_system(message) {
                see(message);
            }
        });
    }
}

/// The values that differ, in the billing lines of JSON text: a line begins there with a string or after `\n`, and ends
/// with the string or at an escape.
fn differing(text: &str) -> impl Iterator<Item = &str> {
    let starts = memmem::find_iter(text.as_bytes(), BILLING_LINE).filter(|at| {
        let before = text[..*at].trim_end_matches(' ');
        let before = before.strip_suffix('"').or_else(|| before.strip_suffix("\\n"));
        // `\\n` is a backslash and a letter.
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
