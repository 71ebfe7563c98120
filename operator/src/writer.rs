//! The controller of Writers.
//!
//! One pass: read everything anew ([`observe`]), decide one step ([`plan`](mod@plan)), do it
//! ([`act`]), and so on until nothing is left to do now; then say how it stands ([`status`]).

mod act;
mod applied;
mod children;
#[cfg(test)]
mod fixture;
mod observe;
mod plan;
mod quantity;
mod status;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use pyramid_crds::condition::{Observation, Truth, reasons, types};
use pyramid_crds::{Writer, label};
use pyramid_protocol::{Clock as _, Entropy, SystemClock, SystemEntropy};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

use self::act::Actor;
use self::applied::Applied;
use self::children::Parent;
use self::observe::{Live, Pass};
use self::plan::{Observed, Step, Stop, Wait, plan};
use self::status::Facts;
use crate::context::Context;
use crate::kinds::bound::Bound;
use crate::kinds::retries::{self, Failure};
use crate::lean::pages;
use crate::{admin, metrics, pki};

/// Writers that are worked on at once.
const CONCURRENCY: u16 = 4;
/// Writers are looked at again because of their Streams after this long: many may come at once.
const COUNT_AGAIN: Duration = Duration::from_secs(5);
/// Steps of one pass. A new Writer takes ten; a pass that goes on and on is a bug, and waits.
const STEPS_MAX: usize = 24;
/// Somebody else changed the object between our reading and writing.
const CONFLICT_RETRY: Duration = Duration::from_millis(100);
/// A Pod that was evicted may hold up those of other Writers for this long.
const ROLLOUT_MAX: Duration = Duration::from_secs(600);
/// Waits are shorter or longer by up to this many hundredths, so that Writers spread out.
const JITTER_PERCENT: u64 = 10;

/// Why a pass broke off. It begins anew later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server did not do it.
    #[error("{doing}")]
    Kube {
        /// What was to be done.
        doing: &'static str,
        /// What it says.
        source: Box<kube::Error>,
    },
    /// The replica did not do it.
    #[error(transparent)]
    Admin(#[from] admin::Error),
    /// There is no certificate.
    #[error("make the certificate")]
    Certificate(#[from] pki::Error),
    /// Somebody has changed the status by hand.
    #[error("status.clusterID is {text:?}; put back what it was")]
    ClusterId {
        /// What it is.
        text: String,
        /// What is wrong with it.
        source: plan::ParseClusterIdError,
    },
}

impl Error {
    fn kube(doing: &'static str) -> impl Fn(kube::Error) -> Self {
        move |source| Self::Kube { doing, source: Box::new(source) }
    }

    fn api_status(&self) -> Option<&kube::core::Status> {
        let Self::Kube { source, .. } = self else {
            return None;
        };
        if let kube::Error::Api(status) = &**source { Some(status) } else { None }
    }

    /// What the API server will refuse until somebody changes something, in its words.
    fn refusal(&self) -> Option<&str> {
        let is_lasting = self.failure() == Failure::Lasting && !self.is_namespace_terminating();
        self.api_status().filter(|_| is_lasting).map(|status| &*status.message)
    }

    /// The object is another one than the one that was read.
    fn is_conflict(&self) -> bool {
        self.api_status().is_some_and(kube::core::Status::is_conflict)
    }

    fn failure(&self) -> Failure {
        match self {
            Self::Kube { source, .. } => Failure::of_server(source),
            Self::Admin(error) => Failure::of_writer(error),
            Self::Certificate(_) | Self::ClusterId { .. } => Failure::Lasting,
        }
    }

    /// Nothing can be made in a namespace that goes; nothing needs to.
    fn is_namespace_terminating(&self) -> bool {
        self.api_status()
            .is_some_and(|status| status.is_forbidden() && status.message.contains("terminated"))
    }
}

/// What the passes have in common.
struct Shared {
    context: Arc<Context>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Failures in a row.
    failures: HashMap<ObjectRef<Writer>, u32>,
    /// Their children, as they were applied last.
    applied: HashMap<ObjectRef<Writer>, Arc<Applied>>,
    /// The one Writer whose Pod is being replaced, and since when.
    rolling: Option<(ObjectRef<Writer>, Instant)>,
}

type Guarded = DeserializeGuard<Writer>;

/// Runs until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let client = &context.client;
    let mut controller = Controller::new(Api::<Guarded>::all(client.clone()), pages())
        .with_config(controller::Config::default().concurrency(CONCURRENCY));
    let children = pages().labels(&format!("{}={}", label::MANAGED_BY, label::OPERATOR));
    for namespace in namespaces(&context.settings.writer_namespaces) {
        controller = controller
            .owns::<StatefulSet>(scope(client, namespace), children.clone())
            .owns::<Service>(scope(client, namespace), children.clone())
            .owns::<ServiceAccount>(scope(client, namespace), children.clone());
    }
    // A new root means new certificates for all.
    let trusts = WatchStream::from_changes(context.trust.clone()).map(drop);
    let shared = Arc::new(Shared { context: Arc::clone(&context), memory: Mutex::default() });
    controller
        .reconcile_all_on(trusts)
        .reconcile_all_on(bindings(Arc::clone(&context.bound)))
        .graceful_shutdown_on(async move { shutdown.cancelled().await })
        .run(reconcile, error_policy, shared)
        .for_each(|visited| async move {
            if let Err(error) = visited {
                let error = pyramid_telemetry::logs::causes(&error);
                tracing::debug!(error, "Writers are watched again");
            }
        })
        .await;
}

