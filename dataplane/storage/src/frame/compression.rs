//! zstd, level 1: level 3 costs twice the CPU for about one per cent.

use zeroize::Zeroize;
use zstd::zstd_safe;

use super::Bad;

const LEVEL: i32 = 1;

/// Every zstd frame begins with it; skippable and legacy ones do not.
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// A context that is used again for each frame.
pub(crate) struct Compressor {
    context: zstd::bulk::Compressor<'static>,
    packed: Vec<u8>,
}

impl Drop for Compressor {
    fn drop(&mut self) {
        // It may have packed a key object.
        self.packed.zeroize();
    }
}

/// A context that is used again for each frame.
#[derive(Default)]
pub(crate) struct Decompressor {
    context: zstd::bulk::Decompressor<'static>,
}

impl Compressor {
    pub(crate) fn new() -> Self {
        let context =
            zstd::bulk::Compressor::new(LEVEL).expect("zstd has level 1 and memory for a context");
        Self { context, packed: Vec::new() }
    }

    /// One zstd frame that names its content size, or `None` if it would not be at least a
    /// twentieth shorter.
    pub(crate) fn compress(&mut self, plain: &[u8]) -> Option<&[u8]> {
        self.packed.clear();
        self.packed.reserve(zstd_safe::compress_bound(plain.len()));
        self.context
            .compress_to_buffer(plain, &mut self.packed)
            .expect("the buffer has room for the longest result");
        (self.packed.len() < plain.len() - plain.len() / 20).then_some(self.packed.as_slice())
    }
}

impl Decompressor {
    /// The content of exactly one zstd frame that was made without a dictionary and has exactly
    /// `plain_len` bytes. No more is allocated, whatever the frame claims.
    pub(crate) fn decompress(&mut self, packed: &[u8], plain_len: u32) -> Result<Vec<u8>, Bad> {
        let frame_is_ours = packed.starts_with(&MAGIC)
            && zstd_safe::get_dict_id_from_frame(packed).is_none()
            && zstd_safe::find_frame_compressed_size(packed) == Ok(packed.len())
            && zstd_safe::get_frame_content_size(packed)
                .is_ok_and(|len| len == Some(u64::from(plain_len)));
        if !frame_is_ours {
            return Err(Bad);
        }
        let plain_len = usize::try_from(plain_len).map_err(|_| Bad)?;
        let mut plain = Vec::with_capacity(plain_len);
        let written = self.context.decompress_to_buffer(packed, &mut plain).map_err(|_| Bad)?;
        if written == plain_len && plain.len() == plain_len { Ok(plain) } else { Err(Bad) }
    }
}
