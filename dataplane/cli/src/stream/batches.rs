//! Lines → batches of records, each for one append.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use prost::Message;
use pyramid_protocol::Records;
use pyramid_protocol::pb::v1 as pb;
use tokio::time::{Instant, timeout_at};

use super::headers::Headers;
use super::input::{Input, Line};

/// What one append holds at most, so that a retry repeats little.
const BATCH_RECORDS_MAX: usize = 1000;
/// Unit: bytes of encoded records. A larger record is sent alone.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// How long a batch waits for more lines before it is sent as it is.
const LINGER: Duration = Duration::from_millis(5);

/// Records of one append.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) records: Records,
    /// What they were in the input, ends of lines included.
    pub(super) input_bytes: u64,
}

/// Cuts an input into batches.
pub(super) struct Batches {
    input: Input,
    headers: Headers,
    /// Records at the front of the input that are left out.
    skip: u64,
    skipped: u64,
    /// Lines that are not in a batch yet.
    lines: VecDeque<Line>,
    open: Vec<pb::Record>,
    /// Unit: bytes of encoded records.
    open_bytes: usize,
    open_input_bytes: u64,
    /// When the open batch is sent, whatever it holds.
    due: Option<Instant>,
    /// The input has ended, and how.
    end: Option<anyhow::Result<()>>,
}

impl Batches {
    /// Of lines that fit into a record with these headers.
    pub(super) fn new(input: Input, headers: Headers, skip: u64) -> Self {
        Self {
            input,
            headers,
            skip,
            skipped: 0,
            lines: VecDeque::new(),
            open: Vec::new(),
            open_bytes: 0,
            open_input_bytes: 0,
            due: None,
            end: None,
        }
    }

    /// How many records of the input were left out.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next batch: full, or what has come within [`LINGER`]. `None` at the end.
    ///
    /// # Errors
    ///
    /// A line is no record, or the input cannot be read. All before it was handed out.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop at any time.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Batch>> {
        loop {
            while let Some(line) = self.lines.pop_front() {
                if let Some(full) = self.take(&line) {
                    return full.map(Some);
                }
            }
            if self.end.is_some() {
                if self.open.is_empty() {
                    return self.end.take().unwrap_or(Ok(())).map(|()| None);
                }
                return self.cut().map(Some);
            }
            let lines = match self.due {
                Some(due) => timeout_at(due, self.input.next()).await,
                None => Ok(self.input.next().await),
            };
            match lines {
                Ok(Some(Ok(lines))) => self.lines.extend(lines),
                Ok(Some(Err(error))) => self.end = Some(Err(error)),
                Ok(None) => self.end = Some(Ok(())),
                Err(_elapsed) => return self.cut().map(Some),
            }
        }
    }

    /// Puts the line into the open batch. Returns the batch before it if that is full.
    fn take(&mut self, line: &Line) -> Option<anyhow::Result<Batch>> {
        if self.skipped < self.skip {
            self.skipped += 1;
            return None;
        }
        let record = self.headers.record(line.value.clone());
        let len = record.encoded_len();
        // With its tag and its length before it.
        let len = 1 + prost::length_delimiter_len(len) + len;
        let is_full = self.open.len() >= BATCH_RECORDS_MAX
            || (!self.open.is_empty() && self.open_bytes + len > BATCH_BYTES_MAX);
        let full = is_full.then(|| self.cut());
        if self.open.is_empty() {
            self.due = Some(Instant::now() + LINGER);
        }
        self.open.push(record);
        self.open_bytes += len;
        self.open_input_bytes += u64::try_from(line.value.len()).unwrap_or(0) + 1;
        full
    }

    fn cut(&mut self) -> anyhow::Result<Batch> {
        self.due = None;
        self.open_bytes = 0;
        let input_bytes = mem::take(&mut self.open_input_bytes);
        let records = Records::encode(&mem::take(&mut self.open))?;
        Ok(Batch { records, input_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::{Check, Source};
    use super::*;

    async fn cut(lines: Vec<String>, skip: u64) -> (Vec<Batch>, anyhow::Result<()>) {
        let headers = Headers::default();
        let check = Check { json: false, len_max: headers.value_len_max() };
        let input = Input::open(Source::Lines(lines), check).await.unwrap();
        let mut batches = Batches::new(input, headers, skip);
        let mut all = Vec::new();
        loop {
            match batches.next().await {
                Ok(Some(batch)) => all.push(batch),
                Ok(None) => return (all, Ok(())),
                Err(error) => return (all, Err(error)),
            }
        }
    }

    fn counts(batches: &[Batch]) -> Vec<u32> {
        batches.iter().map(|batch| batch.records.count()).collect()
    }

    #[tokio::test]
    async fn a_batch_has_at_most_1000_records() {
        let (batches, end) = cut(vec!["x".to_owned(); 2001], 0).await;
        end.unwrap();
        assert_eq!(counts(&batches), [1000, 1000, 1]);
        assert_eq!(batches.iter().map(|batch| batch.input_bytes).sum::<u64>(), 2 * 2001);
    }

    #[tokio::test]
    async fn a_batch_is_cut_by_bytes_and_a_large_record_goes_alone() {
        let third = "x".repeat(100 << 10);
        let large = "x".repeat(300 << 10);
        let lines = vec![third.clone(), third.clone(), third.clone(), large, third];
        let (batches, end) = cut(lines, 0).await;
        end.unwrap();
        assert_eq!(counts(&batches), [2, 1, 1, 1]);
    }

    #[tokio::test]
    async fn records_at_the_front_are_left_out() {
        for (skip, expected) in [(0, vec![3]), (2, vec![1]), (3, vec![]), (4, vec![])] {
            let (batches, end) = cut(vec!["x".to_owned(); 3], skip).await;
            end.unwrap();
            assert_eq!(counts(&batches), expected, "{skip}");
        }
    }
}
