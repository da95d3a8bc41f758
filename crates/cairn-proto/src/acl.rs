//! POSIX access control lists as values: read from and written in the kernel's form, turned into modes and back,
//! inherited. Knows nothing of rows or callers; who is let in by one is decided by metadata.
//!
//! The rules are those of acl(5). The form is that of `linux/posix_acl_xattr.h`, version 2: a `u32` 2, then for each
//! entry tag `u16`, permissions `u16`, id `u32`, all little-endian.

use std::fmt;

/// Entries of one list.
pub const ACL_ENTRIES_MAX: usize = 1024;
/// First word of the kernel's form.
const VERSION: u32 = 2;
/// Id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// Whom an entry is about, in the order in which entries stand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tag {
    /// The owner.
    UserObj,
    /// A user.
    User(u32),
    /// The owning group.
    GroupObj,
    /// A group.
    Group(u32),
    /// What all but the owner and others have at most.
    Mask,
    /// Everybody else.
    Other,
}

impl Tag {
    fn number(self) -> (u16, u32) {
        match self {
            Tag::UserObj => (0x01, NOBODY),
            Tag::User(uid) => (0x02, uid),
            Tag::GroupObj => (0x04, NOBODY),
            Tag::Group(gid) => (0x08, gid),
            Tag::Mask => (0x10, NOBODY),
            Tag::Other => (0x20, NOBODY),
        }
    }

    fn from_number(tag: u16, id: u32) -> Option<Self> {
        match tag {
            0x01 => Some(Tag::UserObj),
            0x02 => Some(Tag::User(id)),
            0x04 => Some(Tag::GroupObj),
            0x08 => Some(Tag::Group(id)),
            0x10 => Some(Tag::Mask),
            0x20 => Some(Tag::Other),
            _ => None,
        }
    }
}

/// One line of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Whom it is about.
    pub tag: Tag,
    /// 4 read, 2 write, 1 execute.
    pub perm: u32,
}

/// A valid list: sorted, an owner, an owning group and others exactly once, a mask where anybody is named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl {
    entries: Vec<Entry>,
}

/// Why bytes or entries are no list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AclFault {
    /// Not the kernel's form, version 2.
    Form,
    /// More entries than a list may have.
    TooMany,
    /// A permission that is none.
    Permission,
    /// Two entries about the same, or one that has to be there is not.
    Entries,
}

impl fmt::Display for AclFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AclFault::Form => f.write_str("an ACL is not in the kernel's form, version 2"),
            AclFault::TooMany => write!(f, "an ACL has more than {ACL_ENTRIES_MAX} entries"),
            AclFault::Permission => f.write_str("an ACL has a permission other than read, write, execute"),
            AclFault::Entries => f.write_str(
                "an ACL needs owner, owning group and others once, each user and group at most once, and a mask where \
                 any of these is named",
            ),
        }
    }
}

impl std::error::Error for AclFault {}

impl Acl {
    /// A list of these entries, in whatever order they come.
    ///
    /// # Errors
    /// [`AclFault`] when they make no list.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, AclFault> {
        if entries.len() > ACL_ENTRIES_MAX {
            return Err(AclFault::TooMany);
        }
        if entries.iter().any(|entry| entry.perm > 7) {
            return Err(AclFault::Permission);
        }
        entries.sort_unstable_by_key(|entry| entry.tag);
        let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
        let twice = entries.windows(2).any(|pair| pair[0].tag == pair[1].tag);
        let named = entries.iter().any(|entry| matches!(entry.tag, Tag::User(_) | Tag::Group(_)));
        let complete = [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().all(|tag| count(tag) == 1);
        if twice || !complete || (named && count(Tag::Mask) == 0) {
            return Err(AclFault::Entries);
        }
        Ok(Self { entries })
    }

    /// Reads the kernel's form; `None` for the form without entries, which stands for no list.
    ///
    /// # Errors
    /// [`AclFault`] for bytes that are not that form, or make no list.
    pub fn from_bytes(bytes: &[u8]) -> Result<Option<Self>, AclFault> {
        let (version, rest) = bytes.split_first_chunk::<4>().ok_or(AclFault::Form)?;
        let (entries, tail) = rest.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !tail.is_empty() {
            return Err(AclFault::Form);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        if entries.len() > ACL_ENTRIES_MAX {
            return Err(AclFault::TooMany);
        }
        let entry = |[t0, t1, p0, p1, id @ ..]: &[u8; 8]| {
            let tag = Tag::from_number(u16::from_le_bytes([*t0, *t1]), u32::from_le_bytes(*id));
            let perm = u32::from(u16::from_le_bytes([*p0, *p1]));
            tag.map(|tag| Entry { tag, perm }).ok_or(AclFault::Form)
        };
        Self::new(entries.iter().map(entry).collect::<Result<_, _>>()?).map(Some)
    }

    /// The kernel's form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            let (tag, id) = entry.tag.number();
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&(entry.perm as u16).to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    /// What the entry about `tag` gives.
    pub fn perm(&self, tag: Tag) -> Option<u32> {
        self.entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm)
    }

