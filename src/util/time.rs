//! The only reader of time. Everything that decides takes `now` as an argument.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

#[expect(clippy::disallowed_methods, reason = "this is the one reader")]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall time: only ever shown.
#[expect(clippy::disallowed_methods, reason = "this is the one reader")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// ISO 8601 in UTC with milliseconds, `2024-01-31T22:00:00.000Z` [S000-29].
pub(crate) fn iso(at: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let date = imf(since.as_secs());
    // Each field of `Sun, 06 Nov 1994 08:49:37 GMT` has its column.
    let field = |from: usize, to: usize| str::from_utf8(&date[from..to]).unwrap_or_default();
    let month = 1 + MONTHS.iter().position(|month| *month == field(8, 11)).unwrap_or(0);
    format!("{}-{month:02}-{}T{}.{:03}Z", field(12, 16), field(5, 7), field(17, 25), since.subsec_millis())
}

/// Now as `Date` has it (RFC 9110 5.6.7). Each thread makes it once a second.
pub(crate) fn http_date() -> [u8; 29] {
    thread_local! {
        static MADE: Cell<(u64, [u8; 29])> = const { Cell::new((u64::MAX, [0; 29])) };
    }
    let second = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (made, text) = MADE.get();
    if made == second {
        return text;
    }
    let text = imf(second);
    MADE.set((second, text));
    text
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, so many seconds after 1970 began, and never after 9999, whose end has a fifth digit.
fn imf(second: u64) -> [u8; 29] {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second.min(253_402_300_799));
    httpdate::fmt_http_date(at).as_bytes().try_into().expect("29 bytes, as RFC 9110 5.6.7 has it")
}

#[cfg(test)]
mod tests;
