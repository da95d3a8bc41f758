//! `cairn du`.

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

use cairn_client::{DfsClient, FileKind};
use serde::Serialize;
use tokio::task::JoinSet;

use super::Complaints;
use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::{JsonArray, JsonPath, Out},
    text,
};

/// Directories listed at once.
const LISTINGS_MAX: usize = 16;

/// What lies below a shown directory.
struct Sum {
    path: PathBuf,
    parent: Option<usize>,
    depth: usize,
    counts: Counts,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Counts {
    bytes: u64,
    files: u64,
    directories: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    path: JsonPath,
    #[serde(flatten)]
    counts: &'a Counts,
}

/// A directory to be listed, and the sum it belongs to.
struct Waiting {
    path: PathBuf,
    sum: usize,
}

/// Runs the command.
pub async fn run(args: args::Du, context: &Context, out: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("du");
    let mut json = if args.json { Some(JsonArray::begin(out)?) } else { None };
    let max_depth = if args.summarize { 0 } else { args.max_depth.unwrap_or(usize::MAX) };
    for path in &args.paths {
        for Sum { path, counts, .. } in sum_up(&client, path, max_depth, &mut complaints).await? {
            match &mut json {
                Some(json) => json.element(out, &Line { path: JsonPath::from(path.as_path()), counts: &counts })?,
                None => {
                    out.text(format_args!("{}\t", text::size(counts.bytes, args.human_readable)))?;
                    out.name(path.as_os_str())?;
                    out.line("")?;
                }
            }
        }
    }
    if let Some(json) = json {
        json.end(out)?;
    }
    client.close().await;
    complaints.end()
}

/// The sums of a path and of the directories below it down to a depth, each after those below it.
async fn sum_up(
    client: &DfsClient,
    path: &Path,
    max_depth: usize,
    complaints: &mut Complaints,
) -> Result<Vec<Sum>, Failure> {
    let found = client.metadata(path).await.map_err(|error| Failure::client(path, &error));
    let Some(metadata) = complaints.hear(found)? else { return Ok(Vec::new()) };
    let mut sums = vec![Sum { path: path.to_path_buf(), parent: None, depth: 0, counts: Counts::default() }];
    if metadata.kind != FileKind::Directory {
        sums[0].counts = Counts { bytes: metadata.size, files: 1, directories: 0 };
        return Ok(sums);
    }
    let mut waiting = vec![Waiting { path: path.to_path_buf(), sum: 0 }];
    let mut listings = JoinSet::new();
    loop {
        while listings.len() < LISTINGS_MAX
            && let Some(dir) = waiting.pop()
        {
            listings.spawn(list(client.clone(), dir));
        }
        let Some(ended) = listings.join_next().await else { break };
        let (dir, counts, below) = ended.map_err(|crash| Failure::at("internal error", crash))?;
        sums[dir.sum].counts.add(counts);
        let Some(below) = complaints.hear(below)? else { continue };
        for path in below {
            let mut sum = dir.sum;
            if sums[sum].depth < max_depth {
                sums.push(Sum {
                    path: path.clone(),
                    parent: Some(sum),
                    depth: sums[sum].depth + 1,
                    counts: Counts::default(),
                });
                sum = sums.len() - 1;
            }
            waiting.push(Waiting { path, sum });
        }
    }
    // A directory was found after its parent: from the last to the first, each is complete before it is added.
    for index in (1..sums.len()).rev() {
        let counts = sums[index].counts;
        let parent = sums[index].parent.expect("only the first has no parent");
        sums[parent].counts.add(counts);
    }
    sums.sort_by(|a, b| children_first(&a.path, &b.path));
    Ok(sums)
}

/// Lists one directory: what its files come to, and the directories in it.
async fn list(client: DfsClient, dir: Waiting) -> (Waiting, Counts, Result<Vec<PathBuf>, Failure>) {
    let mut counts = Counts { directories: 1, ..Counts::default() };
    let below = async {
        let mut below = Vec::new();
        let mut entries = client.read_dir(&dir.path).await?;
        while let Some(entry) = entries.next_entry().await? {
            if entry.kind == FileKind::Directory {
                below.push(dir.path.join(&entry.name));
            } else {
                counts.add(Counts { bytes: entry.metadata.size, files: 1, directories: 0 });
            }
        }
        Ok(below)
    };
    let below = below.await.map_err(|error| Failure::client(&dir.path, &error));
    (dir, counts, below)
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.files += other.files;
        self.directories += other.directories;
    }
}

/// By name, but what is in a directory comes before it.
fn children_first(a: &Path, b: &Path) -> Ordering {
    let (mut a, mut b) = (a.components(), b.components());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Greater,
            (Some(_), None) => return Ordering::Less,
            (Some(a), Some(b)) if a != b => return a.cmp(&b),
            (Some(_), Some(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_directory_comes_before_it() {
        let mut paths = ["/x", "/x/b", "/x/a", "/x/a/d", "/x/a.b", "/x/a/c"].map(Path::new);
        paths.sort_by(|a, b| children_first(a, b));
        assert_eq!(paths, ["/x/a/c", "/x/a/d", "/x/a", "/x/a.b", "/x/b", "/x"].map(Path::new));
    }
}
