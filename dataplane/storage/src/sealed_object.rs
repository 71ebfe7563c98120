//! Sealed objects: anything that is not a chunk and must be read with the KEK alone.
//!
//! ```text
//! header (144) │ frame table (80 a frame) │ HMAC (32) │ ciphertext of the frames
//!
//!   0  8 "PYRSEAL1"   8 2 version (1)   10 2 header_len (144)   12 4 kind   (1 stream-key, 2 snapshot)
//!  16 16 cluster id
//!  32 16 ident: stream id 8, zero 8 (stream-key); index 8, term 8 (snapshot)
//!  48  4 frame_count   52 4 zero
//!  56  8 plain_bytes   64 8 total_len
//!  72 32 KEK id, zeros behind it
//! 104 40 random key, wrapped by that KEK
//! ```
//!
//! Rows, HMAC and frames are those of `frame.rs`; a row's first offset is a position in the
//! content, its time and batch count are zero. With `<kind>` the name of the kind: keys are derived
//! with the labels `pyramid <kind> enc v1` and `pyramid <kind> mac v1`, and the context of tags is
//! `<kind> ‖ cluster id ‖ ident`. So an object of one kind never opens as another, and none opens
//! under another name.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};
use pyramid_protocol::Entropy;
use zeroize::Zeroizing;

use crate::{
    cluster_id::ClusterId,
    frame::{self, Bad, Bounds, Compressor, Decompressor, Place, Plain, Table},
    keys::{ChunkKey, FrameKeys, KEK_ID_BYTES_MAX, Keks, UnwrapError, WRAPPED_KEY_LEN},
};

/// Unit: bytes.
const HEADER_LEN: usize = 144;

const MAGIC: &[u8; 8] = b"PYRSEAL1";
const VERSION: u16 = 1;

/// What a sealed object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A stream's key and name: `stored.v1.StreamKey`.
    StreamKey,
    /// An image of the whole State: `stored.v1.State`.
    Snapshot,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::StreamKey => 1,
            Self::Snapshot => 2,
        }
    }

    fn of(number: u32) -> Option<Self> {
        [Self::StreamKey, Self::Snapshot].into_iter().find(|kind| kind.number() == number)
    }

    fn name(self) -> &'static str {
        match self {
            Self::StreamKey => "stream-key",
            Self::Snapshot => "snapshot",
        }
    }

    /// Longest content. Unit: bytes.
    fn plain_bytes_max(self) -> u64 {
        match self {
            Self::StreamKey => 64 << 10,
            Self::Snapshot => 4 << 30,
        }
    }
}

/// [`frame::TARGET_LEN`], as a length on disk.
const TARGET_LEN: u64 = 256 << 10;
const _: () = assert!(frame::TARGET_LEN == 256 << 10, "both are the same length");

/// Which object it is: the only one that its bytes open as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) kind: Kind,
    pub(crate) cluster_id: ClusterId,
    pub(crate) ident: [u64; 2],
}

/// Why a sealed object does not open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The KEK that its header names is missing. The header is not authenticated at that point, so
    /// it may also be damage.
    UnknownKek { kek_id: String },
    /// The KEK that its header names does not open it: the key file holds another one under this
    /// id, or the header is damaged.
    WrongKek { kek_id: String },
    /// Anything else.
    Damaged,
}

impl From<Bad> for OpenError {
    fn from(Bad: Bad) -> Self {
        Self::Damaged
    }
}

#[derive(Debug)]
struct Header {
    name: Name,
    frame_count: u32,
    plain_bytes: u64,
    total_len: u64,
    kek_id: String,
    wrapped_key: [u8; WRAPPED_KEY_LEN],
}

