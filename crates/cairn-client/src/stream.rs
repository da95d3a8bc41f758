//! `AsyncRead`, `AsyncWrite` and `AsyncSeek` over files: read-ahead that grows while it pays, writes with a window of
//! blocks in flight.

use crate::caller::CallerRef;
use crate::client::Inner;
use crate::error::{Cause, Error};
use crate::file::File;
use crate::pipeline::Pipeline;
use crate::snapshots::check_changeable;
use crate::write::Target;
use bytes::{Buf, Bytes, BytesMut};
use cairn_proto::InodeId;
use cairn_proto::limits::INLINE_LEN_DEFAULT;
use cairn_proto::pb;
use std::collections::VecDeque;
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;

/// Bytes read ahead at most.
const READ_AHEAD_MAX: u64 = 32 * 1024 * 1024;
/// Requests read ahead at most.
const READ_AHEAD_COUNT_MAX: usize = 8;

// ---------------------------------------------------------------- reading

/// Reads a file from front to back (or from wherever it was sought to). Each block is as new as the moment it was
/// fetched; the end of the file is found when it is reached.
pub struct FileReader {
    file: File,
    position: u64,
    /// Where the next request begins.
    ahead: u64,
    window: usize,
    queue: VecDeque<Fetch>,
    current: Bytes,
    seeking: Option<JoinHandle<Result<u64, Error>>>,
    seek_by: i64,
}

struct Fetch {
    len: u64,
    task: JoinHandle<Result<Bytes, Error>>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FileReader {
    pub(crate) fn new(file: File, position: u64) -> Self {
        Self {
            file,
            position,
            ahead: position,
            window: 1,
            queue: VecDeque::new(),
            current: Bytes::new(),
            seeking: None,
            seek_by: 0,
        }
    }

    /// Where the next byte comes from.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn go_to(&mut self, position: u64) {
        if position == self.position {
            return;
        }
        let skip = position.wrapping_sub(self.position);
        if position > self.position && skip <= self.current.len() as u64 {
            self.current.advance(skip as usize);
        } else {
            self.queue.clear();
            self.current = Bytes::new();
            self.window = 1;
            self.ahead = position;
        }
        self.position = position;
    }

    /// Keeps the window full. A request ends at a block boundary.
    fn fill(&mut self) {
        let block_len = u64::from(self.file.block_len());
        let count = (READ_AHEAD_MAX / block_len).clamp(1, READ_AHEAD_COUNT_MAX as u64) as usize;
        while self.queue.len() < self.window.min(count) {
            if !self.queue.is_empty() && self.file.known_len().is_some_and(|len| self.ahead >= len) {
                break;
            }
            let len = block_len - self.ahead % block_len;
            let (file, offset) = (self.file.clone(), self.ahead);
            let task = tokio::spawn(async move { file.read_quietly(offset, len).await });
            self.queue.push_back(Fetch { len, task });
            self.ahead += len;
        }
    }
}

impl AsyncRead for FileReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_current(cx))?;
        let take = this.current.len().min(buf.remaining());
        buf.put_slice(&this.current[..take]);
        this.current.advance(take);
        this.position += take as u64;
        Poll::Ready(Ok(()))
    }
}

impl FileReader {
    /// The next bytes as they came, without a copy; nothing at the end of the file. Usually a whole block.
    ///
    /// # Errors
    /// Of reading a block; the next call tries the same place again. Cancelling loses nothing.
    pub async fn next_bytes(&mut self) -> Result<Bytes, Error> {
        std::future::poll_fn(|cx| self.poll_current(cx)).await?;
        let bytes = std::mem::take(&mut self.current);
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    /// Waits until `current` has bytes, or the end is reached.
    fn poll_current(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.current.is_empty() {
            self.fill();
            let Some(fetch) = self.queue.front_mut() else { break };
            let result = ready!(Pin::new(&mut fetch.task).poll(cx)).unwrap_or_else(|error| {
                let message = format!("the client is shutting down: {error}");
                Err(Error::new("read", Cause::Invalid(message)))
            });
            let bytes = match result {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.restart();
                    return Poll::Ready(Err(error));
                }
            };
            let wanted = fetch.len;
            self.queue.pop_front();
            self.window = (self.window * 2).min(READ_AHEAD_COUNT_MAX);
            if (bytes.len() as u64) < wanted {
                // What was read ahead lies behind the end as it was then.
                self.queue.clear();
                self.ahead = self.position + bytes.len() as u64;
                if bytes.is_empty() {
                    break;
                }
            }
            self.current = bytes;
            self.fill();
        }
        Poll::Ready(Ok(()))
    }

