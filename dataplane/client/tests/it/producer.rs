//! Producers: each append once.

use futures::future::join_all;
use pyramid_client::connection::Error;
use pyramid_client::producer::Resume;
use pyramid_client::{Producer, append};
use pyramid_protocol::pb::v1::{Effect, Reason};

use crate::fake_writer::{FakeWriter, records};
use crate::{client, stream};

async fn open(writer: &FakeWriter, resume: Resume) -> Result<Producer, Error> {
    Producer::open(&client(writer), stream("a"), "p", resume, append::Options::default()).await
}

#[tokio::test]
async fn each_append_is_written_once_while_connections_break() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    let mut producer = open(&writer, Resume::New).await.unwrap();
    let mut pending = Vec::new();
    let mut expected = Vec::new();
    for n in 0..300_usize {
        if n % 20 == 0 {
            writer.change(|state| state.lose_answer_in = Some(1 + n % 7));
        }
        let values: Vec<_> = (0..=n % 3).map(|part| format!("{n}.{part}")).collect();
        pending.push(producer.append(&records(&values)).await);
        expected.extend(values);
    }
    let mut next = 0;
    for answer in join_all(pending).await {
        let appended = answer.unwrap();
        assert_eq!(appended.first_offset, Some(next));
        next = appended.next_offset.unwrap();
    }
    assert_eq!(writer.values("a"), expected);
    assert!(writer.look(|state| state.sessions) > 10, "connections did break");
    assert_eq!(producer.next_sequence(), next);
}

#[tokio::test]
async fn a_producer_that_was_taken_over_is_fenced() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    let mut old = open(&writer, Resume::New).await.unwrap();
    old.append(&records(&["1"])).await.await.unwrap();
    let mut new = open(&writer, Resume::From(1)).await.unwrap();
    assert_eq!(new.next_sequence(), 1);
    new.append(&records(&["2"])).await.await.unwrap();
    let refused = old.append(&records(&["3", "4"])).await.await.unwrap_err();
    assert_eq!((refused.reason(), refused.effect()), (Reason::Fenced, Effect::NoEffect));
    assert_eq!(writer.values("a"), ["1", "2"]);
}

#[tokio::test]
async fn a_forgotten_producer_does_not_begin_anew() {
    let writer = FakeWriter::start().await;
    writer.create("a");
    let Err(Error::Refused(refusal)) = open(&writer, Resume::From(0)).await else {
        panic!("an unknown producer was resumed");
    };
    assert_eq!(refusal.reason(), Reason::UnknownProducer);
    assert!(open(&writer, Resume::New).await.is_ok());
}
