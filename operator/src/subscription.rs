//! The controller of Subscriptions: finds out which Streams each has, and declares it in their
//! Writer.

mod decide;
pub(crate) mod resolve;

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::runtime::{Config, applier};
use kube::{Resource, ResourceExt};
use pyramid_crds::condition::{Truth, find, reasons, types};
use pyramid_crds::{Stream, Subscription};
use pyramid_protocol::pb::v1 as pb;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use decide::is_paused;
use decide::{Asked, Decision, Observed, Step, decide};
use resolve::{Resolution, Streams, resolve};

use crate::admin;
use crate::bootstrap::place;
use crate::context::{MANAGER, STATS_MANAGER};
use crate::kinds::Kinds;
use crate::kinds::configured::{Declared, Name, Wanted};
use crate::kinds::retries::{Failure, spread};
use crate::kinds::status::{self, Present, Set, Verdict};
use crate::kinds::writers::{Founded, Service, WriterName};
use crate::metrics::Controller;

/// Subscriptions that are looked at at the same time.
const CONCURRENCY: u16 = 16;
/// Steps of one look: leaving former Writers, asking, declaring, and one more to say so.
const STEPS_MAX: usize = 16;
/// The conditions that this controller writes.
const TYPES: [&str; 4] = [types::READY, types::RESOLVED_REFS, types::PROGRAMMED, types::STALLED];

