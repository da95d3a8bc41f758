//! `cairn get`: from CairnFS to the local disk. `cairn cat` shares its last step.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use cairn_client::{DfsClient, DirEntry, FileKind, Metadata};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    PIECE_LEN,
    engine::{self, Dir, Direction, Leaf, Listed, Listing, Root},
    is_standard,
    links::Links,
    local::{self, Attributes, NewFile, Unfinished, blocking},
    memory::Memory,
    plan::{self, Landing, Target},
    progress::Progress,
    report::{Copied, Report},
};
use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::Out,
    text,
};

/// Chunks read ahead of the local disk.
const CHUNKS_WAITING: usize = 4;

struct Get {
    client: DfsClient,
    uid: u32,
    gid: u32,
    memory: Memory,
    names: Arc<Unfinished>,
    links: Links,
}

impl Direction for Get {
    type DirFacts = Attributes;
    type LeafFacts = Metadata;

    async fn enter(&self, dir: &Dir<Self>) -> Result<(), Failure> {
        let (target, root) = (dir.target.clone(), dir.is_root());
        let made = blocking(move || local::make_dir(&target, root)).await;
        made.map_err(|error| Failure::io(&dir.target, &error))
    }

    async fn list(&self, mut listing: Listing<Self>) -> Listed<Self> {
        let report = Arc::clone(&listing.report);
        let path = listing.source().to_path_buf();
        let mut entries = match self.client.read_dir(&path).await {
            Ok(entries) => entries,
            Err(error) => {
                report.fail(&Failure::client(&path, &error));
                return listing.end();
            }
        };
        loop {
            let entry = match entries.next_entry().await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => {
                    report.fail(&Failure::client(&path, &error));
                    break;
                }
            };
            if !is_name(&entry) {
                report.fail(&Failure::at(text::path(&path.join(&entry.name)), "no local file can have this name"));
            } else if entry.kind == FileKind::Directory {
                listing.dir(&entry.name, self.attributes(&entry.metadata));
            } else if listing.leaf(&entry.name, entry.metadata).await.is_err() {
                break;
            }
        }
        listing.end()
    }

    async fn copy(&self, leaf: &Leaf<Self>, report: &Report) -> Result<Copied, Failure> {
        match leaf.facts.kind {
            FileKind::File => self.get_linked(leaf, report).await.map(Copied::File),
            FileKind::Symlink => self.get_symlink(leaf).await.map(|()| Copied::Symlink),
            FileKind::Directory => Err(Failure::at(text::path(&leaf.source), "is a directory (-r copies directories)")),
            kind @ (FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice) => {
                Err(Failure::at(text::path(&leaf.source), format!("is a {} and is not copied", text::kind(kind))))
            }
        }
    }

    async fn leave(&self, dir: &Dir<Self>) -> Result<(), Failure> {
        let (target, attributes) = (dir.target.clone(), dir.facts);
        let done = blocking(move || local::finish_dir(&target, attributes)).await;
        done.map_err(|error| Failure::io(&dir.target, &error))
    }
}

