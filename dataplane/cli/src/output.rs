//! What commands print: text for people, JSON lines for programs.

use std::io::{self, BufWriter, ErrorKind, Stdout, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};

/// How results look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Nobody reads standard output any more. The command has nothing left to do.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(crate) struct Closed;

/// Standard output, buffered until [`Output::flush`].
pub(crate) struct Output {
    to: BufWriter<Stdout>,
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { to: BufWriter::new(io::stdout()), format }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Bytes and the end of the line.
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let written = self.to.write_all(line.as_ref()).and_then(|()| self.to.write_all(b"\n"));
        written.map_err(closed)
    }

    /// One JSON object.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_vec(value)?)
    }

    /// What this command has to say, in the format that was asked for.
    pub(crate) fn say(&mut self, text: &str, json: &impl Serialize) -> anyhow::Result<()> {
        match self.format {
            Format::Text => self.line(text)?,
            Format::Json => self.json(json)?,
        }
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.to.flush().map_err(closed)
    }
}

fn closed(error: io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::BrokenPipe { Closed.into() } else { error.into() }
}

/// A remark for people, on standard error, so that it never mixes with results.
pub(crate) fn remark(text: &str) {
    // There is nobody to tell that standard error is closed.
    drop(writeln!(io::stderr(), "{text}"));
}

/// Bytes as JSON: under `name` if they are UTF-8, else under `name_base64`.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), BASE64.encode(bytes).into()),
    };
}

/// Rows with a heading, columns as wide as needed; the first column is text, the others numbers.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let heading: Vec<String> = heading.iter().map(|&title| title.to_owned()).collect();
    let lines = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| {
        lines().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..heading.len()).map(|column| width(column).unwrap_or(0)).collect();
    lines()
        .map(|row| {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ")
        })
        .collect()
}

/// So many of something: `1 record`, `2 records`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    // Enough for the words that are counted here: record, chunk, batch, frame.
    let plural = if one.ends_with("ch") { "es" } else { "s" };
    format!("{count} {one}{}", if count == 1 { "" } else { plural })
}

/// At most so many characters; what was cut off is shown by `…`.
pub(crate) fn shortened(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect()
}

/// A length for people: `1.5 MiB`.
pub(crate) fn bytes(len: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if len >> shift > 0 {
            // Tenths, rounded down, without a float.
            let tenths = (u128::from(len) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{len} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_the_largest_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (8 << 20, "8.0 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ];
        for (len, text) in cases {
            assert_eq!(bytes(len), text, "{len}");
        }
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "record")), ["0 records", "1 record", "2 records"]);
        assert_eq!([1, 2].map(|n| counted(n, "batch")), ["1 batch", "2 batches"]);
    }

    #[test]
    fn only_what_is_too_long_is_shortened() {
        assert_eq!(shortened("tée☕", 4), "tée☕");
        assert_eq!(shortened("tée☕s", 4), "tée…");
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows =
            [vec!["a".to_owned(), "1000".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &rows), ["NAME     N", "a     1000", "long     2"]);
    }

    #[test]
    fn only_text_is_printed_as_text() {
        let mut object = Map::new();
        put_bytes(&mut object, "value", "tea ☕".as_bytes());
        put_bytes(&mut object, "other", b"\xff\x00");
        let expected = serde_json::json!({"value": "tea ☕", "other_base64": "/wA="});
        assert_eq!(Value::Object(object), expected);
    }
}
