//! The election, with whole seconds of real time: the lease is in the hands of the API server.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use pyramid_operator::leader::{Candidate, LEASE, Leadership, Lost};
use pyramid_protocol::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::wire::{Way, Wire};
use crate::world::{SOON, World};

const DURATION: Duration = Duration::from_secs(3);
/// A holder that did not renew for so long has lost the lease.
const DEADLINE: Duration = Duration::from_secs(2);
/// Who saw the lease without a renewal would have taken it by then.
const LONG: Duration = Duration::from_secs(4);

fn candidate(world: &World, wire: &Wire, identity: &str) -> Candidate {
    Candidate {
        leases: kube::Api::namespaced(wire.client(), &world.namespace),
        identity: identity.to_owned(),
        duration: DURATION,
        clock: Arc::new(SystemClock),
    }
}

async fn acquire(world: &World, wire: &Wire, identity: &str) -> Leadership {
    let acquiring = candidate(world, wire, identity);
    let shutdown = CancellationToken::new();
    timeout(SOON, acquiring.acquire(&shutdown)).await.unwrap().unwrap()
}

async fn lease(world: &World) -> Lease {
    world.get(LEASE).await.unwrap()
}

/// Holder and fencing token.
async fn held(world: &World) -> (Option<String>, Option<i32>) {
    let spec = lease(world).await.spec.unwrap();
    (spec.holder_identity, spec.lease_transitions)
}

fn by(holder: &str, transitions: i32) -> (Option<String>, Option<i32>) {
    (Some(holder.to_owned()), Some(transitions))
}

/// It goes on for so long.
async fn keeps(leadership: &mut Leadership, time: Duration) {
    let lost = timeout(time, leadership.keep()).await;
    assert!(lost.is_err(), "lost: {}", lost.unwrap());
}

