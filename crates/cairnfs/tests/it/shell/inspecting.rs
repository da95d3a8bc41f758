//! `cairn node inspect`: segment files, whole and damaged.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    support::{Cluster, Done, cairn},
    tree::noise,
};

/// Segment files below a directory.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(segments(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "seg") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn inspect(args: &[&str]) -> Done {
    let mut command = cairn();
    // What the role takes from the environment does not get in the way.
    command.env("CAIRN_NODE_DATA", "/nowhere").args(["node", "inspect"]).args(args);
    command.output().unwrap().into()
}

#[test]
fn records_are_printed_and_verified() {
    let cluster = Cluster::start();
    cluster.run_with(&noise(1, 300_000), ["put", "-q", "-", "/x"]).quiet();
    let inode = cluster.run(["stat", "--json", "/x"]).json()[0]["inode"].as_u64().unwrap();
    // The cluster runs on: nothing is locked.
    let files = segments(&cluster.data.join("node-1"));
    let path = files[0].to_str().unwrap();
    let records = inspect(&[path, "--json"]).json();
    let records = records.as_array().unwrap();
    assert_eq!((&records[0]["type"], &records[0]["header"]), (&"segment".into(), &"intact".into()));
    let put = records.iter().find(|record| record["type"] == "put").unwrap();
    assert_eq!((put["stored_len"].as_u64(), put["payload"].as_str()), (Some(300_000), Some("intact")), "{put}");
    assert!(put["block"].as_str().unwrap().starts_with(&format!("{inode}/")), "{put}");
    let summary = records.last().unwrap();
    assert_eq!((summary["type"].as_str(), summary["puts"].as_u64()), (Some("summary"), Some(1)), "{summary}");
    let text = inspect(&[path]).quiet();
    assert!(text.contains("300000 bytes for file offset 0: intact") && text.contains("1 put (0 bad"), "{text}");
    assert!(inspect(&[path, "--no-payload"]).quiet().contains(": not read"));

    let copy = cluster.path("copy.seg");
    fs::copy(path, &copy).unwrap();
    let offset = put["offset"].as_u64().unwrap();
    fs::File::options().write(true).open(&copy).unwrap().write_all_at(b"!", offset + 100_000).unwrap();
    let damaged = inspect(&[copy.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&damaged.stdout).contains(": bad from chunk 1  BAD"), "{damaged:?}");
    damaged.fails(1, &["cairn node: ", "copy.seg: is damaged"]);
    assert!(inspect(&[copy.to_str().unwrap(), "--no-payload"]).quiet().contains("1 put (0 bad"));
}

#[test]
fn what_is_no_segment_is_told() {
    inspect(&["/etc/passwd"]).fails(1, &["/etc/passwd", "no segment"]);
    inspect(&["/nowhere/1.seg"]).fails(1, &["/nowhere/1.seg"]);
    inspect(&[]).fails(2, &["SEGMENT"]);
    Done::from(cairn().args(["node", "--data", "/x", "inspect", "/y"]).output().unwrap()).fails(2, &["inspect"]);
    Done::from(cairn().args(["node"]).output().unwrap()).fails(2, &["--data", "say in which directory"]);
}
