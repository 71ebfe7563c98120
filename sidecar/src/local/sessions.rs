//! [`Sessions`]: the append sessions behind one call of `Append`, one for each Writer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pyramid_client::append::{self, AppendSession};
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use tonic::Status;

use crate::local::Service;

/// Streams of one call that may be refused because they are not known. One more ends the call.
const REFUSED_MAX: usize = 1_000;

/// All appends of one call, in their order.
pub(super) struct Sessions {
    service: Service,
    /// By the name of the Writer.
    open: BTreeMap<Arc<str>, Arc<AppendSession>>,
    /// Streams that were not known. A session has no holes, so what comes after such a refusal is
    /// refused as well, until the application begins a new call.
    refused: BTreeSet<String>,
}

/// What becomes of an append.
pub(super) enum Pending {
    /// The session outlives the call's requests: it is kept by what waits for an answer.
    Sent {
        pending: append::Pending,
        _session: Arc<AppendSession>,
    },
    Refused(Refusal),
}

impl Sessions {
    pub(super) fn new(service: Service) -> Self {
        Self { service, open: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// Sends an append on its way, once there is a place for it.
    ///
    /// # Errors
    ///
    /// The call names too many streams that are not known.
    pub(super) async fn append(
        &mut self,
        mut request: pb::AppendRequest,
    ) -> Result<Pending, Status> {
        let (name, upstream) = match self.service.route(&request.stream) {
            Ok(route) => route,
            Err(refusal) => return self.refuse(request.stream, refusal),
        };
        if self.refused.contains(&request.stream) {
            let message = "an append before this one was refused; begin a new session";
            return Ok(Pending::Refused(Refusal::new(Reason::SessionBroken, message)));
        }
        request.stream = name;
        let session = self.open.entry(Arc::clone(&upstream.writer)).or_insert_with(|| {
            let client = upstream.client.clone();
            Arc::new(AppendSession::new(client, append::Options::default()))
        });
        let pending = session.append(request).await;
        Ok(Pending::Sent { pending, _session: Arc::clone(session) })
    }

    fn refuse(&mut self, stream: String, refusal: Refusal) -> Result<Pending, Status> {
        if self.refused.len() >= REFUSED_MAX && !self.refused.contains(&stream) {
            return Err(refusal.into());
        }
        self.refused.insert(stream);
        Ok(Pending::Refused(refusal))
    }
}

impl Pending {
    pub(super) async fn answer(self) -> pb::AppendResponse {
        let answer = match self {
            Self::Sent { pending, _session } => match pending.await {
                Ok(appended) => Answer::Appended(appended),
                Err(refusal) => Answer::Refused(refusal),
            },
            Self::Refused(refusal) => Answer::Refused(refusal),
        };
        pb::AppendResponse { answer: Some(answer) }
    }
}
