//! [`OperatorTerm`]: which leader of the operator calls `Admin`.

use std::fmt;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};

/// Where a call carries it.
const KEY: &str = "pyramid-operator-term";
/// Transitions of one Lease that are told apart.
const TRANSITION_BITS: u32 = 32;

/// The fencing token of one leader of the operator: larger than that of every leader before it. A
/// Writer that has seen a larger one refuses the calls of those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperatorTerm(u64);

/// A call says something else than a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata {KEY} of a call is a decimal number below 2^64; leave it out or mend it")]
pub struct NoTerm;

impl OperatorTerm {
    /// Of a Lease that was made so many seconds after 1970 and has changed hands so many times. A
    /// Lease that was deleted begins to count anew, but is made later.
    #[must_use]
    pub fn of_lease(created_s: u32, transitions: u32) -> Self {
        Self(u64::from(created_s) << TRANSITION_BITS | u64::from(transitions))
    }

    /// As it is kept in one number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The other way round.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Tells it with a call.
    pub fn put(self, metadata: &mut MetadataMap) {
        metadata.insert(KEY, AsciiMetadataValue::from(self.0));
    }

    /// What a call tells. `None`: nothing.
    ///
    /// # Errors
    ///
    /// [`NoTerm`].
    pub fn find(metadata: &MetadataMap) -> Result<Option<Self>, NoTerm> {
        let Some(value) = metadata.get(KEY) else { return Ok(None) };
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        number.map(|number| Some(Self(number))).ok_or(NoTerm)
    }
}

impl fmt::Display for OperatorTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_lease_counts_more_than_any_number_of_changes() {
        let all = [(0, 0), (0, 1), (1, 0), (1, u32::MAX), (2, 0), (u32::MAX, u32::MAX)];
        let terms = all.map(|(created, transitions)| OperatorTerm::of_lease(created, transitions));
        assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    }

    #[test]
    fn what_is_put_is_found_and_nothing_else_is_a_term() {
        let mut metadata = MetadataMap::new();
        assert_eq!(OperatorTerm::find(&metadata), Ok(None));
        for number in [0, u64::MAX] {
            OperatorTerm::new(number).put(&mut metadata);
            assert_eq!(OperatorTerm::find(&metadata), Ok(Some(OperatorTerm(number))));
        }
        for odd in ["", "-1", "x", "18446744073709551616"] {
            metadata.insert(KEY, odd.parse().unwrap());
            assert_eq!(OperatorTerm::find(&metadata), Err(NoTerm), "{odd:?}");
        }
    }
}
