//! Mutual TLS from a directory, with identities.
