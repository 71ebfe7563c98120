//! What is added to a pod: a pure function.

use axum::Router;

/// Answers nothing yet.
pub(crate) fn router() -> Router {
    Router::new()
}
