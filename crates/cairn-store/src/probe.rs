//! Whether the disk under a store takes writes: asked before a store that still serves reads is closed to be opened anew.

use crate::disk::write_buffer_at;
use crate::limits::PAGE_LEN;
use crate::store::Store;
use std::io;

/// Written, synced and removed again.
const NAME: &str = "probe";

impl Store {
    /// Writes a page to a file of its own, makes it durable and removes it. Works on a poisoned store too.
    ///
    /// # Errors
    /// What the disk said. The store is as it was.
    pub fn probe(&self) -> io::Result<()> {
        let disk = &self.shared.disk;
        match disk.remove(NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(NAME)?;
        write_buffer_at(&*file, 0, &[0xa5; PAGE_LEN as usize])?;
        file.sync_data()?;
        disk.remove(NAME)?;
        disk.sync_dir("")
    }
}
