//! What the answer of a Writer means to the controllers.

use std::time::Duration;

use pyramid_protocol::pb::v1::{Reason, Refusal};

/// Why a call did not do what was asked; each says what its caller does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The names make no identity or address: nobody can have a Writer of this name.
    #[error("{namespace}/{writer} is not the name of a Writer")]
    Name {
        /// Of the Writer.
        namespace: String,
        /// Its name.
        writer: String,
    },
    /// No answer. It may have had its effect all the same. Ask again later.
    #[error("no answer from {address}: {message}")]
    Unreachable {
        /// Who was asked.
        address: String,
        /// What the network says.
        message: String,
    },
    /// It starts, has no leader, has too much to do, or was called by a later leader of the operator:
    /// then this process learns soon that it does not lead. Ask again later.
    #[error("the Writer cannot do it now: {message}")]
    Later {
        /// Its words.
        message: String,
        /// Not before, if it says so.
        retry_after: Duration,
    },
    /// There is no such stream, subscription or object.
    #[error("{message}")]
    NotFound {
        /// Its words.
        message: String,
    },
    /// Another object or a newer generation has declared the name. Read again and decide again.
    #[error("{message}")]
    Conflict {
        /// Its words.
        message: String,
    },
    /// It belongs to another cluster id: its volume is not the one we know.
    #[error("{message}")]
    OtherCluster {
        /// Its words.
        message: String,
    },
    /// The request can never be right. A person changes the object.
    #[error("{message}")]
    Invalid {
        /// Its words.
        message: String,
    },
    /// The build of this Writer does not know the call.
    #[error("{message}")]
    Unserved {
        /// Its words.
        message: String,
    },
    /// The operator may not call it: its certificate is not believed.
    #[error("{message}")]
    Denied {
        /// Its words.
        message: String,
    },
    /// The Writer or its data are broken, or it breaks the rules of the calls. A person looks.
    #[error("{message}")]
    Broken {
        /// Its words.
        message: String,
    },
}

impl Error {
    /// Whether the same call may succeed later, without anybody changing anything.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Later { .. })
    }

    pub(super) fn broken(message: &str) -> Self {
        Self::Broken { message: message.to_owned() }
    }

    pub(super) fn from_refusal(refusal: Refusal) -> Self {
        let reason = refusal.reason();
        let message = refusal.message;
        match reason {
            Reason::NotLeader
            | Reason::Unavailable
            | Reason::ResourceExhausted
            | Reason::WalFull
            | Reason::Fenced
            | Reason::Dropped => {
                let retry_after = Duration::from_millis(refusal.retry_after_ms.into());
                Self::Later { message, retry_after }
            }
            Reason::NotFound => Self::NotFound { message },
            Reason::AlreadyExists | Reason::StreamRecreated | Reason::StaleRevision => {
                Self::Conflict { message }
            }
            Reason::Foreign => Self::OtherCluster { message },
            Reason::Invalid
            | Reason::Closed
            | Reason::TooManyProducers
            | Reason::Trimmed
            | Reason::BeyondNext
            | Reason::EpochChanged => Self::Invalid { message },
            Reason::Unimplemented => Self::Unserved { message },
            Reason::Denied => Self::Denied { message },
            Reason::Unspecified
            | Reason::WrongOffset
            | Reason::OutOfOrder
            | Reason::UnknownProducer
            | Reason::SessionBroken
            | Reason::Damaged
            | Reason::Internal => Self::Broken { message },
        }
    }
}
