//! The `Admin` service: what the operator, or `pyramid dev`, does to one replica.

mod info;

use std::sync::Arc;

use futures::StreamExt;
use pyramid_protocol::limits::{IDENTITIES_MAX, NAME_BYTES_MAX, SUBSCRIPTION_STREAMS_MAX};
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::pb::v1::admin_server::Admin;
use pyramid_protocol::pb::v1::put_stream_result::Result as PutResult;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Grantee, StreamId, StreamName};
use pyramid_tls::Tls;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Request, Response, Status};

use crate::configured::{self, object};
use crate::member::{Member, Phase};
use crate::service::{
    Answers, control_refusal, leaders_word, recreated, starting, stream_info, unexpected,
};
use crate::shipper::CHUNK_BYTES_MAX;
use crate::state::{ControlOutcome, ControlRefused};
use crate::stats;

/// Asks the replica to become the first member of a cluster.
pub struct Found {
    /// 16 bytes.
    pub cluster_id: [u8; 16],
    /// Where the answer goes, once the cluster is founded.
    pub founded: oneshot::Sender<Result<u64, Refusal>>,
}

/// How many objects one `ListConfig` returns.
const LIST_LEN_MAX: usize = 1_000;

/// How much of a text that is no identity is said again. Unit: bytes.
const SHOWN_BYTES_MAX: usize = 128;

/// How often a drawn stream id may be in use before the generator is to blame.
const DRAWS_MAX: usize = 8;

/// The service.
pub struct AdminService {
    phase: watch::Receiver<Phase>,
    found: mpsc::Sender<Found>,
    tls: Option<Tls>,
}

impl AdminService {
    /// Serves the member once there is one; before that, only `GetInfo` and `Bootstrap`.
    #[must_use]
    pub fn new(
        phase: watch::Receiver<Phase>,
        found: mpsc::Sender<Found>,
        tls: Option<Tls>,
    ) -> Self {
        Self { phase, found, tls }
    }

    fn serving(&self) -> Result<Arc<Member>, Refusal> {
        match &*self.phase.borrow() {
            Phase::Serving(member) => Ok(Arc::clone(member)),
            Phase::Starting(_) => Err(starting()),
            Phase::Empty => Err(Refusal::new(
                Reason::Unavailable,
                "this replica is not founded yet; call Bootstrap",
            )),
        }
    }

    fn member(&self, cluster_id: &[u8]) -> Result<Arc<Member>, Refusal> {
        let member = self.serving()?;
        if member.cluster_id == *cluster_id {
            Ok(member)
        } else {
            Err(Refusal::new(Reason::Foreign, "this replica belongs to another cluster"))
        }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn get_info(
        &self,
        _request: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        let info = info::of(&self.phase.borrow().clone(), self.tls.as_ref());
        Ok(Response::new(info))
    }

    async fn bootstrap(
        &self,
        request: Request<pb::BootstrapRequest>,
    ) -> Result<Response<pb::BootstrapResponse>, Status> {
        let cluster_id = request.into_inner().cluster_id;
        let cluster_id: [u8; 16] = cluster_id
            .as_ref()
            .try_into()
            .map_err(|_| Refusal::new(Reason::Invalid, "a cluster id has 16 bytes"))?;
        let (founded, answer) = oneshot::channel();
        let stopped = || Refusal::unknown(Reason::Unavailable, "the Writer stops");
        self.found.send(Found { cluster_id, founded }).await.map_err(|_| stopped())?;
        let node_id = answer.await.map_err(|_| stopped())??;
        Ok(Response::new(pb::BootstrapResponse { node_id }))
    }

    async fn put_streams(
        &self,
        request: Request<pb::PutStreamsRequest>,
    ) -> Result<Response<pb::PutStreamsResponse>, Status> {
        let pb::PutStreamsRequest { cluster_id, streams } = request.into_inner();
        let member = self.member(&cluster_id)?;
        let mut results = Vec::with_capacity(streams.len());
        for stream in streams {
            let (result, created) = match put_stream(&member, stream).await {
                Ok((info, created)) => (PutResult::Stream(info), created),
                Err(refusal) => (PutResult::Refused(refusal), false),
            };
            results.push(pb::PutStreamResult { result: Some(result), created });
        }
        Ok(Response::new(pb::PutStreamsResponse { results }))
    }

    async fn get_stream_config(
        &self,
        request: Request<pb::GetStreamConfigRequest>,
    ) -> Result<Response<pb::GetStreamConfigResponse>, Status> {
        let pb::GetStreamConfigRequest { name } = request.into_inner();
        let member = self.serving()?;
        let name: StreamName = name.parse().map_err(|error| invalid(format!("name: {error}")))?;
        let found = member.view.read(|state, live| {
            let stream = state.stream_by_name(&name)?;
            Some(configured::get(stream, stream_info(state, live, stream)))
        });
        let found = found.ok_or_else(|| no_stream(&name))?;
        Ok(Response::new(found))
    }

    async fn delete_stream(
        &self,
        request: Request<pb::DeleteStreamRequest>,
    ) -> Result<Response<pb::DeleteStreamResponse>, Status> {
        let pb::DeleteStreamRequest { cluster_id, name, stream_id } = request.into_inner();
        let member = self.member(&cluster_id)?;
        let objects_left = delete_stream(&member, &name, stream_id).await?;
        Ok(Response::new(pb::DeleteStreamResponse { objects_left }))
    }

    async fn set_closed(
        &self,
        request: Request<pb::SetClosedRequest>,
    ) -> Result<Response<pb::SetClosedResponse>, Status> {
        let pb::SetClosedRequest { cluster_id, name, stream_id, closed } = request.into_inner();
        let member = self.member(&cluster_id)?;
        check_name_and_id(&member, &name, stream_id)?;
        member.command(Command::SetClosed(stored::SetClosed { stream_id, closed })).await?;
        Ok(Response::new(pb::SetClosedResponse {}))
    }

    async fn put_subscriptions(
        &self,
        request: Request<pb::PutSubscriptionsRequest>,
    ) -> Result<Response<pb::PutSubscriptionsResponse>, Status> {
        let pb::PutSubscriptionsRequest { cluster_id, subscriptions } = request.into_inner();
        let member = self.member(&cluster_id)?;
        let mut results = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            let refused = put_subscription(&member, subscription).await.err();
            results.push(pb::PutSubscriptionResult { refused });
        }
        Ok(Response::new(pb::PutSubscriptionsResponse { results }))
    }

