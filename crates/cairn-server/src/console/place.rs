//! Where a console listens: beside its server, unless it is told otherwise.

use crate::limits::CONSOLE_PORT_STEP;
use crate::listen::{ListenError, loopback_addr};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use thiserror::Error;

/// Where a server's console listens.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ConsolePlace {
    /// On the server's address, or loopback if that is another one, 80 ports above its port; on a free port when the server's was left open (port 0).
    #[default]
    Beside,
    /// On this address; port 0 picks a free one.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

/// A place for a console that cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConsolePlaceError {
    /// The server's port is too high for a console above it.
    #[error("port {port} has no port {CONSOLE_PORT_STEP} above it for the console")]
    NoPort {
        /// The server's port.
        port: u16,
    },
    /// The address is refused.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl ConsolePlace {
    /// The address to bind, for a server that was asked to listen on `asked` and listens on `service`; `None` when there
    /// is to be no console.
    pub(super) fn addr(&self, asked: SocketAddr, service: SocketAddr) -> Result<Option<SocketAddr>, ConsolePlaceError> {
        match self {
            Self::Off => Ok(None),
            Self::At(addr) => Ok(Some(console_addr(&addr.to_string())?)),
            Self::Beside if asked.port() == 0 => Ok(Some(SocketAddr::new(inside(service.ip()), 0))),
            Self::Beside => {
                let port = service.port();
                let above = port.checked_add(CONSOLE_PORT_STEP).ok_or(ConsolePlaceError::NoPort { port })?;
                Ok(Some(SocketAddr::new(inside(service.ip()), above)))
            }
        }
    }
}

/// The loopback address for a console beside a server there: what it serves is not protected.
fn inside(ip: IpAddr) -> IpAddr {
    match ip {
        ip if ip.to_canonical().is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

fn console_addr(text: &str) -> Result<SocketAddr, ListenError> {
    loopback_addr(text).map_err(|error| match error {
        ListenError::NotLoopback(addr) => ListenError::ConsoleNotLoopback(addr),
        error => error,
    })
}

/// `off`, or an address on loopback.
impl FromStr for ConsolePlace {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if text == "off" { Ok(Self::Off) } else { console_addr(text).map(Self::At) }
    }
}

/// As it is read.
impl fmt::Display for ConsolePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beside => write!(f, "port + {CONSOLE_PORT_STEP}"),
            Self::At(addr) => addr.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("it is an address")
    }

    #[test]
    fn the_console_is_beside_its_server() {
        let beside = |asked, service| ConsolePlace::Beside.addr(addr(asked), addr(service));
        assert_eq!(beside("127.0.0.1:9000", "127.0.0.1:9000"), Ok(Some(addr("127.0.0.1:9080"))));
        assert_eq!(beside("10.0.0.1:9000", "10.0.0.1:9000"), Ok(Some(addr("127.0.0.1:9080"))));
        assert_eq!(beside("[::1]:9002", "[::1]:9002"), Ok(Some(addr("[::1]:9082"))));
        assert_eq!(beside("127.0.0.1:0", "127.0.0.1:65535"), Ok(Some(addr("127.0.0.1:0"))));
        let high = "127.0.0.1:65500";
        assert_eq!(beside(high, high), Err(ConsolePlaceError::NoPort { port: 65500 }));
        assert_eq!(ConsolePlace::Off.addr(addr(high), addr(high)), Ok(None));
    }

    #[test]
    fn only_loopback_is_admitted() {
        assert_eq!("off".parse(), Ok(ConsolePlace::Off));
        assert_eq!("localhost:80".parse(), Ok(ConsolePlace::At(addr("127.0.0.1:80"))));
        assert_eq!("0.0.0.0:80".parse::<ConsolePlace>(), Err(ListenError::ConsoleNotLoopback(addr("0.0.0.0:80"))));
        let outside = ConsolePlace::At(addr("0.0.0.0:80"));
        assert!(matches!(outside.addr(addr("[::1]:1"), addr("[::1]:1")), Err(ConsolePlaceError::Listen(_))));
        assert!("on".parse::<ConsolePlace>().is_err());
    }
}
