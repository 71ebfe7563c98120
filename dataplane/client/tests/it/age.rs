//! Connections that end because they are old: what is under way is not lost by it.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use pyramid_client::Reader;
use pyramid_client::append::{self, AppendSession, Pending};
use pyramid_client::read::{Item, Options, Start};
use pyramid_protocol::Offset;
use pyramid_protocol::net::Age;
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason};
use tokio::time::timeout;

use crate::fake_writer::network::DEADLINE;
use crate::fake_writer::{FakeWriter, records, value};
use crate::{client, stream};

/// Appends on their way at any time.
const IN_FLIGHT: usize = 20;

async fn writer(max: Duration, grace: Duration) -> FakeWriter {
    let address = "127.0.0.1:0".parse().unwrap();
    FakeWriter::start_of_age(address, &["a"], Age { max, grace }).await
}

/// Keeps appends on their way until `is_enough`, or until one is refused. Tells how many were
/// written.
async fn append_until(
    writer: &FakeWriter,
    call_age: Duration,
    is_enough: impl Fn(usize) -> bool,
) -> Result<Vec<String>, pb::Refusal> {
    let options = append::Options { call_age, ..append::Options::default() };
    let session = AppendSession::new(client(writer), options);
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut values = Vec::new();
    while !is_enough(writer.look(|state| state.sessions)) {
        let value = values.len().to_string();
        let request = pb::AppendRequest {
            stream: "a".to_owned(),
            records: records(&[&value]).bytes().clone(),
            ..pb::AppendRequest::default()
        };
        values.push(value);
        pending.push_back(session.append(request).await);
        if pending.len() >= IN_FLIGHT {
            pending.pop_front().unwrap().await?;
        }
    }
    for pending in pending {
        pending.await?;
    }
    Ok(values)
}

#[tokio::test]
async fn appends_without_a_producer_are_not_interrupted_by_the_age_of_their_connection() {
    let writer = writer(Duration::from_millis(50), Duration::from_secs(5)).await;
    let appended = append_until(&writer, Duration::from_millis(50), |sessions| sessions >= 6);
    let values = timeout(DEADLINE, appended).await.unwrap().unwrap();
    assert_eq!(writer.values("a"), values);
}

/// Why calls are replaced: one that is not is cut off in the middle of appends.
#[tokio::test]
async fn a_call_that_is_older_than_the_grace_is_cut_off() {
    let writer = writer(Duration::from_millis(50), Duration::from_millis(50)).await;
    let appended = append_until(&writer, Duration::from_secs(3600), |_| false);
    let refusal = timeout(DEADLINE, appended).await.unwrap().unwrap_err();
    assert_eq!((refusal.reason(), refusal.effect()), (Reason::Unavailable, Effect::Unknown));
}

#[tokio::test]
async fn a_read_goes_on_after_its_connection_was_cut_off() {
    let writer = writer(Duration::from_millis(20), Duration::from_millis(20)).await;
    let options =
        Options { follow: true, ..Options::new(stream("a"), Start::Offset(Offset::START)) };
    let mut reader = Reader::new(client(&writer), options);
    let mut taken = Vec::new();
    let reading = async {
        while writer.look(|state| state.reads) < 5 {
            writer.append("a", &[taken.len().to_string()]);
            if let Item::Batches(batches) = reader.next().await.unwrap().unwrap() {
                for record in batches.batches.iter().flat_map(|batch| batch.iter()) {
                    taken.push(value(&record.unwrap().1));
                }
            }
        }
    };
    timeout(DEADLINE, reading).await.unwrap();
    let written = writer.values("a");
    assert!(taken.len() > 4, "{}", taken.len());
    assert_eq!(taken, written[..taken.len()]);
}
