//! Texts into quantities: durations, sizes and counts, strictly; both ends of the command line read them. Pure.

use std::time::Duration;

/// `500ms`, `30s`, `10m`, `2h`: digits and one unit, no sign, no fraction, no space.
///
/// # Errors
/// What was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!("{text:?} is not a duration; expected digits and a unit, as in 500ms, 30s, 10m, 2h or 90d")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(24 * 3_600_000),
        _ => return Err(expected()),
    };
    match milliseconds {
        // A year: nothing here waits longer, and timers far in the future overflow elsewhere.
        Some(ms) if ms <= 365 * 24 * 3_600_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is longer than a year")),
    }
}

/// `4096`, `64KiB`, `256MiB`, `2GiB`: bytes, in powers of 1024.
///
/// # Errors
/// What was expected.
pub fn size(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is not a size; expected bytes, as in 1048576, 64KiB, 256MiB or 2GiB");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let factor: u64 = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    // Stored as signed 64 bit in the ledger and by the kernel.
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes < 1 << 62)
        .ok_or_else(|| format!("{text:?} is too large"))
}

/// A whole number from `low` to `high`.
///
/// # Errors
/// What was expected.
pub fn count(text: &str, low: u64, high: u64) -> Result<u64, String> {
    text.parse::<u64>()
        .ok()
        .filter(|number| text.bytes().all(|b| b.is_ascii_digit()) && (low..=high).contains(number))
        .ok_or_else(|| format!("{text:?} is not a whole number from {low} to {high}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_digits_and_one_unit() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "1S",
            "1s ",
            "1w",
            "366d",
            "999999999h",
            "18446744073709551616s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_digits_and_one_unit() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64KiB", 65536), ("256MiB", 256 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "MiB", "1MB", "1 MiB", "-1", "1.5GiB", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_stay_in_their_range() {
        assert_eq!(count("32", 1, 1000), Ok(32));
        for bad in ["", "0", "1001", "+5", "-1", "5 ", "1e2"] {
            assert!(count(bad, 1, 1000).is_err(), "{bad}");
        }
    }
}
