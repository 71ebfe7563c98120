//! Records from lines: of a file, or of standard input.
//!
//! A thread reads blocks and cuts them into lines, so that a slow input holds up nothing else; it
//! waits while [`QUEUE_LEN_MAX`] blocks are not taken. A file is read twice: only when all its lines
//! are good is the first one handed out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use bytes::Bytes;
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

/// What a line has to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    /// A JSON value.
    pub(super) json: bool,
    /// Unit: bytes, without the end of the line.
    pub(super) len_max: usize,
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
    /// The file cannot be read, or one of its lines or of the arguments is bad.
    pub(super) async fn open(source: Source, check: Check) -> anyhow::Result<Self> {
        let (sender, blocks) = mpsc::channel(QUEUE_LEN_MAX);
        let read: Box<dyn FnOnce() + Send> = match source {
            Source::Lines(lines) => {
                // The arguments of a process are few and in memory already.
                let lines =
                    (1..).zip(lines).map(|(number, line)| Line { number, value: line.into() });
                let lines: Vec<_> = lines.collect();
                lines.iter().try_for_each(|line| check.line(line))?;
                Box::new(move || drop(sender.blocking_send(Ok(lines))))
            }
            Source::File(path) => {
                let name = path.display().to_string();
                let file = File::open(&path).with_context(|| format!("open {name}"))?;
                // What is no regular file, like a pipe, can be read only once.
                if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                    let first = File::open(&path).with_context(|| format!("open {name}"))?;
                    let named = name.clone();
                    let checked = tokio::task::spawn_blocking(move || check_all(first, check));
                    checked.await?.with_context(|| format!("read {named}; nothing is appended"))?;
                }
                Box::new(move || send(file, &name, check, &sender))
            }
            Source::StandardInput => {
                Box::new(move || send(io::stdin().lock(), "standard input", check, &sender))
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

fn send(input: impl Read, name: &str, check: Check, to: &mpsc::Sender<anyhow::Result<Vec<Line>>>) {
    let mut lines = Lines::new(input, check);
    loop {
        let (block, end) = lines.block();
        if !block.is_empty() && to.blocking_send(Ok(block)).is_err() {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => {
                // Whoever does not take it any more needs no reason.
                drop(to.blocking_send(Err(error.context(format!("read {name}")))));
                return;
            }
        }
    }
}

/// Reads all, and keeps nothing.
fn check_all(input: impl Read, check: Check) -> anyhow::Result<()> {
    let mut lines = Lines::new(input, check);
    loop {
        if let (_, Some(end)) = lines.block() {
            return end;
        }
    }
}

impl Check {
    /// # Errors
    ///
    /// What is wrong with the line, by its number.
    fn line(self, line: &Line) -> anyhow::Result<()> {
        let Line { number, value } = line;
        if value.len() > self.len_max {
            let max = self.len_max;
            return Err(anyhow!(
                "line {number} is too long; at most {max} bytes fit into a record"
            ));
        }
        if self.json
            && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(value)
        {
            // For the parser each line is the first one; its number would only confuse.
            let column = error.column();
            let error = error.to_string();
            let why = error.split_once(" at line ").map_or(error.as_str(), |(why, _)| why);
            return Err(anyhow!("line {number} is not JSON: {why}, at column {column}"));
        }
        Ok(())
    }
}

struct Lines<R> {
    input: BufReader<R>,
    check: Check,
    number: u64,
}

impl<R: Read> Lines<R> {
    fn new(input: R, check: Check) -> Self {
        Self { input: BufReader::with_capacity(BLOCK_LEN, input), check, number: 0 }
    }

    /// All lines that are there: waits for the first one only. With the end, if it comes behind
    /// them.
    fn block(&mut self) -> (Vec<Line>, Option<anyhow::Result<()>>) {
        let mut lines = Vec::new();
        while lines.is_empty() || self.input.buffer().contains(&b'\n') {
            match self.line() {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => return (lines, Some(Ok(()))),
                Err(error) => return (lines, Some(Err(error))),
            }
        }
        (lines, None)
    }

    fn line(&mut self) -> anyhow::Result<Option<Line>> {
        let mut value = Vec::new();
        // One byte for the end of the line, one to see that it is too long.
        let len_max = u64::try_from(self.check.len_max.saturating_add(2)).unwrap_or(u64::MAX);
        let read = (&mut self.input).take(len_max).read_until(b'\n', &mut value)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if value.last() == Some(&b'\n') {
            value.pop();
        }
        let line = Line { number: self.number, value: value.into() };
        self.check.line(&line)?;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LEN_MAX: usize = 24;

    /// What is handed out, and how it ends.
    fn lines(input: &[u8], json: bool) -> (Vec<Line>, Result<(), String>) {
        let check = Check { json, len_max: LEN_MAX };
        let mut lines =
            Lines { input: BufReader::with_capacity(8, input), ..Lines::new(input, check) };
        let mut all = Vec::new();
        loop {
            let (block, end) = lines.block();
            all.extend(block);
            if let Some(end) = end {
                return (all, end.map_err(|error| error.to_string()));
            }
        }
    }

    fn line(number: u64, value: &[u8]) -> Line {
        Line { number, value: Bytes::copy_from_slice(value) }
    }

    #[test]
    fn each_line_is_one_record_also_the_empty_and_the_last() {
        assert_eq!(lines(b"", false), (vec![], Ok(())));
        assert_eq!(lines(b"\n", false), (vec![line(1, b"")], Ok(())));
        let expected = vec![
            line(1, b"a"),
            line(2, b""),
            line(3, b"longer than a block\r"),
            line(4, b"last\xff"),
        ];
        assert_eq!(lines(b"a\n\nlonger than a block\r\nlast\xff", false), (expected, Ok(())));
    }

    #[test]
    fn a_line_is_as_long_as_fits_and_what_is_before_a_longer_one_is_handed_out() {
        let longest = [b'x'; LEN_MAX];
        let input = [b"y\n", &longest[..], b"\nz"].concat();
        let expected = vec![line(1, b"y"), line(2, &longest), line(3, b"z")];
        assert_eq!(lines(&input, false), (expected, Ok(())));
        let input = [b"y\n", &longest[..], b"x\nz"].concat();
        let error = "line 2 is too long; at most 24 bytes fit into a record".to_owned();
        assert_eq!(lines(&input, false), (vec![line(1, b"y")], Err(error)));
    }

    #[test]
    fn the_line_that_is_not_json_is_named_by_its_number_alone() {
        let (good, end) = lines(b"{\"a\":[1,null]}\n3\n", true);
        assert_eq!((good.len(), end), (2, Ok(())));
        let cases = [
            ("", "EOF while parsing a value, at column 0"),
            ("{", "EOF while parsing an object, at column 1"),
            ("{} {}", "trailing characters, at column 4"),
            ("tea", "expected ident, at column 2"),
        ];
        for (bad, why) in cases {
            let input = format!("{{}}\n{bad}\n{{}}");
            let error = format!("line 2 is not JSON: {why}");
            assert_eq!(lines(input.as_bytes(), true), (vec![line(1, b"{}")], Err(error)));
            assert_eq!(lines(input.as_bytes(), false).1, Ok(()));
        }
    }

    #[tokio::test]
    async fn nothing_of_a_file_with_a_bad_line_is_handed_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = Check { json: true, len_max: LEN_MAX };
        let open = || Input::open(Source::File(file.path().to_owned()), check);
        file.as_file().write_all(b"{}\n").unwrap();
        let mut input = open().await.unwrap();
        assert_eq!(input.next().await.unwrap().unwrap(), [line(1, b"{}")]);
        assert!(input.next().await.is_none());
        file.as_file().write_all(b"{\n").unwrap();
        let error = open().await.err().unwrap();
        assert!(format!("{error:#}").contains("nothing is appended: line 2 is not JSON"));
    }
}
