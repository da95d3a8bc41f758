//! A dump of metadata, taken through a server: bytes in the form of docs/formats/dump.md, whatever they mean.

use super::Admin;
use crate::error::Error;
use bytes::Bytes;
use cairn_proto::pb::{self, request, response};

/// A dump that is being read. Dropped before its end, the server gives it up after a while.
pub struct Dump {
    admin: Admin,
    dump: u64,
    piece: u64,
    ended: bool,
    newest_snapshot: u64,
}

/// A piece of a dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DumpPiece {
    /// The next bytes.
    pub data: Bytes,
    /// Rows that the server has read so far.
    pub rows: u64,
    /// Bytes given out so far, these included.
    pub bytes: u64,
}

impl Admin {
    /// A dump of all rows of metadata as they are when its first piece is asked for. The server holds a snapshot for as
    /// long as pieces are asked for, and gives it up when none was for a minute.
    pub fn dump(&self) -> Dump {
        Dump { admin: self.clone(), dump: 0, piece: 0, ended: false, newest_snapshot: 0 }
    }
}

impl Dump {
    /// The next piece; `None` after the end.
    ///
    /// # Errors
    /// The common ones, and `Unavailable` when no server has the dump any more: begin anew.
    pub async fn next(&mut self) -> Result<Option<DumpPiece>, Error> {
        if self.ended {
            return Ok(None);
        }
        let ask = pb::DumpRows { dump: self.dump, piece: self.piece, cancel: false };
        let admin = self.admin.clone();
        let work = async {
            match admin.meta(request::Kind::DumpRows(ask)).await? {
                response::Kind::DumpRows(reply) => Ok(reply),
                _ => Err(admin.client.inner.unexpected("dump_rows")),
            }
        };
        let reply = self.admin.operation("dump_rows", work).await?;
        self.dump = reply.dump;
        self.piece += 1;
        self.ended = reply.end;
        self.newest_snapshot = reply.newest_snapshot;
        Ok(Some(DumpPiece { data: reply.data, rows: reply.rows, bytes: reply.bytes }))
    }

    /// The newest snapshot of the moment that was dumped, once it was read to its end.
    pub(crate) fn newest_snapshot(&self) -> Option<u64> {
        self.ended.then_some(self.newest_snapshot)
    }

    /// Lets the server give the snapshot up at once.
    pub async fn cancel(self) {
        if self.dump != 0 && !self.ended {
            let ask = pb::DumpRows { dump: self.dump, piece: 0, cancel: true };
            // It gives it up by itself after a while.
            let _ = self.admin.meta(request::Kind::DumpRows(ask)).await;
        }
    }
}
