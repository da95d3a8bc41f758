//! An open file: reads and writes at any place, block by block or streaming.

use crate::client::{DfsClient, Inner};
use crate::content::Content;
use crate::error::{Cause, Error, ErrorKind};
use crate::extents::ExtentCache;
use crate::hold::Hold;
use crate::namespace::{Metadata, at_inode};
use crate::options::{Consistency, OpenOptions, ReadOptions};
use crate::place::Place;
use crate::read::{self, How};
use crate::snapshots::check_changeable;
use crate::stream::{FileReader, FileWriter};
use crate::sync::Unsynced;
use crate::write::{self, Draft, Stored, Target, WriteReceipt};
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::layout::cut_in_blocks;
use cairn_proto::limits::{BLOCK_LEN_DEFAULT, FILE_LEN_MAX, INLINE_LEN_DEFAULT, WINDOW_BYTES_MAX};
use cairn_proto::pb::{self, PutDurability, request, response};
use cairn_proto::status::Code;
use futures_util::stream::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Blocks of one write sent at the same time.
const PARALLEL_MAX: usize = 8;

/// An open file. Cloning gives another handle to the same; no position is kept, so handles can be used from many tasks
/// at once. A write is visible to every reader once it has returned.
#[derive(Clone)]
pub struct File(Arc<Shared>);

struct Shared {
    client: DfsClient,
    path: PathBuf,
    inode: InodeId,
    /// Tells it apart from other open files of this client.
    handle: u64,
    block_len: u32,
    replicas: u32,
    relaxed: bool,
    consistency: Consistency,
    map: Mutex<ExtentCache>,
    /// What was written relaxed and not synced since.
    unsynced: Arc<Unsynced>,
    /// Keeps the content while this handle lives, whatever becomes of the name.
    _hold: Option<Hold>,
}

impl DfsClient {
    /// Opens a file, making it if it is not there.
    ///
    /// # Errors
    /// `IsADirectory`; `NotFound` or `NotADirectory` for the path above it; `Unavailable`.
    pub async fn open(&self, place: impl Into<Place>) -> Result<File, Error> {
        self.open_with(place, OpenOptions::default()).await
    }

    /// Opens a file as the options say.
    ///
    /// # Errors
    /// As [`DfsClient::open`]; `AlreadyExists` with `create_new`; `NotFound` without `create`.
    pub async fn open_with(&self, place: impl Into<Place>, options: OpenOptions) -> Result<File, Error> {
        let place = place.into();
        self.operation("open", place.shown(), self.open_inner(&place, &options)).await
    }

    async fn open_inner(&self, place: &Place, options: &OpenOptions) -> Result<File, Error> {
        let want = options.want();
        // An existing file, the usual case, needs no mutation.
        let found = if options.exclusive {
            None
        } else {
            let kind = match want {
                0 => request::Kind::Stat(pb::Stat { at: Some(place.at()?), follow: true, ..Default::default() }),
                _ => request::Kind::Access(pb::Access { at: Some(place.at()?), follow: true, want, map_len: 0 }),
            };
            match self.look(kind).await {
                Ok(reply) => Some(reply),
                Err(error) if error.kind() == ErrorKind::NotFound && options.create => None,
                Err(error) => return Err(error),
            }
        };
        let reply = match found {
            Some(reply) => reply,
            None => {
                let create = pb::Create {
                    at: Some(place.at()?),
                    attr: Some(options.attributes.to_pb(0o644)),
                    exclusive: options.exclusive,
                    follow: true,
                    want,
                };
                self.mutate(request::Kind::Create(create), options.relaxed).await?
            }
        };
        let response::Kind::Attr(attr) = reply else { return Err(self.inner.unexpected("open")) };
        self.open_found(place.shown(), attr, options).await
    }

    /// A handle to the file that metadata described.
    pub(crate) async fn open_found(&self, shown: &Path, attr: pb::Attr, options: &OpenOptions) -> Result<File, Error> {
        let inner = &self.inner;
        match attr.kind() {
            pb::Kind::File => {}
            pb::Kind::Directory => {
                let status = cairn_proto::status::Status::new(Code::IsADirectory, "only files can be opened");
                return Err(Error::new("open", Cause::Status(status)));
            }
            pb::Kind::Fifo | pb::Kind::Socket | pb::Kind::CharDevice | pb::Kind::BlockDevice => {
                return Err(Error::invalid("open", "a special file has no content to open"));
            }
            pb::Kind::Symlink | pb::Kind::Unknown => return Err(inner.unexpected("open")),
        }
        let hold = if options.sustained { Some(self.sustain_quietly(attr.inode).await?) } else { None };
        self.open_held(shown, attr, options, hold).await
    }

