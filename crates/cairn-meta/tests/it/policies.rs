//! Policies of directories: inherited by what is made, changed for what comes, refused where they cannot be.

use crate::support::{BLOCK, Expect, World, at, attr, code};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::status::{Code, Status};

impl World {
    async fn set_policy(&self, path: &str, change: pb::SetPolicy) -> Result<pb::Attr, Status> {
        self.change(Kind::SetPolicy(pb::SetPolicy { at: Some(at(path)), ..change })).await.map(Expect::into_attr)
    }

    async fn policy(&self, path: &str) -> (u32, u32, bool) {
        let policy = self.stat(path).await.expect("there").policy.expect("every inode has one");
        (policy.replicas, policy.block_len, policy.relaxed)
    }

    async fn group_sizes(&self) -> Vec<u32> {
        while self.meta.ensure_groups().await.expect("groups are made") {}
        let mut sizes: Vec<u32> = self.map().await.pgs.iter().map(|group| group.replicas).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

#[tokio::test]
async fn what_is_made_takes_the_policy_of_its_directory_and_keeps_it() {
    let world = World::with_groups().await;
    world.mkdir("d").await.expect("made");
    world.create("d/before").await.expect("made");
    let change =
        pb::SetPolicy { replicas: Some(2), block_len: Some(2 * BLOCK), relaxed: Some(true), ..Default::default() };
    world.set_policy("d", change).await.expect("set");
    world.mkdir("d/below").await.expect("made");
    world.create("d/below/after").await.expect("made");
    assert_eq!(world.policy("d/before").await, (3, BLOCK, false));
    assert_eq!(world.policy("d/below/after").await, (2, 2 * BLOCK, true));
    assert_eq!(world.policy("").await, (3, BLOCK, false));
    world.set_policy("d", pb::SetPolicy { relaxed: Some(false), ..Default::default() }).await.expect("set");
    assert_eq!(world.policy("d").await, (2, 2 * BLOCK, false), "the rest stays");
    assert_eq!(world.policy("d/below").await, (2, 2 * BLOCK, true));
    assert_eq!(world.group_sizes().await, [2, 3], "there are groups for each count");
}

#[tokio::test]
async fn blocks_go_to_groups_of_their_file_s_count() {
    let world = World::with_groups().await;
    world.mkdir("two").await.expect("made");
    world.set_policy("two", pb::SetPolicy { replicas: Some(2), ..Default::default() }).await.expect("set");
    world.group_sizes().await;
    let file = world.create("two/f").await.expect("made").inode;
    // Group 1 is one of three members.
    assert_eq!(code(world.write(file, 0, u64::from(BLOCK)).await), Code::Invalid);
    let group = world.map().await.pgs.iter().find(|group| group.replicas == 2).expect("one of two").clone();
    let acked: Vec<u32> = group.members.iter().map(|member| member.store).collect();
    let piece = pb::Piece { pg: group.id, pg_epoch: group.epoch, ..world.piece(0, u64::from(BLOCK), &acked) };
    world.change(Kind::Commit(world.commit(file, vec![piece]))).await.expect("committed");
}

#[tokio::test]
async fn a_policy_that_cannot_be_is_refused() {
    let world = World::with_groups().await;
    world.create("file").await.expect("made");
    let replicas = |replicas| pb::SetPolicy { replicas: Some(replicas), ..Default::default() };
    assert_eq!(code(world.set_policy("", replicas(0)).await), Code::Invalid);
    assert_eq!(code(world.set_policy("", replicas(6)).await), Code::Invalid);
    let refused = world.set_policy("", replicas(4)).await.expect_err("three nodes");
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.message.contains("there are 3"), "{}", refused.message);
    assert_eq!(code(world.set_policy("file", replicas(2)).await), Code::NotADirectory);
    assert_eq!(code(world.set_policy("nowhere", replicas(2)).await), Code::NotFound);
    let create = pb::Create {
        at: Some(at("g")),
        attr: Some(pb::NewAttr { replicas: 2, ..attr(0o644) }),
        follow: true,
        ..Default::default()
    };
    assert_eq!(code(world.change(Kind::Create(create)).await), Code::Invalid, "no directory has two");
    assert_eq!(world.policy("").await, (3, BLOCK, false));
}
