//! Against a pusher that does what a real one does with producers, and loses some answers.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use clap::Parser;
use pyramid_protocol::net::{self, TcpAccept};
use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::pb::v1::local_server::{Local, LocalServer};
use pyramid_protocol::{Batch, Offset};
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::*;

#[derive(Debug, clap::Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

#[derive(Clone, Default)]
struct Pusher(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    epoch: u32,
    bodies: Vec<String>,
    /// The append of this number is written and then not answered.
    lose: Option<u64>,
    /// So many calls are refused, because the stream is not known yet.
    unknown: u32,
    resumed: Vec<Option<u64>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Pusher {
    fn append_one(&self, request: &AppendRequest) -> Result<AppendResponse, Status> {
        let mut state = self.0.lock().unwrap();
        let producer = request.producer.unwrap();
        let written = u64::try_from(state.bodies.len()).unwrap();
        assert_eq!((request.stream.as_str(), producer.epoch), ("orders", state.epoch));
        assert_eq!(producer.sequence, written, "out of order");
        let records = Records::check(request.records.clone()).unwrap();
        for record in Batch::new(Offset::START, 0, &records).iter() {
            state.bodies.push(String::from_utf8(record.unwrap().1.value.to_vec()).unwrap());
        }
        if state.lose == Some(written) {
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(AppendResponse { answer: Some(Answer::Appended(pb::Appended::default())) })
    }
}

#[tonic::async_trait]
impl Local for Pusher {
    type AppendStream = Answers<AppendResponse>;
    type ReadStream = Answers<pb::ReadResponse>;

    async fn append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let pusher = self.clone();
        let answers = request.into_inner().map(move |request| pusher.append_one(&request?));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn init_producer(
        &self,
        request: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        if state.unknown > 0 {
            state.unknown -= 1;
            return Err(Status::not_found("not known yet"));
        }
        state.resumed.push(request.into_inner().resume_sequence);
        state.epoch += 1;
        Ok(Response::new(InitProducerResponse {
            id: 1,
            epoch: state.epoch,
            next_sequence: u64::try_from(state.bodies.len()).unwrap(),
            known: state.epoch > 1,
            in_flight_max: 1,
        }))
    }

    async fn get_stream(
        &self,
        _request: Request<pb::GetStreamRequest>,
    ) -> Result<Response<pb::StreamInfo>, Status> {
        Err(Status::unimplemented("get_stream"))
    }

    async fn read(
        &self,
        _request: Request<pb::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("read"))
    }

    async fn wait_applied(
        &self,
        _request: Request<pb::WaitAppliedRequest>,
    ) -> Result<Response<pb::WaitAppliedResponse>, Status> {
        Err(Status::unimplemented("wait_applied"))
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        Err(Status::unimplemented("status"))
    }

    async fn drain(
        &self,
        _request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        Err(Status::unimplemented("drain"))
    }
}

/// Runs a producer up to this count, and returns what it printed.
async fn produce(address: &str, count: &str) -> String {
    let endpoint = format!("http://{address}");
    let flags = ["produce", "--endpoint", &endpoint, "--rate", "1000", "--count", count];
    let mut out = Vec::new();
    let args = Command::try_parse_from(flags).unwrap().args;
    run(args, std::future::pending(), &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

fn serve(pusher: &Pusher, accept: TcpAccept) -> JoinSet<Result<(), tonic::transport::Error>> {
    let service = LocalServer::new(pusher.clone());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        net::server().add_service(service).serve_with_incoming(net::incoming(accept)).await
    });
    serving
}

#[tokio::test]
async fn each_number_is_written_once_though_answers_are_lost_and_runs_end() {
    let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = accept.local_address().unwrap().to_string();
    let pusher = Pusher::default();
    *pusher.0.lock().unwrap() = State { lose: Some(2), unknown: 1, ..State::default() };
    let _serving = serve(&pusher, accept);
    let end = |orders: u64| {
        let end = json!({ "stream": "orders", "producer": "orders", "orders": orders });
        format!("{end}\n")
    };
    assert_eq!(produce(&address, "5").await, end(5));
    assert_eq!(produce(&address, "8").await, end(8));
    assert_eq!(produce(&address, "8").await, end(8));
    let state = pusher.0.lock().unwrap();
    let numbered = |number: u64| json!({ "producer": "orders", "number": number, "item": "tea", "quantity": 1 });
    let expected: Vec<serde_json::Value> = (0..8).map(numbered).collect();
    let bodies: Vec<serde_json::Value> =
        state.bodies.iter().map(|body| serde_json::from_str(body).unwrap()).collect();
    assert_eq!(bodies, expected);
    assert_eq!(state.resumed, [None, Some(2), None, None]);
}

#[tokio::test]
async fn told_to_stop_it_says_how_many_were_answered_for() {
    let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let endpoint = format!("http://{}", accept.local_address().unwrap());
    let pusher = Pusher::default();
    let _serving = serve(&pusher, accept);
    let enough = async {
        while pusher.0.lock().unwrap().bodies.len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    let flags = ["produce", "--endpoint", &endpoint, "--rate", "1000"];
    let args = Command::try_parse_from(flags).unwrap().args;
    let mut out = Vec::new();
    run(args, enough, &mut out).await.unwrap();
    let written = pusher.0.lock().unwrap().bodies.len();
    let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(said, json!({ "stream": "orders", "producer": "orders", "orders": written }));
}

#[tokio::test]
async fn told_to_stop_without_a_pusher_it_has_no_count() {
    let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let endpoint = format!("http://{}", accept.local_address().unwrap());
    drop(accept);
    let args = Command::try_parse_from(["produce", "--endpoint", &endpoint]).unwrap().args;
    let mut out = Vec::new();
    run(args, async {}, &mut out).await.unwrap();
    let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(said["orders"], serde_json::Value::Null);
}
