//! Labels with a fixed set of values, so that a metric has a fixed number of series.

use std::fmt;

use pyramid_protocol::pb::v1::{PushState, Reason};

/// A label and all of its values.
pub trait Label: Copy + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Each value once.
    const ALL: &'static [Self];

    /// As it is shown.
    fn text(self) -> &'static str;
}

/// What tells the series of one metric apart: a [`Label`], or two of them.
pub trait Key: Copy + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Each once, in the order of [`Key::index`].
    fn all() -> Vec<Self>;

    /// Its place among all; a value that is missing there has none.
    fn index(self) -> Option<usize>;

    /// Names and values.
    fn labels(self) -> Vec<(&'static str, &'static str)>;
}

impl<L: Label> Key for L {
    fn all() -> Vec<Self> {
        L::ALL.to_vec()
    }

    fn index(self) -> Option<usize> {
        L::ALL.iter().position(|label| *label == self)
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        vec![(L::NAME, self.text())]
    }
}

impl<A: Label, B: Label> Key for (A, B) {
    fn all() -> Vec<Self> {
        A::ALL.iter().flat_map(|a| B::ALL.iter().map(|b| (*a, *b))).collect()
    }

    fn index(self) -> Option<usize> {
        Some(self.0.index()? * B::ALL.len() + self.1.index()?)
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        vec![(A::NAME, self.0.text()), (B::NAME, self.1.text())]
    }
}

/// Why a request was refused, as the wire and error messages name it.
impl Label for Reason {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &[
        Self::Unspecified,
        Self::Invalid,
        Self::NotFound,
        Self::Closed,
        Self::StreamRecreated,
        Self::WrongOffset,
        Self::EpochChanged,
        Self::StaleRevision,
        Self::Fenced,
        Self::OutOfOrder,
        Self::UnknownProducer,
        Self::TooManyProducers,
        Self::SessionBroken,
        Self::ResourceExhausted,
        Self::WalFull,
        Self::NotLeader,
        Self::Unavailable,
        Self::Trimmed,
        Self::BeyondNext,
        Self::AlreadyExists,
        Self::Dropped,
        Self::Foreign,
        Self::Damaged,
        Self::Internal,
        Self::Unimplemented,
        Self::Denied,
    ];

    fn text(self) -> &'static str {
        self.as_str_name()
    }
}

/// What a stream of a pusher is doing, as reports name it.
impl Label for PushState {
    const NAME: &'static str = "state";
    const ALL: &'static [Self] = &[
        Self::Unspecified,
        Self::Asking,
        Self::Pushing,
        Self::Waiting,
        Self::Retrying,
        Self::Paused,
        Self::Standby,
        Self::HaltedStreamReplaced,
        Self::HaltedEpochChanged,
        Self::HaltedTrimmed,
        Self::HaltedAheadOfStream,
        Self::HaltedRejected,
    ];

    fn text(self) -> &'static str {
        self.as_str_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_the_wire_is_missing() {
        for number in 0..1_000 {
            if let Ok(reason) = Reason::try_from(number) {
                assert!(reason.index().is_some(), "{reason:?}");
            }
            if let Ok(state) = PushState::try_from(number) {
                assert!(state.index().is_some(), "{state:?}");
            }
        }
    }

    #[test]
    fn two_labels_have_each_pair_once() {
        let all = <(Reason, PushState)>::all();
        assert_eq!(all.len(), Reason::ALL.len() * PushState::ALL.len());
        for (place, pair) in all.into_iter().enumerate() {
            assert_eq!(pair.index(), Some(place));
        }
    }
}