/// Whether a name from the cluster is one of a directory entry here: anything else could lead out of the target.
fn is_name(entry: &DirEntry) -> bool {
    let name = entry.name.as_bytes();
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

impl Get {
    /// What the local file gets. The copy belongs to us: rights to act as another owner or group do not come along.
    fn attributes(&self, metadata: &Metadata) -> Attributes {
        let mut mode = metadata.mode & 0o7777;
        if metadata.uid != self.uid {
            mode &= !0o4000;
        }
        if metadata.gid != self.gid && metadata.kind == FileKind::File {
            mode &= !0o2000;
        }
        Attributes { mode, mtime_ns: metadata.mtime_ns }
    }

    /// Copies a file, or gives its copy a further name.
    async fn get_linked(&self, leaf: &Leaf<Self>, report: &Report) -> Result<u64, Failure> {
        let mut turn = match leaf.facts.nlink > 1 {
            true => self.links.turn((0, leaf.facts.inode)).await,
            false => None,
        };
        if let Some(first) = turn.as_ref().and_then(|turn| turn.as_ref()) {
            let (first, target, names) = (first.clone(), leaf.target.clone(), Arc::clone(&self.names));
            // Where there can be no link, it is copied once more.
            if blocking(move || local::link(&first, &target, &names)).await.is_ok() {
                return Ok(0);
            }
        }
        let len = self.get_file(leaf, report).await?;
        if let Some(turn) = &mut turn {
            **turn = Some(leaf.target.clone());
        }
        Ok(len)
    }

    async fn get_file(&self, leaf: &Leaf<Self>, report: &Report) -> Result<u64, Failure> {
        let attributes = self.attributes(&leaf.facts);
        let _held = self.memory.hold(leaf.facts.size).await;
        let names = Arc::clone(&self.names);
        let target = leaf.target.clone();
        let failed = |error| Failure::io(&leaf.target, &error);
        if leaf.facts.size > PIECE_LEN as u64 {
            return self.get_stream(leaf, attributes, report).await;
        }
        // One byte more than fits tells whether the file has grown since it was listed.
        let piece = if leaf.facts.size == 0 {
            Bytes::new()
        } else {
            let read = async {
                let file = self.client.open_with(&leaf.source, existing()).await?;
                file.read_at(0, PIECE_LEN + 1).await
            };
            read.await.map_err(|error| Failure::client(&leaf.source, &error))?
        };
        if piece.len() > PIECE_LEN {
            return self.get_stream(leaf, attributes, report).await;
        }
        let len = piece.len() as u64;
        blocking(move || local::write_piece(target, &names, attributes, &piece)).await.map_err(failed)?;
        report.progress.bytes(len);
        Ok(len)
    }

    async fn get_stream(&self, leaf: &Leaf<Self>, attributes: Attributes, report: &Report) -> Result<u64, Failure> {
        let (names, target) = (Arc::clone(&self.names), leaf.target.clone());
        let created = blocking(move || NewFile::create(target, &names)).await;
        let file = created.map_err(|error| Failure::io(&leaf.target, &error))?;
        let (chunks, mut waiting) = mpsc::channel::<Bytes>(CHUNKS_WAITING);
        // The writer ends with the file, unfinished: it gets its name only after the last byte was read.
        let writer = blocking(move || {
            let mut file = file;
            while let Some(chunk) = waiting.blocking_recv() {
                file.write(&chunk)?;
            }
            Ok(file)
        });
        // The writer sees the end when the sender is dropped.
        let read = async move {
            let take = |chunk: Bytes| {
                let chunks = &chunks;
                async move {
                    report.progress.bytes(chunk.len() as u64);
                    // Closed: writing failed, which the writer tells.
                    chunks.send(chunk).await.is_ok()
                }
            };
            read_chunks(&self.client, &leaf.source, take).await
        };
        let (read, written): (_, io::Result<NewFile>) = tokio::join!(read, writer);
        let failed = |error| Failure::io(&leaf.target, &error);
        let file = written.map_err(failed)?;
        let len = read?;
        blocking(move || file.finish(attributes)).await.map_err(failed)?;
        Ok(len)
    }

    async fn get_symlink(&self, leaf: &Leaf<Self>) -> Result<(), Failure> {
        let content = match &leaf.facts.target {
            Some(content) => content.clone(),
            None => {
                let read = self.client.read_link(&leaf.source).await;
                read.map_err(|error| Failure::client(&leaf.source, &error))?
            }
        };
        let (names, target, mtime_ns) = (Arc::clone(&self.names), leaf.target.clone(), leaf.facts.mtime_ns);
        let made = blocking(move || local::write_symlink(&target, &names, &content, mtime_ns)).await;
        made.map_err(|error| Failure::io(&leaf.target, &error))
    }
}

/// To read a file that is there.
fn existing() -> cairn_client::OpenOptions {
    cairn_client::OpenOptions::new().create(false)
}

/// Reads a file from its beginning to its end. Ends early, without an error, when `take` returns false.
async fn read_chunks<F: Future<Output = bool>>(
    client: &DfsClient,
    path: &Path,
    mut take: impl FnMut(Bytes) -> F,
) -> Result<u64, Failure> {
    let opened = client.open_with(path, existing()).await;
    let mut reader = opened.map_err(|error| Failure::client(path, &error))?.reader();
    let mut len = 0;
    loop {
        let mut bytes = reader.next_bytes().await.map_err(|error| Failure::client(path, &error))?;
        if bytes.is_empty() {
            return Ok(len);
        }
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(local::CHUNK_LEN));
            len += chunk.len() as u64;
            if !take(chunk).await {
                return Ok(len);
            }
        }
    }
}

/// Copies one file to standard output.
pub async fn print(client: &DfsClient, path: &Path, out: &mut Out) -> Result<(), Failure> {
    pour(client, path, |chunk| out.bytes(chunk)).await
}

/// Copies one file into something that takes bytes in order.
async fn pour(
    client: &DfsClient,
    path: &Path,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut broken = None;
    let read = read_chunks(client, path, |chunk| {
        // Writing to a pipe waits for its reader.
        let taken = tokio::task::block_in_place(|| take(&chunk));
        let more = taken.is_ok();
        broken = taken.err();
        std::future::ready(more)
    });
    read.await?;
    broken.map_or(Ok(()), Err)
}

