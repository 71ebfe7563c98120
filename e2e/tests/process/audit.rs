//! An application inside the test that records every push that it accepts.
//!
//! It keeps its positions in memory, and now and then it accepts a part of a push or asks for time,
//! as applications may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use pyramid_e2e::history::{Call, Outcome, Recorder};
use pyramid_protocol::Batch;
use pyramid_protocol::net::{TcpAccept, incoming, server};
use pyramid_protocol::pb::v1::consumer_server::{Consumer, ConsumerServer};
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{
    Accepted, NotReady, Position, PushRequest, PushResponse, WrongOffset,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::{Request, Response, Status};

use crate::readers::piece;

/// Of so many pushes, one is accepted in part and one is put off.
const ODDITY: u32 = 20;

/// How long it asks for. Unit: milliseconds.
const PUT_OFF_MS: u32 = 5;

#[derive(Debug)]
pub(crate) struct Audit {
    recorder: Arc<Recorder>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Stored position of each stream.
    stored: HashMap<String, Position>,
    rng: StdRng,
    /// What went wrong; it fails the run.
    wrong: Option<String>,
}

impl Audit {
    pub(crate) fn new(recorder: &Arc<Recorder>, seed: u64) -> Arc<Self> {
        let rng = StdRng::seed_from_u64(seed);
        let inner = Mutex::new(Inner { stored: HashMap::new(), rng, wrong: None });
        Arc::new(Self { recorder: Arc::clone(recorder), inner })
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self: Arc<Self>, port: u16) -> anyhow::Result<()> {
        let accept = TcpAccept::bind(([127, 0, 0, 1], port).into()).await?;
        let service = ConsumerServer::from_arc(self);
        server().add_service(service).serve_with_incoming(incoming(accept)).await?;
        Ok(())
    }

    /// Where it is in a stream.
    pub(crate) fn position(&self, stream: &str) -> anyhow::Result<Option<u64>> {
        let inner = self.inner.lock().unwrap();
        anyhow::ensure!(inner.wrong.is_none(), "the audit was pushed nonsense: {:?}", inner.wrong);
        Ok(inner.stored.get(stream).map(|position| position.offset))
    }

    fn answer(&self, inner: &mut Inner, push: PushRequest) -> anyhow::Result<Answer> {
        let next = push.next.context("the push does not say where it ends")?;
        let mut records = Vec::new();
        for batch in push.batches {
            records.extend(piece(&Batch::decode(batch)?)?.records);
        }
        let call = Call::Push {
            subscription: push.subscription,
            stream: push.stream.clone(),
            base: push.base.map(|base| base.offset),
            next: next.offset,
            records: records.clone(),
        };
        let op = self.recorder.invoke("audit", call);
        let stored = inner.stored.get(&push.stream).copied();
        // A push without a base is for who has no position, and only for them.
        if stored != push.base {
            self.recorder.fail("audit", op, format!("stored {stored:?}"));
            return Ok(Answer::WrongOffset(WrongOffset { stored }));
        }
        let odd = inner.rng.random_range(0..ODDITY);
        if odd == 0 {
            self.recorder.fail("audit", op, "not ready");
            return Ok(Answer::NotReady(NotReady { retry_after_ms: PUT_OFF_MS }));
        }
        let left = if odd == 1 && !records.is_empty() {
            inner.rng.random_range(0..records.len() as u64)
        } else {
            0
        };
        let accepted = Position { offset: next.offset.saturating_sub(left), ..next };
        inner.stored.insert(push.stream, accepted);
        self.recorder.ok("audit", op, Outcome::Accepted { next: accepted.offset });
        Ok(Answer::Accepted(Accepted { next: Some(accepted) }))
    }
}

#[tonic::async_trait]
impl Consumer for Audit {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        let mut inner = self.inner.lock().unwrap();
        match self.answer(&mut inner, request.into_inner()) {
            Ok(answer) => Ok(Response::new(PushResponse { answer: Some(answer) })),
            Err(error) => {
                let text = format!("{error:#}");
                inner.wrong = Some(text.clone());
                Err(Status::internal(text))
            }
        }
    }
}
