//! The application's way to its streams through its own pusher.

use std::time::Duration;

use pyramid_protocol::Batch;
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::local_client::LocalClient;
use pyramid_protocol::pb::v1::read_request::Start;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::{self as pb, Effect, PushState, Reason, Refusal};
use pyramid_sidecar::Error;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use crate::fake_application::{FakeApplication, Mood};
use crate::fake_writer::{FakeWriter, records, value};
use crate::{Pusher, config, reported, writer_with_a};

pub(crate) async fn local(pusher: &Pusher) -> LocalClient<Channel> {
    LocalClient::connect(format!("http://{}", pusher.local)).await.unwrap()
}

pub(crate) async fn append(
    local: &mut LocalClient<Channel>,
    requests: Vec<pb::AppendRequest>,
) -> Vec<Result<u64, Refusal>> {
    let mut answers = local.append(futures::stream::iter(requests)).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(pb::AppendResponse { answer }) = answers.message().await.unwrap() {
        all.push(match answer.unwrap() {
            Answer::Appended(appended) => Ok(appended.first_offset.unwrap()),
            Answer::Refused(refusal) => Err(refusal),
        });
    }
    all
}

fn request(value: &str, producer: Option<pb::Producer>) -> pb::AppendRequest {
    pb::AppendRequest {
        stream: "a".to_owned(),
        records: records(&[value]).bytes().clone(),
        producer,
        ..pb::AppendRequest::default()
    }
}

async fn pusher_of(writer: &FakeWriter) -> (FakeApplication, Pusher) {
    let application = FakeApplication::start().await;
    let pusher = Pusher::start(writer, &application).await;
    (application, pusher)
}

#[tokio::test]
async fn appends_with_a_producer_are_written_once_while_connections_break() {
    let writer = writer_with_a().await;
    let (application, pusher) = pusher_of(&writer).await;
    let mut local = local(&pusher).await;
    let producer = pb::InitProducerRequest {
        stream: "a".to_owned(),
        name: "p".to_owned(),
        resume_sequence: None,
    };
    let pb::InitProducerResponse { id, epoch, next_sequence: 0, .. } =
        local.init_producer(producer).await.unwrap().into_inner()
    else {
        panic!("a new producer does not begin at 0");
    };
    let mut expected = writer.values("a");
    for round in 0..5_u64 {
        writer.change(|state| state.lose_answer_in = Some(3));
        let requests = (round * 10..(round + 1) * 10)
            .map(|sequence| {
                expected.push(sequence.to_string());
                let producer = pb::Producer { id, epoch, sequence };
                request(&sequence.to_string(), Some(producer))
            })
            .collect();
        let answers = append(&mut local, requests).await;
        let first = 40 + round * 10;
        assert_eq!(answers, (first..first + 10).map(Ok).collect::<Vec<_>>());
    }
    assert_eq!(writer.values("a"), expected);
    application.wait_for_values("a", &expected).await;
}

#[tokio::test]
async fn an_interrupted_append_without_a_producer_is_unknown() {
    let writer = writer_with_a().await;
    let (_application, pusher) = pusher_of(&writer).await;
    let mut local = local(&pusher).await;
    writer.change(|state| state.lose_answer_in = Some(1));
    let answers = append(&mut local, vec![request("once", None)]).await;
    assert_eq!(answers[0].as_ref().unwrap_err().effect(), Effect::Unknown);
    let written = writer.values("a").into_iter().filter(|value| value == "once").count();
    assert_eq!(written, 1);
    assert_eq!(append(&mut local, vec![request("next", None)]).await, [Ok(41)]);
}