    async fn delete_subscription(
        &self,
        request: Request<pb::DeleteSubscriptionRequest>,
    ) -> Result<Response<pb::DeleteSubscriptionResponse>, Status> {
        let pb::DeleteSubscriptionRequest { cluster_id, name, object: gone } = request.into_inner();
        let member = self.member(&cluster_id)?;
        let gone = object(gone)?;
        let declared = member.view.read(|state, _| {
            state.subscription(&name).and_then(|subscription| subscription.object.clone())
        });
        if declared.is_some_and(|declared| declared.uid != gone.uid) {
            return Err(invalid("another object has declared this subscription since").into());
        }
        let command = Command::DeleteSubscription(stored::DeleteSubscription { name });
        member.command(command).await?;
        Ok(Response::new(pb::DeleteSubscriptionResponse {}))
    }

    async fn list_config(
        &self,
        request: Request<pb::ListConfigRequest>,
    ) -> Result<Response<pb::ListConfigResponse>, Status> {
        let pb::ListConfigRequest { after, limit } = request.into_inner();
        let member = self.serving()?;
        let limit = match usize::try_from(limit) {
            Ok(0) | Err(_) => LIST_LEN_MAX,
            Ok(limit) => limit.min(LIST_LEN_MAX),
        };
        let list = member.view.read(|state, live| configured::list(state, live, &after, limit))?;
        Ok(Response::new(list))
    }

    type WatchStatsStream = Answers<pb::WatchStatsResponse>;

    async fn watch_stats(
        &self,
        request: Request<pb::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let member = self.serving()?;
        let stats = stats::watch(Arc::clone(&member), request.into_inner());
        let stop = member.shutdown.clone().cancelled_owned();
        Ok(Response::new(Box::pin(stats.take_until(stop))))
    }

    async fn adopt(
        &self,
        _request: Request<pb::AdoptRequest>,
    ) -> Result<Response<pb::AdoptResponse>, Status> {
        Err(one_replica().into())
    }

    async fn add_learner(
        &self,
        _request: Request<pb::AddLearnerRequest>,
    ) -> Result<Response<pb::AddLearnerResponse>, Status> {
        Err(one_replica().into())
    }

    async fn change_membership(
        &self,
        _request: Request<pb::ChangeMembershipRequest>,
    ) -> Result<Response<pb::ChangeMembershipResponse>, Status> {
        Err(one_replica().into())
    }

    async fn transfer_leadership(
        &self,
        _request: Request<pb::TransferLeadershipRequest>,
    ) -> Result<Response<pb::TransferLeadershipResponse>, Status> {
        Err(one_replica().into())
    }
}

fn one_replica() -> Refusal {
    Refusal::new(Reason::Unimplemented, "this version of the Writer has one replica")
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Invalid, message)
}

/// A stream is removed or closed by name and id, so that a name that means another stream by now
/// is noticed.
fn check_name_and_id(member: &Member, name: &str, stream_id: u64) -> Result<(), Refusal> {
    let name: StreamName = name.parse().map_err(|error| invalid(format!("name: {error}")))?;
    let found = member.view.read(|state, _| state.stream_by_name(&name).map(|s| s.id.get()));
    match found {
        Some(id) if id == stream_id => Ok(()),
        Some(id) => Err(recreated(name.as_str(), id)),
        None => Err(no_stream(&name)),
    }
}

