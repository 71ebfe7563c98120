//! The Secret of the authority.
