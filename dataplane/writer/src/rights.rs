//! Who calls, and what they may do. Decisions are pure functions of the caller and State.
//!
//! Rights are part of State: a change of them is an entry of the log, and the leader, who alone
//! serves, has applied it before anybody is told that it is done. A call that lasts looks again
//! when [`View::configuration`](crate::view::View::configuration) has moved, never at each record.
//!
//! Who has no right at all to a stream is answered as if there were no such stream. So a right is
//! always looked at before anything else of a stream: its id, its offsets, whether it is closed.

mod fence;

use std::fmt;

use pyramid_protocol::net::Peer;
use pyramid_protocol::pb::stored::v1::Subscription;
use pyramid_protocol::pb::v1::{Reason, Refusal};
use pyramid_protocol::{Grantee, SpiffeId};
use tonic::{Extensions, Request, Status};

pub(crate) use self::fence::Fence;
use crate::state::{State, Stream};

/// Whose producers those of connections without TLS are. No identity reads like it.
const LOCAL: &str = "local";

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A connection without TLS, of this machine: it may do everything.
    Local,
    /// Has proved to be this one.
    Known(SpiffeId),
}

/// What somebody may do with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Append to it, as itself or as a producer.
    Append,
    /// Read its records. Whoever may attach to a subscription may read its streams.
    Read,
    /// Trim and seal it.
    Manage,
}

/// Whether somebody may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may.
    Allowed,
    /// It may not, but it has another right to this stream and so knows of it.
    Denied,
    /// It has no right to this stream: to this caller there is none of this name.
    Hidden,
}

const RIGHTS: [Right; 3] = [Right::Append, Right::Read, Right::Manage];

impl Caller {
    /// Who sends a request.
    ///
    /// # Errors
    ///
    /// Its connection does not say. Nothing is allowed then.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Refusal> {
        Self::from_extensions(request.extensions())
    }

    fn from_extensions(extensions: &Extensions) -> Result<Self, Refusal> {
        match extensions.get::<Peer>() {
            Some(Peer { identity: Some(identity), .. }) => Ok(Self::Known(identity.clone())),
            Some(Peer { identity: None, .. }) => Ok(Self::Local),
            None => Err(Refusal::new(Reason::Internal, "the connection does not say who calls")),
        }
    }

    /// Whose names of producers this caller's are.
    #[must_use]
    pub fn identity(&self) -> &str {
        match self {
            Self::Local => LOCAL,
            Self::Known(identity) => identity.as_str(),
        }
    }

    /// Whether the caller may do this with the stream.
    #[must_use]
    pub fn may(&self, right: Right, stream: &Stream, state: &State) -> Access {
        if self.has(right, stream, state) {
            Access::Allowed
        } else if self.sees(stream, state) {
            Access::Denied
        } else {
            Access::Hidden
        }
    }

    /// Whether the caller has any right to the stream.
    #[must_use]
    pub fn sees(&self, stream: &Stream, state: &State) -> bool {
        RIGHTS.into_iter().any(|right| self.has(right, stream, state))
    }

    /// Whether the caller may attach to the subscription.
    #[must_use]
    pub fn may_attach(&self, subscription: &Subscription) -> bool {
        match self {
            Self::Local => true,
            Self::Known(identity) => {
                subscription.service_accounts.iter().any(|text| Grantee::covers(text, identity))
            }
        }
    }

    /// Whether a producer of this name's owner is the caller's. A caller that may do everything may
    /// also speak for others.
    #[must_use]
    pub fn owns(&self, producers_identity: &str) -> bool {
        match self {
            Self::Local => true,
            Self::Known(identity) => identity.as_str() == producers_identity,
        }
    }

    fn has(&self, right: Right, stream: &Stream, state: &State) -> bool {
        let identity = match self {
            Self::Local => return true,
            Self::Known(identity) => identity,
        };
        let is_in = |list: &[String]| list.iter().any(|text| Grantee::covers(text, identity));
        match right {
            Right::Append => is_in(&stream.rights.appenders),
            Right::Read => {
                is_in(&stream.rights.readers)
                    || state.subscription_lets_read(identity, &stream.name)
            }
            Right::Manage => is_in(&stream.rights.managers),
        }
    }

    /// The refusal of a stream that does not exist, or that the caller has no right to.
    #[must_use]
    pub fn no_stream(&self, name: &str) -> Refusal {
        let message = match self {
            Self::Local => format!("there is no stream {name:?}"),
            Self::Known(identity) => format!(
                "there is no stream {name:?} that {identity} may use; if it should exist, ask whoever manages it for a right"
            ),
        };
        Refusal::new(Reason::NotFound, message)
    }

    /// The refusal of a subscription that does not exist, or that the caller may not attach to.
    #[must_use]
    pub fn no_subscription(&self, name: &str) -> Refusal {
        let message = match self {
            Self::Local => format!("there is no subscription {name:?}; declare it first"),
            Self::Known(identity) => format!(
                "there is no subscription {name:?} that {identity} may attach to; declare it with this identity in its service accounts"
            ),
        };
        Refusal::new(Reason::NotFound, message)
    }

    /// The refusal of a caller that lacks one right and has another.
    #[must_use]
    pub fn denied(&self, right: Right, name: &str) -> Refusal {
        let identity = self.identity();
        Refusal::new(
            Reason::Denied,
            format!(
                "{identity} may use stream {name:?} but has not the right to {right}; ask whoever manages it for the right to {right}"
            ),
        )
    }

    /// The access as an answer.
    ///
    /// # Errors
    ///
    /// It is not allowed.
    pub fn check(&self, right: Right, stream: &Stream, state: &State) -> Result<(), Refusal> {
        match self.may(right, stream, state) {
            Access::Allowed => Ok(()),
            Access::Denied => Err(self.denied(right, stream.name.as_str())),
            Access::Hidden => Err(self.no_stream(stream.name.as_str())),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append",
            Self::Read => "read",
            Self::Manage => "manage",
        })
    }
}

/// Lets only the operator call, whatever the method.
pub(crate) fn operator_only(request: Request<()>) -> Result<Request<()>, Status> {
    match Caller::of(&request)? {
        Caller::Local => Ok(request),
        Caller::Known(identity) if identity.is_operator() => Ok(request),
        Caller::Known(identity) => Err(Refusal::new(
            Reason::Denied,
            format!("{identity} may not call Admin, which only the operator may; call with the operator's certificate"),
        )
        .into()),
    }
}

#[cfg(test)]
mod tests;
