//! The other end of a measurement between processes: what `cairn-bench peer` does.

use super::echo;
use super::link::MARK;
use crate::args::{BLOCK_LEN, Peer, PeerRole};
use crate::payload;
use anyhow::{Context, Result};
use bytes::Bytes;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Connects, says that it is ready, does its part and waits for the other side to hang up.
///
/// # Errors
/// The connection or the file failed.
pub fn run(peer: &Peer) -> Result<()> {
    let mut stream = TcpStream::connect(peer.to).context("calling back")?;
    stream.set_nodelay(true).context("calling back")?;
    match peer.role {
        PeerRole::Send => {
            let pool = payload::pool();
            stream.write_all(&MARK)?;
            stream.read_exact(&mut [0])?;
            send(&mut stream, &pool, peer.bytes)?;
        }
        PeerRole::Receive => {
            let file = peer.file.as_ref().map(File::create).transpose().context("making a scratch file")?;
            stream.write_all(&MARK)?;
            receive(&mut stream, peer.bytes, file)?;
            stream.write_all(&MARK)?;
        }
        PeerRole::Echo => {
            stream.write_all(&MARK)?;
            return echo::serve(&mut stream);
        }
    }
    // Processor time of a process can be read as long as it lives.
    stream.read(&mut [0]).map(|_| ()).context("waiting for the end")
}

/// Sends the repeated pool.
pub fn send(stream: &mut TcpStream, pool: &Bytes, bytes: u64) -> Result<()> {
    for offset in (0..bytes).step_by(BLOCK_LEN as usize) {
        stream.write_all(&payload::at(pool, offset, BLOCK_LEN as usize)).context("sending")?;
    }
    Ok(())
}

/// Receives, a block at a time, and writes each to the file if there is one.
pub fn receive(stream: &mut TcpStream, bytes: u64, mut file: Option<File>) -> Result<()> {
    let mut block = vec![0; BLOCK_LEN as usize];
    for _ in 0..bytes / BLOCK_LEN {
        stream.read_exact(&mut block).context("receiving")?;
        if let Some(file) = &mut file {
            file.write_all(&block).context("writing a scratch file")?;
        }
    }
    Ok(())
}
