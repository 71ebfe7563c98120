//! A report for people and for programs.

use pyramid_storage::verify::{Finding, Kind, Note, NoteKind, Report, Span, StreamLabel};
use serde_json::{Map, Value, json};

use crate::output::{Format, Output, bytes, counted, table};

/// Findings, and notes, that text shows. JSON has all.
const SHOWN_MAX: usize = 100;

/// Prints it.
pub(super) fn report(
    report: &Report,
    is_compared: bool,
    output: &mut Output,
) -> anyhow::Result<()> {
    match output.format() {
        Format::Json => output.json(&to_json(report, is_compared))?,
        Format::Text => {
            for line in to_text(report, is_compared) {
                output.line(line)?;
            }
        }
    }
    output.flush()
}

fn to_text(report: &Report, is_compared: bool) -> Vec<String> {
    let rows: Vec<Vec<String>> = report
        .streams
        .iter()
        .map(|stream| {
            let name = stream.name.clone();
            vec![
                name.unwrap_or_else(|| format!("id {}", stream.stream_id)),
                stream.first_offset.to_string(),
                stream.next_offset.to_string(),
                stream.chunks.to_string(),
                stream.records.to_string(),
                bytes(stream.stored_bytes),
                bytes(stream.plain_bytes),
            ]
        })
        .collect();
    let heading = ["STREAM", "FIRST", "NEXT", "CHUNKS", "RECORDS", "STORED", "UNPACKED"];
    let mut lines = table(&heading, &rows);
    lines.push(String::new());
    for finding in report.findings.iter().take(SHOWN_MAX) {
        lines.push(format!("{}: {}", finding.kind.word(), concerns(finding)));
        lines.push(format!("  {}", advice(&finding.kind)));
    }
    lines.extend(more(report.finding_count, "finding"));
    for note in report.notes.iter().take(SHOWN_MAX) {
        lines.push(format!("note: {}", remark(note)));
    }
    lines.extend(more(report.note_count, "note"));
    if report.finding_count + report.note_count > 0 {
        lines.push(String::new());
    }
    let objects = counted(report.objects, "object");
    lines.push(format!("{objects}, {}, of the cluster {}", bytes(report.bytes), report.cluster_id));
    lines.push(match (report.is_clean(), is_compared) {
        (true, true) => {
            "clean: every byte is what the Writer stored, and all that it refers to is there"
                .to_owned()
        }
        (true, false) => "clean: every byte is what a Writer stored; without one it is not known \
                          whether the ends of streams are there"
            .to_owned(),
        (false, _) => format!("not clean: {}", counted(report.finding_count, "finding")),
    });
    lines
}

fn more(count: u64, what: &str) -> Option<String> {
    let hidden = count.checked_sub(u64::try_from(SHOWN_MAX).ok()?).filter(|hidden| *hidden > 0)?;
    Some(format!("and {}; --output json shows them", counted(hidden, &format!("more {what}"))))
}

/// What a finding is about: stream, offsets, object.
fn concerns(finding: &Finding) -> String {
    place(finding.stream.as_ref(), finding.offsets, finding.object.as_deref())
}

fn place(stream: Option<&StreamLabel>, offsets: Option<Span>, object: Option<&str>) -> String {
    let mut parts = Vec::new();
    if let Some(stream) = stream {
        parts.push(match &stream.name {
            Some(name) => format!("stream {name}"),
            None => format!("stream id {}", stream.id),
        });
    }
    match offsets {
        Some(Span { from, to: Some(to) }) => parts.push(format!("offsets {from} to below {to}")),
        Some(Span { from, to: None }) => parts.push(format!("offsets from {from} on")),
        None => {}
    }
    parts.extend(object.map(ToOwned::to_owned));
    parts.join(", ")
}

