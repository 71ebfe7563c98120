//! Numbers from the Writers: into status of Streams and Subscriptions; and the drift check.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// Runs until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let _ = context;
    shutdown.cancelled().await;
}
