//! Writing pieces anywhere in a file, many at once, made visible together: for who gathers writes, as a mount does.

use crate::error::Error;
use crate::file::File;
use crate::pipeline::Pipeline;
use crate::snapshots::check_changeable;
use crate::write::Target;
use bytes::Bytes;
use cairn_proto::layout::cut_in_blocks;
use cairn_proto::limits::{FILE_LEN_MAX, INLINE_LEN_DEFAULT};
use cairn_proto::pb::{self, request};
use cairn_proto::status::Code;

/// What a file was when a commit had changed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Counts changes of content.
    pub version: u64,
    /// Its length.
    pub size: u64,
    /// When its content changed last, nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl Committed {
    fn from_pb(reply: &pb::CommitReply) -> Self {
        Self { version: reply.version, size: reply.size, mtime_ns: reply.mtime_ns }
    }
}

/// Pieces of a file on their way; from [`File::scatter`]. Blocks are sent while further pieces come; up to 64 MiB are in
/// flight. They become visible with [`Scatter::commit`], and on the way every 32 MiB or 32 blocks, in the order they came.
///
/// Dropped without a commit, what was not committed on the way is not visible.
pub struct Scatter {
    file: File,
    mtime_ns: Option<i64>,
    /// The newest piece: sent when another one comes, or with the commit. One that stays alone needs no SYNC, and may
    /// become part of a row of metadata.
    held: Option<(u64, Bytes)>,
    pipeline: Option<Pipeline>,
}

impl File {
    /// Begins to write pieces of this file. `mtime_ns` is the time of modification that it is to have afterwards; absent,
    /// the metadata server's clock says it.
    pub fn scatter(&self, mtime_ns: Option<i64>) -> Scatter {
        Scatter { file: self.clone(), mtime_ns, held: None, pipeline: None }
    }
}

impl Scatter {
    /// Takes a piece. It must not overlap another one since the last commit. Waits while 64 MiB are in flight.
    ///
    /// # Errors
    /// As [`File::write_at`]; after an error, everything that follows fails alike.
    pub async fn write(&mut self, offset: u64, data: Bytes) -> Result<(), Error> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_LEN_MAX);
        if end.is_none() {
            let message = format!("{} bytes at {offset} end behind the largest file", data.len());
            return Err(Error::invalid("write", message));
        }
        if data.is_empty() {
            return Ok(());
        }
        match self.held.replace((offset, data)) {
            Some((offset, data)) => self.push(offset, data, false).await,
            None => Ok(()),
        }
    }

    async fn push(&mut self, offset: u64, data: Bytes, last: bool) -> Result<(), Error> {
        let block_len = self.file.block_len();
        let spans: Vec<_> = cut_in_blocks(offset, data.len() as u64, block_len).collect();
        let count = spans.len();
        for (index, span) in spans.into_iter().enumerate() {
            let from = (span.offset - offset) as usize;
            let data = data.slice(from..from + span.len as usize);
            let pipeline = self.pipeline().await?;
            pipeline.push(span.offset, data, last && index + 1 == count).await?;
        }
        Ok(())
    }

    async fn pipeline(&mut self) -> Result<&mut Pipeline, Error> {
        if self.pipeline.is_none() {
            let (file, inner) = (&self.file, self.file.inner());
            check_changeable(file.inode())?;
            let writer = inner.sessions.writer(inner, inner.deadline(inner.config.meta_timeout)).await?;
            let target = Target {
                inode: file.inode(),
                writer,
                block_len: file.block_len(),
                replicas: file.replicas(),
                caller: file.client().caller.clone(),
            };
            let unsynced = Some(file.unsynced().clone());
            let mut pipeline = Pipeline::new(inner.clone(), target, file.is_relaxed(), None, unsynced);
            pipeline.set_mtime(self.mtime_ns);
            self.pipeline = Some(pipeline);
        }
        Ok(self.pipeline.as_mut().expect("made above"))
    }

    /// Makes everything visible, as durable as the file's policy says, and tells what the file is then. `None` when
    /// nothing was written.
    ///
    /// # Errors
    /// As [`File::write_at`]; pieces that were committed on the way stay visible.
    pub async fn commit(mut self) -> Result<Option<Committed>, Error> {
        let file = self.file.clone();
        let result = file.counted("commit", self.finish()).await;
        file.forget_map(None);
        result
    }

    async fn finish(&mut self) -> Result<Option<Committed>, Error> {
        if let Some((offset, data)) = self.held.take() {
            if self.pipeline.is_none()
                && let Some(committed) = self.write_inline(offset, &data).await?
            {
                return Ok(Some(committed));
            }
            self.push(offset, data, true).await?;
        }
        let Some(pipeline) = &mut self.pipeline else { return Ok(None) };
        Ok(pipeline.flush().await?.map(|reply| Committed::from_pb(&reply)))
    }

    /// Writes a small piece of a small file as part of a row of metadata; `None` when it does not fit there.
    async fn write_inline(&self, offset: u64, data: &Bytes) -> Result<Option<Committed>, Error> {
        let fits = |len: u64| len <= u64::from(INLINE_LEN_DEFAULT);
        if !fits(offset + data.len() as u64) || !self.file.known_len().is_none_or(fits) {
            return Ok(None);
        }
        let inline = pb::InlineWrite { offset, data: data.clone() };
        let (inode, mtime_ns) = (self.file.inode().0, self.mtime_ns);
        let commit = pb::Commit { inode, inline: Some(inline), mtime_ns, ..Default::default() };
        match self.file.commit(request::Kind::Commit(commit)).await {
            Ok(reply) => Ok(Some(Committed::from_pb(&reply))),
            Err(error) if error.code() == Some(Code::NotInline) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
