//! Halts: visible, never skipped, never reset, left when the stored position changes.

use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::{self as pb, PushState, Reason};

use crate::fake_application::{FakeApplication, Mood};
use crate::fake_writer::{FakeWriter, refusal};
use crate::{Pusher, reported, writer_with_a};

fn position(writer: &FakeWriter, epoch: u32, offset: u64) -> pb::Position {
    pb::Position { stream_id: writer.look(|writer| writer.streams["a"].id), epoch, offset }
}

fn store(application: &FakeApplication, position: pb::Position) {
    application.change(|state| state.database.positions.insert("a".to_owned(), position));
}

/// The stream stands still at what is stored now, and that is what the Writer is told.
async fn stands_still(writer: &FakeWriter, application: &FakeApplication) {
    let before = application.look(|state| state.database.clone());
    writer.append("a", &["not pushed"]);
    let asked = application.look(|state| state.questions["a"]);
    application.wait_for("some questions", |state| state.questions["a"] >= asked + 3).await;
    assert_eq!(application.look(|state| state.database.clone()), before);
    let reported = writer.look(|state| state.reports[&("s".to_owned(), "a".to_owned())].clone());
    assert_eq!(reported.accepted, before.positions.get("a").copied());
}

#[tokio::test]
async fn a_replaced_stream_halts_until_a_new_position_is_stored() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    writer.create("a");
    writer.append("a", &["of another stream"]);
    let message = reported(&writer, "a", PushState::HaltedStreamReplaced).await;
    assert!(message.contains("stream of this name is now 2"), "{message}");
    stands_still(&writer, &application).await;
    store(&application, position(&writer, 1, 0));
    application
        .wait_for("the other stream", |state| {
            state.values("a").ends_with(&["of another stream".into(), "not pushed".into()])
        })
        .await;
    application.check();
}

#[tokio::test]
async fn a_halt_is_also_left_by_storing_no_position() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    store(&application, pb::Position { stream_id: 99, epoch: 1, offset: 3 });
    let _pusher = Pusher::start(&writer, &application).await;
    reported(&writer, "a", PushState::HaltedStreamReplaced).await;
    application.change(|state| state.database.positions.clear());
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_replica_alone_does_not_replace_a_stream() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    writer.change(|writer| {
        let replaced = refusal(Reason::StreamRecreated).with_detail(Detail::NewStreamId(8));
        let beyond = refusal(Reason::BeyondNext).with_detail(Detail::NextOffset(0));
        writer.refuse_reads.extend([replaced, beyond]);
    });
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_trimmed_place_halts_and_the_first_offset_does_not() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    writer.trim("a", 7);
    store(&application, position(&writer, 1, 6));
    let _pusher = Pusher::start(&writer, &application).await;
    let message = reported(&writer, "a", PushState::HaltedTrimmed).await;
    assert!(message.contains("store offset 7"), "{message}");
    stands_still(&writer, &application).await;
    store(&application, position(&writer, 1, 7));
    application.wait_for_values("a", &writer.values("a")[7..]).await;
    application.check();
}

#[tokio::test]
async fn a_place_ahead_of_the_stream_halts_and_its_end_does_not() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    store(&application, position(&writer, 1, 41));
    let _pusher = Pusher::start(&writer, &application).await;
    let message = reported(&writer, "a", PushState::HaltedAheadOfStream).await;
    assert!(message.contains("ends at 40"), "{message}");
    // The stream grows past the place; that does not make it right.
    for _ in 0..3 {
        stands_still(&writer, &application).await;
    }
    store(&application, position(&writer, 1, 40));
    application.wait_for_values("a", &writer.values("a")[40..]).await;
    application.check();
}

#[tokio::test]
async fn a_place_above_the_safe_offset_halts_and_the_safe_offset_does_not() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    writer.lose("a", 38);
    writer.append("a", &["another 38"]);
    let message = reported(&writer, "a", PushState::HaltedEpochChanged).await;
    assert!(message.contains("above 38"), "{message}");
    stands_still(&writer, &application).await;
    store(&application, position(&writer, 1, 38));
    application
        .wait_for("the new history", |state| {
            state.values("a").ends_with(&["another 38".into(), "not pushed".into()])
        })
        .await;
    application.check();
}

#[tokio::test]
async fn a_rejected_record_halts_until_the_position_after_it_is_stored() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    application.mood("a", Some(Mood::Rejects(17)));
    let _pusher = Pusher::start(&writer, &application).await;
    let message = reported(&writer, "a", PushState::HaltedRejected).await;
    assert!(message.contains("offset 17: ugly"), "{message}");
    stands_still(&writer, &application).await;
    let taken = application.values("a").len();
    store(&application, position(&writer, 1, 18));
    application.wait_for("what follows", |state| state.offset("a") == Some(41)).await;
    assert_eq!(application.values("a")[taken..], writer.values("a")[18..]);
    application.check();
}

#[tokio::test]
async fn a_rejected_record_is_tried_again_by_an_application_that_was_started_anew() {
    let (writer, mut application) = (writer_with_a().await, FakeApplication::start().await);
    application.mood("a", Some(Mood::Rejects(17)));
    let _pusher = Pusher::start(&writer, &application).await;
    reported(&writer, "a", PushState::HaltedRejected).await;
    application.stop().await;
    application.mood("a", None);
    application.restart().await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}