/// Says that some Writer has another number of Streams. There are few Writers, so that it is not
/// said which; and at most once in [`COUNT_AGAIN`].
fn bindings(bound: Arc<Bound>) -> impl Stream<Item = ()> + Send {
    futures::stream::unfold((bound, false), |(bound, is_again)| async move {
        if is_again {
            sleep(COUNT_AGAIN).await;
        }
        bound.changed().await;
        Some(((), (bound, true)))
    })
}

/// Namespaces to watch children in; `None`: all.
fn namespaces(enabled: &[String]) -> Vec<Option<&str>> {
    if enabled.iter().any(|name| name == "*") {
        return vec![None];
    }
    enabled.iter().map(|name| Some(&**name)).collect()
}

fn scope<K>(client: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn reconcile(found: Arc<Guarded>, shared: Arc<Shared>) -> Result<Action, Error> {
    let (Some(namespace), name) = (found.namespace(), found.name_any()) else {
        return Ok(Action::await_change());
    };
    let key = ObjectRef::new(&name).within(&namespace);
    let start = Instant::now();
    let visited = match &found.0 {
        Ok(_) => Box::pin(shared.visit(&namespace, &name, &key)).await,
        Err(invalid) => shared.refuse(&namespace, &name, invalid).await,
    };
    let metrics = &shared.context.metrics;
    metrics.reconciled(metrics::Controller::Writer, visited.is_ok(), start.elapsed());
    match visited {
        Err(error) if error.is_namespace_terminating() => Ok(shared.again(&Step::Gone)),
        visited => {
            if visited.is_ok() {
                shared.memory().failures.remove(&key);
            }
            visited
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the controller calls it so")]
fn error_policy(found: Arc<Guarded>, error: &Error, shared: Arc<Shared>) -> Action {
    let name = found.name_any();
    let namespace = found.namespace().unwrap_or_default();
    let key = ObjectRef::new(&name).within(&namespace);
    let failures = {
        let mut memory = shared.memory();
        let failures = memory.failures.entry(key).or_default();
        *failures = failures.saturating_add(1);
        *failures
    };
    if error.is_conflict() && failures == 1 {
        return Action::requeue(CONFLICT_RETRY);
    }
    let mut wait = retries::doubled(failures, error.failure());
    if error.refusal().is_some() {
        // What runs all the same is looked at as often as ever.
        wait = wait.min(shared.context.settings.waits.stats());
    }
    let wait = jittered(wait, &SystemEntropy);
    let error = pyramid_telemetry::logs::causes(error);
    tracing::warn!(namespace, name, ?wait, error, "the Writer is looked at again later");
    Action::requeue(wait)
}

/// Shorter or longer by up to [`JITTER_PERCENT`].
fn jittered(wait: Duration, entropy: &dyn Entropy) -> Duration {
    let percent = 100 - JITTER_PERCENT + entropy.u64() % (2 * JITTER_PERCENT + 1);
    wait.saturating_mul(u32::try_from(percent).unwrap_or(100)) / 100
}

fn now() -> Time {
    let ms = i64::try_from(SystemClock.wall_ms()).unwrap_or_default();
    Time(Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH))
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn visit(
        &self,
        namespace: &str,
        name: &str,
        key: &ObjectRef<Writer>,
    ) -> Result<Action, Error> {
        let api = Api::<Writer>::namespaced(self.context.client.clone(), namespace);
        let applied = Arc::clone(self.memory().applied.entry(key.clone()).or_default());
        let mut pass = Pass::default();
        for _ in 0..STEPS_MAX {
            let read = api.get_opt(name).await.map_err(Error::kube("read the Writer"))?;
            let Some(writer) = read else {
                self.forget(namespace, name, key);
                return Ok(Action::await_change());
            };
            let parent = Parent { writer: &writer, name, namespace };
            let live = Box::pin(observe::read(&self.context, parent)).await?;
            let seen = live.observed(parent, pass)?;
            let mut step = plan(&seen);
            if matches!(step, Step::EvictPod { .. }) && !self.may_roll(key) {
                step = Step::Wait(Wait::Pod);
            }
            let ends = matches!(step, Step::Stop(_) | Step::Wait(_) | Step::Stable | Step::Gone);
            if ends {
                self.settle(parent, &live, &seen, &step, key).await?;
                return Ok(self.again(&step));
            }
            if matches!(step, Step::ApplyChildren | Step::ApplyTls) {
                tracing::debug!(namespace, name, ?step, "Writer");
            } else {
                tracing::info!(namespace, name, ?step, "Writer");
            }
            let actor = Actor { context: &self.context, parent, live: &live, applied: &applied };
            if let Err(error) = actor.act(&step, &mut pass).await {
                if let Some(words) = error.refusal() {
                    let step = Step::Stop(Stop::Refused(words.to_owned()));
                    let told = self.settle(parent, &live, &seen, &step, key).await;
                    if let Err(untold) = told {
                        let error = pyramid_telemetry::logs::causes(&untold);
                        tracing::warn!(namespace, name, error, "the refusal is told later");
                    }
                }
                return Err(error);
            }
        }
        tracing::warn!(namespace, name, "the Writer needs more steps than it should");
        Ok(Action::requeue(self.context.settings.waits.progress()))
    }

    /// Ends a pass: says how it stands.
    async fn settle(
        &self,
        parent: Parent<'_>,
        live: &Live,
        seen: &Observed,
        step: &Step,
        key: &ObjectRef<Writer>,
    ) -> Result<(), Error> {
        let Parent { writer, name, namespace } = parent;
        if step == &Step::Gone {
            self.forget(namespace, name, key);
            return Ok(());
        }
        if step == &Step::Stable {
            self.end_rollout(key);
        }
        let facts = Facts { parent, settings: &self.context.settings, live, seen, step };
        let before = writer.status.clone().unwrap_or_default();
        let after = facts.status(&now());
        if after == before {
            return Ok(());
        }
        act::write_status(&self.context, parent, &after).await?;
        for status::News { type_, reason, note } in status::news(&before, &after) {
            self.context.tell(&writer.object_ref(&()), type_, &reason, note).await;
        }
        Ok(())
    }

    /// When to look again, without any event.
    fn again(&self, step: &Step) -> Action {
        let waits = self.context.settings.waits;
        let wait = match step {
            // Nothing tells when the Writer loses or finds its bucket, or a Secret goes or comes.
            Step::Stable | Step::Stop(_) => waits.stats(),
            Step::Gone => return Action::await_change(),
            Step::Wait(_)
            | Step::AddFinalizer
            | Step::RemoveFinalizer
            | Step::NameCluster
            | Step::AdoptCluster { .. }
            | Step::CreateKek
            | Step::ApplyTls
            | Step::ApplyChildren
            | Step::Bootstrap { .. }
            | Step::RecordMember { .. }
            | Step::StampClaim { .. }
            | Step::GrowClaim { .. }
            | Step::EvictPod { .. }
            | Step::DeleteSet { .. }
            | Step::DeleteClaim { .. } => waits.progress(),
        };
        Action::requeue(jittered(wait, &SystemEntropy))
    }

    /// Tells whoever made an object that its spec cannot be read.
    async fn refuse(
        &self,
        namespace: &str,
        name: &str,
        invalid: &kube::core::error_boundary::InvalidObject,
    ) -> Result<Action, Error> {
        let generation = invalid.metadata.generation.unwrap_or_default();
        // Always the same: else each writing would be a change, and lead to the next.
        let since = invalid.metadata.creation_timestamp.clone().unwrap_or_else(now);
        let look = Observation { previous: &[], generation, now: since };
        let message = format!("the spec cannot be read: {}", invalid.error);
        let conditions = [(types::READY, Truth::False), (types::STALLED, Truth::True)]
            .map(|(r#type, truth)| look.condition(r#type, truth, reasons::INVALID_SPEC, &*message));
        act::refuse(&self.context, namespace, name, &invalid.metadata, &conditions).await?;
        Ok(Action::await_change())
    }

    /// Whether a Pod of this Writer may be replaced now: only one Writer's is at a time, for a
    /// while.
    fn may_roll(&self, key: &ObjectRef<Writer>) -> bool {
        let now = Instant::now();
        let mut memory = self.memory();
        let is_taken = memory
            .rolling
            .as_ref()
            .is_some_and(|(other, since)| other != key && now.duration_since(*since) < ROLLOUT_MAX);
        if !is_taken {
            memory.rolling = Some((key.clone(), now));
        }
        !is_taken
    }

    fn end_rollout(&self, key: &ObjectRef<Writer>) {
        self.memory().rolling.take_if(|(rolling, _)| rolling == key);
    }

    fn forget(&self, namespace: &str, name: &str, key: &ObjectRef<Writer>) {
        self.end_rollout(key);
        let mut memory = self.memory();
        memory.failures.remove(key);
        memory.applied.remove(key);
        drop(memory);
        self.context.writers.forget(namespace, name);
    }
}

#[cfg(test)]
mod tests;
