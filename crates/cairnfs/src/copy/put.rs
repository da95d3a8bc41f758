//! `cairn put`: from the local disk into CairnFS.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use cairn_client::{CreateOptions, DfsClient, Error, ErrorKind, FileKind, SetAttributes, SetTime};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    engine::{self, Dir, Direction, Leaf, Listed, Listing, Root},
    is_standard,
    links::Links,
    local::{self, Attributes, Entry, Opened, Source, Unfinished, blocking},
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

/// Permissions of what comes from standard input.
const STDIN_MODE: u32 = 0o644;

struct Put {
    client: DfsClient,
    uid: u32,
    gid: u32,
    memory: Memory,
    links: Links,
    names: Unfinished,
}

/// What is known of a file when it is found.
struct Found {
    source: Source,
    kind: fs::FileType,
}

impl Direction for Put {
    type DirFacts = Attributes;
    type LeafFacts = Found;

    async fn enter(&self, dir: &Dir<Self>) -> Result<(), Failure> {
        let failed = |error| Failure::client(&dir.target, &error);
        match self.client.create_dir_with(&dir.target, self.options(dir.facts)).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let found = if dir.is_root() {
                    self.client.metadata(&dir.target).await
                } else {
                    self.client.symlink_metadata(&dir.target).await
                };
                match found.map_err(failed)?.kind {
                    FileKind::Directory => Ok(()),
                    _ => Err(Failure::at(text::path(&dir.target), "exists and is not a directory")),
                }
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn list(&self, mut listing: Listing<Self>) -> Listed<Self> {
        let source = listing.source().to_path_buf();
        // In portions, so that no thread waits while the queue of files is full.
        let path = source.clone();
        let mut entries = match blocking(move || fs::read_dir(path)).await {
            Ok(entries) => entries,
            Err(error) => {
                listing.report.fail(&Failure::io(&source, &error));
                return listing.end();
            }
        };
        loop {
            let portion;
            (entries, portion) = blocking(move || local::read_portion(entries)).await;
            if portion.is_empty() {
                return listing.end();
            }
            for entry in portion {
                match entry {
                    Entry::Dir(name, attributes) => listing.dir(&name, attributes),
                    Entry::Leaf(name, kind) => {
                        if listing.leaf(&name, Found { source: Source::Found, kind }).await.is_err() {
                            return listing.end();
                        }
                    }
                    Entry::Broken(error) => {
                        listing.report.fail(&Failure::io(&source, &error));
                        return listing.end();
                    }
                    Entry::Unknown(name, error) => listing.report.fail(&Failure::io(&source.join(name), &error)),
                }
            }
        }
    }

    async fn copy(&self, leaf: &Leaf<Self>, report: &Report) -> Result<Copied, Failure> {
        let kind = leaf.facts.kind;
        if kind.is_symlink() && leaf.facts.source == Source::Found {
            self.put_symlink(&leaf.source, &leaf.target).await.map(|()| Copied::Symlink)
        } else if kind.is_file() || leaf.facts.source == Source::Named {
            self.put_file(leaf, report).await
        } else {
            Ok(Copied::Skipped(local::special(kind)))
        }
    }

    async fn leave(&self, dir: &Dir<Self>) -> Result<(), Failure> {
        let Attributes { mode, mtime_ns } = dir.facts;
        let attributes =
            SetAttributes { mode: Some(mode), mtime: Some(SetTime::At(mtime_ns)), ..SetAttributes::default() };
        let set = self.client.set_attributes(&dir.target, attributes).await;
        set.map(drop).map_err(|error| Failure::client(&dir.target, &error))
    }
}

impl Put {
    fn owned(&self) -> CreateOptions {
        CreateOptions::new().uid(self.uid).gid(self.gid)
    }

    fn options(&self, attributes: Attributes) -> CreateOptions {
        self.owned().mode(attributes.mode).mtime_ns(attributes.mtime_ns)
    }

    /// Copies a file, or gives its copy a further name.
    async fn put_file(&self, leaf: &Leaf<Self>, report: &Report) -> Result<Copied, Failure> {
        let mut turn = None;
        if leaf.facts.kind.is_file() && leaf.facts.source == Source::Found {
            let source = leaf.source.clone();
            if let Some(id) = blocking(move || local::linked(&source)).await {
                turn = self.links.turn(id).await;
            }
        }
        // Where there can be no link, as across the border of a quota, it is copied once more.
        if let Some(first) = turn.as_ref().and_then(|turn| turn.as_ref())
            && self.link(first, &leaf.target).await.is_ok()
        {
            return Ok(Copied::File(0));
        }
        let copied = self.put_content(leaf, report).await?;
        if let Some(turn) = &mut turn {
            **turn = Some(leaf.target.clone());
        }
        Ok(copied)
    }

