//! words
pub mod pb;
