//! Of several pushers of an exclusive subscription one pushes each stream.

use std::time::Duration;

use pyramid_protocol::pb::v1::{self as pb, DeliveryMode, PushState};
use pyramid_sidecar::Config;
use pyramid_sidecar::health::Readiness;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::fake_application::{FakeApplication, Mood};
use crate::fake_writer::FakeWriter;
use crate::ops::answers;
use crate::{Pusher, config, reported, writer_with_a};

/// Longer than any test: a lease that is not taken back.
const LONG_MS: u32 = 600_000;

/// Tells all pushers of `s` whether they have the lease.
fn lease(writer: &FakeWriter, lease_ms: Option<u32>) {
    writer.change_assignment("s", |assignment| {
        assignment.set_mode(DeliveryMode::Exclusive);
        for stream in &mut assignment.streams {
            stream.leased = lease_ms.is_some();
            stream.lease_ms = lease_ms.unwrap_or(0);
        }
    });
}

#[tokio::test]
async fn without_a_lease_a_pusher_stands_by_and_asks_nothing() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    lease(&writer, None);
    let readiness = Readiness::CaughtUp;
    let config = Config { readiness, ..config(&writer, &[("s", &application)]) };
    let pusher = Pusher::start_with(&writer, config).await;
    assert_eq!(reported(&writer, "a", PushState::Standby).await, "");
    assert_eq!(application.look(|state| (state.pushes.len(), state.questions.len())), (0, 0));
    // It is what it shall be: a pod that stands by must not hold up a rollout.
    answers(&pusher, "/readyz", (200, "ok\n")).await;
    lease(&writer, Some(LONG_MS));
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
    pusher.stop().await;
}

/// A Writer gives leases to those whom it has heard in the last three seconds.
#[tokio::test]
async fn each_assignment_is_answered_though_there_is_nothing_to_report() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    lease(&writer, None);
    let pusher = Pusher::start(&writer, &application).await;
    reported(&writer, "a", PushState::Standby).await;
    let answered = async {
        for lease_ms in 1..=5 {
            let before = writer.look(|state| state.words);
            // Something has to differ, or the Writer says nothing.
            writer.change_assignment("s", |assignment| {
                assignment.streams.iter_mut().for_each(|stream| stream.lease_ms = lease_ms);
            });
            writer.wait_for("an answer", |state| state.words > before).await;
        }
    };
    // Everything is reported again after ten seconds, once.
    timeout(Duration::from_secs(8), answered).await.expect("it is quiet");
    pusher.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_taken_lets_the_push_on_its_way_end_and_no_other_begin() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    lease(&writer, Some(LONG_MS));
    let mut config = config(&writer, &[("s", &application)]);
    config.timing.push_timeout = Duration::from_secs(20);
    let pusher = Pusher::start_with(&writer, config).await;
    application.wait_for_values("a", &writer.values("a")).await;

    let opened = CancellationToken::new();
    application.mood("a", Some(Mood::Gate(opened.clone())));
    let pushes = application.look(|state| state.pushes["a"]);
    writer.append("a", &["on its way"]);
    application.wait_for("a push", |state| state.pushes["a"] > pushes).await;
    let expected = writer.values("a");
    writer.append("a", &["for another pusher"]);
    // A stream that joins with the same message shows when the pusher has heard it.
    writer.create("b");
    writer.change_assignment("s", |assignment| {
        assignment.set_mode(DeliveryMode::Exclusive);
        let unleased = |stream: &str| pb::AssignedStream {
            stream: stream.to_owned(),
            ..pb::AssignedStream::default()
        };
        assignment.streams = vec![unleased("a"), unleased("b")];
    });
    reported(&writer, "b", PushState::Standby).await;
    opened.cancel();
    application.wait_for_values("a", &expected).await;
    reported(&writer, "a", PushState::Standby).await;
    let place = ("s".to_owned(), "a".to_owned());
    let report = pb::StreamReport {
        stream: "a".to_owned(),
        accepted: None,
        state: PushState::Standby.into(),
        message: String::new(),
    };
    assert_eq!(writer.look(|state| state.reports[&place].clone()), report);
    assert_eq!(application.values("a"), expected);

    application.mood("a", None);
    lease(&writer, Some(LONG_MS));
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
    pusher.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_by_itself() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    lease(&writer, Some(1_000));
    let pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    reported(&writer, "a", PushState::Standby).await;
    let before = writer.values("a");
    writer.append("a", &["without a lease"]);
    // The same content again is no news to a Writer, a longer lease is.
    lease(&writer, Some(LONG_MS));
    application.wait_for_values("a", &writer.values("a")).await;
    assert_eq!(before.len() + 1, writer.values("a").len());
    application.check();
    pusher.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_renewed_goes_on_without_a_question() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    lease(&writer, Some(3_000));
    let mut config = config(&writer, &[("s", &application)]);
    config.timing.idle_ask = Duration::from_secs(60);
    let pusher = Pusher::start_with(&writer, config).await;
    application.wait_for_values("a", &writer.values("a")).await;
    let questions = application.look(|state| state.questions["a"]);
    let begin = tokio::time::Instant::now();
    let mut lease_ms = 3_000;
    while begin.elapsed() < Duration::from_millis(2_500) {
        lease_ms += 1;
        lease(&writer, Some(lease_ms));
        writer.append("a", &[lease_ms.to_string()]);
        application.wait_for_values("a", &writer.values("a")).await;
    }
    assert_eq!(application.look(|state| state.questions["a"]), questions);
    application.check();
    pusher.stop().await;
}
