//! Random sequences of namespace operations against a tree in memory.

use crate::support::{World, at, attr, bytes, code};
use cairn_meta::keys::{self, Key};
use cairn_meta::kv::{Engine, MapEngine, Order};
use cairn_meta::rows::{self, Row};
use cairn_proto::limits::SYMLINKS_FOLLOWED_MAX;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::status::Code;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, PartialEq, Debug)]
enum Node {
    Dir { parent: usize, names: BTreeMap<String, usize> },
    File,
    Link(String),
}

/// The reference: nodes by number, 0 is the root.
struct Model {
    nodes: Vec<Node>,
}

/// Directory and name, or a bare directory.
type Place = Result<(usize, String), usize>;

impl Model {
    fn new() -> Self {
        Self { nodes: vec![Node::Dir { parent: 0, names: BTreeMap::new() }] }
    }

    fn names(&mut self, dir: usize) -> &mut BTreeMap<String, usize> {
        match &mut self.nodes[dir] {
            Node::Dir { names, .. } => names,
            other => panic!("{other:?}"),
        }
    }

    fn child(&self, dir: usize, name: &str) -> Option<usize> {
        match &self.nodes[dir] {
            Node::Dir { names, .. } => names.get(name).copied(),
            other => panic!("{other:?}"),
        }
    }

    fn walk(&self, path: &str, follow: bool) -> Result<Place, Code> {
        let split = |path: &str| -> Vec<String> {
            path.split('/').rev().filter(|part| !part.is_empty() && *part != ".").map(str::to_string).collect()
        };
        let (mut dir, mut rest, mut links) = (0, split(path), 0);
        while let Some(name) = rest.pop() {
            if name == ".." {
                let Node::Dir { parent, .. } = &self.nodes[dir] else { panic!("not a directory") };
                dir = *parent;
                continue;
            }
            match self.child(dir, &name).map(|node| (node, &self.nodes[node])) {
                None if !rest.is_empty() => return Err(Code::NotFound),
                Some((_, Node::Link(target))) if follow || !rest.is_empty() => {
                    links += 1;
                    if links > SYMLINKS_FOLLOWED_MAX {
                        return Err(Code::TooManySymlinks);
                    }
                    if target.starts_with('/') {
                        dir = 0;
                    }
                    rest.extend(split(target));
                }
                Some((_, Node::File)) if !rest.is_empty() => return Err(Code::NotADirectory),
                Some((node, Node::Dir { .. })) if !rest.is_empty() => dir = node,
                _ => return Ok(Ok((dir, name))),
            }
        }
        Ok(Err(dir))
    }

    fn add(&mut self, dir: usize, name: String, node: Node) {
        self.nodes.push(node);
        let number = self.nodes.len() - 1;
        self.names(dir).insert(name, number);
    }

    fn is_empty_dir(&self, node: usize) -> bool {
        matches!(&self.nodes[node], Node::Dir { names, .. } if names.is_empty())
    }

    fn is_dir(&self, node: usize) -> bool {
        matches!(self.nodes[node], Node::Dir { .. })
    }

