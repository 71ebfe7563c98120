//! The kinds of `pyramid.dev/v1alpha1`: [`Writer`], [`Stream`] and [`Subscription`].
//!
//! The Rust types are the source of all else. Comments on the types of the schema and their fields
//! are what `kubectl explain` prints, so they speak to a user of the cluster. The rules stand beside
//! the fields as CEL, and the API server applies them; no rule sits at the root of a kind, because
//! such a rule would also block the removal of a finalizer once it is tightened.
//!
//! * [`writer`], [`stream`], [`subscription`]: one kind each.
//! * [`condition`]: how the status says what is the matter.
//! * [`annotation`], [`label`], [`finalizer`]: the names that the operator reads and writes.
//! * [`definition`], [`generated`]: the `CustomResourceDefinition`s, and the files that hold them.

pub mod annotation;
pub mod condition;
pub mod definition;
pub mod finalizer;
pub mod generated;
pub mod label;
pub mod stream;
pub mod subscription;
pub mod writer;

pub use stream::Stream;
pub use subscription::Subscription;
pub use writer::Writer;

/// API group of the three kinds.
pub const GROUP: &str = "pyramid.dev";
/// The only version so far.
pub const VERSION: &str = "v1alpha1";
