//! The header `Content-Range`, as a server answers a part of an object.

use std::{ops::Range, str::FromStr};

/// Which part of an object an answer holds, such as `bytes 3-9/20`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// Not empty, and within the object. Unit: bytes from its front.
    pub(crate) range: Range<u64>,
    /// Length of the whole object. Unit: bytes.
    pub(crate) total_len: u64,
}

/// The header says something else, for instance that the length is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidContentRange;

impl FromStr for ContentRange {
    type Err = InvalidContentRange;

    fn from_str(text: &str) -> Result<Self, InvalidContentRange> {
        let parsed = || {
            let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            let (end, total_len) = (last.checked_add(1)?, total.parse().ok()?);
            (first < end && end <= total_len).then_some(Self { range: first..end, total_len })
        };
        parsed().ok_or(InvalidContentRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_within_its_object_or_is_none() {
        for (text, range, total_len) in
            [("bytes 3-9/20", 3..10, 20), ("bytes 0-0/1", 0..1, 1), ("bytes 19-19/20", 19..20, 20)]
        {
            assert_eq!(text.parse(), Ok(ContentRange { range, total_len }), "{text}");
        }
        for text in [
            "",
            "3-9/20",
            "bytes */20",
            "bytes 3-9/*",
            "bytes 9-3/20",
            "bytes 3-20/20",
            "bytes 3-9",
            "bytes -9/20",
            "bytes 3-18446744073709551615/18446744073709551615",
            "items 3-9/20",
        ] {
            assert_eq!(text.parse::<ContentRange>(), Err(InvalidContentRange), "{text}");
        }
    }
}
