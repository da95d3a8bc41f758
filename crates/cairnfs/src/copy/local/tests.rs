use super::*;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_new_file_appears_whole_with_its_attributes() {
    let dir = scratch();
    let target = dir.path().join("x");
    fs::write(&target, "old").unwrap();
    let mut file = NewFile::create(target.clone(), &Unfinished::new()).unwrap();
    file.write(b"new content").unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"old");
    file.finish(Attributes { mode: 0o4751, mtime_ns: -1_500_000_001 }).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"new content");
    assert_eq!(
        Attributes::from(&fs::metadata(&target).unwrap()),
        Attributes { mode: 0o4751, mtime_ns: -1_500_000_001 }
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_abandoned_file_leaves_nothing() {
    let dir = scratch();
    let mut file = NewFile::create(dir.path().join("x"), &Unfinished::new()).unwrap();
    file.write(b"half").unwrap();
    drop(file);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn zeros_become_holes_and_content_stays() {
    let dir = scratch();
    let target = dir.path().join("x");
    let mut content = vec![0; 40 * HOLE_LEN + 12_345];
    for index in [0, 7, HOLE_LEN * 3 + 5, HOLE_LEN * 20, HOLE_LEN * 20 + HOLE_LEN - 1] {
        content[index] = 1;
    }
    // Every way to cut it into writes gives the same file.
    for step in [1000, HOLE_LEN - 1, HOLE_LEN, HOLE_LEN * 3 + 1, content.len()] {
        let mut file = NewFile::create(target.clone(), &Unfinished::new()).unwrap();
        content.chunks(step).for_each(|part| file.write(part).unwrap());
        file.finish(Attributes { mode: 0o600, mtime_ns: 0 }).unwrap();
        assert!(fs::read(&target).unwrap() == content, "cut every {step}");
    }
    let stored = fs::metadata(&target).unwrap().blocks() * 512;
    assert!(stored < content.len() as u64 / 4, "{stored} bytes are stored");
}

#[test]
fn links_are_replaced_and_keep_their_time() {
    let dir = scratch();
    let target = dir.path().join("x");
    for content in ["nowhere", "elsewhere"] {
        write_symlink(&target, &Unfinished::new(), Path::new(content), 7_000_000_009).unwrap();
        assert_eq!(fs::read_link(&target).unwrap(), Path::new(content));
        assert_eq!(Attributes::from(&fs::symlink_metadata(&target).unwrap()).mtime_ns, 7_000_000_009);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn sources() {
    let dir = scratch();
    let path = dir.path().join("x");
    fs::write(&path, vec![1; PIECE_LEN]).unwrap();
    assert!(matches!(open(&path, Source::Found).unwrap(), Opened::Piece(_, piece) if piece.len() == PIECE_LEN));
    fs::write(&path, vec![1; PIECE_LEN + 1]).unwrap();
    assert!(matches!(open(&path, Source::Found).unwrap(), Opened::Stream(..)));
    assert!(matches!(open(dir.path(), Source::Found).unwrap(), Opened::Directory));
    let link = dir.path().join("link");
    symlink("x", &link).unwrap();
    assert!(open(&link, Source::Found).is_err());
    assert!(matches!(open(&link, Source::Named).unwrap(), Opened::Stream(..)));
    let socket = dir.path().join("socket");
    rustix::fs::mknodat(CWD, &socket, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(matches!(open(&socket, Source::Found).unwrap(), Opened::Special("it is a FIFO")));
    // Says it is empty, is not.
    assert!(
        matches!(open(Path::new("/proc/self/maps"), Source::Found).unwrap(), Opened::Piece(_, piece) if !piece.is_empty())
    );
}

#[test]
fn only_directories_are_taken_as_directories() {
    let dir = scratch();
    let made = dir.path().join("d");
    make_dir(&made, false).unwrap();
    make_dir(&made, false).unwrap();
    symlink("d", dir.path().join("link")).unwrap();
    assert!(make_dir(&dir.path().join("link"), false).is_err());
    make_dir(&dir.path().join("link"), true).unwrap();
    finish_dir(&made, Attributes { mode: 0o1755, mtime_ns: 5 }).unwrap();
    assert_eq!(Attributes::from(&fs::metadata(&made).unwrap()), Attributes { mode: 0o1755, mtime_ns: 5 });
}

#[tokio::test]
async fn chunks_come_in_order_and_whole() {
    let content: Vec<u8> = (0..3 * CHUNK_LEN + 17).map(|index| (index / 1000) as u8).collect();
    let mut chunks = read_chunks(Box::new(io::Cursor::new(content.clone())));
    let mut read = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        read.extend_from_slice(&chunk.unwrap());
    }
    assert!(read == content);
}