    /// The entries, in their order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What all but the owner and others have at most.
    pub fn mask(&self) -> u32 {
        self.perm(Tag::Mask).unwrap_or(7)
    }

    /// True when a mode says the same.
    pub fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    /// The nine permission bits that stand for this list: those of the mask, where there is one, are the group's.
    pub fn mode(&self) -> u32 {
        let of = |tag| self.perm(tag).unwrap_or(0);
        let group = self.perm(Tag::Mask).unwrap_or_else(|| of(Tag::GroupObj));
        of(Tag::UserObj) << 6 | group << 3 | of(Tag::Other)
    }

    fn set_classes(&mut self, owner: u32, group: u32, other: u32) {
        let group_tag = if self.perm(Tag::Mask).is_some() { Tag::Mask } else { Tag::GroupObj };
        for entry in &mut self.entries {
            match entry.tag {
                Tag::UserObj => entry.perm = owner,
                Tag::Other => entry.perm = other,
                tag if tag == group_tag => entry.perm = group,
                _ => {}
            }
        }
    }

    /// The list after chmod(2): the group's bits go to the mask, where there is one.
    pub fn chmod(&mut self, mode: u32) {
        self.set_classes(mode >> 6 & 7, mode >> 3 & 7, mode & 7);
    }

    /// The access list of something made with `mode` in a directory that has this as its default list, and its mode:
    /// neither gives more than both allow. The other bits of `mode` stay.
    pub fn inherited(&self, mode: u32) -> (Self, u32) {
        let both = self.mode() & mode;
        let mut acl = self.clone();
        acl.chmod(both);
        (acl, mode & !0o777 | both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(Tag, u32)]) -> Result<Acl, AclFault> {
        Acl::new(entries.iter().map(|(tag, perm)| Entry { tag: *tag, perm: *perm }).collect())
    }

    const BASE: [(Tag, u32); 3] = [(Tag::Other, 4), (Tag::UserObj, 6), (Tag::GroupObj, 5)];

    #[test]
    fn the_kernel_s_form_is_pinned() {
        let list = acl(&[BASE[0], BASE[1], BASE[2], (Tag::User(1000), 7), (Tag::Mask, 6)]).expect("valid");
        let bytes = list.to_bytes();
        let expected = "02000000 01000600ffffffff 02000700e8030000 04000500ffffffff 10000600ffffffff 20000400ffffffff";
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.replace(' ', ""));
        assert_eq!(Acl::from_bytes(&bytes), Ok(Some(list.clone())));
        assert_eq!((list.mode(), list.is_minimal(), list.mask()), (0o664, false, 6));
        assert_eq!(acl(&BASE).expect("valid").mode(), 0o654);
        assert_eq!(Acl::from_bytes(&[2, 0, 0, 0]), Ok(None));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let with = |more: &[(Tag, u32)]| acl(&[&BASE[..], more].concat()).map(|_| ());
        assert_eq!(with(&[(Tag::User(1), 7)]), Err(AclFault::Entries), "no mask");
        assert_eq!(with(&[(Tag::Mask, 7)]), Ok(()));
        assert_eq!(with(&[(Tag::Other, 7)]), Err(AclFault::Entries));
        assert_eq!(with(&[(Tag::Mask, 7), (Tag::Group(5), 1), (Tag::Group(5), 2)]), Err(AclFault::Entries));
        assert_eq!(with(&[(Tag::Mask, 8)]), Err(AclFault::Permission));
        assert_eq!(acl(&BASE[1..]), Err(AclFault::Entries));
        let many: Vec<_> = (0..ACL_ENTRIES_MAX as u32).map(|uid| (Tag::User(uid), 0)).collect();
        assert_eq!(with(&many), Err(AclFault::TooMany));
        for bytes in
            [&b""[..], b"\x01\0\0\0", b"\x02\0\0", b"\x02\0\0\0\x01\0\x06\0", b"\x02\0\0\0\x03\0\x06\0\0\0\0\0"]
        {
            assert_eq!(Acl::from_bytes(bytes), Err(AclFault::Form), "{bytes:?}");
        }
    }

    #[test]
    fn chmod_and_inheritance_work_on_the_classes() {
        let list = acl(&[BASE[0], BASE[1], BASE[2], (Tag::User(1), 7), (Tag::Mask, 7)]).expect("valid");
        let mut changed = list.clone();
        changed.chmod(0o4741);
        assert_eq!(
            (changed.mode(), changed.perm(Tag::GroupObj), changed.perm(Tag::User(1))),
            (0o741, Some(5), Some(7))
        );
        // touch(1) makes files with 0666: execute is taken from the mask, the user's own entry stays.
        let (access, mode) = list.inherited(0o100_666);
        assert_eq!((access.mode(), mode, access.perm(Tag::User(1))), (0o664, 0o100_664, Some(7)));
        let (access, mode) = list.inherited(0o000);
        assert_eq!((access.mode(), mode), (0, 0));
        let (minimal, mode) = acl(&BASE).expect("valid").inherited(0o777);
        assert_eq!((minimal.is_minimal(), mode), (true, 0o654));
    }
}
