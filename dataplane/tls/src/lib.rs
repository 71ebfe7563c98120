//! Mutual TLS from a directory, with identities.
//!
//! A program that is given a directory ([`Tls::open`]) with its key, its certificate and the roots
//! that it believes gets two things from it that fit into `pyramid_protocol::net`:
//!
//! - [`Tls::accept`] wraps what takes connections. After the handshake the peer's identity is the
//!   one SPIFFE URI of its certificate, and every request carries it (`net::Peer`).
//!   [`Tls::accept_anybody`] is for ports whose callers cannot have a certificate yet.
//! - [`Tls::connect`] wraps what opens connections. The server must be a Writer of our trust domain
//!   and its certificate must be for the host that was asked for; why there is no connection is
//!   said in a text that tells what to do ([`ConnectError`]).
//!
//! [`Tls::watch`] looks for new files and takes them into use for new connections; files that
//! cannot be used change nothing. A bundle may hold two roots, so that an authority can be
//! exchanged without a gap: first the new root is added everywhere, then the leaves are made anew,
//! then the old root is taken out. What a removed root vouched for is refused from then on; a
//! connection that is open already goes on until it ends of age (`net::Age`).
//!
//! [`authority`] makes roots and leaves, for `pyramid dev`, for tests and for an operator;
//! [`write_directory`] writes a directory so that readers see all of the old or all of the new.
//! Who has no certificate yet makes a [`CertificateRequest`] and takes it to its issuer through
//! [`connect_without_identity`].
//!
//! # One version
//!
//! TLS 1.3 only, HTTP/2 only: both ends of every connection are ours. The cryptography is ring's.
//! The time is that of a `Clock`: a machine whose clock is wrong by more than five minutes in the
//! past refuses new certificates, and says so.
//!
//! # Absent on purpose
//!
//! - Session resumption: it would skip the check of a certificate that has ended or lost its root
//!   since.
//! - Revocation lists: certificates live for a day or a month, and rights are checked for each call.
//! - The subject of a certificate: only the URI says who somebody is.
//! - The path length of a root: rustls takes a root as it is. That of intermediates is checked.

mod accept;
pub mod authority;
pub mod bundle;
mod connect;
mod directory;
mod leaf;
mod refusals;
mod request;
mod tls;
mod verifier;

pub use accept::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, Protocols, TlsAccept};
pub use authority::Authority;
pub use connect::{CONNECT_TIMEOUT, Error as ConnectError, TlsConnect, connect_without_identity};
pub use directory::{Error, replace_bundle, write_checked_directory, write_directory};
pub use leaf::{Error as LeafError, INTERMEDIATES_MAX, LEAF_BYTES_MAX, Moment, NAMES_MAX};
pub use refusals::Reason;
pub use request::{CertificateRequest, Error as RequestError};
pub use tls::{Status, Tls, WATCH_EVERY};
pub use verifier::Refused;
