//! Tells systemd that a service is ready (sd_notify(3), `Type=notify`).

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
};

/// Says so, if somebody asked to be told.
///
/// # Errors
/// Nobody listens where we were told to say it.
pub fn ready() -> io::Result<()> {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    tell(Path::new(&address), b"READY=1")
}

fn tell(address: &Path, words: &[u8]) -> io::Result<()> {
    let address = match address.as_os_str().as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(words, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_hears_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let name = format!("cairn-test-{}", std::process::id());
        let abstract_listener =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        tell(&path, b"READY=1").unwrap();
        tell(Path::new(&format!("@{name}")), b"READY=1").unwrap();
        for listener in [listener, abstract_listener] {
            let mut heard = [0; 100];
            let len = listener.recv(&mut heard).unwrap();
            assert_eq!(&heard[..len], b"READY=1");
        }
        assert!(tell(&dir.path().join("nobody"), b"x").is_err());
    }
}
