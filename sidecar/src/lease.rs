//! [`Lease`]: whether this pusher is the one that pushes a stream.
//!
//! In an exclusive subscription the Writer leases each stream to one pusher at a time and renews the
//! lease while that pusher is attached. A lease only saves work: the application's own comparison
//! gives safety, also where two pushers believe for a moment that they have it.

use std::time::Duration;

use pyramid_protocol::pb::v1::{self as pb, DeliveryMode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// This part of a lease is not used: by our clock it begins later than by the Writer's, and the push
/// on its way at its end takes time as well.
const MARGIN_PART: u32 = 4;

/// Whether a stream may be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// Every pusher of the subscription pushes all of its streams.
    NotNeeded,
    /// Another pusher has it, or nobody yet.
    Absent,
    /// Ours until then, unless it is renewed.
    Until(Instant),
}

impl Lease {
    /// What an assignment that was heard at `heard_at` says.
    pub(crate) fn of(mode: DeliveryMode, assigned: &pb::AssignedStream, heard_at: Instant) -> Self {
        match mode {
            DeliveryMode::Exclusive if !assigned.leased => Self::Absent,
            DeliveryMode::Exclusive => {
                let given = Duration::from_millis(assigned.lease_ms.into());
                Self::Until(heard_at + (given - given / MARGIN_PART))
            }
            DeliveryMode::Broadcast | DeliveryMode::Unspecified => Self::NotNeeded,
        }
    }

    pub(crate) fn holds(self) -> bool {
        match self {
            Self::NotNeeded => true,
            Self::Absent => false,
            Self::Until(end) => Instant::now() < end,
        }
    }
}

/// Waits until the stream may no longer be pushed, or nobody tells any more.
///
/// # Cancel safety
///
/// Safe to drop.
pub(crate) async fn lost(lease: &mut watch::Receiver<Lease>) {
    loop {
        let now = *lease.borrow_and_update();
        let end = match now {
            Lease::Absent => return,
            Lease::Until(end) => Some(end),
            Lease::NotNeeded => None,
        };
        tokio::select! {
            biased;
            changed = lease.changed() => if changed.is_err() { return },
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return,
        }
    }
}

/// Waits until the stream may be pushed, or nobody tells any more.
///
/// # Cancel safety
///
/// Safe to drop.
pub(crate) async fn gained(lease: &mut watch::Receiver<Lease>) {
    while !lease.borrow_and_update().holds() {
        if lease.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn assigned(leased: bool) -> pb::AssignedStream {
        pb::AssignedStream { leased, lease_ms: 4_000, ..pb::AssignedStream::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_exclusive_subscription_needs_a_lease() {
        let now = Instant::now();
        for (mode, leased, lease) in [
            (DeliveryMode::Broadcast, false, Lease::NotNeeded),
            (DeliveryMode::Unspecified, false, Lease::NotNeeded),
            (DeliveryMode::Exclusive, false, Lease::Absent),
            (DeliveryMode::Exclusive, true, Lease::Until(now + 3 * SECOND)),
        ] {
            assert_eq!(Lease::of(mode, &assigned(leased), now), lease);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_a_quarter_early() {
        let lease = Lease::of(DeliveryMode::Exclusive, &assigned(true), Instant::now());
        advance(3 * SECOND - Duration::from_millis(1)).await;
        assert!(lease.holds());
        advance(Duration::from_millis(1)).await;
        assert!(!lease.holds());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_renewed_is_not_lost() {
        let (sender, mut lease) = watch::channel(Lease::Until(Instant::now() + 3 * SECOND));
        for _ in 0..5 {
            assert!(timeout(SECOND, lost(&mut lease)).await.is_err());
            sender.send_replace(Lease::Until(Instant::now() + 3 * SECOND));
        }
        let begin = Instant::now();
        lost(&mut lease).await;
        assert_eq!(begin.elapsed(), 3 * SECOND);
        assert!(timeout(SECOND, gained(&mut lease)).await.is_err());
        sender.send_replace(Lease::Until(Instant::now() + SECOND));
        gained(&mut lease).await;
        sender.send_replace(Lease::Absent);
        lost(&mut lease).await;
        assert_eq!(begin.elapsed(), 4 * SECOND);
    }
}
