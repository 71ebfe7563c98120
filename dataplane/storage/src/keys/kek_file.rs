//! The KEKs of a Writer by id: in one file, or in a directory as Kubernetes mounts a Secret.
//!
//! ```text
//! # Anything behind '#' is a comment.
//! 2026-01 = 64 lower-case hexadecimal digits
//! 2026-11 = 64 lower-case hexadecimal digits
//! ```
//!
//! The last line is the newest key: it wraps. All others only unwrap, so a key is added at the end
//! and removed when nothing is wrapped by it any more. Ids are 1 to 32 letters, digits, `.`, `_`
//! and `-`; no id is there twice.
//!
//! A directory has one file for each key, of exactly 32 bytes. Its name is the id: a whole number
//! from 1. The key with the highest number wraps. Names that begin with a dot are not looked at:
//! the kubelet keeps what the others lead to below them.

mod directory;

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use pyramid_protocol::Entropy;
use zeroize::Zeroizing;

use super::{KEY_LEN, secret::Secret};

/// Longest id of a KEK. Unit: bytes. The header of a sealed object has this much room.
pub const KEK_ID_BYTES_MAX: usize = 32;

/// Longest key file. Unit: bytes. Some hundred keys.
const FILE_BYTES_MAX: usize = 64 << 10;

/// The KEKs of a Writer. There is at least one; without one there is no encryption, and without
/// encryption nothing is stored.
#[derive(Clone)]
pub struct Keks {
    /// Oldest first, not empty.
    keys: Vec<(String, Secret)>,
}

/// Why there are no KEKs. No message shows a part of a key.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no key file, or it cannot be read.
    #[error(
        "read the key file {}; nothing is stored without encryption, so name a file with at least \
         one line \"id = 64 hexadecimal digits\", or a directory with a key of 32 bytes in the file \
         \"1\"", path.display()
    )]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The text is no key file.
    #[error("line {line} of the key file: {reason}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// What must be changed.
        reason: &'static str,
    },
    /// A file of a directory holds no key.
    #[error("{}: {reason}", path.display())]
    NotKey {
        /// The file.
        path: PathBuf,
        /// What must be changed.
        reason: &'static str,
    },
    /// There is no key.
    #[error(
        "there is no key; nothing is stored without encryption, so add a line \"id = 64 hexadecimal \
         digits\" to the key file, or to a directory of keys the file \"1\" with 32 random bytes"
    )]
    Empty,
}

impl Keks {
    /// Reads a key file, or a directory of keys. Blocks.
    ///
    /// # Errors
    ///
    /// All of [`LoadError`].
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        if path.is_dir() {
            return directory::load(path);
        }
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX + 1));
        let len_max = u64::try_from(FILE_BYTES_MAX + 1).unwrap_or(u64::MAX);
        File::open(path)
            .and_then(|file| file.take(len_max).read_to_string(&mut text))
            .map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    ///
    /// [`LoadError::Malformed`] and [`LoadError::Empty`].
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(LoadError::Malformed { line: 1, reason: "the file is above 64 KiB" });
        }
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split_once('#').map_or(line, |(content, _)| content).trim();
            if content.is_empty() {
                continue;
            }
            let key = parse_line(content, &keys)
                .map_err(|reason| LoadError::Malformed { line: index + 1, reason })?;
            keys.push(key);
        }
        if keys.is_empty() { Err(LoadError::Empty) } else { Ok(Self { keys }) }
    }

    /// The text of a new key file with one random key.
    ///
    /// # Panics
    ///
    /// If `id` is no id of a KEK.
    #[must_use]
    pub fn generate(id: &str, entropy: &dyn Entropy) -> Zeroizing<String> {
        assert!(is_kek_id(id), "{id:?} is no id of a key");
        let key = Secret::random(entropy);
        let digits = Zeroizing::new(crate::hex::encode(key.as_bytes()));
        Zeroizing::new(format!(
            "# Key file of Pyramid: one line for each key, \"id = 64 hexadecimal digits\".\n\
             # The last key wraps, all unwrap. Whoever has this file and the object store reads\n\
             # everything; without this file nobody does. Keep a copy in a safe place.\n\
             {id} = {}\n",
            *digits
        ))
    }

    /// Ids of the keys, oldest first. The last one wraps.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    pub(super) fn newest(&self) -> (&str, &Secret) {
        let (id, key) = self.keys.last().expect("a key file without keys is refused");
        (id, key)
    }

    pub(super) fn by_id(&self, wanted: &str) -> Option<&Secret> {
        self.keys.iter().find_map(|(id, key)| (id == wanted).then_some(key))
    }
}

impl fmt::Debug for Keks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

fn parse_line(
    content: &str,
    before: &[(String, Secret)],
) -> Result<(String, Secret), &'static str> {
    let Some((id, digits)) = content.split_once('=') else {
        return Err("expected \"id = 64 hexadecimal digits\"");
    };
    let id = id.trim_end();
    if !is_kek_id(id) {
        return Err("an id is 1 to 32 letters, digits, '.', '_' and '-'");
    }
    if before.iter().any(|(other, _)| other == id) {
        return Err("this id is there twice");
    }
    let key = crate::hex::decode::<KEY_LEN>(digits.trim_start()).map(Zeroizing::new);
    let key = key.ok_or("a key is 64 lower-case hexadecimal digits")?;
    let key = Secret::from_slice(key.as_slice()).ok_or("a key has 32 bytes")?;
    Ok((id.to_owned(), key))
}

pub(crate) fn is_kek_id(text: &str) -> bool {
    (1..=KEK_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