    /// A handle to a file that is held already, if it is to be.
    pub(crate) async fn open_held(
        &self,
        shown: &Path,
        attr: pb::Attr,
        options: &OpenOptions,
        hold: Option<Hold>,
    ) -> Result<File, Error> {
        let inner = &self.inner;
        let policy = attr.policy.unwrap_or_default();
        let file = File(Arc::new(Shared {
            client: self.clone(),
            path: shown.to_path_buf(),
            inode: InodeId(attr.inode),
            handle: inner.handles.fetch_add(1, Ordering::Relaxed),
            block_len: if policy.block_len == 0 { BLOCK_LEN_DEFAULT } else { policy.block_len },
            replicas: policy.replicas,
            relaxed: options.relaxed.or(inner.config.relaxed).unwrap_or(policy.relaxed),
            consistency: options.consistency,
            map: Mutex::default(),
            unsynced: Arc::default(),
            _hold: hold,
        }));
        if options.truncate && attr.size > 0 {
            file.truncate_inner(0).await?;
        }
        Ok(file)
    }
}

impl File {
    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Its inode's number.
    pub fn inode(&self) -> InodeId {
        self.0.inode
    }

    /// Tells it apart from other open files of this client.
    pub(crate) fn handle(&self) -> u64 {
        self.0.handle
    }

    pub(crate) fn replicas(&self) -> u32 {
        self.0.replicas
    }

    /// Bytes per block: block `i` begins at `i * block_len`.
    pub fn block_len(&self) -> u32 {
        self.0.block_len
    }

    /// True when writes are acknowledged before they are on disk.
    pub fn is_relaxed(&self) -> bool {
        self.0.relaxed
    }

    pub(crate) fn client(&self) -> &DfsClient {
        &self.0.client
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.client.inner
    }

    /// The length that was last heard of; not validated.
    pub(crate) fn known_len(&self) -> Option<u64> {
        self.0.map.lock().size()
    }

    /// What is remembered of its map.
    pub(crate) fn map(&self) -> &Mutex<ExtentCache> {
        &self.0.map
    }

    pub(crate) fn unsynced(&self) -> &Arc<Unsynced> {
        &self.0.unsynced
    }

    /// The file was changed through this handle; `reply` tells how it ended.
    pub(crate) fn forget_map(&self, reply: Option<&pb::CommitReply>) {
        self.0.map.lock().forget(reply.map(|reply| reply.size));
    }

    /// Forgets what is remembered of its map: whoever reads [`Consistency::Cached`] and hears that the file was changed
    /// reads what it is now.
    pub fn refresh(&self) {
        self.forget_map(None);
    }

    /// What metadata has told of the beginning of the map.
    pub(crate) fn learn_map(&self, reply: pb::GetExtentsReply) {
        self.0.map.lock().learn(reply);
    }

    fn write_deadline(&self) -> Instant {
        self.inner().deadline(self.inner().config.write_timeout)
    }

