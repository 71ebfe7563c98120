//! 32 bytes that are wiped when dropped.

use std::fmt;

use pyramid_protocol::Entropy;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::KEY_LEN;

/// On the heap, so that moving a key moves a pointer and leaves no copy behind.
#[derive(Clone)]
pub(crate) struct Secret(Box<[u8; KEY_LEN]>);

impl Secret {
    pub(crate) fn random(entropy: &dyn Entropy) -> Self {
        let mut secret = Self::zero();
        entropy.fill(secret.0.as_mut());
        secret
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Self::fill_with(|key| (bytes.len() == KEY_LEN).then(|| key.copy_from_slice(bytes)))
    }

    /// The key that `fill` writes, or `None` if it cannot.
    pub(crate) fn fill_with(fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Option<()>) -> Option<Self> {
        let mut secret = Self::zero();
        fill(&mut secret.0)?;
        Some(secret)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    fn zero() -> Self {
        Self(Box::new([0; KEY_LEN]))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for Secret {}