    /// Gives what was copied a further name, in place of whatever has it.
    async fn link(&self, first: &Path, target: &Path) -> Result<(), Error> {
        match self.client.hard_link(first, target).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => return linked.map(drop),
        }
        let unfinished = self.names.beside(target);
        self.client.hard_link(first, &unfinished).await?;
        let renamed = self.client.rename(&unfinished, target).await;
        // Two names of one file stay as they are when one is renamed to the other; after a failure it goes, too.
        let _ = self.client.purge_file(&unfinished).await;
        renamed
    }

    async fn put_content(&self, leaf: &Leaf<Self>, report: &Report) -> Result<Copied, Failure> {
        let source = leaf.source.clone();
        let len = if leaf.facts.kind.is_file() { blocking(move || local::len(&source)).await } else { 0 };
        let _held = self.memory.hold(len).await;
        let (source, how) = (leaf.source.clone(), leaf.facts.source);
        let opened = blocking(move || local::open(&source, how)).await;
        match opened.map_err(|error| Failure::io(&leaf.source, &error))? {
            Opened::Piece(attributes, piece) => {
                let len = piece.len() as u64;
                self.write_piece(&leaf.target, self.options(attributes), piece.into()).await?;
                report.progress.bytes(len);
                Ok(Copied::File(len))
            }
            Opened::Stream(attributes, reader) => {
                let len =
                    self.write_stream(&leaf.source, &leaf.target, self.options(attributes), reader, report).await?;
                Ok(Copied::File(len))
            }
            Opened::Special(what) => Ok(Copied::Skipped(what)),
            Opened::Directory => Err(Failure::at(text::path(&leaf.source), "is a directory (-r copies directories)")),
        }
    }

    async fn write_piece(&self, target: &Path, options: CreateOptions, piece: Bytes) -> Result<(), Failure> {
        let written = self.client.write_atomic(target, piece, options).await;
        written.map(drop).map_err(|error| Failure::client(target, &error))
    }

    /// Copies what a reader gives; nothing appears unless all of it was read and written.
    async fn write_stream(
        &self,
        source: &Path,
        target: &Path,
        options: CreateOptions,
        reader: Box<dyn io::Read + Send>,
        report: &Report,
    ) -> Result<u64, Failure> {
        let created = self.client.create_atomic(target, options).await;
        let mut file = created.map_err(|error| Failure::client(target, &error))?;
        let mut chunks = local::read_chunks(reader);
        let mut len = 0;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|error| Failure::io(source, &error))?;
            file.write_all(&chunk).await.map_err(|error| Failure::io(target, &error))?;
            len += chunk.len() as u64;
            report.progress.bytes(chunk.len() as u64);
        }
        file.finish().await.map_err(|error| Failure::client(target, &error))?;
        Ok(len)
    }

    /// Copies a link; one that exists is replaced, as is a file.
    async fn put_symlink(&self, source: &Path, target: &Path) -> Result<(), Failure> {
        let path = source.to_path_buf();
        let read = blocking(move || Ok((fs::read_link(&path)?, Attributes::from(&fs::symlink_metadata(&path)?)))).await;
        let (content, attributes) = read.map_err(|error| Failure::io(source, &error))?;
        let made = self.client.symlink(&content, target, self.options(attributes)).await;
        made.map(drop).map_err(|error| Failure::client(target, &error))
    }
}

/// Counts what will be copied, for the progress bar. What cannot be read is left to the copy to complain about.
fn measure(roots: Vec<PathBuf>, progress: &Progress, stop: &CancellationToken) {
    let mut waiting = roots;
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if stop.is_cancelled() {
                return;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => waiting.push(entry.path()),
                Ok(metadata) if metadata.is_file() => progress.expect(1, metadata.len()),
                Ok(_) => progress.expect(1, 0),
                Err(_) => {}
            }
        }
    }
    progress.all_expected();
}

