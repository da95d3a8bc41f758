//! The measuring end of a connection to a second process of this program.

use crate::args::PeerRole;
use crate::cpu::Group;
use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The other process must have called back by then.
const CALL_BACK_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);
/// Begins a measurement, or ends it.
pub const MARK: [u8; 1] = [1];

/// A connected second process. It ends when the connection does; dropping kills it.
pub struct Link {
    /// The connection, without Nagle's delay.
    pub stream: TcpStream,
    child: Child,
}

impl Link {
    /// Starts the other process and waits until it is ready to begin.
    ///
    /// # Errors
    /// It could not be started or died.
    pub fn start(role: PeerRole, bytes: u64, file: Option<&Path>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback")?;
        listener.set_nonblocking(true).context("listening on loopback")?;
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.arg("peer").arg(match role {
            PeerRole::Send => "send",
            PeerRole::Receive => "receive",
            PeerRole::Echo => "echo",
        });
        command.args(["--to", &listener.local_addr().context("listening on loopback")?.to_string()]);
        command.args(["--bytes", &bytes.to_string()]);
        if let Some(file) = file {
            command.arg("--file").arg(file);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("starting a second process")?;
        match accept(&listener, &mut child) {
            Ok(stream) => Ok(Self { stream, child }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Lets the other process begin.
    pub fn begin(&mut self) -> Result<()> {
        self.stream.write_all(&MARK).context("starting a measurement")
    }

    /// Waits until the other process is done.
    pub fn await_mark(&mut self) -> Result<()> {
        self.stream.read_exact(&mut [0]).context("the other process of a measurement ended")
    }

    /// The other processes of a measurement, for the report.
    pub fn group<'a>(links: impl IntoIterator<Item = &'a Self>) -> Group {
        Group { name: "peers", pids: links.into_iter().map(|link| link.child.id()).collect() }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // Both fail only for a process that is gone.
    let _ = child.kill();
    let _ = child.wait();
}

fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream> {
    let begin = Instant::now();
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false).context("accepting a connection")?;
                stream.set_nodelay(true).context("accepting a connection")?;
                stream.read_exact(&mut [0]).context("the second process ended early")?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("accepting a connection"),
        }
        if let Some(status) = child.try_wait().context("waiting for the second process")? {
            bail!("the second process ended early ({status})");
        }
        if begin.elapsed() > CALL_BACK_MAX {
            bail!("the second process did not connect within {} s", CALL_BACK_MAX.as_secs());
        }
        std::thread::sleep(POLL);
    }
}
