//! Frames: what chunks and sealed objects are made of. Packed, encrypted, then authenticated.
//!
//! ```text
//! object = header │ table: one row for each frame │ HMAC │ ciphertext of frame 0, 1, …
//!
//! row, 80 bytes, little endian
//!  0 8 first_offset   8 8 first_time_ms   16 4 batch_count   20 4 plain_len   24 4 packed_len
//! 28 4 flags (bit 0: not compressed)      32 16 IV           48 32 tag
//!
//! HMAC       = HMAC-SHA256(mac, "PYRH1" ‖ header ‖ table)
//! ciphertext = AES-256-CBC(enc, IV, PKCS#7(packed)), so its length follows from packed_len
//! tag        = HMAC-SHA256(mac, "PYRF1" ‖ context ‖ frame number (4) ‖ row without tag ‖ ciphertext)
//! ```
//!
//! The context names the object, so a frame opens in its own place only. A reader compares tags
//! before it decrypts, in constant time, and takes every length from a row that the HMAC covers:
//! nothing is allocated on the word of whoever can only write to the object store.

mod compression;
mod table;

use std::mem;

use aes::{
    Aes256,
    cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7},
};
use bytes::{Buf, BufMut};
use hmac::{Hmac, KeyInit, Mac};
use pyramid_protocol::Entropy;
use sha2::Sha256;
use zeroize::Zeroizing;

pub(crate) use self::compression::{Compressor, Decompressor};
pub(crate) use self::table::{Bounds, Table, head_len, seal_head, verify_head};
use crate::keys::FrameKeys;

/// Plain bytes of a frame that is not one larger batch.
pub(crate) const TARGET_LEN: usize = 256 << 10;

/// Unit: bytes.
pub(crate) const ROW_LEN: usize = 80;

/// Length of the HMAC behind the table, and of a tag. Unit: bytes.
pub(crate) const TAG_LEN: usize = 32;

const IV_LEN: usize = 16;

/// Block of the cipher. Padding fills the last one up, and adds one if it is full.
const BLOCK_LEN: usize = 16;

/// Flag of a row: the frame is stored as it was, because it would not shrink.
const NOT_COMPRESSED: u32 = 1;

/// A frame that does not verify. Says nothing else: whoever probes shall not learn why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bad;

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) first_offset: u64,
    pub(crate) first_time_ms: u64,
    pub(crate) batch_count: u32,
    pub(crate) plain_len: u32,
    packed_len: u32,
    compressed: bool,
    iv: [u8; IV_LEN],
    tag: [u8; TAG_LEN],
}

/// What a frame holds, before it is sealed.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    pub(crate) first_offset: u64,
    pub(crate) first_time_ms: u64,
    pub(crate) batch_count: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Where a frame belongs. It opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Counted from 0.
    pub(crate) number: u32,
    /// Which object.
    pub(crate) context: &'a [u8],
    pub(crate) keys: &'a FrameKeys,
}

impl Row {
    /// Reads a row whose frame has at most `plain_len_max` bytes.
    pub(crate) fn decode(mut bytes: &[u8], plain_len_max: usize) -> Result<Self, Bad> {
        if bytes.len() != ROW_LEN {
            return Err(Bad);
        }
        let first_offset = bytes.get_u64_le();
        let first_time_ms = bytes.get_u64_le();
        let batch_count = bytes.get_u32_le();
        let plain_len = bytes.get_u32_le();
        let packed_len = bytes.get_u32_le();
        let flags = bytes.get_u32_le();
        let (iv, tag) = bytes.split_at_checked(IV_LEN).ok_or(Bad)?;
        let row = Self {
            first_offset,
            first_time_ms,
            batch_count,
            plain_len,
            packed_len,
            compressed: flags & NOT_COMPRESSED == 0,
            iv: iv.try_into().map_err(|_| Bad)?,
            tag: tag.try_into().map_err(|_| Bad)?,
        };
        let packed_len_is_possible =
            if row.compressed { packed_len < plain_len } else { packed_len == plain_len };
        let plain_len_is_possible =
            usize::try_from(plain_len).is_ok_and(|len| len <= plain_len_max);
        let row_is_possible = flags & !NOT_COMPRESSED == 0
            && packed_len > 0
            && packed_len_is_possible
            && plain_len_is_possible;
        if row_is_possible { Ok(row) } else { Err(Bad) }
    }

