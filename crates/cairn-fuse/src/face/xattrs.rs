//! Extended attributes; ACLs are such that the kernel knows, too.

use super::{Done, Face};
use crate::errno;
use crate::kernel::reply::{self, Answer};
use crate::kernel::request::Request;
use bytes::Bytes;
use cairn_client::{SetAttributes, Symlinks, XattrMode};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

/// Attributes that the kernel asks for again and again, and that only inodes with attributes have.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// An answer of variable length: only its length when the caller has no room, ERANGE when it has too little.
fn sized(value: Bytes, room: u32) -> Done {
    let len = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    match room {
        0 => Ok(reply::len(len)),
        room if room < len => Err(Errno::RANGE),
        _ => Ok(Answer::Data(vec![value])),
    }
}

impl Face {
    pub(super) async fn set_xattr(
        &self,
        request: &Request,
        name: &OsStr,
        value: Bytes,
        flags: u32,
        drop_setgid: bool,
    ) -> Done {
        let flags = XattrFlags::from_bits_retain(flags);
        let mode = match flags {
            flags if flags.is_empty() => XattrMode::Set,
            XattrFlags::CREATE => XattrMode::Create,
            XattrFlags::REPLACE => XattrMode::Replace,
            _ => return Err(Errno::INVAL),
        };
        let client = self.identity.client(request);
        let place = self.place(request);
        let set = client.set_xattr(&place, name, value, mode, Symlinks::Keep).await;
        let metadata = set.map_err(|error| errno::of_inode(&error))?;
        if drop_setgid && metadata.mode & 0o2000 != 0 {
            let change = SetAttributes { mode: Some(metadata.mode & !0o2000), ..SetAttributes::default() };
            self.client.set_attributes(place, change).await.map_err(|error| errno::of_inode(&error))?;
        }
        if let Some(node) = self.open_node(metadata.inode) {
            let mut metadata = metadata;
            node.show(&mut metadata);
            node.got_xattr();
        }
        Ok(Answer::Empty)
    }

    pub(super) async fn get_xattr(&self, request: &Request, name: &OsStr, room: u32) -> Done {
        let names = self.names.load(Ordering::Relaxed);
        if let Some(node) = self.open_node(self.inode(request.node))
            && node.fresh_metadata(self.ttl(), names).is_some_and(|metadata| !metadata.has_xattrs)
        {
            // The kernel asks for capabilities before the first write to each file.
            return Err(Errno::NODATA);
        }
        let client = self.identity.client(request);
        // ACLs are asked for by the kernel itself, before it knows whether the caller may.
        let client = if ACLS.iter().any(|acl| name == *acl) { self.client.clone() } else { client };
        let value = client.xattr(self.place(request), name, Symlinks::Keep).await;
        sized(value.map_err(|error| errno::of_inode(&error))?, room)
    }

    pub(super) async fn list_xattrs(&self, request: &Request, room: u32) -> Done {
        let client = self.identity.client(request);
        let names =
            client.xattrs(self.place(request), Symlinks::Keep).await.map_err(|error| errno::of_inode(&error))?;
        let mut all = Vec::new();
        for name in names {
            all.extend_from_slice(name.as_bytes());
            all.push(0);
        }
        sized(all.into(), room)
    }

    pub(super) async fn remove_xattr(&self, request: &Request, name: &OsStr) -> Done {
        let client = self.identity.client(request);
        let removed = client.remove_xattr(self.place(request), name, Symlinks::Keep).await;
        removed.map(|_| Answer::Empty).map_err(|error| errno::of_inode(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_sent_measured_or_refused() {
        let value = Bytes::from_static(b"abc");
        assert!(matches!(sized(value.clone(), 0), Ok(Answer::Bytes(bytes)) if bytes[0] == 3));
        assert!(matches!(sized(value.clone(), 2), Err(Errno::RANGE)));
        assert!(matches!(sized(value, 3), Ok(Answer::Data(parts)) if parts[0].len() == 3));
    }
}
