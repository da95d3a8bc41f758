//! A file system in memory, written for its rules alone: POSIX.1-2017 as Linux carries it out (path_resolution(7),
//! rename(2), link(2), unlink(2), open(2)).

use super::ops::{Answer, Node, Op, Renaming, Tree, seen};
use std::collections::BTreeMap;

/// Symbolic links followed on one path (path_resolution(7)).
const LINKS_MAX: usize = 40;
const ROOT: u64 = 1;

#[derive(Clone)]
struct Inode {
    what: What,
    mode: u32,
    nlink: u32,
    xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone)]
enum What {
    Dir(BTreeMap<String, u64>),
    File(Vec<u8>),
    Symlink(String),
    Fifo,
}

#[derive(Clone)]
pub struct Reference {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
}

/// A name in a directory, and what it leads to.
struct Place {
    dir: u64,
    name: String,
    inode: Option<u64>,
}

type Step<T> = Result<T, Answer>;

impl Reference {
    pub fn new() -> Self {
        let root = Inode { what: What::Dir(BTreeMap::new()), mode: 0o755, nlink: 1, xattrs: BTreeMap::new() };
        Self { inodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1 }
    }

    pub fn apply(&mut self, op: &Op) -> Answer {
        let look = match op {
            Op::Look { path } => self.look(path),
            Op::List { path } => self.names(path),
            _ => self.step(op).map(|()| Answer::Done),
        };
        look.unwrap_or_else(|refused| refused)
    }

    fn look(&self, path: &str) -> Step<Answer> {
        let row = &self.inodes[&self.walk(path, false)?.inode.ok_or(Answer::NotFound)?];
        let (kind, size) = match &row.what {
            What::Dir(_) => return Ok(Answer::Seen(seen(&(2, row.mode)))),
            What::File(data) => (1, data.len()),
            What::Symlink(target) => (3, target.len()),
            What::Fifo => (4, 0),
        };
        Ok(Answer::Seen(seen(&(kind, row.mode, row.nlink, size as u64))))
    }

    fn names(&self, path: &str) -> Step<Answer> {
        match &self.inodes[&self.walk(path, true)?.inode.ok_or(Answer::NotFound)?].what {
            What::Dir(entries) => Ok(Answer::Seen(seen(&entries.keys().collect::<Vec<_>>()))),
            _ => Err(Answer::NotADirectory),
        }
    }

