//! What is done next for a Stream, and what its status says: a function of what was seen.

use std::sync::Arc;

use kube::ResourceExt;
use pyramid_crds::condition::{Truth, reasons, types};
use pyramid_crds::writer::{DEFAULT_NAME, Fate};
use pyramid_crds::{Stream, Writer, annotation, finalizer};
use pyramid_protocol::pb::v1 as pb;
use serde_json::{Map, Value};

use super::bind::{Binding, binding};
use super::rights::rights;
use crate::admin;
use crate::kinds::configured::{Declared, Known, Wanted};
use crate::kinds::status::Verdict;
use crate::kinds::writers::{Founded, Service, WriterName, allows};
use crate::settings::DefaultWriter;

/// All that matters.
pub(super) struct Observed<'a> {
    pub(super) stream: &'a Stream,
    /// Its namespace is being deleted.
    pub(super) is_terminating: bool,
    pub(super) writers: &'a [Arc<Writer>],
    /// Of the Writer that it is bound to.
    pub(super) service: &'a Service,
    /// The operator's namespace.
    pub(super) operators: &'a str,
    pub(super) default_writer: &'a DefaultWriter,
    pub(super) trust_domain: &'a str,
    pub(super) asked: &'a Asked,
    /// Objects in the bucket, when the Writer was last told to delete the stream.
    pub(super) objects_left: Option<u64>,
    /// Records of an earlier Stream were found in this pass.
    pub(super) is_reattached: bool,
    /// `pyramid-bootstrap` of the namespace names the Stream with its Writer.
    pub(super) is_in_bootstrap: bool,
}

/// What the Writer has said in this pass.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    NotYet,
    Known(Known),
    Failed(admin::Error),
}

/// What is done next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing, until something changes.
    Rest,
    /// Look again soon.
    Look,
    /// Try again, later each time.
    Retry,
    /// Write `spec.writerRef`.
    Bind {
        writer: WriterName,
        ignored: Vec<String>,
    },
    /// Make the default Writer.
    CreateDefault(Map<String, Value>),
    AddFinalizer,
    RemoveFinalizer,
    /// Let it go, if this Writer is really gone.
    ReleaseWithout(WriterName),
    /// Ask what the Writer holds.
    Ask(Founded),
    /// Declare it.
    Put {
        writer: Founded,
        put: pb::PutStream,
        is_drift: bool,
    },
    /// Let it take appends again.
    Open {
        writer: Founded,
        stream_id: u64,
    },
    /// Delete its records.
    Purge {
        writer: Founded,
        stream_id: u64,
    },
}

/// A step, and the status that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) step: Step,
    pub(super) stream_id: Option<u64>,
    /// All conditions.
    pub(super) verdicts: Vec<Verdict>,
}

pub(super) fn decide(seen: &Observed<'_>) -> Decision {
    let stream = seen.stream;
    if stream.metadata.deletion_timestamp.is_some() {
        return deletion(seen);
    }
    let pending = |text: &str| {
        let accepted = Verdict::new(types::ACCEPTED, Truth::Unknown, reasons::PENDING, text);
        conditions(seen, accepted, not_programmed())
    };
    let decision = |step, verdicts| Decision { step, stream_id: known_id(stream), verdicts };
    // Before anything is declared: a Stream that is deleted between the two would lose the promise.
    if wants_purge(stream) && !has_finalizer(stream) && !seen.is_terminating {
        return decision(Step::AddFinalizer, pending("its deletion is being prepared"));
    }
    if !wants_purge(stream) && has_finalizer(stream) {
        return decision(Step::RemoveFinalizer, pending("its deletion will keep the records"));
    }
    let own = stream.metadata.namespace.as_deref().unwrap_or_default();
    let Some(reference) = &stream.spec.writer_ref else {
        return match binding(own, seen.writers, seen.operators, seen.default_writer) {
            Binding::To { writer, ignored } => {
                let text = format!("it is being bound to Writer {writer}");
                decision(Step::Bind { writer, ignored }, pending(&text))
            }
            Binding::Create(spec) => {
                decision(Step::CreateDefault(spec), pending("the default Writer is being made"))
            }
            Binding::NoDefault(text) => {
                decision(Step::Rest, refused(seen, reasons::NO_DEFAULT_WRITER, text))
            }
            Binding::NoObjectStorage(text) => {
                decision(Step::Rest, refused(seen, reasons::NO_OBJECT_STORAGE, text))
            }
        };
    };
    let name = WriterName::named(reference, own);
    let Some(writer) = find(seen.writers, &name) else {
        let text = absent(seen, &name, own);
        return decision(Step::Rest, refused(seen, reasons::WRITER_NOT_FOUND, text));
    };
    if !allows(writer, own) {
        let text = format!(
            "Writer {name} takes Streams of its own namespace only; set its \
             spec.allowedStreams.from to All, or delete this Stream and make it with another Writer"
        );
        return decision(Step::Rest, refused(seen, reasons::NOT_ALLOWED_BY_WRITER, text));
    }
    let put = match put(stream, seen.trust_domain) {
        Ok(put) => put,
        Err(error) => {
            let verdicts = refused(seen, reasons::INVALID_SPEC, error.to_string());
            return decision(Step::Rest, verdicts);
        }
    };
    let text = format!("Writer {name} keeps it");
    let accepted = Verdict::new(types::ACCEPTED, Truth::True, reasons::ACCEPTED, text);
    program(seen, writer, put, &accepted)
}

