//! The kernel's side: its interface as values ([`request`], [`reply`]), the device it is spoken through ([`device`]), and
//! how a mount comes and goes ([`mount`]). Nothing here knows what a file is.

pub mod abi;
pub mod device;
pub mod mount;
pub mod reply;
pub mod request;
