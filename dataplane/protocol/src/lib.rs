//! The words and the wire of Pyramid.
//!
//! The glossary as re-exports, in reading order: a [`StreamName`] names a stream, an [`Offset`] a
//! place in it, a [`Position`] a place in one history of it. A producer appends [`Records`]; the
//! Writer makes a [`Batch`] of them, which nothing takes apart on its way to the application.
//! Strings and bytes from outside become these types in one place each; behind it nothing is
//! checked again. [`limits`] are those that both ends must know.
//!
//! [`pb`] holds the messages and services, [`refusal`] what a "no" looks like, [`net`] how programs
//! connect. What differs between production and a simulation is a trait: [`Clock`], [`Entropy`],
//! [`net::Connect`], [`net::Accept`].
//!
//! Absent on purpose: anything that stores, encrypts or decides.

#![warn(missing_docs)]

pub mod batch;
pub mod bootstrap;
mod clock;
mod entropy;
mod grantee;
pub mod limits;
pub mod net;
pub mod offset;
mod operator_term;
pub mod pb;
pub mod records;
pub mod refusal;
mod secret;
mod spiffe_id;
pub mod stream_name;

pub use batch::Batch;
pub use clock::{Clock, SystemClock};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use grantee::{Grantee, ParseGranteeError};
pub use offset::{Offset, Position, StreamId};
pub use operator_term::{NoTerm, OperatorTerm};
pub use records::Records;
pub use spiffe_id::{ParseSpiffeIdError, SpiffeId};
pub use stream_name::StreamName;
