//! Annotations: what a user asks for on Pods and objects, and what the operator notes.

/// On a Pod: up to 16 Subscriptions of its namespace, separated by commas. Asks for a pusher.
pub const SUBSCRIPTIONS: &str = "pyramid.dev/subscriptions";
/// On a Pod: Streams to append to (`name` or `namespace/name`, separated by commas) or `*`. Asks
/// for a pusher.
pub const APPEND: &str = "pyramid.dev/append";
/// On a Pod: [`FALSE`] opts out.
pub const INJECT: &str = "pyramid.dev/inject";
/// On a Pod: the port on which the application takes pushes, in place of the Subscription's.
pub const APP_PORT: &str = "pyramid.dev/app-port";
/// On a Pod: when the pusher counts as ready: `Local`, `Connected` or `CaughtUp`.
pub const READINESS: &str = "pyramid.dev/readiness";
/// On a Pod: CPU request of the pusher, a quantity.
pub const PUSHER_CPU_REQUEST: &str = "pyramid.dev/pusher-cpu-request";
/// On a Pod: CPU limit of the pusher, a quantity.
pub const PUSHER_CPU_LIMIT: &str = "pyramid.dev/pusher-cpu-limit";
/// On a Pod: memory request of the pusher, a quantity.
pub const PUSHER_MEMORY_REQUEST: &str = "pyramid.dev/pusher-memory-request";
/// On a Pod: memory limit of the pusher, a quantity.
pub const PUSHER_MEMORY_LIMIT: &str = "pyramid.dev/pusher-memory-limit";
/// On a Pod, written at injection: version of the operator and hash of what was injected.
pub const INJECTED_BY: &str = "pyramid.dev/injected-by";

/// On a Writer: [`TRUE`] makes it the Writer of Streams that name none.
pub const IS_DEFAULT_WRITER: &str = "pyramid.dev/is-default-writer";
/// On a Stream or a Writer that is being deleted: [`TRUE`] drops the finalizer and leaves the data.
pub const FORCE_DELETE: &str = "pyramid.dev/force-delete";
/// On the volume claims of a Writer, written: the cluster whose data they hold.
pub const CLUSTER_ID: &str = "pyramid.dev/cluster-id";

/// The value that switches on.
pub const TRUE: &str = "true";
/// The value that switches off.
pub const FALSE: &str = "false";