/// Deletes a stream that is alive. How many objects of it are left, also if it was deleted long ago:
/// who asks again learns how far that is.
async fn delete_stream(member: &Member, name: &str, stream_id: u64) -> Result<u64, Refusal> {
    let id = StreamId::new(stream_id)
        .ok_or_else(|| invalid("stream_id: give the id of the stream that is to be deleted"))?;
    // Only a leader that has just proved it may say that there is nothing left.
    leaders_word(member).await?;
    if member.view.read(|state, _| state.stream(id).is_some()) {
        check_name_and_id(member, name, stream_id)?;
        let command = Command::DeleteStream(stored::DeleteStream { stream_id });
        let outcome = member.outcome(command).await?;
        // Somebody else may have just deleted it.
        let is_gone = matches!(
            outcome,
            ControlOutcome::Deleted | ControlOutcome::Refused(ControlRefused::NotFound)
        );
        if !is_gone {
            let ControlOutcome::Refused(refused) = &outcome else {
                return Err(unexpected(&outcome));
            };
            return Err(control_refusal(refused));
        }
    }
    Ok(member.shipper.objects_left(id))
}

fn no_stream(name: &StreamName) -> Refusal {
    Refusal::new(Reason::NotFound, format!("there is no stream {name}"))
}

fn check_identities(what: &str, identities: &[String]) -> Result<(), Refusal> {
    if identities.len() > IDENTITIES_MAX {
        return Err(invalid(format!("{what}: a list has at most {IDENTITIES_MAX} identities")));
    }
    for identity in identities {
        let parsed: Result<Grantee, _> = identity.parse();
        parsed.map_err(|error| {
            // What is too long to be one is too long to be repeated.
            let shown = identity.get(..identity.floor_char_boundary(SHOWN_BYTES_MAX));
            invalid(format!("{what}: {:?} is none: {error}", shown.unwrap_or_default()))
        })?;
    }
    Ok(())
}

async fn put_stream(
    member: &Member,
    put: pb::PutStream,
) -> Result<(pb::StreamInfo, bool), Refusal> {
    let pb::PutStream { object: declared, name, settings, rights, expected } = put;
    let name: StreamName = name.parse().map_err(|error| invalid(format!("name: {error}")))?;
    let (settings, rights) = (settings.unwrap_or_default(), rights.unwrap_or_default());
    if settings.chunk_bytes > CHUNK_BYTES_MAX {
        return Err(invalid(format!("settings: chunk_bytes is at most {CHUNK_BYTES_MAX}")));
    }
    check_identities("appenders", &rights.appenders)?;
    check_identities("readers", &rights.readers)?;
    check_identities("managers", &rights.managers)?;
    let declared = object(declared)?;
    let mut created = false;
    let mut draws = 0;
    while draws < DRAWS_MAX {
        let existing = member.view.read(|state, _| state.stream_by_name(&name).map(|s| s.id));
        let outcome = match existing {
            Some(_) if expected.as_ref().is_some_and(|expected| expected.uid.is_empty()) => {
                let message = format!("a stream {name} exists already");
                return Err(Refusal::new(Reason::AlreadyExists, message));
            }
            Some(id) => {
                let command = Command::PutStream(stored::PutStream {
                    object: Some(declared.clone()),
                    stream_id: id.get(),
                    settings: Some(settings),
                    rights: Some(rights.clone()),
                    expected: expected.as_ref().map(configured::stored_object),
                    opens_for_another: expected.is_none(),
                });
                member.outcome(command).await
            }
            None if expected.as_ref().is_some_and(|expected| !expected.uid.is_empty()) => {
                return Err(no_stream(&name));
            }
            None => {
                draws += 1;
                let put = create(member, &declared, &name, settings, &rights).await;
                created = matches!(put, Ok(ControlOutcome::Created));
                put
            }
        };
        let outcome = outcome?;
        if matches!(outcome, ControlOutcome::Created | ControlOutcome::StreamPut) {
            let info = member.view.read(|state, live| {
                state.stream_by_name(&name).map(|stream| stream_info(state, live, stream))
            });
            // It may have been deleted by somebody else in between.
            let info = info
                .ok_or_else(|| Refusal::new(Reason::NotFound, "the stream was deleted just now"))?;
            return Ok((info, created));
        }
        let ControlOutcome::Refused(refused) = &outcome else { return Err(unexpected(&outcome)) };
        // Created or deleted by somebody else in between, or a drawn id in use: look again.
        let changed = matches!(
            refused,
            ControlRefused::NameTaken { .. } | ControlRefused::NotFound | ControlRefused::IdUsed
        );
        if !changed {
            return Err(control_refusal(refused));
        }
    }
    Err(Refusal::new(Reason::Unavailable, "the stream keeps changing; retry"))
}

