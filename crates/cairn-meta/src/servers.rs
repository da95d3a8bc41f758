//! The metadata servers of one engine: each registered under a number of its own, heard of through rows, and forgotten
//! when it is silent. What a forgotten one had counted is added to the others'.

use crate::error::{Op, fail};
use crate::keys::{self, counter};
use crate::kv::{Durability, Order};
use crate::limits::{CLUSTER_VERSION, FOLDED_PER_TX, LABEL_LEN_MAX, SERVER_SILENT_AFTER, SERVERS_MAX};
use crate::meta::{Meta, transact};
use crate::rows;
use crate::tx::Tx;
use crate::upgrade::SOFTWARE;
use crate::{holder, usage};
use cairn_proto::pb;
use cairn_proto::status::{Code, Status};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A server as another one sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    row: rows::MetaServer,
    beats: u64,
    /// Since when `beats` has stood so.
    since: Duration,
}

/// The metadata servers, as they were looked at last.
#[derive(Default, Debug)]
pub(crate) struct Servers {
    seen: BTreeMap<u32, Seen>,
    /// Who held the duties then.
    holder: u32,
}

impl Servers {
    fn note(&mut self, look: &Look, now: Duration) {
        let mut before = std::mem::take(&mut self.seen);
        for (key, row) in &look.servers {
            let beats = look.beats.iter().find(|(of, _)| of.server == key.server).map_or(0, |(_, row)| row.beats);
            let known = before.remove(&key.server).filter(|known| known.beats == beats);
            let since = known.map_or(now, |known| known.since);
            self.seen.insert(key.server, Seen { row: row.clone(), beats, since });
        }
        self.holder = look.stand.server;
    }

    pub(crate) fn restart(&mut self, now: Duration) {
        self.seen.values_mut().for_each(|seen| seen.since = now);
    }

    /// Addresses of those that live.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = &str> {
        self.seen.values().filter(|seen| !seen.row.gone).map(|seen| seen.row.addr.as_str())
    }

    /// Those that live.
    pub(crate) fn count(&self) -> u64 {
        self.seen.values().filter(|seen| !seen.row.gone).count() as u64
    }

    pub(crate) fn infos(&self, me: u32, now: Duration) -> Vec<pb::MetaServerInfo> {
        let living = self.seen.iter().filter(|(_, seen)| !seen.row.gone);
        let info = |(id, seen): (&u32, &Seen)| {
            let silent = if *id == me { Duration::ZERO } else { now.saturating_sub(seen.since) };
            pb::MetaServerInfo {
                id: *id,
                addr: seen.row.addr.clone(),
                holds_duties: *id == self.holder,
                beat_age_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                software: seen.row.software.clone(),
                newest_version: seen.row.newest,
            }
        };
        living.map(info).collect()
    }

    /// What the others that live, or may, said of their programs: number, row, and whether they were heard of lately.
    pub(crate) fn software(&self, me: u32, now: Duration) -> Vec<(u32, rows::MetaServer, bool)> {
        let others = self.seen.iter().filter(|(id, seen)| **id != me && !seen.row.gone);
        let heard = |seen: &Seen| now.saturating_sub(seen.since) < SERVER_SILENT_AFTER;
        others.map(|(id, seen)| (*id, seen.row.clone(), heard(seen))).collect()
    }

    /// Who has been silent for too long, with the sign of life that is known of them.
    fn silent(&self, me: u32, now: Duration) -> Vec<(u32, u64)> {
        let silent = self
            .seen
            .iter()
            .filter(|(id, seen)| **id != me && !seen.row.gone && now.saturating_sub(seen.since) >= SERVER_SILENT_AFTER);
        silent.map(|(id, seen)| (*id, seen.beats)).collect()
    }

    fn gone(&self) -> Option<u32> {
        self.seen.iter().find(|(_, seen)| seen.row.gone).map(|(id, _)| *id)
    }
}

/// What a server sees when it looks around, in one snapshot.
struct Look {
    stand: crate::lease::Stand,
    map_version: u64,
    servers: Vec<(keys::MetaServer, rows::MetaServer)>,
    beats: Vec<(keys::ServerBeat, rows::ServerBeat)>,
    usage: Vec<(keys::Usage, rows::Usage)>,
}

