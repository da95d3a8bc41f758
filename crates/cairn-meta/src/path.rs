//! From a directory and a path to a place in the namespace, inside a transaction.
//!
//! Every dentry walked is read validated: an operation that commits resolved its path at the moment of its commit.

use crate::error::{Op, fail};
use crate::keys;
use crate::permit;
use crate::rows::{Dentry, Kind};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::limits::{NAME_LEN_MAX, PATH_LEN_MAX, SYMLINKS_FOLLOWED_MAX};
use cairn_proto::pb;
use cairn_proto::status::Code;

/// Whether a symbolic link in the last component is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Last {
    /// The link is what is meant.
    Keep,
    /// What it leads to is meant.
    Follow,
}

/// Where a path leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// The path ended in a name, which may be taken or free.
    Named {
        /// The directory.
        dir: u64,
        /// The name in it.
        name: Bytes,
        /// What the name leads to now.
        dentry: Option<Dentry>,
        /// A symbolic link in the last component led here.
        followed: bool,
    },
    /// The path ended in a directory without naming it: empty, `.`, `..` or `/` behind a link.
    Bare(u64),
}

impl Place {
    /// The inode, if there is one.
    pub(crate) fn inode(&self) -> Option<u64> {
        match self {
            Place::Named { dentry, .. } => dentry.as_ref().map(|dentry| dentry.inode),
            Place::Bare(inode) => Some(*inode),
        }
    }
}

/// Components of a path, last first. Names that are too long or hold a zero byte are refused.
fn components(path: &[u8]) -> Op<Vec<Bytes>> {
    if path.len() > PATH_LEN_MAX {
        return fail(Code::NameTooLong, format!("a path of {} bytes; at most {PATH_LEN_MAX}", path.len()));
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/').rev() {
        if part.is_empty() || part == b"." {
            continue;
        }
        if part.len() > NAME_LEN_MAX {
            return fail(Code::NameTooLong, format!("a name of {} bytes; at most {NAME_LEN_MAX}", part.len()));
        }
        if part.contains(&0) {
            return fail(Code::Invalid, "a name holds a zero byte");
        }
        parts.push(Bytes::copy_from_slice(part));
    }
    Ok(parts)
}

pub(crate) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Walks `at`. Inode 0 stands for the root.
pub(crate) async fn walk(tx: &mut Tx, at: &pb::At, last: Last) -> Op<Place> {
    let mut dir = if at.dir == 0 { InodeId::ROOT.0 } else { at.dir };
    let mut rest = components(&at.path)?;
    if rest.is_empty() {
        return Ok(Place::Bare(dir));
    }
    if dir != InodeId::ROOT.0 {
        tx.directory(dir).await?;
    }
    let mut links = 0;
    let mut followed = false;
    while let Some(name) = rest.pop() {
        permit::search(tx, dir, &at.path).await?;
        if &name[..] == b".." {
            dir = parent_of(tx, dir).await?;
            continue;
        }
        let dentry = tx.get(&keys::Dentry { parent: dir, name: name.clone() }).await?;
        let is_last = rest.is_empty();
        match &dentry {
            None if !is_last => return fail(Code::NotFound, show(&at.path)),
            Some(found) if found.kind == Kind::Symlink && (!is_last || last == Last::Follow) => {
                links += 1;
                if links > SYMLINKS_FOLLOWED_MAX {
                    return fail(Code::TooManySymlinks, show(&at.path));
                }
                followed |= is_last;
                let Some(link) = tx.get(&keys::Symlink { inode: found.inode }).await? else {
                    return fail(Code::Corrupt, format!("symbolic link {} has no target", found.inode));
                };
                if link.target.first() == Some(&b'/') {
                    dir = InodeId::ROOT.0;
                }
                rest.extend(components(&link.target)?);
            }
            Some(found) if !is_last => match found.kind {
                Kind::Directory => dir = found.inode,
                _ => return fail(Code::NotADirectory, show(&at.path)),
            },
            _ => return Ok(Place::Named { dir, name, dentry, followed }),
        }
    }
    Ok(Place::Bare(dir))
}

/// The directory that holds `dir`; the root holds itself.
pub(crate) async fn parent_of(tx: &mut Tx, dir: u64) -> Op<u64> {
    if dir == InodeId::ROOT.0 { Ok(dir) } else { Ok(tx.directory(dir).await?.parent) }
}

/// The inode at `at`; NOT_FOUND when the name is free.
pub(crate) async fn find(tx: &mut Tx, at: &pb::At, last: Last) -> Op<u64> {
    match walk(tx, at, last).await?.inode() {
        Some(inode) => Ok(inode),
        None => fail(Code::NotFound, show(&at.path)),
    }
}

/// The `At` of a request; a missing one is the root.
pub(crate) fn at(at: Option<&pb::At>) -> pb::At {
    at.cloned().unwrap_or_default()
}
