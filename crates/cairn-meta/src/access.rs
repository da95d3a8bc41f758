//! Who may do what: decisions over values, each as POSIX, acl(5) and the Linux kernel make them. Reads no row.

use crate::rows::Kind;
use cairn_proto::acl::{Acl, Tag};
use cairn_proto::limits::CALLER_GROUPS_MAX;
use cairn_proto::pb;
use cairn_proto::status::{Code, Status};

/// Set-user-id, set-group-id and sticky bits of a mode.
pub(crate) const SETUID: u32 = 0o4000;
pub(crate) const SETGID: u32 = 0o2000;
pub(crate) const STICKY: u32 = 0o1000;
const GROUP_EXEC: u32 = 0o010;
const ANY_EXEC: u32 = 0o111;

/// What is to be done: a sum of these.
pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
/// Of a directory: search.
pub(crate) const EXEC: u32 = 1;

/// On whose behalf a request is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Caller {
    /// The caller a request names; none is trusted.
    pub(crate) fn of(request: &pb::Request) -> Result<Option<Self>, Status> {
        let Some(caller) = &request.caller else { return Ok(None) };
        if caller.groups.len() > CALLER_GROUPS_MAX {
            let message = format!("a caller in {} groups; at most {CALLER_GROUPS_MAX}", caller.groups.len());
            return Err(Status::new(Code::Invalid, message));
        }
        Ok(Some(Self { uid: caller.uid, gid: caller.gid, groups: caller.groups.clone() }))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(crate) fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// The owner, or user 0.
    pub(crate) fn owns(&self, uid: u32) -> bool {
        self.is_root() || self.uid == uid
    }
}

/// What access to is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Its access list, where it says more than the mode.
    pub acl: Option<&'a Acl>,
}

/// The access check algorithm of acl(5); without a list it is that of the mode.
pub(crate) fn allows(caller: &Caller, object: &Object<'_>, want: u32) -> bool {
    if caller.is_root() {
        // Nobody executes what nobody may execute.
        return want & EXEC == 0 || object.kind == Kind::Directory || object.mode & ANY_EXEC != 0;
    }
    let has = |perm: u32| perm & want == want;
    if caller.uid == object.uid {
        return has(object.mode >> 6 & 7);
    }
    if let Some(acl) = object.acl {
        if let Some(perm) = acl.perm(Tag::User(caller.uid)) {
            return has(perm & acl.mask());
        }
        let of_group = |tag| match tag {
            Tag::GroupObj => caller.is_in(object.gid),
            Tag::Group(gid) => caller.is_in(gid),
            _ => false,
        };
        let mut groups = acl.entries().iter().filter(|entry| of_group(entry.tag)).peekable();
        if groups.peek().is_some() {
            return groups.any(|entry| has(entry.perm & acl.mask()));
        }
    } else if caller.is_in(object.gid) {
        return has(object.mode >> 3 & 7);
    }
    has(object.mode & 7)
}

/// Whether a name may be taken from a sticky directory: its owner may, and the owner of what is named.
pub(crate) fn may_unname(caller: &Caller, dir_mode: u32, dir_uid: u32, uid: u32) -> bool {
    dir_mode & STICKY == 0 || caller.owns(dir_uid) || caller.owns(uid)
}

/// The set-group-id bit goes from a mode that somebody outside of the group sets.
pub(crate) fn chmod(caller: Option<&Caller>, kind: Kind, gid: u32, mode: u32) -> u32 {
    let outside = caller.is_some_and(|caller| !caller.is_root() && !caller.is_in(gid));
    if outside && kind != Kind::Directory { mode & !SETGID } else { mode }
}

/// Whether owner and group may become these: user 0 may everything, an owner give it to a group that he is in.
pub(crate) fn may_chown(caller: &Caller, (uid, gid): (u32, u32), to_uid: Option<u32>, to_gid: Option<u32>) -> bool {
    if caller.is_root() {
        return true;
    }
    let keeps_owner = to_uid.is_none_or(|to| to == uid);
    let keeps_group = to_gid.is_none_or(|to| to == gid || caller.is_in(to));
    caller.uid == uid && keeps_owner && keeps_group
}

/// The mode of a file whose owner changes, or that somebody other than user 0 writes: it no longer lends anybody's rights.
/// Set-group-id without execute is left, as it once meant mandatory locking.
pub(crate) fn without_privileges(kind: Kind, mode: u32) -> u32 {
    if kind == Kind::Directory {
        return mode;
    }
    let lends_group = if mode & GROUP_EXEC != 0 { SETGID } else { 0 };
    mode & !(SETUID | lends_group)
}

/// Owner, group and mode of something new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Birth {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// Who owns something new, and with which special bits: a set-group-id directory hands down its group, and to
/// directories its bit.
pub(crate) fn birth(caller: Option<&Caller>, kind: Kind, asked: Birth, dir_mode: u32, dir_gid: u32) -> Birth {
    let Birth { mut uid, mut gid, mut mode } = asked;
    if let Some(caller) = caller {
        (uid, gid) = (caller.uid, caller.gid);
    }
    if dir_mode & SETGID != 0 {
        gid = dir_gid;
        if kind == Kind::Directory {
            mode |= SETGID;
        }
    }
    if mode & GROUP_EXEC != 0 {
        mode = chmod(caller, kind, gid, mode);
    }
    Birth { uid, gid, mode }
}

#[cfg(test)]
mod tests;
