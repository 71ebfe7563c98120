//! Which cluster an object belongs to.

use std::{fmt, str::FromStr};

/// Names one Writer for ever: drawn at bootstrap, part of every stored object.
///
/// 16 random bytes, written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId([u8; Self::LEN]);

impl ClusterId {
    /// Unit: bytes.
    pub const LEN: usize = 16;

    /// The id with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The id in `bytes`, or `None` if they are not 16.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// Why a text is no cluster id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster id has 32 lower-case hexadecimal digits")]
pub struct ParseClusterIdError;

impl FromStr for ClusterId {
    type Err = ParseClusterIdError;

    fn from_str(text: &str) -> Result<Self, ParseClusterIdError> {
        crate::hex::decode(text).map(Self).ok_or(ParseClusterIdError)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = ClusterId::new(*b"\x00\x01\x02\x03456789abcde\xff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string(), "000102033435363738396162636465ff");
    }

    #[test]
    fn other_texts_are_no_ids() {
        let id = ClusterId::new([0xab; 16]).to_string();
        for text in ["", &id[1..], &format!("{id}0"), &id.to_uppercase(), &id.replace('a', "g")] {
            assert_eq!(text.parse::<ClusterId>(), Err(ParseClusterIdError), "{text}");
        }
    }
}