/// Why a look at a Subscription broke off. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("write a status")]
    Kube(#[source] kube::Error),
    /// What the Writer said is in the status.
    #[error("the Writer did not do it")]
    Writer(#[source] admin::Error),
}

impl Error {
    fn failure(&self) -> Failure {
        match self {
            Self::Kube(source) => Failure::of_server(source),
            Self::Writer(error) => Failure::of_writer(error),
        }
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(kinds: Arc<Kinds>, shutdown: CancellationToken) {
    if !kinds.caches_are_full(&shutdown).await {
        return;
    }
    let queue = Arc::clone(&kinds.queues.subscriptions).stream();
    let store = kinds.caches.subscriptions.clone();
    let config = Config::default().concurrency(CONCURRENCY);
    let stop = shutdown.cancelled_owned();
    let reconcile = |subscription, kinds| reconcile(subscription, kinds).boxed();
    applier(reconcile, error_policy, kinds, store, queue.take_until(stop.boxed()), config)
        .for_each(|_looked| std::future::ready(()))
        .await;
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn error_policy(
    subscription: Arc<DeserializeGuard<Subscription>>,
    error: &Error,
    kinds: Arc<Kinds>,
) -> Action {
    let name = key(&*subscription);
    let wait = kinds.retries.failed(&name, error.failure());
    tracing::warn!(name, ?wait, error = error as &dyn std::error::Error, "look at a Subscription");
    Action::requeue(wait)
}

fn key(object: &impl ResourceExt) -> String {
    format!("Subscription {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

async fn reconcile(
    guarded: Arc<DeserializeGuard<Subscription>>,
    kinds: Arc<Kinds>,
) -> Result<Action, Error> {
    let begun = Instant::now();
    let looked = look(&guarded, &kinds).await;
    kinds.context.metrics.reconciled(Controller::Subscription, looked.is_ok(), begun.elapsed());
    if looked.is_ok() {
        kinds.retries.reset(&key(&*guarded));
    }
    looked
}

async fn look(guarded: &DeserializeGuard<Subscription>, kinds: &Kinds) -> Result<Action, Error> {
    let subscription = match &guarded.0 {
        Ok(subscription) => subscription,
        Err(bad) => {
            say_invalid(kinds, guarded, format!("it cannot be read: {}", bad.error)).await?;
            return Ok(Action::requeue(kinds.context.settings.waits.resync()));
        }
    };
    // Nothing holds it: the Writer forgets it when it is gone.
    if subscription.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    Look::new(kinds, subscription).run().await
}

/// A Subscription that does not decode.
async fn say_invalid(
    kinds: &Kinds,
    guarded: &DeserializeGuard<Subscription>,
    text: String,
) -> Result<(), Error> {
    let resolved = Verdict::new(types::RESOLVED_REFS, Truth::False, reasons::INVALID_SPEC, text);
    let verdicts = [
        resolved.of(types::READY),
        Verdict { truth: Truth::True, ..resolved.of(types::STALLED) },
        Verdict::new(types::PROGRAMMED, Truth::Unknown, reasons::PENDING, "it is not resolved"),
        resolved,
    ];
    let client = &kinds.context.client;
    let namespace = guarded.namespace().unwrap_or_default();
    let there = status::read::<Subscription>(client, &namespace, &guarded.name_any()).await;
    let (status, conditions) = there.map_err(Error::Kube)?;
    let present = Present { object: guarded, status, conditions: &conditions };
    let fields = vec![("observedGeneration", json!(guarded.meta().generation))];
    let set = Set { manager: MANAGER, fields, types: &TYPES, verdicts: &verdicts };
    status::write(client, &present, &set).await.map_err(Error::Kube)?;
    Ok(())
}

/// The Streams of the caches.
impl Streams for Kinds {
    fn find(&self, namespace: &str, name: &str) -> Option<Stream> {
        self.stream(namespace, name)?.0.as_ref().ok().cloned()
    }

    fn of_namespace(&self, namespace: &str) -> Vec<Stream> {
        let found = self
            .caches
            .streams
            .state_filter(|one| one.0.is_ok() && one.namespace().as_deref() == Some(namespace));
        found.iter().filter_map(|one| one.0.as_ref().ok().cloned()).collect()
    }
}

impl Kinds {
    /// The Writers that take declarations.
    pub(crate) fn founded(&self) -> Vec<Founded> {
        let writers = self.caches.writers.state();
        let readable = writers.iter().filter_map(|guarded| guarded.0.as_ref().ok());
        readable.filter_map(Founded::of).collect()
    }
}

/// One look at one Subscription.
struct Look<'a> {
    kinds: &'a Kinds,
    subscription: &'a Subscription,
    resolution: Resolution,
    founded: Vec<Founded>,
    /// Of the Writer that has its Streams.
    service: Service,
    name: Name,
    asked: Asked,
}

impl<'a> Look<'a> {
    fn new(kinds: &'a Kinds, subscription: &'a Subscription) -> Self {
        let namespace = subscription.namespace().unwrap_or_default();
        let resolution = resolve(subscription, kinds);
        Self {
            kinds,
            subscription,
            service: kinds.service(resolution.writer()),
            resolution,
            founded: kinds.founded(),
            name: Name::subscription(&namespace, &subscription.name_any()),
            asked: Asked::NotYet,
        }
    }

    async fn run(mut self) -> Result<Action, Error> {
        let waits = self.kinds.context.settings.waits;
        for _ in 0..STEPS_MAX {
            let decision = self.decide();
            match &decision.step {
                Step::Ask(writer) => {
                    let writers = &self.kinds.context.writers;
                    let known = self.kinds.configured.known(writers, writer, &self.name).await;
                    self.asked = known.map_or_else(Asked::Failed, Asked::Known);
                }
                Step::Put { writer, put, is_drift } => {
                    self.asked = match self.put(writer, put, *is_drift).await {
                        Ok(()) => Asked::NotYet,
                        Err(error) => Asked::Failed(error),
                    };
                }
                Step::Remove(writer) => {
                    if let Err(error) = self.remove(writer).await {
                        self.asked = Asked::Failed(error);
                    }
                }
                Step::Rest | Step::Retry => {
                    self.write(&decision).await?;
                    if let (Step::Retry, Asked::Failed(error)) = (decision.step, self.asked) {
                        return Err(Error::Writer(error));
                    }
                    let resync = spread(&key(self.subscription), 0, waits.resync());
                    let wait = self.service.rest(resync);
                    return Ok(Action::requeue(wait));
                }
            }
        }
        Ok(Action::requeue(waits.progress()))
    }

    fn decide(&self) -> Decision {
        let Self { kinds, subscription, resolution, .. } = self;
        let writer = resolution.writer();
        let is_writer = |one: &&Founded| Some(&one.name) == writer;
        let former: Vec<Founded> = kinds
            .configured
            .holders(&self.founded, &self.name)
            .into_iter()
            .filter(|one| !is_writer(one))
            .cloned()
            .collect();
        let bootstrap = kinds.bootstrap_of(&self.name.namespace);
        let named = bootstrap.as_ref().and_then(|one| one.subscriptions.get(&self.name.name));
        let wanted = writer.and_then(|writer| place(subscription, writer));
        decide(&Observed {
            subscription,
            resolution,
            writer: self.founded.iter().find(is_writer),
            service: &self.service,
            former: &former,
            trust_domain: &kinds.trust_domain(),
            asked: &self.asked,
            is_in_bootstrap: named.is_some() && named == wanted.as_ref(),
        })
    }

    fn replica(&self, writer: &Founded) -> Result<admin::Replica, admin::Error> {
        let WriterName { namespace, name } = &writer.name;
        self.kinds.context.writers.replica(namespace, name, writer.ordinal)
    }

    async fn put(
        &self,
        writer: &Founded,
        put: &pb::PutSubscription,
        is_drift: bool,
    ) -> Result<(), admin::Error> {
        let replica = self.replica(writer)?;
        let results = replica.put_subscriptions(writer.cluster_id, vec![put.clone()]).await?;
        let Some(result) = results.into_iter().next() else { return Ok(()) };
        result?;
        let wanted = Wanted::subscription(put);
        let declared = Declared {
            object: wanted.object.clone(),
            content_sha256: wanted.content_sha256.clone(),
            stream_id: 0,
            info: None,
        };
        self.kinds.configured.put(writer, &self.name, wanted, declared);
        if is_drift {
            self.kinds.context.metrics.drift_corrected.inc();
            let note = "the Writer held something else than was declared";
            self.kinds.tell(self.subscription, EventType::Warning, "DriftCorrected", note).await;
        }
        Ok(())
    }

    async fn remove(&self, writer: &Founded) -> Result<(), admin::Error> {
        let declared = self.kinds.configured.all(writer).remove(&self.name);
        let Some(declared) = declared else { return Ok(()) };
        let name = self.name.to_string();
        let replica = self.replica(writer)?;
        match replica.delete_subscription(writer.cluster_id, &name, declared.object).await {
            Ok(()) | Err(admin::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.kinds.configured.removed(writer, &self.name);
        Ok(())
    }

    async fn write(&self, decision: &Decision) -> Result<(), Error> {
        let subscription = self.subscription;
        let status = subscription.status.as_ref();
        let conditions = status.map(|one| &*one.conditions).unwrap_or_default();
        let present = Present {
            object: subscription,
            status: status.map_or(Value::Null, |one| json!(one)),
            conditions,
        };
        let fields = vec![
            ("observedGeneration", json!(subscription.metadata.generation)),
            ("streamCount", json!(decision.stream_count)),
        ];
        let set = Set { manager: MANAGER, fields, types: &TYPES, verdicts: &decision.verdicts };
        let client = &self.kinds.context.client;
        status::write(client, &present, &set).await.map_err(Error::Kube)?;
        // Whoever writes the numbers owns this condition, and comes later; all of them shall be
        // there from the first visit on.
        if find(conditions, types::DELIVERING).is_none() {
            let text = "nothing was heard of pushers yet";
            let verdict = Verdict::new(types::DELIVERING, Truth::Unknown, reasons::PENDING, text);
            let set = Set {
                manager: STATS_MANAGER,
                fields: Vec::new(),
                types: &[types::DELIVERING],
                verdicts: &[verdict],
            };
            status::write(client, &present, &set).await.map_err(Error::Kube)?;
        }
        Ok(())
    }
}
