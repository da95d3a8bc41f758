//! Files that appear whole or not at all: the content first, the name last.

use crate::client::DfsClient;
use crate::content::Content;
use crate::error::Error;
use crate::namespace::Metadata;
use crate::options::CreateOptions;
use crate::place::Place;
use crate::storage_policy;
use crate::stream::{Core, Destination, Machine, Shape};
use crate::write;
use cairn_proto::limits::{BLOCK_LEN_DEFAULT, INLINE_LEN_DEFAULT};
use cairn_proto::pb::{self, request, response};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// A file being written that has no name yet. [`AtomicFile::finish`] gives it its name in the transaction that also
/// carries its last content; dropping it instead leaves nothing.
pub struct AtomicFile {
    client: DfsClient,
    name: pb::At,
    path: PathBuf,
    options: CreateOptions,
    shape: Shape,
    machine: Machine,
}

impl DfsClient {
    /// Begins a file that appears at `path` when it is finished. Asks metadata for the directory's policy, unless that
    /// was learnt within the last second.
    ///
    /// # Errors
    /// `NotFound` when the directory does not exist.
    pub async fn create_atomic(&self, place: impl Into<Place>, options: CreateOptions) -> Result<AtomicFile, Error> {
        let place = place.into();
        let path = place.shown().to_path_buf();
        let name = place.at()?;
        let policy = storage_policy::of_directory(&self.inner, parent(&name)).await;
        let policy = policy.map_err(|error| error.at("create", &path))?;
        let block_len = [options.block_len, policy.block_len, BLOCK_LEN_DEFAULT]
            .into_iter()
            .find(|len| *len > 0)
            .unwrap_or(BLOCK_LEN_DEFAULT);
        let relaxed = options.relaxed.or(self.inner.config.relaxed).unwrap_or(policy.relaxed);
        let replicas = policy.replicas;
        let create = pb::CreateUnnamed {
            inode: 0,
            dir: Some(parent(&name)),
            attr: Some(pb::NewAttr { block_len, replicas, ..options.to_pb(0o644) }),
        };
        let shape = Shape { block_len, replicas, relaxed };
        let core = Core::new(self.inner.clone(), Destination::Unnamed(Box::new(create), self.caller.clone()), shape, 0);
        Ok(AtomicFile { client: self.clone(), name, path, options, shape, machine: Machine::new(core) })
    }

    /// Makes a file with this content in one step.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken and `options` do not allow to replace it; `IsADirectory`; what writing
    /// and naming can fail with. The path is untouched in every case but `Indeterminate`.
    pub async fn write_atomic(
        &self,
        place: impl Into<Place>,
        content: impl Into<Content>,
        options: CreateOptions,
    ) -> Result<Metadata, Error> {
        let mut file = self.create_atomic(place, options).await?;

        let path = file.path.clone();
        let work = async {
            let mut core = file.machine.into_core().await?;
            core.take(content.into().0).await?;
            file.machine = Machine::Rest(core);
            file.publish().await
        };
        self.operation("write_atomic", &path, work).await
    }
}

/// The directory a name lies in.
pub(crate) fn parent(name: &pb::At) -> pb::At {
    let trimmed = name.path.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    let cut = name.path[..trimmed].iter().rposition(|b| *b == b'/').unwrap_or(0);
    pb::At { dir: name.dir, path: name.path.slice(..cut) }
}

impl AtomicFile {
    /// Gives the file its name. When this returns, the whole content is durable (unless relaxed) and visible.
    ///
    /// # Errors
    /// As [`DfsClient::write_atomic`].
    pub async fn finish(self) -> Result<Metadata, Error> {
        let (client, path) = (self.client.clone(), self.path.clone());
        client.operation("create", &path, self.publish()).await
    }

    async fn publish(self) -> Result<Metadata, Error> {
        let (client, inner) = (self.client.clone(), self.client.inner.clone());
        let Shape { block_len, replicas, relaxed } = self.shape;
        let mut core = self.machine.into_core().await?;
        let size = core.position();
        let mut publish = pb::Publish {
            at: Some(self.name.clone()),
            // What its blocks were written under; the directory's policy may have changed since.
            attr: Some(pb::NewAttr { replicas, block_len, ..self.options.to_pb(0o644) }),
            replace: self.options.replace,
            size,
            ..Default::default()
        };
        let reply = if core.pipeline.is_none() && size <= u64::from(INLINE_LEN_DEFAULT) {
            let deadline = inner.deadline(inner.config.meta_timeout);
            publish.inode = inner.sessions.inode(&inner, deadline).await?.0;
            publish.inline = core.buffer.split().freeze();
            inner.sessions.mutate(&inner, client.call(request::Kind::Publish(publish)), relaxed, deadline).await?
        } else {
            core.push(true).await?;
            let pipeline = core.pipeline.as_mut().ok_or_else(|| inner.unexpected("publish"))?;
            publish.unnamed = !pipeline.is_uncommitted();
            publish.inode = pipeline.target().inode.0;
            publish.writer = pipeline.target().writer.id.0;
            if publish.unnamed {
                // The earlier batches are committed to the nameless inode; so is the last one.
                pipeline.flush().await?;
                let deadline = inner.deadline(inner.config.meta_timeout);
                inner.sessions.mutate(&inner, client.call(request::Kind::Publish(publish)), relaxed, deadline).await?
            } else {
                let target = pipeline.target().clone();
                let blocks = pipeline.take_blocks().await?;
                let deadline = inner.deadline(inner.config.write_timeout);
                let make = |pieces| request::Kind::Publish(pb::Publish { pieces, ..publish.clone() });
                write::commit_blocks(&inner, &target, blocks, relaxed, deadline, make).await?.0
            }
        };
        match reply {
            response::Kind::Attr(attr) => Ok(Metadata::from_pb(attr)),
            _ => Err(inner.unexpected("publish")),
        }
    }
}

impl AsyncWrite for AtomicFile {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().machine.poll_write(cx, bytes)
    }

    /// Nothing of the file is visible before [`AtomicFile::finish`], so there is nothing to flush to.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_parent_of_a_name() {
        let parent_of = |path: &'static str| {
            let name = pb::At { dir: 1, path: Bytes::from_static(path.as_bytes()) };
            parent(&name).path
        };
        assert_eq!(&parent_of("/a/b")[..], b"/a");
        assert_eq!(&parent_of("/a")[..], b"");
        assert_eq!(&parent_of("a")[..], b"");
        assert_eq!(&parent_of("/a/b//")[..], b"/a");
    }
}
