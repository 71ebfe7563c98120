//! The lease of the leading operator.
//!
//! One object, `pyramid-operator`, changed only by a PUT with the resourceVersion that was read: of
//! several that take it at once exactly one gets it, with holder and `leaseTransitions + 1` in the
//! same write. That number behind the time when the Lease was made is the fencing token, the term:
//! every leader has a larger one than those before it, tells it with each call of a Writer, and a
//! Writer refuses whoever led before.
//!
//! A holder that could not renew for two thirds of the lease's duration has lost it, by its own
//! clock and without asking anybody: the process ends. A candidate waits until it has seen the lease
//! unchanged for the whole duration, also by its own clock; clocks of machines are never compared.
//! A lease that is deleted is lost, and a candidate that saw it waits as if it were there.

mod decision;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use pyramid_protocol::{Clock, OperatorTerm};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::decision::{Decision, decide};
use crate::context::{MANAGER, said};

/// Name of the Lease.
pub const LEASE: &str = "pyramid-operator";
/// A lease is looked at this many times in its duration.
const LOOKS_PER_LEASE: u32 = 7;
/// One try to renew it takes at most this part of the time after which it is lost.
const TRIES_PER_DEADLINE: u32 = 3;
/// A request that says good-bye gets no longer.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The lease is gone; whatever this process leads, it must stop now.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another holds it.
    #[error("{holder:?} holds the lease {LEASE}")]
    Taken {
        /// Who.
        holder: String,
    },
    /// Somebody deleted it; others make it anew.
    #[error("the lease {LEASE} was deleted")]
    Gone,
    /// Others may take it any moment.
    #[error("the lease {LEASE} was not renewed for {} s: {said}", .after.as_secs())]
    Silent {
        /// For how long.
        after: Duration,
        /// What the API server said last, or that it did not.
        said: String,
    },
}

/// Takes part in the election.
pub struct Candidate {
    /// Of the namespace of the lease.
    pub leases: Api<Lease>,
    /// Unlike that of any other process that ever ran.
    pub identity: String,
    /// Of the lease. Whole seconds: it is written so.
    pub duration: Duration,
    /// Its time stands in the lease, for people.
    pub clock: Arc<dyn Clock>,
}

/// Holds the lease. Dropping it releases nothing: the lease then runs out.
pub struct Leadership {
    candidate: Candidate,
    held: Lease,
    /// When the request began that renewed it last.
    renewed: Instant,
}

impl Candidate {
    fn retry(&self) -> Duration {
        self.duration / LOOKS_PER_LEASE
    }

    /// Waits until the lease is ours, or until `shutdown`.
    pub async fn acquire(self, shutdown: &CancellationToken) -> Option<Leadership> {
        let mut seen = None;
        loop {
            let began = Instant::now();
            match timeout(self.duration, self.attempt(&mut seen)).await {
                Ok(Ok(Some(held))) => {
                    return Some(Leadership { candidate: self, held, renewed: began });
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::warn!("the lease {LEASE} cannot be looked at: {}", said(&error));
                }
                Err(_elapsed) => tracing::warn!("the API server does not answer about {LEASE}"),
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = sleep(self.retry()) => {}
            }
        }
    }

    /// Looks, and takes the lease if it is free.
    async fn attempt(&self, seen: &mut Option<Seen>) -> Result<Option<Lease>, kube::Error> {
        let lease = self.leases.get_opt(LEASE).await?;
        let version = lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        let before = seen.take();
        let since = match &before {
            Some(before) if before.version == version => before.since,
            Some(_) | None => Instant::now(),
        };
        // One that was deleted counts on: its holder may not know yet, and its number is used.
        let last = lease.clone().or(before.and_then(|before| before.last));
        let decision = decide(last.as_ref(), &self.identity, since.elapsed());
        *seen = Some(Seen { version, since, last });
        let taken = match (decision, lease) {
            (Decision::Wait, _) => return Ok(None),
            (Decision::Take { transitions }, Some(lease)) => {
                let spec = self.spec(transitions, None);
                let lease = Lease { spec: Some(spec), ..lease };
                self.leases.replace(LEASE, &PostParams::default(), &lease).await
            }
            (Decision::Take { transitions }, None) => {
                let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.spec(transitions, None)) };
                let params =
                    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
                self.leases.create(&params, &lease).await
            }
        };
        match taken {
            Ok(lease) => Ok(Some(lease)),
            // Another was faster.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn spec(&self, transitions: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = self.now();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX),
            ),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Written with six digits of the second, as the API server wants it.
    fn now(&self) -> MicroTime {
        let ms = i64::try_from(self.clock.wall_ms()).unwrap_or(i64::MAX);
        MicroTime(jiff::Timestamp::from_millisecond(ms).unwrap_or_default())
    }
}

