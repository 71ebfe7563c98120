//! Segments and spares as files.

use std::{io, sync::Arc};

use crate::{
    data_dir::Identity,
    disk::{self, Disk, File},
    wal::{
        Config, Fatal,
        block::{self, Place},
        frame::{Frame, SegmentHead},
    },
};

/// The directory of the log, below the root of the disk.
pub const DIR: &str = "wal";

/// A new file is filled and synced piece by piece, so that it never competes
/// with the log for more than one of them. Unit: bytes.
const FILL_BYTES: u64 = 1 << 20;

/// What a name in the directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// A segment, by its first LSN.
    Segment(u64),
    /// A spare, by its number.
    Spare(u64),
    /// A file that was not finished.
    Unfinished,
}

impl Name {
    /// `None`: not one of ours.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if name.ends_with(".tmp") {
            return Some(Self::Unfinished);
        }
        let stem = name.strip_suffix(".wal")?;
        if let Some(number) = stem.strip_prefix("spare-") {
            return number.parse().ok().map(Self::Spare);
        }
        let lsn = u64::from_str_radix(stem, 16).ok()?;
        (segment_path(lsn) == format!("{DIR}/{name}")).then_some(Self::Segment(lsn))
    }
}

pub(crate) fn segment_path(start_lsn: u64) -> String {
    format!("{DIR}/{start_lsn:016x}.wal")
}

pub(crate) fn spare_path(number: u64) -> String {
    format!("{DIR}/spare-{number}.wal")
}

/// Creates the log of a new replica: one segment with its head, durable.
///
/// A log that an earlier, interrupted call left is replaced.
///
/// # Errors
///
/// What the file system said; to be called again.
///
/// # Panics
///
/// If the largest block does not fit in a segment.
pub fn create(disk: &dyn Disk, config: &Config, identity: &Identity) -> io::Result<()> {
    config.check();
    disk.create_dir(DIR)?;
    disk.sync_dir("")?;
    let head = Frame::SegmentHead(SegmentHead {
        identity: *identity,
        vote: None,
        committed: None,
        purged: None,
        opened_at: None,
        open_count: 0,
    });
    let place = Place {
        lsn: 0,
        prev_header_crc: 0,
        open_count: 0,
        term: 0,
        is_first: true,
        is_idle: false,
    };
    let mut bytes = Vec::new();
    block::encode(place, block::seed(&identity.wal_id), std::iter::once(&head), &mut bytes);
    let unfinished = format!("{DIR}/first.tmp");
    let file = fill(disk, &unfinished, config.segment_bytes)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    disk.rename(&unfinished, &segment_path(0))?;
    disk.sync_dir(DIR)
}

/// Makes a spare: zero-filled and synced under another name, then renamed.
///
/// A spare that could not be finished leaves no file, if the disk allows.
pub(crate) fn make_spare(disk: &dyn Disk, number: u64, bytes: u64) -> Result<(), Fatal> {
    let unfinished = format!("{DIR}/spare-{number}.tmp");
    let path = spare_path(number);
    let failed = |action, path: &str, source: io::Error| {
        if disk::is_full(&source) {
            // The room is wanted back. A file that stays is removed at the
            // next start, and is overwritten when this number is tried again.
            disk.remove(&unfinished).ok();
        }
        Fatal::Io { action, path: path.to_owned(), source: Arc::new(source) }
    };
    fill(disk, &unfinished, bytes).map_err(|error| failed("fill", &unfinished, error))?;
    disk.rename(&unfinished, &path).map_err(|error| failed("rename", &path, error))?;
    disk.sync_dir(DIR).map_err(|error| failed("sync", DIR, error))
}

fn fill(disk: &dyn Disk, path: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
    let file = disk.create(path)?;
    let zeros = vec![0; usize::try_from(FILL_BYTES.min(bytes)).map_err(io::Error::other)?];
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(FILL_BYTES.min(bytes - at)).map_err(io::Error::other)?;
        file.write_at(zeros.get(..len).unwrap_or_default(), at)?;
        file.sync()?;
        at += FILL_BYTES;
    }
    Ok(file)
}

/// Whether a log holds more than its first block.
pub(crate) fn is_used(disk: &dyn Disk, names: &[String]) -> io::Result<bool> {
    for name in names {
        match Name::parse(name) {
            Some(Name::Segment(0)) => {
                let file = disk.open(&segment_path(0))?;
                let mut head = [0; block::HEADER_LEN];
                file.read_at(&mut head, block::ALIGN_LSN)?;
                if head.iter().any(|byte| *byte != 0) {
                    return Ok(true);
                }
            }
            Some(Name::Segment(_) | Name::Spare(_)) => return Ok(true),
            Some(Name::Unfinished) | None => {}
        }
    }
    Ok(false)
}
