//! Against a pusher that does what a real one does with producers, and loses some answers.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use clap::Parser;
use pyramid_protocol::net::{self, TcpAccept};
use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::pb::v1::local_server::{Local, LocalServer};
use pyramid_protocol::{Batch, Offset};
use tokio::sync::Semaphore;
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
    /// Appends that the Writer allows without an answer.
    in_flight_max: u32,
    /// Each answer takes a permit of it, if it is there.
    gate: Option<Arc<Semaphore>>,
    /// Answers that were let through the gate.
    let_through: usize,
    /// The most that were written and not let through.
    most_in_flight: usize,
    reading: JoinSet<()>,
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
        state.most_in_flight = state.most_in_flight.max(state.bodies.len() - state.let_through);
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
        let (pusher, mut requests) = (self.clone(), request.into_inner());
        let (sender, answers) = mpsc::channel(100);
        let mut state = self.0.lock().unwrap();
        // Requests are read and written while answers wait.
        state.reading.spawn(async move {
            while let Some(request) = requests.next().await {
                let answer = request.and_then(|request| pusher.append_one(&request));
                let has_ended = answer.is_err();
                if sender.send(answer).await.is_err() || has_ended {
                    break;
                }
            }
        });
        let gate = state.gate.clone();
        let answers = ReceiverStream::new(answers).then(move |answer| {
            let gate = gate.clone();
            async move {
                if let Some(gate) = gate {
                    gate.acquire().await.unwrap().forget();
                }
                answer
            }
        });
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
            in_flight_max: state.in_flight_max,
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
    *pusher.0.lock().unwrap() =
        State { lose: Some(2), unknown: 1, in_flight_max: 16, ..State::default() };
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
    pusher.0.lock().unwrap().in_flight_max = 16;
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

/// The most orders that were on their way at once, where the Writer allows `in_flight_max` and the
/// flag `asked_for`. Each answer waits until no more orders come without it.
async fn most_in_flight(in_flight_max: u32, asked_for: &str, expected: usize) -> usize {
    const COUNT: usize = 40;
    let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let endpoint = format!("http://{}", accept.local_address().unwrap());
    let pusher = Pusher::default();
    let gate = Arc::new(Semaphore::new(0));
    *pusher.0.lock().unwrap() =
        State { in_flight_max, gate: Some(Arc::clone(&gate)), ..State::default() };
    let _serving = serve(&pusher, accept);
    let letting_through = async {
        for let_through in 0..COUNT {
            let in_flight = expected.min(COUNT - let_through);
            while pusher.0.lock().unwrap().bodies.len() < let_through + in_flight {
                tokio::task::yield_now().await;
            }
            pusher.0.lock().unwrap().let_through += 1;
            gate.add_permits(1);
        }
    };
    let count = COUNT.to_string();
    let flags = ["produce", "--endpoint", &endpoint, "--rate", "100000", "--count", &count];
    let args = Command::try_parse_from([&flags[..], &["--in-flight", asked_for]].concat());
    let mut out = Vec::new();
    let producing = run(args.unwrap().args, std::future::pending(), &mut out);
    let (produced, ()) = tokio::join!(producing, letting_through);
    produced.unwrap();
    let state = pusher.0.lock().unwrap();
    assert_eq!(state.bodies.len(), COUNT);
    state.most_in_flight
}

#[tokio::test]
async fn as_many_orders_are_on_their_way_as_the_writer_and_the_flag_allow() {
    for (in_flight_max, asked_for, expected) in
        [(16, "16", 16), (16, "3", 3), (3, "16", 3), (1, "16", 1), (0, "16", 1)]
    {
        let most = most_in_flight(in_flight_max, asked_for, expected).await;
        assert_eq!(most, expected, "{in_flight_max} and {asked_for}");
    }
}

#[tokio::test]
async fn a_writer_that_has_forgotten_answered_orders_gets_no_more() {
    let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let endpoint = format!("http://{}", accept.local_address().unwrap());
    let pusher = Pusher::default();
    pusher.0.lock().unwrap().bodies = vec![String::new(); 3];
    let _serving = serve(&pusher, accept);
    let args = Command::try_parse_from(["produce", "--endpoint", &endpoint]).unwrap().args;
    for known in [None, Some(2), Some(3)] {
        assert_eq!(Door::open(&args, known).await.unwrap().next_number, 3, "{known:?}");
    }
    let error = Door::open(&args, Some(5)).await.unwrap_err();
    assert_eq!(error.to_string(), "the Writer has lost 2 orders that it has answered for");
}
