//! A relay between a client and a server that cuts the line at a chosen request.

use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// When the line is cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Before a piece with these bytes reaches the server.
    Before(Vec<u8>),
    /// When the server has answered a piece with these bytes: the client never hears it.
    AfterAnswer(Vec<u8>),
}

#[derive(Default)]
struct Plan {
    cut: Mutex<Option<Cut>>,
    /// Set when nothing may pass any more.
    severed: CancellationToken,
    for_good: AtomicBool,
    /// Told when the line was cut.
    done: Notify,
}

impl Plan {
    /// The line was cut.
    fn over(&self) {
        if self.for_good.load(Ordering::SeqCst) {
            self.severed.cancel();
        }
        self.done.notify_one();
    }
}

/// A relay on loopback. Dropped, it takes no further connections.
pub struct Relay {
    addr: SocketAddr,
    plan: Arc<Plan>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Relays to `server`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: String) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let plan = Arc::new(Plan::default());
        let shared = plan.clone();
        let task = tokio::spawn(async move {
            while let Some(Ok((client, _))) = shared.severed.run_until_cancelled(listener.accept()).await {
                let (server, plan) = (server.clone(), shared.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(&server).await {
                        plan.severed.run_until_cancelled(carry(client, server, &plan)).await;
                    }
                });
            }
        });
        Ok(Self { addr, plan, task })
    }

    /// Where clients reach the server.
    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Cuts one connection, once.
    pub fn cut(&self, cut: Cut) {
        *self.plan.cut.lock() = Some(cut);
    }

    /// As [`Relay::cut`], and from then on nobody reaches the server any more.
    pub fn cut_for_good(&self, cut: Cut) {
        self.plan.for_good.store(true, Ordering::SeqCst);
        self.cut(cut);
    }

    /// Waits until the line was cut.
    pub async fn was_cut(&self) {
        self.plan.done.notified().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

async fn carry(mut client: TcpStream, mut server: TcpStream, plan: &Plan) {
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut deaf = false;
    loop {
        tokio::select! {
            read = from_client.read(&mut up) => {
                let Ok(len @ 1..) = read else { return };
                let piece = &up[..len];
                let cut = plan.cut.lock().clone();
                match cut {
                    Some(Cut::Before(wanted)) if holds(piece, &wanted) => {
                        plan.cut.lock().take();
                        plan.over();
                        return;
                    }
                    Some(Cut::AfterAnswer(wanted)) if holds(piece, &wanted) => {
                        plan.cut.lock().take();
                        deaf = true;
                    }
                    _ => {}
                }
                if to_server.write_all(piece).await.is_err() {
                    return;
                }
            }
            read = from_server.read(&mut down) => {
                let Ok(len @ 1..) = read else { return };
                // What the transport says for itself is no answer.
                if deaf && is_answer(&down[..len]) {
                    plan.over();
                    return;
                }
                if !deaf && to_client.write_all(&down[..len]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a server says when it has done something: PostgreSQL's CommandComplete of a commit, or a frame of HTTP/2 with
/// data or headers.
fn is_answer(piece: &[u8]) -> bool {
    holds(piece, b"COMMIT\0") || piece.len() > 9 && matches!(piece[3], 0 | 1) && piece[0] == 0
}
