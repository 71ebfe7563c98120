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
    /// Orders that were written before the Writer forgot the producer: its sequences begin behind
    /// them.
    forgotten: usize,
    /// The Writer does not know the producer.
    is_lost: bool,
    /// The producer is made, and its answer is lost.
    lose_init: bool,
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

impl State {
    fn next_sequence(&self) -> u64 {
        u64::try_from(self.bodies.len() - self.forgotten).unwrap()
    }

    /// The Stream is replaced by one with these orders, or, if they are the same, its producers are
    /// forgotten.
    fn forget(&mut self, bodies: Vec<String>) {
        self.forgotten = bodies.len();
        self.bodies = bodies;
        self.is_lost = true;
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Pusher {
    fn append_one(&self, request: &AppendRequest) -> Result<AppendResponse, Status> {
        let mut state = self.0.lock().unwrap();
        let producer = request.producer.unwrap();
        let written = state.next_sequence();
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
        let resume_sequence = request.into_inner().resume_sequence;
        state.resumed.push(resume_sequence);
        if state.is_lost && resume_sequence.is_some() {
            return Err(Refusal::new(Reason::UnknownProducer, "expired or lost").into());
        }
        state.is_lost = false;
        state.epoch += 1;
        if std::mem::take(&mut state.lose_init) {
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(Response::new(InitProducerResponse {
            id: 1,
            epoch: state.epoch,
            next_sequence: state.next_sequence(),
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
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let expected = ReadRequest {
            stream: "orders".to_owned(),
            start: Some(Start::LastRecords(u64::MAX)),
            ..ReadRequest::default()
        };
        assert_eq!(request.into_inner(), expected);
        let bodies = self.0.lock().unwrap().bodies.clone();
        let batch = |(offset, body): (usize, String)| {
            let record = Record { value: body.into_bytes().into(), headers: Vec::new() };
            let offset = Offset::new(u64::try_from(offset).unwrap());
            Batch::new(offset, 0, &Records::encode(&[record]).unwrap()).encode()
        };
        let next_offset = u64::try_from(bodies.len()).unwrap();
        let batches = bodies.into_iter().enumerate().map(batch).collect();
        let items = [
            Item::Start(pb::ReadStart::default()),
            Item::Batches(pb::ReadBatches { batches }),
            Item::CaughtUp(pb::CaughtUp { next_offset }),
        ];
        let items = items.map(|item| Ok(pb::ReadResponse { item: Some(item) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
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
    let heard = |answered| Some(Known { answered, first: 0 });
    for known in [None, heard(2), heard(3)] {
        let door = Door::open(&args, &mut known.clone()).await.unwrap();
        assert_eq!((door.next_number, door.known.answered), (3, 3), "{known:?}");
    }
    let error = Door::open(&args, &mut heard(5)).await.unwrap_err();
    assert_eq!(error.to_string(), "the Writer has lost 2 orders that it has answered for");
}

fn order(producer: &str, number: u64) -> serde_json::Value {
    json!({ "producer": producer, "number": number, "item": "tea", "quantity": 1 })
}

/// Appends four orders, of which the last gets no answer because the Writer has forgotten the
/// producer; the stream then has `forget` of what it had. Four more come. What is in it at the end,
/// with which sequences the producer was taken up, and how many orders the run has counted.
async fn forgotten(
    forget: impl Fn(&[String]) -> Vec<String>,
    loses_init: bool,
) -> (Vec<serde_json::Value>, Vec<Option<u64>>, serde_json::Value) {
    let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let endpoint = format!("http://{}", accept.local_address().unwrap());
    let pusher = Pusher::default();
    let gate = Arc::new(Semaphore::new(3));
    *pusher.0.lock().unwrap() = State {
        lose: Some(3),
        in_flight_max: 1,
        gate: Some(Arc::clone(&gate)),
        ..State::default()
    };
    let _serving = serve(&pusher, accept);
    let forgetting = async {
        while pusher.0.lock().unwrap().bodies.len() < 4 {
            tokio::task::yield_now().await;
        }
        let mut state = pusher.0.lock().unwrap();
        let left = forget(&state.bodies);
        state.forget(left);
        (state.lose, state.lose_init) = (None, loses_init);
        gate.add_permits(100);
    };
    let enough = async {
        forgetting.await;
        let before = pusher.0.lock().unwrap().forgotten;
        while pusher.0.lock().unwrap().bodies.len() < before + 4 {
            tokio::task::yield_now().await;
        }
    };
    let flags = ["produce", "--endpoint", &endpoint, "--rate", "1000"];
    let args = Command::try_parse_from(flags).unwrap().args;
    let mut out = Vec::new();
    run(args, enough, &mut out).await.unwrap();
    let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let state = pusher.0.lock().unwrap();
    let bodies = state.bodies.iter().map(|body| serde_json::from_str(body).unwrap()).collect();
    (bodies, state.resumed.clone(), said["orders"].clone())
}

/// The orders of the producer `orders` below this number.
fn orders_below(end: usize) -> Vec<serde_json::Value> {
    (0..end).map(|number| order("orders", u64::try_from(number).unwrap())).collect()
}

#[tokio::test]
async fn in_a_stream_that_took_the_place_of_another_numbers_begin_at_0() {
    let (bodies, resumed, said) = forgotten(|_| Vec::new(), false).await;
    assert_eq!(bodies, orders_below(bodies.len()));
    assert_eq!((resumed, said), (vec![None, Some(3), None], json!(bodies.len())));
}

#[tokio::test]
async fn an_order_without_an_answer_is_looked_for_in_the_stream_and_not_written_twice() {
    let others = [order("other", 70).to_string()];
    // It was written, and then others appended; or it was not.
    for written in [4, 3] {
        let forget = |bodies: &[String]| [&bodies[..written], &others[..]].concat();
        let (mut bodies, resumed, said) = forgotten(forget, false).await;
        assert_eq!(bodies.remove(written), order("other", 70));
        assert_eq!(bodies, orders_below(bodies.len()));
        assert_eq!((resumed, said), (vec![None, Some(3), None], json!(bodies.len())));
    }
}

#[tokio::test]
async fn a_producer_that_was_made_anew_without_hearing_of_it_goes_on() {
    let (bodies, resumed, said) = forgotten(<[String]>::to_vec, true).await;
    assert_eq!(bodies, orders_below(bodies.len()));
    assert_eq!((resumed, said), (vec![None, Some(3), None, Some(0)], json!(bodies.len())));
}
