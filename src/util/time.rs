//! The only reader of time. Everything that decides takes `now` as an argument.

use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[expect(clippy::disallowed_methods, reason = "this is the one reader")]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall time: only ever shown.
#[expect(clippy::disallowed_methods, reason = "this is the one reader")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// The clock that systemd compares its own times with.
pub(crate) fn monotonic_micros() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// ISO 8601 in UTC with milliseconds, `2024-01-31T22:00:00.000Z` [S000-29].
pub(crate) fn iso(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
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

/// `Sun, 06 Nov 1994 08:49:37 GMT`, so many seconds after 1970 began.
fn imf(second: u64) -> [u8; 29] {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let (days, rest) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[(month - 1) as usize]);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let text = format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
    // Only a year beyond 9999 has another length.
    text.as_bytes().try_into().unwrap_or(*b"Fri, 31 Dec 9999 23:59:59 GMT")
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant, `civil_from_days`, for days >= 0).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// A date of HTTP in any of its three forms (RFC 9110 5.6.7), none of which has a zone but GMT.
pub(crate) fn parse_http_date(text: &str) -> Option<SystemTime> {
    let parts: Vec<&str> = text.split([' ', ',', '-', ':']).filter(|part| !part.is_empty()).collect();
    let ([_, day, month, year, hour, minute, second, "GMT"] | [_, month, day, hour, minute, second, year]) = parts[..]
    else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let [day, year, hour, minute, second] = [day, year, hour, minute, second].map(|part| part.parse::<u64>().ok());
    let year = match year? {
        year @ 0..70 => year + 2000,
        year @ 70..100 => year + 1900,
        year => year,
    };
    let (Some(day @ 1..=31), 1970..=9999) = (day, year) else { return None };
    // Days to the first of March of this year of March to February (Howard Hinnant, `days_from_civil`).
    let (y, m) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour?.min(23) * 3600 + minute?.min(59) * 60 + second?.min(60);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
