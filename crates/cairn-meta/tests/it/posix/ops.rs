//! The operations, how they are drawn, and what an answer and a tree look like.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Names there are: few, so that operations meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Bytes of a path that is made longer.
const PATH_LEN_MAX: usize = 10;
/// Bytes of a file: it stays inline, so that its content is in metadata alone.
pub const SIZE_MAX: usize = 2048;

/// Attributes that are set and removed.
pub const XATTRS: [&str; 2] = ["user.one", "user.two"];

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    Mkdir {
        path: String,
        mode: u32,
    },
    Create {
        path: String,
        exclusive: bool,
    },
    Symlink {
        path: String,
        target: String,
    },
    Link {
        from: String,
        to: String,
    },
    Fifo {
        path: String,
    },
    Unlink {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        how: Renaming,
    },
    Write {
        path: String,
        offset: usize,
        data: Vec<u8>,
    },
    Append {
        path: String,
        data: Vec<u8>,
    },
    Truncate {
        path: String,
        size: usize,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    SetXattr {
        path: String,
        name: &'static str,
        value: Vec<u8>,
    },
    RemoveXattr {
        path: String,
        name: &'static str,
    },
    /// Looks at what is there, links in the last component not followed, in one request.
    Look {
        path: String,
    },
    /// The names in a directory, in one request.
    List {
        path: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renaming {
    Replace,
    NoReplace,
    Exchange,
}

/// What an operation says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Done,
    NotFound,
    Exists,
    NotADirectory,
    IsADirectory,
    NotEmpty,
    Invalid,
    TooManySymlinks,
    NotPermitted,
    NoAttribute,
    /// What was seen, as [`seen`] tells it apart.
    Seen(u64),
}

/// A number for what was seen.
pub fn seen(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// What stands at a path.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Node {
    Dir { mode: u32, xattrs: BTreeMap<String, Vec<u8>> },
    File { mode: u32, nlink: u32, data: Vec<u8>, xattrs: BTreeMap<String, Vec<u8>> },
    Symlink { nlink: u32, target: String },
    Fifo { mode: u32, nlink: u32 },
}

/// Everything below the root by path, and the paths that share an inode with an earlier one: by the first of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tree {
    pub nodes: BTreeMap<String, Node>,
    pub links: BTreeMap<String, String>,
}

impl Op {
    /// Draws one; mostly about what is in `tree`, so that enough of them can be done.
    pub fn draw(rng: &mut fastrand::Rng, tree: &Tree) -> Self {
        match rng.u32(..100) {
            0..16 => Op::Mkdir { path: free(rng, tree), mode: [0o755, 0o700, 0o1777][rng.usize(..3)] },
            16..32 => Op::Create { path: free(rng, tree), exclusive: rng.bool() },
            32..37 => Op::Symlink { path: free(rng, tree), target: target(rng) },
            37..45 => Op::Link { from: taken(rng, tree), to: free(rng, tree) },
            45..47 => Op::Fifo { path: free(rng, tree) },
            47..53 => Op::Unlink { path: taken(rng, tree) },
            53..57 => Op::Rmdir { path: taken(rng, tree) },
            57..75 => {
                let how = match rng.u32(..10) {
                    0..6 => Renaming::Replace,
                    6..8 => Renaming::NoReplace,
                    _ => Renaming::Exchange,
                };
                let from = taken(rng, tree);
                Op::Rename { from, to: if rng.bool() { free(rng, tree) } else { taken(rng, tree) }, how }
            }
            75..83 => {
                let data = data(rng, 64);
                Op::Write { path: taken(rng, tree), offset: rng.usize(..SIZE_MAX - data.len()), data }
            }
            83..87 => Op::Append { path: taken(rng, tree), data: data(rng, 32) },
            87..91 => Op::Truncate { path: taken(rng, tree), size: rng.usize(..SIZE_MAX / 2) },
            91..94 => Op::Chmod { path: taken(rng, tree), mode: [0o600, 0o644, 0o4755][rng.usize(..3)] },
            94..97 => Op::SetXattr { path: taken(rng, tree), name: XATTRS[rng.usize(..2)], value: data(rng, 16) },
            97..98 => Op::RemoveXattr { path: taken(rng, tree), name: XATTRS[rng.usize(..2)] },
            98..99 => Op::Look { path: taken(rng, tree) },
            _ => Op::List { path: taken(rng, tree) },
        }
    }

    /// Draws one that is a single request and about names alone, of which there are so few that everybody meets.
    pub fn draw_contended(rng: &mut fastrand::Rng) -> Self {
        let mut path = || {
            let name = |rng: &mut fastrand::Rng| format!("/{}", NAMES[rng.usize(..2)]);
            let top = name(rng);
            if rng.u32(..3) == 0 { top + &name(rng) } else { top }
        };
        let (one, two) = (path(), path());
        match rng.u32(..16) {
            0..3 => Op::Mkdir { path: one, mode: 0o755 },
            3..5 => Op::Create { path: one, exclusive: true },
            5 => Op::Symlink { path: one, target: "a".into() },
            6..8 => Op::Link { from: one, to: two },
            8 => Op::Unlink { path: one },
            9 => Op::Rmdir { path: one },
            10..12 => Op::Rename { from: one, to: two, how: Renaming::Replace },
            12 => Op::Rename { from: one, to: two, how: Renaming::NoReplace },
            13 => Op::Rename { from: one, to: two, how: Renaming::Exchange },
            14 => Op::Look { path: one },
            _ => Op::List { path: one },
        }
    }
}

/// Any path: what lies deep needs directories that are there already.
fn path(rng: &mut fastrand::Rng) -> String {
    let depth = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3][rng.usize(..10)];
    (0..depth).map(|_| format!("/{}", NAMES[rng.usize(..NAMES.len())])).collect()
}

/// Mostly one that leads somewhere.
fn taken(rng: &mut fastrand::Rng, tree: &Tree) -> String {
    match tree.nodes.keys().nth(rng.usize(..tree.nodes.len().max(1))) {
        Some(path) if rng.u32(..4) > 0 => path.clone(),
        _ => path(rng),
    }
}

/// Mostly a name in a directory that is there, which may be taken.
fn free(rng: &mut fastrand::Rng, tree: &Tree) -> String {
    let dirs = || tree.nodes.iter().filter(|(_, node)| matches!(node, Node::Dir { .. })).map(|(path, _)| path);
    match dirs().nth(rng.usize(..dirs().count().max(1))) {
        Some(dir) if rng.u32(..2) > 0 && dir.len() < PATH_LEN_MAX => {
            format!("{dir}/{}", NAMES[rng.usize(..NAMES.len())])
        }
        _ => path(rng),
    }
}

/// Where a symbolic link leads: relative and without `..`, so that it stays below the root of a local directory too.
fn target(rng: &mut fastrand::Rng) -> String {
    path(rng)[1..].to_owned()
}

fn data(rng: &mut fastrand::Rng, max: usize) -> Vec<u8> {
    let len = 1 + rng.usize(..max);
    std::iter::repeat_with(|| rng.u8(1..)).take(len).collect()
}
