//! The key chain: KEK → stream key → chunk key → what encrypts and authenticates one chunk.
//!
//! ```text
//! KEK          32 bytes from a file, several by id; the newest wraps, all unwrap
//!  └ stream    32 random bytes, one for the life of a stream id; stored wrapped by a KEK
//!     ├ digest     HKDF-SHA256(stream key, "pyramid digest v1")
//!     └ chunk      32 random bytes for each chunk; stored in its header, wrapped by the stream key
//!        ├ enc     HKDF-SHA256(chunk key, "pyramid chunk enc v1")
//!        └ mac     HKDF-SHA256(chunk key, "pyramid chunk mac v1")
//! ```
//!
//! HKDF has no salt, the label is its `info`. Wrapping is AES-256 key wrap (RFC 3394), 40 bytes: it
//! needs no nonce, so it has no limit on how many keys one KEK wraps, and it notices a wrong key.
//!
//! No type here shows its bytes in `Debug`, and all wipe their memory when dropped.

mod kek_file;
mod secret;

use aes_kw::{KeyInit, KwAes256};
use hkdf::Hkdf;
use pyramid_protocol::{Entropy, pb::stored::v1 as stored};
use sha2::Sha256;

pub(crate) use self::kek_file::is_kek_id;
pub use self::kek_file::{KEK_ID_BYTES_MAX, Keks, LoadError};
use self::secret::Secret;

/// Length of a key under AES key wrap. Unit: bytes.
pub const WRAPPED_KEY_LEN: usize = 40;

/// Length of every key. Unit: bytes.
pub const KEY_LEN: usize = 32;

/// Why a stream key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The key file lacks this KEK: add it.
    #[error("the key file has no key {kek_id:?}; add the key that wrapped this stream's key")]
    UnknownKek {
        /// The id that was stored with the wrapped key.
        kek_id: String,
    },
    /// The KEK with this id did not wrap it: either the key file holds another key under this id,
    /// or the wrapped key is damaged.
    #[error(
        "the key {kek_id:?} of the key file does not open this stream's key; restore the right key \
         file"
    )]
    WrongKey {
        /// The id that was stored with the wrapped key.
        kek_id: String,
    },
}

/// The key under which all chunk keys of one stream are wrapped.
#[derive(Clone, Debug)]
pub struct StreamKey(Secret);

impl StreamKey {
    /// A new random key.
    #[must_use]
    pub fn random(entropy: &dyn Entropy) -> Self {
        Self(Secret::random(entropy))
    }

    /// The key in these bytes, or `None` if they are not 32.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Secret::from_slice(bytes).map(Self)
    }

    /// For the one place that seals it into a key object.
    pub(crate) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        self.0.as_bytes()
    }

    pub(crate) fn wrap(&self, key: &ChunkKey) -> [u8; WRAPPED_KEY_LEN] {
        wrap(&self.0, &key.0)
    }

    /// The chunk key in `wrapped`, or `None` if this key did not wrap it.
    pub(crate) fn unwrap(&self, wrapped: &[u8]) -> Option<ChunkKey> {
        unwrap(&self.0, wrapped).map(ChunkKey)
    }

    pub(crate) fn digest_key(&self) -> DigestKey {
        DigestKey(derive(&self.0, "pyramid digest v1"))
    }
}

/// The random key of one chunk, or of one sealed object.
#[derive(Debug)]
pub(crate) struct ChunkKey(Secret);

impl ChunkKey {
    pub(crate) fn random(entropy: &dyn Entropy) -> Self {
        Self(Secret::random(entropy))
    }

    /// The keys of frames, for objects of the kind `kind`: `chunk`, or that of a sealed object.
    pub(crate) fn frame_keys(&self, kind: &str) -> FrameKeys {
        FrameKeys {
            encryption: derive(&self.0, &format!("pyramid {kind} enc v1")),
            mac: derive(&self.0, &format!("pyramid {kind} mac v1")),
        }
    }
}

