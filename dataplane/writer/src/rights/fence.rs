//! [`Fence`]: of two operators that take themselves for the leader, the later one is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyramid_protocol::OperatorTerm;
use pyramid_protocol::pb::v1::{Reason, Refusal};
use tonic::metadata::MetadataMap;

/// The latest leader that has called; clones are the same. It is this process's memory: after a
/// restart the first call counts, and the generations of objects still hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence(Arc<AtomicU64>);

impl Fence {
    /// Lets a call pass that is of the latest leader, or of nobody who leads.
    ///
    /// # Errors
    ///
    /// It is of an earlier leader, or says something else than a term.
    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<(), Refusal> {
        let term = OperatorTerm::find(metadata)
            .map_err(|error| Refusal::new(Reason::Invalid, error.to_string()))?;
        let Some(term) = term else { return Ok(()) };
        let latest = self.0.fetch_max(term.get(), Ordering::AcqRel);
        if term.get() >= latest {
            return Ok(());
        }
        let text = format!(
            "another operator leads: its term is {latest}, that of this call {term}; if there is no \
             other, the Lease of operators is an old one: restart this Writer"
        );
        Err(Refusal::new(Reason::Fenced, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(fence: &Fence, number: u64) -> Result<(), Reason> {
        let mut metadata = MetadataMap::new();
        OperatorTerm::new(number).put(&mut metadata);
        fence.check(&metadata).map_err(|refusal| refusal.reason())
    }

    #[test]
    fn who_led_before_is_refused_from_the_first_call_of_the_next_one() {
        let fence = Fence::default();
        assert_eq!(calls(&fence, 5), Ok(()));
        assert_eq!(calls(&fence.clone(), 5), Ok(()));
        assert_eq!(calls(&fence, 6), Ok(()));
        assert_eq!(calls(&fence, 5), Err(Reason::Fenced));
        assert_eq!(calls(&fence, 6), Ok(()));
        assert_eq!(fence.check(&MetadataMap::new()), Ok(()), "who does not lead says nothing");
    }

    #[test]
    fn a_term_that_is_none_is_refused_and_moves_nothing() {
        let fence = Fence::default();
        let mut metadata = MetadataMap::new();
        metadata.insert("pyramid-operator-term", "later".parse().unwrap());
        assert_eq!(fence.check(&metadata).map_err(|one| one.reason()), Err(Reason::Invalid));
        assert_eq!(calls(&fence, 0), Ok(()));
    }
}