/// Each acquires in a task of its own and tells when.
fn acquire_all(world: &Arc<World>, wires: &[(&'static str, Wire)]) -> JoinSet<Leader> {
    let mut tasks = JoinSet::new();
    for (identity, wire) in wires.iter().cloned() {
        let world = Arc::clone(world);
        tasks.spawn(async move {
            let leadership = acquire(&world, &wire, identity).await;
            Leader { identity, leadership, since: Instant::now() }
        });
    }
    tasks
}

/// Each acquires as soon as all have seen what there is; the first who does, and the others.
async fn race(world: &Arc<World>, identities: &[&'static str]) -> (Leader, JoinSet<Leader>) {
    let together = Arc::new(Barrier::new(identities.len()));
    let wires: Vec<_> = identities.iter().map(|identity| (*identity, world.wire())).collect();
    for (_, wire) in &wires {
        wire.be(Way::Together(Arc::clone(&together)));
    }
    let mut tasks = acquire_all(world, &wires);
    let first = next(&mut tasks).await;
    for (_, wire) in &wires {
        wire.be(Way::Open);
    }
    (first, tasks)
}

struct Leader {
    identity: &'static str,
    leadership: Leadership,
    since: Instant,
}

async fn next(tasks: &mut JoinSet<Leader>) -> Leader {
    tasks.join_next().await.unwrap().unwrap()
}

#[tokio::test]
async fn the_first_candidate_makes_the_lease() {
    let world = World::new("lease-first").await;
    let began_ms = SystemClock.wall_ms();
    let leadership = acquire(&world, &world.wire(), "a").await;
    assert_eq!(leadership.transitions(), 1);
    let Lease { metadata, spec } = lease(&world).await;
    let spec = spec.unwrap();
    let expected = LeaseSpec {
        holder_identity: Some("a".to_owned()),
        lease_duration_seconds: Some(3),
        lease_transitions: Some(1),
        acquire_time: spec.renew_time.clone(),
        renew_time: spec.renew_time.clone(),
        ..LeaseSpec::default()
    };
    assert_eq!(spec, expected);
    let renewed_ms = u64::try_from(spec.renew_time.unwrap().0.as_millisecond()).unwrap();
    assert!((began_ms..=SystemClock.wall_ms()).contains(&renewed_ms), "{renewed_ms}");
    let manager = metadata.managed_fields.unwrap()[0].manager.clone();
    assert_eq!(manager.as_deref(), Some("pyramid-operator"));
}

#[tokio::test]
async fn of_several_that_make_the_lease_at_once_one_leads_and_each_later_one_has_a_larger_token() {
    let world = Arc::new(World::new("lease-at-once").await);
    let (mut first, mut tasks) = race(&world, &["a", "b", "c"]).await;
    assert_eq!(held(&world).await, by(first.identity, 1));
    keeps(&mut first.leadership, LONG).await;
    assert!(tasks.try_join_next().is_none(), "two lead");
    assert_eq!(held(&world).await, by(first.identity, 1));
    let stopped = Instant::now();
    let second = next(&mut tasks).await;
    assert_eq!((second.leadership.transitions(), held(&world).await), (2, by(second.identity, 2)));
    // The first renewed up to a seventh of the duration before it stopped.
    let waited = second.since - stopped;
    assert!(waited > DURATION * 5 / 7, "{waited:?}");
    let third = next(&mut tasks).await;
    assert_eq!((third.leadership.transitions(), held(&world).await), (3, by(third.identity, 3)));
}

#[tokio::test]
async fn of_two_that_take_a_free_lease_at_once_one_leads() {
    let world = Arc::new(World::new("lease-free").await);
    acquire(&world, &world.wire(), "a").await.release().await;
    assert_eq!(held(&world).await, (None, Some(1)));
    let (mut first, mut tasks) = race(&world, &["b", "c"]).await;
    assert_eq!((first.leadership.transitions(), held(&world).await), (2, by(first.identity, 2)));
    keeps(&mut first.leadership, LONG).await;
    assert!(tasks.try_join_next().is_none(), "two lead");
}

#[tokio::test]
async fn a_leader_that_is_cut_off_stops_before_another_begins_and_takes_nothing_from_it() {
    let world = Arc::new(World::new("lease-cut-off").await);
    let wire = world.wire();
    let mut first = acquire(&world, &wire, "a").await;
    let mut tasks = acquire_all(&world, &[("b", world.wire())]);
    keeps(&mut first, DURATION).await;
    wire.be(Way::Silent);
    let lost = timeout(DURATION, first.keep()).await.expect("it hears nothing of it");
    let ended = Instant::now();
    let Lost::Silent { after, said } = lost else { panic!("{lost}") };
    assert!((DEADLINE..DURATION).contains(&after), "{after:?}");
    assert_eq!(said, "the API server does not answer");
    let second = next(&mut tasks).await;
    assert!(second.since > ended, "two lead");
    assert_eq!((second.leadership.transitions(), held(&world).await), (2, by("b", 2)));
    // Connected again, it knows by its own clock, and what it still writes is refused.
    wire.be(Way::Open);
    let lost = timeout(DURATION, first.keep()).await.unwrap();
    assert!(matches!(lost, Lost::Silent { .. }), "{lost}");
    let before = lease(&world).await;
    first.release().await;
    assert_eq!(lease(&world).await, before);
}

#[tokio::test]
async fn a_leader_that_may_not_write_any_more_stops_and_tells_why() {
    let world = World::new("lease-forbidden").await;
    let wire = world.wire();
    let mut leadership = acquire(&world, &wire, "a").await;
    keeps(&mut leadership, DURATION).await;
    wire.be(Way::Stranger);
    let lost = timeout(DURATION, leadership.keep()).await.expect("it hears nothing of it");
    let Lost::Silent { after, said } = lost else { panic!("{lost}") };
    assert!((DEADLINE..DURATION).contains(&after), "{after:?}");
    let words = "leases.coordination.k8s.io \"pyramid-operator\" is forbidden: User \"stranger\" \
                 cannot update resource \"leases\" in API group \"coordination.k8s.io\" in the \
                 namespace \"lease-forbidden\"";
    assert_eq!(said, words);
}

#[tokio::test]
async fn one_request_or_answer_that_is_lost_costs_nothing() {
    let world = World::new("lease-lossy").await;
    let wire = world.wire();
    let mut leadership = acquire(&world, &wire, "a").await;
    for way in [Way::SilentOnce, Way::DeafOnce] {
        wire.be(way);
        keeps(&mut leadership, LONG).await;
        assert_eq!(held(&world).await, by("a", 1));
    }
}

#[tokio::test]
async fn who_took_the_lease_and_did_not_hear_of_it_takes_it_as_another_term() {
    let world = World::new("lease-unheard").await;
    let wire = world.wire();
    wire.be(Way::DeafOnce);
    let began = Instant::now();
    let leadership = acquire(&world, &wire, "a").await;
    assert_eq!((leadership.transitions(), held(&world).await), (2, by("a", 2)));
    assert!(began.elapsed() < DURATION, "it waited for itself");
}

#[tokio::test]
async fn a_change_by_others_that_keeps_the_holder_is_no_loss() {
    let world = World::new("lease-changed").await;
    let mut leadership = acquire(&world, &world.wire(), "a").await;
    let change = json!({"metadata": {"labels": {"seen": "by-hand"}}});
    world.change::<Lease>(LEASE, change).await;
    keeps(&mut leadership, LONG).await;
    let Lease { metadata, .. } = lease(&world).await;
    assert_eq!(metadata.labels.unwrap()["seen"], "by-hand");
    assert_eq!(held(&world).await, by("a", 1));

    let taken = json!({"spec": {"holderIdentity": "b"}});
    world.change::<Lease>(LEASE, taken).await;
    let lost = timeout(DURATION, leadership.keep()).await.unwrap();
    assert!(matches!(&lost, Lost::Taken { holder } if holder == "b"), "{lost}");
    assert_eq!(held(&world).await, by("b", 1));
}

#[tokio::test]
async fn a_lease_that_is_deleted_is_lost_at_once_and_others_wait_as_if_it_were_there() {
    let world = Arc::new(World::new("lease-deleted").await);
    let mut first = acquire(&world, &world.wire(), "a").await;
    let term = first.term();
    let mut tasks = acquire_all(&world, &[("b", world.wire())]);
    keeps(&mut first, DURATION).await;
    world.delete::<Lease>(LEASE).await;
    let deleted = Instant::now();
    let lost = timeout(DURATION / 2, first.keep()).await.expect("it hears nothing of it");
    assert!(matches!(lost, Lost::Gone), "{lost}");
    let second = next(&mut tasks).await;
    let waited = second.since - deleted;
    assert!(waited > DURATION * 6 / 7, "{waited:?}");
    assert_eq!((second.leadership.transitions(), held(&world).await), (2, by("b", 2)));
    assert!(second.leadership.term() > term, "the deposed one could go on");
    // Who never saw it cannot know.
    world.delete::<Lease>(LEASE).await;
    let third = acquire(&world, &world.wire(), "c").await;
    assert_eq!((third.transitions(), held(&world).await), (1, by("c", 1)));
}

#[tokio::test]
async fn a_lease_that_is_released_is_free_at_once() {
    let world = World::new("lease-released").await;
    acquire(&world, &world.wire(), "a").await.release().await;
    let spec: Value = serde_json::to_value(lease(&world).await.spec.unwrap()).unwrap();
    let renewed = spec["renewTime"].clone();
    let released = json!({"leaseDurationSeconds": 3, "leaseTransitions": 1, "renewTime": renewed});
    assert_eq!(spec, released);
    let began = Instant::now();
    let next = acquire(&world, &world.wire(), "b").await;
    assert_eq!(next.transitions(), 2);
    assert!(began.elapsed() < DURATION / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_candidate_goes_when_it_is_told_and_not_before() {
    let world = World::new("lease-told").await;
    let mut first = acquire(&world, &world.wire(), "a").await;
    let shutdown = CancellationToken::new();
    let waiting = candidate(&world, &world.wire(), "b");
    let told = shutdown.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { waiting.acquire(&told).await.is_some() });
    keeps(&mut first, LONG).await;
    assert!(tasks.try_join_next().is_none());
    shutdown.cancel();
    assert!(!tasks.join_next().await.unwrap().unwrap());
    assert_eq!(held(&world).await, by("a", 1));
}
