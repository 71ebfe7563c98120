//! Append sessions: order, checks at the door and in apply, and what breaks a session.

use bytes::Bytes;
use pyramid_protocol::limits::{APPEND_RECORDS_MAX, RESERVED_HEADER_PREFIX, STREAM_NAME_BYTES_MAX};
use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason};
use tokio::time::timeout;

use crate::writer::{DEADLINE, Folder, append, offsets, records, verdict};

const BROKEN: (Reason, Effect, bool) = (Reason::SessionBroken, Effect::NoEffect, false);

fn expecting(stream: &str, values: &[&str], next_offset: u64) -> pb::AppendRequest {
    pb::AppendRequest { expected_next_offset: Some(next_offset), ..append(stream, values) }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_order_of_the_requests() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let streams = ["a", "b", "c"];
    for stream in streams {
        writer.put_stream(stream).await;
    }
    let mut session = writer.session().await;
    let mut expected = Vec::new();
    let mut next = [0_u64; 3];
    for number in 0..1_000_usize {
        let stream = (number * number) % 3;
        let count = 1 + number % 4;
        session.send(append(streams[stream], &vec!["x"; count])).await;
        expected.push((next[stream], next[stream] + count as u64));
        next[stream] += count as u64;
    }
    let mut answers = Vec::new();
    for _ in 0..1_000 {
        answers.push(offsets(session.answer().await));
    }
    assert_eq!(answers, expected);
    for (stream, next) in streams.into_iter().zip(next) {
        assert_eq!(writer.info(stream).await.next_offset, next);
    }
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_is_met_or_nothing_is_written() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let mut session = writer.session().await;
    assert_eq!(offsets(session.append(expecting("a", &["x", "y"], 0)).await), (0, 2));
    assert_eq!(offsets(session.append(expecting("a", &["z"], 2)).await), (2, 3));
    for wrong in [0, 2, 4] {
        let mut session = writer.session().await;
        let refusal = session.append(expecting("a", &["no"], wrong)).await.unwrap_err();
        assert_eq!(
            (refusal.reason(), refusal.effect(), refusal.detail),
            (Reason::WrongOffset, Effect::NoEffect, Some(Detail::NextOffset(3)))
        );
    }
    let of_later_epoch = pb::AppendRequest { epoch: 1, ..expecting("a", &["no"], 3) };
    let answer = writer.session().await.append(of_later_epoch).await;
    assert_eq!(verdict(answer), (Reason::Unavailable, Effect::NoEffect, true));
    assert_eq!(writer.info("a").await.next_offset, 3);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_behind_an_expectation_wait_for_it() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    writer.put_stream("b").await;
    let mut session = writer.session().await;
    session.send(append("a", &["0"])).await;
    session.send(expecting("a", &["1"], 1)).await;
    session.send(append("a", &["2"])).await;
    session.send(expecting("a", &["no"], 7)).await;
    session.send(append("a", &["never"])).await;
    session.send(append("b", &["0"])).await;
    assert_eq!(offsets(session.answer().await), (0, 1));
    assert_eq!(offsets(session.answer().await), (1, 2));
    assert_eq!(offsets(session.answer().await), (2, 3));
    assert_eq!(verdict(session.answer().await), (Reason::WrongOffset, Effect::NoEffect, false));
    assert_eq!(verdict(session.answer().await), BROKEN);
    assert_eq!(offsets(session.answer().await), (0, 1));
    assert_eq!(writer.info("a").await.next_offset, 3);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_stream_id_than_the_named_streams_is_refused() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let id = writer.put_stream("a").await.stream_id;
    let with_id = |id| pb::AppendRequest { stream_id: Some(id), ..append("a", &["x"]) };
    assert_eq!(offsets(writer.session().await.append(with_id(id)).await), (0, 1));
    let refusal = writer.session().await.append(with_id(id ^ 1)).await.unwrap_err();
    assert_eq!(
        (refusal.reason(), refusal.effect(), refusal.detail),
        (Reason::StreamRecreated, Effect::NoEffect, Some(Detail::NewStreamId(id)))
    );
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_with_the_stream_that_it_began_with() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let mut session = writer.session().await;
    assert_eq!(offsets(session.append(append("a", &["x"])).await), (0, 1));
    let mut idle = writer.session().await;
    assert_eq!(offsets(idle.append(append("a", &["y"])).await), (1, 2));

    writer.delete_stream("a").await;
    let answer = session.append(append("a", &["to the deleted one"])).await;
    assert_eq!(verdict(answer), (Reason::NotFound, Effect::NoEffect, false));
    let id = writer.put_stream("a").await.stream_id;
    let refusal = idle.append(append("a", &["to the deleted one"])).await.unwrap_err();
    assert_eq!(
        (refusal.reason(), refusal.detail),
        (Reason::StreamRecreated, Some(Detail::NewStreamId(id)))
    );
    assert_eq!(writer.info("a").await.next_offset, 0);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_created_later_does_not_mend_a_broken_session() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("there").await;
    let mut session = writer.session().await;
    let answer = session.append(append("missing", &["first"])).await;
    assert_eq!(verdict(answer), (Reason::NotFound, Effect::NoEffect, false));
    writer.put_stream("missing").await;
    assert_eq!(verdict(session.append(append("missing", &["second"])).await), BROKEN);
    assert_eq!(offsets(session.append(append("there", &["x"])).await), (0, 1));
    assert_eq!(writer.info("missing").await.next_offset, 0);
    assert_eq!(offsets(writer.session().await.append(append("missing", &["x"])).await), (0, 1));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_closed_and_opened_needs_a_new_session() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let mut before = writer.session().await;
    assert_eq!(offsets(before.append(append("a", &["x"])).await), (0, 1));
    writer.set_closed("a", true).await;
    let answer = writer.session().await.append(append("a", &["y"])).await;
    assert_eq!(verdict(answer), (Reason::Closed, Effect::NoEffect, false));
    writer.set_closed("a", false).await;
    let answer = before.append(append("a", &["y"])).await;
    assert_eq!(verdict(answer), (Reason::StaleRevision, Effect::NoEffect, false));
    assert_eq!(verdict(before.append(append("a", &["z"])).await), BROKEN);
    assert_eq!(offsets(writer.session().await.append(append("a", &["y"])).await), (1, 2));
    writer.stop().await;
}

