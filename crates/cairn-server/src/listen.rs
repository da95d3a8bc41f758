//! Where a server may listen: on loopback only, as long as there are no capabilities beside mutual TLS, unless an operator
//! wants it otherwise, in words.

use async_trait::async_trait;
use cairn_net::{Listener, Stream};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Mutex;

/// A listener that serves one after the other: whoever it is lent to last, once the former ones have ended.
pub(crate) struct Lent {
    listener: Arc<Mutex<Box<dyn Listener>>>,
    addr: SocketAddr,
}

impl Lent {
    /// Takes over a listener.
    ///
    /// # Errors
    /// Those of asking it for its address.
    pub(crate) fn new(listener: Box<dyn Listener>) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        Ok(Self { listener: Arc::new(Mutex::new(listener)), addr })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same listener once more.
    pub(crate) fn share(&self) -> Self {
        Self { listener: self.listener.clone(), addr: self.addr }
    }

    /// The listener, as if it were the only one.
    pub(crate) fn lend(&self) -> Box<dyn Listener> {
        Box::new(self.share())
    }
}

#[async_trait]
impl Listener for Lent {
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        self.listener.lock().await.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// A listening address that is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ListenError {
    /// Not `address:port`.
    #[error("\"{0}\" is not an address to listen on: write IP:PORT, for example 127.0.0.1:9000 or [::1]:9000")]
    Malformed(String),
    /// Reachable by other machines.
    #[error(
        "refusing to listen on {0}: mutual TLS (--certs) keeps strangers out, but blocks are not yet kept from clients who \
         have one, and without certificates anybody who reaches the port could read and destroy data; use a loopback \
         address (127.0.0.0/8 or ::1), or --insecure where all who reach the port may do everything"
    )]
    NotLoopback(SocketAddr),
    /// The console is plain HTTP.
    #[error("refusing to serve metrics and health checks on {0}: they are plain HTTP; use a loopback address")]
    ConsoleNotLoopback(SocketAddr),
    /// It listens on all addresses, and nobody has said which one others can reach.
    #[error("{0} is every address of this machine: say with --advertise HOST:PORT which one others reach")]
    NotAdvertised(SocketAddr),
    /// Others could not dial it.
    #[error("\"{0}\" is not an address to advertise: write HOST:PORT as others reach it, for example 10.0.0.7:9001")]
    Unreachable(String),
}

/// Checks an address that others will be told: `host:port` with a port that can be dialled. Not held to loopback, because
/// it opens nothing; a forwarder that listens there has to protect what it forwards.
pub fn advertised_addr(advertise: &str) -> Result<String, ListenError> {
    let unreachable = || ListenError::Unreachable(advertise.to_owned());
    let (host, port) = advertise.rsplit_once(':').ok_or_else(unreachable)?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let named = !host.is_empty() && host != "[]" && !bare_ipv6 && host.chars().all(|c| c.is_ascii_graphic());
    let dialled = port.parse::<u16>().is_ok_and(|port| port != 0);
    if named && dialled { Ok(advertise.to_owned()) } else { Err(unreachable()) }
}

/// Reads a listening address. Names (`localhost`) count as 127.0.0.1 and nothing else is resolved: what a name means could
/// change between a check and the bind.
fn numeric_addr(listen: &str) -> Result<SocketAddr, ListenError> {
    let numeric = match listen.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => listen.to_owned(),
    };
    numeric.parse().map_err(|_| ListenError::Malformed(listen.to_owned()))
}

/// Reads a listening address and admits loopback only.
pub fn loopback_addr(listen: &str) -> Result<SocketAddr, ListenError> {
    let addr = numeric_addr(listen)?;
    if addr.ip().to_canonical().is_loopback() { Ok(addr) } else { Err(ListenError::NotLoopback(addr)) }
}

/// Where a server listens, and what others are told: loopback only, unless `insecure`.
pub(crate) fn service_addr(
    listen: &str,
    advertise: Option<&str>,
    insecure: bool,
) -> Result<(SocketAddr, Option<String>), ListenError> {
    let addr = if insecure { numeric_addr(listen)? } else { loopback_addr(listen)? };
    let advertised = advertise.map(advertised_addr).transpose()?;
    match advertised {
        None if addr.ip().is_unspecified() => Err(ListenError::NotAdvertised(addr)),
        advertised => Ok((addr, advertised)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_admitted() {
        for listen in ["127.0.0.1:9000", "127.8.9.10:0", "[::1]:9000", "localhost:9000", "[::ffff:127.0.0.1]:1"] {
            assert!(loopback_addr(listen).is_ok(), "{listen}");
        }
    }

    #[test]
    fn off_loopback_it_takes_words() {
        let listen = "10.0.0.1:9000";
        let addr: SocketAddr = listen.parse().expect("an address");
        assert_eq!(service_addr(listen, None, false), Err(ListenError::NotLoopback(addr)));
        assert_eq!(service_addr(listen, None, true), Ok((addr, None)));
        let all = "0.0.0.0:9000";
        let everywhere: SocketAddr = all.parse().expect("an address");
        assert_eq!(service_addr(all, None, true), Err(ListenError::NotAdvertised(everywhere)));
        let told = service_addr(all, Some("node-1:9001"), true);
        assert_eq!(told, Ok((everywhere, Some("node-1:9001".to_owned()))));
    }

    #[test]
    fn advertised_addresses_can_be_dialled() {
        for advertise in ["10.0.0.7:9001", "node-1.example:9001", "[::1]:9001", "127.0.0.1:1"] {
            assert_eq!(advertised_addr(advertise), Ok(advertise.to_owned()));
        }
        for advertise in ["", "9001", ":9001", "host", "host:0", "host:70000", "::1:9001", "[]:1", "a b:1"] {
            assert_eq!(advertised_addr(advertise), Err(ListenError::Unreachable(advertise.to_owned())));
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        for listen in ["0.0.0.0:9000", "[::]:9000", "10.0.0.1:9000", "[::ffff:10.0.0.1]:1", "128.0.0.1:1"] {
            let error = loopback_addr(listen).expect_err(listen);
            assert!(matches!(error, ListenError::NotLoopback(_)));
            assert!(error.to_string().contains("--insecure"), "{error}");
        }
        for listen in ["", "9000", "example.com:9000", "127.0.0.1", "localhost", "127.0.0.1:70000"] {
            assert_eq!(loopback_addr(listen), Err(ListenError::Malformed(listen.to_owned())));
        }
    }
}