    /// After an error the next read tries the same place again.
    fn restart(&mut self) {
        self.queue.clear();
        self.ahead = self.position;
        self.window = 1;
    }
}

impl AsyncSeek for FileReader {
    fn start_seek(self: Pin<&mut Self>, target: SeekFrom) -> io::Result<()> {
        let this = self.get_mut();
        this.seeking = None;
        match target {
            SeekFrom::Start(position) => this.go_to(position),
            SeekFrom::Current(by) => this.go_to(moved(this.position, by)?),
            SeekFrom::End(by) => {
                let file = this.file.clone();
                this.seek_by = by;
                this.seeking = Some(tokio::spawn(async move { file.len().await }));
            }
        }
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let this = self.get_mut();
        if let Some(task) = &mut this.seeking {
            let result = ready!(Pin::new(task).poll(cx));
            this.seeking = None;
            let len = result.map_err(io::Error::other)??;
            this.go_to(moved(len, this.seek_by)?);
        }
        Poll::Ready(Ok(this.position))
    }
}

fn moved(from: u64, by: i64) -> io::Result<u64> {
    from.checked_add_signed(by)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("seek by {by} from {from} leaves the file")))
}

// ---------------------------------------------------------------- writing

/// Where a stream of blocks ends up.
pub(crate) enum Destination {
    /// An open file.
    File(File),
    /// A file without a name; the message makes its inode when it does not fit one commit.
    Unnamed(Box<pb::CreateUnnamed>, CallerRef),
}

impl Destination {
    fn caller(&self) -> CallerRef {
        match self {
            Self::File(file) => file.client().caller.clone(),
            Self::Unnamed(_, caller) => caller.clone(),
        }
    }
}

/// How a stream's bytes are stored.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) block_len: u32,
    pub(crate) replicas: u32,
    pub(crate) relaxed: bool,
}

/// Cuts a stream of bytes into blocks and feeds the pipeline.
pub(crate) struct Core {
    inner: Arc<Inner>,
    destination: Destination,
    shape: Shape,
    pub(crate) buffer: BytesMut,
    /// File offset of the first byte in `buffer`.
    offset: u64,
    pub(crate) pipeline: Option<Pipeline>,
    /// Something was written since the last flush.
    dirty: bool,
    failed: Option<Error>,
}

impl Core {
    pub(crate) fn new(inner: Arc<Inner>, destination: Destination, shape: Shape, offset: u64) -> Self {
        let buffer = BytesMut::new();
        Self { inner, destination, shape, buffer, offset, pipeline: None, dirty: false, failed: None }
    }

    pub(crate) fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Bytes that fit the block being filled.
    fn room(&self) -> usize {
        let block_len = u64::from(self.shape.block_len);
        (block_len - self.offset % block_len) as usize - self.buffer.len()
    }

    fn fill(&mut self, bytes: &[u8]) -> usize {
        let take = self.room().min(bytes.len());
        if self.buffer.capacity() < self.buffer.len() + take {
            // Small files stay small; a stream gets its whole block at the second growth.
            let want = if self.buffer.is_empty() && self.pipeline.is_none() { take } else { self.room() };
            self.buffer.reserve(want);
        }
        self.buffer.extend_from_slice(&bytes[..take]);
        self.dirty |= take > 0;
        take
    }

