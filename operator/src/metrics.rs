//! What the operator counts.

/// Clones share what they count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {}
