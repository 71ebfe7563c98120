//! The lease of the leading operator.