/// Seals `content` under a new random key. `None` if it is empty or above the kind's limit.
pub(crate) fn seal(
    name: &Name,
    content: &[u8],
    keks: &Keks,
    entropy: &dyn Entropy,
) -> Option<Bytes> {
    let plain_bytes = u64::try_from(content.len()).ok()?;
    if plain_bytes == 0 || plain_bytes > name.kind.plain_bytes_max() {
        return None;
    }
    let key = ChunkKey::random(entropy);
    let keys = key.frame_keys(name.kind.name());
    let context = name.frame_context();
    let mut compressor = Compressor::new();
    let (mut rows, mut ciphertext, mut first_offset) = (Vec::new(), Vec::new(), 0);
    for (number, part) in (0..).zip(content.chunks(frame::TARGET_LEN)) {
        let mut plain = Plain { first_offset, bytes: part.to_vec(), ..Plain::default() };
        let place = Place { number, context: &context, keys: &keys };
        rows.push(frame::seal(&plain, &place, &mut compressor, entropy, &mut ciphertext));
        zeroize::Zeroize::zeroize(&mut plain.bytes);
        first_offset += TARGET_LEN;
    }
    let frame_count = u32::try_from(rows.len()).ok()?;
    let head_len = frame::head_len(HEADER_LEN, frame_count)?;
    let (kek_id, wrapped_key) = keks.wrap_chunk_key(&key);
    let header = Header {
        name: *name,
        frame_count,
        plain_bytes,
        total_len: u64::try_from(head_len.checked_add(ciphertext.len())?).ok()?,
        kek_id: kek_id.to_owned(),
        wrapped_key,
    };
    let mut object = frame::seal_head(&header.encode(), &rows, &keys);
    object.extend_from_slice(&ciphertext);
    Some(object.into())
}

/// The content of the object `name`, or nothing of it.
pub(crate) fn open(
    name: &Name,
    object: &[u8],
    keks: &Keks,
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let sealed = Sealed::open(name, object, keks)?;
    if u64::try_from(object.len()) != Ok(sealed.total_len()) {
        return Err(OpenError::Damaged);
    }
    let mut content =
        Zeroizing::new(Vec::with_capacity(usize::try_from(sealed.plain_bytes).map_err(|_| Bad)?));
    for frame in 0..sealed.frame_count() {
        let range = sealed.frame_range(frame).ok_or(Bad)?;
        let start = usize::try_from(range.start).map_err(|_| Bad)?;
        let end = usize::try_from(range.end).map_err(|_| Bad)?;
        let ciphertext = object.get(start..end).ok_or(Bad)?;
        content.extend_from_slice(&sealed.open_frame(frame, ciphertext)?);
    }
    Ok(content)
}

/// A sealed object whose head is authenticated. Its frames are opened one at a time, so that one
/// that is larger than memory can be checked too.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    keys: FrameKeys,
    context: Vec<u8>,
    table: Table,
    plain_bytes: u64,
}

impl Sealed {
    /// Opens the head of the object `name`, which `bytes` begin with.
    pub(crate) fn open(name: &Name, bytes: &[u8], keks: &Keks) -> Result<Self, OpenError> {
        let header = Header::decode(bytes)?;
        let head_len = frame::head_len(HEADER_LEN, header.frame_count).ok_or(Bad)?;
        let head = bytes.get(..head_len).ok_or(Bad)?;
        if header.name != *name {
            return Err(OpenError::Damaged);
        }
        let key =
            keks.unwrap_chunk_key(&header.kek_id, &header.wrapped_key).map_err(
                |error| match error {
                    UnwrapError::UnknownKek { kek_id } => OpenError::UnknownKek { kek_id },
                    UnwrapError::WrongKey { kek_id } => OpenError::WrongKek { kek_id },
                },
            )?;
        let keys = key.frame_keys(name.kind.name());
        frame::verify_head(head, &keys)?;
        let bounds = Bounds {
            frame_len_max: frame::TARGET_LEN,
            plain_len: header.plain_bytes,
            total_len: header.total_len,
        };
        let table = Table::decode(head, HEADER_LEN, &bounds)?;
        Ok(Self { keys, context: name.frame_context(), table, plain_bytes: header.plain_bytes })
    }

    /// Length of the head that begins with `bytes`, or `None` if it is no sealed object of this
    /// version. Unit: bytes.
    pub(crate) fn head_len(bytes: &[u8]) -> Option<usize> {
        frame::head_len(HEADER_LEN, Header::decode(bytes).ok()?.frame_count)
    }

    /// Length of the object. Unit: bytes.
    pub(crate) fn total_len(&self) -> u64 {
        self.table.end()
    }

    pub(crate) fn frame_count(&self) -> usize {
        self.table.rows().len()
    }

    /// Where the ciphertext of a frame lies in the object.
    pub(crate) fn frame_range(&self, frame: usize) -> Option<Range<u64>> {
        self.table.range(frame)
    }

