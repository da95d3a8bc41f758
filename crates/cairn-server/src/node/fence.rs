//! The fence before every destructive command: (duty epoch, group epoch) of a DELETE may not be lower than the highest
//! this node has seen. The highest is on disk before the command is carried out, so that a restart forgets nothing.

use crate::state_file;
use cairn_proto::{PgEpoch, PgId};
use cairn_store::Disk;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use thiserror::Error;

const FILE: &str = "fence.json";
const FORMAT: u32 = 1;

/// The fence could not be read.
#[derive(Debug, Error)]
pub enum FenceError {
    /// The file cannot be read or written.
    #[error("cannot read or write {FILE}")]
    Io(#[from] io::Error),
    /// The file is not what this program writes.
    #[error(
        "{FILE} is damaged ({0}): without it a late command to delete could not be told from a current one; restore it"
    )]
    Damaged(String),
}

/// Highest epochs seen.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    format: u32,
    duty_epoch: u64,
    pgs: BTreeMap<u32, u64>,
}

/// A command that comes too late.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum Stale {
    #[error("duty epoch {shown} is over: {seen} was seen")]
    Duty { shown: u64, seen: u64 },
    #[error("epoch {} of {pg} is over: {} was seen", shown.0, seen.0)]
    Group { pg: PgId, shown: PgEpoch, seen: PgEpoch },
}

/// The epochs a destructive command shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Authority {
    pub(crate) duty_epoch: u64,
    pub(crate) pg: PgId,
    pub(crate) pg_epoch: PgEpoch,
}

impl Seen {
    /// What is seen after admitting `command`; `None` when nothing changes.
    fn admit(&self, command: Authority) -> Result<Option<Seen>, Stale> {
        if command.duty_epoch < self.duty_epoch {
            return Err(Stale::Duty { shown: command.duty_epoch, seen: self.duty_epoch });
        }
        let seen = PgEpoch(self.pgs.get(&command.pg.0).copied().unwrap_or(0));
        if command.pg_epoch < seen {
            return Err(Stale::Group { pg: command.pg, shown: command.pg_epoch, seen });
        }
        if command.duty_epoch == self.duty_epoch && command.pg_epoch == seen {
            return Ok(None);
        }
        let mut next = Seen { duty_epoch: command.duty_epoch, ..self.clone() };
        next.pgs.insert(command.pg.0, command.pg_epoch.0);
        Ok(Some(next))
    }
}

fn keep(disk: &dyn Disk, seen: &Seen) -> io::Result<()> {
    state_file::replace(disk, FILE, &serde_json::to_vec(seen).expect("numbers are always JSON"))
}

/// The fence of one node. Synchronous: raising it writes a file.
pub(crate) struct Fence {
    seen: Mutex<Seen>,
}

/// Why a destructive command was not admitted.
#[derive(Debug, Error)]
pub(crate) enum AdmitError {
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error("cannot keep {FILE}")]
    Io(#[from] io::Error),
}

