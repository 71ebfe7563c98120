//! [`Drain`]: how the pushes of a pusher end before the pusher does.
//!
//! At the end of a pod the application still appends while it stops. So pushes end first: none
//! begins, the one on its way is waited for, leases are given back by leaving the subscriptions. The
//! `Local` service goes on until the process is told to stop.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{self, TcpConnect};
use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::pb::v1::local_client::LocalClient;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Of the time that a pod has to end, this much is kept for what comes after the drain.
const AFTER_DRAIN: Duration = Duration::from_secs(5);
/// A drain waits at least this long for the answer to a push.
const DRAIN_MIN: Duration = Duration::from_secs(1);
/// Without a drain, a push that is on its way has this long to be answered.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// What a drain does beside waiting for answers: leaving subscriptions.
const LEAVING: Duration = Duration::from_secs(3);

/// How long a drain waits for the answer to a push in a pod that has `grace` to end. The push's own
/// deadline may end the wait sooner.
pub(crate) fn wait_of(grace: Duration) -> Duration {
    grace.saturating_sub(AFTER_DRAIN).max(DRAIN_MIN)
}

/// Ends the pushes of one pusher. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    requested: CancellationToken,
    pushing: CancellationToken,
    /// Subscriptions that have not ended yet.
    left: Arc<watch::Sender<usize>>,
    wait: Duration,
}

impl Drain {
    /// For so many subscriptions, which end with `stop` as well.
    pub(crate) fn new(stop: &CancellationToken, subscriptions: usize, wait: Duration) -> Self {
        Self {
            requested: CancellationToken::new(),
            pushing: stop.child_token(),
            left: Arc::new(watch::Sender::new(subscriptions)),
            wait,
        }
    }

    /// Cancelled when no push may begin any more.
    pub(crate) fn pushing(&self) -> &CancellationToken {
        &self.pushing
    }

    /// How long a push that is on its way is waited for.
    pub(crate) fn last_answer_timeout(&self) -> Duration {
        if self.requested.is_cancelled() { self.wait } else { LAST_ANSWER_TIMEOUT }
    }

    /// One subscription has ended.
    pub(crate) fn ended(&self) {
        self.left.send_modify(|left| *left = left.saturating_sub(1));
    }

    /// Ends all pushes; returns when all subscriptions have ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it goes on without being waited for.
    pub(crate) async fn drain(&self) {
        self.requested.cancel();
        self.pushing.cancel();
        let mut left = self.left.subscribe();
        // The sender lives as long as this.
        drop(left.wait_for(|left| *left == 0).await);
    }
}

/// Flags of `pyramid-pusher drain`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Port of the pusher's Local service, on 127.0.0.1.
    #[arg(long, env = "PYRAMID_APPEND_PORT", default_value_t = 7410)]
    append_port: u16,

    /// Time that the pod has to end. Unit: seconds.
    #[arg(long, env = "PYRAMID_GRACE_SECONDS", default_value_t = 30)]
    grace_seconds: u32,
}

/// Why the pusher is not drained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is drained there. It has ended already, or listens elsewhere.
    #[error("the pusher at {address} did not drain: {message}")]
    Refused {
        /// Where it should be.
        address: SocketAddr,
        /// What it, or the network, said.
        message: String,
    },
    /// It goes on by itself.
    #[error("the pusher at {address} has not drained within {waited:?}")]
    Slow {
        /// Where it is.
        address: SocketAddr,
        /// How long it had.
        waited: Duration,
    },
}

/// Has the pusher of this pod drain, and returns when it has.
///
/// # Errors
///
/// As [`Error`] says.
pub async fn run(args: &Args) -> Result<(), Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.append_port));
    let grace = Duration::from_secs(args.grace_seconds.into());
    let refused = |message: String| Error::Refused { address, message };
    let channel = net::channel(Arc::new(TcpConnect), &address.to_string())
        .map_err(|error| refused(error.to_string()))?;
    let waited = wait_of(grace) + LEAVING;
    let mut local = LocalClient::new(channel);
    match timeout(waited, local.drain(pb::DrainRequest {})).await {
        Ok(Ok(_drained)) => Ok(()),
        Ok(Err(status)) => Err(refused(status.message().to_owned())),
        Err(_elapsed) => Err(Error::Slow { address, waited }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn five_seconds_of_the_grace_are_left_for_the_end() {
        for (grace, wait) in [(30, 25), (7, 2), (6, 1), (5, 1), (0, 1)] {
            assert_eq!(wait_of(grace * SECOND), wait * SECOND, "{grace}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_each_subscription_and_leaves_the_rest_running() {
        let stop = CancellationToken::new();
        let drain = Drain::new(&stop, 2, 25 * SECOND);
        assert_eq!(drain.last_answer_timeout(), LAST_ANSWER_TIMEOUT);
        let (one, begun) = (drain.clone(), tokio::time::Instant::now());
        let ends = async {
            one.pushing().cancelled().await;
            for _ in 0..2 {
                tokio::time::sleep(SECOND).await;
                one.ended();
            }
        };
        tokio::join!(drain.drain(), ends);
        assert_eq!(begun.elapsed(), 2 * SECOND);
        assert_eq!(drain.last_answer_timeout(), 25 * SECOND);
        assert!(!stop.is_cancelled());
    }

    #[test]
    fn a_stop_without_a_drain_waits_shortly() {
        let stop = CancellationToken::new();
        let drain = Drain::new(&stop, 1, 25 * SECOND);
        stop.cancel();
        assert!(drain.pushing().is_cancelled());
        assert_eq!(drain.last_answer_timeout(), LAST_ANSWER_TIMEOUT);
    }
}
