//! Holds of backups: what a dump refers to stays, whatever is removed and however short the grace is.

use crate::snapshots::{garbage, held, settle, table, world};
use crate::support::{BLOCK, World, code};
use cairn_meta::keys;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::time::Duration;

const B: u64 = BLOCK as u64;

impl World {
    async fn backup(&self, name: &str) -> Result<pb::Snapshot, Status> {
        let backup = name.to_owned();
        let ask = pb::CreateSnapshot { backup, ttl_ms: 5000, unsettled: true, ..Default::default() };
        match self.change(Kind::CreateSnapshot(ask)).await? {
            Reply::CreateSnapshot(snapshot) => Ok(snapshot),
            other => panic!("{other:?}"),
        }
    }

    async fn settle_backup(&self, number: u64, newest: u64, ttl_ms: u64) -> Result<(), Status> {
        let settle = Some(pb::SettleHold { newest, ttl_ms });
        self.change(Kind::RenewSnapshot(pb::RenewSnapshot { number, settle })).await.map(|_| ())
    }

    /// A file of one block.
    async fn file(&self, path: &str) {
        let inode = self.create(path).await.expect("made").inode;
        self.write(inode, 0, B).await.expect("written");
    }
}

#[tokio::test]
async fn a_backup_keeps_what_was_dumped_and_nothing_that_came_later() {
    let (world, engine) = world().await;
    let sizes = async || (garbage(&engine).await.len(), held(&engine).await.len());
    world.file("/before").await;
    let hold = world.backup("b").await.expect("begun");
    assert_eq!((hold.backup.as_str(), hold.unsettled), ("b", true));
    world.file("/between").await;
    // Other snapshots come and go meanwhile.
    world.snapshot("/", "other").await.expect("taken");
    world.file("/after-another").await;
    world.delete_snapshot("/", "other").await.expect("deleted");
    let newest = world.meta.dump().await.expect("dumped").header().newest_snapshot;
    assert_eq!(newest, hold.number + 1);
    world.file("/during").await;
    for path in ["/between", "/during"] {
        world.unlink(path).await.expect("removed");
    }
    settle(&world).await;
    assert_eq!(sizes().await, (0, 2), "nobody knows yet what the dump has");
    world.settle_backup(hold.number, newest, 0).await.expect("settled");
    world.file("/later").await;
    for path in ["/before", "/after-another", "/later"] {
        world.unlink(path).await.expect("removed");
    }
    settle(&world).await;
    // What came during the dump is held with it: it has the same birth. What came later is not.
    assert_eq!(sizes().await, (1, 4));
    world.clock.advance(Duration::from_secs(3600));
    assert!(!world.meta.expire_snapshots().await.expect("looked"), "it stays until it is removed");
    let delete = pb::DeleteSnapshot { number: hold.number, ..Default::default() };
    world.change(Kind::DeleteSnapshot(delete)).await.expect("removed");
    settle(&world).await;
    assert_eq!(sizes().await, (5, 0));
    assert_eq!(table::<keys::Snapshot>(&engine).await, []);
    assert_eq!(table::<keys::History>(&engine).await, []);
}

#[tokio::test]
async fn a_backup_that_nobody_finishes_ends_by_itself() {
    let (world, engine) = world().await;
    world.backup("b").await.expect("begun");
    world.file("/f").await;
    world.unlink("/f").await.expect("removed");
    settle(&world).await;
    assert_eq!((garbage(&engine).await.len(), held(&engine).await.len()), (0, 1));
    assert!(!world.meta.expire_snapshots().await.expect("looked"));
    world.clock.advance(Duration::from_millis(5001));
    assert!(world.meta.expire_snapshots().await.expect("looked"));
    settle(&world).await;
    assert_eq!((garbage(&engine).await.len(), held(&engine).await.len()), (1, 0));
    world.file("/g").await;
    world.unlink("/g").await.expect("removed");
    settle(&world).await;
    assert_eq!(garbage(&engine).await.len(), 2, "nothing is held any more");
}

#[tokio::test]
async fn a_backup_that_is_kept_for_a_time_ends_after_it() {
    let (world, _) = world().await;
    let hold = world.backup("b").await.expect("begun");
    world.settle_backup(hold.number, hold.number, 9000).await.expect("settled");
    assert!(!world.meta.expire_snapshots().await.expect("looked"));
    world.clock.advance(Duration::from_millis(8999));
    assert!(!world.meta.expire_snapshots().await.expect("looked"));
    world.clock.advance(Duration::from_millis(2));
    assert!(world.meta.expire_snapshots().await.expect("looked"));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (world, _) = world().await;
    let hold = world.backup("b").await.expect("begun");
    assert_eq!(code(world.backup("b").await), Code::Exists);
    assert_eq!(code(world.backup("a\nb").await), Code::Invalid);
    let without_end = pb::CreateSnapshot { unsettled: true, ..Default::default() };
    assert_eq!(code(world.change(Kind::CreateSnapshot(without_end)).await), Code::Invalid);
    for newest in [hold.number - 1, hold.number + 1] {
        assert_eq!(code(world.settle_backup(hold.number, newest, 0).await), Code::Invalid, "{newest}");
    }
    assert_eq!(code(world.settle_backup(hold.number, hold.number, 5).await), Code::Invalid);
    world.settle_backup(hold.number, hold.number, 0).await.expect("settled");
    assert_eq!(code(world.settle_backup(hold.number, hold.number, 0).await), Code::Invalid);
    assert_eq!(code(world.settle_backup(99, 99, 0).await), Code::NotFound);
}