    /// The content of one frame. `ciphertext` is exactly [`Sealed::frame_range`] of the object.
    pub(crate) fn open_frame(
        &self,
        frame: usize,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let row = self.table.row(frame).ok_or(Bad)?;
        let number = u32::try_from(frame).map_err(|_| Bad)?;
        let is_last = frame.checked_add(1) == Some(self.frame_count());
        let is_next = row.first_offset == u64::from(number) * TARGET_LEN
            && (is_last || u64::from(row.plain_len) == TARGET_LEN);
        if !is_next || row.first_time_ms != 0 || row.batch_count != 0 {
            return Err(OpenError::Damaged);
        }
        let place = Place { number, context: &self.context, keys: &self.keys };
        Ok(Zeroizing::new(frame::open(row, &place, ciphertext, &mut Decompressor::default())?))
    }
}

/// What the header says of itself, and the id of its KEK. Not authenticated: to tell what is wrong
/// with an object that does not open.
pub(crate) fn claims(bytes: &[u8]) -> Option<(Name, String)> {
    let Header { name, kek_id, .. } = Header::decode(bytes).ok()?;
    Some((name, kek_id))
}

/// Whether `bytes` begin like a sealed object of a version or kind that this build does not know.
/// Not authenticated: for people only.
pub(crate) fn is_of_another_version(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(MAGIC).and_then(|rest| rest.get(..8)) else {
        return false;
    };
    let version = rest.get_u16_le();
    let _header_len = rest.get_u16_le();
    let kind = rest.get_u32_le();
    version != VERSION || Kind::of(kind).is_none()
}

impl Name {
    fn frame_context(&self) -> Vec<u8> {
        let mut context = self.kind.name().as_bytes().to_vec();
        context.put_slice(self.cluster_id.as_bytes());
        self.ident.iter().for_each(|part| context.put_u64_le(*part));
        context
    }
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.put_slice(MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u16_le(u16::try_from(HEADER_LEN).expect("144 fits 16 bits"));
        bytes.put_u32_le(self.name.kind.number());
        bytes.put_slice(self.name.cluster_id.as_bytes());
        self.name.ident.iter().for_each(|part| bytes.put_u64_le(*part));
        bytes.put_u32_le(self.frame_count);
        bytes.put_u32_le(0);
        bytes.put_u64_le(self.plain_bytes);
        bytes.put_u64_le(self.total_len);
        bytes.put_slice(self.kek_id.as_bytes());
        bytes.put_bytes(0, KEK_ID_BYTES_MAX - self.kek_id.len());
        bytes.put_slice(&self.wrapped_key);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let mut rest = bytes.get(..HEADER_LEN).ok_or(Bad)?;
        let known = rest.starts_with(MAGIC);
        rest.advance(MAGIC.len());
        if !known || rest.get_u16_le() != VERSION || usize::from(rest.get_u16_le()) != HEADER_LEN {
            return Err(Bad);
        }
        let number = rest.get_u32_le();
        let kind = Kind::of(number).ok_or(Bad)?;
        let cluster_id =
            ClusterId::from_slice(rest.get(..ClusterId::LEN).ok_or(Bad)?).ok_or(Bad)?;
        rest.advance(ClusterId::LEN);
        let ident = [rest.get_u64_le(), rest.get_u64_le()];
        let frame_count = rest.get_u32_le();
        let zero = rest.get_u32_le();
        let plain_bytes = rest.get_u64_le();
        let total_len = rest.get_u64_le();
        let (kek_id, wrapped_key) = rest.split_at_checked(KEK_ID_BYTES_MAX).ok_or(Bad)?;
        let is_possible = zero == 0
            && (1..=kind.plain_bytes_max()).contains(&plain_bytes)
            && u64::from(frame_count) == plain_bytes.div_ceil(TARGET_LEN);
        if !is_possible {
            return Err(Bad);
        }
        Ok(Self {
            name: Name { kind, cluster_id, ident },
            frame_count,
            plain_bytes,
            total_len,
            kek_id: kek_id_of(kek_id).ok_or(Bad)?,
            wrapped_key: wrapped_key.try_into().map_err(|_| Bad)?,
        })
    }
}

/// The id in a field that is filled up with zeros.
fn kek_id_of(field: &[u8]) -> Option<String> {
    let len = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let (id, zeros) = field.split_at_checked(len)?;
    if zeros.iter().any(|&byte| byte != 0) {
        return None;
    }
    let id = String::from_utf8(id.to_vec()).ok()?;
    crate::keys::is_kek_id(&id).then_some(id)
}

#[cfg(test)]
mod tests;
