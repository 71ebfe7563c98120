//! The certificate of the operator itself.
