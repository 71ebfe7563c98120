//! What a verification found, for people and for programs.

use pyramid_protocol::{Offset, StreamId};

use crate::cluster_id::ClusterId;

/// Findings and notes that are kept, of each; all are counted. More than anybody reads.
pub const LISTED_MAX: usize = 10_000;

/// What was found in the objects of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// Of `cluster.json`; `None` if that is one of the findings.
    pub epoch: Option<u32>,
    /// The streams that have a key object or a chunk, by id.
    pub streams: Vec<StreamTotal>,
    /// Objects that were looked at.
    pub objects: u64,
    /// Their length. Unit: bytes.
    pub bytes: u64,
    /// What is damaged, missing or not known, in the order of streams and offsets. At most
    /// [`LISTED_MAX`].
    pub findings: Vec<Finding>,
    /// All findings, also those that are not in the list.
    pub finding_count: u64,
    /// What somebody should know and nothing is lost by. At most [`LISTED_MAX`].
    pub notes: Vec<Note>,
    /// All notes.
    pub note_count: u64,
}

impl Report {
    /// Whether everything was read and is as it was stored.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0
    }
}

/// What is good of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTotal {
    /// Which stream.
    pub stream_id: StreamId,
    /// Its name; `None` if no key object opens.
    pub name: Option<String>,
    /// First offset that is there.
    pub first_offset: Offset,
    /// Offset after the last record that is there.
    pub next_offset: Offset,
    /// Verified chunks that make up the stream.
    pub chunks: u64,
    /// Records in them.
    pub records: u64,
    /// Length of them. Unit: bytes.
    pub stored_bytes: u64,
    /// Their content, decrypted and unpacked. Unit: bytes.
    pub plain_bytes: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// The object's key, if there is an object.
    pub object: Option<String>,
    /// The stream that it concerns.
    pub stream: Option<StreamLabel>,
    /// The offsets that it concerns, as far as they are known.
    pub offsets: Option<Span>,
}

/// A stream in a finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamLabel {
    /// Its id.
    pub id: StreamId,
    /// Its name; `None` if no key object opens.
    pub name: Option<String>,
}

/// A run of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first one.
    pub from: Offset,
    /// The one after the last; `None` if nothing authentic tells where it ends.
    pub to: Option<Offset>,
}

/// What can be wrong. Each is another thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The object is not what was stored: changed, cut, or sealed under other keys.
    Damaged,
    /// The object is authentic, but lies under the name of another one.
    Misplaced,
    /// No object holds these offsets. With a Writer's view: not the one that the Writer refers to.
    Missing,
    /// Chunks verify, but do not follow the chunk before them: another history.
    BrokenChain,
    /// There is no key object for a stream that has chunks, so they cannot be opened.
    MissingKey,
    /// The key file lacks the key that sealed the object, or has another one under its id.
    WrongKek {
        /// What the object's header names.
        kek_id: String,
        /// Whether the key file has a key of this id.
        is_known: bool,
    },
    /// There is no `cluster.json`.
    MissingClusterFile,
    /// A name that is not one of ours, or an object of another cluster.
    Foreign,
    /// A version or kind that this build does not know.
    UnknownVersion,
    /// The object store did not deliver it: nothing is known about it.
    Unreadable {
        /// What the store said.
        reason: String,
    },
}

impl Kind {
    /// One word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Misplaced => "misplaced",
            Self::Missing => "missing",
            Self::BrokenChain => "broken_chain",
            Self::MissingKey => "missing_key",
            Self::WrongKek { .. } => "wrong_kek",
            Self::MissingClusterFile => "missing_cluster_file",
            Self::Foreign => "foreign",
            Self::UnknownVersion => "unknown_version",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

/// Something that is worth knowing and no loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is.
    pub kind: NoteKind,
    /// The object's key, if there is an object.
    pub object: Option<String>,
    /// The stream that it concerns.
    pub stream: Option<StreamLabel>,
    /// The offsets that it concerns.
    pub offsets: Option<Span>,
}

/// Kinds of notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// An object that verifies and is not needed: another attempt of the same upload, one that is
    /// not committed yet, or a left-over of a trimmed range.
    Extra,
    /// An object that does not verify and is not needed, since another one holds its offsets.
    BadExtra {
        /// What is wrong with it.
        problem: Kind,
    },
    /// The stream begins behind offset 0. Trimming does that; only the Writer knows whether it was.
    BeginsLater,
    /// Chunks of a stream that the Writer does not show and no key object opens: deleted.
    DeletedStream,
}

impl NoteKind {
    /// One word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Extra => "extra",
            Self::BadExtra { .. } => "bad_extra",
            Self::BeginsLater => "begins_later",
            Self::DeletedStream => "deleted_stream",
        }
    }
}
