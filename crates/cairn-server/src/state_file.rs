//! Small files that are replaced as a whole: a reader finds the old content or the new, never a mix, and the new one is
//! on disk when the call returns.

use crate::limits::STATE_FILE_MAX;
use cairn_store::Disk;
use std::io;

/// Content of a state file; `None` when there is none.
pub(crate) fn read(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > STATE_FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} has {len} bytes, which is too many")));
    }
    let mut content = vec![0; len as usize];
    let mut done = 0;
    while done < content.len() {
        match file.read_at(done as u64, &mut content[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(content))
}

/// Replaces a state file: written beside it, made durable, renamed over it, and the name made durable.
///
/// After an error the file has its old or its new content.
pub(crate) fn replace(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    let mut done = 0;
    while done < content.len() {
        match file.write_at(done as u64, &[io::IoSlice::new(&content[done..])]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_data()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store::RealDisk;

    #[test]
    fn content_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        assert_eq!(read(&disk, "a").expect("readable"), None);
        replace(&disk, "a", b"a longer first content").expect("written");
        replace(&disk, "a", b"short").expect("written");
        assert_eq!(read(&disk, "a").expect("readable").as_deref(), Some(&b"short"[..]));
    }

    #[test]
    fn what_a_crash_left_behind_does_not_stop_the_next_write() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        disk.create("a.new").expect("as if the machine stopped before the rename");
        replace(&disk, "a", b"content").expect("written");
        assert_eq!(read(&disk, "a").expect("readable").as_deref(), Some(&b"content"[..]));
    }
}
