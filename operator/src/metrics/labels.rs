//! By what counts are told apart.

use pyramid_telemetry::metrics::Label;

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
pub(crate) enum Issue {
    /// A pod has it.
    Pod,
    /// Somebody without a pod has it.
    Unbound,
    /// The token is not good, or its holder may not have one.
    Denied,
    /// The request for a certificate cannot be used.
    Invalid,
    /// Too many requests.
    Limited,
    /// The API server did not answer, or the authority cannot issue.
    Unavailable,
    /// A bug.
    Internal,
}

label!(
    Issue, "result",
    Pod => "pod",
    Unbound => "unbound",
    Denied => "denied",
    Invalid => "invalid",
    Limited => "limited",
    Unavailable => "unavailable",
    Internal => "internal",
);
