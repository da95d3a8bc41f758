use super::{Ahead, Known, PageAsk};
use cairn_client::{DirEntry, FileKind, Metadata};
use std::ffi::OsStr;
use std::time::Duration;
use tokio::time::{Instant, advance};

const TTL: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(1);
const DIR: u64 = 7;

fn entry(name: &str, inode: u64) -> DirEntry {
    let metadata = Metadata {
        inode,
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        version: 1,
        replicas: 3,
        block_len: 1 << 22,
        relaxed: false,
        trash_s: 0,
        target: None,
        btime_ns: 0,
        rdev: 0,
        has_xattrs: false,
        has_acl: false,
        allocated: 0,
    };
    DirEntry { name: name.into(), inode, kind: FileKind::File, metadata }
}

fn look(ahead: &Ahead, name: &str) -> Result<Known, Option<PageAsk>> {
    ahead.look(DIR, OsStr::new(name))
}

fn inode(known: Result<Known, Option<PageAsk>>) -> Option<u64> {
    match known {
        Ok(Known::Here(metadata, _)) => Some(metadata.inode),
        Ok(Known::Nothing(_)) => Some(0),
        Err(_) => None,
    }
}

/// Walks until a page is asked for.
fn walk(ahead: &Ahead) -> PageAsk {
    let names = ["f1", "f2", "f3"];
    names.iter().find_map(|name| look(ahead, name).expect_err("nothing is known")).expect("a page is asked for")
}

async fn with_page(more: bool) -> Ahead {
    let ahead = Ahead::new(TTL);
    let ask = walk(&ahead);
    assert_eq!((ask.dir, ask.after.as_os_str()), (DIR, OsStr::new("f")));
    advance(STEP).await;
    ahead.learn(ask, Some((vec![entry("f3", 13), entry("f5", 15)], more)));
    ahead
}

#[tokio::test(start_paused = true)]
async fn a_walk_is_answered_from_a_page() {
    let ahead = with_page(true).await;
    assert_eq!(inode(look(&ahead, "f3")), Some(13));
    assert_eq!(inode(look(&ahead, "f4")), Some(0), "nothing is between two entries of a page");
    assert_eq!(inode(look(&ahead, "f6")), None, "behind the page nothing is known");
    assert_eq!(inode(look(&ahead, "e9")), None, "nor before it");
    let whole = with_page(false).await;
    assert_eq!(inode(look(&whole, "zzz")), Some(0), "the last page says what is not there");
    assert_eq!(inode(look(&whole, ".snapshots")), None, "no listing has it");
    assert_eq!(inode(look(&whole, &"z".repeat(256))), None, "the server says that it is too long");
}

