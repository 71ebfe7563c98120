//! The controller of Writers.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// Runs until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let _ = context;
    shutdown.cancelled().await;
}
