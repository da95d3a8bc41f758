//! CairnFS as a mounted file system of Linux.
//!
//! How a request travels: the kernel -> `kernel` (its bytes become values) -> `session` (a task) -> `face` (which
//! operations of the client it takes) -> `node` (what is written and not committed) -> `cairn-client`. The kernel is told
//! by `messages` what it should forget.

mod changes;
mod dirty;
mod errno;
mod face;
mod identity;
mod kernel;
mod limits;
mod messages;
mod node;
mod options;
mod session;
mod system;

pub use kernel::mount::{MountError, mounted_at, unmount};
pub use options::{MountOptions, OptionError};
pub use session::{Mounted, mount};
