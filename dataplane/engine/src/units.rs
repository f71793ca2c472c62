//! Values as an operator writes and reads them: link rates in bit/s, sizes, times.

use std::fmt;
use std::str::FromStr;

use dwcp_encode::Level;

/// Slowest rate ceiling: below it not even the handshake would get through.
pub const RATE_BIT_PER_S_MIN: u64 = 8_000;

/// A rate, written in bit/s (`500mbit`), kept in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes per second, at least 1.
    pub bytes_per_s: u64,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no rate: write a whole number and bit, kbit, mbit or gbit, such as 500mbit"
            )
        };
        let lower = text.to_ascii_lowercase();
        let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
        let number: u64 = lower[..digits].parse().map_err(|_| wrong())?;
        let unit = match &lower[digits..] {
            "bit" => 1,
            "kbit" => 1_000,
            "mbit" => 1_000_000,
            "gbit" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let bits = number.checked_mul(unit).ok_or_else(wrong)?;
        if bits < RATE_BIT_PER_S_MIN {
            return Err(format!("{text:?} is too slow a rate: at least 8kbit"));
        }
        Ok(Self { bytes_per_s: bits / 8 })
    }
}

/// `auto` or a number within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoOr<const MIN: i64, const MAX: i64>(
    /// The number, or `None` for `auto`.
    pub Option<i64>,
);

impl<const MIN: i64, const MAX: i64> FromStr for AutoOr<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        match text.parse::<i64>() {
            Ok(n) if (MIN..=MAX).contains(&n) => Ok(Self(Some(n))),
            _ => Err(format!("{text:?} is neither auto nor a number from {MIN} to {MAX}")),
        }
    }
}

/// The forced level that a number stands for: 0 is no compression.
#[must_use]
pub fn level(number: i64) -> Level {
    match i32::try_from(number) {
        Ok(0) | Err(_) => Level::Off,
        Ok(n) => Level::Zstd(n),
    }
}

/// Bytes for people, in powers of ten as links are.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(
    /// The count.
    pub u64,
);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 999.5 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        match unit {
            0 => write!(f, "{} B", self.0),
            _ if value < 9.95 => write!(f, "{value:.1} {}", UNITS[unit]),
            _ => write!(f, "{value:.0} {}", UNITS[unit]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits() {
        assert_eq!("500mbit".parse::<Rate>().unwrap().bytes_per_s, 62_500_000);
        assert_eq!("1Gbit".parse::<Rate>().unwrap().bytes_per_s, 125_000_000);
        for wrong in ["", "500", "500mb", "-1mbit", "1.5gbit", "99999999999999999999gbit", "1bit"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn auto_or_a_number() {
        assert_eq!("auto".parse::<AutoOr<1, 256>>().unwrap(), AutoOr(None));
        assert_eq!("8".parse::<AutoOr<1, 256>>().unwrap(), AutoOr(Some(8)));
        assert!("0".parse::<AutoOr<1, 256>>().unwrap_err().contains("1 to 256"));
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!(Bytes(17).to_string(), "17 B");
        assert_eq!(Bytes(4_096).to_string(), "4.1 kB");
        assert_eq!(Bytes(353_000_000).to_string(), "353 MB");
    }
}
