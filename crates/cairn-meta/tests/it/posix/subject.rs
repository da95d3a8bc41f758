//! Metadata under test: every mutation is repeated under its operation id until it has an answer, and now and then the
//! server is lost in between.

use super::flaky::FlakyEngine;
use super::ops::{Answer, Node, Op, Renaming, Tree, XATTRS, seen};
use crate::support::{ManualClock, at, bytes, options};
use bytes::Bytes;
use cairn_meta::{Meta, MetaOptions};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tries of one request: far beyond what the faults make likely.
const TRIES_MAX: usize = 200;

pub struct Subject {
    engine: Arc<FlakyEngine>,
    meta: Meta,
    clock: Arc<ManualClock>,
    rng: fastrand::Rng,
    session: u64,
    seq: u64,
    /// How often the server was lost and opened anew.
    pub crashes: u64,
}

async fn open(engine: &Arc<FlakyEngine>, clock: &Arc<ManualClock>, seed: u64) -> Meta {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        match Meta::open(engine.clone(), MetaOptions { seed, ..options(clock.clone()) }).await {
            Ok(meta) => return meta,
            Err(error) => last = Some(error),
        }
    }
    panic!("metadata does not open: {last:?}");
}

/// Whether nothing is known about what became of a request.
fn is_open(status: &Status) -> bool {
    matches!(status.code, Code::OutcomeUnknown | Code::Unavailable | Code::Overloaded)
}

fn answer(result: Result<Answer, Status>) -> Answer {
    let status = match result {
        Ok(answer) => return answer,
        Err(status) => status,
    };
    match status.code {
        Code::NotFound => Answer::NotFound,
        Code::Exists => Answer::Exists,
        Code::NotADirectory => Answer::NotADirectory,
        Code::IsADirectory => Answer::IsADirectory,
        Code::NotEmpty => Answer::NotEmpty,
        Code::Invalid => Answer::Invalid,
        Code::TooManySymlinks => Answer::TooManySymlinks,
        Code::NotPermitted => Answer::NotPermitted,
        Code::NoAttribute => Answer::NoAttribute,
        _ => panic!("{status}"),
    }
}

