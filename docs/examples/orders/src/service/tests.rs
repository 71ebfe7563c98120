//! Pushes by a real client over a real connection, into a real file.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use pyramid_protocol::net::{TcpAccept, TcpConnect, channel};
use pyramid_protocol::pb::v1::consumer_client::ConsumerClient;
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{Accepted, Position, Record, WrongOffset};
use pyramid_protocol::{Batch, Offset, Records};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::*;
use crate::database;

const STREAM: &str = "orders";

/// An application that serves; ends when dropped, like a killed one: nothing is closed first.
struct Application {
    folder: TempDir,
    client: ConsumerClient<Channel>,
    serving: JoinSet<anyhow::Result<()>>,
}

impl Application {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(folder: TempDir) -> Self {
        let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = accept.local_address().unwrap().to_string();
        let database = database::open(&file(folder.path())).unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(database, accept, std::future::pending()));
        let client = ConsumerClient::new(channel(Arc::new(TcpConnect), &address).unwrap());
        Self { folder, client, serving }
    }

    async fn restart(mut self) -> Self {
        self.serving.shutdown().await;
        Self::start_in(self.folder).await
    }

    async fn push(&mut self, base: Option<Position>, batches: &[Bytes], next: Position) -> Answer {
        self.try_push(base, batches, next).await.unwrap()
    }

    async fn try_push(
        &mut self,
        base: Option<Position>,
        batches: &[Bytes],
        next: Position,
    ) -> Result<Answer, Status> {
        let push = PushRequest {
            subscription: "till".into(),
            stream: STREAM.into(),
            base,
            batches: batches.to_vec(),
            next: Some(next),
            stream_next_offset: next.offset,
        };
        Ok(self.client.push(push).await?.into_inner().answer.unwrap())
    }

    /// The rows and the position, read by a connection of our own.
    fn stored(&self) -> (Vec<(u64, Vec<u8>)>, Option<Position>) {
        let database = Connection::open(file(self.folder.path())).unwrap();
        let mut query =
            database.prepare("SELECT offset, body FROM orders ORDER BY offset").unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let rows = rows.collect::<Result<_, _>>().unwrap();
        (rows, database::position(&database, STREAM).unwrap())
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("orders.db")
}

fn at(offset: u64) -> Position {
    Position { stream_id: 7, epoch: 1, offset }
}

fn batch(base: u64, bodies: &[&str]) -> Bytes {
    let records: Vec<Record> = bodies
        .iter()
        .map(|body| Record { value: Bytes::copy_from_slice(body.as_bytes()), headers: vec![] })
        .collect();
    Batch::new(Offset::new(base), 1, &Records::encode(&records).unwrap()).encode()
}

fn rows(bodies: &[&str]) -> Vec<(u64, Vec<u8>)> {
    (0..).zip(bodies.iter().map(|body| body.as_bytes().to_vec())).collect()
}

fn accepted(next: Position) -> Answer {
    Answer::Accepted(Accepted { next: Some(next) })
}

fn wrong_offset(stored: Option<Position>) -> Answer {
    Answer::WrongOffset(WrongOffset { stored })
}

/// An application that has accepted the records `a`, `b` and `c`.
async fn with_three_records() -> Application {
    let mut application = Application::start().await;
    application.push(None, &[], at(0)).await;
    let batches = [batch(0, &["a", "b"]), batch(2, &["c"])];
    assert_eq!(application.push(Some(at(0)), &batches, at(3)).await, accepted(at(3)));
    application
}

#[tokio::test]
async fn the_first_push_tells_where_to_begin() {
    let mut application = Application::start().await;
    assert_eq!(application.push(None, &[], at(5)).await, accepted(at(5)));
    assert_eq!(application.stored(), (vec![], Some(at(5))));
}

#[tokio::test]
async fn a_push_at_the_stored_position_is_stored() {
    let application = with_three_records().await;
    assert_eq!(application.stored(), (rows(&["a", "b", "c"]), Some(at(3))));
}

