//! Lengths of time as Go writes them: `90s`, `1h30m`, `1.5s`, `500ms`, `0`.

use std::time::Duration;

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a length of time; `None` if the text is not one, or if it is negative or beyond what Go can hold.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (whole, behind) = digits(rest);
        let (fraction, behind) = match behind.strip_prefix('.') {
            Some(behind) => digits(behind),
            None => ("", behind),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = behind.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanoseconds = nanoseconds.checked_add(u128::from(whole).checked_mul(*unit)?)?;
        // Digits beyond the nineteenth are less than any unit can show.
        let fraction = fraction.get(..19).unwrap_or(fraction);
        if !fraction.is_empty() {
            let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
            nanoseconds = nanoseconds.checked_add(fraction.parse::<u128>().ok()?.checked_mul(*unit)? / scale)?;
        }
        rest = behind;
    }
    i64::try_from(nanoseconds).ok().and_then(|nanoseconds| u64::try_from(nanoseconds).ok()).map(Duration::from_nanos)
}

/// The digits at the start, and what comes behind.
fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, milliseconds: Option<u64>) {
        assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        check("120s", Some(120_000));
        check("1h30m", Some(5_400_000));
        check("1.5s", Some(1_500));
        check(".5s", Some(500));
        check("2m0s", Some(120_000));
        check("500ms", Some(500));
        check("0", Some(0));
        check("0s", Some(0));
        check("1000us", Some(1));
        for wrong in ["", "5", "s", "5 s", "-5s", "5d", "1.s.", "5s3", "9999999999999h", "٣s", "1.s2"] {
            check(wrong, None);
        }
    }
}
