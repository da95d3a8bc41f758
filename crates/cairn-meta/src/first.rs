//! The first transaction of a process: it finds or makes what everything starts from, and registers the server.

use crate::error::{Fault, Op, OpenError};
use crate::history::Head;
use crate::keys::{self, counter, setting};
use crate::kv::EngineError;
use crate::limits::{CLUSTER_VERSION, FORMAT_VERSION, SERVERS_MAX};
use crate::meta::MetaOptions;
use crate::names::DIRECTORY_LINKS;
use crate::rows;
use crate::servers;
use crate::settings;
use crate::tx::Tx;
use crate::usage::Totals;
use bytes::Bytes;
use cairn_proto::{ClusterId, InodeId};

/// What an opening draws at random.
#[derive(Clone, Copy)]
pub(crate) struct Drawn {
    /// The id of the cluster, should it be made now.
    pub fresh_id: [u8; 16],
    pub boot: [u8; 16],
    /// Numbers of writers that are left out.
    pub skipped: u64,
}

/// What the first transaction of a process finds or makes.
pub(crate) struct Opened {
    pub cluster_id: ClusterId,
    pub version: u32,
    pub head: Head,
    pub server: u32,
    pub totals: Totals,
}

fn opened<T>(result: Op<T>) -> Result<Option<T>, OpenError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Engine(EngineError::Conflict)) => Ok(None),
        Err(Fault::Engine(error)) => Err(error.into()),
        Err(Fault::Status(status)) => Err(OpenError::Failed(*status)),
    }
}

/// Checks or makes what everything starts from. `None` when the engine asked to begin again.
pub(crate) async fn first_transaction(
    mut tx: Tx,
    options: &MetaOptions,
    Drawn { fresh_id, boot, skipped }: Drawn,
) -> Result<Option<(Tx, Opened)>, OpenError> {
    let names = settings::NAMES.map(|name| keys::Setting { name: Bytes::from_static(name) });
    let Some(values) = opened(tx.get_many(&names).await)? else { return Ok(None) };
    let values: Vec<Option<Bytes>> = values.into_iter().map(|row| row.map(|row| row.value)).collect();
    let (cluster_id, version) = match settings::judge(&values)? {
        Some(found) => (found.cluster_id, found.cluster_version),
        None => {
            make_namespace(&mut tx, options, fresh_id);
            (ClusterId(fresh_id), CLUSTER_VERSION)
        }
    };
    let Some(()) = opened(skip_writers(&mut tx, skipped).await)? else { return Ok(None) };
    let entered = enter(&mut tx, options, boot, (cluster_id, version)).await;
    let Some(entered) = opened(entered)? else { return Ok(None) };
    // Rows that snapshots see are written in a new namespace alone, where there is no snapshot.
    let Some(_) = opened(tx.seal().await)? else { return Ok(None) };
    Ok(Some((tx, entered)))
}

fn make_namespace(tx: &mut Tx, options: &MetaOptions, id: [u8; 16]) {
    let mut set = |name: &'static [u8], value: &[u8]| {
        let key = keys::Setting { name: Bytes::from_static(name) };
        tx.put(&key, &rows::Setting { value: Bytes::copy_from_slice(value) });
    };
    set(setting::FORMAT_VERSION, &FORMAT_VERSION.to_le_bytes());
    set(setting::CLUSTER_VERSION, &CLUSTER_VERSION.to_le_bytes());
    set(setting::CLUSTER_ID, &id);
    tx.put(&keys::Counter { counter: counter::INODE }, &rows::Counter { next: InodeId::ROOT.0 + 1 });
    let root = rows::Inode {
        kind: rows::Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        nlink: DIRECTORY_LINKS,
        size: 0,
        atime_ns: tx.now_ns,
        mtime_ns: tx.now_ns,
        ctime_ns: tx.now_ns,
        version: 1,
        generation: 0,
        replicas: options.replicas,
        block_len: options.block_len,
        relaxed: false,
        quota_root: 0,
        trash_s: 0,
        parent: InodeId::ROOT.0,
        birth: tx.birth,
        btime_ns: tx.now_ns,
        rdev: 0,
        flags: 0,
        xattrs: 0,
        xattr_bytes: 0,
    };
    tx.put_new(&keys::Inode { inode: InodeId::ROOT.0 }, &root);
    tx.touch_dir(InodeId::ROOT.0);
    tx.put(&keys::Usage { server: 0 }, &rows::Usage { inodes: 1, file_bytes: 0 });
}

/// Leaves out `count` numbers of writers, unless none was ever given out.
async fn skip_writers(tx: &mut Tx, count: u64) -> Op<()> {
    let key = keys::Counter { counter: counter::WRITER };
    if let Some(row) = tx.get(&key).await? {
        tx.put(&key, &rows::Counter { next: row.next.saturating_add(count) });
    }
    Ok(())
}

/// Registers this server.
async fn enter(
    tx: &mut Tx,
    options: &MetaOptions,
    boot: [u8; 16],
    (cluster_id, version): (ClusterId, u32),
) -> Op<Opened> {
    let head = Head::load(tx).await?;
    let key = keys::Counter { counter: counter::MAP_VERSION };
    let map_version = match tx.get(&key).await? {
        Some(row) => row.next,
        // There were programs that made the version of the epoch, and kept the rest of it in memory.
        None => tx.get(&keys::Counter { counter: counter::DUTY_EPOCH }).await?.map_or(0, |row| row.next) << 32,
    };
    // Beyond all that may have been told before a crash and was not on disk yet.
    tx.put(&key, &rows::Counter { next: ((map_version >> 32) + 1) << 32 });
    let server = servers::register(tx, &options.addr, boot, options.alone).await?;
    let usage = tx.table::<keys::Usage>(SERVERS_MAX * 2).await?;
    Ok(Opened { cluster_id, version, head, server, totals: Totals::load(server, &usage) })
}