    fn step(&mut self, op: &Op) -> Step<()> {
        match op {
            Op::Mkdir { path, mode } => self.make(path, What::Dir(BTreeMap::new()), *mode),
            Op::Create { path, exclusive: true } => self.make(path, What::File(Vec::new()), 0o644),
            Op::Create { path, exclusive: false } => {
                let direct = self.walk(path, false)?;
                match self.walk(path, true)? {
                    // A symbolic link that leads nowhere is not a name to make a file under.
                    Place { inode: None, .. } if direct.inode.is_some() => Err(Answer::NotFound),
                    Place { inode: None, .. } => self.make(path, What::File(Vec::new()), 0o644),
                    Place { inode: Some(inode), .. } => self.file(inode).map(|_| ()),
                }
            }
            Op::Symlink { path, target } => self.make(path, What::Symlink(target.clone()), 0o777),
            Op::Fifo { path } => self.make(path, What::Fifo, 0o644),
            Op::Link { from, to } => self.link(from, to),
            Op::Unlink { path } => {
                let place = self.walk(path, false)?;
                let inode = place.inode.ok_or(Answer::NotFound)?;
                if self.is_dir(inode) {
                    return Err(Answer::IsADirectory);
                }
                self.detach(&place);
                self.drop_name(inode);
                Ok(())
            }
            Op::Rmdir { path } => {
                let place = self.walk(path, false)?;
                let inode = place.inode.ok_or(Answer::NotFound)?;
                self.empty_dir(inode)?;
                self.detach(&place);
                self.drop_name(inode);
                Ok(())
            }
            Op::Rename { from, to, how } => self.rename(from, to, *how),
            Op::Write { path, offset, data } => {
                let file = self.file_at(path)?;
                let end = offset + data.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset..end].copy_from_slice(data);
                Ok(())
            }
            Op::Append { path, data } => {
                self.file_at(path)?.extend_from_slice(data);
                Ok(())
            }
            Op::Truncate { path, size } => {
                self.file_at(path)?.resize(*size, 0);
                Ok(())
            }
            Op::Chmod { path, mode } => {
                let inode = self.walk(path, true)?.inode.ok_or(Answer::NotFound)?;
                self.inode(inode).mode = *mode;
                Ok(())
            }
            Op::SetXattr { path, name, value } => {
                let inode = self.xattr_owner(path)?;
                self.inode(inode).xattrs.insert((*name).to_owned(), value.clone());
                Ok(())
            }
            Op::RemoveXattr { path, name } => {
                let inode = self.xattr_owner(path)?;
                self.inode(inode).xattrs.remove(*name).map(drop).ok_or(Answer::NoAttribute)
            }
            Op::Look { .. } | Op::List { .. } => Ok(()),
        }
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("names lead to inodes")
    }

    fn is_dir(&self, inode: u64) -> bool {
        matches!(self.inodes[&inode].what, What::Dir(_))
    }

    fn entries(&mut self, dir: u64) -> &mut BTreeMap<String, u64> {
        match &mut self.inode(dir).what {
            What::Dir(entries) => entries,
            _ => panic!("{dir} is no directory"),
        }
    }

    fn file(&mut self, inode: u64) -> Step<&mut Vec<u8>> {
        match &mut self.inode(inode).what {
            What::File(data) => Ok(data),
            What::Dir(_) => Err(Answer::IsADirectory),
            What::Fifo | What::Symlink(_) => Err(Answer::Invalid),
        }
    }

    fn file_at(&mut self, path: &str) -> Step<&mut Vec<u8>> {
        let inode = self.walk(path, true)?.inode.ok_or(Answer::NotFound)?;
        self.file(inode)
    }

    /// Attributes of users are for files and directories alone (xattr(7)).
    fn xattr_owner(&mut self, path: &str) -> Step<u64> {
        let inode = self.walk(path, true)?.inode.ok_or(Answer::NotFound)?;
        match self.inodes[&inode].what {
            What::Dir(_) | What::File(_) => Ok(inode),
            What::Symlink(_) | What::Fifo => Err(Answer::NotPermitted),
        }
    }

    fn walk(&self, path: &str, follow: bool) -> Step<Place> {
        let mut rest: Vec<String> = path.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut dir = ROOT;
        let mut links = 0;
        loop {
            let name = rest.pop().expect("every path and target names something");
            let What::Dir(entries) = &self.inodes[&dir].what else { return Err(Answer::NotADirectory) };
            let inode = entries.get(&name).copied();
            let last = rest.is_empty();
            match inode.map(|inode| &self.inodes[&inode].what) {
                Some(What::Symlink(target)) if !last || follow => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Answer::TooManySymlinks);
                    }
                    rest.extend(target.split('/').rev().map(str::to_owned));
                }
                _ if last => return Ok(Place { dir, name, inode }),
                None => return Err(Answer::NotFound),
                Some(What::Dir(_)) => dir = inode.expect("matched"),
                Some(_) => return Err(Answer::NotADirectory),
            }
        }
    }

    fn make(&mut self, path: &str, what: What, mode: u32) -> Step<()> {
        let place = self.walk(path, false)?;
        if place.inode.is_some() {
            return Err(Answer::Exists);
        }
        let inode = self.next;
        self.next += 1;
        self.inodes.insert(inode, Inode { what, mode, nlink: 1, xattrs: BTreeMap::new() });
        self.entries(place.dir).insert(place.name, inode);
        Ok(())
    }

    fn link(&mut self, from: &str, to: &str) -> Step<()> {
        let inode = self.walk(from, false)?.inode.ok_or(Answer::NotFound)?;
        let to = self.walk(to, false)?;
        if to.inode.is_some() {
            return Err(Answer::Exists);
        }
        if self.is_dir(inode) {
            return Err(Answer::NotPermitted);
        }
        self.inode(inode).nlink += 1;
        self.entries(to.dir).insert(to.name, inode);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, how: Renaming) -> Step<()> {
        let (from, to) = (self.walk(from, false)?, self.walk(to, false)?);
        let moved = from.inode.ok_or(Answer::NotFound)?;
        match how {
            Renaming::NoReplace if to.inode.is_some() => return Err(Answer::Exists),
            Renaming::Exchange if to.inode.is_none() => return Err(Answer::NotFound),
            _ => {}
        }
        if self.is_dir(moved) && self.is_below(to.dir, moved) {
            return Err(Answer::Invalid);
        }
        let Some(replaced) = to.inode else {
            self.detach(&from);
            self.entries(to.dir).insert(to.name, moved);
            return Ok(());
        };
        if self.is_dir(replaced) && self.is_below(from.dir, replaced) {
            // An ancestor of what is moved: it cannot go below itself, nor be replaced while it is not empty.
            return Err(if how == Renaming::Exchange { Answer::Invalid } else { Answer::NotEmpty });
        }
        if moved == replaced {
            return Ok(());
        }
        if how == Renaming::Exchange {
            self.entries(from.dir).insert(from.name, replaced);
            self.entries(to.dir).insert(to.name, moved);
            return Ok(());
        }
        match (self.is_dir(moved), self.is_dir(replaced)) {
            (true, true) => self.empty_dir(replaced)?,
            (true, false) => return Err(Answer::NotADirectory),
            (false, true) => return Err(Answer::IsADirectory),
            (false, false) => {}
        }
        self.detach(&from);
        self.entries(to.dir).insert(to.name, moved);
        self.drop_name(replaced);
        Ok(())
    }

    /// Whether `dir` is `top` or lies below it.
    fn is_below(&self, dir: u64, top: u64) -> bool {
        dir == top
            || match &self.inodes[&top].what {
                What::Dir(entries) => entries.values().any(|child| self.is_dir(*child) && self.is_below(dir, *child)),
                _ => false,
            }
    }

    fn empty_dir(&self, inode: u64) -> Step<()> {
        match &self.inodes[&inode].what {
            What::Dir(entries) if entries.is_empty() => Ok(()),
            What::Dir(_) => Err(Answer::NotEmpty),
            _ => Err(Answer::NotADirectory),
        }
    }

    fn detach(&mut self, place: &Place) {
        self.entries(place.dir).remove(&place.name);
    }

    fn drop_name(&mut self, inode: u64) {
        self.inode(inode).nlink -= 1;
        if self.inodes[&inode].nlink == 0 {
            self.inodes.remove(&inode);
        }
    }

    pub fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        let mut first = BTreeMap::new();
        self.list(ROOT, "", &mut tree, &mut first);
        tree
    }

    fn list(&self, dir: u64, path: &str, tree: &mut Tree, first: &mut BTreeMap<u64, String>) {
        let What::Dir(entries) = &self.inodes[&dir].what else { panic!("{path} is no directory") };
        for (name, inode) in entries {
            let path = format!("{path}/{name}");
            let row = &self.inodes[inode];
            let (mode, nlink, xattrs) = (row.mode, row.nlink, row.xattrs.clone());
            let node = match &row.what {
                What::Dir(_) => Node::Dir { mode, xattrs },
                What::File(data) => Node::File { mode, nlink, data: data.clone(), xattrs },
                What::Symlink(target) => Node::Symlink { nlink, target: target.clone() },
                What::Fifo => Node::Fifo { mode, nlink },
            };
            tree.nodes.insert(path.clone(), node);
            if let Some(first) = first.get(inode) {
                tree.links.insert(path.clone(), first.clone());
            } else {
                first.insert(*inode, path.clone());
            }
            if matches!(row.what, What::Dir(_)) {
                self.list(*inode, &path, tree, first);
            }
        }
    }
}