    async fn pipeline(&mut self) -> Result<&mut Pipeline, Error> {
        if self.pipeline.is_none() {
            let inner = &self.inner;
            let deadline = inner.deadline(inner.config.meta_timeout);
            let (inode, create, unsynced) = match &mut self.destination {
                Destination::File(file) => {
                    check_changeable(file.inode())?;
                    (file.inode(), None, Some(file.unsynced().clone()))
                }
                Destination::Unnamed(create, _) => {
                    create.inode = inner.sessions.inode(inner, deadline).await?.0;
                    (InodeId(create.inode), Some((**create).clone()), None)
                }
            };
            let writer = inner.sessions.writer(inner, deadline).await?;
            let Shape { block_len, replicas, relaxed } = self.shape;
            let caller = self.destination.caller();
            let target = Target { inode, writer, block_len, replicas, caller };
            self.pipeline = Some(Pipeline::new(inner.clone(), target, relaxed, create, unsynced));
        }
        Ok(self.pipeline.as_mut().expect("made above"))
    }

    /// Sends what is in the buffer as one block.
    pub(crate) async fn push(&mut self, last: bool) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = self.buffer.split().freeze();
        self.send(data, last).await
    }

    /// Sends one block.
    pub(crate) async fn send(&mut self, data: Bytes, last: bool) -> Result<(), Error> {
        let offset = self.offset;
        self.offset += data.len() as u64;
        let result = match self.pipeline().await {
            Ok(pipeline) => pipeline.push(offset, data, last).await,
            Err(error) => Err(error),
        };
        self.remember(result)
    }

    /// Takes over bytes that are the whole content from here on, without a copy: all full blocks are sent, the rest
    /// waits for the end.
    pub(crate) async fn take(&mut self, mut data: Bytes) -> Result<(), Error> {
        while data.len() > self.room() {
            let room = self.room();
            let block = data.split_to(room);
            if self.buffer.is_empty() {
                self.send(block, false).await?;
            } else {
                self.buffer.extend_from_slice(&block);
                self.push(false).await?;
            }
        }
        if self.buffer.is_empty() {
            self.buffer = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        } else {
            self.buffer.extend_from_slice(&data);
        }
        Ok(())
    }

    /// Sends and commits everything; what was written is visible and as durable as asked when this returns.
    async fn flush(&mut self) -> Result<(), Error> {
        let result = self.commit().await;
        self.dirty = result.is_err();
        result
    }

    async fn commit(&mut self) -> Result<(), Error> {
        if let (Destination::File(file), None, None) = (&self.destination, &self.pipeline, &self.failed)
            && self.buffer.len() <= INLINE_LEN_DEFAULT as usize
        {
            // A short write may fit the metadata row.
            let (file, data, offset) = (file.clone(), self.buffer.split().freeze(), self.offset);
            if !data.is_empty() {
                self.offset += data.len() as u64;
                let result = file.write_quietly(offset, data).await.map(|_| ());
                return self.remember(result);
            }
            return Ok(());
        }
        self.push(true).await?;
        let result = match &mut self.pipeline {
            Some(pipeline) => pipeline.flush().await.map(|_| ()),
            None => Ok(()),
        };
        if let Destination::File(file) = &self.destination {
            file.forget_map(None);
        }
        self.remember(result)
    }

    /// After a failure the stream has a gap: everything later fails the same way.
    fn remember(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }
}

type Work = Pin<Box<dyn Future<Output = (Box<Core>, Result<(), Error>)> + Send>>;

/// Runs the core's async steps from poll functions: it is either at rest or inside one step.
pub(crate) enum Machine {
    Rest(Box<Core>),
    Busy(Work, Action),
    /// Only while a step begins.
    Moving,
}

/// A step of the core.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Push,
    Flush,
}

impl Machine {
    pub(crate) fn new(core: Core) -> Self {
        Self::Rest(Box::new(core))
    }

    fn begin(&mut self, action: Action) {
        if let Self::Rest(mut core) = std::mem::replace(self, Self::Moving) {
            let work = Box::pin(async move {
                let result = match action {
                    Action::Push => core.push(false).await,
                    Action::Flush => core.flush().await,
                };
                (core, result)
            });
            *self = Self::Busy(work, action);
        }
    }

