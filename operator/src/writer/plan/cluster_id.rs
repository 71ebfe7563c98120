//! [`ClusterId`]: whose data a volume holds.

use std::fmt;
use std::str::FromStr;

/// Identity of a Writer's data. In text: 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClusterId(pub(crate) [u8; 16]);

/// The text is no cluster id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster id is 32 hexadecimal digits in lower case")]
pub(crate) struct ParseClusterIdError;

impl FromStr for ClusterId {
    type Err = ParseClusterIdError;

    fn from_str(text: &str) -> Result<Self, ParseClusterIdError> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_hex) {
            return Err(ParseClusterIdError);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_overflow| ParseClusterIdError)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
