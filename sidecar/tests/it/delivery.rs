//! Each record takes effect once and in order, whatever is killed.

use std::time::Duration;

use crate::fake_application::{Database, FakeApplication, Mood};
use crate::{Pusher, config, reported, writer_with_a};
use pyramid_protocol::pb::v1::{self as pb, PushState, StartFrom};

#[tokio::test]
async fn all_records_come_in_order_from_chunks_and_live() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    writer.append("a", &["new"]);
    application.wait_for_values("a", &writer.values("a")).await;
    reported(&writer, "a", PushState::Waiting).await;
    assert!(writer.look(|writer| writer.locations) >= 2, "chunks were read by the pusher");
    application.check();
}

#[tokio::test]
async fn an_application_that_lost_its_database_gets_everything_again() {
    let (writer, mut application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.stop().await;
    application.change(|state| state.database = Database::default());
    application.restart().await;
    // Nothing is appended: the loss shows on an idle stream too.
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn an_application_that_loses_its_database_while_it_runs_is_found_by_a_question() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.change(|state| state.database = Database::default());
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_restored_database_is_continued() {
    let (writer, mut application) = (writer_with_a().await, FakeApplication::start().await);
    application.mood("a", Some(Mood::Partial(4)));
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for("8 records", |state| state.values("a").len() >= 8).await;
    let old = application.look(|state| state.database.clone());
    application.mood("a", None);
    application.wait_for_values("a", &writer.values("a")).await;
    application.stop().await;
    application.change(|state| state.database = old);
    application.restart().await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_pusher_needs_no_memory_of_its_own() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    application.mood("a", Some(Mood::Partial(1)));
    for taken in [5, 12, 33] {
        let pusher = Pusher::start(&writer, &application).await;
        application.wait_for("some records", |state| state.values("a").len() >= taken).await;
        pusher.stop().await;
    }
    application.mood("a", None);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_push_that_was_accepted_in_part_is_continued_in_the_middle_of_a_batch() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    application.mood("a", Some(Mood::Partial(2)));
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_effect_repeats_nothing() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.mood("a", Some(Mood::HangAfterwards));
    writer.append("a", &["answer lost"]);
    application.wait_for_values("a", &writer.values("a")).await;
    reported(&writer, "a", PushState::Retrying).await;
    application.mood("a", None);
    writer.append("a", &["after it"]);
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn breaking_connections_on_both_sides_loses_and_repeats_nothing() {
    let (writer, mut application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    for n in 0..12 {
        for part in 0..20 {
            writer.append("a", &[format!("{n}.{part}")]);
        }
        match n % 3 {
            0 => writer.network.break_connections(),
            1 => {
                application.stop().await;
                application.restart().await;
            }
            _ => writer.ship("a").await,
        }
        let taken = application.values("a").len() + 5;
        application.wait_for("some more", |state| state.values("a").len() >= taken).await;
    }
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn large_batches_go_in_pushes_that_every_server_takes() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let large = "x".repeat(1_000_000);
    for _ in 0..12 {
        writer.append("a", &[&large]);
        writer.append("a", &[&large, &large[..1_000_000]]);
        writer.append("a", &["small"]);
    }
    // A message of several such batches would be over the limit of the fake Writer, as of a real one.
    writer.ship("a").await;
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_subscription_may_begin_with_the_latest_record() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    writer.change_assignment("s", |assignment| assignment.set_start_from(StartFrom::Latest));
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for("a position", |state| state.offset("a") == Some(40)).await;
    writer.append("a", &["new"]);
    application.wait_for_values("a", &["new".to_owned()]).await;
    application.check();
}

#[tokio::test]
async fn where_to_begin_counts_only_for_an_application_without_a_position() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    writer.change_assignment("s", |assignment| assignment.set_start_from(StartFrom::Latest));
    let stream_id = writer.look(|writer| writer.streams["a"].id);
    let position = pb::Position { stream_id, epoch: 1, offset: 31 };
    application.change(|state| state.database.positions.insert("a".to_owned(), position));
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")[31..]).await;
    application.check();
}

#[tokio::test]
async fn an_idle_application_is_asked_where_it_is() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    let asked = application.look(|state| state.questions["a"]);
    application.wait_for("two questions", |state| state.questions["a"] >= asked + 2).await;
    assert_eq!(application.values("a"), writer.values("a"));
    application.check();
}

#[tokio::test]
async fn a_new_epoch_below_the_safe_offset_is_entered_without_a_halt() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    application.mood("a", Some(Mood::NotReady(1)));
    let stream_id = writer.look(|writer| writer.streams["a"].id);
    let position = pb::Position { stream_id, epoch: 1, offset: 36 };
    application.change(|state| state.database.positions.insert("a".to_owned(), position));
    let _pusher = Pusher::start(&writer, &application).await;
    writer.lose("a", 38);
    writer.append("a", &["another 38"]);
    application.mood("a", None);
    application.wait_for_values("a", &writer.values("a")[36..]).await;
    let stored = application.look(|state| state.database.positions["a"]);
    assert_eq!(stored, pb::Position { stream_id, epoch: 2, offset: 39 });
    application.check();
}

#[tokio::test]
async fn two_pushers_on_one_database_repeat_nothing() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let mut second = config(&writer, &[("s", &application)]);
    second.timing.idle_ask = Duration::from_secs(5);
    let _first = Pusher::start(&writer, &application).await;
    let _second = Pusher::start_with(&writer, second).await;
    for n in 0..50 {
        writer.append("a", &[n.to_string()]);
    }
    application.wait_for_values("a", &writer.values("a")).await;
    assert_eq!(application.values("a"), writer.values("a"));
}
