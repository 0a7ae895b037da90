//! Instants: microseconds of Unix time, UTC, and the clock that the outside passes in.
//!
//! Text is parsed from its decimal digits, never through a float, so that a fraction is exact to the microsecond.

use std::fmt;

use crate::error::ErrorKind;

/// Microseconds in a second.
pub const MICROS: i64 = 1_000_000;

/// A venue's number of at least this is in microseconds, below in milliseconds: 1e14 ms is the year 5138, 1e14 us the
/// year 1973.
const FIRST_MICROS: i64 = 100_000_000_000_000;

/// An instant in microseconds since 1970-01-01T00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why a text is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a time in Unix seconds (digits, with an optional fraction)")]
pub struct TimeError {
    text: String,
}

impl TimeError {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl Timestamp {
    /// 2009-01-03T00:00:00Z, the day of the first Bitcoin block: no trade is older.
    pub const EARLIEST: Self = Self(1_230_940_800 * MICROS);

    /// The instant `micros` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The instant `millis` milliseconds after the Unix epoch, saturating.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// The instant `seconds` seconds after the Unix epoch, saturating.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(MICROS))
    }

    /// The instant that Binance writes as `number`: milliseconds, or from 2025 on microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_venue(number: i64) -> Self {
        if number >= FIRST_MICROS { Self::from_micros(number) } else { Self::from_millis(number) }
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// This instant moved by `micros` microseconds, saturating.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The number of the aligned span of `micros` microseconds that holds this instant.
    #[must_use]
    pub const fn span(self, micros: i64) -> i64 {
        self.0.div_euclid(micros)
    }

    /// Reads Unix seconds from decimal text such as `1710000000` or `1710000000.25`.
    ///
    /// Digits beyond the microsecond are cut off. An exponent is accepted only as JSON writers produce it for whole
    /// numbers (`1.71e9`).
    ///
    /// # Errors
    /// [`TimeError`] where the text is not a decimal number or does not fit.
    pub fn parse_seconds(text: &str) -> Result<Self, TimeError> {
        decimal_micros(text).map(Self).ok_or_else(|| TimeError { text: text.chars().take(40).collect() })
    }

    /// Calendar fields (year, month, day, hour, minute, second, microsecond) in UTC.
    ///
    /// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    #[must_use]
    pub const fn civil(self) -> (i64, i64, i64, i64, i64, i64, i64) {
        let day = self.0.div_euclid(86_400 * MICROS);
        let within = self.0.rem_euclid(86_400 * MICROS);
        let z = day + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + if month <= 2 { 1 } else { 0 };
        let seconds = within / MICROS;
        (year, month, doy - (153 * mp + 2) / 5 + 1, seconds / 3_600, seconds / 60 % 60, seconds % 60, within % MICROS)
    }

    /// Reads an instant as RFC 3339 text (`2024-03-09T16:00:00Z` or `2024-03-09T18:00:00+02:00`, fraction optional, a
    /// bare date is its midnight in UTC) or as Unix seconds.
    ///
    /// # Errors
    /// [`TimeError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        if let Some(micros) = decimal_micros(text) {
            return Ok(Self(micros));
        }
        rfc3339_micros(text).map(Self).ok_or_else(|| TimeError { text: text.chars().take(40).collect() })
    }
}

/// RFC 3339 in UTC with microseconds, such as `2024-03-09T16:00:00.250000Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second, micro) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if micro != 0 {
            write!(f, ".{micro:06}")?;
        }
        f.write_str("Z")
    }
}

/// The only way to the present. Binaries pass the system's, tests pass their own.
pub trait Clock: Send + Sync {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

/// Microseconds from decimal seconds, `None` where the text is not a number or does not fit.
fn decimal_micros(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok().filter(|e| (0..=18).contains(e))?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    if whole.is_empty() || fraction.is_empty() {
        return None;
    }
    // Shift the decimal point right by `exponent` and by six for microseconds; what is left of it counts.
    let mut digits = whole.bytes().chain(fraction.bytes().chain(std::iter::repeat(b'0')));
    let wanted = whole.len() + usize::try_from(exponent).ok()? + 6;
    if !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut micros: u64 = 0;
    for digit in digits.by_ref().take(wanted) {
        micros = micros.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    if negative { 0_i64.checked_sub_unsigned(micros) } else { i64::try_from(micros).ok() }
}

/// Microseconds from `YYYY-MM-DD[THH:MM:SS[.f](Z|+HH:MM|-HH:MM)]`, `None` where the text is not of that form.
fn rfc3339_micros(text: &str) -> Option<i64> {
    let (date, (time, ahead)) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, split_offset(time)?),
        None => (text, ("00:00:00", 0)),
    };
    let is_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let fields = |s: &str, separator: char| -> Option<[i64; 3]> {
        let mut parts = s.split(separator).map(|p| p.parse::<i64>().ok().filter(|_| is_digits(p)));
        let three = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(three)
    };
    let [year, month, day] = fields(date, '-')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = fields(clock, ':')?;
    let in_range = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    // An exponent would make more of it than a second.
    let fraction = decimal_micros(&format!("0.{fraction}")).filter(|_| is_digits(fraction))?;
    in_range.then(|| {
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - ahead;
        seconds * MICROS + fraction
    })
}