/// What brings back a Writer that is not there. The default one is not made for Streams that had it:
/// whoever deletes it would find it there again at once.
fn absent(seen: &Observed<'_>, name: &WriterName, own: &str) -> String {
    let is_default = name.namespace == seen.operators && name.name == DEFAULT_NAME;
    let made = || binding(own, seen.writers, seen.operators, seen.default_writer);
    if is_default && matches!(made(), Binding::Create(_)) {
        format!(
            "there is no Writer {name}; create it, or a Stream without spec.writerRef in namespace \
             {own}, for which the operator makes it"
        )
    } else {
        format!("there is no Writer {name}; create it")
    }
}

/// A Stream that has a Writer which takes it.
fn program(
    seen: &Observed<'_>,
    writer: &Writer,
    put: pb::PutStream,
    accepted: &Verdict,
) -> Decision {
    let name = WriterName::of(writer);
    let known_id = known_id(seen.stream);
    let said = |step, stream_id, truth, reason, text: String| {
        let programmed = Verdict::new(types::PROGRAMMED, truth, reason, text);
        Decision { step, stream_id, verdicts: conditions(seen, accepted.clone(), programmed) }
    };
    let is_going = writer.metadata.deletion_timestamp.is_some();
    let Some(founded) = Founded::of(writer).filter(|_| !is_going) else {
        let text = if is_going { "is being deleted" } else { "does not serve yet" };
        let text = format!("Writer {name} {text}");
        return said(Step::Rest, known_id, Truth::False, reasons::WRITER_NOT_READY, text);
    };
    let pending = |step| {
        let text = format!("it is being declared in Writer {name}");
        said(step, known_id, Truth::Unknown, reasons::PENDING, text)
    };
    let known = match seen.asked {
        Asked::NotYet => return pending(Step::Ask(founded)),
        Asked::Failed(error) => {
            let (truth, reason, text) = failure(error);
            return said(Step::Retry, known_id, truth, reason, text);
        }
        Asked::Known(known) => known,
    };
    let wanted = Wanted::stream(&put);
    let Some(declared) = known.declared.as_ref().filter(|one| one.is(&wanted)) else {
        let is_drift = known.put.as_ref() == Some(&wanted);
        return pending(Step::Put { writer: founded, put, is_drift });
    };
    let stream_id = declared.stream_id;
    if declared.is_closed() {
        return pending(Step::Open { writer: founded, stream_id });
    }
    let (reason, text) = if seen.is_reattached || was_reattached(seen.stream) {
        let text = "the records of an earlier Stream of this name are in it";
        (reasons::REATTACHED, format!("it is stream {stream_id} of Writer {name}; {text}"))
    } else {
        (reasons::PROGRAMMED, format!("it is stream {stream_id} of Writer {name}"))
    };
    said(Step::Rest, Some(stream_id), Truth::True, reason, text)
}

/// A Stream that is being deleted.
fn deletion(seen: &Observed<'_>) -> Decision {
    let stream = seen.stream;
    let said = |step, stream_id: Option<u64>, reason, text: String| {
        let deleting = Verdict::new(types::DELETING, Truth::True, reason, text.clone());
        let verdicts = [types::READY, types::ACCEPTED, types::PROGRAMMED]
            .map(|one| Verdict::new(one, Truth::False, reason, text.clone()));
        let verdicts = verdicts.into_iter().chain([deleting]).collect();
        Decision { step, stream_id, verdicts }
    };
    let known_id = known_id(stream);
    let release =
        |text: &str| said(Step::RemoveFinalizer, known_id, reasons::PURGE_PENDING, text.to_owned());
    if !has_finalizer(stream) {
        return said(Step::Rest, known_id, reasons::PURGE_PENDING, "it goes".to_owned());
    }
    let forced = stream.annotations().get(annotation::FORCE_DELETE);
    if forced.is_some_and(|value| value == annotation::TRUE) {
        return release("it goes without its records, as the annotation says");
    }
    if seen.is_terminating || !wants_purge(stream) {
        return release("it goes without its records");
    }
    let Some(reference) = &stream.spec.writer_ref else {
        return release("it never had a Writer");
    };
    let own = stream.metadata.namespace.as_deref().unwrap_or_default();
    let name = WriterName::named(reference, own);
    let Some(writer) = find(seen.writers, &name) else {
        let text = format!("Writer {name} is gone");
        return said(Step::ReleaseWithout(name), known_id, reasons::WRITER_UNREACHABLE, text);
    };
    let Some(founded) = Founded::of(writer) else {
        if known_id.is_none() {
            return release("it never was in a Writer");
        }
        let text = format!("Writer {name} does not serve yet");
        return said(Step::Look, known_id, reasons::WRITER_UNREACHABLE, text);
    };
    let known = match seen.asked {
        Asked::NotYet => {
            let text = format!("Writer {name} is being asked");
            return said(Step::Ask(founded), known_id, reasons::PURGE_PENDING, text);
        }
        Asked::Failed(error) => {
            let text = error.to_string();
            return said(Step::Retry, known_id, reasons::WRITER_UNREACHABLE, text);
        }
        Asked::Known(known) => known,
    };
    let uid = stream.metadata.uid.as_deref().unwrap_or_default();
    let stream_id = match &known.declared {
        // The name means the records of another object by now, or still.
        Some(Declared { object, .. }) if object.uid != uid => {
            return release("the records of this name are another Stream's");
        }
        Some(declared) => Some(declared.stream_id),
        None => known_id,
    };
    let Some(stream_id) = stream_id else { return release("it never was in a Writer") };
    match seen.objects_left {
        Some(0) => release("its records are gone"),
        Some(left) => {
            let text = format!("{left} objects are left in the bucket");
            said(Step::Look, Some(stream_id), reasons::PURGE_PENDING, text)
        }
        None => {
            let text = format!("Writer {name} deletes its records");
            let step = Step::Purge { writer: founded, stream_id };
            said(step, Some(stream_id), reasons::PURGE_PENDING, text)
        }
    }
}

