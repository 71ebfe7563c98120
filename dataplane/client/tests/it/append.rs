//! Append sessions: order, refusals, lost connections.

use std::time::Duration;

use futures::future::join_all;
use pyramid_client::append::{self, Answer, AppendSession};
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason};

use crate::client;
use crate::fake_writer::{FakeWriter, records, refusal};

fn request(stream: &str, value: &str) -> pb::AppendRequest {
    pb::AppendRequest {
        stream: stream.to_owned(),
        records: records(&[value]).bytes().clone(),
        ..pb::AppendRequest::default()
    }
}

fn session(writer: &FakeWriter) -> AppendSession {
    AppendSession::new(client(writer), append::Options::default())
}

/// Sends them all, then takes the answers.
async fn append_all(session: &AppendSession, appends: &[(&str, &str)]) -> Vec<Answer> {
    let mut pending = Vec::new();
    for (stream, value) in appends {
        pending.push(session.append(request(stream, value)).await);
    }
    join_all(pending).await
}

fn offsets(answers: &[Answer]) -> Vec<u64> {
    answers.iter().map(|answer| answer.as_ref().unwrap().first_offset.unwrap()).collect()
}

fn refused(answer: &Answer) -> (Reason, Effect) {
    let refusal = answer.as_ref().unwrap_err();
    (refusal.reason(), refusal.effect())
}

#[tokio::test]
async fn many_appends_on_their_way_are_written_in_their_order() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    let values: Vec<_> = (0..500).map(|n| n.to_string()).collect();
    let appends: Vec<_> = values.iter().map(|value| ("a", value.as_str())).collect();
    let session = session(&writer);
    let (sent, answers) = (appends.len(), append_all(&session, &appends[..200]).await);
    assert_eq!(offsets(&answers), (0..200).collect::<Vec<_>>());
    append_all(&session, &appends[200..]).await;
    assert_eq!((writer.values("a").len(), writer.values("a")), (sent, values));
    assert_eq!(writer.look(|state| state.sessions), 1);
}

#[tokio::test]
async fn an_interrupted_append_without_a_producer_is_unknown_and_not_sent_again() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    writer.create("b");
    writer.change(|state| state.lose_answer_in = Some(1));
    let session = session(&writer);
    let answers = append_all(&session, &[("a", "lost answer")]).await;
    assert_eq!(refused(&answers[0]), (Reason::Unavailable, Effect::Unknown));
    assert!(!answers[0].as_ref().unwrap_err().retry);
    // The session has no holes, so nothing more of this stream goes through it.
    let answers = append_all(&session, &[("a", "after"), ("b", "other stream")]).await;
    assert_eq!(refused(&answers[0]), (Reason::SessionBroken, Effect::NoEffect));
    assert_eq!(offsets(&answers[1..]), [0]);
    assert_eq!(writer.values("a"), ["lost answer"]);
    assert_eq!(writer.values("b"), ["other stream"]);
}

#[tokio::test]
async fn appends_that_never_left_are_sent_when_the_writer_is_back() {
    let writer = FakeWriter::start().await;
    let session = session(&writer);
    let address = writer.stop().await;
    let pending = session.append(request("a", "patient")).await;
    let writer = FakeWriter::start_at(address, &["a"]).await;
    assert_eq!(pending.await.unwrap().first_offset, Some(0));
    assert_eq!(writer.values("a"), ["patient"]);
}

#[tokio::test]
async fn an_append_that_never_left_has_no_effect_when_its_time_is_up() {
    let writer = FakeWriter::start().await;
    let options =
        append::Options { timeout: Duration::from_millis(200), ..append::Options::default() };
    let session = AppendSession::new(client(&writer), options);
    writer.stop().await;
    let answers = append_all(&session, &[("a", "1"), ("a", "2")]).await;
    assert_eq!(refused(&answers[0]), (Reason::Unavailable, Effect::NoEffect));
    assert_eq!(refused(&answers[1]).1, Effect::NoEffect);
}

#[tokio::test]
async fn what_was_refused_for_a_passing_reason_is_sent_again_in_order() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    for reason in [Reason::ResourceExhausted, Reason::Dropped, Reason::StaleRevision] {
        writer.change(|state| state.refuse_appends.push_back(refusal(reason)));
    }
    let session = session(&writer);
    let answers =
        append_all(&session, &[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4"), ("a", "5")]).await;
    assert_eq!(offsets(&answers), [0, 1, 2, 3, 4]);
    assert_eq!(writer.values("a"), ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn after_a_refusal_nothing_more_of_the_stream_is_written() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    writer.create("b");
    writer.change(|state| state.refuse_appends.push_back(refusal(Reason::Closed)));
    let session = session(&writer);
    let answers = append_all(&session, &[("a", "1"), ("a", "2"), ("b", "3")]).await;
    assert_eq!(refused(&answers[0]), (Reason::Closed, Effect::NoEffect));
    assert_eq!(refused(&answers[1]), (Reason::SessionBroken, Effect::NoEffect));
    assert_eq!(offsets(&answers[2..]), [0]);
    // Also over a new connection.
    writer.network.break_connections();
    let answers = append_all(&session, &[("a", "4")]).await;
    assert_eq!(refused(&answers[0]), (Reason::SessionBroken, Effect::NoEffect));
    assert_eq!(writer.values("a"), Vec::<String>::new());
}

#[tokio::test]
async fn a_session_finds_the_leader() {
    let leader = FakeWriter::start().await;
    let follower = FakeWriter::start().await;
    leader.create("a");
    follower.change(|state| state.leader = Some(leader.address.to_string()));
    let session = session(&follower);
    let answers = append_all(&session, &[("a", "1"), ("a", "2")]).await;
    assert_eq!(offsets(&answers), [0, 1]);
    assert_eq!(leader.values("a"), ["1", "2"]);
}