/// What opens the frames of one chunk and nothing else. A `ChunkLocation` carries it.
#[derive(Clone, Debug)]
pub(crate) struct FrameKeys {
    encryption: Secret,
    mac: Secret,
}

impl FrameKeys {
    pub(crate) fn from_slices(encryption: &[u8], mac: &[u8]) -> Option<Self> {
        Some(Self { encryption: Secret::from_slice(encryption)?, mac: Secret::from_slice(mac)? })
    }

    pub(crate) fn encryption(&self) -> &[u8; KEY_LEN] {
        self.encryption.as_bytes()
    }

    pub(crate) fn mac(&self) -> &[u8; KEY_LEN] {
        self.mac.as_bytes()
    }
}

/// The key of the digest chain of one stream.
#[derive(Clone, Debug)]
pub(crate) struct DigestKey(Secret);

impl DigestKey {
    pub(crate) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        self.0.as_bytes()
    }
}

impl Keks {
    /// The stream key as the log and State hold it: under the newest KEK.
    #[must_use]
    pub fn wrap(&self, key: &StreamKey) -> stored::WrappedKey {
        let (kek_id, kek) = self.newest();
        stored::WrappedKey { kek_id: kek_id.to_owned(), wrapped: wrap(kek, &key.0).to_vec().into() }
    }

    /// The stream key in `wrapped`.
    ///
    /// # Errors
    ///
    /// The KEK is not in the key file, or does not open it.
    pub fn unwrap(&self, wrapped: &stored::WrappedKey) -> Result<StreamKey, UnwrapError> {
        let stored::WrappedKey { kek_id, wrapped } = wrapped;
        self.unwrap_secret(kek_id, wrapped).map(StreamKey)
    }

    /// The id of the KEK that wraps, and a key wrapped by it.
    pub(crate) fn wrap_chunk_key(&self, key: &ChunkKey) -> (&str, [u8; WRAPPED_KEY_LEN]) {
        let (kek_id, kek) = self.newest();
        (kek_id, wrap(kek, &key.0))
    }

    pub(crate) fn unwrap_chunk_key(
        &self,
        kek_id: &str,
        wrapped: &[u8],
    ) -> Result<ChunkKey, UnwrapError> {
        self.unwrap_secret(kek_id, wrapped).map(ChunkKey)
    }

    fn unwrap_secret(&self, kek_id: &str, wrapped: &[u8]) -> Result<Secret, UnwrapError> {
        let Some(kek) = self.by_id(kek_id) else {
            return Err(UnwrapError::UnknownKek { kek_id: kek_id.to_owned() });
        };
        unwrap(kek, wrapped).ok_or_else(|| UnwrapError::WrongKey { kek_id: kek_id.to_owned() })
    }
}

fn wrap(by: &Secret, key: &Secret) -> [u8; WRAPPED_KEY_LEN] {
    let mut wrapped = [0; WRAPPED_KEY_LEN];
    KwAes256::new(by.as_bytes().into())
        .wrap_key(key.as_bytes(), &mut wrapped)
        .expect("32 bytes wrap into 40");
    wrapped
}

fn unwrap(by: &Secret, wrapped: &[u8]) -> Option<Secret> {
    if wrapped.len() != WRAPPED_KEY_LEN {
        return None;
    }
    Secret::fill_with(|key| {
        KwAes256::new(by.as_bytes().into()).unwrap_key(wrapped, key).map(|_| ()).ok()
    })
}

fn derive(key: &Secret, label: &str) -> Secret {
    Secret::fill_with(|derived| {
        Hkdf::<Sha256>::new(None, key.as_bytes()).expand(label.as_bytes(), derived).ok()
    })
    .expect("HKDF-SHA256 gives up to 8,160 bytes, and 32 are asked for")
}

#[cfg(test)]
mod tests;
