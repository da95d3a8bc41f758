//! Sustained inodes: a session that holds one keeps its content, also after its last name is gone. What a session holds
//! ends with the session; it is counted, so that several who use one session may hold the same inode.

use crate::error::{Op, fail};
use crate::keys;
use crate::kv::Order;
use crate::meta::Meta;
use crate::names::drop_inode_later;
use crate::rows::{self, Kind, inode_flag};
use crate::tx::Tx;
use crate::upgrade::NAMESPACE_VERSION;
use cairn_proto::limits::HOLDS_PER_REQUEST_MAX;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;

/// Whether any session but `except` holds the inode. One that begins to meanwhile conflicts.
async fn is_held(tx: &mut Tx, inode: u64, except: Option<u64>) -> Op<bool> {
    let range = keys::with_fields::<keys::SustainedBy>(&[&inode.to_be_bytes()]);
    let found = tx.scan::<keys::SustainedBy>(&range, 2, Order::Forward).await?;
    Ok(found.iter().any(|(key, _)| Some(key.session) != except))
}

/// Whether somebody holds the inode, so that it stays when its last name goes.
pub(crate) async fn is_sustained(tx: &mut Tx, inode: u64) -> Op<bool> {
    is_held(tx, inode, None).await
}

/// How often `session` holds the inode.
pub(crate) async fn count(tx: &mut Tx, session: u64, inode: u64) -> Op<u32> {
    let row = tx.get(&keys::Sustained { session, inode }).await?;
    Ok(row.map_or(0, |row| row.count.max(1)))
}

/// One hold more.
pub(crate) async fn add(tx: &mut Tx, session: u64, inode: u64) -> Op<()> {
    if tx.version < NAMESPACE_VERSION {
        // All that is held then: an inode without a name, by who made it. It reads as a hold of one.
        tx.put(&keys::Sustained { session, inode }, &rows::Holds { count: 0 });
        return Ok(());
    }
    let count = count(tx, session, inode).await?;
    tx.put(&keys::Sustained { session, inode }, &rows::Holds { count: count.saturating_add(1) });
    // A hold of the first version has no other side yet.
    tx.put(&keys::SustainedBy { inode, session }, &rows::Unit {});
    Ok(())
}

/// Whether `session` made the inode without a name, and it was never given one. Former versions held nothing else.
pub(crate) async fn is_nameless(tx: &mut Tx, session: u64, inode: u64, row: &rows::Inode) -> Op<bool> {
    let hold = tx.get(&keys::Sustained { session, inode }).await?;
    Ok(row.nlink == 0 && hold.is_some_and(|hold| row.flags & inode_flag::NAMELESS != 0 || hold.count == 0))
}

/// Forgets every hold of `session` on the inode, which goes if it has no name and nobody else holds it.
pub(crate) async fn end(tx: &mut Tx, session: u64, inode: u64) -> Op<()> {
    tx.delete(&keys::Sustained { session, inode });
    tx.delete(&keys::SustainedBy { inode, session });
    let Some(row) = tx.get(&keys::Inode { inode }).await? else { return Ok(()) };
    if row.nlink == 0 && !is_held(tx, inode, Some(session)).await? {
        drop_inode_later(tx, inode, &row);
    }
    Ok(())
}

/// One hold less; one that is not there is ignored.
pub(crate) async fn take(tx: &mut Tx, session: u64, inode: u64) -> Op<()> {
    match count(tx, session, inode).await? {
        0 => Ok(()),
        1 => end(tx, session, inode).await,
        count => {
            tx.put(&keys::Sustained { session, inode }, &rows::Holds { count: count - 1 });
            Ok(())
        }
    }
}

fn check_count(inodes: &[u64]) -> Op<()> {
    if inodes.len() > HOLDS_PER_REQUEST_MAX {
        let message = format!("{} inodes at once; at most {HOLDS_PER_REQUEST_MAX}", inodes.len());
        return fail(Code::Invalid, message);
    }
    Ok(())
}

impl Meta {
    pub(crate) async fn sustain(&self, tx: &mut Tx, session: u64, ask: &pb::Sustain) -> Op<Reply> {
        check_count(&ask.inodes)?;
        for inode in &ask.inodes {
            let row = tx.inode(*inode).await?;
            if row.kind == Kind::Directory {
                return fail(Code::IsADirectory, format!("inode {inode} is a directory, which cannot be held"));
            }
            add(tx, session, *inode).await?;
        }
        Ok(Reply::Sustain(pb::SustainReply { session }))
    }

    pub(crate) async fn release(&self, tx: &mut Tx, session: u64, ask: &pb::Release) -> Op<Reply> {
        check_count(&ask.inodes)?;
        // Holds of a session that has ended ended with it.
        if ask.session == session {
            for inode in &ask.inodes {
                take(tx, session, *inode).await?;
            }
        }
        Ok(Reply::Empty(pb::Empty::default()))
    }
}
