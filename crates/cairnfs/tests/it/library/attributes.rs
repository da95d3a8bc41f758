//! Further names, exchanges, special files, attributes, ACLs, callers, holds: by path and by number.

use super::cluster::Cluster;
use cairn_client::acl::{Acl, Entry, Tag};
use cairn_client::{
    AclKind, CreateOptions, Credentials, ErrorKind, FileKind, NodeKind, OpenOptions, Place, RenameMode, Rights,
    SetAttributes, SetTime, Symlinks, XattrMode,
};

#[tokio::test(flavor = "multi_thread")]
async fn names_and_nodes_by_path_and_by_number() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let dir = client.create_dir("/d").await.unwrap().inode;
    let file = client.open(Place::within(dir, "f")).await.unwrap();
    file.write_at(0, "content").await.unwrap();
    let inode = file.inode().0;
    assert_eq!(client.metadata("/d/f").await.unwrap().inode, inode);
    let linked = client.hard_link(Place::inode(inode), Place::within(dir, "g")).await.unwrap();
    assert_eq!((linked.nlink, linked.size), (2, 7));
    assert!(linked.btime_ns > 0 && linked.btime_ns <= linked.ctime_ns);
    let error = client.hard_link("/d", "/e").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    // By number the name does not matter.
    client.rename(Place::within(dir, "f"), "/moved").await.unwrap();
    assert_eq!(&client.open(Place::inode(inode)).await.unwrap().read_at(0, 7).await.unwrap()[..], b"content");
    let error = client.metadata(Place::within(dir, "f")).await.unwrap_err();
    assert_eq!(error.path().unwrap().to_str(), Some(format!("inode {dir}/f").as_str()));
    client.open("/other").await.unwrap();
    let error = client.rename_with("/moved", "/other", RenameMode::NoReplace).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    client.rename_with("/moved", "/other", RenameMode::Exchange).await.unwrap();
    assert_eq!(client.metadata("/other").await.unwrap().inode, inode);
    let device = NodeKind::CharDevice(0x103);
    let made = client.create_node("/null", device, CreateOptions::new().mode(0o666)).await.unwrap();
    assert_eq!((made.kind, made.rdev, made.mode), (FileKind::CharDevice, 0x103, 0o666));
    assert_eq!(client.open("/null").await.err().unwrap().kind(), ErrorKind::InvalidInput);
    let mut listing = client.read_dir_after("/", "moved").await.unwrap();
    let mut names = Vec::new();
    while let Some(entry) = listing.next_entry().await.unwrap() {
        names.push(entry.name.into_string().unwrap());
    }
    assert_eq!(names, ["null", "other"]);
    let room = client.statfs("/d").await.unwrap();
    assert!(room.free_bytes > 0 && room.free_bytes <= room.total_bytes && room.replicas == 3);
    client.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_and_acls_come_back() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.open("/f").await.unwrap().write_at(0, "0123456789").await.unwrap();
    client.symlink("f", "/s", CreateOptions::new()).await.unwrap();
    let (follow, keep) = (Symlinks::Follow, Symlinks::Keep);
    client.set_xattr("/s", "user.a", &b"1"[..], XattrMode::Create, follow).await.unwrap();
    let error = client.set_xattr("/f", "user.a", &b"2"[..], XattrMode::Create, follow).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(&client.xattr("/f", "user.a", follow).await.unwrap()[..], b"1");
    assert_eq!(client.xattr("/s", "user.a", keep).await.unwrap_err().kind(), ErrorKind::NoAttribute);
    for index in 0..300 {
        client.set_xattr("/f", format!("user.{index:03}"), &b""[..], XattrMode::Set, follow).await.unwrap();
    }
    let names = client.xattrs("/f", follow).await.unwrap();
    assert_eq!((names.len(), names[300].to_str()), (301, Some("user.a")));
    client.remove_xattr("/f", "user.a", follow).await.unwrap();

    assert_eq!(client.acl("/f", AclKind::Access).await.unwrap(), None);
    let entry = |tag, perm| Entry { tag, perm };
    let entries = [(Tag::UserObj, 6), (Tag::User(77), 6), (Tag::GroupObj, 4), (Tag::Mask, 6), (Tag::Other, 0)];
    let acl = Acl::new(entries.map(|(tag, perm)| entry(tag, perm)).to_vec()).unwrap();
    assert_eq!(client.set_acl("/f", AclKind::Access, Some(&acl)).await.unwrap().mode, 0o660);
    assert_eq!(client.acl("/f", AclKind::Access).await.unwrap(), Some(acl));

    // On behalf of others.
    let act = |uid| client.on_behalf_of(&Credentials { uid, gid: uid, groups: Vec::new() });
    let (guest, stranger) = (act(77), act(78));
    let reading = OpenOptions::new().create(false).read(true);
    assert_eq!(&guest.open_with("/f", reading.clone()).await.unwrap().read_at(0, 2).await.unwrap()[..], b"01");
    assert_eq!(stranger.open_with("/f", reading).await.err().unwrap().kind(), ErrorKind::PermissionDenied);
    let write = Rights { write: true, ..Rights::default() };
    assert!(guest.access("/f", write, follow).await.is_ok());
    assert_eq!(stranger.access("/f", write, follow).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(stranger.remove_file("/f").await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    client.set_attributes("/", SetAttributes { mode: Some(0o777), ..SetAttributes::default() }).await.unwrap();
    let made = stranger.write_atomic("/theirs", "x", CreateOptions::new().mode(0o666).umask(0o027)).await.unwrap();
    assert_eq!((made.uid, made.gid, made.mode), (78, 78, 0o640));
    // What somebody else than user 0 writes lends no rights any more, streamed or not.
    let change = SetAttributes { mode: Some(0o4777), ..SetAttributes::default() };
    for streamed in [false, true] {
        client.set_attributes("/theirs", change.clone()).await.unwrap();
        let file = stranger.open_with("/theirs", OpenOptions::new().write(true)).await.unwrap();
        if streamed {
            let mut writer = file.writer();
            tokio::io::AsyncWriteExt::write_all(&mut writer, &[7; 100_000]).await.unwrap();
            tokio::io::AsyncWriteExt::flush(&mut writer).await.unwrap();
        } else {
            file.write_at(0, "y").await.unwrap();
        }
        assert_eq!(client.metadata("/theirs").await.unwrap().mode, 0o777);
    }

    let change = SetAttributes {
        size: Some(4),
        mode: Some(0o600),
        mtime: Some(SetTime::At(5)),
        atime: Some(SetTime::Now),
        ..SetAttributes::default()
    };
    let after = client.set_attributes_with("/s", change, follow).await.unwrap();
    assert_eq!((after.size, after.mode, after.mtime_ns, after.atime_ns), (4, 0o600, 5, after.ctime_ns));
    client.close().await;
    cluster.stop().await;
}

/// A reader goes on with what it opened, whoever removes or replaces it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sustained_handle_outlives_the_name() {
    let cluster = Cluster::start().await;
    let (reader, other) = (cluster.client().await, cluster.client().await);
    let old = vec![1; 200_000];
    other.write_atomic("/f", old.clone(), CreateOptions::new()).await.unwrap();
    let sustained = OpenOptions::new().create(false).sustained(true);
    let held = reader.open_with("/f", sustained.clone()).await.unwrap();
    let again = reader.open_with("/f", sustained).await.unwrap();
    let plain = reader.open("/f").await.unwrap();
    other.write_atomic("/f", "new", CreateOptions::new()).await.unwrap();
    assert!(held.read_at(0, 200_000).await.unwrap() == old);
    assert_eq!(held.metadata().await.unwrap().nlink, 0);
    held.write_at(200_000, "more").await.unwrap();
    drop(held);
    assert_eq!(again.len().await.unwrap(), 200_004, "another handle still holds it");
    drop(again);
    super::cluster::eventually("the content goes with the last handle", async || {
        plain.metadata().await.err().map(|error| assert_eq!(error.kind(), ErrorKind::NotFound))
    })
    .await;

    // A file without a name appears when it is linked, and is gone otherwise.
    let kept = other.create_unnamed("/", OpenOptions::new()).await.unwrap();
    kept.write_at(0, "appears").await.unwrap();
    other.hard_link(Place::inode(kept.inode().0), "/appeared").await.unwrap();
    let lost = other.create_unnamed("/", OpenOptions::new()).await.unwrap();
    let inode = lost.inode().0;
    drop((kept, lost));
    super::cluster::eventually("what was never named goes", async || reader.metadata(Place::inode(inode)).await.err())
        .await;
    assert_eq!(&reader.open("/appeared").await.unwrap().read_at(0, 7).await.unwrap()[..], b"appears");
    // A hold by number, as a mount takes it before it unlinks.
    let inode = reader.metadata("/appeared").await.unwrap().inode;
    let hold = reader.sustain(inode).await.unwrap();
    reader.remove_file("/appeared").await.unwrap();
    assert_eq!(other.metadata(Place::inode(hold.inode())).await.unwrap().size, 7);
    // The end of the session ends it, too.
    reader.close().await;
    assert_eq!(other.metadata(Place::inode(inode)).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(other.sustain(inode).await.err().unwrap().kind(), ErrorKind::NotFound);
    other.close().await;
    cluster.stop().await;
}