/// A time of day without its offset from UTC, and by how many seconds that is ahead.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let (clock, offset) = time.split_at_checked(time.len().checked_sub("+00:00".len())?)?;
    let (sign, offset) = match offset.strip_prefix('+') {
        Some(offset) => (1, offset),
        None => (-1, offset.strip_prefix('-')?),
    };
    let (hours, minutes) = offset.split_once(':')?;
    let two_digits = |text: &str| match text.as_bytes() {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(i64::from((tens - b'0') * 10 + (ones - b'0'))),
        _ => None,
    };
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    (hours < 24 && minutes < 60).then_some((clock, sign * (hours * 3_600 + minutes * 60)))
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since the Unix epoch. Source: Hinnant, `days_from_civil`.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("1710000000", 1_710_000_000_000_000)]
    #[case("1710000000.25", 1_710_000_000_250_000)]
    #[case("1710000000.1234567", 1_710_000_000_123_456)]
    #[case("1.71e9", 1_710_000_000_000_000)]
    #[case("-1.5", -1_500_000)]
    #[case("0", 0)]
    #[case("9223372036854.775807", i64::MAX)]
    #[case("-9223372036854.775808", i64::MIN)]
    fn seconds_are_read_from_their_digits(#[case] text: &str, #[case] micros: i64) {
        assert_eq!(Timestamp::parse_seconds(text), Ok(Timestamp(micros)));
    }

    #[rstest]
    #[case("")]
    #[case(".5")]
    #[case("5.")]
    #[case("1e")]
    #[case("abc")]
    #[case("NaN")]
    #[case("99999999999999999999")]
    #[case("9223372036854.775808")]
    #[case("-9223372036854.775809")]
    fn what_is_not_a_number_of_seconds_is_refused(#[case] text: &str) {
        assert!(Timestamp::parse_seconds(text).is_err());
    }

    #[rstest]
    #[case("2024-03-09T16:00:00Z", 1_710_000_000_000_000)]
    #[case("2024-03-09T16:00:00.250000Z", 1_710_000_000_250_000)]
    #[case("2024-02-29", 1_709_164_800_000_000)]
    #[case("1969-12-31T23:59:59Z", -1_000_000)]
    fn calendar_text_and_instants_agree_both_ways(#[case] text: &str, #[case] micros: i64) {
        assert_eq!(Timestamp::parse(text), Ok(Timestamp(micros)));
        assert_eq!(Timestamp::parse(&Timestamp(micros).to_string()), Ok(Timestamp(micros)));
    }

    #[rstest]
    #[case("2024-03-09T16:00:00+00:00")]
    #[case("2024-03-09T18:30:00.000+02:30")]
    #[case("2024-03-08T21:01:00-18:59")]
    #[case("2024-03-09t16:00:00z")]
    fn an_offset_is_taken_off(#[case] text: &str) {
        assert_eq!(Timestamp::parse(text), Ok(Timestamp(1_710_000_000_000_000)));
    }

    #[rstest]
    #[case("2023-02-29")]
    #[case("2024-13-01")]
    #[case("2024-01-01T24:00:00Z")]
    #[case("2024-01-01T00:00:00")]
    #[case("2024-01-01T00:00:00+24:00")]
    #[case("2024-01-01T00:00:00+0200")]
    #[case("2024-01-01T00:00:00Z+02:00")]
    #[case("2024-01-01T+02:00")]
    #[case("2024-01-01T00:00:00+2:000")]
    #[case("2024-+1-01")]
    #[case("2024-01-01T00:00:00.Z")]
    #[case("2024-01-01T00:00:00.5e3Z")]
    #[case("2024-01-01T00:00:00.9223372036854775807e13Z")]
    #[case("yesterday")]
    fn impossible_dates_are_refused(#[case] text: &str) {
        assert!(Timestamp::parse(text).is_err());
    }
}
