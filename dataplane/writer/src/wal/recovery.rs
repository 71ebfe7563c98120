//! The scan at the start, and its verdict.
//!
//! The log is read block by block from its first segment. At the first
//! position X without a good block there are these cases:
//!
//! | behind X | verdict |
//! |---|---|
//! | the head of the next segment has a valid header that chains to the last good block | a legitimate gap: go on there |
//! | a block with a valid header at its right place that says it was written after X was flushed | acknowledged data is damaged: [`OpenError::Quarantined`], nothing is written |
//! | nothing but zeros | clean |
//! | anything else | a torn tail: what was never acknowledged is cut |
//!
//! A segment always has its full length, so a short one was damaged. A log
//! without its first block was damaged too: it was durable before the identity.
//!
//! After a good verdict, before Raft hears of anything: what is cut is zeroed,
//! segments behind X are removed, and the last good block is written
//! again and synced, for after a kill it may be in memory only, and after a
//! failed sync the kernel may call it clean. All of this may be cut off at any
//! point and done again, and it needs no free space.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    data_dir::Identity,
    disk::{Disk, File},
    wal::{
        Config,
        block::{self, Checked, Header},
        frame::{self, Frame, SegmentHead},
        log::{Log, Sample},
        segment::{self, Name},
    },
};

mod mend;

/// How much is read at once where only headers are looked for. Unit: bytes.
const LOOK_BYTES: u64 = 1 << 20;

/// Why a log cannot be opened. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused. Mend the volume and start again.
    #[error("{action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },

    /// What was acknowledged is damaged. The replica must not take part in
    /// anything; its files are left as they are.
    #[error(
        "acknowledged data is damaged at byte {at_lsn} of the log: {what}; the files were left as \
         they are, replace this replica"
    )]
    Quarantined {
        /// Where the first damage is.
        at_lsn: u64,
        /// What is wrong there.
        what: String,
    },

    /// The log belongs to another replica. Mount the right volume.
    #[error("{path} belongs to another replica; mount the volume that belongs to this one")]
    Foreign {
        /// The segment.
        path: String,
    },

    /// A newer program wrote the log. Start that one.
    #[error("byte {at_lsn} of the log was written by a newer version; start that version again")]
    Unsupported {
        /// Where the block lies.
        at_lsn: u64,
    },
}

/// What a scan found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments that hold the log.
    pub segments: u64,
    /// Good blocks.
    pub blocks: u64,
    /// Entries in them, also those that were cut or purged later.
    pub entries: u64,
    /// What was cut off; `None` after a clean end.
    pub torn: Option<Torn>,
}

/// A tail that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Where the log goes on. Unit: bytes from its start.
    pub at_lsn: u64,
    /// From there to the last byte that was not zero.
    pub cut_bytes: u64,
}

/// A log that can go on.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) log: Log,
    pub(crate) files: BTreeMap<u64, Arc<dyn File>>,
    pub(crate) spares: Vec<u64>,
    /// Where the next block goes.
    pub(crate) position: u64,
    pub(crate) last_block: Checked,
    /// That of this open.
    pub(crate) open_count: u32,
    pub(crate) report: Report,
}

/// Scans the log and makes it ready to go on.
pub(crate) fn recover(
    disk: &dyn Disk,
    config: &Config,
    identity: &Identity,
) -> Result<Recovered, OpenError> {
    let mut scan = Scan::start(disk, config, identity)?;
    scan.check_files()?;
    let position = scan.walk()?;
    let Some(last) = scan.last.take() else {
        return Err(quarantined(0, "the first block is not valid"));
    };
    let cut_end = scan.look_behind(position)?;
    let torn = cut_end.map(|end| Torn { at_lsn: position, cut_bytes: end - position });
    mend::mend(&mut scan, position, &last, torn)?;
    let mut log = scan.log;
    log.opened_at = log.opened_at.or(log.last().map(|last| last.index));
    let segments = u64::try_from(scan.files.len()).unwrap_or(u64::MAX);
    Ok(Recovered {
        log,
        files: scan.files,
        spares: scan.spares,
        position,
        open_count: last.checked.header.open_count.saturating_add(1),
        last_block: last.checked,
        report: Report { segments, torn, ..scan.report },
    })
}

/// A good block.
#[derive(Debug)]
struct Block {
    checked: Checked,
    /// As it lies on the disk, without the zeros at its end.
    bytes: Bytes,
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    config: &'a Config,
    identity: &'a Identity,
    seed: u32,
    files: BTreeMap<u64, Arc<dyn File>>,
    spares: Vec<u64>,
    /// Segments that hold something behind X.
    written_behind: BTreeSet<u64>,
    unfinished: Vec<String>,
    log: Log,
    last: Option<Block>,
    report: Report,
    window: RefCell<Window>,
}