/// Runs the command.
///
/// # Errors
/// What was not copied has been said on standard error.
pub async fn run(args: args::Put, context: &Context, out: &mut Out) -> Result<(), Failure> {
    remote_path(&args.target)?;
    if args.sources.iter().any(|source| is_standard(source)) && args.sources.len() > 1 {
        return Err(Failure::usage("-", "standard input can only be the one source"));
    }
    let client = if args.relaxed { context.connect_relaxed().await? } else { context.connect().await? };
    let stands = stands(&client, &args.target).await?;
    let report = Arc::new(Report::new("put", Progress::new(!args.copy.quiet && !args.copy.json)));
    let put = Arc::new(Put {
        client: client.clone(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        memory: Memory::new(),
        links: Links::default(),
        names: Unfinished::new(),
    });
    if args.sources.first().is_some_and(|source| is_standard(source)) {
        let outcome = put_stdin(&put, &args.target, stands, &report).await;
        report.outcome(Path::new("-"), outcome);
    } else {
        let landings = plan::landings(args.sources, &args.target, stands)
            .map_err(|what| Failure::at(text::path(&args.target), what))?;
        let recursive = args.copy.recursive;
        let roots = blocking(move || landings.into_iter().map(|landing| root(landing, recursive)).collect()).await;
        let (roots, _measuring) = begin(roots, &report);
        engine::run(&put, roots, context.jobs(args.copy.jobs), &report).await;
    }
    drop(put);
    client.close().await;
    report.end(args.copy.ending(), out)
}

/// Tells the failures among the roots, and measures the rest if anybody wants to see how far we are.
fn begin(found: Vec<Result<Root<Put>, Failure>>, report: &Arc<Report>) -> (Vec<Root<Put>>, DropGuard) {
    let stop = CancellationToken::new();
    let mut roots = Vec::new();
    let mut dirs = Vec::new();
    for root in found {
        match root {
            Ok(root) => {
                match &root {
                    Root::Dir(source, ..) => dirs.push(source.clone()),
                    Root::Leaf(source, ..) => report.progress.expect(1, local::len(source)),
                }
                roots.push(root);
            }
            Err(failure) => report.fail(&failure),
        }
    }
    if report.progress.is_visible() {
        let (report, stop) = (Arc::clone(report), stop.clone());
        tokio::task::spawn_blocking(move || measure(dirs, &report.progress, &stop));
    }
    (roots, stop.drop_guard())
}

/// Looks at one source.
fn root(landing: Landing, recursive: bool) -> Result<Root<Put>, Failure> {
    let Landing { source, place } = landing;
    let place = place.map_err(|what| Failure::at(text::path(&source), what))?;
    // As in `cp -r`: a link is followed if we do not descend, or if it is written as `link/`.
    let how = if recursive { Source::Found } else { Source::Named };
    let metadata = if recursive { fs::symlink_metadata(&source) } else { fs::metadata(&source) };
    let metadata = metadata.map_err(|error| Failure::io(&source, &error))?;
    if metadata.is_dir() {
        if !recursive {
            return Err(Failure::at(text::path(&source), "is a directory (-r copies directories)"));
        }
        return Ok(Root::Dir(source, place, Attributes::from(&metadata)));
    }
    if plan::names_directory(&place) {
        return Err(Failure::at(text::path(&place), "not a directory"));
    }
    Ok(Root::Leaf(source, place, Found { source: how, kind: metadata.file_type() }))
}

/// What is at a path in CairnFS.
pub async fn stands(client: &DfsClient, target: &Path) -> Result<Target, Failure> {
    let failed = |error| Failure::client(target, &error);
    match client.metadata(target).await {
        Ok(metadata) if metadata.kind == FileKind::Directory => Ok(Target::Directory),
        Ok(_) => Ok(Target::Other),
        Err(error) if error.kind() == ErrorKind::NotFound => match client.symlink_metadata(target).await {
            Ok(_) => Ok(Target::Other),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Target::Nothing),
            Err(error) => Err(failed(error)),
        },
        Err(error) => Err(failed(error)),
    }
}

async fn put_stdin(put: &Put, target: &Path, stands: Target, report: &Report) -> Result<Copied, Failure> {
    if stands == Target::Directory || plan::names_directory(target) {
        return Err(Failure::at(text::path(target), "is a directory; say which file standard input becomes"));
    }
    let options = put.owned().mode(STDIN_MODE);
    let first = blocking(|| local::read_piece(&mut io::stdin().lock(), super::PIECE_LEN)).await;
    let piece = first.map_err(|error| Failure::io(Path::new("standard input"), &error))?;
    let len = piece.len();
    if len <= super::PIECE_LEN {
        put.write_piece(target, options, piece.into()).await?;
        return Ok(Copied::File(len as u64));
    }
    let rest: Box<dyn io::Read + Send> = Box::new(io::Read::chain(io::Cursor::new(piece), io::stdin()));
    put.write_stream(Path::new("standard input"), target, options, rest, report).await.map(Copied::File)
}
