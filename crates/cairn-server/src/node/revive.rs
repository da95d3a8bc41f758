//! Opens a store again: one that could not be opened, because its disk was not there or did not answer, and one that is
//! poisoned by a failed write or sync. Each store has a task of its own, so that a disk that hangs holds up nobody else.
//!
//! A poisoned store still serves reads. It is closed only when its disk takes writes again, since opening needs some: on a
//! disk that became read-only it goes on serving what it has. Opening reads what may not have reached the disk past the
//! page cache; what is gone is found by the audit that follows every such opening.

use super::duty::wait;
use super::slot::StoreSlot;
use super::state::Node;
use crate::backoff::Backoff;
use crate::entropy;
use crate::limits::{REVIVE_FORGET, REVIVE_PAUSE, REVIVE_PERIOD};
use crate::tasks::blocking;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Looks after the store with this index until `stop`.
pub(crate) async fn run(node: Arc<Node>, index: usize, stop: CancellationToken) {
    let slot = &node.stores[index];
    let never = Notify::new();
    let mut backoff = Backoff::new(REVIVE_PAUSE, entropy::rng());
    let mut pause = REVIVE_PERIOD;
    let mut well_since = None;
    while wait(&stop, &never, Some(pause)).await {
        pause = REVIVE_PERIOD;
        let Some(ailment) = ailment(slot) else {
            let now = cairn_net::now();
            if now.saturating_duration_since(*well_since.get_or_insert(now)) >= REVIVE_FORGET {
                backoff.reset();
            }
            continue;
        };
        well_since = None;
        // The wait comes before the attempt: a disk that fails every write is not opened all the time.
        if !wait(&stop, &never, Some(backoff.pause())).await {
            return;
        }
        revive(&node, slot, ailment).await;
    }
}

/// Why a store has to be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ailment {
    Closed,
    Poisoned(String),
}

fn ailment(slot: &StoreSlot) -> Option<Ailment> {
    match slot.store() {
        None => Some(Ailment::Closed),
        Some(store) => store.usage().read_only().map(Ailment::Poisoned),
    }
}

async fn revive(node: &Node, slot: &Arc<StoreSlot>, ailment: Ailment) {
    let name = slot.place().name();
    match reopen(slot, ailment).await {
        Err(reason) => tracing::debug!(store = name, reason, "store not open yet"),
        Ok(()) => {
            tracing::warn!(store = name, "store opened again");
            let (home, found) = (node.home.clone(), slot.uuid().map(|uuid| (slot.place().name(), uuid)));
            if let Err(error) = blocking(move || home.identity.lock().found(&home.disk, found)).await {
                tracing::warn!(%error, "the place of a store is not written down");
            }
            node.wakes.catch_up.notify_one();
            node.wakes.audit.notify_one();
            node.wakes.heal.notify_one();
        }
    }
}

/// Opens the store anew, if its disk lets it.
async fn reopen(slot: &Arc<StoreSlot>, ailment: Ailment) -> Result<(), String> {
    if let Ailment::Poisoned(reason) = ailment {
        if let Ok(Err(error)) = slot.ask(|store| store.probe()).await {
            return Err(format!("the disk takes no writes: {error}"));
        }
        let (slot, reason) = (slot.clone(), format!("being opened again: {reason}"));
        blocking(move || slot.shut(reason)).await;
    }
    let slot = slot.clone();
    blocking(move || slot.open().map_err(|error| super::slot::explain(&error))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::place::OpenDisk;
    use crate::node::slot::tests::{put, slot_on};
    use cairn_net::WorkTime;
    use cairn_store::{Disk, DiskFile, DiskSpace, OsFile, PutError, RealDisk, StoreOptions};
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A disk that takes no writes and syncs while it is `broken`.
    struct Breaking(RealDisk, Arc<AtomicBool>);

    struct BreakingFile(Arc<dyn DiskFile>, Arc<AtomicBool>);

    fn whole(broken: &AtomicBool) -> io::Result<()> {
        if broken.load(Ordering::SeqCst) { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }

    impl Breaking {
        fn file(&self, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
            file.map(|file| Arc::new(BreakingFile(file, self.1.clone())) as Arc<dyn DiskFile>)
        }
    }

    impl Disk for Breaking {
        fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            whole(&self.1)?;
            self.file(self.0.create(name))
        }
        fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            self.file(self.0.open(name))
        }
        fn list(&self, dir: &str) -> io::Result<Vec<String>> {
            self.0.list(dir)
        }
        fn create_dir(&self, dir: &str) -> io::Result<()> {
            self.0.create_dir(dir)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            whole(&self.1)?;
            self.0.remove(name)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            whole(&self.1)?;
            self.0.rename(from, to)
        }
        fn sync_dir(&self, dir: &str) -> io::Result<()> {
            self.0.sync_dir(dir)
        }
        fn space(&self) -> io::Result<DiskSpace> {
            self.0.space()
        }
    }

    impl DiskFile for BreakingFile {
        fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
            whole(&self.1)?;
            self.0.write_at(offset, parts)
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read_at(offset, buffer)
        }
        fn sync_data(&self) -> io::Result<()> {
            whole(&self.1)?;
            self.0.sync_data()
        }
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
            self.0.punch(offset, len)
        }
        fn drop_cache(&self) -> io::Result<()> {
            self.0.drop_cache()
        }
        fn os_file(&self) -> Option<OsFile> {
            self.0.os_file()
        }
    }

    #[tokio::test]
    async fn a_poisoned_store_reads_on_and_is_opened_again_when_its_disk_is_well() {
        let broken = Arc::new(AtomicBool::new(false));
        let switch = broken.clone();
        let open: OpenDisk = Arc::new(move |path| {
            RealDisk::open(path).map(|disk| Box::new(Breaking(disk, switch.clone())) as Box<dyn Disk>)
        });
        let (_dir, slot) = slot_on(StoreOptions::default(), 0, open);
        let (slot, work) = (Arc::new(slot), WorkTime::default());
        let first = slot.incarnation();
        slot.put(put(1, 1), &work).await.expect("stored");
        assert_eq!(ailment(&slot), None);

        broken.store(true, Ordering::SeqCst);
        assert!(matches!(slot.put(put(1, 2), &work).await, Err(PutError::Poisoned(_))));
        let ill = ailment(&slot).expect("poisoned");
        assert!(slot.trouble(&slot.usage()).contains("read-only"));
        // The disk takes no writes yet: the store is not given up.
        reopen(&slot, ill.clone()).await.expect_err("broken");
        assert_eq!(slot.incarnation(), first);
        slot.read(put(1, 1).key).expect("it still serves what it has");

        broken.store(false, Ordering::SeqCst);
        reopen(&slot, ill).await.expect("well again");
        assert_eq!((ailment(&slot), slot.trouble(&slot.usage())), (None, String::new()));
        assert_ne!(slot.incarnation(), first);
        assert_eq!(slot.suspicious(), slot.incarnation(), "it is held against its peers");
        slot.read(put(1, 1).key).expect("acknowledged, and so there");
        slot.put(put(1, 3), &work).await.expect("stored");
    }
}