impl<'a> Scan<'a> {
    fn start(
        disk: &'a dyn Disk,
        config: &'a Config,
        identity: &'a Identity,
    ) -> Result<Self, OpenError> {
        let names = disk.list(segment::DIR).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return quarantined(0, "its directory is missing");
            }
            failed("list", segment::DIR)(error)
        })?;
        let mut scan = Self {
            disk,
            config,
            identity,
            seed: block::seed(&identity.wal_id),
            files: BTreeMap::new(),
            spares: Vec::new(),
            written_behind: BTreeSet::new(),
            unfinished: Vec::new(),
            log: Log::new(config.cache_bytes_max),
            last: None,
            report: Report::default(),
            window: RefCell::default(),
        };
        for name in names {
            match Name::parse(&name) {
                Some(Name::Segment(lsn)) => {
                    let path = segment::segment_path(lsn);
                    let file = disk.open(&path).map_err(failed("open", &path))?;
                    scan.files.insert(lsn, file);
                }
                Some(Name::Spare(number)) => scan.spares.push(number),
                Some(Name::Unfinished) => scan.unfinished.push(format!("{}/{name}", segment::DIR)),
                // Not ours, such as `lost+found`.
                None => {}
            }
        }
        scan.spares.sort_unstable();
        Ok(scan)
    }

    /// Whose files are these, and are they whole?
    fn check_files(&mut self) -> Result<(), OpenError> {
        if !self.files.contains_key(&0) {
            return Err(quarantined(0, "the first segment is missing"));
        }
        let starts: Vec<u64> = self.files.keys().copied().collect();
        for start in starts {
            if self.is_foreign(start)? {
                return Err(OpenError::Foreign { path: segment::segment_path(start) });
            }
            let path = segment::segment_path(start);
            let file = self.file(start)?;
            let len = file.len().map_err(failed("measure", &path))?;
            if len != self.config.segment_bytes || start % self.config.segment_bytes != 0 {
                return Err(quarantined(
                    start,
                    // The size cannot be told from the file alone: a file that was cut looks
                    // like one of another size.
                    format!(
                        "{path} has {len} bytes, not {}; if the segment size in the settings was \
                         changed, set it back",
                        self.config.segment_bytes
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether a segment begins with a good block of another log, or of ours
    /// under another name.
    fn is_foreign(&self, start: u64) -> Result<bool, OpenError> {
        let head_len = block::HEADER_LEN + frame::HEADER_LEN + SegmentHead::LEN;
        let bytes = self.read(start, u64::try_from(head_len).unwrap_or(u64::MAX))?;
        let Some(mut head) = bytes.get(block::HEADER_LEN..).map(Bytes::copy_from_slice) else {
            return Ok(false);
        };
        let Ok(Frame::SegmentHead(head)) = Frame::decode(&mut head) else {
            return Ok(false);
        };
        let its_seed = block::seed(&head.identity.wal_id);
        let is_whole = Header::decode(&bytes, its_seed, start).is_some();
        Ok(is_whole && head.identity != *self.identity)
    }

    /// Takes all good blocks; answers with the first position without one.
    fn walk(&mut self) -> Result<u64, OpenError> {
        let mut at = 0;
        loop {
            if let Some((block, frames)) = self.block_at(at)? {
                at += block.checked.header.block_len();
                self.take(block, frames)?;
                continue;
            }
            let next = self.segment_start(at) + self.config.segment_bytes;
            if at == self.segment_start(at) || !self.chains(next)? {
                return Ok(at);
            }
            at = next;
        }
    }

    /// Whether a segment begins with a valid header that continues the chain.
    fn chains(&self, start: u64) -> Result<bool, OpenError> {
        if !self.files.contains_key(&start) {
            return Ok(false);
        }
        Ok(self.header_at(start)?.is_some_and(|checked| self.continues(&checked)))
    }

    fn continues(&self, checked: &Checked) -> bool {
        let header = &checked.header;
        let (prev_header_crc, open_count) = self
            .last
            .as_ref()
            .map_or((0, 0), |last| (last.checked.header_crc, last.checked.header.open_count));
        let start = self.segment_start(header.lsn);
        header.prev_header_crc == prev_header_crc
            && header.open_count >= open_count
            && header.durable_lsn <= header.lsn
            && header.is_first() == (header.lsn == start)
            && header.lsn + header.block_len() <= start + self.config.segment_bytes
    }

    fn header_at(&self, at: u64) -> Result<Option<Checked>, OpenError> {
        let bytes = self.read(at, u64::try_from(block::HEADER_LEN).unwrap_or(u64::MAX))?;
        Ok(Header::decode(&bytes, self.seed, at))
    }

    /// The good block at a position, if there is one.
    fn block_at(&self, at: u64) -> Result<Option<(Block, Vec<Frame>)>, OpenError> {
        if !self.files.contains_key(&self.segment_start(at)) {
            return Ok(None);
        }
        let Some(checked) = self.header_at(at)?.filter(|checked| self.continues(checked)) else {
            return Ok(None);
        };
        if checked.header.has_unknown_flags() {
            return Err(OpenError::Unsupported { at_lsn: at });
        }
        let len = u64::try_from(block::HEADER_LEN).unwrap_or(u64::MAX)
            + u64::from(checked.header.body_len);
        let bytes = self.read(at, len)?;
        let body = bytes.slice(block::HEADER_LEN.min(bytes.len())..);
        match block::decode_body(&checked.header, body) {
            Ok(frames) => Ok(Some((Block { checked, bytes }, frames))),
            Err(frame::Bad::Incomplete | frame::Bad::Damaged) => Ok(None),
            Err(frame::Bad::Unknown { .. }) => Err(OpenError::Unsupported { at_lsn: at }),
        }
    }

    fn take(&mut self, block: Block, frames: Vec<Frame>) -> Result<(), OpenError> {
        let header = block.checked.header;
        let begins_with_head = matches!(frames.first(), Some(Frame::SegmentHead(_)));
        if header.is_first() && !begins_with_head {
            return Err(quarantined(header.lsn, "a segment begins without its head"));
        }
        for frame in frames {
            if let Frame::SegmentHead(head) = &frame
                && head.identity != *self.identity
            {
                let path = segment::segment_path(self.segment_start(header.lsn));
                return Err(OpenError::Foreign { path });
            }
            self.report.entries += u64::from(matches!(frame, Frame::Entry(_)));
            self.log
                .replay(frame)
                .map_err(|_| quarantined(header.lsn, "the block contradicts those before it"))?;
        }
        if let Some(index) = header.first_index {
            self.log.sample(Sample { index, lsn: header.lsn });
        }
        self.report.blocks += 1;
        self.last = Some(block);
        Ok(())
    }

    /// Looks at everything behind X. The answer is the end of what is not zero
    /// there.
    fn look_behind(&mut self, x: u64) -> Result<Option<u64>, OpenError> {
        let mut end = None;
        let starts: Vec<u64> = self.files.keys().copied().collect();
        for start in starts {
            let segment_end = start + self.config.segment_bytes;
            let mut at = start.max(x);
            while at < segment_end {
                let bytes = self.read(at, LOOK_BYTES.min(segment_end - at))?;
                self.look_for_later_blocks(&bytes, at, x)?;
                if let Some(len) = len_without_zeros(&bytes) {
                    end = Some(at + len);
                    self.written_behind.insert(start);
                }
                at += LOOK_BYTES;
            }
        }
        Ok(end)
    }

    fn look_for_later_blocks(&self, bytes: &Bytes, at: u64, x: u64) -> Result<(), OpenError> {
        let mut lsn = at;
        for head in bytes.chunks(block::ALIGN) {
            match Header::decode(head, self.seed, lsn) {
                Some(later) if later.header.durable_lsn > x => {
                    return Err(quarantined(
                        x,
                        format!("a block at byte {lsn} says that it was flushed"),
                    ));
                }
                Some(_) | None => {}
            }
            lsn += block::ALIGN_LSN;
        }
        Ok(())
    }

    fn segment_start(&self, lsn: u64) -> u64 {
        lsn - lsn % self.config.segment_bytes
    }

    fn file(&self, start: u64) -> Result<&Arc<dyn File>, OpenError> {
        self.files.get(&start).ok_or_else(|| quarantined(start, "a segment is missing"))
    }

    /// Reads `len` bytes, or up to the end of the file.
    fn read(&self, at: u64, len: u64) -> Result<Bytes, OpenError> {
        let mut window = self.window.borrow_mut();
        if let Some(bytes) = window.slice(at, len) {
            return Ok(bytes);
        }
        let start = self.segment_start(at);
        let file = self.file(start)?;
        let path = segment::segment_path(start);
        let ahead = LOOK_BYTES.min(start + self.config.segment_bytes - at).max(len);
        let mut bytes = vec![0; usize::try_from(ahead).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, at - start).map_err(failed("read", &path))?;
        bytes.truncate(read);
        *window = Window { at, bytes: bytes.into() };
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(window.bytes.len());
        Ok(window.bytes.slice(..len))
    }
}

/// What was read last. Blocks may be small, and there are many.
#[derive(Debug, Default)]
struct Window {
    at: u64,
    bytes: Bytes,
}

impl Window {
    fn slice(&self, at: u64, len: u64) -> Option<Bytes> {
        let from = usize::try_from(at.checked_sub(self.at)?).ok()?;
        let to = from.checked_add(usize::try_from(len).ok()?)?;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}

/// The length up to the last byte that is not zero; `None` if all are.
fn len_without_zeros(bytes: &[u8]) -> Option<u64> {
    // Whole pieces first: nearly all of a segment is zeros.
    const ZEROS: [u8; block::ALIGN] = [0; block::ALIGN];
    let is_zero = |piece: &[u8]| ZEROS.get(..piece.len()) == Some(piece);
    let last = bytes.chunks(block::ALIGN).rposition(|piece| !is_zero(piece))? * block::ALIGN;
    let within = bytes.get(last..)?.iter().take(block::ALIGN).rposition(|byte| *byte != 0)?;
    u64::try_from(last + within + 1).ok()
}

fn quarantined(at_lsn: u64, what: impl Into<String>) -> OpenError {
    OpenError::Quarantined { at_lsn, what: what.into() }
}

fn failed(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}
