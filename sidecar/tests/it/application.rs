//! Applications that are absent, slow, not ready, or wrong.

use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{self as pb, PushState, Reason};

use crate::fake_application::{FakeApplication, Mood};
use crate::fake_writer::network::DEADLINE;
use crate::fake_writer::refusal;
use crate::{Pusher, config, reported, writer_with_a};

/// The state is `RETRYING` with this message while the mood lasts, and nothing is lost after it.
async fn retried(mood: Mood, says: &str) {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.mood("a", Some(mood));
    writer.append("a", &["in a bad mood"]);
    let message = reported(&writer, "a", PushState::Retrying).await;
    assert!(message.contains(says), "{message}");
    application.mood("a", None);
    application.wait_for_values("a", &writer.values("a")).await;
    reported(&writer, "a", PushState::Waiting).await;
    application.check();
}

#[tokio::test]
async fn an_absent_application_is_waited_for() {
    let (writer, mut application) = (writer_with_a().await, FakeApplication::start().await);
    application.stop().await;
    let _pusher = Pusher::start(&writer, &application).await;
    let message = reported(&writer, "a", PushState::Retrying).await;
    assert!(message.contains("cannot be reached"), "{message}");
    application.restart().await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_slow_application_is_pushed_to_again() {
    retried(Mood::Hang, "did not answer within").await;
}

#[tokio::test]
async fn an_application_that_is_not_ready_is_asked_later() {
    retried(Mood::NotReady(10), "not ready").await;
    retried(Mood::NotReady(0), "not ready").await;
}

#[tokio::test]
async fn an_application_that_fails_is_pushed_to_again() {
    retried(Mood::Fails, "answered Internal: made up").await;
}

#[tokio::test]
async fn nonsense_is_named_and_retried() {
    let position = |offset| Some(pb::Position { stream_id: 1, epoch: 1, offset });
    let accepted = |next| Some(Answer::Accepted(pb::Accepted { next }));
    let wrong = |stored| Some(Answer::WrongOffset(pb::WrongOffset { stored }));
    let rejected =
        Some(Answer::Rejected(pb::Rejected { offset: 99, reason: "never seen".to_owned() }));
    for (answer, says) in [
        (None, "empty answer"),
        (accepted(None), "without a position"),
        (accepted(position(39)), "not between"),
        (accepted(position(42)), "not between"),
        (accepted(position(40)), "none of the records"),
        (wrong(position(40)), "names the same position"),
        (wrong(Some(pb::Position::default())), "no stream id"),
        (rejected, "was not pushed"),
    ] {
        retried(Mood::Says(Box::new(answer)), says).await;
    }
}

#[tokio::test]
async fn an_application_that_never_stores_its_first_position_is_told_so() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let none = Some(Answer::WrongOffset(pb::WrongOffset { stored: None }));
    application.mood("a", Some(Mood::Says(Box::new(none))));
    let _pusher = Pusher::start(&writer, &application).await;
    let message = reported(&writer, "a", PushState::Retrying).await;
    assert!(message.contains("did not store"), "{message}");
    application.mood("a", None);
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_slow_stream_does_not_hold_up_others() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    writer.create("b");
    writer.assign("s", &["a", "b"]);
    application.mood("a", Some(Mood::Hang));
    let _pusher = Pusher::start(&writer, &application).await;
    for n in 0..20 {
        writer.append("b", &[n.to_string()]);
        application.wait_for_values("b", &writer.values("b")).await;
    }
    assert_eq!(application.values("a"), Vec::<String>::new());
    application.mood("a", None);
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn an_application_that_hangs_with_much_data_does_not_hold_up_another() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let hanging = FakeApplication::start().await;
    let names: Vec<_> = (0..16).map(|n| format!("large {n}")).collect();
    let large = "x".repeat(1_000_000);
    for name in &names {
        writer.create(name);
        for _ in 0..4 {
            writer.append(name, &[&large]);
        }
        // Sealed, because the fake Writer sends its live batches in messages that are too large.
        writer.ship(name).await;
        hanging.mood(name, Some(Mood::Hang));
    }
    writer.assign("t", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut config = config(&writer, &[("s", &application), ("t", &hanging)]);
    config.timing.push_timeout = DEADLINE;
    config.pushes_max = 4;
    let pusher = Pusher::start_with(&writer, config).await;
    hanging.wait_for("pushes", |state| state.pushes.len() >= 4).await;
    for n in 0..20 {
        writer.append("a", &[n.to_string()]);
        application.wait_for_values("a", &writer.values("a")).await;
    }
    application.check();
    hanging.check();
    pusher.stop().await;
}

#[tokio::test]
async fn a_writer_that_cannot_be_reached_is_reported_and_waited_for() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    writer.change(|writer| {
        writer.refuse_reads.extend(vec![refusal(Reason::Damaged).with_retry_after_ms(10); 100]);
    });
    writer.network.break_connections();
    let message = reported(&writer, "a", PushState::Retrying).await;
    assert!(message.contains("read again: made up: DAMAGED"), "{message}");
    writer.change(|writer| writer.refuse_reads.clear());
    writer.append("a", &["mended"]);
    application.wait_for_values("a", &writer.values("a")).await;
    pusher.stop().await;
    application.check();
}
