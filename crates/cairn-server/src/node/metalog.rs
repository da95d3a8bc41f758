//! What a storage node keeps for an embedded metadata engine: snapshots of it, and the commits since, as files that
//! `cairn meta recover` reads. The node does not look into them.
//!
//! A file is named by (cluster, epoch, first): the opening of metadata that wrote it, and the commit that the snapshot
//! holds or behind which the log begins. One server writes the files of an epoch. A snapshot has the name of a part until
//! it is whole; then everything older of the cluster goes.

use crate::limits::{METALOG_FETCH_MAX, METALOG_FILES_MAX, METALOG_SPACE_MIN};
use cairn_proto::pb;
use cairn_proto::pb::MetalogFile;
use cairn_proto::status::{Code, Status};
use cairn_store::Disk;
use parking_lot::Mutex;
use std::io;

const DIR: &str = "metalog";

/// A file of the log. Ordered by age within a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Name {
    cluster: [u8; 16],
    epoch: u64,
    first: u64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    /// A snapshot that is not whole.
    Part,
    Snapshot,
    Log,
}

impl Kind {
    const ALL: [(Self, &'static str); 3] = [(Self::Part, "part"), (Self::Snapshot, "snap"), (Self::Log, "log")];

    fn ending(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, ending)| ending)
    }
}

impl Name {
    fn file(&self) -> String {
        let cluster: String = self.cluster.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{cluster}-{:016x}-{:016x}.{}", self.epoch, self.first, self.kind.ending())
    }

    fn path(&self) -> String {
        format!("{DIR}/{}", self.file())
    }

    /// Reverses [`Name::file`]; `None` for files that are not ours.
    fn parse(file: &str) -> Option<Self> {
        let (stem, ending) = file.split_once('.')?;
        let kind = Kind::ALL.iter().find(|(_, known)| *known == ending)?.0;
        let mut parts = stem.split('-');
        let hex = parts.next().filter(|hex| hex.len() == 32 && hex.is_ascii())?;
        let mut cluster = [0; 16];
        for (index, byte) in cluster.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let name = Self { cluster, epoch: number()?, first: number()?, kind };
        parts.next().is_none().then_some(name)
    }

    fn is_older(&self, than: &Self) -> bool {
        self.cluster == than.cluster && (self.epoch, self.first) < (than.epoch, than.first)
    }
}

/// The files of one node. Synchronous: whoever calls waits for a disk.
#[derive(Default)]
pub(crate) struct Metalog {
    /// One change at a time.
    turn: Mutex<()>,
}

fn of_io(error: &io::Error) -> Status {
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::NoSpace } else { Code::Io };
    Status::new(code, format!("the metadata log on this node: {error}"))
}

fn cluster_of(bytes: &[u8]) -> Result<[u8; 16], Status> {
    bytes.try_into().map_err(|_| Status::new(Code::Invalid, "the cluster id has 16 bytes"))
}

fn kind_of(file: MetalogFile) -> Result<Kind, Status> {
    match file {
        MetalogFile::Snapshot => Ok(Kind::Snapshot),
        MetalogFile::Log => Ok(Kind::Log),
        MetalogFile::Unknown => Err(Status::new(Code::Invalid, "which file? a snapshot or a log")),
    }
}

