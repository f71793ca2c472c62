//! Values as an operator writes them: link rates in bit/s, and numbers that may be left to the engine.

use std::str::FromStr;

/// A rate such as `500mbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits per second.
    pub bit_per_s: u64,
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
        Ok(Self { bit_per_s: number.checked_mul(unit).ok_or_else(wrong)? })
    }
}

/// A rate, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateOrNone(
    /// The rate.
    pub Option<Rate>,
);

impl FromStr for RateOrNone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => text.parse().map(|rate| Self(Some(rate))).map_err(|e| format!("{e}, or none")),
        }
    }
}

/// `auto` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoOr(
    /// The number, or `None` for `auto`.
    pub Option<u32>,
);

impl FromStr for AutoOr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self(None)),
            _ => text
                .parse()
                .map(|number| Self(Some(number)))
                .map_err(|_| format!("{text:?} is neither auto nor a number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits() {
        assert_eq!("500mbit".parse(), Ok(Rate { bit_per_s: 500_000_000 }));
        assert_eq!("1Gbit".parse(), Ok(Rate { bit_per_s: 1_000_000_000 }));
        for wrong in ["", "500", "500mb", "-1mbit", "1.5gbit", "99999999999999999999gbit"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
        assert_eq!("none".parse(), Ok(RateOrNone(None)));
        assert!("fast".parse::<RateOrNone>().is_err());
    }

    #[test]
    fn auto_or_a_number() {
        assert_eq!("auto".parse(), Ok(AutoOr(None)));
        assert_eq!("8".parse(), Ok(AutoOr(Some(8))));
        assert!("-1".parse::<AutoOr>().is_err());
    }
}
