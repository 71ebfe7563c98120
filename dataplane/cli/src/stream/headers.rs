//! The headers that each record of an append gets, and how much room they leave for its value.

use anyhow::Context;
use prost::{Message, length_delimiter_len};
use pyramid_protocol::limits::RECORD_BYTES_MAX;
use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::{Records, records};

/// Headers that a record may have.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers(Vec<pb::Header>);

impl Headers {
    /// # Errors
    ///
    /// They are too many, or too long together.
    pub(super) fn check(headers: Vec<(String, String)>) -> anyhow::Result<Self> {
        let headers = headers.into_iter();
        let headers = headers.map(|(name, value)| pb::Header { name, value: value.into() });
        let headers = Self(headers.collect());
        Records::encode(&[headers.record(Vec::new().into())]).context("--header")?;
        Ok(headers)
    }

    /// A record with this value.
    pub(super) fn record(&self, value: bytes::Bytes) -> pb::Record {
        pb::Record { value, headers: self.0.clone() }
    }

    /// The longest value that fits. Unit: bytes.
    pub(super) fn value_len_max(&self) -> usize {
        let room = RECORD_BYTES_MAX.saturating_sub(self.record(Vec::new().into()).encoded_len());
        // Before a value stand its tag and its length, which is the shorter the shorter the value.
        let fits = |length: usize| {
            let value = room.saturating_sub(1 + length);
            (length_delimiter_len(value) <= length).then_some(value)
        };
        (1..=length_delimiter_len(RECORD_BYTES_MAX)).find_map(fits).unwrap_or(0)
    }
}

/// `NAME=VALUE`.
pub(super) fn parse(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give NAME=VALUE")?;
    let header = (name.to_owned(), value.to_owned());
    let record = pb::Record {
        value: Vec::new().into(),
        headers: vec![pb::Header { name: name.to_owned(), value: value.to_owned().into() }],
    };
    match Records::encode(&[record]) {
        Ok(_) => Ok(header),
        Err(records::Error::HeaderName { .. }) if name.is_empty() => {
            Err("the name before the = is empty; give NAME=VALUE".to_owned())
        }
        Err(records::Error::HeaderName { .. }) => {
            Err(format!("the name {name:?} is reserved; give another one"))
        }
        Err(_) => Err(format!("the header {name:?} is too long")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_refused_by_its_name() {
        assert_eq!(parse("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse("=x").unwrap_err().contains("is empty"));
        assert!(parse("pyramid.x=1").unwrap_err().contains("\"pyramid.x\" is reserved"));
        assert!(parse(&format!("a={}", "x".repeat(40_000))).unwrap_err().contains("\"a\""));
        parse("a").unwrap_err();
    }

    #[test]
    fn the_longest_value_fits_and_one_byte_more_does_not() {
        let long = || ("long".to_owned(), "x".repeat(32_000));
        for headers in [vec![], vec![("a".to_owned(), "b".to_owned())], vec![long()]] {
            let headers = Headers::check(headers).unwrap();
            let len = headers.value_len_max();
            let encode = |len| Records::encode(&[headers.record(vec![b'x'; len].into())]);
            encode(len).unwrap();
            encode(len + 1).unwrap_err();
        }
        Headers::check(vec![long(), long()]).unwrap_err();
    }
}
