//! [`Refusal`]: why a pod is not let in, and what to change.

use pyramid_crds::annotation::{APPEND, SUBSCRIPTIONS};
use pyramid_telemetry::metrics::Label;

use super::annotations::{APPENDS_MAX, SUBSCRIPTIONS_MAX};
use super::container::CONTAINER;

/// A pod is not let in. Its text goes to who creates the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The pusher's loopback port would be open to everything on the node.
    #[error(
        "the pod uses the network of its node, where everybody could append through the pusher; \
         set hostNetwork to false, or remove the annotations {SUBSCRIPTIONS} and {APPEND}"
    )]
    HostNetwork,
    /// The image is for Linux.
    #[error(
        "the pusher runs on Linux only and the pod asks for Windows; run it on Linux, or remove \
         the annotations {SUBSCRIPTIONS} and {APPEND}"
    )]
    Windows,
    /// See the text.
    #[error(
        "container {container:?} has port {port}, which is the pusher's; give the container \
         another port"
    )]
    Port {
        /// Whose.
        container: String,
        /// Which one.
        port: u64,
    },
    /// Nobody but the operator puts it there.
    #[error("container {CONTAINER:?} was not injected by the operator; give it another name")]
    ContainerName,
    /// See the text.
    #[error("volume {name:?} is one that the operator adds; give it another name")]
    VolumeName {
        /// Which one.
        name: &'static str,
    },
    /// The key and the token of the pod's identity are for the pusher: an application that uses
    /// them would lose them with the next version, and one that writes there stops the pusher.
    #[error(
        "container {container:?} mounts volume {name:?}, which is for the pusher alone; remove the \
         mount"
    )]
    Mount {
        /// Whose.
        container: String,
        /// Which one.
        name: &'static str,
    },
    /// A value that means nothing.
    #[error("annotation {annotation} is {value:?}; {remedy}")]
    Annotation {
        /// Which one.
        annotation: &'static str,
        /// Its value, or the part of it that is wrong; cut if it is long.
        value: String,
        /// What to give.
        remedy: &'static str,
    },
    /// See the text.
    #[error("annotation {annotation} has the name {name:?}, which {flaw}; {remedy}")]
    Name {
        /// Which one.
        annotation: &'static str,
        /// Cut if it is long.
        name: String,
        /// What is wrong with it.
        flaw: &'static str,
        /// What to give.
        remedy: &'static str,
    },
    /// See the text.
    #[error(
        "annotation {annotation} has a comma with no name before or behind it; remove the comma, or \
         {remedy}"
    )]
    EmptyName {
        /// Which one.
        annotation: &'static str,
        /// What to give.
        remedy: &'static str,
    },
    /// See the text.
    #[error(
        "annotation {SUBSCRIPTIONS} names {given} Subscriptions and a pod may have \
         {SUBSCRIPTIONS_MAX}; join some of them: one Subscription may have several streams"
    )]
    TooManySubscriptions {
        /// How many there are.
        given: usize,
    },
    /// See the text.
    #[error(
        "annotation {APPEND} names {given} Streams and may name {APPENDS_MAX}; give \"*\" for all \
         that the pod's service account may append to"
    )]
    TooManyAppends {
        /// How many there are.
        given: usize,
    },
    /// The annotations are there and empty.
    #[error(
        "{SUBSCRIPTIONS} and {APPEND} name nothing; name a Subscription or a Stream, or remove the \
         annotations"
    )]
    AsksNothing,
    /// What is asked for, or what the chart gives where nothing is asked.
    #[error(
        "the pusher's {resource} request {request} is above its limit {limit}; raise \
         pyramid.dev/pusher-{resource}-limit or lower pyramid.dev/pusher-{resource}-request"
    )]
    RequestAboveLimit {
        /// `cpu` or `memory`.
        resource: &'static str,
        /// Its request.
        request: String,
        /// Its limit.
        limit: String,
    },
    /// Not a pod. The API server sends no such thing.
    #[error("{path:?} of the pod is not {expected}; give a Pod of v1")]
    Malformed {
        /// Where; empty: the pod itself.
        path: String,
        /// What should be there.
        expected: &'static str,
    },
}

/// A [`Refusal`] as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    HostNetwork,
    Windows,
    Port,
    Name,
    Mount,
    Annotation,
    TooMany,
    AsksNothing,
    Resources,
    Malformed,
}

impl Label for Why {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &[
        Self::HostNetwork,
        Self::Windows,
        Self::Port,
        Self::Name,
        Self::Mount,
        Self::Annotation,
        Self::TooMany,
        Self::AsksNothing,
        Self::Resources,
        Self::Malformed,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
            Self::Port => "port",
            Self::Name => "name",
            Self::Mount => "mount",
            Self::Annotation => "annotation",
            Self::TooMany => "too_many",
            Self::AsksNothing => "asks_nothing",
            Self::Resources => "resources",
            Self::Malformed => "malformed",
        }
    }
}

impl Refusal {
    /// As metrics name it.
    pub(super) fn why(&self) -> Why {
        match self {
            Self::HostNetwork => Why::HostNetwork,
            Self::Windows => Why::Windows,
            Self::Port { .. } => Why::Port,
            Self::ContainerName | Self::VolumeName { .. } => Why::Name,
            Self::Mount { .. } => Why::Mount,
            Self::Annotation { .. } | Self::Name { .. } | Self::EmptyName { .. } => Why::Annotation,
            Self::TooManySubscriptions { .. } | Self::TooManyAppends { .. } => Why::TooMany,
            Self::AsksNothing => Why::AsksNothing,
            Self::RequestAboveLimit { .. } => Why::Resources,
            Self::Malformed { .. } => Why::Malformed,
        }
    }
}
