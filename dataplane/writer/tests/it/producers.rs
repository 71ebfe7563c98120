//! Exactly-once appends.

use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason};

use crate::writer::{Folder, append, offsets, verdict};

fn numbered(
    producer: &pb::InitProducerResponse,
    sequence: u64,
    values: &[&str],
) -> pb::AppendRequest {
    let (id, epoch) = (producer.id, producer.epoch);
    let producer = Some(pb::Producer { id, epoch, sequence });
    pb::AppendRequest { producer, ..append("a", values) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_known_goes_on_in_a_new_epoch() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let first = writer.init_producer("a", "p", None).await.unwrap();
    let expected = pb::InitProducerResponse {
        id: first.id,
        epoch: 1,
        next_sequence: 0,
        known: false,
        in_flight_max: 16,
    };
    assert_eq!(first, expected);
    let mut session = writer.session().await;
    assert_eq!(offsets(session.append(numbered(&first, 0, &["x", "y"])).await), (0, 2));
    let second = writer.init_producer("a", "p", Some(2)).await.unwrap();
    let expected = pb::InitProducerResponse { epoch: 2, next_sequence: 2, known: true, ..expected };
    assert_eq!(second, expected);
    let other = writer.init_producer("a", "q", None).await.unwrap();
    assert_ne!(other.id, first.id);

    let fenced = writer.session().await.append(numbered(&first, 2, &["z"])).await;
    assert_eq!(verdict(fenced), (Reason::Fenced, Effect::NoEffect, false));
    let mut session = writer.session().await;
    assert_eq!(offsets(session.append(numbered(&second, 2, &["z"])).await), (2, 3));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_is_not_held_is_never_begun_silently() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    for resume in [0, 7] {
        let refusal = writer.init_producer("a", "p", Some(resume)).await.unwrap_err();
        assert_eq!(
            (refusal.reason(), refusal.effect(), refusal.retry),
            (Reason::UnknownProducer, Effect::NoEffect, false)
        );
    }
    let unknown = pb::InitProducerResponse { id: 5, epoch: 1, ..Default::default() };
    for sequence in [0, 3] {
        let answer = writer.session().await.append(numbered(&unknown, sequence, &["x"])).await;
        assert_eq!(verdict(answer), (Reason::UnknownProducer, Effect::NoEffect, false));
    }
    for (stream, name) in [("a", String::new()), ("a", "n".repeat(257)), ("missing", "p".into())] {
        let refusal = writer.init_producer(stream, &name, None).await.unwrap_err();
        let expected = if stream == "a" { Reason::Invalid } else { Reason::NotFound };
        assert_eq!(refusal.reason(), expected);
    }
    assert!(writer.init_producer("a", &"n".repeat(256), None).await.is_ok());
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_answer_of_the_first_attempt_also_after_a_restart() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let producer = writer.init_producer("a", "p", None).await.unwrap();
    let first = writer.session().await.append(numbered(&producer, 0, &["x", "y"])).await.unwrap();
    let retried = pb::Appended { duplicate: true, ..first };
    let again = writer.session().await.append(numbered(&producer, 0, &["x", "y"])).await.unwrap();
    assert_eq!(again, retried);
    writer.stop().await;

    let mut writer = folder.start(&[]).await;
    let again = writer.session().await.append(numbered(&producer, 0, &["x", "y"])).await.unwrap();
    assert_eq!(again, retried);
    writer.set_closed("a", true).await;
    let again = writer.session().await.append(numbered(&producer, 0, &["x", "y"])).await.unwrap();
    assert_eq!(again, retried, "a closed stream still knows what was written");
    let answer = writer.session().await.append(numbered(&producer, 2, &["z"])).await;
    assert_eq!(verdict(answer), (Reason::Closed, Effect::NoEffect, false));
    assert_eq!(writer.info("a").await.next_offset, 2);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_or_a_step_back_is_refused_with_the_expected_sequence() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let producer = writer.init_producer("a", "p", None).await.unwrap();
    let mut session = writer.session().await;
    assert!(session.append(numbered(&producer, 0, &["0", "1"])).await.is_ok());
    for (sequence, values) in [(3, &["x"][..]), (1, &["x"]), (0, &["x"]), (0, &["x", "y", "z"])] {
        let request = numbered(&producer, sequence, values);
        let refusal = writer.session().await.append(request).await.unwrap_err();
        assert_eq!(
            (refusal.reason(), refusal.effect(), refusal.detail),
            (Reason::OutOfOrder, Effect::NoEffect, Some(Detail::ExpectedSequence(2)))
        );
    }
    session.send(numbered(&producer, 2, &["2"])).await;
    session.send(numbered(&producer, 4, &["4"])).await;
    session.send(numbered(&producer, 3, &["3"])).await;
    assert_eq!(offsets(session.answer().await), (2, 3));
    assert_eq!(verdict(session.answer().await), (Reason::OutOfOrder, Effect::NoEffect, false));
    // On its way already, or stopped at the door: nothing is written behind a gap unless it is
    // the sequence that is expected.
    let last = session.answer().await;
    let written = last.is_ok();
    assert_eq!(writer.info("a").await.next_offset, if written { 4 } else { 3 });
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_sixteen_appends_are_remembered() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let producer = writer.init_producer("a", "p", None).await.unwrap();
    let mut session = writer.session().await;
    for sequence in 0..17 {
        session.send(numbered(&producer, sequence, &["x"])).await;
    }
    for sequence in 0..17 {
        assert_eq!(offsets(session.answer().await), (sequence, sequence + 1));
    }
    let again = session.append(numbered(&producer, 1, &["x"])).await.unwrap();
    assert_eq!((again.first_offset, again.next_offset, again.duplicate), (Some(1), Some(2), true));
    let again = session.append(numbered(&producer, 0, &["x"])).await.unwrap();
    assert_eq!((again.first_offset, again.next_offset, again.duplicate), (None, None, true));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_producer_waits_for_the_one_before_it() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let producer = writer.init_producer("a", "p", None).await.unwrap();
    let mut session = writer.session().await;
    session.send(append("a", &["0"])).await;
    session.send(numbered(&producer, 0, &["1"])).await;
    session.send(numbered(&producer, 5, &["no"])).await;
    session.send(append("a", &["never: it must not overtake the refused one"])).await;
    assert_eq!(offsets(session.answer().await), (0, 1));
    assert_eq!(offsets(session.answer().await), (1, 2));
    assert_eq!(verdict(session.answer().await), (Reason::OutOfOrder, Effect::NoEffect, false));
    assert_eq!(verdict(session.answer().await), (Reason::SessionBroken, Effect::NoEffect, false));
    assert_eq!(writer.info("a").await.next_offset, 2);
    writer.stop().await;
}