#[tokio::test]
async fn a_stream_is_described() {
    let writer = writer_with_a().await;
    let (_application, pusher) = pusher_of(&writer).await;
    let mut local = local(&pusher).await;
    let get =
        |stream: &str| pb::GetStreamRequest { stream: stream.to_owned(), min_next_offset: None };
    let stream = local.get_stream(get("a")).await.unwrap().into_inner();
    assert_eq!((stream.first_offset, stream.next_offset, stream.shipped_offset), (0, 40, 30));
    let status = local.get_stream(get("b")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(Refusal::from_status(&status).reason(), Reason::NotFound);
}

#[tokio::test]
async fn chunks_are_opened_for_a_local_reader() {
    let writer = writer_with_a().await;
    let (_application, pusher) = pusher_of(&writer).await;
    let mut local = local(&pusher).await;
    let read = pb::ReadRequest {
        stream: "a".to_owned(),
        start: Some(Start::Offset(4)),
        ..pb::ReadRequest::default()
    };
    let mut items = local.read(read).await.unwrap().into_inner();
    let mut values = Vec::new();
    let mut end = None;
    while let Some(pb::ReadResponse { item }) = items.message().await.unwrap() {
        match item.unwrap() {
            Item::Batches(batches) => {
                for bytes in batches.batches {
                    let batch = Batch::decode(bytes).unwrap();
                    values.extend(batch.iter().map(|record| value(&record.unwrap().1)));
                }
            }
            Item::CaughtUp(caught_up) => end = Some(caught_up.next_offset),
            Item::Start(start) => assert_eq!(start.position.unwrap().offset, 4),
            Item::Chunk(_) | Item::Moved(_) | Item::Refused(_) => panic!("not for applications"),
        }
    }
    assert_eq!((values, end), (writer.values("a")[4..].to_vec(), Some(40)));
}

#[tokio::test]
async fn a_local_reader_is_told_why_it_cannot_go_on() {
    let writer = writer_with_a().await;
    let (_application, pusher) = pusher_of(&writer).await;
    let mut local = local(&pusher).await;
    let read = pb::ReadRequest {
        stream: "a".to_owned(),
        start: Some(Start::Offset(41)),
        ..pb::ReadRequest::default()
    };
    let mut items = local.read(read.clone()).await.unwrap().into_inner();
    let Some(pb::ReadResponse { item: Some(Item::Refused(refusal)) }) =
        items.message().await.unwrap()
    else {
        panic!("a read ahead of the stream was not refused");
    };
    assert_eq!(refusal.reason(), Reason::BeyondNext);
    let nameless = pb::ReadRequest { stream: String::new(), ..read.clone() };
    assert_eq!(local.read(nameless).await.unwrap_err().code(), Code::InvalidArgument);

    // Without a start it begins at the first record, as at the Writer.
    let unset = pb::ReadRequest { start: None, ..read };
    let mut items = local.read(unset).await.unwrap().into_inner();
    let Some(pb::ReadResponse { item: Some(Item::Start(start)) }) = items.message().await.unwrap()
    else {
        panic!("a read without a start was refused");
    };
    assert_eq!(start.position.unwrap().offset, 0);
}

fn wait(offset: u64, timeout_ms: u32) -> pb::WaitAppliedRequest {
    let position = Some(pb::Position { stream_id: 1, epoch: 1, offset });
    pb::WaitAppliedRequest { stream: "a".to_owned(), position, timeout_ms }
}

#[tokio::test]
async fn a_wait_ends_when_the_application_has_accepted_the_position() {
    let writer = writer_with_a().await;
    let (application, pusher) = pusher_of(&writer).await;
    let mut local = local(&pusher).await;
    let answer = local.wait_applied(wait(40, 30_000)).await.unwrap().into_inner();
    assert_eq!(answer.accepted.unwrap().offset, 40);
    let mut waiting = local.clone();
    let later = tokio::join!(waiting.wait_applied(wait(41, 30_000)), async {
        writer.append("a", &["41"]);
    });
    assert_eq!(later.0.unwrap().into_inner().accepted.unwrap().offset, 41);
    assert_eq!(application.look(|state| state.offset("a")), Some(41));
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline_and_says_where_the_application_is() {
    let writer = writer_with_a().await;
    let (application, pusher) = pusher_of(&writer).await;
    application.wait_for_values("a", &writer.values("a")).await;
    reported(&writer, "a", PushState::Waiting).await;
    let mut local = local(&pusher).await;
    let status = local.wait_applied(wait(41, 50)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("40 (stream 1, epoch 1)"), "{}", status.message());
    let status = local.wait_applied(wait(40, 60_001)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let other = pb::WaitAppliedRequest { stream: "b".to_owned(), ..wait(1, 60_000) };
    assert_eq!(local.wait_applied(other).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_status_tells_what_each_stream_is_doing() {
    let writer = writer_with_a().await;
    let (application, pusher) = pusher_of(&writer).await;
    application.wait_for_values("a", &writer.values("a")).await;
    reported(&writer, "a", PushState::Waiting).await;
    let mut local = local(&pusher).await;
    let status = local.status(pb::StatusRequest {}).await.unwrap().into_inner();
    let report = pb::StreamReport {
        stream: "a".to_owned(),
        accepted: Some(pb::Position { stream_id: 1, epoch: 1, offset: 40 }),
        state: status.streams[0].report.as_ref().unwrap().state,
        message: String::new(),
    };
    let expected = pb::StatusResponse {
        connected: true,
        streams: vec![pb::StreamStatus {
            subscription: "s".to_owned(),
            report: Some(report),
            stream_next_offset: 40,
        }],
    };
    assert_eq!(status, expected);
    application.mood("a", Some(Mood::Rejects(40)));
    writer.append("a", &["ugly"]);
    reported(&writer, "a", PushState::HaltedRejected).await;
    let status = local.status(pb::StatusRequest {}).await.unwrap().into_inner();
    let report = status.streams[0].report.clone().unwrap();
    assert!(report.message.contains("offset 40: ugly"), "{report:?}");
    assert_eq!(status.streams[0].stream_next_offset, 41);
}

#[tokio::test]
async fn other_addresses_than_loopback_are_refused() {
    let writer = FakeWriter::start().await;
    let application = FakeApplication::start().await;
    for (address, is_refused) in [
        ("0.0.0.0:0", true),
        ("[::]:0", true),
        ("128.0.0.1:0", true),
        ("127.0.0.1:0", false),
        ("127.255.0.1:0", false),
    ] {
        let mut config = config(&writer, &[("s", &application)]);
        config.local = Some(address.parse().unwrap());
        let (sender, ready) = oneshot::channel();
        let stop = CancellationToken::new();
        let running = pyramid_sidecar::run(config, sender, stop.clone());
        let told = async {
            let told = ready.await.is_ok();
            stop.cancel();
            told
        };
        let (ended, told) =
            tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(running, told) })
                .await
                .unwrap();
        assert_eq!(told, !is_refused, "{address}");
        assert_eq!(matches!(ended, Err(Error::NotLoopback { .. })), is_refused, "{address}");
    }
}
