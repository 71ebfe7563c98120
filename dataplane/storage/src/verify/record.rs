//! The report as it is written.

use pyramid_protocol::{Offset, StreamId};

use super::{
    Error, Progress, UNREADABLE_MAX,
    keys::StreamKeys,
    report::{Finding, Kind, LISTED_MAX, Note, NoteKind, Report, Span, StreamLabel},
};
use crate::{cluster_id::ClusterId, object_store::ObjectKey};

/// A report, and how often the store has failed.
pub(super) struct Record<'p> {
    pub(super) report: Report,
    /// Objects that the store did not deliver.
    unreadable: u64,
    progress: &'p mut (dyn FnMut(Progress) + Send),
}

impl<'p> Record<'p> {
    pub(super) fn new(
        cluster_id: ClusterId,
        progress: &'p mut (dyn FnMut(Progress) + Send),
    ) -> Self {
        let report = Report {
            cluster_id,
            epoch: None,
            streams: Vec::new(),
            objects: 0,
            bytes: 0,
            findings: Vec::new(),
            finding_count: 0,
            notes: Vec::new(),
            note_count: 0,
        };
        Self { report, unreadable: 0, progress }
    }

    pub(super) fn looked_at(&mut self, len: u64) {
        let report = &mut self.report;
        report.objects += 1;
        report.bytes = report.bytes.saturating_add(len);
        (self.progress)(Progress { objects: report.objects, bytes: report.bytes });
    }

    /// Ends the run when it is the store that fails, not some objects.
    pub(super) fn count_unreadable(&mut self, problem: Option<&Kind>) -> Result<(), Error> {
        if let Some(Kind::Unreadable { reason }) = problem {
            self.unreadable += 1;
            if self.unreadable >= UNREADABLE_MAX {
                return Err(Error::GaveUp { reason: reason.clone() });
            }
        }
        Ok(())
    }

    pub(super) fn find(&mut self, finding: Finding) {
        self.report.finding_count += 1;
        if self.report.findings.len() < LISTED_MAX {
            self.report.findings.push(finding);
        }
    }

    pub(super) fn find_object(&mut self, key: &ObjectKey, kind: Kind) {
        self.find(Finding { kind, object: Some(key.to_string()), stream: None, offsets: None });
    }

    pub(super) fn note(&mut self, note: Note) {
        self.report.note_count += 1;
        if self.report.notes.len() < LISTED_MAX {
            self.report.notes.push(note);
        }
    }

    /// What the key objects of one stream come to.
    pub(super) fn keys_of(&mut self, label: &StreamLabel, keys: &StreamKeys) {
        let note = |object: &ObjectKey, kind| Note {
            kind,
            object: Some(object.to_string()),
            stream: Some(label.clone()),
            offsets: None,
        };
        for (key, problem) in &keys.bad {
            // One that opens is enough.
            if keys.opens() {
                self.note(note(key, NoteKind::BadExtra { problem: problem.clone() }));
            } else {
                self.find(Finding {
                    kind: problem.clone(),
                    object: Some(key.to_string()),
                    stream: Some(label.clone()),
                    offsets: None,
                });
            }
        }
        for key in &keys.extra {
            self.note(note(key, NoteKind::Extra));
        }
    }
}

/// Brings a report into the order of streams and offsets: they were found in the order in which
/// objects were read.
pub(super) fn sort(report: &mut Report) {
    report.streams.sort_by_key(|stream| stream.stream_id);
    report.findings.sort_by(|a, b| {
        place(&a.stream, a.offsets, &a.object).cmp(&place(&b.stream, b.offsets, &b.object))
    });
    report.notes.sort_by(|a, b| {
        place(&a.stream, a.offsets, &a.object).cmp(&place(&b.stream, b.offsets, &b.object))
    });
}

type Place<'a> = (Option<StreamId>, Option<Offset>, Option<&'a str>);

/// Where a finding stands in a list.
fn place<'a>(
    stream: &Option<StreamLabel>,
    offsets: Option<Span>,
    object: &'a Option<String>,
) -> Place<'a> {
    (stream.as_ref().map(|stream| stream.id), offsets.map(|span| span.from), object.as_deref())
}