/// The declaration.
fn put(stream: &Stream, trust_domain: &str) -> Result<pb::PutStream, super::rights::NoSuchName> {
    let metadata = &stream.metadata;
    let generation = metadata.generation.and_then(|one| u64::try_from(one).ok());
    Ok(pb::PutStream {
        object: Some(pb::ObjectRef {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: generation.unwrap_or_default(),
        }),
        name: format!(
            "{}/{}",
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default()
        ),
        settings: Some(pb::StreamSettings::default()),
        rights: Some(rights(stream, trust_domain)?),
        expected: None,
    })
}

/// How a failed call shows.
pub(crate) fn failure(error: &admin::Error) -> (Truth, &'static str, String) {
    if error.is_passing() {
        (Truth::Unknown, reasons::ADMIN_UNREACHABLE, error.to_string())
    } else {
        (Truth::False, reasons::REJECTED_BY_WRITER, error.to_string())
    }
}

fn refused(seen: &Observed<'_>, reason: &'static str, text: String) -> Vec<Verdict> {
    let accepted = Verdict::new(types::ACCEPTED, Truth::False, reason, text);
    conditions(seen, accepted, not_programmed())
}

fn not_programmed() -> Verdict {
    let text = "it is not accepted yet";
    Verdict::new(types::PROGRAMMED, Truth::Unknown, reasons::PENDING, text)
}

/// All conditions: what is said of two, `Ready`, and `Stalled` if a person has to do something.
fn conditions(seen: &Observed<'_>, accepted: Verdict, programmed: Verdict) -> Vec<Verdict> {
    let failing = [&accepted, &programmed].into_iter().find(|one| one.truth != Truth::True);
    let ready = if let Some(obstacle) = seen.service.obstacle(&accepted, &programmed) {
        obstacle
    } else if !seen.is_in_bootstrap {
        let text = "the ConfigMap pyramid-bootstrap does not name it yet";
        Verdict::new(types::READY, Truth::False, reasons::PENDING, text)
    } else {
        Verdict::new(types::READY, Truth::True, reasons::READY, "it takes appends")
    };
    let needs_person = failing.filter(|one| {
        one.truth == Truth::False
            && [
                reasons::NO_OBJECT_STORAGE,
                reasons::NOT_ALLOWED_BY_WRITER,
                reasons::INVALID_SPEC,
                reasons::REJECTED_BY_WRITER,
            ]
            .contains(&one.reason)
    });
    let stalled = needs_person.map(|one| Verdict { truth: Truth::True, ..one.of(types::STALLED) });
    [ready, accepted, programmed].into_iter().chain(stalled).collect()
}

fn find<'a>(writers: &'a [Arc<Writer>], name: &WriterName) -> Option<&'a Writer> {
    writers.iter().map(AsRef::as_ref).find(|writer| WriterName::of(writer) == *name)
}

fn wants_purge(stream: &Stream) -> bool {
    match stream.spec.deletion_policy {
        Fate::Retain => false,
        Fate::Delete => true,
    }
}

fn has_finalizer(stream: &Stream) -> bool {
    stream.finalizers().iter().any(|one| one == finalizer::PURGE_STREAM)
}

pub(super) fn known_id(stream: &Stream) -> Option<u64> {
    stream.status.as_ref()?.stream_id.as_deref()?.parse().ok()
}

fn was_reattached(stream: &Stream) -> bool {
    let conditions = stream.status.as_ref().map(|one| &*one.conditions).unwrap_or_default();
    let programmed = pyramid_crds::condition::find(conditions, types::PROGRAMMED);
    programmed.is_some_and(|one| one.reason == reasons::REATTACHED)
}

#[cfg(test)]
mod tests;