    fn apply(&mut self, op: &Op) -> Result<(), Code> {
        match op {
            Op::Mkdir(path) => {
                let (dir, name) = self.walk(path, false)?.map_err(|_| Code::Exists)?;
                if self.child(dir, &name).is_some() {
                    return Err(Code::Exists);
                }
                self.add(dir, name, Node::Dir { parent: dir, names: BTreeMap::new() });
            }
            Op::Create(path, exclusive) => match self.walk(path, !exclusive)? {
                Err(_) => return Err(if *exclusive { Code::Exists } else { Code::IsADirectory }),
                Ok((dir, name)) => match self.child(dir, &name) {
                    Some(_) if *exclusive => return Err(Code::Exists),
                    Some(node) if self.is_dir(node) => return Err(Code::IsADirectory),
                    Some(_) => {}
                    // Reached through a link that leads nowhere.
                    None if self.walk(path, false)?.ok() != Some((dir, name.clone())) => return Err(Code::NotFound),
                    None => self.add(dir, name, Node::File),
                },
            },
            Op::Symlink(path, target, replace) => {
                let (dir, name) = self.walk(path, false)?.map_err(|_| Code::Exists)?;
                match self.child(dir, &name) {
                    Some(_) if !replace => return Err(Code::Exists),
                    Some(node) if self.is_dir(node) => return Err(Code::IsADirectory),
                    _ => self.add(dir, name, Node::Link(target.clone())),
                }
            }
            Op::Unlink(path) => {
                let (dir, name) = self.walk(path, false)?.map_err(|_| Code::IsADirectory)?;
                let node = self.child(dir, &name).ok_or(Code::NotFound)?;
                if self.is_dir(node) {
                    return Err(Code::IsADirectory);
                }
                self.names(dir).remove(&name);
            }
            Op::Rmdir(path) => {
                let (dir, name) = self.walk(path, false)?.map_err(|_| Code::Invalid)?;
                let node = self.child(dir, &name).ok_or(Code::NotFound)?;
                match (self.is_dir(node), self.is_empty_dir(node)) {
                    (false, _) => return Err(Code::NotADirectory),
                    (_, false) => return Err(Code::NotEmpty),
                    _ => self.names(dir).remove(&name),
                };
            }
            Op::Rename(from, to, no_replace) => self.rename(from, to, *no_replace)?,
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, no_replace: bool) -> Result<(), Code> {
        let (from_dir, from_name) = self.walk(from, false)?.map_err(|_| Code::Invalid)?;
        let (to_dir, to_name) = self.walk(to, false)?.map_err(|_| Code::Exists)?;
        let moved = self.child(from_dir, &from_name).ok_or(Code::NotFound)?;
        let old = self.child(to_dir, &to_name);
        if no_replace && old.is_some() {
            return Err(Code::Exists);
        }
        if self.is_dir(moved) && self.is_below(to_dir, moved) {
            return Err(Code::Invalid);
        }
        match old {
            Some(old) if old == moved => return Ok(()),
            Some(old) => match (self.is_dir(moved), self.is_dir(old)) {
                (true, true) if !self.is_empty_dir(old) => return Err(Code::NotEmpty),
                (true, false) => return Err(Code::NotADirectory),
                (false, true) if self.is_below(from_dir, old) => return Err(Code::NotEmpty),
                (false, true) => return Err(Code::IsADirectory),
                _ => {}
            },
            None => {}
        }
        self.names(from_dir).remove(&from_name);
        self.names(to_dir).insert(to_name, moved);
        if let Node::Dir { parent, .. } = &mut self.nodes[moved] {
            *parent = to_dir;
        }
        Ok(())
    }

    /// Whether `dir` is `top` or lies below it.
    fn is_below(&self, dir: usize, top: usize) -> bool {
        let Node::Dir { parent, .. } = &self.nodes[dir] else { panic!("not a directory") };
        dir == top || dir != 0 && self.is_below(*parent, top)
    }

    /// Every path with what it is.
    fn flat(&self, dir: usize, prefix: &str, out: &mut BTreeMap<String, String>) {
        let Node::Dir { names, .. } = &self.nodes[dir] else { panic!("not a directory") };
        for (name, node) in names {
            let path = format!("{prefix}/{name}");
            match &self.nodes[*node] {
                Node::Dir { .. } => {
                    out.insert(path.clone(), "dir".into());
                    self.flat(*node, &path, out);
                }
                Node::File => drop(out.insert(path, "file".into())),
                Node::Link(target) => drop(out.insert(path, format!("-> {target}"))),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Mkdir(String),
    Create(String, bool),
    Symlink(String, String, bool),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, bool),
}

impl Op {
    fn request(&self) -> Kind {
        match self {
            Op::Mkdir(path) => Kind::Mkdir(pb::Mkdir { at: Some(at(path)), attr: Some(attr(0o755)) }),
            Op::Create(path, exclusive) => Kind::Create(pb::Create {
                at: Some(at(path)),
                attr: None,
                exclusive: *exclusive,
                follow: true,
                ..Default::default()
            }),
            Op::Symlink(path, target, replace) => {
                let (at, target) = (Some(at(path)), bytes(target));
                Kind::Symlink(pb::Symlink { at, target, attr: None, replace: *replace })
            }
            Op::Unlink(path) => Kind::Unlink(pb::Unlink { at: Some(at(path)), ..Default::default() }),
            Op::Rmdir(path) => Kind::Rmdir(pb::Rmdir { at: Some(at(path)), ..Default::default() }),
            Op::Rename(from, to, no_replace) => {
                let (from, to) = (Some(at(from)), Some(at(to)));
                Kind::Rename(pb::Rename { from, to, no_replace: *no_replace, ..Default::default() })
            }
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![6 => "[abc]", 1 => Just("..".to_string()), 1 => Just(".".to_string())];
    let parts = prop::collection::vec(part, 0..4);
    (prop::bool::ANY, parts).prop_map(|(slash, parts)| format!("{}{}", if slash { "/" } else { "" }, parts.join("/")))
}

fn target() -> impl Strategy<Value = String> {
    path().prop_map(|path| if path.is_empty() { "/".into() } else { path })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => path().prop_map(Op::Mkdir),
        3 => (path(), any::<bool>()).prop_map(|(path, exclusive)| Op::Create(path, exclusive)),
        2 => (path(), target(), any::<bool>()).prop_map(|(path, target, replace)| Op::Symlink(path, target, replace)),
        1 => path().prop_map(Op::Unlink),
        1 => path().prop_map(Op::Rmdir),
        4 => (path(), path(), any::<bool>()).prop_map(|(from, to, keep)| Op::Rename(from, to, keep)),
    ]
}

async fn rows_of<K: Key>(engine: &MapEngine) -> Vec<(K, K::Row)> {
    let mut txn = engine.begin().await.expect("begin");
    let rows = txn.scan(&K::all(), 100_000, Order::Forward).await.expect("scan");
    let decode = |(key, value): (bytes::Bytes, bytes::Bytes)| {
        (K::decode(&key).expect("a key"), K::Row::decode(&value).expect("a row"))
    };
    rows.into_iter().map(decode).collect()
}

/// The namespace as its rows say, with every row accounted for.
async fn flat_rows(engine: &MapEngine) -> BTreeMap<String, String> {
    let inodes: BTreeMap<u64, rows::Inode> =
        rows_of::<keys::Inode>(engine).await.into_iter().map(|(key, row)| (key.inode, row)).collect();
    let links: BTreeMap<u64, rows::Symlink> =
        rows_of::<keys::Symlink>(engine).await.into_iter().map(|(key, row)| (key.inode, row)).collect();
    let times = rows_of::<keys::DirTimes>(engine).await;
    let dentries = rows_of::<keys::Dentry>(engine).await;
    // Each inode but the root has exactly one name.
    assert_eq!(dentries.len() + 1, inodes.len());
    let count = |kind| inodes.values().filter(|row| row.kind == kind).count();
    assert_eq!(times.len(), count(rows::Kind::Directory));
    assert_eq!(links.len(), count(rows::Kind::Symlink));
    let mut paths = BTreeMap::from([(1, String::new())]);
    let mut flat = BTreeMap::new();
    let mut left = dentries;
    while !left.is_empty() {
        let before = left.len();
        left.retain(|(key, dentry)| {
            let Some(parent) = paths.get(&key.parent) else { return true };
            let path = format!("{parent}/{}", String::from_utf8_lossy(&key.name));
            let row = &inodes[&dentry.inode];
            assert_eq!(row.kind, dentry.kind);
            let what = match row.kind {
                rows::Kind::Directory => {
                    assert_eq!(row.parent, key.parent, "{path} knows where it is");
                    "dir".to_string()
                }
                rows::Kind::File => "file".into(),
                rows::Kind::Symlink => format!("-> {}", String::from_utf8_lossy(&links[&dentry.inode].target)),
                other => other.word().to_string(),
            };
            paths.insert(dentry.inode, path.clone());
            flat.insert(path, what);
            false
        });
        assert!(left.len() < before, "names that do not hang on the root: {left:?}");
    }
    flat
}

fn check(ops: &[Op]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let engine = MapEngine::new();
        let world = World::over(Arc::new(engine.clone())).await;
        let mut model = Model::new();
        for op in ops {
            let expected = model.apply(op);
            let found = world.change(op.request()).await;
            let found = found.map(|_| ()).map_err(|status| status.code);
            prop_assert_eq!(found, expected, "{:?}", op);
        }
        let mut expected = BTreeMap::new();
        model.flat(0, "", &mut expected);
        prop_assert_eq!(&flat_rows(&engine).await, &expected);
        prop_assert_eq!(world.status().await.inodes, expected.len() as u64 + 1);
        // The listing of each directory says the same as its rows.
        for (path, what) in &expected {
            match what.as_str() {
                "dir" => {
                    let inside = |other: &&String| other.rsplit_once('/').is_some_and(|(parent, _)| parent == path);
                    prop_assert_eq!(
                        world.list(path).await.expect("listed").len(),
                        expected.keys().filter(inside).count()
                    );
                }
                "file" => prop_assert_eq!(world.stat(path).await.expect("there").kind(), pb::Kind::File),
                link => prop_assert_eq!(
                    format!("-> {}", String::from_utf8_lossy(&world.stat(path).await.expect("there").target)),
                    link
                ),
            }
        }
        Ok(())
    })
}

proptest! {
    #[test]
    fn the_namespace_is_the_tree(ops in prop::collection::vec(op(), 1..80)) {
        check(&ops)?;
    }
}

#[tokio::test]
async fn a_path_that_leaves_a_removed_directory_is_refused() {
    let world = World::new().await;
    let dir = world.mkdir("d").await.expect("made").inode;
    world.rmdir("d").await.expect("removed");
    let ask = pb::Stat { at: Some(pb::At { dir, path: bytes("..") }), follow: false, ..Default::default() };
    assert_eq!(code(world.ask(Kind::Stat(ask)).await), Code::NotFound);
}
