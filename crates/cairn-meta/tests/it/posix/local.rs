//! The file system of this machine, in a directory of its own.

#![allow(clippy::disallowed_methods, reason = "the file system of this machine is what metadata is compared with")]

use super::ops::{Answer, Node, Op, Renaming, Tree, seen};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, XattrFlags, chmod, getxattr, linkat, lstat, mkdir, mknodat,
    open, removexattr, renameat_with, rmdir, setxattr, stat, symlink, unlink,
};
use rustix::io::{Errno, pwrite};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;

pub struct Local(TempDir);

impl Local {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(&path[1..])
    }

    pub fn apply(&self, op: &Op) -> Answer {
        let result = match op {
            Op::Look { path } => self.look(path),
            Op::List { path } => self.names(path),
            _ => self.step(op).map(|()| Answer::Done),
        };
        match result {
            Ok(answer) => answer,
            Err(Errno::NOENT) => Answer::NotFound,
            Err(Errno::EXIST) => Answer::Exists,
            Err(Errno::NOTDIR) => Answer::NotADirectory,
            Err(Errno::ISDIR) => Answer::IsADirectory,
            Err(Errno::NOTEMPTY) => Answer::NotEmpty,
            // A fifo without a reader, for who would write.
            Err(Errno::INVAL | Errno::NXIO) => Answer::Invalid,
            Err(Errno::LOOP) => Answer::TooManySymlinks,
            Err(Errno::PERM) => Answer::NotPermitted,
            Err(Errno::NODATA) => Answer::NoAttribute,
            Err(other) => panic!("{op:?}: {other}"),
        }
    }

    fn look(&self, path: &str) -> Result<Answer, Errno> {
        let found = lstat(self.at(path))?;
        let mode = found.st_mode & 0o7777;
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => return Ok(Answer::Seen(seen(&(2, mode)))),
            FileType::Symlink => 3,
            FileType::Fifo => 4,
            _ => 1,
        };
        Ok(Answer::Seen(seen(&(kind, mode, found.st_nlink as u32, found.st_size as u64))))
    }

    fn names(&self, path: &str) -> Result<Answer, Errno> {
        let dir = open(self.at(path), OFlags::DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            names.push(entry?.file_name().to_str().expect("text").to_owned());
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(Answer::Seen(seen(&names)))
    }

    fn step(&self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Mkdir { path, mode } => {
                mkdir(self.at(path), Mode::RWXU)?;
                // The mask of this process is not part of the game.
                chmod(self.at(path), Mode::from_raw_mode(*mode))
            }
            Op::Create { path, exclusive } => self.create(path, *exclusive),
            Op::Symlink { path, target } => symlink(target, self.at(path)),
            Op::Link { from, to } => linkat(CWD, self.at(from), CWD, self.at(to), AtFlags::empty()),
            Op::Fifo { path } => {
                mknodat(CWD, self.at(path), FileType::Fifo, Mode::RUSR, 0)?;
                chmod(self.at(path), Mode::from_raw_mode(0o644))
            }
            Op::Unlink { path } => unlink(self.at(path)),
            Op::Rmdir { path } => rmdir(self.at(path)),
            Op::Rename { from, to, how } => {
                let flags = match how {
                    Renaming::Replace => RenameFlags::empty(),
                    Renaming::NoReplace => RenameFlags::NOREPLACE,
                    Renaming::Exchange => RenameFlags::EXCHANGE,
                };
                renameat_with(CWD, self.at(from), CWD, self.at(to), flags)
            }
            Op::Write { path, offset, data } => {
                let file = open(self.at(path), OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())?;
                pwrite(&file, data, *offset as u64).map(|written| assert_eq!(written, data.len()))
            }
            Op::Append { path, data } => {
                let file = open(self.at(path), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::APPEND, Mode::empty())?;
                rustix::io::write(&file, data).map(|written| assert_eq!(written, data.len()))
            }
            Op::Truncate { path, size } => {
                // A fifo cannot be truncated by its open file, and truncate(2) is not among the safe calls.
                if FileType::from_raw_mode(stat(self.at(path))?.st_mode) == FileType::Fifo {
                    return Err(Errno::INVAL);
                }
                let file = open(self.at(path), OFlags::WRONLY, Mode::empty())?;
                rustix::fs::ftruncate(&file, *size as u64)
            }
            Op::Chmod { path, mode } => chmod(self.at(path), Mode::from_raw_mode(*mode)),
            Op::SetXattr { path, name, value } => setxattr(self.at(path), *name, value, XattrFlags::empty()),
            Op::RemoveXattr { path, name } => removexattr(self.at(path), *name),
            Op::Look { .. } | Op::List { .. } => Ok(()),
        }
    }

    fn create(&self, path: &str, exclusive: bool) -> Result<(), Errno> {
        let at = self.at(path);
        if !exclusive {
            // Linux makes the file that a dangling link names, CairnFS does not; and a fifo cannot be opened like a file.
            match (lstat(&at), stat(&at)) {
                (Ok(_), Err(error)) => return Err(error),
                (Ok(_), Ok(found)) if FileType::from_raw_mode(found.st_mode) == FileType::Fifo => {
                    return Err(Errno::INVAL);
                }
                _ => {}
            }
        }
        let is_new = lstat(&at).is_err();
        let more = if exclusive { OFlags::EXCL } else { OFlags::empty() };
        let file = open(&at, OFlags::CREATE | OFlags::WRONLY | more, Mode::RUSR | Mode::WUSR)?;
        // The mask of this process is not part of the game; a file that was there keeps its mode.
        if is_new { rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)) } else { Ok(()) }
    }

    pub fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        let mut first = BTreeMap::new();
        self.list("", &mut tree, &mut first);
        tree
    }

    fn list(&self, path: &str, tree: &mut Tree, first: &mut BTreeMap<u64, String>) {
        let dir = self.0.path().join(path.trim_start_matches('/'));
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        for name in names {
            let path = format!("{path}/{name}");
            let found = lstat(self.at(&path)).expect("is there");
            let (mode, nlink) = (found.st_mode & 0o7777, found.st_nlink as u32);
            let kind = FileType::from_raw_mode(found.st_mode);
            let node = match kind {
                FileType::Directory => Node::Dir { mode, xattrs: self.xattrs(&path) },
                FileType::RegularFile => {
                    let data = std::fs::read(self.at(&path)).expect("is read");
                    Node::File { mode, nlink, data, xattrs: self.xattrs(&path) }
                }
                FileType::Symlink => {
                    let target = std::fs::read_link(self.at(&path)).expect("a link");
                    Node::Symlink { nlink, target: target.to_str().expect("text").to_owned() }
                }
                FileType::Fifo => Node::Fifo { mode, nlink },
                other => panic!("{other:?} was never made"),
            };
            tree.nodes.insert(path.clone(), node);
            if let Some(first) = first.get(&found.st_ino) {
                tree.links.insert(path.clone(), first.clone());
            } else {
                first.insert(found.st_ino, path.clone());
            }
            if kind == FileType::Directory {
                self.list(&path, tree, first);
            }
        }
    }

    fn xattrs(&self, path: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for name in super::ops::XATTRS {
            let mut value = vec![0; 256];
            match getxattr(self.at(path), name, &mut value[..]) {
                Ok(len) => {
                    value.truncate(len);
                    found.insert(name.to_owned(), value);
                }
                Err(Errno::NODATA) => {}
                Err(other) => panic!("{path}: {other}"),
            }
        }
        found
    }
}