    pub(crate) fn encode_to(&self, bytes: &mut Vec<u8>) {
        self.encode_without_tag_to(bytes);
        bytes.put_slice(&self.tag);
    }

    fn encode_without_tag_to(&self, bytes: &mut Vec<u8>) {
        bytes.put_u64_le(self.first_offset);
        bytes.put_u64_le(self.first_time_ms);
        bytes.put_u32_le(self.batch_count);
        bytes.put_u32_le(self.plain_len);
        bytes.put_u32_le(self.packed_len);
        bytes.put_u32_le(if self.compressed { 0 } else { NOT_COMPRESSED });
        bytes.put_slice(&self.iv);
    }

    /// Length of the ciphertext. Unit: bytes.
    pub(crate) fn cipher_len(&self) -> u64 {
        let block_len = BLOCK_LEN as u64;
        (u64::from(self.packed_len) / block_len + 1) * block_len
    }
}

/// Packs and encrypts one frame; the ciphertext goes behind what `object` holds.
///
/// # Panics
///
/// If the frame is above 4 GiB. Callers bound it far below.
pub(crate) fn seal(
    plain: &Plain,
    place: &Place<'_>,
    compressor: &mut Compressor,
    entropy: &dyn Entropy,
    object: &mut Vec<u8>,
) -> Row {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a frame is below 4 GiB");
    let packed = compressor.compress(&plain.bytes);
    let packed_bytes = packed.unwrap_or(&plain.bytes);
    let mut iv = [0; IV_LEN];
    entropy.fill(&mut iv);
    let row = Row {
        first_offset: plain.first_offset,
        first_time_ms: plain.first_time_ms,
        batch_count: plain.batch_count,
        plain_len: length(&plain.bytes),
        packed_len: length(packed_bytes),
        compressed: packed.is_some(),
        iv,
        tag: [0; TAG_LEN],
    };
    seal_packed(row, packed_bytes, place, object)
}

/// Encrypts what is packed already and adds the tag to its row.
fn seal_packed(mut row: Row, packed: &[u8], place: &Place<'_>, object: &mut Vec<u8>) -> Row {
    let start = object.len();
    object.extend_from_slice(packed);
    let padding = BLOCK_LEN - packed.len() % BLOCK_LEN;
    object.resize(object.len() + padding, 0);
    let (_, ciphertext) = object.split_at_mut(start);
    cbc::Encryptor::<Aes256>::new(place.keys.encryption().into(), &row.iv.into())
        .encrypt_padded::<Pkcs7>(ciphertext, packed.len())
        .expect("there is room for the padding");
    row.tag = tag(&row, place, ciphertext).finalize().into_bytes().into();
    row
}

/// Checks, decrypts and unpacks one frame.
pub(crate) fn open(
    row: &Row,
    place: &Place<'_>,
    ciphertext: &[u8],
    decompressor: &mut Decompressor,
) -> Result<Vec<u8>, Bad> {
    if u64::try_from(ciphertext.len()) != Ok(row.cipher_len()) {
        return Err(Bad);
    }
    tag(row, place, ciphertext).verify_slice(&row.tag).map_err(|_| Bad)?;
    let mut packed = Zeroizing::new(ciphertext.to_vec());
    let packed_len = cbc::Decryptor::<Aes256>::new(place.keys.encryption().into(), &row.iv.into())
        .decrypt_padded::<Pkcs7>(&mut packed)
        .map_err(|_| Bad)?
        .len();
    packed.truncate(packed_len);
    if u32::try_from(packed_len) != Ok(row.packed_len) {
        return Err(Bad);
    }
    if row.compressed {
        decompressor.decompress(&packed, row.plain_len)
    } else {
        Ok(mem::take(&mut *packed))
    }
}

fn tag(row: &Row, place: &Place<'_>, ciphertext: &[u8]) -> Hmac<Sha256> {
    let mut described = Vec::with_capacity(ROW_LEN);
    row.encode_without_tag_to(&mut described);
    let mut mac = hmac(place.keys.mac());
    mac.update(b"PYRF1");
    mac.update(place.context);
    mac.update(&place.number.to_le_bytes());
    mac.update(&described);
    mac.update(ciphertext);
    mac
}

/// HMAC-SHA256 with a key of ours.
pub(crate) fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
pub(crate) mod forge;
#[cfg(test)]
mod tests;
