//! Who is who in a cluster off loopback: an own certificate authority, the certificates it issues, and TLS on both sides of
//! every connection behind the network seam of `cairn-net`.
//!
//! - [`Authority`] makes the authority and issues certificates; [`Subject`] is what one says of its holder.
//! - [`Identity`] is what a process shows and whom it trusts, from a directory of files that may change while it runs.
//! - [`TlsNet`] is a [`Net`] over another one.
//!
//! Certificates are described in docs/formats/certificates.md.

mod authority;
mod clock;
mod files;
mod identity;
mod net;
mod subject;

pub use authority::{Authority, Issued, Validity};
/// The seam that it stands behind, and the network below it.
pub use cairn_net::{Net, TcpNet};
pub use clock::unix_now;
pub use files::{CA_CERT, CA_KEY, CERT, KEY, TlsError};
pub use identity::{Facts, Identity, facts_of};
pub use net::TlsNet;
pub use subject::{Kind, NAME_LEN_MAX, Subject};
