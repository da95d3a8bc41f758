//! One connection through a proxy: both sockets, and how it ends.

use super::counters::Counters;
use socket2::SockRef;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Both halves of a connection. When the last pump lets go of it, both sockets are closed.
pub struct Conn {
    /// The one who dialled.
    pub client: TcpStream,
    /// The server behind the proxy.
    pub server: TcpStream,
    /// Ends the pumps.
    pub dead: CancellationToken,
    /// Of the proxy.
    pub counters: Arc<Counters>,
    /// Bytes of it were dropped: what would follow makes no sense any more.
    pub swallowed: AtomicBool,
    /// One side is gone and the other must not notice.
    pub half_open: AtomicBool,
    /// Its HELLO said that a server dialled.
    pub of_a_server: AtomicBool,
}

impl Conn {
    /// Pairs two sockets.
    pub fn new(client: TcpStream, server: TcpStream, dead: CancellationToken, counters: Arc<Counters>) -> Self {
        // Without it the proxy would add up to 40 ms to small frames; a socket that refuses is about to fail anyway.
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let (swallowed, half_open, of_a_server) = Default::default();
        Self { client, server, dead, counters, swallowed, half_open, of_a_server }
    }

    /// Resets both sides (RST) and ends the pumps.
    pub fn reset(&self) {
        zero_linger(&self.client);
        zero_linger(&self.server);
        self.dead.cancel();
    }

    /// Remembers that bytes were dropped.
    pub fn mark_swallowed(&self) {
        self.swallowed.store(true, Ordering::Relaxed);
    }

    /// Remembers that an end of a stream was kept back.
    pub fn mark_half_open(&self) {
        self.half_open.store(true, Ordering::Relaxed);
    }
}

/// Makes the coming close of a socket a reset (socket(7), SO_LINGER with a timeout of 0).
pub fn zero_linger(stream: &TcpStream) {
    // Fails only for a socket that is gone.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Ends one direction in order (FIN).
pub fn finish(stream: &TcpStream) {
    // Fails only for a socket that is gone.
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
}
