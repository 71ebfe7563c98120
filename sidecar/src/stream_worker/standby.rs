//! While another pusher of the subscription pushes the stream.

use pyramid_protocol::pb::v1::PushState;

use crate::backoff::Waits;
use crate::lease;
use crate::stream_worker::{Stopped, StreamWorker};

impl StreamWorker {
    pub(super) fn has_lease(&self) -> bool {
        self.lease.borrow().holds()
    }

    /// Waits for the lease. What was known of the application is forgotten: the other pusher moves
    /// it, if it is the same one.
    pub(super) async fn stand_by(&mut self) -> Result<(), Stopped> {
        self.stored = None;
        self.halt = None;
        self.source = None;
        self.waits = Waits::new();
        self.must_ask = true;
        self.shared.board.update(&self.place, |status| {
            status.accepted = None;
            status.state = PushState::Standby;
            status.message.clear();
        });
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            changed = self.settings.changed() => changed.map_err(|_gone| Stopped),
            () = lease::gained(&mut self.lease) => Ok(()),
        }
    }
}
