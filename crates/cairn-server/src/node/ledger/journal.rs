//! The ledger's file: a line for each event, appended and never changed, so that what was found is still known when the
//! process is gone. Format: docs/formats/disk.md.
//!
//! When it is too long, a new one begins with the entries that are open, and the former one is kept beside it.

use crate::limits::{LEDGER_FILE_MAX, STATE_FILE_MAX};
use crate::state_file;
use cairn_proto::checksum::crc32c;
use cairn_store::Disk;
use serde::{Deserialize, Serialize};
use std::io;

const FILE: &str = "ledger";
const FORMER: &str = "ledger.old";
const NEXT: &str = "ledger.next";
const FORMAT: u32 = 1;

/// A line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event {
    /// The first of each file: entries from this number on are in it.
    Ledger {
        format: u32,
        next: u64,
    },
    Found {
        number: u64,
        at_ns: i64,
        store: u32,
        /// Inode, writer and seq.
        block: (u64, u64, u32),
        pg: u32,
        cause: String,
        finder: String,
    },
    Closed {
        number: u64,
        at_ns: i64,
        result: String,
    },
}

/// A line with its checksum in front.
fn line(event: &Event) -> String {
    let json = serde_json::to_string(event).expect("strings and numbers are always JSON");
    format!("{:08x} {json}\n", crc32c(json.as_bytes()))
}

