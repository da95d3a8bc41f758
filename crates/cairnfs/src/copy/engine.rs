//! Walks a tree and copies it, many entries at once, with bounded memory: directories are listed by a few tasks, files
//! go through a bounded queue to the jobs, and a directory gets its attributes when the last of its content is done.
//! Knows nothing of which side is local. `cairn rm -r` walks with it, too: to remove is to copy to nowhere.

use std::{
    ffi::OsStr,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::report::{Copied, Report};
use crate::failure::Failure;

/// Directories listed at once.
const LISTINGS_MAX: usize = 16;
/// Files found but not yet begun.
const QUEUE_LEN: usize = 512;

/// One direction of copying.
pub trait Direction: Send + Sync + Sized + 'static {
    /// What is known of a directory before it is copied.
    type DirFacts: Send + Sync + 'static;
    /// What is known of anything else before it is copied.
    type LeafFacts: Send + Sync + 'static;

    /// Makes the target directory, or finds it there.
    fn enter(&self, dir: &Dir<Self>) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Tells the listing what the source directory holds.
    fn list(&self, listing: Listing<Self>) -> impl Future<Output = Listed<Self>> + Send;

    /// Copies one file or symbolic link; afterwards the target is whole, or as it was before.
    fn copy(&self, leaf: &Leaf<Self>, report: &Report) -> impl Future<Output = Result<Copied, Failure>> + Send;

    /// Gives the target directory the attributes of the source; all content is there.
    fn leave(&self, dir: &Dir<Self>) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A directory on its way. It is alive as long as some of its content is not done.
pub struct Dir<D: Direction> {
    pub source: PathBuf,
    pub target: PathBuf,
    pub facts: D::DirFacts,
    parent: Option<Arc<Dir<D>>>,
}

impl<D: Direction> Dir<D> {
    /// Whether the copy began here.
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }
}

/// A file or symbolic link on its way.
pub struct Leaf<D: Direction> {
    pub source: PathBuf,
    pub target: PathBuf,
    pub facts: D::LeafFacts,
    parent: Option<Arc<Dir<D>>>,
}

/// Where a copy begins.
pub enum Root<D: Direction> {
    Dir(PathBuf, PathBuf, D::DirFacts),
    Leaf(PathBuf, PathBuf, D::LeafFacts),
}

/// Takes what one directory holds.
pub struct Listing<D: Direction> {
    dir: Arc<Dir<D>>,
    leaves: mpsc::Sender<Leaf<D>>,
    dirs: Vec<Dir<D>>,
    pub report: Arc<Report>,
}

/// A directory that has been listed, and the directories in it.
pub struct Listed<D: Direction> {
    dir: Arc<Dir<D>>,
    dirs: Vec<Dir<D>>,
}

/// Nobody takes further entries: the copy gave up.
pub struct Closed;

impl<D: Direction> Listing<D> {
    /// The directory's place at the source.
    pub fn source(&self) -> &Path {
        &self.dir.source
    }

    /// A directory was found.
    pub fn dir(&mut self, name: &OsStr, facts: D::DirFacts) {
        let (source, target) = (self.dir.source.join(name), self.dir.target.join(name));
        self.dirs.push(Dir { source, target, facts, parent: Some(Arc::clone(&self.dir)) });
    }

    /// Anything else was found. Waits while the queue is full.
    pub async fn leaf(&self, name: &OsStr, facts: D::LeafFacts) -> Result<(), Closed> {
        let (source, target) = (self.dir.source.join(name), self.dir.target.join(name));
        let leaf = Leaf { source, target, facts, parent: Some(Arc::clone(&self.dir)) };
        self.leaves.send(leaf).await.map_err(|_| Closed)
    }

    /// The directory has been listed, as far as it could be.
    pub fn end(self) -> Listed<D> {
        Listed { dir: self.dir, dirs: self.dirs }
    }
}

/// Copies all roots; what happens goes to the report.
pub async fn run<D: Direction>(direction: &Arc<D>, roots: Vec<Root<D>>, jobs: usize, report: &Arc<Report>) {
    let (leaves, queue) = mpsc::channel(QUEUE_LEN);
    let copying = tokio::spawn(copy_leaves(Arc::clone(direction), queue, jobs, Arc::clone(report)));
    let mut dirs = Vec::new();
    for root in roots {
        match root {
            Root::Dir(source, target, facts) => dirs.push(Dir { source, target, facts, parent: None }),
            Root::Leaf(source, target, facts) => {
                // Closed: the copy gave up, and has said so.
                let _ = leaves.send(Leaf { source, target, facts, parent: None }).await;
            }
        }
    }
    let mut listings = JoinSet::new();
    loop {
        while listings.len() < LISTINGS_MAX && !report.stopped() {
            // Last in, first out: that keeps few directories waiting.
            let Some(dir) = dirs.pop() else { break };
            listings.spawn(walk(Arc::clone(direction), dir, leaves.clone(), Arc::clone(report)));
        }
        match listings.join_next().await {
            Some(Ok(found)) => dirs.extend(found),
            Some(Err(crash)) => report.fail(&Failure::at("internal error", crash)),
            None => break,
        }
    }
    drop(leaves);
    if let Err(crash) = copying.await {
        report.fail(&Failure::at("internal error", crash));
    }
}

/// Makes and lists one directory; returns the directories in it.
async fn walk<D: Direction>(
    direction: Arc<D>,
    dir: Dir<D>,
    leaves: mpsc::Sender<Leaf<D>>,
    report: Arc<Report>,
) -> Vec<Dir<D>> {
    if let Err(failure) = direction.enter(&dir).await {
        report.fail(&failure);
        release(&*direction, dir.parent, &report).await;
        return Vec::new();
    }
    report.directory();
    let listing = Listing { dir: Arc::new(dir), leaves, dirs: Vec::new(), report: Arc::clone(&report) };
    let Listed { dir, dirs } = direction.list(listing).await;
    release(&*direction, Some(dir), &report).await;
    dirs
}

/// Copies files as they come, at most `jobs` at once.
async fn copy_leaves<D: Direction>(
    direction: Arc<D>,
    mut queue: mpsc::Receiver<Leaf<D>>,
    jobs: usize,
    report: Arc<Report>,
) {
    let slots = Arc::new(Semaphore::new(jobs));
    let mut running = JoinSet::new();
    while let Some(leaf) = queue.recv().await {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the slots are never closed");
        if report.stopped() {
            break;
        }
        let (direction, report_of_job) = (Arc::clone(&direction), Arc::clone(&report));
        running.spawn(async move {
            let _slot = slot;
            let outcome = direction.copy(&leaf, &report_of_job).await;
            report_of_job.outcome(&leaf.source, outcome);
            release(&*direction, leaf.parent, &report_of_job).await;
        });
        while let Some(ended) = running.try_join_next() {
            tell_crash(ended, &report);
        }
    }
    while let Some(ended) = running.join_next().await {
        tell_crash(ended, &report);
    }
}

fn tell_crash(ended: Result<(), tokio::task::JoinError>, report: &Report) {
    if let Err(crash) = ended {
        report.fail(&Failure::at("internal error", crash));
    }
}

/// Gives up one share of a directory. Whoever holds the last share leaves it, and gives up its share of the parent.
async fn release<D: Direction>(direction: &D, mut share: Option<Arc<Dir<D>>>, report: &Report) {
    while let Some(dir) = share.and_then(Arc::into_inner) {
        if !report.stopped()
            && let Err(failure) = direction.leave(&dir).await
        {
            report.fail(&failure);
        }
        share = dir.parent;
    }
}

#[cfg(test)]
mod tests;
