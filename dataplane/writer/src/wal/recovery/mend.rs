//! What a start writes after a good verdict.

use crate::wal::{
    Config,
    block::{self, HEADER_LEN},
    frame::{self, SegmentHead},
    recovery::{Block, OpenError, Scan, Torn, failed},
    segment,
};

/// Makes the log ready to go on at `position`; durable when it returns.
pub(super) fn mend(
    scan: &mut Scan<'_>,
    position: u64,
    last: &Block,
    torn: Option<Torn>,
) -> Result<(), OpenError> {
    if torn.is_some() {
        zero_headers(scan, position)?;
    }
    let start = scan.segment_start(last.checked.header.lsn);
    let path = segment::segment_path(start);
    let file = scan.file(start)?;
    file.write_at(&last.bytes, last.checked.header.lsn - start).map_err(failed("write", &path))?;
    file.sync().map_err(failed("sync", &path))?;
    remove_the_rest(scan, position)
}

/// Zeroes what could be taken for a header in the block that was cut.
fn zero_headers(scan: &Scan<'_>, position: u64) -> Result<(), OpenError> {
    let start = scan.segment_start(position);
    // A position at the end of the last segment has no file yet.
    let Some(file) = scan.files.get(&start) else {
        return Ok(());
    };
    let path = segment::segment_path(start);
    let end = (start + scan.config.segment_bytes).min(position + largest_block(scan.config));
    let mut at = position;
    while at < end {
        let head = scan.read(at, u64::try_from(HEADER_LEN).unwrap_or(u64::MAX))?;
        if head.iter().any(|byte| *byte != 0) {
            file.write_at(&[0; HEADER_LEN], at - start).map_err(failed("write", &path))?;
        }
        at += block::ALIGN_LSN;
    }
    file.sync().map_err(failed("sync", &path))
}

/// The largest block that this configuration writes. Unit: bytes.
fn largest_block(config: &Config) -> u64 {
    let frames = 2 * frame::HEADER_LEN + SegmentHead::LEN + frame::ALIGN;
    let frames = u64::try_from(frames).unwrap_or(u64::MAX);
    block::block_len(config.block_bytes_max.max(config.entry_bytes_max) + frames)
}

/// Removes segments that begin behind `position`, in which nothing is valid,
/// and files that were never finished. A segment that only has its name yet is
/// a spare again: on a full disk there might be no room for another one.
fn remove_the_rest(scan: &mut Scan<'_>, position: u64) -> Result<(), OpenError> {
    for start in scan.files.split_off(&(position + 1)).into_keys() {
        let path = segment::segment_path(start);
        if scan.written_behind.contains(&start) {
            scan.unfinished.push(path);
            continue;
        }
        let number = scan.spares.last().map_or(0, |last| last + 1);
        let spare = segment::spare_path(number);
        scan.disk.rename(&path, &spare).map_err(failed("rename", &path))?;
        scan.spares.push(number);
    }
    for path in std::mem::take(&mut scan.unfinished) {
        scan.disk.remove(&path).map_err(failed("remove", &path))?;
    }
    // Also makes names durable that an earlier process could not.
    scan.disk.sync_dir(segment::DIR).map_err(failed("sync", segment::DIR))
}
