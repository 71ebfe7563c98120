//! Keys of objects: paths that mean the same in every store.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest key. Unit: bytes. S3 takes 1,024.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest part of a key between slashes. Unit: bytes. File systems take 255.
const SEGMENT_BYTES_MAX: usize = 200;

/// The name of one object, such as `dev/8f…/cluster.json`.
///
/// Parts between slashes are not empty, do not begin with a dot and are of letters, digits and
/// `.`, `_`, `-`, so that a key is the same as a path below a directory, as an S3 key and in a URL,
/// and never leads out of the directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no object key: parts between slashes are letters, digits, '.', '_' and '-' and do \
     not begin with a dot"
)]
pub struct InvalidKey {
    /// What was given, cut at the longest key.
    pub text: String,
}

impl ObjectKey {
    /// The text of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        if text.len() <= KEY_BYTES_MAX && text.split('/').all(is_segment) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidKey { text: text.chars().take(KEY_BYTES_MAX).collect() })
        }
    }
}

fn is_segment(text: &str) -> bool {
    (1..=SEGMENT_BYTES_MAX).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_that_stay_below_their_directory() {
        let long = "a".repeat(SEGMENT_BYTES_MAX);
        for text in ["a", "dev/0a/cluster.json", "A_b-c.d/e", &long] {
            assert_eq!(text.parse::<ObjectKey>().map(|key| key.to_string()), Ok(text.to_owned()));
        }
        for text in
            ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.lock", "a b", "ä", "a\\b", "a\0b"]
        {
            assert!(text.parse::<ObjectKey>().is_err(), "{text:?}");
        }
        assert!(format!("{long}a").parse::<ObjectKey>().is_err());
        assert!(vec!["a"; KEY_BYTES_MAX / 2 + 1].join("/").parse::<ObjectKey>().is_err());
    }
}
