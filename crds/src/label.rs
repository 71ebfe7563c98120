//! Labels: what selectors of Pyramid and of its users go by.

/// On all that the operator makes: the program in it, such as [`WRITER`].
pub const NAME: &str = "app.kubernetes.io/name";
/// On all that belongs to a Writer: its name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// What part of the whole a child is.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// On all that the operator makes: [`PYRAMID`].
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// On all that the operator makes: [`OPERATOR`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Version of the program. Not in Pod templates: every release would restart every Pod.
pub const APP_VERSION: &str = "app.kubernetes.io/version";

/// On all that belongs to a Writer: its name.
pub const WRITER_NAME: &str = "pyramid.dev/writer";
/// On Pods with an injected pusher: `true`.
pub const INJECTED: &str = "pyramid.dev/injected";
/// On a namespace: [`DISABLED`] keeps pushers out of it.
pub const INJECTION: &str = "pyramid.dev/injection";

/// Value of [`PART_OF`].
pub const PYRAMID: &str = "pyramid";
/// Value of [`MANAGED_BY`], and the operator's own [`NAME`].
pub const OPERATOR: &str = "pyramid-operator";
/// [`NAME`] of the Pods of a Writer.
pub const WRITER: &str = "pyramid-writer";
/// Value of [`INJECTION`].
pub const DISABLED: &str = "disabled";