/// What it means, and what to do.
fn advice(kind: &Kind) -> String {
    let restore = "restore it from an older version or a copy of the bucket";
    match kind {
        Kind::Damaged => format!("it is not what was stored; {restore}"),
        Kind::Misplaced => {
            format!("it is a whole object, but not the one that this name belongs to; {restore}")
        }
        Kind::Missing => {
            "no object holds these offsets; restore the objects from an older version \
                          or a copy of the bucket"
                .to_owned()
        }
        Kind::BrokenChain => {
            "it does not follow the chunk before it: one of the two is of another \
                              history; restore the right one from a copy of the bucket"
                .to_owned()
        }
        Kind::MissingKey => {
            "the stream's key object k/<stream id>-*.pyk is gone, and nothing opens \
                             its chunks without it; restore it from a copy of the bucket"
                .to_owned()
        }
        Kind::WrongKek { kek_id, is_known: true } => format!(
            "the key {kek_id:?} of the key file does not open it; give --kek-file with the key \
             file of this Writer"
        ),
        Kind::WrongKek { kek_id, is_known: false } => format!(
            "the key file has no key {kek_id:?}; give --kek-file with a key file that has it"
        ),
        Kind::MissingClusterFile => {
            "the cluster's own file is gone, and a Writer stops without it; \
                                     restore it from a copy of the bucket"
                .to_owned()
        }
        Kind::Foreign => {
            "it is not an object of this cluster; find out who puts it there".to_owned()
        }
        Kind::UnknownVersion => "this build does not know its version: verify with the build of \
                                 the Writer; if that is this one, the object is damaged"
            .to_owned(),
        Kind::Unreadable { reason } => format!("it could not be read: {reason}"),
    }
}

fn remark(note: &Note) -> String {
    let Note { kind, object, stream, offsets } = note;
    let place = place(stream.as_ref(), *offsets, object.as_deref());
    match kind {
        NoteKind::Extra => format!("{place}: good, and not needed"),
        NoteKind::BadExtra { problem } => {
            format!(
                "{place}: {}, and not needed, since another object stands for it",
                problem.word()
            )
        }
        NoteKind::BeginsLater => {
            format!("{place}: not there; that is right if they were trimmed")
        }
        NoteKind::DeletedStream => {
            format!("{place}: chunks without a key, of a stream that the Writer does not have")
        }
    }
}

fn to_json(report: &Report, is_compared: bool) -> Value {
    let streams = report.streams.iter().map(|stream| {
        json!({
            "name": stream.name,
            "stream_id": stream.stream_id.get(),
            "first_offset": stream.first_offset.get(),
            "next_offset": stream.next_offset.get(),
            "chunks": stream.chunks,
            "records": stream.records,
            "stored_bytes": stream.stored_bytes,
            "plain_bytes": stream.plain_bytes,
        })
    });
    let findings = report.findings.iter().map(|finding| {
        let Finding { kind, object, stream, offsets } = finding;
        let mut json = concerned(kind.word(), stream.as_ref(), *offsets, object.as_ref());
        json.insert("advice".to_owned(), advice(kind).into());
        Value::Object(json)
    });
    let notes = report.notes.iter().map(|note| {
        let Note { kind, object, stream, offsets } = note;
        let mut json = concerned(kind.word(), stream.as_ref(), *offsets, object.as_ref());
        if let NoteKind::BadExtra { problem } = kind {
            json.insert("problem".to_owned(), problem.word().into());
        }
        Value::Object(json)
    });
    json!({
        "clean": report.is_clean(),
        "cluster_id": report.cluster_id.to_string(),
        "epoch": report.epoch,
        "compared_with_writer": is_compared,
        "objects": report.objects,
        "bytes": report.bytes,
        "streams": streams.collect::<Vec<_>>(),
        "finding_count": report.finding_count,
        "findings": findings.collect::<Vec<_>>(),
        "note_count": report.note_count,
        "notes": notes.collect::<Vec<_>>(),
    })
}

fn concerned(
    kind: &str,
    stream: Option<&StreamLabel>,
    offsets: Option<Span>,
    object: Option<&String>,
) -> Map<String, Value> {
    let mut json = Map::new();
    json.insert("kind".to_owned(), kind.into());
    json.insert("object".to_owned(), object.cloned().into());
    json.insert("stream".to_owned(), stream.and_then(|stream| stream.name.clone()).into());
    json.insert("stream_id".to_owned(), stream.map(|stream| stream.id.get()).into());
    json.insert("from".to_owned(), offsets.map(|span| span.from.get()).into());
    json.insert("to".to_owned(), offsets.and_then(|span| span.to).map(|to| to.get()).into());
    json
}