async fn create(
    member: &Member,
    declared: &stored::ObjectRef,
    name: &StreamName,
    settings: pb::StreamSettings,
    rights: &pb::StreamRights,
) -> Result<ControlOutcome, Refusal> {
    let key = pyramid_storage::StreamKey::random(&*member.entropy);
    let command = Command::CreateStream(stored::CreateStream {
        object: Some(declared.clone()),
        name: name.to_string(),
        stream_id: member.entropy.id53(),
        settings: Some(settings),
        rights: Some(rights.clone()),
        wrapped_key: Some(member.chunks.keks.wrap(&key)),
    });
    member.outcome(command).await
}

async fn put_subscription(member: &Member, put: pb::PutSubscription) -> Result<(), Refusal> {
    let start_from = match put.start_from() {
        pb::StartFrom::Unspecified | pb::StartFrom::Earliest => stored::StoredStartFrom::Earliest,
        pb::StartFrom::Latest => stored::StoredStartFrom::Latest,
    };
    let mode = match put.mode() {
        pb::DeliveryMode::Unspecified | pb::DeliveryMode::Broadcast => {
            stored::StoredDeliveryMode::Broadcast
        }
        pb::DeliveryMode::Exclusive => stored::StoredDeliveryMode::Exclusive,
    };
    if put.name.is_empty() || put.name.len() > NAME_BYTES_MAX {
        return Err(invalid(format!("a subscription's name has 1 to {NAME_BYTES_MAX} bytes")));
    }
    let mut streams = put.streams;
    streams.sort_unstable();
    streams.dedup();
    if streams.is_empty() || streams.len() > SUBSCRIPTION_STREAMS_MAX {
        return Err(invalid(format!(
            "a subscription names 1 to {SUBSCRIPTION_STREAMS_MAX} streams"
        )));
    }
    for stream in &streams {
        let parsed: Result<StreamName, _> = stream.parse();
        parsed.map_err(|error| invalid(format!("stream {stream:?}: {error}")))?;
    }
    let mut service_accounts = put.service_accounts;
    check_identities("service_accounts", &service_accounts)?;
    service_accounts.sort_unstable();
    service_accounts.dedup();
    let command = Command::PutSubscription(stored::PutSubscription {
        subscription: Some(stored::Subscription {
            object: Some(object(put.object)?),
            name: put.name,
            streams,
            start_from: start_from.into(),
            paused: put.paused,
            mode: mode.into(),
            ack_timeout_ms: put.ack_timeout_ms,
            service_accounts,
        }),
    });
    member.command(command).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use pyramid_protocol::limits::IDENTITY_BYTES_MAX;

    use super::*;

    #[test]
    fn lists_of_identities_end_at_1024_of_2048_bytes() {
        let path = "x".repeat(IDENTITY_BYTES_MAX - "spiffe://td/".len());
        let longest = format!("spiffe://td/{path}");
        assert_eq!(check_identities("rights", &vec![longest.clone(); IDENTITIES_MAX]), Ok(()));
        let refused = |identities: &[String]| {
            check_identities("rights", identities).map_err(|refusal| refusal.reason())
        };
        let short = "spiffe://td/a".to_owned();
        assert_eq!(refused(&vec![short.clone(); IDENTITIES_MAX]), Ok(()));
        assert_eq!(refused(&vec![short; IDENTITIES_MAX + 1]), Err(Reason::Invalid));
        assert_eq!(refused(&[longest + "x"]), Err(Reason::Invalid));
    }

    #[test]
    fn who_cannot_be_given_a_right_is_refused_with_its_text() {
        for odd in [
            "",
            "*",
            "spiffe://*/ns/a/sa/b",
            "spiffe://td/ns/*/sa/b",
            "spiffe://td/ns/a/writer/*",
            "spiffe://td/ns/a/sa/b*",
            "local",
            "td/ns/a/sa/b",
        ] {
            let list = ["spiffe://td/ns/a/sa/*".to_owned(), odd.to_owned()];
            let refusal = check_identities("readers", &list).unwrap_err();
            assert_eq!(refusal.reason(), Reason::Invalid);
            let begin = format!("readers: {odd:?} is none: an identity is spiffe://");
            assert!(refusal.message.starts_with(&begin), "{}", refusal.message);
            assert_eq!(check_identities("readers", &list[..1]), Ok(()));
        }
        let long = check_identities("readers", &["\u{e4}".repeat(10_000)]).unwrap_err();
        assert!(long.message.len() < 512, "{}", long.message.len());
    }
}
