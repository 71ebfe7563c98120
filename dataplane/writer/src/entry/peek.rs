//! What can be told of a payload without reading all of it.

use bytes::Bytes;

use super::{Error, KIND_BATCH, KIND_BLANK, KIND_CONTROL, KIND_MEMBERSHIP, Stamp, kind, stamp};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Appends.
    Batch,
    /// One command.
    Control,
    /// A new leader's first entry.
    Blank,
    /// Who votes.
    Membership,
}

impl Kind {
    /// The kind of a payload.
    ///
    /// # Errors
    ///
    /// A newer program wrote it, or it is no entry.
    pub fn of(payload: &Bytes) -> Result<Self, Error> {
        match kind(&mut payload.clone())? {
            KIND_BATCH => Ok(Self::Batch),
            KIND_CONTROL => Ok(Self::Control),
            KIND_BLANK => Ok(Self::Blank),
            KIND_MEMBERSHIP => Ok(Self::Membership),
            found => Err(Error::Unknown {
                what: "kind",
                found: found.into(),
                known: KIND_MEMBERSHIP.into(),
            }),
        }
    }
}

/// The stamp of a payload of the appender's; `None` for those that Raft makes itself.
#[must_use]
pub fn stamp_of(payload: &Bytes) -> Option<Stamp> {
    match Kind::of(payload).ok()? {
        Kind::Batch | Kind::Control => {
            let mut rest = payload.clone();
            kind(&mut rest).ok()?;
            stamp(&mut rest).ok()
        }
        Kind::Blank | Kind::Membership => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use pyramid_protocol::pb::stored::v1::{SetTime, command::Command};

    #[test]
    fn entries_of_the_appender_have_a_stamp_and_others_have_none() {
        let stamp = Stamp { term: 3, number: 7, time_ms: 9 };
        let command = Command::SetTime(SetTime {});
        let control = Entry::Control { stamp, command }.encode();
        assert_eq!((Kind::of(&control), stamp_of(&control)), (Ok(Kind::Control), Some(stamp)));
        let blank = Entry::Blank.encode();
        assert_eq!((Kind::of(&blank), stamp_of(&blank)), (Ok(Kind::Blank), None));
        assert!(Kind::of(&Bytes::from_static(b"short")).is_err());
    }
}
