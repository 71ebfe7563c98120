//! Records from lines: of a file, or of standard input.
//!
//! A thread reads blocks and cuts them into lines, so that a slow input holds up nothing else; it
//! waits while [`QUEUE_LEN_MAX`] blocks are not taken.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use anyhow::{Context, bail};
use bytes::Bytes;
use pyramid_protocol::limits::RECORD_BYTES_MAX;
use tokio::sync::mpsc;

/// Unit: bytes.
const BLOCK_LEN: usize = 256 << 10;
const QUEUE_LEN_MAX: usize = 8;

/// Where lines come from.
#[derive(Debug)]
pub(super) enum Source {
    Lines(Vec<String>),
    File(PathBuf),
    StandardInput,
}

/// One line without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    pub(super) value: Bytes,
}

/// Lines in order, some at a time. Ends after the first error.
pub(super) struct Input {
    blocks: mpsc::Receiver<anyhow::Result<Vec<Line>>>,
}

impl Input {
    /// # Errors
    ///
    /// The file cannot be opened.
    pub(super) fn open(source: Source, json: bool) -> anyhow::Result<Self> {
        let (sender, blocks) = mpsc::channel(QUEUE_LEN_MAX);
        let read: Box<dyn FnOnce() + Send> = match source {
            Source::Lines(lines) => {
                // The arguments of a process are few and in memory already.
                let lines =
                    (1..).zip(lines).map(|(number, line)| Line { number, value: line.into() });
                let lines = checked(lines.collect(), json);
                Box::new(move || drop(sender.blocking_send(lines)))
            }
            Source::File(path) => {
                let name = path.display().to_string();
                let file = File::open(&path).with_context(|| format!("open {name}"))?;
                Box::new(move || send(file, &name, json, &sender))
            }
            Source::StandardInput => {
                Box::new(move || send(io::stdin().lock(), "standard input", json, &sender))
            }
        };
        // It ends with its input, or when nobody takes its lines; `main` does not wait for it.
        drop(tokio::task::spawn_blocking(read));
        Ok(Self { blocks })
    }

    /// Safe to drop at any time: nothing is lost.
    pub(super) async fn next(&mut self) -> Option<anyhow::Result<Vec<Line>>> {
        self.blocks.recv().await
    }
}

fn send(input: impl Read, name: &str, json: bool, to: &mpsc::Sender<anyhow::Result<Vec<Line>>>) {
    let mut lines = Lines { input: BufReader::with_capacity(BLOCK_LEN, input), number: 0 };
    loop {
        let block = lines.block().with_context(|| format!("read {name}"));
        let block = block.and_then(|block| checked(block, json));
        let is_last = match &block {
            Ok(block) => block.is_empty(),
            Err(_) => true,
        };
        if is_last && block.is_ok() {
            return;
        }
        if to.blocking_send(block).is_err() || is_last {
            return;
        }
    }
}

/// The lines, if each is a JSON value, or need not be.
fn checked(lines: Vec<Line>, json: bool) -> anyhow::Result<Vec<Line>> {
    if json {
        for Line { number, value } in &lines {
            serde_json::from_slice::<serde::de::IgnoredAny>(value)
                .with_context(|| format!("line {number} is not JSON"))?;
        }
    }
    Ok(lines)
}

struct Lines<R> {
    input: BufReader<R>,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// All lines that are there: waits for the first one only. Empty at the end.
    fn block(&mut self) -> anyhow::Result<Vec<Line>> {
        let mut lines = Vec::new();
        while lines.is_empty() || self.input.buffer().contains(&b'\n') {
            match self.line()? {
                Some(line) => lines.push(line),
                None => break,
            }
        }
        Ok(lines)
    }

    fn line(&mut self) -> anyhow::Result<Option<Line>> {
        let mut value = Vec::new();
        // One byte for the end of the line, one to see that it is too long.
        let len_max = u64::try_from(RECORD_BYTES_MAX + 2).unwrap_or(u64::MAX);
        let read = (&mut self.input).take(len_max).read_until(b'\n', &mut value)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if value.last() == Some(&b'\n') {
            value.pop();
        }
        if value.len() > RECORD_BYTES_MAX {
            bail!(
                "line {} is too long; a record has at most {RECORD_BYTES_MAX} bytes",
                self.number
            );
        }
        Ok(Some(Line { number: self.number, value: value.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> anyhow::Result<Vec<Line>> {
        let mut lines = Lines { input: BufReader::with_capacity(8, input), number: 0 };
        let mut all = Vec::new();
        loop {
            let block = lines.block()?;
            if block.is_empty() {
                return Ok(all);
            }
            all.extend(block);
        }
    }

    fn line(number: u64, value: &[u8]) -> Line {
        Line { number, value: Bytes::copy_from_slice(value) }
    }

    #[test]
    fn each_line_is_one_record_also_the_empty_and_the_last() {
        assert_eq!(lines(b"").unwrap(), []);
        assert_eq!(lines(b"\n").unwrap(), [line(1, b"")]);
        assert_eq!(
            lines(b"a\n\nlonger than a block\r\nlast\xff").unwrap(),
            [line(1, b"a"), line(2, b""), line(3, b"longer than a block\r"), line(4, b"last\xff")]
        );
    }

    #[test]
    fn a_line_is_as_long_as_a_record_may_be() {
        let longest = [vec![b'x'; RECORD_BYTES_MAX], b"\ny".to_vec()].concat();
        assert_eq!(
            lines(&longest).unwrap(),
            [line(1, &longest[..RECORD_BYTES_MAX]), line(2, b"y")]
        );
        let too_long = vec![b'x'; RECORD_BYTES_MAX + 1];
        let error = lines(&too_long).unwrap_err().to_string();
        assert!(error.starts_with("line 1 is too long"), "{error}");
    }

    #[test]
    fn the_line_that_is_not_json_is_named() {
        let good = vec![line(1, b"{\"a\":[1,null]}"), line(2, b"3")];
        assert_eq!(checked(good.clone(), true).unwrap(), good);
        for bad in ["", "{", "{} {}", "tea"] {
            let error = checked(vec![line(1, b"{}"), line(2, bad.as_bytes())], true).unwrap_err();
            assert_eq!(error.to_string(), "line 2 is not JSON", "{bad}");
            assert!(checked(vec![line(2, bad.as_bytes())], false).is_ok());
        }
    }
}
