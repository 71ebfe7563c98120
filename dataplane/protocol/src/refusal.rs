//! Refusals: one shape everywhere. This file alone picks gRPC codes.
//!
//! On streams a [`Refusal`] is an answer; on unary calls it travels in the trailer
//! `pyramid-refusal-bin` of the status.

use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::pb::v1::refusal::Detail;
use crate::pb::v1::{Effect, Reason, Refusal};

/// Name of the trailer that carries the encoded refusal of a unary call.
pub const TRAILER: &str = "pyramid-refusal-bin";

impl Refusal {
    /// Nothing was written; whether to retry follows from the reason.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            effect: Effect::NoEffect.into(),
            retry: may_succeed_later(reason),
            retry_after_ms: 0,
            message: message.into(),
            detail: None,
        }
    }

    /// It may have been written, or may still be.
    #[must_use]
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { effect: Effect::Unknown.into(), ..Self::new(reason, message) }
    }

    /// The same with a number that the caller can act on.
    #[must_use]
    pub fn with_detail(self, detail: Detail) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// The same with advice how long to wait.
    #[must_use]
    pub fn with_retry_after_ms(self, retry_after_ms: u32) -> Self {
        Self { retry: true, retry_after_ms, ..self }
    }

    /// The status of a unary call.
    #[must_use]
    pub fn into_status(self) -> Status {
        let mut status = Status::new(code(self.reason()), self.message.clone());
        status.metadata_mut().insert_bin(TRAILER, MetadataValue::from_bytes(&self.encode_to_vec()));
        status
    }

    /// What a status carries, or what its code alone says about a call that has effects.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let carried = status
            .metadata()
            .get_bin(TRAILER)
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| Self::decode(bytes).ok());
        carried.unwrap_or_else(|| match status.code() {
            Code::InvalidArgument | Code::OutOfRange => {
                Self::new(Reason::Invalid, status.message())
            }
            Code::PermissionDenied | Code::Unauthenticated => {
                Self::new(Reason::Denied, status.message())
            }
            Code::NotFound => Self::new(Reason::NotFound, status.message()),
            // Another service of ours, or none, answers so without a message.
            Code::Unimplemented if status.message().is_empty() => Self::new(
                Reason::Unimplemented,
                "what answers at this address does not serve this call; is it the Writer's port?",
            ),
            Code::Unimplemented => Self::new(Reason::Unimplemented, status.message()),
            Code::ResourceExhausted => Self::new(Reason::ResourceExhausted, status.message()),
            // The connection may have broken after the request was taken.
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::unknown(Reason::Unavailable, status.message()),
        })
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.into_status()
    }
}

/// Whether the same request may succeed without the caller changing anything.
fn may_succeed_later(reason: Reason) -> bool {
    match reason {
        Reason::ResourceExhausted
        | Reason::WalFull
        | Reason::NotLeader
        | Reason::Unavailable
        | Reason::Dropped => true,
        Reason::Unspecified
        | Reason::Invalid
        | Reason::NotFound
        | Reason::Closed
        | Reason::StreamRecreated
        | Reason::WrongOffset
        | Reason::EpochChanged
        | Reason::StaleRevision
        | Reason::Fenced
        | Reason::OutOfOrder
        | Reason::UnknownProducer
        | Reason::TooManyProducers
        | Reason::SessionBroken
        | Reason::Trimmed
        | Reason::BeyondNext
        | Reason::AlreadyExists
        | Reason::Foreign
        | Reason::Damaged
        | Reason::Internal
        | Reason::Unimplemented
        | Reason::Denied => false,
    }
}

/// The code tells the client what to do next: `INVALID_ARGUMENT` never to retry, `ABORTED` to read
/// the stream's state and decide again, `UNAVAILABLE` to try again or elsewhere,
/// `RESOURCE_EXHAUSTED` to wait, `INTERNAL` to report a bug.
fn code(reason: Reason) -> Code {
    match reason {
        Reason::Invalid => Code::InvalidArgument,
        Reason::NotFound | Reason::UnknownProducer => Code::NotFound,
        Reason::Closed | Reason::Foreign | Reason::TooManyProducers => Code::FailedPrecondition,
        Reason::StreamRecreated
        | Reason::WrongOffset
        | Reason::EpochChanged
        | Reason::StaleRevision
        | Reason::Fenced
        | Reason::OutOfOrder
        | Reason::SessionBroken => Code::Aborted,
        Reason::ResourceExhausted | Reason::WalFull => Code::ResourceExhausted,
        Reason::NotLeader | Reason::Unavailable | Reason::Dropped => Code::Unavailable,
        Reason::Trimmed | Reason::BeyondNext => Code::OutOfRange,
        Reason::AlreadyExists => Code::AlreadyExists,
        Reason::Damaged => Code::DataLoss,
        Reason::Unspecified | Reason::Internal => Code::Internal,
        Reason::Unimplemented => Code::Unimplemented,
        Reason::Denied => Code::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_trailer() {
        let refusal = Refusal::new(Reason::Trimmed, "offset 3 is trimmed; the first is 7")
            .with_detail(Detail::FirstOffset(7));
        let status = refusal.clone().into_status();
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(Refusal::from_status(&status), refusal);
    }

    #[test]
    fn a_broken_connection_leaves_the_effect_unknown() {
        let refusal = Refusal::from_status(&Status::unavailable("connection reset"));
        assert_eq!(
            (refusal.effect(), refusal.retry, refusal.reason()),
            (Effect::Unknown, true, Reason::Unavailable)
        );
    }

    #[test]
    fn a_port_of_another_service_is_named_as_the_likely_cause() {
        let refusal = Refusal::from_status(&Status::unimplemented(""));
        assert!(refusal.message.contains("is it the Writer's port?"), "{}", refusal.message);
        let told = Refusal::from_status(&Status::unimplemented("not built"));
        assert_eq!(told, Refusal::new(Reason::Unimplemented, "not built"));
    }

    #[test]
    fn a_foreign_status_that_refuses_has_no_effect() {
        let refusal = Refusal::from_status(&Status::invalid_argument("no"));
        assert_eq!(
            (refusal.effect(), refusal.retry, refusal.reason()),
            (Effect::NoEffect, false, Reason::Invalid)
        );
    }
}
