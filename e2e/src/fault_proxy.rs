//! An HTTP proxy in front of an S3 server that fails on purpose.
//!
//! Requests keep their `Host`, so signatures and presigned URLs that name the proxy's address are
//! right for the server, too. Faults are switched while it runs, and each one that was met is
//! counted: a suite asks for the counts, or it may have proved nothing.

mod forward;
mod plan;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::process::free_port;

use self::forward::Forward;
use self::plan::Plan;
pub use self::plan::Traffic;

/// How long a request is held by [`Fault::HoldBefore`] and [`Fault::HoldAfter`] before its
/// connection is reset, unless the client gives up sooner.
const HOLD: Duration = Duration::from_secs(1);

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Put,
    /// With a signature in its headers.
    Get,
    /// With a signature in its URL.
    Presigned,
    List,
    Delete,
    /// Anything else.
    Other,
}

/// What can go wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 500 `InternalError`.
    InternalError,
    /// 503 `SlowDown`.
    SlowDown,
    /// 503 `SlowDown` with `Retry-After`.
    SlowDownRetryAfter,
    /// 429.
    TooManyRequests,
    /// The connection is reset instead of an answer; the server hears nothing.
    Reset,
    /// No answer for a while, then a reset; the server hears nothing.
    HoldBefore,
    /// The server does what is asked, and its answer is withheld for a while, then a reset.
    HoldAfter,
    /// Half of the answer's body with the length of all of it, then a reset.
    CutBody,
    /// One bit of the answer's body is flipped.
    FlipAnswer,
    /// One bit of the body that is put is flipped.
    FlipPut,
    /// The answer's body takes its time.
    SlowBody,
    /// 403, as for a URL whose life is over.
    Expired,
    /// 409 `ConditionalRequestConflict` for a conditional put.
    Conflict,
    /// A conditional put is done, its answer is lost, and the client's library sends it again: 412.
    FailedAfterSuccess,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::InternalError,
        Self::SlowDown,
        Self::SlowDownRetryAfter,
        Self::TooManyRequests,
        Self::Reset,
        Self::HoldBefore,
        Self::HoldAfter,
        Self::CutBody,
        Self::FlipAnswer,
        Self::FlipPut,
        Self::SlowBody,
        Self::Expired,
        Self::Conflict,
        Self::FailedAfterSuccess,
    ];

    /// Whether it can happen to such a request.
    #[must_use]
    pub fn fits(self, call: Call, conditional: bool) -> bool {
        let read = matches!(call, Call::Get | Call::Presigned);
        match self {
            Self::InternalError
            | Self::SlowDown
            | Self::SlowDownRetryAfter
            | Self::TooManyRequests
            | Self::Reset
            | Self::HoldBefore
            | Self::HoldAfter => true,
            Self::CutBody | Self::FlipAnswer | Self::SlowBody => read,
            Self::FlipPut => call == Call::Put,
            Self::Expired => call == Call::Presigned,
            Self::Conflict | Self::FailedAfterSuccess => call == Call::Put && conditional,
        }
    }
}

/// At which side of a request everything stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server hears nothing of it.
    Before,
    /// The server has done it, and the client does not know.
    After,
}

/// The proxy. It ends when this is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    server: SocketAddr,
    plan: Arc<Plan>,
    /// `None` while connections are refused.
    serving: Mutex<Option<JoinSet<()>>>,
}

impl FaultProxy {
    /// A proxy of `server` on a port of its own, without faults.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: SocketAddr, seed: u64) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let plan = Arc::new(Plan::new(seed));
        let proxy = Self { address, server, plan, serving: Mutex::new(None) };
        proxy.accept_connections().await?;
        Ok(proxy)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, of 1,000 requests so many meet one of these faults, each that fits the request
    /// as often as any other.
    pub fn fail_at_random(&self, per_mille: u32, faults: &[Fault]) {
        self.plan.fail_at_random(per_mille, faults);
    }

    /// From now on no request fails, except those of [`Self::fail_next`].
    pub fn calm(&self) {
        self.plan.fail_at_random(0, &[]);
    }

    /// The next request of this kind meets this fault; several such are met one after the other.
    pub fn fail_next(&self, call: Call, fault: Fault) {
        self.plan.fail_next(call, fault);
    }

    /// Holds the `number`-th request from now (the next one is 1) and all after it, for ever.
    pub fn hold_at(&self, number: u64, side: Side) {
        self.plan.hold_at(number, side);
    }

    /// Returns once a request is held by [`Self::hold_at`].
    pub async fn held(&self) {
        self.plan.held().await;
    }

    /// Holds no request any more. Those that are held stay so until their client leaves.
    pub fn release(&self) {
        self.plan.release();
    }

    /// Ends all connections and refuses new ones.
    ///
    /// # Errors
    /// A test panicked in it.
    pub async fn refuse_connections(&self) -> anyhow::Result<()> {
        let serving = self.serving()?.take();
        if let Some(mut serving) = serving {
            serving.shutdown().await;
        }
        Ok(())
    }

    /// Takes connections again.
    ///
    /// # Errors
    /// Somebody else has the port by now.
    pub async fn accept_connections(&self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address).await.context("take connections again")?;
        let mut serving = JoinSet::new();
        serving.spawn(Forward::new(self.server, Arc::clone(&self.plan)).serve(listener));
        *self.serving()? = Some(serving);
        Ok(())
    }

    fn serving(&self) -> anyhow::Result<std::sync::MutexGuard<'_, Option<JoinSet<()>>>> {
        self.serving.lock().map_err(|_poisoned| anyhow::anyhow!("a test panicked here"))
    }

    /// How often each fault was met.
    #[must_use]
    pub fn faults_met(&self) -> BTreeMap<Fault, u64> {
        self.plan.faults_met()
    }

    /// Requests and bytes of each kind of call.
    #[must_use]
    pub fn traffic(&self) -> BTreeMap<Call, Traffic> {
        self.plan.traffic()
    }

    /// Requests of all kinds.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.traffic().values().map(|traffic| traffic.requests).sum()
    }
}

#[cfg(test)]
mod tests;
