//! Finalizers. Only an object whose deletion destroys data has one, so that by default no namespace
//! can get stuck.

/// On a Stream with `deletionPolicy: Delete`, until its records are gone from Writer and bucket.
pub const PURGE_STREAM: &str = "pyramid.dev/purge-stream";
/// On a Writer with `storage.whenDeleted: Delete`, until no Stream is bound to it.
pub const PROTECT_VOLUMES: &str = "pyramid.dev/protect-volumes";
