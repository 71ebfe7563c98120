//! What a start writes after a good verdict.

use crate::wal::{
    recovery::{Block, LOOK_BYTES, OpenError, Scan, Torn, failed},
    segment,
};

/// Makes the log ready to go on at `position`; durable when it returns.
pub(super) fn mend(
    scan: &mut Scan<'_>,
    position: u64,
    last: &Block,
    torn: Option<Torn>,
) -> Result<(), OpenError> {
    if let Some(torn) = torn {
        zero(scan, position, position + torn.cut_bytes)?;
    }
    let start = scan.segment_start(last.checked.header.lsn);
    let path = segment::segment_path(start);
    let file = scan.file(start)?;
    file.write_at(&last.bytes, last.checked.header.lsn - start).map_err(failed("write", &path))?;
    file.sync().map_err(failed("sync", &path))?;
    remove_the_rest(scan, position)
}

/// Zeroes the tail that was cut, in its segment: no header in it can count any
/// more, and the next start finds a clean end.
fn zero(scan: &Scan<'_>, from: u64, to: u64) -> Result<(), OpenError> {
    let start = scan.segment_start(from);
    // A position at the end of the last segment has no file yet.
    let Some(file) = scan.files.get(&start) else {
        return Ok(());
    };
    let path = segment::segment_path(start);
    let end = to.min(start + scan.config.segment_bytes);
    let mut at = from;
    while at < end {
        let len = usize::try_from(LOOK_BYTES.min(end - at)).unwrap_or(0);
        file.write_at(&vec![0; len], at - start).map_err(failed("write", &path))?;
        at += LOOK_BYTES;
    }
    file.sync().map_err(failed("sync", &path))
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
