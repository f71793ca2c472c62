//! IEEE 754 half precision, as bits, for weights on disk.

/// Rounds to the nearest half, ties to even; beyond the range the largest; NaN becomes 0.
pub(crate) fn from_f32(value: f32) -> u16 {
    const LARGEST: f32 = 65_504.0;
    if value.is_nan() {
        return 0;
    }
    let sign = ((value.to_bits() >> 16) & 0x8000) as u16;
    let size = value.abs().min(LARGEST);
    // Below the smallest normal half the step is 2^-24; scaling makes it 1. Both factors are powers
    // of two, so that only the rounding to an integer rounds.
    if size < 6.103_515_6e-5 {
        return sign | (size * 16_777_216.0).round_ties_even() as u16;
    }
    let bits = size.to_bits();
    // Half of the 13 bits that go, and one more where the last that stays is odd.
    let rounded = bits + 0x0fff + ((bits >> 13) & 1);
    let half = (rounded >> 13) - (112 << 10);
    sign | half.min(0x7bff) as u16
}

/// Exact. The exponent of infinity and NaN, which [`from_f32`] never writes, gives infinity.
pub(crate) fn to_f32(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (u32::from(half >> 10) & 0x1f, u32::from(half & 0x3ff));
    let size = match exponent {
        0 => mantissa as f32 / 16_777_216.0,
        31 => f32::INFINITY,
        _ => f32::from_bits(((exponent + 112) << 23) | (mantissa << 13)),
    };
    sign * size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back() {
        for half in (0..=u16::MAX).filter(|h| (h >> 10) & 0x1f != 31) {
            assert_eq!(from_f32(to_f32(half)), half, "{half:#x}");
        }
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        for (value, back) in [(1.0, 1.0), (1.0004, 1.0), (1.0006, 1.000_976_6), (1e9, 65_504.0)] {
            assert_eq!(to_f32(from_f32(value)), back, "{value}");
            assert_eq!(to_f32(from_f32(-value)), -back);
        }
        assert_eq!(from_f32(f32::NAN), 0);
        let mut value = 1e-9f32;
        while value < 6e4 {
            let error = (to_f32(from_f32(value)) - value).abs();
            assert!(error <= (value / 2_048.0).max(3e-8), "{value}");
            value *= 1.37;
        }
    }
}