#[tokio::test]
async fn an_application_with_a_position_tells_it_to_a_new_pusher() {
    let mut application = with_three_records().await;
    assert_eq!(application.push(None, &[], at(0)).await, wrong_offset(Some(at(3))));
    assert_eq!(application.stored(), (rows(&["a", "b", "c"]), Some(at(3))));
}

#[tokio::test]
async fn a_push_at_another_position_has_no_effect() {
    let mut application = with_three_records().await;
    let elsewhere =
        [at(2), at(4), Position { epoch: 2, ..at(3) }, Position { stream_id: 8, ..at(3) }];
    for base in elsewhere {
        let next = Position { offset: base.offset + 1, ..base };
        let answer = application.push(Some(base), &[batch(base.offset, &["x"])], next).await;
        assert_eq!(answer, wrong_offset(Some(at(3))), "{base:?}");
        assert_eq!(application.stored(), (rows(&["a", "b", "c"]), Some(at(3))), "{base:?}");
    }
}

#[tokio::test]
async fn a_replay_of_an_old_push_has_no_effect() {
    let mut application = with_three_records().await;
    let batches = [batch(0, &["a", "b"]), batch(2, &["c"])];
    let answer = application.push(Some(at(0)), &batches, at(3)).await;
    assert_eq!(answer, wrong_offset(Some(at(3))));
    assert_eq!(application.stored(), (rows(&["a", "b", "c"]), Some(at(3))));
}

#[tokio::test]
async fn a_question_without_batches_is_answered() {
    let mut application = with_three_records().await;
    assert_eq!(application.push(Some(at(3)), &[], at(3)).await, accepted(at(3)));
    assert_eq!(application.push(Some(at(2)), &[], at(2)).await, wrong_offset(Some(at(3))));
}

#[tokio::test]
async fn a_new_epoch_enters_through_next() {
    let mut application = with_three_records().await;
    let next = Position { epoch: 2, ..at(4) };
    assert_eq!(application.push(Some(at(3)), &[batch(3, &["d"])], next).await, accepted(next));
    assert_eq!(application.stored(), (rows(&["a", "b", "c", "d"]), Some(next)));
}

#[tokio::test]
async fn what_was_accepted_outlives_a_restart() {
    let mut application = with_three_records().await.restart().await;
    assert_eq!(application.push(Some(at(3)), &[batch(3, &["d"])], at(4)).await, accepted(at(4)));
    assert_eq!(application.stored(), (rows(&["a", "b", "c", "d"]), Some(at(4))));
}

#[tokio::test]
async fn a_lost_database_says_that_it_has_no_position() {
    let mut application = with_three_records().await;
    application.serving.shutdown().await;
    for entry in std::fs::read_dir(application.folder.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let mut application = Application::start_in(application.folder).await;
    let answer = application.push(Some(at(3)), &[batch(3, &["d"])], at(4)).await;
    assert_eq!(answer, wrong_offset(None));
    assert_eq!(application.stored(), (vec![], None));
    assert_eq!(application.push(None, &[], at(0)).await, accepted(at(0)));
    assert_eq!(application.push(Some(at(0)), &[batch(0, &["a"])], at(1)).await, accepted(at(1)));
    assert_eq!(application.stored(), (rows(&["a"]), Some(at(1))));
}

#[tokio::test]
async fn a_push_that_fails_in_the_middle_has_no_effect() {
    let mut application = with_three_records().await;
    // The second batch cannot be decoded, the second one below has a row that is there already.
    for broken in [Bytes::from_static(b"no batch"), batch(0, &["a"])] {
        let batches = [batch(3, &["d"]), broken];
        let status = application.try_push(Some(at(3)), &batches, at(5)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal, "{status}");
        assert_eq!(application.stored(), (rows(&["a", "b", "c"]), Some(at(3))));
    }
    assert_eq!(application.push(Some(at(3)), &[batch(3, &["d"])], at(4)).await, accepted(at(4)));
}

#[tokio::test]
async fn orders_are_printed_in_their_order() {
    let application = with_three_records().await;
    let mut out = Vec::new();
    let database = database::open(&file(application.folder.path())).unwrap();
    database::print(&database, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "a\nb\nc\n");
}