/// The event of a line; `None` when it is damaged.
fn event(line: &str) -> Option<Event> {
    let (crc, json) = line.split_once(' ')?;
    let crc = u32::from_str_radix(crc, 16).ok().filter(|_| crc.len() == 8)?;
    if crc != crc32c(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// Events of a file, and how many of its lines are damaged.
fn events(content: &[u8]) -> (Vec<Event>, usize) {
    let text = String::from_utf8_lossy(content);
    let read: Vec<Option<Event>> = text.lines().filter(|line| !line.is_empty()).map(event).collect();
    let damaged = read.iter().filter(|event| event.is_none()).count();
    (read.into_iter().flatten().collect(), damaged)
}

/// Where events are written.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Bytes of the file; `None` until it was read or begun.
    len: Option<u64>,
}

impl Journal {
    /// Reads what was written in earlier lives, oldest first.
    pub(super) fn load(&mut self, disk: &dyn Disk) -> io::Result<Vec<Event>> {
        let mut all = Vec::new();
        let mut damaged = 0;
        let mut current = state_file::read(disk, FILE)?;
        if current.is_none() && state_file::read(disk, NEXT)?.is_some() {
            // Stopped between the two renames of a change of files.
            disk.rename(NEXT, FILE)?;
            disk.sync_dir("")?;
            current = state_file::read(disk, FILE)?;
        }
        for content in [state_file::read(disk, FORMER)?, current.clone()].into_iter().flatten() {
            let (read, bad) = events(&content);
            damaged += bad;
            all.extend(read);
        }
        let newer = |event: &&Event| matches!(event, Event::Ledger { format, .. } if *format != FORMAT);
        if let Some(event) = all.iter().find(newer) {
            let message = format!("{FILE} is of another version: {event:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if damaged > 0 {
            tracing::warn!(lines = damaged, "damaged lines in {FILE} are left out");
        }
        self.len = current.map(|content| content.len() as u64);
        Ok(all)
    }

    /// Appends events; on disk when it returns. `open` are those with which a new file begins, and `next` is the number
    /// of the next entry.
    pub(super) fn append(&mut self, disk: &dyn Disk, events: &[Event], open: &[Event], next: u64) -> io::Result<()> {
        let Some(len) = self.len.filter(|len| *len < LEDGER_FILE_MAX) else {
            return self.begin(disk, open, next);
        };
        let file = disk.open(FILE)?;
        // A line that a crash cut off ends here.
        let text: String = std::iter::once("\n".to_owned()).chain(events.iter().map(line)).collect();
        write_all(&*file, len, text.as_bytes())?;
        file.sync_data()?;
        self.len = Some(len + text.len() as u64);
        Ok(())
    }

    fn begin(&mut self, disk: &dyn Disk, open: &[Event], next: u64) -> io::Result<()> {
        let first = Event::Ledger { format: FORMAT, next };
        let text: String = std::iter::once(&first).chain(open).map(line).collect();
        state_file::replace(disk, NEXT, text.as_bytes())?;
        match disk.rename(FILE, FORMER) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk.rename(NEXT, FILE)?;
        disk.sync_dir("")?;
        self.len = Some(text.len() as u64);
        Ok(())
    }
}

fn write_all(file: &dyn cairn_store::DiskFile, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(offset, &[io::IoSlice::new(bytes)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                bytes = &bytes[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const _: () = assert!(LEDGER_FILE_MAX * 2 < STATE_FILE_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store::RealDisk;

    fn found(number: u64) -> Event {
        let cause = "bad payload".to_owned();
        Event::Found { number, at_ns: 7, store: 2, block: (1, 2, 3), pg: 9, cause, finder: "scrub".to_owned() }
    }

    #[test]
    fn lines_are_as_pinned() {
        let pinned = "{\"event\":\"found\",\"number\":1,\"at_ns\":7,\"store\":2,\"block\":[1,2,3],\"pg\":9,\
                      \"cause\":\"bad payload\",\"finder\":\"scrub\"}";
        assert_eq!(line(&found(1)), format!("{:08x} {pinned}\n", crc32c(pinned.as_bytes())));
        let closed = Event::Closed { number: 1, at_ns: 8, result: "repaired".to_owned() };
        assert!(line(&closed).ends_with(" {\"event\":\"closed\",\"number\":1,\"at_ns\":8,\"result\":\"repaired\"}\n"));
        assert!(
            line(&Event::Ledger { format: 1, next: 5 }).ends_with(" {\"event\":\"ledger\",\"format\":1,\"next\":5}\n")
        );
    }

    #[test]
    fn events_survive_and_damage_costs_a_line() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        let mut journal = Journal::default();
        assert_eq!(journal.load(&disk).expect("none yet"), []);
        journal.append(&disk, &[found(1)], &[found(1)], 2).expect("begun");
        journal.append(&disk, &[found(2), found(3)], &[], 4).expect("appended");
        let mut content = state_file::read(&disk, FILE).expect("readable").expect("there");
        // The second entry is damaged; the end is a line that a crash cut off.
        let at = content.windows(10).position(|window| window == b"\"number\":2").expect("it is there");
        content[at + 9] = b'7';
        content.extend(b"0123 {\"ev");
        state_file::replace(&disk, FILE, &content).expect("written");
        let mut journal = Journal::default();
        let first = Event::Ledger { format: 1, next: 2 };
        assert_eq!(journal.load(&disk).expect("readable"), [first.clone(), found(1), found(3)]);
        journal.append(&disk, &[found(4)], &[], 5).expect("appended behind the damage");
        assert_eq!(Journal::default().load(&disk).expect("readable"), [first, found(1), found(3), found(4)]);
    }

    #[test]
    fn a_long_file_makes_room_for_a_new_one_and_stays_beside_it() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        let mut journal = Journal::default();
        journal.append(&disk, &[], &[], 1).expect("begun");
        let many: Vec<Event> = (1..LEDGER_FILE_MAX / 100).map(found).collect();
        journal.append(&disk, &many, &[], 99_999).expect("appended");
        journal.append(&disk, &[found(99_999)], &[found(5), found(99_999)], 100_000).expect("begun anew");
        let content = state_file::read(&disk, FILE).expect("readable").expect("there");
        let first = Event::Ledger { format: 1, next: 100_000 };
        assert_eq!(events(&content), (vec![first, found(5), found(99_999)], 0));
        assert_eq!(Journal::default().load(&disk).expect("readable").len(), 1 + many.len() + 3);
        // As a crash between the two renames leaves it.
        disk.rename(FILE, NEXT).expect("renamed");
        assert_eq!(Journal::default().load(&disk).expect("readable").len(), 1 + many.len() + 3);
    }

    #[test]
    fn another_version_is_refused() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        state_file::replace(&disk, FILE, line(&Event::Ledger { format: 2, next: 1 }).as_bytes()).expect("written");
        assert!(Journal::default().load(&disk).is_err());
    }
}
