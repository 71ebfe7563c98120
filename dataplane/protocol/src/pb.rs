//! Messages and services, generated from `proto/`.
//!
//! Fields of the types `RecordBatch` and `Records` are [`bytes::Bytes`] here: the encoded message.

/// The wire.
pub mod v1 {
    #![allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("pyramid.v1");
}

/// What is stored.
pub mod stored {
    /// Version 1 of all stored messages.
    pub mod v1 {
        #![allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
        tonic::include_proto!("pyramid.stored.v1");
    }
}
