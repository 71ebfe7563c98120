//! Numbers from the Writers: into status of Streams and Subscriptions; and the drift check.
//!
//! Three loops. One reads what each Writer holds and what pushers say, and has every object looked
//! at again whose declaration is not as it was put. One settles what Writers hold of objects that
//! are gone. One writes the numbers, at a pace that the server does not feel.

mod gone;
mod late;
mod numbers;
mod pace;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use pyramid_crds::condition::{Truth, find, reasons, types};
use pyramid_crds::{Stream, Subscription};
use pyramid_protocol::pb::v1 as pb;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::context::STATS_MANAGER;
use crate::kinds::Kinds;
use crate::kinds::configured::{Declared, Kind, Name};
use crate::kinds::retries::Failure;
use crate::kinds::status::{self, Present, Set, Verdict};
use crate::kinds::writers::{Founded, WriterName};
use crate::metrics::Controller;
use crate::subscription::is_paused;
use crate::subscription::resolve::resolve;
use late::Late;
use numbers::{Delivery, delivery, number};
use pace::Pace;

/// Writers that are asked at the same time.
const CONCURRENCY: usize = 8;
/// Writers are asked at least this often. Unit: seconds.
const ASK_SECONDS_MAX: u32 = 10;

/// What pushers say, by Writer; `None`: the Writer did not answer.
type Said = BTreeMap<WriterName, Option<Arc<Vec<pb::AttachedPusher>>>>;

/// Runs until `shutdown`.
pub(crate) async fn run(kinds: Arc<Kinds>, shutdown: CancellationToken) {
    if !kinds.caches_are_full(&shutdown).await {
        return;
    }
    let (tell, told) = watch::channel(Arc::default());
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = ask(&kinds, tell) => {}
        () = settle(&kinds) => {}
        () = write(&kinds, told) => {}
    }
}

