//! `cairn rm -r`: removes a tree, many entries at once.

use std::{path::Path, sync::Arc};

use cairn_client::{DfsClient, ErrorKind, FileKind};

use crate::{
    copy::{
        engine::{self, Dir, Direction, Leaf, Listed, Listing, Root},
        progress::Progress,
        report::{Copied, Report},
    },
    failure::Failure,
};

struct Remove {
    client: DfsClient,
    report: Arc<Report>,
    /// Past the trash.
    purge: bool,
}

impl Direction for Remove {
    type DirFacts = ();
    type LeafFacts = ();

    async fn enter(&self, _: &Dir<Self>) -> Result<(), Failure> {
        Ok(())
    }

    async fn list(&self, mut listing: Listing<Self>) -> Listed<Self> {
        let path = listing.source().to_path_buf();
        let listed = async {
            let mut entries = self.client.read_dir(&path).await?;
            while let Some(entry) = entries.next_entry().await? {
                if entry.kind == FileKind::Directory {
                    listing.dir(&entry.name, ());
                } else if listing.leaf(&entry.name, ()).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        if let Err(error) = listed.await {
            self.report.fail(&Failure::client(&path, &error));
        }
        listing.end()
    }

    async fn copy(&self, leaf: &Leaf<Self>, _: &Report) -> Result<Copied, Failure> {
        let removed = match self.purge {
            true => self.client.purge_file(&leaf.source).await,
            false => self.client.remove_file(&leaf.source).await,
        };
        match removed {
            // Gone already is as good.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::client(&leaf.source, &error)),
            _ => Ok(Copied::File(0)),
        }
    }

    async fn leave(&self, dir: &Dir<Self>) -> Result<(), Failure> {
        let removed = match self.purge {
            true => self.client.purge_dir(&dir.source).await,
            false => self.client.remove_dir(&dir.source).await,
        };
        match removed {
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Ok(()),
                // That something in it could not be removed has been said.
                ErrorKind::DirectoryNotEmpty if self.report.has_failures() => Ok(()),
                _ => Err(Failure::client(&dir.source, &error)),
            },
            Ok(_) => Ok(()),
        }
    }
}

/// Removes a directory with all that is in it. Symbolic links are removed, not followed.
///
/// # Errors
/// What could not be removed has been said.
pub async fn tree(client: &DfsClient, path: &Path, jobs: usize, purge: bool) -> Result<(), Failure> {
    // In one step, where a trash keeps it.
    if !purge && client.try_remove_tree(path).await.map_err(|error| Failure::client(path, &error))? {
        return Ok(());
    }
    let report = Arc::new(Report::new("rm", Progress::new(false)));
    let remove = Arc::new(Remove { client: client.clone(), report: Arc::clone(&report), purge });
    engine::run(&remove, vec![Root::Dir(path.to_path_buf(), path.to_path_buf(), ())], jobs, &report).await;
    if report.has_failures() { Err(Failure::Told) } else { Ok(()) }
}
