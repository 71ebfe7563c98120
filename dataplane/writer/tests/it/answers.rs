//! All that the Writer's port says of one name, to the byte.

use prost::Message;
use pyramid_protocol::pb::v1::attach_request::Message as ToWriter;
use pyramid_protocol::pb::v1::read_request::Start;
use pyramid_protocol::pb::v1::{self as pb};
use pyramid_protocol::refusal::TRAILER;
use tokio::time::timeout;
use tonic::{Response, Status, Streaming};

use crate::tenants::Tenant;
use crate::writer::{DEADLINE, append};

/// Which call, and what came back: the first message, or the status with the refusal it carries.
pub(crate) type Answers = Vec<(String, Vec<u8>)>;

fn status(status: &Status) -> Vec<u8> {
    let carried = status.metadata().get_bin(TRAILER).map(|value| value.to_bytes().unwrap());
    let mut names: Vec<_> = status.metadata().keys().map(|key| format!("{key:?}")).collect();
    names.sort();
    let details = status.details();
    format!("{:?} {:?} {details:?} {carried:?} {names:?}", status.code(), status.message()).into()
}

fn unary(answer: Result<Response<impl Message>, Status>) -> Vec<u8> {
    answer.map_or_else(|refused| status(&refused), |answer| answer.into_inner().encode_to_vec())
}

async fn first(answer: Result<Response<Streaming<impl Message>>, Status>) -> Vec<u8> {
    let mut answers = match answer {
        Ok(answers) => answers.into_inner(),
        Err(refused) => return status(&refused),
    };
    match timeout(DEADLINE, answers.message()).await.expect("an answer comes") {
        Ok(Some(answer)) => answer.encode_to_vec(),
        Ok(None) => b"the end".to_vec(),
        Err(refused) => status(&refused),
    }
}

/// A request, and nothing more for as long as the call goes on.
fn one<T: Send + 'static>(request: T) -> impl futures::Stream<Item = T> + Send + 'static {
    use futures::StreamExt;

    futures::stream::once(async { request }).chain(futures::stream::pending())
}

/// Asks all that can be asked of the stream, or subscription, of this name.
pub(crate) async fn answers(tenant: &Tenant, name: &str, stream_id: Option<u64>) -> Answers {
    let mut calls = tenant.calls.clone();
    let stream = || name.to_owned();
    let mut all = Answers::new();
    let starts = [
        None,
        Some(Start::Offset(0)),
        Some(Start::Offset(9)),
        Some(Start::LastRecords(1)),
        Some(Start::TimeMs(1)),
    ];
    for (start, epoch, follow, want_locations) in starts
        .into_iter()
        .flat_map(|start| [(start, None, false, false), (start, Some(9), true, true)])
    {
        let request = pb::ReadRequest {
            stream: stream(),
            stream_id,
            start,
            epoch,
            follow,
            want_locations,
            ..Default::default()
        };
        let what = format!("Read {start:?} {epoch:?}");
        all.push((what, first(calls.read(request).await).await));
    }
    let watch = pb::WatchRequest { streams: vec![stream()] };
    all.push(("Watch".into(), first(calls.watch(watch).await).await));
    let get = pb::GetStreamRequest { stream: stream(), min_next_offset: None };
    all.push(("GetStream".into(), unary(calls.get_stream(get).await)));
    let get = pb::GetStreamRequest { stream: stream(), min_next_offset: Some(0) };
    all.push(("GetStream, at least".into(), unary(calls.get_stream(get).await)));
    for (after, prefix, limit) in [("", "", 0), ("", name, 0), ("", name, 1), (name, "", 0)] {
        let list = pb::ListStreamsRequest { after: after.into(), prefix: prefix.into(), limit };
        let what = format!("ListStreams {after:?} {prefix:?} {limit}");
        all.push((what, unary(calls.list_streams(list).await)));
    }
    for (producer, resume_sequence) in [("p", None), ("p", Some(1)), ("", None)] {
        let name = producer.to_owned();
        let init = pb::InitProducerRequest { stream: stream(), name, resume_sequence };
        let what = format!("InitProducer {producer:?} {resume_sequence:?}");
        all.push((what, unary(calls.init_producer(init).await)));
    }
    for first_offset in [0, 9] {
        let trim = pb::TrimRequest { stream: stream(), stream_id, first_offset };
        all.push((format!("Trim {first_offset}"), unary(calls.trim(trim).await)));
    }
    let seal = pb::SealRequest { stream: stream(), stream_id };
    all.push(("Seal".into(), unary(calls.seal(seal).await)));
    let plain = pb::AppendRequest { stream_id, ..append(name, &["x"]) };
    let expecting = pb::AppendRequest { expected_next_offset: Some(9), ..plain.clone() };
    let malformed = pb::AppendRequest { records: b"\x01".as_slice().into(), ..plain.clone() };
    let producer = Some(pb::Producer { id: 1, epoch: 1, sequence: 0 });
    let producing = pb::AppendRequest { producer, ..plain.clone() };
    for request in [expecting, malformed, producing, plain] {
        let what = format!("Append {:?} {:?}", request.expected_next_offset, request.producer);
        all.push((what, first(calls.append(one(request)).await).await));
    }
    let hello = pb::AttachHello { subscription: stream(), ..Default::default() };
    let hello = pb::AttachRequest { message: Some(ToWriter::Hello(hello)) };
    all.push(("Attach".into(), first(calls.attach(one(hello)).await).await));
    all
}

/// The calls whose answers differ.
pub(crate) fn differing(left: &Answers, right: &Answers) -> Vec<String> {
    assert_eq!(left.len(), right.len());
    let differ = left.iter().zip(right).filter(|(left, right)| left != right);
    differ.map(|((what, _), _)| what.clone()).collect()
}