#[tokio::test(start_paused = true)]
async fn what_was_told_holds_as_long_as_the_page_is_young() {
    let ahead = with_page(true).await;
    advance(TTL - STEP - STEP).await;
    let Ok(Known::Here(_, holds)) = look(&ahead, "f3") else { panic!("it still holds") };
    assert_eq!(holds, STEP);
    advance(STEP).await;
    assert_eq!(inode(look(&ahead, "f3")), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_touched_is_asked_for() {
    let ahead = with_page(true).await;
    ahead.touch(15);
    ahead.touch_name(DIR, OsStr::new("f4"));
    assert_eq!((inode(look(&ahead, "f5")), inode(look(&ahead, "f4"))), (None, None));
    assert_eq!(inode(look(&ahead, "f3")), Some(13), "others are not");
    ahead.touch_all();
    assert_eq!(inode(look(&ahead, "f3")), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_touched_while_a_page_is_read_is_not_taken_from_it() {
    let ahead = Ahead::new(TTL);
    let ask = walk(&ahead);
    ahead.touch(13);
    ahead.touch_name(DIR, OsStr::new("f4"));
    advance(STEP).await;
    ahead.learn(ask, Some((vec![entry("f3", 13), entry("f5", 15)], true)));
    assert_eq!((inode(look(&ahead, "f3")), inode(look(&ahead, "f4"))), (None, None));
    assert_eq!(inode(look(&ahead, "f5")), Some(15));
}

fn directory(mtime_ns: i64) -> Metadata {
    let mut metadata = entry("d", DIR).metadata;
    (metadata.kind, metadata.mtime_ns, metadata.ctime_ns) = (FileKind::Directory, mtime_ns, mtime_ns);
    metadata
}

#[tokio::test(start_paused = true)]
async fn attributes_of_a_directory_follow_what_is_made_in_it() {
    let ahead = Ahead::new(TTL);
    ahead.learn_attributes(&directory(5), Instant::now());
    advance(STEP).await;
    ahead.bump(DIR, 9);
    ahead.bump(DIR, 8);
    let (metadata, holds) = ahead.attributes(DIR).expect("they are known");
    assert_eq!((metadata.mtime_ns, metadata.ctime_ns, holds), (9, 9, TTL - STEP));
    ahead.touch(DIR);
    assert!(ahead.attributes(DIR).is_none(), "somebody changed more than a name");
    ahead.learn_attributes(&entry("f", 3).metadata, Instant::now());
    assert!(ahead.attributes(3).is_none(), "only directories are kept");
}

#[tokio::test(start_paused = true)]
async fn attributes_that_were_asked_for_before_a_change_are_not_kept() {
    for change in [
        |ahead: &Ahead| ahead.bump(DIR, 9),
        |ahead: &Ahead| ahead.touch(DIR),
        Ahead::touch_directories,
        Ahead::touch_all,
    ] {
        let ahead = Ahead::new(TTL);
        let asked = Instant::now();
        advance(STEP).await;
        change(&ahead);
        ahead.learn_attributes(&directory(5), asked);
        assert!(ahead.attributes(DIR).is_none());
        advance(STEP).await;
        ahead.learn_attributes(&directory(9), Instant::now());
        assert!(ahead.attributes(DIR).is_some());
        ahead.learn_attributes(&directory(7), asked);
        assert_eq!(ahead.attributes(DIR).expect("the newest").0.mtime_ns, 9);
        advance(TTL).await;
        assert!(ahead.attributes(DIR).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn further_names_and_directories_are_asked_for() {
    let ahead = Ahead::new(TTL);
    let ask = walk(&ahead);
    let mut entries = vec![entry("f3", 13), entry("f5", 15)];
    entries[0].metadata.nlink = 2;
    entries[1].metadata.kind = FileKind::Directory;
    advance(STEP).await;
    ahead.learn(ask, Some((entries, false)));
    assert_eq!((inode(look(&ahead, "f3")), inode(look(&ahead, "f5"))), (None, None));
}

#[tokio::test(start_paused = true)]
async fn lookups_that_are_far_apart_are_no_walk() {
    let ahead = Ahead::new(TTL);
    for _ in 0..10 {
        assert_eq!(look(&ahead, "f1").err(), Some(None));
        advance(TTL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_no_use_become_rare() {
    let ahead = Ahead::new(TTL);
    let mut asked = 0;
    for step in 0..10_000 {
        // Names in no order: what is read is never what comes next.
        if let Err(Some(ask)) = look(&ahead, &format!("{}", step * 7_919 % 10_000)) {
            asked += 1;
            ahead.learn(ask, Some((vec![entry("x", 1)], true)));
        }
    }
    assert!((5..50).contains(&asked), "{asked} pages for 10,000 lookups");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_where_nothing_holds() {
    let ahead = Ahead::new(Duration::ZERO);
    for _ in 0..10 {
        assert_eq!(look(&ahead, "f1").err(), Some(None));
    }
}

#[tokio::test(start_paused = true)]
async fn one_reads_and_what_fails_is_tried_again() {
    let ahead = Ahead::new(TTL);
    let ask = walk(&ahead);
    assert!((0..20).all(|_| look(&ahead, "f1").is_err_and(|ask| ask.is_none())), "one page is read at a time");
    ahead.learn(ask, None);
    assert!((0..20).any(|_| look(&ahead, "f1").is_err_and(|ask| ask.is_some())));
}