impl Fence {
    /// Reads the fence of a node's directory.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Self, FenceError> {
        let seen = match state_file::read(disk, FILE)? {
            None => Seen { format: FORMAT, ..Seen::default() },
            Some(content) => {
                serde_json::from_slice::<Seen>(&content).map_err(|error| FenceError::Damaged(error.to_string()))?
            }
        };
        if seen.format != FORMAT {
            return Err(FenceError::Damaged(format!("format {} instead of {FORMAT}", seen.format)));
        }
        Ok(Self { seen: Mutex::new(seen) })
    }

    /// Admits a destructive command or refuses it. `known` is the group's epoch in the node's own cluster map. When it
    /// returns Ok, lower epochs are refused from now on, also after a crash.
    pub(crate) fn admit(&self, disk: &dyn Disk, command: Authority, known: PgEpoch) -> Result<(), AdmitError> {
        if command.pg_epoch < known {
            return Err(Stale::Group { pg: command.pg, shown: command.pg_epoch, seen: known }.into());
        }
        // The lock is held over the write: commands are few, and two writers of one file would race.
        let mut seen = self.seen.lock();
        if let Some(next) = seen.admit(command)? {
            keep(disk, &next)?;
            *seen = next;
        }
        Ok(())
    }

    /// Copies are brought in for a membership of this epoch: a verdict of a lower one is refused from now on, also after a
    /// crash.
    pub(crate) fn raise(&self, disk: &dyn Disk, pg: PgId, pg_epoch: PgEpoch) -> io::Result<()> {
        let mut seen = self.seen.lock();
        if pg_epoch.0 > seen.pgs.get(&pg.0).copied().unwrap_or(0) {
            let mut next = seen.clone();
            next.pgs.insert(pg.0, pg_epoch.0);
            keep(disk, &next)?;
            *seen = next;
        }
        Ok(())
    }

    /// Admits what metadata says on the authority of a duty alone, about blocks and not about a membership, or refuses it.
    /// When it returns Ok, lower epochs are refused from now on, also after a crash.
    pub(crate) fn admit_duty(&self, disk: &dyn Disk, duty_epoch: u64) -> Result<(), AdmitError> {
        let mut seen = self.seen.lock();
        if duty_epoch < seen.duty_epoch {
            return Err(Stale::Duty { shown: duty_epoch, seen: seen.duty_epoch }.into());
        }
        if duty_epoch > seen.duty_epoch {
            let next = Seen { duty_epoch, ..seen.clone() };
            keep(disk, &next)?;
            *seen = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store::RealDisk;

    fn command(duty_epoch: u64, pg: u32, pg_epoch: u64) -> Authority {
        Authority { duty_epoch, pg: PgId(pg), pg_epoch: PgEpoch(pg_epoch) }
    }

    #[test]
    fn lower_epochs_are_refused_after_a_restart_too() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        let fence = Fence::load(&disk).expect("none yet");
        fence.admit(&disk, command(5, 1, 3), PgEpoch(0)).expect("first");
        // Refused by the second too, before it has admitted anything: by what is on disk.
        for fence in [Fence::load(&disk).expect("kept"), fence] {
            assert!(matches!(
                fence.admit(&disk, command(4, 1, 3), PgEpoch(0)),
                Err(AdmitError::Stale(Stale::Duty { shown: 4, seen: 5 }))
            ));
            assert!(matches!(
                fence.admit(&disk, command(6, 1, 2), PgEpoch(0)),
                Err(AdmitError::Stale(Stale::Group { .. }))
            ));
            // The map knows a later epoch than any command has shown.
            assert!(matches!(
                fence.admit(&disk, command(6, 1, 3), PgEpoch(4)),
                Err(AdmitError::Stale(Stale::Group { .. }))
            ));
            fence.admit(&disk, command(5, 1, 3), PgEpoch(3)).expect("the same again");
            fence.admit(&disk, command(5, 2, 1), PgEpoch(0)).expect("another group");
        }
    }

    #[test]
    fn a_duty_without_a_group_is_held_against_the_same_epoch() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        let fence = Fence::load(&disk).expect("none yet");
        fence.admit(&disk, command(5, 1, 3), PgEpoch(0)).expect("first");
        assert!(matches!(fence.admit_duty(&disk, 4), Err(AdmitError::Stale(Stale::Duty { shown: 4, seen: 5 }))));
        fence.admit_duty(&disk, 5).expect("the same");
        fence.admit_duty(&disk, 7).expect("a later one");
        for fence in [Fence::load(&disk).expect("kept"), fence] {
            assert!(fence.admit_duty(&disk, 6).is_err());
            assert!(fence.admit(&disk, command(6, 1, 3), PgEpoch(0)).is_err());
            assert!(fence.admit(&disk, command(7, 1, 2), PgEpoch(0)).is_err(), "groups are remembered");
        }
    }

    #[test]
    fn bringing_copies_in_refuses_verdicts_of_earlier_epochs() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        let fence = Fence::load(&disk).expect("none yet");
        fence.admit(&disk, command(5, 1, 3), PgEpoch(0)).expect("first");
        fence.raise(&disk, PgId(1), PgEpoch(7)).expect("kept");
        fence.raise(&disk, PgId(1), PgEpoch(2)).expect("nothing to keep");
        for fence in [Fence::load(&disk).expect("kept"), fence] {
            assert!(matches!(
                fence.admit(&disk, command(5, 1, 6), PgEpoch(0)),
                Err(AdmitError::Stale(Stale::Group { .. }))
            ));
            fence.admit(&disk, command(5, 1, 7), PgEpoch(0)).expect("of this epoch");
            fence.admit(&disk, command(5, 2, 1), PgEpoch(0)).expect("another group");
        }
    }

    #[test]
    fn a_refused_command_raises_nothing() {
        let seen = Seen { format: FORMAT, duty_epoch: 5, pgs: BTreeMap::from([(1, 3)]) };
        assert!(seen.admit(command(9, 1, 2)).is_err());
        assert_eq!(seen.admit(command(5, 1, 3)), Ok(None));
        let next = seen.admit(command(6, 1, 4)).expect("later").expect("raised");
        assert_eq!((next.duty_epoch, next.pgs[&1]), (6, 4));
    }

    #[test]
    fn damage_is_not_an_empty_fence() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        for content in [&b""[..], b"{}", b"{\"format\":7,\"duty_epoch\":1,\"pgs\":{}}"] {
            state_file::replace(&disk, FILE, content).expect("written");
            assert!(matches!(Fence::load(&disk), Err(FenceError::Damaged(_))));
        }
    }
}
