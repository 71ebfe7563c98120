//! The controller of Streams: binds each to a Writer, declares it there, and deletes its records
//! when that is what the Stream asks for.

mod bind;
mod decide;
mod finalizers;
pub(crate) mod rights;

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::runtime::{Config, applier};
use kube::{Resource, ResourceExt};
use pyramid_crds::condition::{Truth, reasons, types};
use pyramid_crds::{Stream, Writer, annotation, writer};
use pyramid_protocol::pb::v1 as pb;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use decide::failure;
use decide::{Asked, Decision, Observed, Step, decide, known_id};

use crate::admin;
use crate::context::{BIND_MANAGER, MANAGER};
use crate::kinds::Kinds;
use crate::kinds::configured::{Declared, Name, Wanted};
use crate::kinds::retries::{Failure, spread};
use crate::kinds::status::{self, Present, Set, Verdict};
use crate::kinds::writers::{Founded, Service, WriterName};
use crate::metrics::Controller;

/// Streams that are looked at at the same time.
const CONCURRENCY: u16 = 16;
/// Steps of one look: asking, declaring, opening, and one more to say so.
const STEPS_MAX: usize = 8;
/// The conditions that this controller writes.
const TYPES: [&str; 5] =
    [types::READY, types::ACCEPTED, types::PROGRAMMED, types::DELETING, types::STALLED];