    /// Waits for the step under way; afterwards the machine is at rest.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Busy(work, _) = self {
            let (core, result) = ready!(work.as_mut().poll(cx));
            *self = Self::Rest(core);
            result?;
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(cx))?;
        let Self::Rest(core) = self else { return Poll::Ready(Err(io::Error::other("the writer is in use"))) };
        let taken = core.fill(bytes);
        if core.room() == 0 {
            self.begin(Action::Push);
            // Starts sending now; a full window is waited for by the next call.
            if let Poll::Ready(result) = self.poll_rest(cx) {
                result?;
            }
        }
        Poll::Ready(Ok(taken))
    }

    /// Ready when everything written is committed. A flush that nobody waited for to the end counts, because nothing
    /// can have been written since.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let flushing = matches!(self, Self::Busy(_, Action::Flush));
            ready!(self.poll_rest(cx))?;
            let Self::Rest(core) = self else { return Poll::Ready(Err(io::Error::other("the writer is in use"))) };
            if let Some(error) = &core.failed {
                return Poll::Ready(Err(error.clone().into()));
            }
            if flushing || !core.dirty {
                return Poll::Ready(Ok(()));
            }
            self.begin(Action::Flush);
        }
    }

    /// The core, once the step under way has ended.
    pub(crate) async fn into_core(self) -> Result<Box<Core>, Error> {
        match self {
            Self::Rest(core) => Ok(core),
            Self::Busy(work, _) => {
                let (core, result) = work.await;
                result.map(|()| core)
            }
            Self::Moving => Err(Error::invalid("write", "the writer is in use")),
        }
    }
}

/// Writes a file from front to back (or from wherever it was sought to), with up to 64 MiB of blocks in flight.
///
/// What was written is visible and durable once `flush` or `shutdown` has returned; every 32 MiB it is committed on the
/// way. Dropping the writer without either loses what was written since the last commit.
pub struct FileWriter {
    file: File,
    machine: Machine,
    seek: Option<SeekFrom>,
    measuring: Option<JoinHandle<Result<u64, Error>>>,
    position: u64,
}

impl FileWriter {
    pub(crate) fn new(file: File, offset: u64) -> Self {
        let machine = Self::machine(&file, offset);
        Self { file, machine, seek: None, measuring: None, position: offset }
    }

    fn machine(file: &File, offset: u64) -> Machine {
        let destination = Destination::File(file.clone());
        let shape = Shape { block_len: file.block_len(), replicas: file.replicas(), relaxed: file.is_relaxed() };
        Machine::new(Core::new(file.inner().clone(), destination, shape, offset))
    }
}

impl AsyncWrite for FileWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = ready!(this.machine.poll_write(cx, bytes))?;
        this.position += taken as u64;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().machine.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl AsyncSeek for FileWriter {
    fn start_seek(self: Pin<&mut Self>, target: SeekFrom) -> io::Result<()> {
        let this = self.get_mut();
        this.measuring = None;
        this.seek = Some(target);
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let this = self.get_mut();
        let Some(target) = this.seek else { return Poll::Ready(Ok(this.position)) };
        // What was written so far belongs to the old place; and only then the length is known.
        ready!(this.machine.poll_flush(cx))?;
        let position = match target {
            SeekFrom::Start(position) => position,
            SeekFrom::Current(by) => moved(this.position, by)?,
            SeekFrom::End(by) => {
                let file = this.file.clone();
                let task = this.measuring.get_or_insert_with(|| tokio::spawn(async move { file.len().await }));
                let len = ready!(Pin::new(task).poll(cx)).map_err(io::Error::other)??;
                this.measuring = None;
                moved(len, by)?
            }
        };
        this.seek = None;
        if position != this.position {
            this.machine = Self::machine(&this.file, position);
            this.position = position;
        }
        Poll::Ready(Ok(position))
    }
}