impl Metalog {
    fn names(disk: &dyn Disk) -> io::Result<Vec<Name>> {
        match disk.list(DIR) {
            Ok(files) => Ok(files.iter().filter_map(|file| Name::parse(file)).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Appends to a file, which is on the disk when this returns; its length then.
    pub(crate) fn append(&self, disk: &dyn Disk, ask: &pb::AppendMetalog, body: &[u8]) -> Result<u64, Status> {
        let cluster = cluster_of(&ask.cluster_id)?;
        let kind = kind_of(ask.file())?;
        let _turn = self.turn.lock();
        let names = Self::names(disk).map_err(|error| of_io(&error))?;
        let newest = names.iter().filter(|name| name.cluster == cluster).map(|name| name.epoch).max();
        if newest.is_some_and(|newest| newest > ask.epoch) {
            let message = format!("epoch {} of metadata is over: this node has files of a later one", ask.epoch);
            return Err(Status::new(Code::StaleEpoch, message));
        }
        let written = if kind == Kind::Snapshot { Kind::Part } else { kind };
        let name = Name { cluster, epoch: ask.epoch, first: ask.first, kind: written };
        let whole = Name { kind, ..name };
        if kind == Kind::Snapshot && names.contains(&whole) {
            // The answer to its last piece was lost.
            return Ok(ask.offset + body.len() as u64);
        }
        let space = disk.space().map_err(|error| of_io(&error))?;
        if space.available < METALOG_SPACE_MIN.saturating_add(body.len() as u64) {
            return Err(Status::new(Code::NoSpace, "no room for the metadata log on this node"));
        }
        if !names.contains(&name) && names.len() >= METALOG_FILES_MAX {
            return Err(Status::new(Code::NoSpace, format!("{METALOG_FILES_MAX} files of metadata logs are here")));
        }
        let len = Self::write(disk, &name, ask.offset, body).map_err(|error| of_io(&error))?;
        let Some(len) = len else {
            return Err(Status::new(Code::Conflict, format!("{} is shorter than {}", name.file(), ask.offset)));
        };
        if kind == Kind::Snapshot && ask.complete {
            let kept = disk.rename(&name.path(), &whole.path()).and_then(|()| disk.sync_dir(DIR));
            kept.map_err(|error| of_io(&error))?;
            for old in names.iter().filter(|old| old.is_older(&whole)) {
                // It only takes room; the next whole snapshot tries again.
                if let Err(error) = disk.remove(&old.path()) {
                    tracing::warn!(%error, file = old.file(), "an old file of the metadata log stays");
                }
            }
        }
        Ok(len)
    }

    /// Writes at `offset`, which is the end or a place that was written before: what is behind it came from a request
    /// whose answer was lost. `None` when the file is shorter.
    fn write(disk: &dyn Disk, name: &Name, offset: u64, body: &[u8]) -> io::Result<Option<u64>> {
        let file = match disk.open(&name.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && offset == 0 => {
                disk.create_dir(DIR)?;
                disk.sync_dir("")?;
                let file = disk.create(&name.path())?;
                disk.sync_dir(DIR)?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.len()?;
        if len < offset {
            return Ok(None);
        }
        if len > offset {
            file.set_len(offset)?;
        }
        let mut done = 0;
        while done < body.len() {
            match file.write_at(offset + done as u64, &[io::IoSlice::new(&body[done..])]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        file.sync_data()?;
        Ok(Some(offset + body.len() as u64))
    }

    /// The files there are, oldest first.
    pub(crate) fn list(&self, disk: &dyn Disk, ask: &pb::ListMetalog) -> Result<pb::ListMetalogReply, Status> {
        let _turn = self.turn.lock();
        let mut names = Self::names(disk).map_err(|error| of_io(&error))?;
        names.retain(|name| ask.cluster_id.is_empty() || ask.cluster_id == name.cluster[..]);
        names.sort();
        let mut parts = Vec::new();
        for name in names {
            let len = disk.open(&name.path()).and_then(|file| file.len()).map_err(|error| of_io(&error))?;
            let file = if name.kind == Kind::Log { MetalogFile::Log } else { MetalogFile::Snapshot };
            parts.push(pb::MetalogPart {
                cluster_id: name.cluster.to_vec().into(),
                epoch: name.epoch,
                file: file as i32,
                first: name.first,
                len,
                complete: name.kind == Kind::Snapshot,
            });
        }
        Ok(pb::ListMetalogReply { parts })
    }

    /// A piece of a file, and its whole length.
    pub(crate) fn fetch(&self, disk: &dyn Disk, ask: &pb::FetchMetalog) -> Result<(u64, Vec<u8>), Status> {
        let name = Name {
            cluster: cluster_of(&ask.cluster_id)?,
            epoch: ask.epoch,
            first: ask.first,
            kind: kind_of(ask.file())?,
        };
        let read = || {
            let file = disk.open(&name.path())?;
            let len = file.len()?;
            let wanted = u64::from(ask.len.min(METALOG_FETCH_MAX)).min(len.saturating_sub(ask.offset));
            let mut bytes = vec![0; wanted as usize];
            let mut done = 0;
            while done < bytes.len() {
                match file.read_at(ask.offset + done as u64, &mut bytes[done..]) {
                    Ok(0) => break,
                    Ok(read) => done += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            bytes.truncate(done);
            Ok((len, bytes))
        };
        read().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Status::new(Code::NotFound, format!("{} is not here", name.file())),
            _ => of_io(&error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store::RealDisk;
    use proptest::prelude::*;

    fn ask(epoch: u64, file: MetalogFile, first: u64, offset: u64, complete: bool) -> pb::AppendMetalog {
        pb::AppendMetalog { cluster_id: vec![7; 16].into(), epoch, file: file as i32, first, offset, complete }
    }

    fn files(log: &Metalog, disk: &RealDisk) -> Vec<(u64, u64, bool, u64)> {
        let listed = log.list(disk, &pb::ListMetalog::default()).expect("listed");
        listed.parts.iter().map(|part| (part.epoch, part.first, part.complete, part.len)).collect()
    }

    #[test]
    fn a_whole_snapshot_replaces_what_is_older() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::open(dir.path()).expect("free");
        let log = Metalog::default();
        let append = |ask, body: &[u8]| log.append(&disk, &ask, body);
        use MetalogFile::{Log, Snapshot};
        assert_eq!(files(&log, &disk), []);
        assert_eq!(append(ask(1, Snapshot, 5, 0, false), b"abc").expect("written"), 3);
        assert_eq!(append(ask(1, Log, 5, 0, false), b"log").expect("written"), 3);
        assert_eq!(files(&log, &disk), [(1, 5, false, 3), (1, 5, false, 3)], "not whole yet");
        assert_eq!(append(ask(1, Snapshot, 5, 3, true), b"de").expect("written"), 5);
        // Again, because the answer was lost.
        assert_eq!(append(ask(1, Snapshot, 5, 3, true), b"de").expect("as before"), 5);
        assert_eq!(append(ask(1, Log, 5, 3, false), b"more").expect("written"), 7);
        assert_eq!(append(ask(1, Log, 5, 3, false), b"more").expect("written again"), 7);
        assert_eq!(append(ask(1, Log, 5, 9, false), b"x").expect_err("a hole").code, Code::Conflict);
        append(ask(2, Snapshot, 0, 0, false), b"next").expect("written");
        assert_eq!(files(&log, &disk).len(), 3, "the old one is needed until the new one is whole");
        assert_eq!(append(ask(1, Log, 5, 7, false), b"late").expect_err("over").code, Code::StaleEpoch);
        append(ask(2, Snapshot, 0, 4, true), b"").expect("written");
        assert_eq!(files(&log, &disk), [(2, 0, true, 4)]);
        let fetch = |offset, len| pb::FetchMetalog {
            cluster_id: vec![7; 16].into(),
            epoch: 2,
            file: Snapshot as i32,
            first: 0,
            offset,
            len,
        };
        assert_eq!(log.fetch(&disk, &fetch(1, 2)).expect("there"), (4, b"ex".to_vec()));
        assert_eq!(log.fetch(&disk, &fetch(4, 2)).expect("there"), (4, Vec::new()));
        let other = pb::FetchMetalog { epoch: 9, ..fetch(0, 1) };
        assert_eq!(log.fetch(&disk, &other).expect_err("not here").code, Code::NotFound);
    }

    proptest! {
        #[test]
        fn names_are_read_as_they_are_written(cluster in any::<[u8; 16]>(), epoch in any::<u64>(), first in any::<u64>()) {
            for (kind, _) in Kind::ALL {
                let name = Name { cluster, epoch, first, kind };
                prop_assert_eq!(Name::parse(&name.file()), Some(name));
            }
        }

        #[test]
        fn other_files_are_left_alone(file in ".{0,90}") {
            if let Some(name) = Name::parse(&file) {
                prop_assert!(name.file().eq_ignore_ascii_case(&file));
            }
        }
    }
}
