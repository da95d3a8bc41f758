//! A database under metadata that is killed and comes back: PostgreSQL, or the leader of three members of etcd.
//!
//! Its processes end with the thread that started them, so they have one of their own, which does what it is told.

use anyhow::{Context, Result, anyhow};
use cairn_testbed::{Etcd, Postgres};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// Members of etcd.
const MEMBERS: usize = 3;
/// Looks for a leader, and the pause between them.
const LOOKS: usize = 600;
const POLL: Duration = Duration::from_millis(50);

/// Which database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Three members of etcd.
    Etcd,
    /// One server of PostgreSQL.
    Postgres,
}

enum Server {
    Etcd(Etcd),
    Postgres(Postgres),
}

#[derive(Clone, Copy)]
enum Order {
    Aim,
    Kill,
    Restart,
}

type Answer = Result<(), String>;

/// The database; it ends when this is dropped.
pub struct Engine {
    orders: mpsc::Sender<(Order, oneshot::Sender<Answer>)>,
    url: String,
}

impl Engine {
    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub async fn start(kind: Kind) -> Result<Self> {
        let (orders, received) = mpsc::channel();
        let (started, begun) = oneshot::channel();
        thread::Builder::new().name("engine".into()).spawn(move || serve(kind, started, received))?;
        let url = begun.await.context("the thread of the engine ended")?.map_err(|error| anyhow!(error))?;
        Ok(Self { orders, url })
    }

    /// What `--engine` is given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Finds out whom to kill: of several members, who leads now.
    ///
    /// # Errors
    /// Nobody leads.
    pub async fn aim(&self) -> Result<()> {
        self.order(Order::Aim).await
    }

    /// Kills who was aimed at, at once.
    ///
    /// # Errors
    /// The thread of the engine ended.
    pub async fn kill(&self) -> Result<()> {
        self.order(Order::Kill).await
    }

    /// Starts who was killed, on its data, and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&self) -> Result<()> {
        self.order(Order::Restart).await
    }

    async fn order(&self, order: Order) -> Result<()> {
        let (done, answer) = oneshot::channel();
        self.orders.send((order, done)).map_err(|_| anyhow!("the thread of the engine ended"))?;
        answer.await.context("the thread of the engine ended")?.map_err(|error| anyhow!(error))
    }
}

fn serve(
    kind: Kind,
    started: oneshot::Sender<Result<String, String>>,
    orders: mpsc::Receiver<(Order, oneshot::Sender<Answer>)>,
) {
    let server = match kind {
        Kind::Etcd => Etcd::start(MEMBERS, &[]).map(Server::Etcd),
        Kind::Postgres => Postgres::start(&[]).map(Server::Postgres),
    };
    let mut server = match server {
        Ok(server) => server,
        Err(error) => {
            // Whoever asked may be gone.
            let _ = started.send(Err(error.to_string()));
            return;
        }
    };
    let url = match &server {
        Server::Etcd(etcd) => etcd.url("chaos"),
        Server::Postgres(postgres) => postgres.url("chaos"),
    };
    let _ = started.send(Ok(url));
    let mut aim = 0;
    for (order, done) in orders {
        let _ = done.send(obey(&mut server, order, &mut aim));
    }
}

fn obey(server: &mut Server, order: Order, aim: &mut usize) -> Answer {
    match (server, order) {
        (Server::Etcd(etcd), Order::Aim) => {
            *aim = leader(etcd).ok_or("no member of etcd leads")?;
            Ok(())
        }
        (Server::Etcd(etcd), Order::Kill) => {
            etcd.kill(*aim);
            Ok(())
        }
        (Server::Etcd(etcd), Order::Restart) => etcd.restart(*aim).map_err(|error| error.to_string()),
        (Server::Postgres(_), Order::Aim) => Ok(()),
        (Server::Postgres(postgres), Order::Kill) => {
            postgres.crash();
            Ok(())
        }
        (Server::Postgres(postgres), Order::Restart) => postgres.restart().map_err(|error| error.to_string()),
    }
}

fn leader(etcd: &Etcd) -> Option<usize> {
    for _ in 0..LOOKS {
        if let Some(leader) = etcd.leader() {
            return Some(leader);
        }
        thread::sleep(POLL);
    }
    None
}
