use pyramid_protocol::SystemClock;
use serde_json::Value;
use tokio::task::JoinSet;

use super::*;
use crate::fake_api::{FakeApi, Mood};

const PLACE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/pyramid-system/leases/pyramid-operator";
const DURATION: Duration = Duration::from_secs(15);

fn candidate(api: &FakeApi, identity: &str) -> Candidate {
    Candidate {
        leases: Api::namespaced(api.client(), "pyramid-system"),
        identity: identity.to_owned(),
        duration: DURATION,
        clock: Arc::new(SystemClock),
    }
}

async fn acquire(api: &FakeApi, identity: &str) -> Leadership {
    candidate(api, identity).acquire(&CancellationToken::new()).await.unwrap()
}

fn spec(api: &FakeApi) -> Value {
    api.get(PLACE).unwrap()["spec"].clone()
}

fn holder(api: &FakeApi) -> (Value, Value) {
    let spec = spec(api);
    (spec["holderIdentity"].clone(), spec["leaseTransitions"].clone())
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_makes_the_lease() {
    let api = FakeApi::default();
    let leadership = acquire(&api, "a").await;
    assert_eq!(leadership.transitions(), 1);
    assert_eq!(holder(&api), ("a".into(), 1.into()));
    let spec = spec(&api);
    assert_eq!(spec["leaseDurationSeconds"], 15);
    // As `2026-08-01T00:00:00.000000Z`.
    let renewed = spec["renewTime"].as_str().unwrap();
    assert_eq!((renewed.len(), renewed.rfind('.')), (27, Some(19)), "{renewed}");
}

#[tokio::test(start_paused = true)]
async fn a_second_candidate_leads_only_after_the_first_was_silent() {
    let api = FakeApi::default();
    let mut first = acquire(&api, "a").await;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let waiting = api.clone();
    tasks.spawn(async move { acquire(&waiting, "b").await });
    {
        let keeping = first.keep();
        assert!(timeout(100 * DURATION, keeping).await.is_err(), "lost without a reason");
    }
    assert_eq!(holder(&api), ("a".into(), 1.into()));
    let stopped = Instant::now();
    let second = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(second.transitions(), 2);
    assert_eq!(holder(&api), ("b".into(), 2.into()));
    // It saw the last renewal up to two looks earlier.
    let waited = stopped.elapsed();
    assert!(waited > DURATION - 2 * DURATION / 7 && waited < 2 * DURATION, "{waited:?}");
    assert!(began.elapsed() > 100 * DURATION);
    // The first need not ask to know it.
    api.requests();
    let lost = first.keep().await;
    assert!(matches!(&lost, Lost::Silent { .. }), "{lost}");
    assert_eq!(api.requests(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn of_two_at_once_one_leads() {
    let api = FakeApi::default();
    let mut tasks = JoinSet::new();
    for name in ["a", "b", "c"] {
        let api = api.clone();
        tasks.spawn(async move { acquire(&api, name).await.candidate.identity });
    }
    let first = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(holder(&api), (first.into(), 1.into()));
    assert!(timeout(DURATION / 2, tasks.join_next()).await.is_err(), "two lead");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_can_begin() {
    for mood in [Mood::Silent, Mood::Forbids] {
        let api = FakeApi::default();
        let mut leadership = acquire(&api, "a").await;
        api.be(mood);
        let cut = Instant::now();
        let lost = timeout(DURATION, leadership.keep()).await.expect("it hears nothing of it");
        assert!(matches!(lost, Lost::Silent { .. }), "{lost}");
        assert_eq!(cut.elapsed(), DURATION * 2 / 3, "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_loss_of_the_api_server_costs_nothing() {
    let api = FakeApi::default();
    let mut leadership = acquire(&api, "a").await;
    api.be(Mood::Forbids);
    assert!(timeout(DURATION / 2, leadership.keep()).await.is_err());
    api.be(Mood::Good);
    assert!(timeout(10 * DURATION, leadership.keep()).await.is_err(), "lost");
    assert_eq!(holder(&api), ("a".into(), 1.into()));
}

/// Somebody looks at the lease by hand and changes a label.
#[tokio::test(start_paused = true)]
async fn a_change_by_others_that_keeps_the_holder_is_no_loss() {
    let api = FakeApi::default();
    let mut leadership = acquire(&api, "a").await;
    let lease = api.get(PLACE).unwrap();
    api.put(PLACE, lease.clone());
    assert!(timeout(2 * DURATION, leadership.keep()).await.is_err(), "lost");
    let mut taken = lease;
    taken["spec"]["holderIdentity"] = "b".into();
    api.put(PLACE, taken);
    let lost = timeout(DURATION, leadership.keep()).await.unwrap();
    assert!(matches!(&lost, Lost::Taken { holder } if holder == "b"), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_released_is_free_at_once() {
    let api = FakeApi::default();
    acquire(&api, "a").await.release().await;
    assert_eq!(holder(&api), (Value::Null, 1.into()));
    let began = Instant::now();
    let next = acquire(&api, "b").await;
    assert_eq!((next.transitions(), began.elapsed()), (2, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_goes_when_it_is_told() {
    let api = FakeApi::default();
    let _first = acquire(&api, "a").await;
    let shutdown = CancellationToken::new();
    let waiting = candidate(&api, "b");
    let mut tasks = JoinSet::new();
    let told = shutdown.clone();
    tasks.spawn(async move { waiting.acquire(&told).await.is_some() });
    assert!(timeout(DURATION / 2, tasks.join_next()).await.is_err());
    shutdown.cancel();
    assert!(!tasks.join_next().await.unwrap().unwrap());
    assert_eq!(holder(&api), ("a".into(), 1.into()));
}