/// Registers a server in the transaction that opens the namespace; its number. One that is alone goes on under the number
/// of its predecessor, whose counts are its own.
pub(crate) async fn register(tx: &mut Tx, addr: &str, boot: [u8; 16], alone: bool) -> Op<u32> {
    if addr.len() > LABEL_LEN_MAX {
        return fail(Code::Invalid, format!("a server's address has at most {LABEL_LEN_MAX} bytes"));
    }
    let known = tx.table::<keys::MetaServer>(SERVERS_MAX).await?;
    let heir = known.iter().find(|(_, row)| alone && !row.gone).map(|(key, _)| key.server);
    if heir.is_none() && known.len() >= SERVERS_MAX {
        return fail(Code::TooLarge, format!("there are {SERVERS_MAX} metadata servers"));
    }
    for (key, row) in known.iter().filter(|(key, row)| alone && !row.gone && Some(key.server) != heir) {
        tx.put(key, &rows::MetaServer { gone: true, ..row.clone() });
    }
    let server = match heir {
        Some(server) => server,
        None => tx.next_number(counter::SERVER).await? as u32,
    };
    let row = rows::MetaServer {
        addr: addr.to_owned(),
        boot,
        gone: false,
        software: SOFTWARE.to_owned(),
        newest: CLUSTER_VERSION,
        since_ns: tx.now_ns,
    };
    tx.put(&keys::MetaServer { server }, &row);
    Ok(server)
}

/// False when this process is not, or no longer, the server of that number: it may write nothing under it.
pub(crate) async fn stands(tx: &mut Tx, server: u32, boot: [u8; 16]) -> Op<bool> {
    let row = tx.get(&keys::MetaServer { server }).await?;
    Ok(row.is_some_and(|row| !row.gone && row.boot == boot))
}

impl Meta {
    /// The number of this server among those of its engine. It changes when the server was taken for dead.
    pub(crate) fn server(&self) -> u32 {
        self.inner.server.load(Ordering::Acquire)
    }