    pub(crate) async fn counted<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.0.client.operation(name, &self.0.path, work).await
    }

    // ------------------------------------------------------------ reading

    /// The bytes of block `index`, up to the end of the file; holes read as zeros, a block behind the end as nothing.
    /// Any replica may answer; the bytes are verified, and as new as the moment of the call.
    ///
    /// # Errors
    /// `Unavailable` when no replica could be reached in all rounds, `Corrupt` when none has good bytes, `Deadline`.
    pub async fn read_block(&self, index: u64) -> Result<Bytes, Error> {
        let block_len = u64::from(self.0.block_len);
        let work = async { self.read_quietly(block_offset(index, block_len)?, block_len).await };
        self.counted("read_block", work).await
    }

    /// The bytes of `[offset, offset + len)`, fewer at the end of the file. At most 100 MiB at once.
    ///
    /// # Errors
    /// As [`File::read_block`]; `TooLarge`.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        self.counted("read_at", self.read_quietly(offset, len as u64)).await
    }

    /// [`File::read_at`] with a deadline, a consistency or a restraint of its own.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub async fn read_at_with(&self, offset: u64, len: usize, options: ReadOptions) -> Result<Bytes, Error> {
        self.counted("read_at", self.read_with(offset, len as u64, options)).await
    }

    /// [`File::read_at`] as a part of an operation that is counted as a whole.
    pub(crate) async fn read_quietly(&self, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.read_with(offset, len, ReadOptions::default()).await
    }

    async fn read_with(&self, offset: u64, len: u64, options: ReadOptions) -> Result<Bytes, Error> {
        let inner = self.inner();
        let timeout = options.deadline.unwrap_or(inner.config.read_timeout);
        let how = How {
            consistency: options.consistency.unwrap_or(self.0.consistency),
            hedge: options.hedge.unwrap_or(true),
            deadline: inner.deadline(timeout),
        };
        let work = read::read(inner, self.0.inode, &self.0.map, (offset, len), how);
        match tokio::time::timeout_at(how.deadline, work).await {
            Ok(result) => result.map_err(|error| error.at("read", &self.0.path)),
            Err(_) => Err(Error::new("read", Cause::Deadline(timeout)).at("read", &self.0.path)),
        }
    }

    /// Its length now.
    ///
    /// # Errors
    /// `NotFound` when the file was removed, `Unavailable`.
    pub async fn len(&self) -> Result<u64, Error> {
        Ok(self.metadata().await?.size)
    }

    /// True when it has no bytes now.
    ///
    /// # Errors
    /// As [`File::len`].
    pub async fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len().await? == 0)
    }

    /// Its attributes now.
    ///
    /// # Errors
    /// As [`File::len`].
    pub async fn metadata(&self) -> Result<Metadata, Error> {
        let deadline = self.inner().deadline(self.inner().config.meta_timeout);
        self.counted("metadata", self.metadata_quietly(deadline)).await
    }

    /// Reads from the beginning on, with read-ahead.
    pub fn reader(&self) -> FileReader {
        FileReader::new(self.clone(), 0)
    }

    // ------------------------------------------------------------ writing

    /// Writes block `index`: all replicas in parallel, done when a majority holds it durably and metadata shows it.
    /// `data` may be shorter than a block; what the block held beyond it stays.
    ///
    /// # Errors
    /// `TooLarge` when `data` is longer than a block; `Unavailable` with a `QuorumError` that names every node when no
    /// group could be found with a majority; `NoSpace`; `Fenced`; `Indeterminate` when the commit's outcome could not
    /// be found out. In all cases but the last the file is unchanged.
    pub async fn write_block(&self, index: u64, data: impl Into<Content>) -> Result<WriteReceipt, Error> {
        let (data, max) = (data.into().0, u64::from(self.0.block_len));
        let work = async {
            let len = data.len() as u64;
            if len > max {
                return Err(Error::new("write_block", Cause::TooLarge { len, max }));
            }
            self.write_quietly(block_offset(index, max)?, data).await
        };
        self.counted("write_block", work).await
    }

    /// Writes at any place; a gap to the old end becomes a hole. One write is visible at once and as a whole.
    ///
    /// # Errors
    /// As [`File::write_block`]; `TooLarge` above 64 MiB (use [`File::writer`]).
    pub async fn write_at(&self, offset: u64, data: impl Into<Content>) -> Result<WriteReceipt, Error> {
        let data = data.into().0;
        self.counted("write_at", self.write_quietly(offset, data)).await
    }

    pub(crate) async fn write_quietly(&self, offset: u64, data: Bytes) -> Result<WriteReceipt, Error> {
        let begun = Instant::now();
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_LEN_MAX);
        let end = end.ok_or_else(|| {
            Error::invalid("write", format!("{} bytes at {offset} end behind the largest file", data.len()))
        })?;
        if data.len() as u64 > WINDOW_BYTES_MAX {
            let (len, max) = (data.len() as u64, WINDOW_BYTES_MAX);
            return Err(Error::new("write", Cause::TooLarge { len, max }));
        }
        let small = end <= u64::from(INLINE_LEN_DEFAULT);
        if data.is_empty() || (small && self.known_len().is_none_or(|len| len <= u64::from(INLINE_LEN_DEFAULT))) {
            let inline = pb::InlineWrite { offset, data: data.clone() };
            let commit = pb::Commit { inode: self.0.inode.0, inline: Some(inline), ..Default::default() };
            match self.commit(request::Kind::Commit(commit)).await {
                Ok(reply) => return Ok(write::receipt(self.inner(), &[], &pb::CommitReply { offset, ..reply }, begun)),
                Err(error) if error.code() == Some(Code::NotInline) => {}
                Err(error) => return Err(error),
            }
        }
        let inode = self.0.inode.0;
        let make = |writer, pieces| request::Kind::Commit(pb::Commit { inode, writer, pieces, ..Default::default() });
        let (reply, blocks) = self.write_blocks(offset, data, make).await?;
        Ok(write::receipt(self.inner(), &blocks, &pb::CommitReply { offset, ..reply }, begun))
    }

    /// Runs a change of the content that brings no blocks.
    pub(crate) async fn commit(&self, kind: request::Kind) -> Result<pb::CommitReply, Error> {
        let inner = self.inner();
        let call = self.0.client.call(kind);
        let reply = match inner.sessions.mutate(inner, call, self.0.relaxed, self.write_deadline()).await {
            Ok(response::Kind::Commit(reply)) => Ok(reply),
            Ok(_) => Err(inner.unexpected("commit")),
            Err(error) => Err(error),
        };
        if !matches!(&reply, Err(error) if error.code() == Some(Code::NotInline)) {
            self.forget_map(reply.as_ref().ok());
        }
        reply
    }

    /// Stores `data` as blocks and runs the mutation that `make` builds from their writer and pieces.
    pub(crate) async fn write_blocks(
        &self,
        offset: u64,
        data: Bytes,
        make: impl Fn(u64, Vec<pb::Piece>) -> request::Kind,
    ) -> Result<(pb::CommitReply, Vec<Stored>), Error> {
        let inner = self.inner();
        check_changeable(self.0.inode)?;
        let deadline = self.write_deadline();
        let writer = inner.sessions.writer(inner, deadline).await?;
        let target = Target {
            inode: self.0.inode,
            writer,
            block_len: self.0.block_len,
            replicas: self.0.replicas,
            caller: self.0.client.caller.clone(),
        };
        let relaxed = self.0.relaxed;
        let durability = if relaxed { PutDurability::Relaxed } else { PutDurability::Durable };
        let spans: Vec<_> = cut_in_blocks(offset, data.len() as u64, self.0.block_len).collect();
        let first = target.reserve(spans.len() as u32)?;
        let hint = inner.cluster.pick_group(inner, (target.replicas, &[]), data.len() as u64);
        let mut puts = Vec::with_capacity(spans.len());
        for (span, seq) in spans.iter().zip(first..) {
            let from = (span.offset - offset) as usize;
            let data = data.slice(from..from + span.len as usize);
            let draft = Draft { offset: span.offset, data, seq };
            puts.push(write::put_block(inner, &target, draft, hint, durability, deadline));
        }
        let blocks: Vec<Stored> = futures_util::stream::iter(puts).buffered(PARALLEL_MAX).try_collect().await?;
        let make = |pieces| make(target.writer.id.0, pieces);
        let result = match write::commit_blocks(inner, &target, blocks, relaxed, deadline, make).await {
            Ok((response::Kind::Commit(reply), blocks)) => Ok((reply, blocks)),
            Ok(_) => Err(inner.unexpected("commit")),
            Err(error) => Err(error),
        };
        self.forget_map(result.as_ref().ok().map(|(reply, _)| reply));
        let (reply, blocks) = result?;
        if relaxed {
            self.0.unsynced.add(&blocks);
        }
        Ok((reply, blocks))
    }

    /// [`File::metadata`] as a part of an operation that is counted as a whole.
    pub(crate) async fn metadata_quietly(&self, deadline: Instant) -> Result<Metadata, Error> {
        let kind =
            request::Kind::Stat(pb::Stat { at: Some(at_inode(self.0.inode)), follow: false, ..Default::default() });
        match self.inner().meta_read(kind, deadline).await? {
            response::Kind::Attr(attr) => Ok(Metadata::from_pb(attr)),
            _ => Err(self.inner().unexpected("stat")),
        }
    }

    /// Writes from the beginning on, with a window of blocks in flight.
    pub fn writer(&self) -> FileWriter {
        FileWriter::new(self.clone(), 0)
    }

    // ------------------------------------------------------------ durability

    /// Returns once every write of this handle that has returned is on disk on a majority of its replicas. Durable
    /// handles have nothing to wait for.
    ///
    /// # Errors
    /// `Unavailable` when a relaxed write is not on a majority any more because nodes restarted: it may be lost.
    pub async fn sync(&self) -> Result<(), Error> {
        self.counted("sync", self.sync_inner()).await
    }

    async fn sync_inner(&self) -> Result<(), Error> {
        if !self.0.relaxed {
            return Ok(());
        }
        let inner = self.inner();
        let deadline = self.write_deadline();
        self.0.unsynced.sync(inner, deadline).await?;
        // A durable transaction behind the relaxed ones brings them to disk with it.
        let set = pb::SetAttr { at: Some(at_inode(self.0.inode)), ..Default::default() };
        inner.sessions.mutate(inner, request::Kind::SetAttr(set), false, deadline).await.map(|_| ())
    }
}

fn block_offset(index: u64, block_len: u64) -> Result<u64, Error> {
    index
        .checked_mul(block_len)
        .filter(|offset| *offset < FILE_LEN_MAX)
        .ok_or_else(|| Error::invalid("block", format!("block {index} lies behind the largest file")))
}
