//! [`Records`]: the records of one append, walked once at the door.
//!
//! Behind the door the bytes are carried as they are, to the log, the chunks and the application.

use bytes::{Buf, Bytes};
use prost::Message;

use crate::limits::{
    APPEND_BYTES_MAX, APPEND_RECORDS_MAX, HEADER_BYTES_MAX, HEADERS_MAX, RECORD_BYTES_MAX,
    RESERVED_HEADER_PREFIX,
};
use crate::pb::v1 as pb;

/// Tag of `records` in `Records` and `RecordBatch`: field 5, length-delimited.
const RECORDS_TAG: u8 = 5 << 3 | 2;
/// Tags of `value` and `headers` in `Record`, and of `name` and `value` in `Header`.
const FIRST_TAG: u8 = 1 << 3 | 2;
const SECOND_TAG: u8 = 2 << 3 | 2;

/// At least one record, encoded as `Records`, within all limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    bytes: Bytes,
    count: u32,
    crc32c: u32,
}

/// Why bytes are not the records of an append. Only the producer can change that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no record.
    #[error("an append needs at least one record")]
    Empty,
    /// It is over [`APPEND_BYTES_MAX`].
    #[error("an append has at most {APPEND_BYTES_MAX} bytes, this one has {len_bytes}; split it")]
    TooLong {
        /// Length of all records with their tags.
        len_bytes: usize,
    },
    /// It is over [`APPEND_RECORDS_MAX`].
    #[error("an append has at most {APPEND_RECORDS_MAX} records; split it")]
    TooMany,
    /// One record is over [`RECORD_BYTES_MAX`].
    #[error("a record has at most {RECORD_BYTES_MAX} bytes, record {record} has {len_bytes}")]
    RecordTooLong {
        /// Which record, from 0.
        record: u32,
        /// Its length, headers included.
        len_bytes: usize,
    },
    /// One record is over [`HEADERS_MAX`] or [`HEADER_BYTES_MAX`].
    #[error(
        "a record has at most {HEADERS_MAX} headers with {HEADER_BYTES_MAX} bytes; record {record} has more"
    )]
    TooManyHeaders {
        /// Which record, from 0.
        record: u32,
    },
    /// A header's name is empty, not UTF-8 or reserved.
    #[error(
        "header names are UTF-8, not empty and do not begin with \"{RESERVED_HEADER_PREFIX}\"; see record {record}"
    )]
    HeaderName {
        /// Which record, from 0.
        record: u32,
    },
    /// The bytes are not what `Records` encodes to.
    #[error("record {record} is not an encoded Record")]
    Malformed {
        /// Which record, from 0.
        record: u32,
    },
}

impl Records {
    /// Walks the bytes of an encoded `Records` message.
    ///
    /// # Errors
    ///
    /// What is wrong with them; nothing is kept.
    pub fn check(bytes: Bytes) -> Result<Self, Error> {
        if bytes.len() > APPEND_BYTES_MAX {
            return Err(Error::TooLong { len_bytes: bytes.len() });
        }
        let mut rest: &[u8] = &bytes;
        let mut count = 0;
        while !rest.is_empty() {
            if count == APPEND_RECORDS_MAX {
                return Err(Error::TooMany);
            }
            let record = field(&mut rest, RECORDS_TAG).ok_or(Error::Malformed { record: count })?;
            check_record(record, count)?;
            count += 1;
        }
        if count == 0 {
            return Err(Error::Empty);
        }
        let crc32c = crc32c::crc32c(&bytes);
        Ok(Self { bytes, count, crc32c })
    }

    /// Encodes records and checks them.
    ///
    /// # Errors
    ///
    /// As [`Records::check`].
    pub fn encode(records: &[pb::Record]) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        for record in records {
            // A Vec grows as needed, so this cannot fail.
            prost::encoding::message::encode(5, record, &mut bytes);
        }
        Self::check(bytes.into())
    }

    /// The encoded form: the `records` field of a `RecordBatch`, tags included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many. At least 1, at most [`APPEND_RECORDS_MAX`].
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// CRC-32C over [`Records::bytes`].
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }
}

fn check_record(mut rest: &[u8], record: u32) -> Result<(), Error> {
    let malformed = Error::Malformed { record };
    if rest.len() > RECORD_BYTES_MAX {
        return Err(Error::RecordTooLong { record, len_bytes: rest.len() });
    }
    let mut headers = 0;
    let mut header_bytes = 0;
    let mut has_value = false;
    while let Some(&tag) = rest.first() {
        let content = field(&mut rest, tag).ok_or(malformed.clone())?;
        match tag {
            FIRST_TAG if !has_value => has_value = true,
            SECOND_TAG => {
                headers += 1;
                header_bytes += check_header(content, record)?;
                if headers > HEADERS_MAX || header_bytes > HEADER_BYTES_MAX {
                    return Err(Error::TooManyHeaders { record });
                }
            }
            _ => return Err(malformed),
        }
    }
    Ok(())
}

/// Length of name and value.
fn check_header(mut rest: &[u8], record: u32) -> Result<usize, Error> {
    let malformed = Error::Malformed { record };
    let mut name: Option<&[u8]> = None;
    let mut value: Option<&[u8]> = None;
    while let Some(&tag) = rest.first() {
        let content = field(&mut rest, tag).ok_or(malformed.clone())?;
        let slot = match tag {
            FIRST_TAG => &mut name,
            SECOND_TAG => &mut value,
            _ => return Err(malformed),
        };
        if slot.replace(content).is_some() {
            return Err(malformed);
        }
    }
    let name = name.unwrap_or_default();
    let text = std::str::from_utf8(name).map_err(|_| Error::HeaderName { record })?;
    if text.is_empty() || text.starts_with(RESERVED_HEADER_PREFIX) {
        return Err(Error::HeaderName { record });
    }
    Ok(name.len() + value.unwrap_or_default().len())
}

/// Takes one length-delimited field with this one-byte tag off the front.
fn field<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&first, mut after) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let len = prost::encoding::decode_varint(&mut after).ok()?;
    let (content, after) = after.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = after;
    Some(content)
}

/// Decodes the records of a batch, one by one.
///
/// Ends after the first one that is malformed.
#[derive(Clone, Debug)]
pub struct Iter {
    rest: Bytes,
}

impl Iter {
    /// Over bytes in the form of [`Records::bytes`].
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    /// Takes the next record off without decoding it; `None` at the end or at malformed bytes.
    pub(crate) fn skip_one(&mut self) -> Option<()> {
        let mut rest: &[u8] = &self.rest;
        field(&mut rest, RECORDS_TAG)?;
        let used = self.rest.len() - rest.len();
        self.rest.advance(used);
        Some(())
    }

    /// What is not taken yet.
    pub(crate) fn into_rest(self) -> Bytes {
        self.rest
    }
}

impl Iterator for Iter {
    type Item = Result<pb::Record, prost::DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let before = self.rest.clone();
        if self.skip_one().is_none() {
            self.rest.clear();
            // The bytes do not decode, so this is the library's own description of why.
            return Some(pb::Record::decode_length_delimited(before.slice(1..)));
        }
        let used = before.len() - self.rest.len();
        Some(pb::Record::decode_length_delimited(before.slice(1..used)))
    }
}

#[cfg(test)]
#[path = "records/tests.rs"]
mod tests;
