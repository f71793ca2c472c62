//! Protocol version and feature bits, and the rule by which two sides agree.
//!
//! Majors must be equal; minors may differ. Feature bits 0..=31 are optional (the unknown are
//! ignored), bits 32..=63 are required (one unknown bit refuses the peer by its number).

use std::fmt;
use std::ops::BitOr;

use crate::WireError;

/// Version of the protocol that this crate speaks.
pub const CURRENT: Version = Version { major: 1, minor: 0 };

/// A protocol version. Order is that of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Changes when an older peer could not understand us.
    pub major: u16,
    /// Changes when something was added that an older peer may ignore.
    pub minor: u16,
}

impl Version {
    /// Whether a peer of version `self` can talk to this build.
    ///
    /// # Errors
    /// [`WireError::OtherMajor`] names both versions.
    pub fn check_major(self) -> Result<(), WireError> {
        if self.major == CURRENT.major {
            return Ok(());
        }
        Err(WireError::OtherMajor { peer: self, ours: CURRENT })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A set of feature bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(pub u64);

/// Bits whose meaning a peer must know to talk to us.
const REQUIRED_MASK: u64 = 0xffff_ffff_0000_0000;

impl Features {
    /// No feature at all.
    pub const NONE: Self = Self(0);
    /// What this build knows. Version 1.0 is complete without any feature bit.
    pub const SUPPORTED: Self = Self::NONE;

    /// Whether every bit of `other` is set here.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The features both sides know, given what the peer offered.
    ///
    /// # Errors
    /// [`WireError::UnknownRequiredFeature`] with the lowest required bit that `self` lacks.
    pub fn agree(self, peer: Self) -> Result<Self, WireError> {
        let unknown = peer.0 & REQUIRED_MASK & !self.0;
        if unknown != 0 {
            let bit = unknown.trailing_zeros();
            return Err(WireError::UnknownRequiredFeature { bit, ours: self });
        }
        Ok(Self(self.0 & peer.0))
    }
}

impl BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_optional_features_are_ignored() {
        let ours = Features(0b101);
        assert_eq!(ours.agree(Features(0xffff_ffff)), Ok(ours));
    }

    #[test]
    fn unknown_required_feature_is_refused_by_its_bit() {
        let ours = Features(1 << 33);
        assert_eq!(ours.agree(Features(1 << 33 | 1)), Ok(Features(1 << 33)));
        assert_eq!(
            ours.agree(Features(1 << 33 | 1 << 40 | 1 << 50)),
            Err(WireError::UnknownRequiredFeature { bit: 40, ours })
        );
    }

    #[test]
    fn another_major_is_refused_by_name() {
        let peer = Version { major: 2, minor: 7 };
        let error = peer.check_major().expect_err("major 2");
        assert_eq!(
            error.to_string(),
            "the peer speaks DWCP 2.7, this side 1.0: the major versions must be equal"
        );
        assert_eq!(Version { major: 1, minor: 99 }.check_major(), Ok(()));
    }
}