impl Subject {
    pub async fn open(engine: Arc<FlakyEngine>, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::default());
        let meta = open(&engine, &clock, seed).await;
        let rng = fastrand::Rng::with_seed(seed.rotate_left(17));
        let mut subject = Self { engine, meta, clock, rng, session: 0, seq: 0, crashes: 0 };
        // A session whose opening was left open is another one than the one that is used.
        let ask = Kind::OpenSession(pb::OpenSession { name: "test".into(), ..Default::default() });
        let Ok(Reply::OpenSession(reply)) = subject.ask(ask, None).await else { panic!("no session") };
        subject.session = reply.session;
        subject
    }

    /// Asks until there is an answer; a lost server is opened anew.
    async fn ask(&mut self, kind: Kind, op_id: Option<pb::OpId>) -> Result<Reply, Status> {
        let request = pb::Request { op_id, kind: Some(kind), ..Default::default() };
        for _ in 0..TRIES_MAX {
            let result = self.meta.execute(&request).await;
            match result {
                Err(status) if is_open(&status) => {
                    if self.rng.u32(..3) == 0 {
                        self.crash().await;
                    }
                }
                // What was done may be asked for again, whoever is asked: the first answer stands.
                Ok(reply) if op_id.is_some() && self.rng.u32(..8) == 0 => {
                    if self.rng.bool() {
                        self.crash().await;
                    }
                    let again = self.meta.execute(&request).await;
                    match again {
                        Err(status) if is_open(&status) => {}
                        again => assert_eq!(again.as_ref(), Ok(&reply), "{request:?}"),
                    }
                    return Ok(reply);
                }
                result => return result,
            }
        }
        panic!("no answer: {request:?}");
    }

    async fn crash(&mut self) {
        self.crashes += 1;
        self.meta = open(&self.engine, &self.clock, self.seq).await;
    }

    async fn change(&mut self, kind: Kind) -> Result<Reply, Status> {
        self.seq += 1;
        let op_id = pb::OpId { session: self.session, epoch: 1, slot: (self.seq % 3) as u32, seq: self.seq };
        self.ask(kind, Some(op_id)).await
    }

    async fn stat(&mut self, path: &str) -> Result<pb::Attr, Status> {
        match self.ask(Kind::Stat(pb::Stat { at: Some(at(path)), follow: true, ..Default::default() }), None).await? {
            Reply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    pub async fn apply(&mut self, op: &Op) -> Answer {
        answer(match op {
            Op::Look { path } => self.look(path).await,
            Op::List { path } => self.names(path).await,
            _ => self.step(op).await.map(|_| Answer::Done),
        })
    }

    async fn look(&mut self, path: &str) -> Result<Answer, Status> {
        let Reply::Attr(attr) =
            self.ask(Kind::Stat(pb::Stat { at: Some(at(path)), follow: false, ..Default::default() }), None).await?
        else {
            panic!("no attributes")
        };
        let kind = match attr.kind() {
            pb::Kind::Directory => return Ok(Answer::Seen(seen(&(2, attr.mode)))),
            other => other as i32,
        };
        Ok(Answer::Seen(seen(&(kind, attr.mode, attr.nlink, attr.size))))
    }

    async fn names(&mut self, path: &str) -> Result<Answer, Status> {
        let ask = pb::ReadDir { at: Some(at(path)), limit: 100, ..Default::default() };
        let Reply::ReadDir(page) = self.ask(Kind::ReadDir(ask), None).await? else { panic!("no listing") };
        let name = |entry: &pb::DirEntry| String::from_utf8(entry.name.to_vec()).expect("text");
        Ok(Answer::Seen(seen(&page.entries.iter().map(name).collect::<Vec<_>>())))
    }

    async fn step(&mut self, op: &Op) -> Result<Reply, Status> {
        let attr = |mode| Some(pb::NewAttr { mode, ..Default::default() });
        let kind = match op {
            Op::Mkdir { path, mode } => Kind::Mkdir(pb::Mkdir { at: Some(at(path)), attr: attr(*mode) }),
            Op::Create { path, exclusive } => Kind::Create(pb::Create {
                at: Some(at(path)),
                attr: attr(0o644),
                exclusive: *exclusive,
                follow: true,
                ..Default::default()
            }),
            Op::Symlink { path, target } => Kind::Symlink(pb::Symlink {
                at: Some(at(path)),
                target: bytes(target),
                attr: attr(0o777),
                replace: false,
            }),
            Op::Link { from, to } => Kind::Link(pb::Link { from: Some(at(from)), to: Some(at(to)), follow: false }),
            Op::Fifo { path } => {
                Kind::Mknod(pb::Mknod { at: Some(at(path)), attr: attr(0o644), kind: pb::Kind::Fifo as i32, rdev: 0 })
            }
            Op::Unlink { path } => Kind::Unlink(pb::Unlink { at: Some(at(path)), ..Default::default() }),
            Op::Rmdir { path } => Kind::Rmdir(pb::Rmdir { at: Some(at(path)), ..Default::default() }),
            Op::Rename { from, to, how } => Kind::Rename(pb::Rename {
                from: Some(at(from)),
                to: Some(at(to)),
                no_replace: *how == Renaming::NoReplace,
                exchange: *how == Renaming::Exchange,
            }),
            Op::Write { path, offset, data } => {
                let inode = self.stat(path).await?.inode;
                let inline = Some(pb::InlineWrite { offset: *offset as u64, data: Bytes::copy_from_slice(data) });
                Kind::Commit(pb::Commit { inode, inline, ..Default::default() })
            }
            Op::Append { path, data } => {
                let inode = self.stat(path).await?.inode;
                let inline = Some(pb::InlineWrite { offset: 0, data: Bytes::copy_from_slice(data) });
                Kind::Commit(pb::Commit { inode, inline, append: true, ..Default::default() })
            }
            Op::Truncate { path, size } => {
                let inode = self.stat(path).await?.inode;
                Kind::Truncate(pb::Truncate { inode, size: *size as u64, ..Default::default() })
            }
            Op::Chmod { path, mode } => {
                Kind::SetAttr(pb::SetAttr { at: Some(at(path)), follow: true, mode: Some(*mode), ..Default::default() })
            }
            Op::SetXattr { path, name, value } => Kind::SetXattr(pb::SetXattr {
                at: Some(at(path)),
                follow: true,
                name: bytes(name),
                value: Bytes::copy_from_slice(value),
                ..Default::default()
            }),
            Op::RemoveXattr { path, name } => {
                Kind::RemoveXattr(pb::RemoveXattr { at: Some(at(path)), follow: true, name: bytes(name) })
            }
            Op::Look { .. } | Op::List { .. } => panic!("not a change"),
        };
        self.change(kind).await
    }

    pub async fn tree(&mut self) -> Tree {
        let mut tree = Tree::default();
        let mut first = BTreeMap::new();
        // Depth first, in the order of names: what is to be listed lies on a stack, the next on top.
        let mut stack = self.entries("").await;
        while let Some((path, attr)) = stack.pop() {
            let (mode, nlink) = (attr.mode, attr.nlink);
            let node = match attr.kind() {
                pb::Kind::Directory => Node::Dir { mode, xattrs: self.xattrs(&path).await },
                pb::Kind::File => {
                    let (data, xattrs) = (self.data(&attr).await, self.xattrs(&path).await);
                    Node::File { mode, nlink, data, xattrs }
                }
                pb::Kind::Symlink => {
                    Node::Symlink { nlink, target: String::from_utf8(attr.target.to_vec()).expect("text") }
                }
                pb::Kind::Fifo => Node::Fifo { mode, nlink },
                other => panic!("{other:?} was never made"),
            };
            tree.nodes.insert(path.clone(), node);
            if let Some(first) = first.get(&attr.inode) {
                tree.links.insert(path.clone(), String::clone(first));
            } else {
                first.insert(attr.inode, path.clone());
            }
            if attr.kind() == pb::Kind::Directory {
                stack.extend(self.entries(&path).await);
            }
        }
        tree
    }

    /// What a directory holds, last first.
    async fn entries(&mut self, path: &str) -> Vec<(String, pb::Attr)> {
        let ask = pb::ReadDir { at: Some(at(path)), limit: 100, with_attr: true, ..Default::default() };
        let Ok(Reply::ReadDir(page)) = self.ask(Kind::ReadDir(ask), None).await else { panic!("{path} is not listed") };
        assert!(page.end);
        let entry = |entry: pb::DirEntry| {
            let name = String::from_utf8(entry.name.to_vec()).expect("text");
            (format!("{path}/{name}"), entry.attr.expect("asked for"))
        };
        page.entries.into_iter().map(entry).rev().collect()
    }

    async fn data(&mut self, attr: &pb::Attr) -> Vec<u8> {
        let mut data = vec![0; attr.size as usize];
        let ask = pb::GetExtents { inode: attr.inode, len: u64::from(u32::MAX), ..Default::default() };
        let Ok(Reply::GetExtents(map)) = self.ask(Kind::GetExtents(ask), None).await else { panic!("no map") };
        assert_eq!(map.size, attr.size);
        for extent in map.extents {
            let start = extent.offset as usize;
            let end = (start + extent.inline.len()).min(data.len());
            assert!(extent.first.is_none(), "small files have no blocks");
            if start < end {
                data[start..end].copy_from_slice(&extent.inline[..end - start]);
            }
        }
        data
    }

    async fn xattrs(&mut self, path: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for name in XATTRS {
            let ask = pb::GetXattr { at: Some(at(path)), follow: false, name: bytes(name) };
            match self.ask(Kind::GetXattr(ask), None).await {
                Ok(Reply::Xattr(reply)) => {
                    found.insert(name.to_owned(), reply.value.to_vec());
                }
                Err(status) if status.code == Code::NoAttribute => {}
                other => panic!("{other:?}"),
            }
        }
        found
    }

    /// Looks through every row: what hangs together has to.
    pub async fn check(&mut self) {
        self.engine.heal();
        let mut cursor = Bytes::new();
        loop {
            let ask = Kind::CheckRows(pb::CheckRows { cursor, repair: false });
            let Ok(Reply::CheckRows(page)) = self.ask(ask, None).await else { panic!("rows are not checked") };
            assert!(page.findings.is_empty(), "{:?}", page.findings);
            cursor = page.next_cursor;
            if cursor.is_empty() {
                return;
            }
        }
    }
}
