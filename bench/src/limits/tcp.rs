//! Bytes over TCP on loopback.

use super::disk;
use super::link::Link;
use super::peer;
use crate::args::PeerRole;
use crate::cpu::Group;
use crate::sample::{Sample, Unit, Watch};
use anyhow::{Context, Result};
use bytes::Bytes;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

/// From another process to this one, memory to memory: what a sequential read is held against.
pub fn copy(size: u64) -> Result<Sample> {
    let mut link = Link::start(PeerRole::Send, size, None)?;
    let watch = Watch::start(&[Group::own("bench"), Link::group([&link])])?;
    link.begin()?;
    peer::receive(&mut link.stream, size, None)?;
    watch.stop(Unit::Bytes, size)
}

/// The same between two threads of one process.
pub fn copy_threads(pool: &Bytes, size: u64) -> Result<Sample> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback")?;
    let mut sender = TcpStream::connect(listener.local_addr()?).context("connecting on loopback")?;
    let (mut receiver, _) = listener.accept().context("accepting a connection")?;
    let watch = Watch::start(&[Group::own("bench")])?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || peer::send(&mut sender, pool, size));
        let received = peer::receive(&mut receiver, size, None);
        // A sender that is still writing ends with the connection.
        drop(receiver);
        sending.join().expect("a sender returns its errors").and(received)
    })?;
    watch.stop(Unit::Bytes, size)
}

/// From this process to three others at once, counted once; with a directory each writes its file there, unsynced:
/// what a relaxed sequential write is held against.
pub fn fan_out(pool: &Bytes, size: u64, dir: Option<&Path>) -> Result<Sample> {
    let mut links = Vec::new();
    for _ in 0..3 {
        let file = dir.map(disk::new_file).transpose()?;
        links.push(Link::start(PeerRole::Receive, size, file.as_deref())?);
    }
    let watch = Watch::start(&[Group::own("bench"), Link::group(&links)])?;
    std::thread::scope(|scope| {
        let legs: Vec<_> = links
            .iter_mut()
            .map(|link| scope.spawn(|| peer::send(&mut link.stream, pool, size).and_then(|()| link.await_mark())))
            .collect();
        legs.into_iter().try_for_each(|leg| leg.join().expect("a leg returns its errors"))
    })?;
    watch.stop(Unit::Bytes, size)
}
