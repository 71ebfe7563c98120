//! Tokens for certificates.