async fn ask(kinds: &Kinds, tell: watch::Sender<Arc<Said>>) {
    let waits = kinds.context.settings.waits;
    let seconds = waits.stats_seconds.clamp(1, ASK_SECONDS_MAX);
    let mut ticks = interval(Duration::from_secs(seconds.into()));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let drift = Duration::from_secs(waits.drift_seconds.into());
    let mut checked: HashMap<Founded, Instant> = HashMap::new();
    let mut silent: BTreeSet<WriterName> = BTreeSet::new();
    loop {
        ticks.tick().await;
        let founded = kinds.founded();
        kinds.configured.retain(&founded);
        checked.retain(|writer, _| founded.contains(writer));
        let answers: Vec<(Founded, Option<_>)> = futures::stream::iter(founded)
            .map(|writer| async move {
                let said = ask_one(kinds, &writer).await;
                (writer, said)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let mut said = Said::new();
        for (writer, answer) in answers {
            let is_due = checked.get(&writer).is_none_or(|at| at.elapsed() >= drift);
            if answer.is_some() && is_due {
                for name in gone::suspects(kinds, &writer) {
                    kinds.gone.add(name);
                }
                checked.insert(writer.clone(), Instant::now());
            }
            if answer.is_none() {
                silent.insert(writer.name.clone());
            } else if silent.remove(&writer.name) {
                kinds.answers(&writer.name);
            }
            said.insert(writer.name, answer);
        }
        tell.send_replace(Arc::new(said));
    }
}

/// One Writer: what it holds, and what its pushers say. `None`: it did not answer.
async fn ask_one(kinds: &Kinds, writer: &Founded) -> Option<Arc<Vec<pb::AttachedPusher>>> {
    let begun = Instant::now();
    let WriterName { namespace, name } = &writer.name;
    let writers = &kinds.context.writers;
    let asked = async {
        let differs = kinds.configured.read(writers, writer).await?;
        let stats = writers.replica(namespace, name, writer.ordinal)?.stats().await?;
        Ok::<_, crate::admin::Error>((differs, stats))
    };
    let asked = asked.await;
    kinds.context.metrics.reconciled(Controller::Stats, asked.is_ok(), begun.elapsed());
    match asked {
        Ok((differs, stats)) => {
            for name in differs {
                look_again(kinds, &name);
            }
            Some(Arc::new(stats.pushers))
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(writer = %writer.name, error, "ask for numbers");
            None
        }
    }
}

fn look_again(kinds: &Kinds, name: &Name) {
    let Name { kind, namespace, name } = name;
    match kind {
        Kind::Stream => kinds.queues.streams.push(ObjectRef::new(name).within(namespace)),
        Kind::Subscription => {
            kinds.queues.subscriptions.push(ObjectRef::new(name).within(namespace));
        }
    }
}

async fn settle(kinds: &Kinds) {
    let mut late = Late::default();
    loop {
        let names = tokio::select! {
            names = kinds.gone.take() => names,
            names = late.due() => names,
            () = kinds.gone.tried_again() => {
                let names = late.all();
                for name in &names {
                    kinds.retries.reset(&gone_key(name));
                }
                names
            }
        };
        settle_all(kinds, names, &mut late).await;
    }
}

/// Writer by Writer, side by side: one that is silent holds up its own names only.
async fn settle_all(kinds: &Kinds, names: Vec<Name>, late: &mut Late) {
    let founded = kinds.founded();
    let mut by_writer: Vec<BoxFuture<'_, Vec<(Name, Duration)>>> = Vec::new();
    for writer in &founded {
        let held = names.iter().filter(|name| kinds.configured.holds(writer, name));
        let settle = move |name| settle_in(kinds, writer, name).boxed();
        by_writer.push(in_order(held.cloned().collect(), settle).boxed());
    }
    let left: Vec<_> =
        futures::stream::iter(by_writer).buffer_unordered(CONCURRENCY).collect().await;
    let mut left: BTreeMap<Name, Duration> = left.into_iter().flatten().collect();
    for name in names {
        match left.remove(&name) {
            Some(wait) => late.add(name, wait),
            None => kinds.retries.reset(&gone_key(&name)),
        }
    }
}

/// What kind of failure it was, and how long the name waits now.
async fn settle_in(kinds: &Kinds, writer: &Founded, name: Name) -> Result<(), (Failure, Duration)> {
    gone::settle(kinds, writer, &name).await.map_err(|error| {
        let failure = error.failure();
        let wait = kinds.retries.failed(&gone_key(&name), failure);
        let error = &error as &dyn std::error::Error;
        tracing::warn!(%name, ?wait, error, "settle what is gone");
        (failure, wait)
    })
}

/// Tries one name after the other; answers with those that are left, and how long each waits. The
/// first that fails in passing is the last that is tried: whoever is silent is so for all of them.
async fn in_order<'a>(
    names: Vec<Name>,
    settle: impl Fn(Name) -> BoxFuture<'a, Result<(), (Failure, Duration)>>,
) -> Vec<(Name, Duration)> {
    let mut left = Vec::new();
    let mut names = names.into_iter();
    while let Some(name) = names.next() {
        let Err((failure, wait)) = settle(name.clone()).await else { continue };
        left.push((name, wait));
        if failure == Failure::Passing {
            left.extend(names.map(|name| (name, wait)));
            break;
        }
    }
    left
}

fn gone_key(name: &Name) -> String {
    format!("gone {:?} {name}", name.kind)
}

async fn write(kinds: &Kinds, mut told: watch::Receiver<Arc<Said>>) {
    let seconds = kinds.context.settings.waits.stats_seconds;
    let mut pace = Pace::new(Duration::from_secs(seconds.into()));
    while told.changed().await.is_ok() {
        let said = Arc::clone(&told.borrow_and_update());
        pace.tidy();
        let held: BTreeMap<WriterName, BTreeMap<Name, Declared>> = kinds
            .founded()
            .iter()
            .map(|writer| (writer.name.clone(), kinds.configured.all(writer)))
            .collect();
        for guarded in kinds.caches.streams.state() {
            let Ok(stream) = &guarded.0 else { continue };
            write_stream(kinds, &mut pace, stream, &held).await;
        }
        for guarded in kinds.caches.subscriptions.state() {
            let Ok(subscription) = &guarded.0 else { continue };
            write_subscription(kinds, &mut pace, subscription, &said).await;
        }
    }
}

async fn write_stream(
    kinds: &Kinds,
    pace: &mut Pace,
    stream: &Stream,
    held: &BTreeMap<WriterName, BTreeMap<Name, Declared>>,
) {
    let own = stream.namespace().unwrap_or_default();
    let uid = stream.uid().unwrap_or_default();
    let Some(reference) = &stream.spec.writer_ref else { return };
    let Some(held) = held.get(&WriterName::named(reference, &own)) else { return };
    let declared = held.get(&Name::stream(&own, &stream.name_any()));
    let Some(declared) = declared.filter(|one| one.object.uid == uid) else { return };
    let Some(info) = &declared.info else { return };
    if stream.metadata.deletion_timestamp.is_some() || !pace.is_due(&uid) {
        return;
    }
    let status = stream.status.as_ref();
    let present = Present {
        object: stream,
        status: status.map_or(Value::Null, |one| json!(one)),
        conditions: &[],
    };
    let set =
        Set { manager: STATS_MANAGER, fields: stream_fields(info), types: &[], verdicts: &[] };
    if status::differs(&present, &set) {
        pace.take(&uid).await;
        let written = status::write(&kinds.context.client, &present, &set).await;
        note_failure(written, &own, &stream.name_any());
    }
}

fn stream_fields(info: &pb::StreamInfo) -> Vec<(&'static str, Value)> {
    let size_bytes = info.chunk_bytes.saturating_add(info.live_bytes);
    vec![
        ("firstOffset", json!(number(info.first_offset))),
        ("nextOffset", json!(number(info.next_offset))),
        ("sizeBytes", json!(number(size_bytes))),
    ]
}

async fn write_subscription(
    kinds: &Kinds,
    pace: &mut Pace,
    subscription: &Subscription,
    said: &Said,
) {
    let own = subscription.namespace().unwrap_or_default();
    let uid = subscription.uid().unwrap_or_default();
    let status = subscription.status.as_ref();
    let conditions = status.map(|one| &*one.conditions).unwrap_or_default();
    let present = Present {
        object: subscription,
        status: status.map_or(Value::Null, |one| json!(one)),
        conditions,
    };
    let full_name = format!("{own}/{}", subscription.name_any());
    let resolution = resolve(subscription, kinds);
    let (fields, verdict) = match resolution.writer().map(|writer| said.get(writer)) {
        Some(Some(Some(pushers))) => {
            let delivery = delivery(&full_name, is_paused(subscription), pushers);
            (delivery_fields(&delivery), delivery.delivering)
        }
        // What was known stays.
        Some(Some(None)) => {
            let text = "the Writer does not answer";
            let reason = reasons::ADMIN_UNREACHABLE;
            let verdict = Verdict::new(types::DELIVERING, Truth::Unknown, reason, text);
            (kept_fields(&present.status), verdict)
        }
        Some(None) | None => {
            let text = "nothing was heard of pushers yet";
            let verdict = Verdict::new(types::DELIVERING, Truth::Unknown, reasons::PENDING, text);
            (kept_fields(&Value::Null), verdict)
        }
    };
    let old = find(conditions, types::DELIVERING);
    let is_turn = old.is_none_or(|old| {
        old.status != verdict.truth.as_str()
            || old.reason != verdict.reason
            || old.observed_generation != subscription.metadata.generation
    });
    let verdicts = [verdict];
    let types = &[types::DELIVERING];
    let set = Set { manager: STATS_MANAGER, fields, types, verdicts: &verdicts };
    // A turn of things is told at once, numbers when it is their time.
    if (is_turn || pace.is_due(&uid)) && status::differs(&present, &set) {
        pace.take(&uid).await;
        let written = status::write(&kinds.context.client, &present, &set).await;
        note_failure(written, &own, &subscription.name_any());
    }
}

const DELIVERY_FIELDS: [&str; 3] = ["connectedPushers", "lagRecords", "streams"];

fn delivery_fields(delivery: &Delivery) -> Vec<(&'static str, Value)> {
    let streams = if delivery.streams.is_empty() { Value::Null } else { json!(delivery.streams) };
    let values = [json!(delivery.connected_pushers), json!(delivery.lag_records), streams];
    DELIVERY_FIELDS.into_iter().zip(values).collect()
}

fn kept_fields(status: &Value) -> Vec<(&'static str, Value)> {
    let value = |name| status.get(name).cloned().unwrap_or(Value::Null);
    DELIVERY_FIELDS.into_iter().map(|name| (name, value(name))).collect()
}

/// Numbers are written again anyway.
fn note_failure(written: Result<bool, kube::Error>, namespace: &str, name: &str) {
    if let Err(error) = written {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(namespace, name, error, "write numbers");
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_stream_is_as_large_as_its_chunks_and_what_is_not_shipped() {
        let info = pb::StreamInfo {
            first_offset: 3,
            next_offset: 9,
            chunk_bytes: 100,
            live_bytes: 20,
            ..pb::StreamInfo::default()
        };
        let expected =
            vec![("firstOffset", json!(3)), ("nextOffset", json!(9)), ("sizeBytes", json!(120))];
        assert_eq!(stream_fields(&info), expected);
        let most = pb::StreamInfo { chunk_bytes: u64::MAX, live_bytes: 1, ..info };
        assert_eq!(stream_fields(&most)[2], ("sizeBytes", json!(i64::MAX)));
    }

    #[tokio::test]
    async fn one_call_that_fails_in_passing_is_the_last_for_its_writer() {
        const WAIT: Duration = Duration::from_secs(7);
        let names = ["a", "b", "c"].map(|name| Name::stream("shop", name));
        let tried = async |failure: Failure| {
            let tried = Mutex::new(Vec::new());
            let left = in_order(names.to_vec(), |name| {
                let answer = if name == names[1] { Err((failure, WAIT)) } else { Ok(()) };
                tried.lock().unwrap().push(name);
                ready(answer).boxed()
            })
            .await;
            (tried.into_inner().unwrap(), left)
        };
        let [_, b, c] = &names;
        let waits = |names: &[&Name]| names.iter().map(|&name| (name.clone(), WAIT)).collect();
        assert_eq!(tried(Failure::Passing).await, (names[..2].to_vec(), waits(&[b, c])));
        assert_eq!(tried(Failure::Lasting).await, (names.to_vec(), waits(&[b])));
    }

    #[test]
    fn numbers_of_a_writer_that_does_not_answer_stay() {
        let status = json!({"connectedPushers": 2, "lagRecords": 7, "observedGeneration": 1});
        let expected = vec![
            ("connectedPushers", json!(2)),
            ("lagRecords", json!(7)),
            ("streams", Value::Null),
        ];
        assert_eq!(kept_fields(&status), expected);
    }
}
