//! What is looked for inside a prompt: images, and the line of Claude Code's system prompt that differs in every request.
//! Pure.

use crate::api::edit::{Change, MOST_CHANGES};
use crate::api::json::{each_element, each_member, unescaped};
use memchr::memmem;
use serde_json::value::RawValue;
use std::ops::Range;

/// `x-anthropic-billing-header: cc_version=2.1.42.834; cc_entrypoint=cli; cch=65abc;`, where the end of the version and
/// the last value are checksums of the request.
pub(crate) const BILLING_LINE: &str = "x-anthropic-billing-header:";
/// The `type` of a part that is an image, in each API.
const IMAGES: [&str; 3] = ["image_url", "input_image", "image"];
/// Values looked for in one text. Claude Code writes one line with two of them.
const MOST_PLACES: usize = 8;
/// Lists and objects that are open between a prompt and what is looked for, which may stand in the result of a tool. Each of
/// them is walked once more.
const DEPTH: u32 = 8;
/// `developer` or `input_image` with each letter as `\u0061`.
const LONGEST: usize = 6 * "input_image".len();

/// What decides, besides the model, where a prompt goes.
pub(crate) trait PromptInfo {
    /// Its length, estimated.
    fn tokens(&self) -> u64;
    /// Looked for only if it matters.
    fn has_image(&self) -> bool;
}

/// Whether a body may hold a word, escaped or not; found out fast.
pub(crate) fn may_say(body: &str, word: &str) -> bool {
    [word, "\\u00"].iter().any(|text| memmem::find(body.as_bytes(), text.as_bytes()).is_some())
}

pub(crate) fn has_image(prompt: &RawValue) -> bool {
    holds_image(prompt, DEPTH)
}

fn holds_image(part: &RawValue, depth: u32) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let mut found = false;
    let _ = match part.get().as_bytes()[0] {
        b'[' => each_element(part.get(), |part| found = found || holds_image(part, depth)),
        b'{' => each_member(part.get(), |name, value| {
            found |= match unescaped(name, LONGEST).as_deref() {
                Some("type") => unescaped(value, LONGEST).is_some_and(|kind| IMAGES.contains(&&*kind)),
                Some("content" | "output") => holds_image(value, depth),
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

/// Puts zeros in the place of what differs in each request's billing line, in system prompts and system messages.
pub(crate) fn stabilize(
    body: &str,
    system: &[Option<&RawValue>],
    messages: &[Option<&RawValue>],
    changes: &mut Vec<Change>,
) {
    if !may_say(body, BILLING_LINE) {
        return;
    }
    let mut see = |text: &RawValue| {
        if changes.len() <= MOST_CHANGES {
            changes.extend(zeros(body, text));
        }
    };
    system.iter().flatten().for_each(|system| each_text(system, "text", DEPTH, &mut see));
    for messages in messages.iter().flatten().filter(|messages| messages.get().starts_with('[')) {
        let _ = each_element(messages.get(), |message| {
            if is_system(message) {
                each_text(message, "content", DEPTH, &mut see);
            }
        });
    }
}

/// Calls `see` with a text, or with those of a list of parts, or with what an object calls so.
fn each_text(value: &RawValue, name: &str, depth: u32, see: &mut dyn FnMut(&RawValue)) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let _ = match value.get().as_bytes()[0] {
        b'[' => each_element(value.get(), |part| each_text(part, "text", depth, see)),
        b'{' => each_member(value.get(), |key, value| {
            if unescaped(key, LONGEST).is_some_and(|key| key == name) {
                each_text(value, "text", depth, see);
            }
        }),
        b'"' => {
            see(value);
            Ok(())
        }
        _ => Ok(()),
    };
}

/// The changes in one text, a JSON string of `body`. As many characters are written as there were.
fn zeros(body: &str, raw: &RawValue) -> Vec<Change> {
    let Some(text) = unescaped(raw, usize::MAX) else { return Vec::new() };
    let differing: Vec<Range<usize>> =
        text.split('\n').flat_map(|line| differing(&text, line)).take(MOST_PLACES).collect();
    let Some(last) = differing.last() else { return Vec::new() };
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    let written = characters(raw.get()).take_while(|(at, _)| *at < last.end);
    let changed = written.filter(|(at, _)| differing.iter().any(|place| place.contains(at)));
    let zero = |place: &Range<usize>| if place.len() == 1 { &b"0"[..] } else { &b"\\u0030"[..] };
    changed.map(|(_, place)| (start + place.start..start + place.end, zero(&place).to_vec())).collect()
}

/// Where the values that differ stand in a text, if this line of it is a billing line.
fn differing<'a>(text: &'a str, line: &'a str) -> impl Iterator<Item = Range<usize>> + use<'a> {
    let fields =
        line.trim_start().strip_prefix(BILLING_LINE).into_iter().flat_map(|rest| rest.split(';')).map(str::trim);
    let values = fields.filter_map(|field| match field.split_once('=')? {
        ("cch", value) => Some(value),
        ("cc_version", version) if version.matches('.').count() > 2 => version.rsplit('.').next(),
        _ => None,
    });
    values.map(|value| {
        let start = value.as_ptr() as usize - text.as_ptr() as usize;
        start..start + value.len()
    })
}

/// Where each character of a JSON string stands: in the text that it means, and as it is written.
fn characters(raw: &str) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (mut meant, mut at) = (0, 1);
    std::iter::from_fn(move || {
        let rest = raw.get(at..raw.len() - 1)?;
        let first = rest.chars().next()?;
        let unit = rest.strip_prefix("\\u").and_then(|digits| u16::from_str_radix(digits.get(..4)?, 16).ok());
        let (written, length) = match unit {
            Some(0xd800..=0xdbff) => (12, 4),
            Some(unit) => (6, char::from_u32(unit.into()).map_or(3, char::len_utf8)),
            None if first == '\\' => (2, 1),
            None => (first.len_utf8(), first.len_utf8()),
        };
        let here = (meant, at..at + written);
        (meant, at) = (meant + length, at + written);
        Some(here)
    })
}

#[cfg(test)]
mod tests;