fn raw(record: pb::Record) -> Bytes {
    use prost::Message;
    #[derive(Clone, PartialEq, prost::Message)]
    struct Records {
        #[prost(message, repeated, tag = "5")]
        records: Vec<pb::Record>,
    }
    Records { records: vec![record] }.encode_to_vec().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_right_is_refused_at_the_door() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    writer.put_stream("b").await;
    let good = append("a", &["x"]);
    let reserved = pb::Header { name: format!("{RESERVED_HEADER_PREFIX}x"), value: Bytes::new() };
    let with_records = |records| pb::AppendRequest { records, ..good.clone() };
    let with_producer = |id| pb::AppendRequest {
        producer: Some(pb::Producer { id, epoch: 1, sequence: 0 }),
        ..good.clone()
    };
    let one = Bytes::from(vec![0; 1 << 20]);
    let large = pb::Record { value: one.clone(), headers: vec![] };
    let mut three = raw(pb::Record { value: one.slice(..1_000_000), headers: vec![] }).to_vec();
    three.extend(three.clone());
    three.extend(three.clone());
    let many = raw(pb::Record::default()).repeat(APPEND_RECORDS_MAX as usize + 1);
    let wrong = [
        with_records(Bytes::new()),
        with_records(Bytes::from_static(b"\xff\xff")),
        with_records(good.records.slice(..good.records.len() - 1)),
        with_records(many.into()),
        with_records(raw(large)),
        with_records(three.into()),
        with_records(raw(pb::Record { value: Bytes::new(), headers: vec![reserved] })),
        pb::AppendRequest { records_crc32c: Some(1), ..good.clone() },
        pb::AppendRequest { stream: String::new(), ..good.clone() },
        pb::AppendRequest { stream: "n".repeat(513), ..good.clone() },
        pb::AppendRequest { expected_next_offset: Some(u64::MAX), ..good.clone() },
        with_producer(0),
        with_producer(1 << 53),
    ];
    for request in wrong {
        let mut session = writer.session().await;
        let answer = session.append(request.clone()).await;
        assert_eq!(verdict(answer), (Reason::Invalid, Effect::NoEffect, false), "{request:?}");
        let again = verdict(session.append(request.clone()).await);
        let named = request.stream.len() <= STREAM_NAME_BYTES_MAX;
        let invalid = (Reason::Invalid, Effect::NoEffect, false);
        assert_eq!(again, if named { BROKEN } else { invalid });
        assert!(session.append(append("b", &["x"])).await.is_ok(), "the session goes on");
    }
    assert_eq!(writer.info("a").await.next_offset, 0);
    let crc32c = Some(records(&["x"]).crc32c());
    let checked = pb::AppendRequest { records_crc32c: crc32c, ..good };
    assert_eq!(offsets(writer.session().await.append(checked).await), (0, 1));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_ends_the_session_after_the_answers_before_it() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let mut session = writer.session().await;
    for _ in 0..50 {
        session.send(append("a", &["x"])).await;
    }
    session.send(append_bytes("a", 5 << 20)).await;
    for number in 0..50 {
        assert_eq!(offsets(session.answer().await), (number, number + 1));
    }
    let refusal = session.answer().await.unwrap_err();
    assert_eq!(
        (refusal.reason(), refusal.effect(), refusal.retry),
        (Reason::Invalid, Effect::NoEffect, false)
    );
    assert!(refusal.message.contains("at most 2097152 bytes"), "{}", refusal.message);
    let end = timeout(DEADLINE, session.answers.message()).await.unwrap();
    assert_eq!(end.unwrap(), None);
    writer.stop().await;
}

fn append_bytes(stream: &str, len: usize) -> pb::AppendRequest {
    pb::AppendRequest { records: vec![0; len].into(), ..append(stream, &["x"]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_a_session_has_sent() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    let mut session = writer.session().await;
    assert_eq!(offsets(session.append(append("a", &["x"])).await), (0, 1));
    for _ in 0..500 {
        session.send(append("a", &["x"])).await;
    }
    assert_eq!(offsets(session.answer().await), (1, 2));
    let stopped = writer.stop();
    let answers = async {
        let (mut written, mut refused) = (2, 0);
        while let Some(answer) = session.answers.message().await.unwrap() {
            match answer.answer.unwrap() {
                pb::append_response::Answer::Appended(appended) => {
                    assert_eq!((appended.first_offset, refused), (Some(written), 0));
                    written += 1;
                }
                pb::append_response::Answer::Refused(refusal) => {
                    assert_eq!(refusal.effect(), Effect::NoEffect);
                    refused += 1;
                }
            }
        }
        written
    };
    let ((), written) = timeout(DEADLINE, async { tokio::join!(stopped, answers) }).await.unwrap();
    let mut writer = folder.start(&[]).await;
    assert_eq!(writer.info("a").await.next_offset, written);
    writer.stop().await;
}