/// Why a look at a Stream broke off. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{action}")]
    Kube { action: &'static str, source: kube::Error },
    /// What the Writer said is in the status.
    #[error("the Writer did not do it")]
    Writer(#[source] admin::Error),
}

impl Error {
    fn failure(&self) -> Failure {
        match self {
            Self::Kube { source, .. } => Failure::of_server(source),
            Self::Writer(error) => Failure::of_writer(error),
        }
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(kinds: Arc<Kinds>, shutdown: CancellationToken) {
    if !kinds.caches_are_full(&shutdown).await {
        return;
    }
    let queue = Arc::clone(&kinds.queues.streams).stream();
    let store = kinds.caches.streams.clone();
    let config = Config::default().concurrency(CONCURRENCY);
    let stop = shutdown.cancelled_owned();
    let reconcile = |stream, kinds| reconcile(stream, kinds).boxed();
    applier(reconcile, error_policy, kinds, store, queue.take_until(stop.boxed()), config)
        .for_each(|_looked| std::future::ready(()))
        .await;
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn error_policy(stream: Arc<DeserializeGuard<Stream>>, error: &Error, kinds: Arc<Kinds>) -> Action {
    let name = key(&*stream);
    let wait = kinds.retries.failed(&name, error.failure());
    tracing::warn!(name, ?wait, error = error as &dyn std::error::Error, "look at a Stream");
    Action::requeue(wait)
}

fn key(object: &impl ResourceExt) -> String {
    format!("Stream {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

async fn reconcile(
    guarded: Arc<DeserializeGuard<Stream>>,
    kinds: Arc<Kinds>,
) -> Result<Action, Error> {
    let stream = match &guarded.0 {
        Ok(stream) => stream,
        Err(bad) => {
            let text = format!("it cannot be read: {}", bad.error);
            say_invalid(&kinds, &guarded, text).await?;
            return Ok(Action::requeue(kinds.context.settings.waits.resync()));
        }
    };
    let begun = Instant::now();
    let looked = Look::new(&kinds, stream).run().await;
    kinds.context.metrics.reconciled(Controller::Stream, looked.is_ok(), begun.elapsed());
    if looked.is_ok() {
        kinds.retries.reset(&key(stream));
    }
    looked
}

/// A Stream that does not decode.
async fn say_invalid(
    kinds: &Kinds,
    guarded: &DeserializeGuard<Stream>,
    text: String,
) -> Result<(), Error> {
    let accepted = Verdict::new(types::ACCEPTED, Truth::False, reasons::INVALID_SPEC, text);
    let verdicts = [
        accepted.of(types::READY),
        Verdict { truth: Truth::True, ..accepted.of(types::STALLED) },
        Verdict::new(types::PROGRAMMED, Truth::Unknown, reasons::PENDING, "it is not accepted"),
        accepted,
    ];
    let client = &kinds.context.client;
    let namespace = guarded.namespace().unwrap_or_default();
    let there = status::read::<Stream>(client, &namespace, &guarded.name_any()).await;
    let (status, conditions) =
        there.map_err(|source| Error::Kube { action: "read a status", source })?;
    let present = Present { object: guarded, status, conditions: &conditions };
    let fields = vec![("observedGeneration", json!(guarded.meta().generation))];
    let set = Set { manager: MANAGER, fields, types: &TYPES, verdicts: &verdicts };
    let written = status::write(client, &present, &set).await;
    written.map(|_| ()).map_err(|source| Error::Kube { action: "write a status", source })
}

/// One look at one Stream.
struct Look<'a> {
    kinds: &'a Kinds,
    stream: &'a Stream,
    namespace: String,
    name: Name,
    /// Of the Writer that it is bound to.
    service: Service,
    asked: Asked,
    objects_left: Option<u64>,
}

impl<'a> Look<'a> {
    fn new(kinds: &'a Kinds, stream: &'a Stream) -> Self {
        let namespace = stream.namespace().unwrap_or_default();
        let name = Name::stream(&namespace, &stream.name_any());
        let asked = Asked::NotYet;
        let bound = stream.spec.writer_ref.as_ref();
        let bound = bound.map(|one| WriterName::named(one, &namespace));
        Self {
            kinds,
            stream,
            service: kinds.service(bound.as_ref()),
            namespace,
            name,
            asked,
            objects_left: None,
        }
    }

    /// What concerns the Writer is done at once, what concerns Kubernetes ends the look: its watch
    /// brings the next one.
    async fn run(mut self) -> Result<Action, Error> {
        let waits = self.kinds.context.settings.waits;
        for _ in 0..STEPS_MAX {
            let decision = self.decide();
            match &decision.step {
                Step::Ask(writer) => {
                    let configured = &self.kinds.configured;
                    let writers = &self.kinds.context.writers;
                    self.asked = match configured.known(writers, writer, &self.name).await {
                        Ok(known) => Asked::Known(known),
                        Err(error) => Asked::Failed(error),
                    };
                    continue;
                }
                Step::Put { writer, put, is_drift } => {
                    let done = self.put(writer, put, *is_drift).await;
                    self.asked_again(writer, done).await;
                    continue;
                }
                Step::Open { writer, stream_id } => {
                    let done = self.open(writer, *stream_id).await;
                    self.asked_again(writer, done).await;
                    continue;
                }
                Step::Purge { writer, stream_id } => {
                    // First the number: it is all that leads to what is left in the bucket. Written
                    // each time, it would hide why the call failed, and bring the next look at once.
                    if known_id(self.stream) != Some(*stream_id) {
                        self.write(&decision).await?;
                    }
                    let done = self.purge(writer, *stream_id).await;
                    self.asked_again(writer, done).await;
                    continue;
                }
                Step::Rest
                | Step::Look
                | Step::Retry
                | Step::Bind { .. }
                | Step::CreateDefault(_)
                | Step::AddFinalizer
                | Step::RemoveFinalizer
                | Step::ReleaseWithout(_) => {}
            }
            self.write(&decision).await?;
            // What a Stream at rest waits for is watched.
            let wait = if decision.step == Step::Rest {
                self.service.rest(spread(&key(self.stream), 0, waits.resync()))
            } else {
                waits.progress()
            };
            self.act(decision.step).await?;
            return Ok(Action::requeue(wait));
        }
        Ok(Action::requeue(waits.progress()))
    }

    fn decide(&self) -> Decision {
        let Self { kinds, stream, namespace, .. } = self;
        let writers: Vec<Arc<Writer>> = kinds
            .caches
            .writers
            .state()
            .iter()
            .filter_map(|guarded| guarded.0.as_ref().ok().cloned().map(Arc::new))
            .collect();
        let full_name = self.name.to_string();
        let bound = stream.spec.writer_ref.as_ref();
        let bound = bound.map(|one| WriterName::named(one, namespace).to_string());
        let bootstrap = kinds.bootstrap_of(namespace);
        let named = bootstrap.as_ref().and_then(|one| one.streams.get(&full_name));
        decide(&Observed {
            stream,
            is_terminating: kinds.is_terminating(namespace),
            writers: &writers,
            service: &self.service,
            operators: &kinds.context.namespace,
            default_writer: &kinds.context.settings.default_writer,
            trust_domain: &kinds.trust_domain(),
            asked: &self.asked,
            objects_left: self.objects_left,
            is_reattached: kinds
                .configured
                .is_reattached(&self.name, stream.metadata.uid.as_deref()),
            is_in_bootstrap: named.is_some() && named == bound.as_ref(),
        })
    }

    /// After a change, what the Writer holds is what we have just put there.
    async fn asked_again(&mut self, writer: &Founded, done: Result<(), admin::Error>) {
        let configured = &self.kinds.configured;
        let known = match done {
            Ok(()) => configured.known(&self.kinds.context.writers, writer, &self.name).await,
            Err(error) => Err(error),
        };
        self.asked = known.map_or_else(Asked::Failed, Asked::Known);
    }

    fn replica(&self, writer: &Founded) -> Result<admin::Replica, admin::Error> {
        let WriterName { namespace, name } = &writer.name;
        self.kinds.context.writers.replica(namespace, name, writer.ordinal)
    }

    async fn put(
        &mut self,
        writer: &Founded,
        put: &pb::PutStream,
        is_drift: bool,
    ) -> Result<(), admin::Error> {
        let before = match &self.asked {
            Asked::Known(known) => known.declared.as_ref().map(|one| one.object.uid.clone()),
            Asked::NotYet | Asked::Failed(_) => None,
        };
        let replica = self.replica(writer)?;
        let results = replica.put_streams(writer.cluster_id, vec![put.clone()]).await?;
        let Some(result) = results.into_iter().next() else { return Ok(()) };
        let done = result?;
        let object = put.object.clone().unwrap_or_default();
        let wanted = Wanted::stream(put);
        let uid = object.uid.clone();
        let declared = Declared {
            object,
            content_sha256: wanted.content_sha256.clone(),
            stream_id: done.stream.stream_id,
            info: Some(done.stream),
        };
        self.kinds.configured.put(writer, &self.name, wanted, declared);
        if is_drift {
            self.kinds.context.metrics.drift_corrected.inc();
            let note = "the Writer held something else than was declared";
            self.kinds.tell(self.stream, EventType::Warning, "DriftCorrected", note).await;
        }
        if !done.created && before.is_some_and(|before| before != uid) {
            self.kinds.configured.reattached(writer, &self.name, uid);
            let note = "records of an earlier Stream of this name were found and are kept";
            self.kinds.tell(self.stream, EventType::Normal, "StreamReattached", note).await;
        }
        Ok(())
    }

    async fn open(&self, writer: &Founded, stream_id: u64) -> Result<(), admin::Error> {
        let name = self.name.to_string();
        self.replica(writer)?.set_closed(writer.cluster_id, &name, stream_id, false).await?;
        self.kinds.configured.set_closed(writer, &self.name, false);
        Ok(())
    }

    async fn purge(&mut self, writer: &Founded, stream_id: u64) -> Result<(), admin::Error> {
        let name = self.name.to_string();
        let replica = self.replica(writer)?;
        let left = replica.delete_stream(writer.cluster_id, &name, stream_id).await?;
        self.kinds.configured.removed(writer, &self.name);
        self.objects_left = Some(left);
        if left == 0 {
            let note = "its records are gone from the Writer and the bucket";
            self.kinds.tell(self.stream, EventType::Normal, "StreamPurged", note).await;
        }
        Ok(())
    }

    async fn write(&self, decision: &Decision) -> Result<(), Error> {
        let stream = self.stream;
        let status = stream.status.as_ref();
        let present = Present {
            object: stream,
            status: status.map_or(Value::Null, |one| json!(one)),
            conditions: status.map(|one| &*one.conditions).unwrap_or_default(),
        };
        let fields = vec![
            ("observedGeneration", json!(stream.metadata.generation)),
            ("streamID", decision.stream_id.map_or(Value::Null, |id| json!(id.to_string()))),
        ];
        let set = Set { manager: MANAGER, fields, types: &TYPES, verdicts: &decision.verdicts };
        let written = status::write(&self.kinds.context.client, &present, &set).await;
        written.map(|_| ()).map_err(|source| Error::Kube { action: "write a status", source })
    }

    async fn act(&self, step: Step) -> Result<(), Error> {
        match step {
            Step::Bind { writer, ignored } => self.bind(&writer, &ignored).await,
            Step::CreateDefault(spec) => self.create_default(spec).await,
            Step::AddFinalizer => self.patch_finalizers(true).await,
            Step::RemoveFinalizer => self.patch_finalizers(false).await,
            Step::ReleaseWithout(writer) => {
                if self.exists(&writer).await? {
                    Ok(())
                } else {
                    self.patch_finalizers(false).await
                }
            }
            Step::Retry => match &self.asked {
                Asked::Failed(error) => Err(Error::Writer(error.clone())),
                Asked::NotYet | Asked::Known(_) => Ok(()),
            },
            Step::Rest
            | Step::Look
            | Step::Ask(_)
            | Step::Put { .. }
            | Step::Open { .. }
            | Step::Purge { .. } => Ok(()),
        }
    }

    /// Asked of the server, not of the cache: what follows cannot be taken back.
    async fn exists(&self, writer: &WriterName) -> Result<bool, Error> {
        let api = status::api::<Writer>(&self.kinds.context.client, &writer.namespace);
        let found = api.get_metadata_opt(&writer.name).await;
        let found = found.map_err(|source| Error::Kube { action: "read a Writer", source })?;
        Ok(found.is_some())
    }

    async fn bind(&self, writer: &WriterName, ignored: &[String]) -> Result<(), Error> {
        if !self.exists(writer).await? {
            return Ok(());
        }
        let metadata = &self.stream.metadata;
        let patch = json!({
            "apiVersion": Stream::api_version(&()),
            "kind": Stream::kind(&()),
            "metadata": { "name": metadata.name, "uid": metadata.uid },
            "spec": { "writerRef": { "name": writer.name, "namespace": writer.namespace } },
        });
        let api = status::api::<Stream>(&self.kinds.context.client, &self.namespace);
        let params = PatchParams::apply(BIND_MANAGER).force();
        let bound = api.patch(&self.stream.name_any(), &params, &Patch::Apply(&patch)).await;
        bound.map_err(|source| Error::Kube { action: "bind a Stream", source })?;
        let note = format!("bound to Writer {writer}");
        self.kinds.tell(self.stream, EventType::Normal, "StreamBound", &note).await;
        if !ignored.is_empty() {
            let note = format!(
                "namespace {} has several default Writers; {} was taken as the oldest, not {}",
                writer.namespace,
                writer.name,
                ignored.join(", ")
            );
            self.kinds.tell(self.stream, EventType::Warning, "SeveralDefaultWriters", &note).await;
        }
        Ok(())
    }

    /// Made, not applied: a Writer that is there already is left as it is.
    async fn create_default(&self, spec: Map<String, Value>) -> Result<(), Error> {
        let namespace = &self.kinds.context.namespace;
        let made = json!({
            "apiVersion": Writer::api_version(&()),
            "kind": Writer::kind(&()),
            "metadata": {
                "name": writer::DEFAULT_NAME,
                "namespace": namespace,
                "annotations": { annotation::IS_DEFAULT_WRITER: annotation::TRUE },
            },
            "spec": spec,
        });
        let made: kube::api::DynamicObject =
            serde_json::from_value(made).map_err(|source| Error::Kube {
                action: "make the default Writer of the chart's values",
                source: kube::Error::SerdeError(source),
            })?;
        let api = status::api::<Writer>(&self.kinds.context.client, namespace);
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: false };
        match api.create(&params, &made).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(source) => Err(Error::Kube { action: "make the default Writer", source }),
        }
    }

    /// Only if the object is still as it was seen: a list that somebody else has changed since
    /// would lose his change.
    async fn patch_finalizers(&self, add: bool) -> Result<(), Error> {
        let Some(patch) = finalizers::patch(self.stream, add) else { return Ok(()) };
        let api = status::api::<Stream>(&self.kinds.context.client, &self.namespace);
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
        let patch = Patch::<Value>::Json(patch);
        match api.patch(&self.stream.name_any(), &params, &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(source) => Err(Error::Kube { action: "change the finalizers of a Stream", source }),
        }
    }
}
