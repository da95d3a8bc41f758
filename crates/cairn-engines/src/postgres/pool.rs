//! Connections to the server: bounded, prepared once, thrown away when anything about them is in doubt.

use super::error::failed;
use super::open::Setup;
use crate::limits::{
    CONNECT_TIMEOUT, PG_CONNECTIONS_MAX, PG_PIPELINE, PG_POOL_WAIT, PG_STATEMENT_TIMEOUT, PG_USER_TIMEOUT,
};
use crate::url::PostgresPlace;
use bytes::Bytes;
use cairn_meta::kv::{EngineError, KeyRange, Order};
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::{Client, Config, Error, NoTls, Statement};

/// Connections that nobody uses, and how further ones are made.
pub(super) struct Pool {
    config: Config,
    table: String,
    setup: Setup,
    idle: Mutex<Vec<Conn>>,
    room: Arc<Semaphore>,
}

/// A connection with its statements.
pub(super) struct Conn {
    pub(super) client: Client,
    get: Statement,
    forward: Statement,
    reverse: Statement,
    put: Statement,
    delete: Statement,
}

/// A connection in use. Dropped it is closed; [`Pool::give_back`] keeps it.
pub(super) struct Taken {
    pub(super) conn: Conn,
    _room: OwnedSemaphorePermit,
}

/// Connects; the task that moves its bytes ends with the client.
pub(super) async fn connect(config: &Config) -> Result<Client, Error> {
    let mut config = config.clone();
    config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(PG_USER_TIMEOUT).keepalives_idle(PG_USER_TIMEOUT);
    if config.get_application_name().is_none() {
        config.application_name("cairn");
    }
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to PostgreSQL ended");
        }
    });
    Ok(client)
}

/// Bounds a statement in time: a connection that is slower is in doubt.
pub(super) async fn bounded<T>(statement: impl Future<Output = Result<T, Error>>) -> Result<T, EngineError> {
    match timeout(PG_STATEMENT_TIMEOUT, statement).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(silent(PG_STATEMENT_TIMEOUT)),
    }
}

/// Runs statements that need not wait for each other's answers; results in their order.
pub(super) async fn pipelined<T, F: Future<Output = Result<T, Error>>>(statements: Vec<F>) -> Result<Vec<T>, Error> {
    stream::iter(statements).buffered(PG_PIPELINE).try_collect().await
}

fn silent(patience: Duration) -> EngineError {
    EngineError::Unavailable { cause: format!("PostgreSQL did not answer within {patience:?}") }
}

impl Pool {
    pub(super) fn new(place: &PostgresPlace, setup: Setup) -> Self {
        Self {
            config: *place.config.clone(),
            table: place.table.clone(),
            setup,
            idle: Mutex::new(Vec::new()),
            room: Arc::new(Semaphore::new(PG_CONNECTIONS_MAX)),
        }
    }

    /// Whether the server knows a level at which commits return before they are on disk.
    pub(super) fn relaxes(&self) -> bool {
        self.setup.relaxes
    }

    /// An idle connection, or a new one.
    pub(super) async fn take(&self) -> Result<Taken, EngineError> {
        let room = timeout(PG_POOL_WAIT, self.room.clone().acquire_owned()).await.map_err(|_| {
            let cause = format!("all {PG_CONNECTIONS_MAX} connections to PostgreSQL are in use");
            EngineError::Unavailable { cause }
        })?;
        let room = room.expect("this semaphore is never closed");
        loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(conn) if conn.client.is_closed() => {}
                Some(conn) => return Ok(Taken { conn, _room: room }),
                None => break,
            }
        }
        let conn = bounded(self.prepared()).await?;
        Ok(Taken { conn, _room: room })
    }

    async fn prepared(&self) -> Result<Conn, Error> {
        let client = connect(&self.config).await?;
        if !self.setup.commands.is_empty() {
            client.batch_execute(&self.setup.commands).await?;
        }
        let table = &self.table;
        let get = format!("SELECT value FROM {table} WHERE key = $1");
        let scan = |order| {
            format!("SELECT key, value FROM {table} WHERE key >= $1 AND key < $2 ORDER BY key {order} LIMIT $3")
        };
        let (forward, reverse) = (scan("ASC"), scan("DESC"));
        let put = format!(
            "INSERT INTO {table} (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        );
        let delete = format!("DELETE FROM {table} WHERE key = $1");
        let (get, forward, reverse, put, delete) = tokio::try_join!(
            client.prepare(&get),
            client.prepare(&forward),
            client.prepare(&reverse),
            client.prepare(&put),
            client.prepare(&delete)
        )?;
        Ok(Conn { client, get, forward, reverse, put, delete })
    }

    /// Keeps a connection on which no transaction is open.
    pub(super) fn give_back(&self, taken: Taken) {
        if !taken.conn.client.is_closed() {
            self.idle.lock().push(taken.conn);
        }
    }

    /// Ends the transaction on a connection whose caller does not wait for it, and keeps the connection.
    pub(super) fn roll_back(self: &Arc<Self>, taken: Taken) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let pool = self.clone();
        runtime.spawn(async move {
            if bounded(taken.conn.client.batch_execute("ROLLBACK")).await.is_ok() {
                pool.give_back(taken);
            }
        });
    }
}

impl Conn {
    /// The value of a key.
    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let row = self.client.query_opt(&self.get, &[&key]).await?;
        row.map(|row| row.try_get::<_, &[u8]>(0).map(Bytes::copy_from_slice)).transpose()
    }

    /// At most `limit` rows of a range.
    pub(super) async fn scan(
        &self,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let statement = match order {
            Order::Forward => &self.forward,
            Order::Reverse => &self.reverse,
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.client.query(statement, &[&range.start, &range.end, &limit]).await?;
        let field = |row: &tokio_postgres::Row, index| row.try_get::<_, &[u8]>(index).map(Bytes::copy_from_slice);
        rows.iter().map(|row| Ok((field(row, 0)?, field(row, 1)?))).collect()
    }

    /// Writes a row, or removes it.
    pub(super) async fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        match value {
            Some(value) => self.client.execute(&self.put, &[&key, &value]).await?,
            None => self.client.execute(&self.delete, &[&key]).await?,
        };
        Ok(())
    }
}