/// Runs the command.
///
/// # Errors
/// What was not copied has been said on standard error.
pub async fn run(args: args::Get, context: &Context, out: &mut Out) -> Result<(), Failure> {
    for source in &args.sources {
        remote_path(source)?;
    }
    let client = context.connect().await?;
    if is_standard(&args.target) {
        for source in &args.sources {
            print(&client, source, out).await?;
        }
        client.close().await;
        return out.flush();
    }
    let target = args.target.clone();
    let failed = |error| Failure::io(&args.target, &error);
    let stands = match blocking(move || stands(&target)).await.map_err(failed)? {
        Stands::Stream(mut stream) => {
            // `/dev/null`, a FIFO: what it is must stay as it is, so nothing is put in its place.
            for source in &args.sources {
                pour(&client, source, |chunk| stream.write_all(chunk).map_err(failed)).await?;
            }
            client.close().await;
            return Ok(());
        }
        Stands::Plain(stands) => stands,
    };
    let landings = plan::landings(args.sources, &args.target, stands)
        .map_err(|what| Failure::at(text::path(&args.target), what))?;
    let report = Arc::new(Report::new("get", Progress::new(!args.copy.quiet && !args.copy.json)));
    let get = Arc::new(Get {
        client: client.clone(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        memory: Memory::new(),
        names: Arc::new(Unfinished::new()),
        links: Links::default(),
    });
    let mut roots = Vec::new();
    for landing in landings {
        match root(&get, landing, args.copy.recursive).await {
            Ok(root) => roots.push(root),
            Err(failure) => report.fail(&failure),
        }
    }
    let _measuring = begin_measuring(&client, &roots, &report);
    engine::run(&get, roots, context.jobs(args.copy.jobs), &report).await;
    drop(get);
    client.close().await;
    report.end(args.copy.ending(), out)
}

/// What is at a local path.
enum Stands {
    Plain(Target),
    /// A device, FIFO or socket, opened.
    Stream(File),
}

fn stands(target: &Path) -> io::Result<Stands> {
    let plain = match fs::metadata(target) {
        Ok(metadata) if metadata.is_dir() => Target::Directory,
        Ok(metadata) if metadata.is_file() => Target::Other,
        Ok(_) => return OpenOptions::new().write(true).open(target).map(Stands::Stream),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(target) {
            Ok(_) => Target::Other,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Target::Nothing,
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    Ok(Stands::Plain(plain))
}

/// Looks at one source.
async fn root(get: &Get, landing: Landing, recursive: bool) -> Result<Root<Get>, Failure> {
    let Landing { source, place } = landing;
    let place = place.map_err(|what| Failure::at(text::path(&source), what))?;
    // As in `cp -r`: a link is followed if we do not descend, or if it is written as `link/`.
    let found = if recursive && !plan::names_directory(&source) {
        get.client.symlink_metadata(&source).await
    } else {
        get.client.metadata(&source).await
    };
    let metadata = found.map_err(|error| Failure::client(&source, &error))?;
    if metadata.kind == FileKind::Directory {
        if !recursive {
            return Err(Failure::at(text::path(&source), "is a directory (-r copies directories)"));
        }
        return Ok(Root::Dir(source, place, get.attributes(&metadata)));
    }
    if plan::names_directory(&place) {
        return Err(Failure::at(text::path(&place), "not a directory"));
    }
    Ok(Root::Leaf(source, place, metadata))
}

/// Counts what will be copied, if anybody wants to see how far we are. Ends when the guard is dropped.
fn begin_measuring(client: &DfsClient, roots: &[Root<Get>], report: &Arc<Report>) -> DropGuard {
    let stop = CancellationToken::new();
    let mut waiting: Vec<PathBuf> = Vec::new();
    for root in roots {
        match root {
            Root::Dir(source, ..) => waiting.push(source.clone()),
            Root::Leaf(_, _, metadata) => report.progress.expect(1, metadata.size),
        }
    }
    if report.progress.is_visible() {
        let (client, report, stop) = (client.clone(), Arc::clone(report), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(measure(client, waiting, &report.progress)).await });
    }
    stop.drop_guard()
}

async fn measure(client: DfsClient, mut waiting: Vec<PathBuf>, progress: &Progress) {
    while let Some(path) = waiting.pop() {
        // What cannot be read is left to the copy to complain about.
        let Ok(mut entries) = client.read_dir(&path).await else { continue };
        while let Ok(Some(entry)) = entries.next_entry().await {
            match entry.kind {
                FileKind::Directory => waiting.push(path.join(&entry.name)),
                FileKind::File => progress.expect(1, entry.metadata.size),
                FileKind::Symlink => progress.expect(1, 0),
                FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {}
            }
        }
    }
    progress.all_expected();
}
