//! Which replica is asked, and for how long.

use std::time::Duration;

use futures::StreamExt;
use pyramid_client::connection::{Client, Error, Options};
use pyramid_client::watch::watch;
use pyramid_protocol::pb::v1::{self as pb, Reason};

use crate::fake_writer::FakeWriter;
use crate::{client, stream};

fn get(name: &str) -> pb::GetStreamRequest {
    pb::GetStreamRequest { stream: name.to_owned(), min_next_offset: None }
}

#[tokio::test]
async fn the_leader_is_followed() {
    let leader = FakeWriter::start().await;
    let follower = FakeWriter::start().await;
    let id = leader.create("a");
    follower.change(|state| state.leader = Some(leader.address.to_string()));
    let client = client(&follower);
    assert_eq!(client.get_stream(get("a")).await.unwrap().stream_id, id);
    // It stays with the leader.
    assert_eq!(client.writer().address(), leader.address.to_string());
}

#[tokio::test]
async fn replicas_are_tried_in_turn() {
    let first = FakeWriter::start().await;
    let second = FakeWriter::start().await;
    let id = second.create("a");
    let addresses = vec![first.address.to_string(), second.address.to_string()];
    first.stop().await;
    let client = Client::new(Options::tcp(addresses)).unwrap();
    assert_eq!(client.get_stream(get("a")).await.unwrap().stream_id, id);
}

#[tokio::test]
async fn a_call_outlives_a_broken_connection() {
    let writer = FakeWriter::start().await;
    let id = writer.create("a");
    let client = client(&writer);
    for _ in 0..3 {
        assert_eq!(client.get_stream(get("a")).await.unwrap().stream_id, id);
        writer.network.break_connections();
    }
}

#[tokio::test]
async fn a_refusal_that_stays_is_not_asked_again() {
    let writer = FakeWriter::start().await;
    let Err(Error::Refused(refusal)) = client(&writer).get_stream(get("a")).await else {
        panic!("a stream was found that does not exist");
    };
    assert_eq!(refusal.reason(), Reason::NotFound);
}

#[tokio::test]
async fn a_call_ends_when_nobody_answers() {
    let writer = FakeWriter::start().await;
    let addresses = writer.addresses();
    writer.stop().await;
    let options = Options { call_timeout: Duration::from_millis(100), ..Options::tcp(addresses) };
    let client = Client::new(options).unwrap();
    assert!(matches!(client.get_stream(get("a")).await, Err(Error::NoAnswer { .. })));
}

#[tokio::test]
async fn addresses_can_be_changed_under_way() {
    let (old, new) = (FakeWriter::start().await, FakeWriter::start().await);
    old.create("a");
    new.create("a");
    new.append("a", &["only here"]);
    let client = client(&old);
    let next_offset =
        async |client: &Client| client.get_stream(get("a")).await.unwrap().next_offset;
    assert_eq!(next_offset(&client).await, 0);
    let clone = client.clone();
    client.set_addresses([old.addresses(), new.addresses()].concat()).unwrap();
    assert_eq!(next_offset(&clone).await, 0, "one that answers is asked further on");
    client.set_addresses(new.addresses()).unwrap();
    assert_eq!(next_offset(&clone).await, 1);
    for addresses in [vec![], vec!["a b".to_owned()]] {
        assert!(matches!(client.set_addresses(addresses), Err(Error::Address { .. })));
    }
    assert_eq!(next_offset(&clone).await, 1);
}

#[tokio::test]
async fn addresses_must_be_addresses() {
    for addresses in [vec![], vec!["a b".to_owned()]] {
        let address = addresses.first().cloned().unwrap_or_default();
        let error = Client::new(Options::tcp(addresses)).unwrap_err();
        assert_eq!(error, Error::Address { address });
    }
}

#[tokio::test]
async fn a_watch_tells_the_newest_offset_also_after_a_broken_connection() {
    let writer = FakeWriter::start().await;
    let stream_id = writer.create("a");
    let mut watch = Box::pin(watch(client(&writer), &[stream("a"), stream("b")]));
    for next in 0..4 {
        let expected = vec![
            pb::WatchedStream {
                stream: "a".to_owned(),
                next: Some(pb::Position { stream_id, epoch: 1, offset: next }),
            },
            pb::WatchedStream { stream: "b".to_owned(), next: None },
        ];
        while watch.next().await.unwrap().unwrap() != expected {}
        if next % 2 == 0 {
            writer.network.break_connections();
        }
        writer.append("a", &["x"]);
    }
}
