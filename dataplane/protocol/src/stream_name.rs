//! [`StreamName`]: valid by construction.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::STREAM_NAME_BYTES_MAX;

/// The name of a stream: 1 to 512 bytes of UTF-8 without control characters.
///
/// Cheap to clone. The order is that of the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

/// Why a text is not a [`StreamName`]. The user must choose another name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no text.
    #[error("a stream name must not be empty")]
    Empty,
    /// It is over [`STREAM_NAME_BYTES_MAX`].
    #[error("a stream name has at most {STREAM_NAME_BYTES_MAX} bytes, this one has {len_bytes}")]
    TooLong {
        /// Length of the text.
        len_bytes: usize,
    },
    /// Terminals and logs would be confused.
    #[error("a stream name must not contain control characters")]
    ControlCharacter,
}

impl StreamName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Empty);
        }
        if text.len() > STREAM_NAME_BYTES_MAX {
            return Err(Error::TooLong { len_bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(Error::ControlCharacter);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for StreamName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_512_bytes() {
        let longest = "é".repeat(256);
        assert_eq!(longest.parse::<StreamName>().unwrap().as_str(), longest);
        assert_eq!(
            format!("{longest}x").parse::<StreamName>(),
            Err(Error::TooLong { len_bytes: 513 })
        );
    }

    #[test]
    fn empty_names_and_control_characters_are_refused() {
        assert_eq!("".parse::<StreamName>(), Err(Error::Empty));
        for name in ["a\nb", "\0", "a\u{7f}", "\u{85}"] {
            assert_eq!(name.parse::<StreamName>(), Err(Error::ControlCharacter), "{name:?}");
        }
        assert!("orders/eu €".parse::<StreamName>().is_ok());
    }
}
