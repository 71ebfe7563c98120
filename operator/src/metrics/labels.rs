//! By what counts are told apart.

use pyramid_telemetry::metrics::{Key, Label};

/// Makes an enum a [`Label`]: each value with its text, once.
macro_rules! label {
    ($type:ty, $name:literal, $($value:ident => $text:literal),+ $(,)?) => {
        impl Label for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn text(self) -> &'static str {
                match self {
                    $(Self::$value => $text),+
                }
            }
        }
    };
}

/// Who reconciles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Writer,
    Stream,
    Subscription,
    Bootstrap,
    Stats,
    WebhookBundle,
}

label!(
    Controller, "controller",
    Writer => "writer",
    Stream => "stream",
    Subscription => "subscription",
    Bootstrap => "bootstrap",
    Stats => "stats",
    WebhookBundle => "webhook_bundle",
);

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Error,
}

impl Outcome {
    pub(crate) fn of(is_ok: bool) -> Self {
        if is_ok { Self::Ok } else { Self::Error }
    }
}

label!(Outcome, "result", Ok => "ok", Error => "error");

/// A call of a Writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminCall {
    GetInfo,
    Bootstrap,
    PutStreams,
    DeleteStream,
    SetClosed,
    PutSubscriptions,
    DeleteSubscription,
    ListConfig,
    WatchStats,
    Adopt,
    AddLearner,
    ChangeMembership,
    TransferLeadership,
}

label!(
    AdminCall, "rpc",
    GetInfo => "GetInfo",
    Bootstrap => "Bootstrap",
    PutStreams => "PutStreams",
    DeleteStream => "DeleteStream",
    SetClosed => "SetClosed",
    PutSubscriptions => "PutSubscriptions",
    DeleteSubscription => "DeleteSubscription",
    ListConfig => "ListConfig",
    WatchStats => "WatchStats",
    Adopt => "Adopt",
    AddLearner => "AddLearner",
    ChangeMembership => "ChangeMembership",
    TransferLeadership => "TransferLeadership",
);

/// What became of a request for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issue {
    /// A pod has it.
    Pod,
    /// Somebody without a pod has it.
    Unbound,
    /// The token is for somebody else than the issuer.
    OtherAudience,
    /// The token was good once.
    ExpiredToken,
    /// The token's pod or account was deleted, says the API server.
    InvalidatedToken,
    /// The API server does not know the token, or it is not of a service account.
    BadToken,
    /// The token's pod does not exist.
    PodGone,
    /// The token's pod does not exist, and another one has its name.
    PodReplaced,
    /// The token's pod has ended.
    PodFinished,
    /// No access list names the account.
    NotNamed,
    /// The request for a certificate cannot be used.
    BadRequest,
    /// Too many requests.
    Limited,
    /// The API server did not answer.
    ApiServer,
    /// The access lists are not read yet.
    NotReady,
    /// The authority cannot issue.
    Authority,
    /// A bug.
    Internal,
}

impl Issue {
    const ALL: [(Self, &'static str, &'static str); 16] = [
        (Self::Pod, "pod", ""),
        (Self::Unbound, "unbound", ""),
        (Self::OtherAudience, "denied", "audience"),
        (Self::ExpiredToken, "denied", "expired"),
        (Self::InvalidatedToken, "denied", "invalidated"),
        (Self::BadToken, "denied", "bad_token"),
        (Self::PodGone, "denied", "pod_gone"),
        (Self::PodReplaced, "denied", "pod_replaced"),
        (Self::PodFinished, "denied", "pod_finished"),
        (Self::NotNamed, "denied", "not_named"),
        (Self::BadRequest, "invalid", "bad_request"),
        (Self::Limited, "limited", "too_many"),
        (Self::ApiServer, "unavailable", "api_server"),
        (Self::NotReady, "unavailable", "not_ready"),
        (Self::Authority, "unavailable", "authority"),
        (Self::Internal, "internal", "bug"),
    ];
}

impl Key for Issue {
    fn all() -> Vec<Self> {
        Self::ALL.iter().map(|(issue, ..)| *issue).collect()
    }

    fn index(self) -> Option<usize> {
        Self::ALL.iter().position(|(issue, ..)| *issue == self)
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        let found = Self::ALL.iter().find(|(issue, ..)| *issue == self);
        let (result, reason) = found.map_or(("", ""), |(_, result, reason)| (*result, *reason));
        vec![("result", result), ("reason", reason)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_end_of_a_request_for_a_certificate_has_labels_of_its_own() {
        let labels: BTreeSet<_> = Issue::all().into_iter().map(Key::labels).collect();
        assert_eq!(labels.len(), Issue::all().len());
        assert_eq!(Issue::Pod.labels(), [("result", "pod"), ("reason", "")]);
        assert_eq!(Issue::PodGone.labels(), [("result", "denied"), ("reason", "pod_gone")]);
    }
}
