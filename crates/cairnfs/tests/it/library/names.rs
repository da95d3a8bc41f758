//! Directories, links, renames, attributes.

use super::cluster::Cluster;
use cairn_client::{CreateOptions, ErrorKind, FileKind, OpenOptions, SetAttributes, SetTime};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_made_listed_moved_and_removed() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.create_dir_all("/a/b/c").await.unwrap();
    client.create_dir_all("/a/b/c").await.unwrap();
    let odd = Path::new("/a/b").join(OsStr::from_bytes(b"not utf-8 \xff\xfe"));
    client.write_atomic(&odd, "odd", CreateOptions::new()).await.unwrap();
    client.symlink("b/c", "/a/link", CreateOptions::new()).await.unwrap();
    assert_eq!(client.read_link("/a/link").await.unwrap(), PathBuf::from("b/c"));
    assert_eq!(client.metadata("/a/link").await.unwrap().kind, FileKind::Directory);
    assert_eq!(client.symlink_metadata("/a/link").await.unwrap().kind, FileKind::Symlink);

    for number in 0..1500 {
        client.open(format!("/a/b/c/{number:04}")).await.unwrap();
    }
    let mut entries = client.read_dir("/a/link").await.unwrap();
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.unwrap() {
        assert_eq!(entry.metadata.inode, entry.inode);
        names.push(entry.name.into_string().unwrap());
    }
    assert_eq!(names, (0..1500).map(|n| format!("{n:04}")).collect::<Vec<_>>());

    client.rename("/a/b", "/a/moved").await.unwrap();
    assert_eq!(client.metadata("/a/b").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(client.metadata("/a/moved/c/0007").await.unwrap().size, 0);
    let error = client.rename("/a/moved", "/a/moved/c/inside").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(client.remove_dir("/a/moved").await.unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(client.remove_file("/a/moved").await.unwrap_err().kind(), ErrorKind::IsADirectory);
    client.remove_dir_all("/a").await.unwrap();
    assert!(client.read_dir("/").await.unwrap().next_entry().await.unwrap().is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_carry_path_and_operation() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let error = client.open_with("/none", OpenOptions::new().create(false)).await.err().unwrap();
    assert_eq!(
        (error.kind(), error.operation(), error.path()),
        (ErrorKind::NotFound, "open", Some(Path::new("/none")))
    );
    client.open("/file").await.unwrap();
    assert_eq!(client.open("/file/below").await.err().unwrap().kind(), ErrorKind::NotADirectory);
    let error = client.open_with("/file", OpenOptions::new().create_new(true)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let error = client.create_dir(format!("/{}", "n".repeat(300))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(client.create_dir_all("/file/x").await.unwrap_err().kind(), ErrorKind::NotADirectory);
    assert_eq!(client.open("/").await.err().unwrap().kind(), ErrorKind::IsADirectory);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_change_one_by_one() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.open("/file").await.unwrap().write_at(0, "content").await.unwrap();
    let before = client.metadata("/file").await.unwrap();
    let change = SetAttributes { mode: Some(0o4711), mtime: Some(SetTime::At(-5)), ..SetAttributes::default() };
    let after = client.set_attributes("/file", change).await.unwrap();
    assert_eq!((after.mode, after.mtime_ns), (0o4711, -5));
    assert_eq!((after.uid, after.atime_ns, after.size, after.inode), (before.uid, before.atime_ns, 7, before.inode));
    cluster.stop().await;
}
