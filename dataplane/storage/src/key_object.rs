//! Key objects: a stream's key, name and settings, sealed under a KEK.
//!
//! With the key file and these objects the bucket alone gives back every shipped record. One is
//! stored before the first chunk of its stream; deleting all of a stream's erases the stream.

use bytes::Bytes;
use prost::Message;
use pyramid_protocol::{
    Entropy, StreamId,
    pb::{stored::v1 as stored, v1 as pb},
};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    chunk::Damaged,
    cluster_id::ClusterId,
    keys::{Keks, StreamKey},
    sealed_object::{self, Kind, Name},
};

/// Longest key object. Unit: bytes. Ask the store for one more, so that a longer one is noticed.
pub const KEY_OBJECT_BYTES_MAX: u64 = 128 << 10;

/// What a key object holds.
#[derive(Clone, Debug)]
pub struct KeyObject {
    /// Whose key.
    pub stream_id: StreamId,
    /// The stream's name, for recovery.
    pub name: String,
    /// Wraps the stream's chunk keys.
    pub key: StreamKey,
    /// The stream's settings, for recovery.
    pub settings: Option<pb::StreamSettings>,
}

/// Why a key object does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The key file lacks a key: add it.
    #[error("the key file has no key {kek_id:?}, which {object} was sealed with; add it")]
    UnknownKek {
        /// The object's key.
        object: String,
        /// What its header names.
        kek_id: String,
    },
    /// The key file holds another key under this id: restore the right key file. That part of the
    /// object is not authenticated yet, so it may also be damage.
    #[error(
        "the key {kek_id:?} of the key file does not open {object}; restore the key file that \
         sealed it, or the object, if other objects open under this key"
    )]
    WrongKek {
        /// The object's key.
        object: String,
        /// What its header names.
        kek_id: String,
    },
    /// It is not what was stored, or belongs to another stream or cluster. If the stream has
    /// several key objects, try the others.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

impl KeyObject {
    /// The bytes of the object.
    ///
    /// # Panics
    ///
    /// If name and settings have more than 60 KiB; names have at most 512 bytes.
    #[must_use]
    pub fn seal(&self, cluster_id: ClusterId, keks: &Keks, entropy: &dyn Entropy) -> Bytes {
        let mut message = stored::StreamKey {
            stream_id: self.stream_id.get(),
            name: self.name.clone(),
            key: Bytes::copy_from_slice(self.key.as_bytes()),
            settings: self.settings,
        };
        let content = Zeroizing::new(message.encode_to_vec());
        wipe(&mut message.key);
        sealed_object::seal(&name(cluster_id, self.stream_id), &content, keks, entropy)
            .expect("a name and a key are below the limit of a key object")
    }

    /// Opens the key object of `stream_id` whose key in the store is `object`.
    ///
    /// # Errors
    ///
    /// It does not open, or is another stream's.
    pub fn open(
        object: &str,
        bytes: &[u8],
        cluster_id: ClusterId,
        stream_id: StreamId,
        keks: &Keks,
    ) -> Result<Self, OpenError> {
        let damaged = || Damaged { object: object.to_owned() };
        let content = sealed_object::open(&name(cluster_id, stream_id), bytes, keks);
        let content = content.map_err(|error| match error {
            sealed_object::OpenError::UnknownKek { kek_id } => {
                OpenError::UnknownKek { object: object.to_owned(), kek_id }
            }
            sealed_object::OpenError::WrongKek { kek_id } => {
                OpenError::WrongKek { object: object.to_owned(), kek_id }
            }
            sealed_object::OpenError::Damaged => OpenError::Damaged(damaged()),
        })?;
        // From a slice, so that the message has a copy of the key which can be wiped.
        let message = stored::StreamKey::decode(content.as_slice()).map_err(|_| damaged())?;
        let stored::StreamKey { stream_id: found, name, key: mut bytes, settings } = message;
        let key = StreamKey::from_slice(&bytes).ok_or_else(damaged);
        wipe(&mut bytes);
        if found != stream_id.get() {
            return Err(damaged().into());
        }
        Ok(Self { stream_id, name, key: key?, settings })
    }
}

fn name(cluster_id: ClusterId, stream_id: StreamId) -> Name {
    Name { kind: Kind::StreamKey, cluster_id, ident: [stream_id.get(), 0] }
}

/// Wipes bytes that nobody else holds.
fn wipe(bytes: &mut Bytes) {
    match std::mem::take(bytes).try_into_mut() {
        Ok(mut own) => own.as_mut().zeroize(),
        // Somebody shares them: only a change of the code above could do that.
        Err(shared) => debug_assert!(shared.is_empty(), "a key is shared and cannot be wiped"),
    }
}

#[cfg(test)]
mod tests;
