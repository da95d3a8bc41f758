//! Which metadata servers are at work on an engine, seen from outside of them: two looks at their rows, with a pause between.

use crate::error::OpenError;
use crate::keys::{Key, MetaServer, ServerBeat};
use crate::kv::{Engine, Order};
use crate::limits::SERVERS_MAX;
use crate::rows::{self, Row, RowError};
use std::collections::BTreeMap;
use std::fmt;

/// A metadata server that shows signs of life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunningServer {
    /// Its number.
    pub server: u32,
    /// Where it is found.
    pub addr: String,
    /// When it began, nanoseconds since 1970; 0 = not known.
    pub since_ns: i64,
}

impl fmt::Display for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata server {} at {}", self.server, self.addr)
    }
}

/// What one look showed: of each server that has not ended, its row and how often it showed a sign of life.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerSigns(BTreeMap<u32, (rows::MetaServer, u64)>);

fn damaged(error: &RowError) -> OpenError {
    OpenError::Damaged { what: error.to_string() }
}

impl ServerSigns {
    /// Looks at the rows of servers in `engine`, whatever else is in it.
    ///
    /// # Errors
    /// The engine does not serve, or such a row does not decode.
    pub async fn look(engine: &dyn Engine) -> Result<Self, OpenError> {
        let mut txn = engine.begin().await?;
        let mut signs = BTreeMap::new();
        let decode = |value: &[u8]| rows::MetaServer::decode(value).map_err(|error| damaged(&error));
        for (key, value) in txn.scan(&MetaServer::all(), SERVERS_MAX * 2, Order::Forward).await? {
            let row = decode(&value)?;
            let Some(key) = MetaServer::decode(&key).filter(|_| !row.gone) else { continue };
            let beat = txn.get(&ServerBeat { server: key.server }.encode()).await?;
            let beat = beat.map(|value| rows::ServerBeat::decode(&value)).transpose();
            let beats = beat.map_err(|error| damaged(&error))?.map_or(0, |row| row.beats);
            signs.insert(key.server, (row, beats));
        }
        Ok(Self(signs))
    }

    /// There is no server that has not ended in order.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The servers that did something between this look and the `later` one: they came, or showed signs of life.
    pub fn running(&self, later: &Self) -> Vec<RunningServer> {
        let moved = later.0.iter().filter(|(server, sign)| self.0.get(server) != Some(sign));
        let shown = moved.map(|(server, (row, _))| RunningServer {
            server: *server,
            addr: row.addr.clone(),
            since_ns: row.since_ns,
        });
        shown.collect()
    }
}