impl Leadership {
    /// How often the lease has changed hands.
    pub fn transitions(&self) -> u32 {
        let transitions = self.held.spec.as_ref().and_then(|spec| spec.lease_transitions);
        u32::try_from(transitions.unwrap_or(0)).unwrap_or(0)
    }

    /// The fencing token: larger than that of every leader before.
    pub fn term(&self) -> OperatorTerm {
        let created = self.held.metadata.creation_timestamp.as_ref();
        let created_s = created.map_or(0, |time| time.0.as_second());
        OperatorTerm::of_lease(u32::try_from(created_s).unwrap_or(0), self.transitions())
    }

    /// Renews until the lease is lost. Dropped to stop.
    pub async fn keep(&mut self) -> Lost {
        let deadline = self.candidate.duration * 2 / 3;
        let mut last = None;
        loop {
            sleep(self.candidate.retry().min(deadline.saturating_sub(self.renewed.elapsed())))
                .await;
            let left = deadline.saturating_sub(self.renewed.elapsed());
            if left.is_zero() {
                let silence = || "the API server does not answer".to_owned();
                let said = last.unwrap_or_else(silence);
                return Lost::Silent { after: self.renewed.elapsed(), said };
            }
            let began = Instant::now();
            // The client tries again by itself, for longer than the lease holds, and a request that
            // got lost would wait for ever: there is time for another.
            match timeout(left.min(deadline / TRIES_PER_DEADLINE), self.renew()).await {
                Ok(Ok(Renewed::Held(lease))) => {
                    self.held = *lease;
                    self.renewed = began;
                    last = None;
                }
                Ok(Ok(Renewed::Taken { holder })) => return Lost::Taken { holder },
                Ok(Err(kube::Error::Api(status))) if status.is_not_found() => return Lost::Gone,
                Ok(Err(error)) => {
                    let said = said(&error);
                    tracing::warn!("the lease {LEASE} was not renewed: {said}");
                    last = Some(said);
                }
                Err(_elapsed) => {}
            }
        }
    }

    async fn renew(&self) -> Result<Renewed, kube::Error> {
        let Candidate { leases, identity, .. } = &self.candidate;
        let renewed = self.with_spec(&self.held);
        match leases.replace(LEASE, &PostParams::default(), &renewed).await {
            Ok(lease) => return Ok(Renewed::Held(Box::new(lease))),
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => return Err(error),
        }
        // Somebody changed it, or an answer of ours was lost on its way.
        let current = leases.get(LEASE).await?;
        let holder = current.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        if holder.as_deref() != Some(identity) {
            return Ok(Renewed::Taken { holder: holder.unwrap_or_default() });
        }
        let renewed = self.with_spec(&current);
        let lease = leases.replace(LEASE, &PostParams::default(), &renewed).await?;
        Ok(Renewed::Held(Box::new(lease)))
    }

    fn with_spec(&self, lease: &Lease) -> Lease {
        let held = self.held.spec.as_ref();
        let transitions = held.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let acquired = held.and_then(|spec| spec.acquire_time.clone());
        Lease { spec: Some(self.candidate.spec(transitions, acquired)), ..lease.clone() }
    }

    /// Gives the lease back, so that another need not wait for its end. Only after everything that
    /// this process did as the leader has stopped.
    pub async fn release(self) {
        let mut lease = self.with_spec(&self.held);
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.acquire_time = None;
        }
        let params = PostParams::default();
        let released = self.candidate.leases.replace(LEASE, &params, &lease);
        match timeout(RELEASE_TIMEOUT, released).await {
            Ok(Ok(_)) => tracing::info!("the lease {LEASE} is released"),
            Ok(Err(error)) => {
                tracing::warn!("the lease {LEASE} runs out by itself: {}", said(&error));
            }
            Err(_elapsed) => tracing::warn!("the lease {LEASE} runs out by itself"),
        }
    }
}

/// The lease as it is, and since when it has been seen so.
struct Seen {
    /// `None` while there is none.
    version: Option<String>,
    since: Instant,
    /// As it was when there was one.
    last: Option<Lease>,
}

enum Renewed {
    Held(Box<Lease>),
    Taken { holder: String },
}