    /// Addresses of all metadata servers: those that live, and those of the configuration.
    pub(crate) fn meta_addrs(&self) -> Vec<String> {
        let mut addrs: Vec<String> = self.inner.servers.lock().addrs().map(str::to_owned).collect();
        for addr in &self.inner.options.metas {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        addrs
    }

    /// Writes down what was heard, and looks at what other servers did: call it every second. The duties change hands
    /// here.
    ///
    /// # Errors
    /// As [`Meta::execute`]; nothing is lost, call again.
    pub fn pulse(&self) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            let written = self.persist_beats().await.map(|_| ());
            self.look_around().await.and(written)
        })
    }

    /// Looks at what other servers did. Takes the duties over when nobody holds them.
    pub(crate) async fn look_around(&self) -> Result<(), Status> {
        let asked = self.now();
        let look = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            Ok(Look {
                stand: self.stand_in(tx).await?,
                map_version: tx.get(&keys::Counter { counter: counter::MAP_VERSION }).await?.map_or(0, |row| row.next),
                servers: tx.table(SERVERS_MAX * 2).await?,
                beats: tx.table(SERVERS_MAX * 2).await?,
                usage: tx.table(SERVERS_MAX * 2).await?,
            })
        })?;
        let now = self.now();
        if self.inner.options.alone {
            self.note_contact(asked);
        }
        let me = self.server();
        self.inner.servers.lock().note(&look, now);
        self.inner.totals.lock().note_others(me, &look.usage);
        let boot = self.inner.boot;
        if !look.servers.iter().any(|(key, row)| key.server == me && !row.gone && row.boot == boot) {
            self.register_again(me).await?;
        }
        if look.map_version != self.inner.map_loaded.load(Ordering::Acquire) {
            self.reload_tables().await?;
        }
        let told = self.inner.map_version.load(Ordering::Acquire);
        if self.inner.map_touched.load(Ordering::Acquire) || look.map_version < told {
            self.touch_map().await?;
        }
        self.refresh_group_usage().await?;
        let free = self.inner.lease.lock().look(self.server(), look.stand, now);
        if free && self.take_over(look.stand).await? {
            self.inner.servers.lock().holder = self.server();
        }
        Ok(())
    }

    /// Comes back under another number: the old one was taken for dead, and what it had counted was added to the
    /// others'.
    pub(crate) async fn register_again(&self, old: u32) -> Result<(), Status> {
        let boot = self.inner.boot;
        let server = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            if stands(tx, old, boot).await? {
                return Ok(old);
            }
            tx.effects.map_changed = true;
            register(tx, &self.inner.options.addr, boot, false).await
        })?;
        if server == old {
            return Ok(());
        }
        tracing::warn!(old, server, "this metadata server was taken for dead: it goes on under another number");
        self.inner.lease.lock().lose(u64::MAX);
        self.inner.totals.lock().renumber();
        self.inner.cluster.lock().pg_bytes.values_mut().for_each(usage::GroupUsage::renumber);
        self.inner.server.store(server, Ordering::Release);
        Ok(())
    }

    /// Forgets servers that are silent, and clears away what they leave: a bounded step. True while there is more to do.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn tend_servers(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move {
            let step = async {
                let (me, now) = (self.server(), self.now());
                let silent = self.inner.servers.lock().silent(me, now);
                for (server, beats) in silent {
                    self.forget_server(server, beats).await?;
                }
                let gone = self.inner.servers.lock().gone();
                match gone {
                    Some(server) => self.fold_server(server).await.map(|()| true),
                    None => Ok(false),
                }
            };
            Ok(self.as_holder(step).await?.unwrap_or(false))
        })
    }

    async fn forget_server(&self, server: u32, beats: u64) -> Result<(), Status> {
        let row = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let known = tx.get(&keys::ServerBeat { server }).await?.map_or(0, |row| row.beats);
            let key = keys::MetaServer { server };
            let Some(row) = tx.get(&key).await?.filter(|row| !row.gone && known == beats) else { return Ok(None) };
            let row = rows::MetaServer { gone: true, ..row };
            tx.put(&key, &row);
            tx.effects.map_changed = true;
            Ok(Some(row))
        })?;
        if let Some(row) = row {
            tracing::warn!(server, addr = row.addr, "a metadata server is silent and forgotten");
            if let Some(seen) = self.inner.servers.lock().seen.get_mut(&server) {
                seen.row = row;
            }
        }
        Ok(())
    }

    /// Adds a part of what a server counted to what those that are gone did; its row goes last.
    async fn fold_server(&self, server: u32) -> Result<(), Status> {
        let more = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let range = keys::with_fields::<keys::ServerPgUsage>(&[&server.to_be_bytes()]);
            let groups = tx.scan::<keys::ServerPgUsage>(&range, FOLDED_PER_TX, Order::Forward).await?;
            for (key, counted) in &groups {
                let sum = keys::PgUsage { pg: key.pg };
                let bytes = tx.get(&sum).await?.map_or(0, |row| row.bytes);
                tx.put(&sum, &rows::PgUsage { bytes: bytes.saturating_add(counted.bytes) });
                tx.delete(key);
            }
            if groups.len() == FOLDED_PER_TX {
                return Ok(true);
            }
            let key = keys::Usage { server };
            if let Some(counted) = tx.get(&key).await? {
                let sum = keys::Usage { server: 0 };
                let all = tx.get(&sum).await?.unwrap_or(rows::Usage { inodes: 0, file_bytes: 0 });
                let row = rows::Usage {
                    inodes: all.inodes + counted.inodes,
                    file_bytes: all.file_bytes + counted.file_bytes,
                };
                tx.put(&sum, &row);
                tx.delete(&key);
            }
            tx.delete(&keys::ServerBeat { server });
            tx.delete(&keys::MetaServer { server });
            Ok(false)
        })?;
        if !more {
            self.inner.servers.lock().seen.remove(&server);
        }
        Ok(())
    }

    /// Ends in order: what was heard and counted is written down, and others need not wait for this server's silence.
    ///
    /// # Errors
    /// As [`Meta::execute`]; then they wait.
    pub async fn leave(&self) -> Result<(), Status> {
        *self.inner.beats_written.lock() = None;
        self.persist_beats().await?;
        let (me, alone) = (self.server(), self.inner.options.alone);
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            holder::give_back(tx, me).await?;
            let key = keys::MetaServer { server: me };
            // Whoever is alone has a successor, which goes on under the same number.
            if let Some(row) = tx.get(&key).await?.filter(|row| !alone && row.boot == self.inner.boot) {
                tx.put(&key, &rows::MetaServer { gone: true, ..row });
                tx.effects.map_changed = true;
            }
            Ok(())
        })?;
        self.inner.lease.lock().lose(u64::MAX);
        Ok(())
    }
}
