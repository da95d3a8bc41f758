use super::*;
use cairn_proto::acl::Entry;

fn user(uid: u32, gid: u32, groups: &[u32]) -> Caller {
    Caller { uid, gid, groups: groups.to_vec() }
}

fn list(entries: &[(Tag, u32)]) -> Acl {
    Acl::new(entries.iter().map(|(tag, perm)| Entry { tag: *tag, perm: *perm }).collect()).expect("valid")
}

/// Everything that `caller` may do, as a digit of a mode.
fn rights(caller: &Caller, object: &Object<'_>) -> u32 {
    let all = [READ, WRITE, EXEC];
    let single = all.into_iter().filter(|want| allows(caller, object, *want)).sum();
    // Several rights at once never exceed the single ones; with an ACL they may have to come from one entry.
    for want in 0..8 {
        assert!(!allows(caller, object, want) || want & single == want);
    }
    single
}

#[test]
fn a_mode_is_asked_by_class() {
    let object = |kind, mode| Object { kind, mode, uid: 10, gid: 20, acl: None };
    let table = [
        (user(10, 20, &[]), 0o077, 0),
        (user(10, 99, &[]), 0o700, 7),
        (user(11, 20, &[]), 0o707, 0),
        (user(11, 20, &[]), 0o050, 5),
        (user(11, 99, &[98, 20]), 0o040, 4),
        (user(11, 99, &[]), 0o774, 4),
        (user(0, 0, &[]), 0o000, 6),
        (user(0, 0, &[]), 0o001, 7),
    ];
    for (caller, mode, expected) in table {
        assert_eq!(rights(&caller, &object(Kind::File, mode)), expected, "{caller:?} {mode:o}");
    }
    assert_eq!(rights(&user(0, 0, &[]), &object(Kind::Directory, 0)), 7);
}

#[test]
fn a_list_is_asked_as_acl_5_says() {
    let acl = list(&[
        (Tag::UserObj, 0),
        (Tag::User(11), 7),
        (Tag::User(12), 0),
        (Tag::GroupObj, 4),
        (Tag::Group(21), 2),
        (Tag::Group(22), 7),
        (Tag::Mask, 6),
        (Tag::Other, 1),
    ]);
    let object = Object { kind: Kind::File, mode: acl.mode(), uid: 10, gid: 20, acl: Some(&acl) };
    let table = [
        (user(10, 22, &[]), 0, "the owner is asked first, whatever his groups have"),
        (user(11, 99, &[]), 6, "a named user, under the mask"),
        (user(12, 22, &[]), 0, "a named user is not asked for his groups"),
        (user(13, 20, &[]), 4, "the owning group"),
        (user(13, 99, &[22]), 6, "a named group, under the mask"),
        (user(13, 99, &[]), 1, "others, beside the mask"),
        (user(0, 0, &[]), 7, "user 0"),
    ];
    for (caller, expected, why) in table {
        assert_eq!(rights(&caller, &object), expected, "{why}");
    }
    // Two groups have read and write between them, and none both: the rights of entries do not add up.
    let both = user(13, 20, &[21]);
    assert!(allows(&both, &object, READ) && allows(&both, &object, WRITE) && !allows(&both, &object, READ | WRITE));
    // Without a mask the owning group has what it says.
    let plain = list(&[(Tag::UserObj, 7), (Tag::GroupObj, 5), (Tag::Other, 0)]);
    let object = Object { mode: plain.mode(), acl: Some(&plain), ..object };
    assert_eq!((rights(&user(13, 20, &[]), &object), rights(&user(13, 99, &[]), &object)), (5, 0));
}

#[test]
fn a_sticky_directory_keeps_others_names() {
    let (owner, keeper, other, root) = (user(1, 1, &[]), user(2, 2, &[]), user(3, 3, &[]), user(0, 0, &[]));
    for (caller, sticky, plain) in [(owner, true, true), (keeper, true, true), (other, false, true), (root, true, true)]
    {
        assert_eq!(may_unname(&caller, 0o1777, 2, 1), sticky, "{caller:?}");
        assert_eq!(may_unname(&caller, 0o777, 2, 1), plain, "{caller:?}");
    }
}

#[test]
fn owners_and_groups_change_hands_by_rule() {
    let own = (10, 20);
    let owner = user(10, 20, &[21]);
    assert!(may_chown(&owner, own, None, Some(21)) && may_chown(&owner, own, Some(10), Some(20)));
    assert!(!may_chown(&owner, own, None, Some(22)) && !may_chown(&owner, own, Some(11), None));
    assert!(!may_chown(&user(11, 20, &[]), own, None, Some(20)));
    assert!(may_chown(&user(0, 0, &[]), own, Some(1), Some(2)));
}

#[test]
fn bits_that_lend_rights_go() {
    assert_eq!(without_privileges(Kind::File, 0o6755), 0o755);
    assert_eq!(without_privileges(Kind::File, 0o6745), 0o2745, "set-group-id without execute is a lock");
    assert_eq!(without_privileges(Kind::Directory, 0o6755), 0o6755);
    let outside = user(10, 20, &[]);
    assert_eq!(chmod(Some(&outside), Kind::File, 21, 0o2755), 0o755);
    assert_eq!(chmod(Some(&outside), Kind::File, 20, 0o2755), 0o2755);
    assert_eq!(chmod(Some(&outside), Kind::Directory, 21, 0o2755), 0o2755);
    assert_eq!(chmod(None, Kind::File, 21, 0o2755), 0o2755);
}

#[test]
fn what_is_new_belongs_to_its_maker_or_its_directory_s_group() {
    let asked = Birth { uid: 5, gid: 6, mode: 0o755 };
    assert_eq!(birth(None, Kind::File, asked, 0o755, 9), asked);
    let maker = user(10, 20, &[]);
    assert_eq!(birth(Some(&maker), Kind::File, asked, 0o755, 9), Birth { uid: 10, gid: 20, mode: 0o755 });
    assert_eq!(birth(Some(&maker), Kind::File, asked, 0o2755, 9), Birth { uid: 10, gid: 9, mode: 0o755 });
    assert_eq!(birth(None, Kind::Directory, asked, 0o2755, 9), Birth { uid: 5, gid: 9, mode: 0o2755 });
    // Nobody makes a program that runs with a group he is not in.
    let program = Birth { mode: 0o2755, ..asked };
    assert_eq!(birth(Some(&maker), Kind::File, program, 0o2755, 9).mode, 0o755);
    assert_eq!(birth(Some(&maker), Kind::File, program, 0o755, 9).mode, 0o2755);
}
