//! Appending: metadata says where the data lands.

use crate::content::Content;
use crate::error::{Cause, Error};
use crate::extents::{self, Checked};
use crate::file::File;
use crate::write::{self, WriteReceipt};
use bytes::{Bytes, BytesMut};
use cairn_proto::limits::{APPEND_TAIL_MAX, INLINE_LEN_DEFAULT, TAIL_INLINE_PER_INLINE, WINDOW_BYTES_MAX};
use cairn_proto::pb::{self, request};
use cairn_proto::status::Code;
use tokio::time::Instant;

/// Longest append that may become part of a row of metadata.
const TAIL_INLINE_MAX: usize = (INLINE_LEN_DEFAULT * TAIL_INLINE_PER_INLINE) as usize;
/// Appends that lost a race for the tail this often are written without joining it.
const TAIL_TRIES: usize = 3;

/// The end of a file, to be written anew together with what is appended.
struct Tail {
    offset: u64,
    bytes: Bytes,
    /// Of the file, when the tail was as it is here.
    version: u64,
}

impl File {
    /// Writes at the end, wherever that is when metadata sees the commit: concurrent appends do not overwrite each
    /// other, and each is in one piece. The receipt tells where it landed.
    ///
    /// Small appends share a row of metadata, which becomes a block when it is full: a log of short lines has about one
    /// row for each 48 KiB.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub async fn append(&self, data: impl Into<Content>) -> Result<WriteReceipt, Error> {
        let data = data.into().0;
        self.counted("append", self.append_quietly(data)).await
    }

    async fn append_quietly(&self, data: Bytes) -> Result<WriteReceipt, Error> {
        let begun = Instant::now();
        if data.len() as u64 > WINDOW_BYTES_MAX {
            let (len, max) = (data.len() as u64, WINDOW_BYTES_MAX);
            return Err(Error::new("append", Cause::TooLarge { len, max }));
        }
        let inode = self.inode().0;
        for _ in 0..TAIL_TRIES {
            if data.len() <= TAIL_INLINE_MAX {
                let ask = pb::Append { inode, data: data.clone(), ..Default::default() };
                match self.commit(request::Kind::Append(ask)).await {
                    Ok(reply) => return Ok(write::receipt(self.inner(), &[], &reply, begun)),
                    Err(error) if error.code() == Some(Code::NotInline) => {}
                    Err(error) => return Err(error),
                }
            }
            let Some(tail) = self.tail(data.len() as u64).await? else { break };
            match self.append_blocks(Some(&tail), &data, begun).await {
                // Somebody else wrote meanwhile: the end is another one.
                Err(error) if error.code() == Some(Code::Conflict) => {}
                result => return result,
            }
        }
        self.append_blocks(None, &data, begun).await
    }

    async fn append_blocks(&self, tail: Option<&Tail>, data: &Bytes, begun: Instant) -> Result<WriteReceipt, Error> {
        let (offset, joined) = match tail {
            Some(tail) => {
                let mut joined = BytesMut::with_capacity(tail.bytes.len() + data.len());
                joined.extend_from_slice(&tail.bytes);
                joined.extend_from_slice(data);
                (tail.offset, joined.freeze())
            }
            None => (0, data.clone()),
        };
        let make = |writer, mut pieces: Vec<pb::Piece>| {
            pieces.iter_mut().for_each(|piece| piece.offset -= offset);
            request::Kind::Append(pb::Append {
                inode: self.inode().0,
                writer,
                pieces,
                tail_len: tail.map_or(0, |tail| tail.bytes.len() as u64),
                tail_version: tail.map_or(0, |tail| tail.version),
                ..Default::default()
            })
        };
        let (reply, blocks) = self.write_blocks(offset, joined, make).await?;
        Ok(write::receipt(self.inner(), &blocks, &reply, begun))
    }

    /// The last rows' bytes, as many whole rows as an append of `len` should rewrite; `None` when there are none.
    async fn tail(&self, len: u64) -> Result<Option<Tail>, Error> {
        let Some(room) = u64::from(APPEND_TAIL_MAX).checked_sub(len) else { return Ok(None) };
        let inner = self.inner();
        let deadline = inner.deadline(inner.config.read_timeout);
        let size = match self.known_len() {
            Some(size) => size,
            None => self.metadata_quietly(deadline).await?.size,
        };
        let from = size.saturating_sub(u64::from(APPEND_TAIL_MAX));
        // Others may have appended since: what they wrote is behind.
        let range = (from, u64::from(APPEND_TAIL_MAX) * 2);
        let Checked::Moved(map) = extents::ask(inner, self.inode(), self.map(), range, 0, deadline).await? else {
            return Ok(None);
        };
        let mut offset = map.size;
        for row in map.extents.iter().rev() {
            if row.offset + row.len != offset || map.size - row.offset > room {
                break;
            }
            offset = row.offset;
        }
        if offset == map.size {
            return Ok(None);
        }
        let bytes = self.read_quietly(offset, map.size - offset).await?;
        let whole = bytes.len() as u64 == map.size - offset;
        Ok(whole.then_some(Tail { offset, bytes, version: map.version }))
    }
}
