//! `cairn xattr` and `cairn acl`: extended attributes, and the lists among them as getfacl(1) writes them.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cairn_client::acl::{Acl, Entry, Tag};
use cairn_client::{AclKind, DfsClient, Metadata, Symlinks, XattrMode};

use super::Complaints;
use crate::{
    args::{self, AclWhat, XattrWhat},
    context::{Context, remote_path},
    failure::Failure,
    output::Out,
    text,
};

/// Runs `cairn xattr`.
pub async fn xattr(args: args::Xattr, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let (path, no_dereference) = match &args.what {
        XattrWhat::Get(args) => (&args.path, args.no_dereference),
        XattrWhat::Set(args) => (&args.path, args.no_dereference),
        XattrWhat::Ls(args) => (&args.path, args.no_dereference),
        XattrWhat::Rm(args) => (&args.path, args.no_dereference),
    };
    remote_path(path)?;
    let symlinks = if no_dereference { Symlinks::Keep } else { Symlinks::Follow };
    let client = context.connect().await?;
    let done = xattr_inner(&client, &args.what, symlinks, out).await;
    client.close().await;
    done
}

async fn xattr_inner(client: &DfsClient, what: &XattrWhat, symlinks: Symlinks, out: &mut Out) -> Result<(), Failure> {
    match what {
        XattrWhat::Get(args) => {
            let value = client.xattr(&args.path, &args.name, symlinks).await;
            out.bytes(&value.map_err(|error| Failure::client(&args.path, &error))?)
        }
        XattrWhat::Set(args) => {
            let mode = match (args.create, args.replace) {
                (true, _) => XattrMode::Create,
                (_, true) => XattrMode::Replace,
                _ => XattrMode::Set,
            };
            let value = args.value.as_bytes().to_vec();
            let set = client.set_xattr(&args.path, &args.name, value, mode, symlinks).await;
            set.map(drop).map_err(|error| Failure::client(&args.path, &error))
        }
        XattrWhat::Ls(args) => {
            let names = client.xattrs(&args.path, symlinks).await;
            for name in names.map_err(|error| Failure::client(&args.path, &error))? {
                out.name(&name)?;
                out.line("")?;
            }
            Ok(())
        }
        XattrWhat::Rm(args) => {
            let removed = client.remove_xattr(&args.path, &args.name, symlinks).await;
            removed.map(drop).map_err(|error| Failure::client(&args.path, &error))
        }
    }
}

/// Runs `cairn acl`.
pub async fn acl(args: args::AclArgs, context: &Context, out: &mut Out) -> Result<(), Failure> {
    match args.what {
        AclWhat::Get(args) => {
            args.paths.iter().try_for_each(|path| remote_path(path))?;
            let client = context.connect().await?;
            let mut complaints = Complaints::new("acl");
            for path in &args.paths {
                if let Some(shown) = complaints.hear(show(&client, path).await)? {
                    out.text(shown)?;
                }
            }
            client.close().await;
            complaints.end()
        }
        AclWhat::Set(args) => {
            args.paths.iter().try_for_each(|path| remote_path(path))?;
            let kind = if args.default { AclKind::Default } else { AclKind::Access };
            let acl = match &args.entries {
                Some(entries) => Some(parse(entries).map_err(|why| Failure::usage("acl set", why))?),
                None if args.remove => None,
                None => return Err(Failure::usage("acl set", "say which entries, or --remove")),
            };
            let client = context.connect().await?;
            let mut complaints = Complaints::new("acl");
            for path in &args.paths {
                let set = client.set_acl(path, kind, acl.as_ref()).await;
                complaints.hear(set.map(drop).map_err(|error| Failure::client(path, &error)))?;
            }
            client.close().await;
            complaints.end()
        }
    }
}

async fn show(client: &DfsClient, path: &Path) -> Result<String, Failure> {
    let failed = |error| Failure::client(path, &error);
    let metadata = client.metadata(path).await.map_err(failed)?;
    let access = client.acl(path, AclKind::Access).await.map_err(failed)?;
    let default = match metadata.is_dir() {
        true => client.acl(path, AclKind::Default).await.map_err(failed)?,
        false => None,
    };
    let Metadata { uid, gid, mode, .. } = metadata;
    let mut shown = format!("# file: {}\n# owner: {uid}\n# group: {gid}\n", text::path(path));
    match &access {
        Some(acl) => write_acl(&mut shown, "", acl),
        None => {
            let (user, group, other) = (rights(mode >> 6), rights(mode >> 3), rights(mode));
            let _ = write!(shown, "user::{user}\ngroup::{group}\nother::{other}\n");
        }
    }
    if let Some(acl) = &default {
        write_acl(&mut shown, "default:", acl);
    }
    shown.push('\n');
    Ok(shown)
}

fn write_acl(shown: &mut String, prefix: &str, acl: &Acl) {
    for Entry { tag, perm } in acl.entries() {
        let who = match tag {
            Tag::UserObj => "user::".to_owned(),
            Tag::User(uid) => format!("user:{uid}:"),
            Tag::GroupObj => "group::".to_owned(),
            Tag::Group(gid) => format!("group:{gid}:"),
            Tag::Mask => "mask::".to_owned(),
            Tag::Other => "other::".to_owned(),
        };
        let _ = writeln!(shown, "{prefix}{who}{}", rights(*perm));
    }
}

fn rights(perm: u32) -> String {
    [(4, 'r'), (2, 'w'), (1, 'x')].map(|(bit, letter)| if perm & bit != 0 { letter } else { '-' }).iter().collect()
}

/// Reads entries as `u::rw-,u:1000:rwx,g::r--,m::rwx,o::---`; a mask that is needed and not given is worked out, as
/// setfacl(1) does.
fn parse(text: &str) -> Result<Acl, String> {
    let mut entries = text
        .split([',', '\n'])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(parse_entry)
        .collect::<Result<Vec<_>, _>>()?;
    let named = |entry: &&Entry| matches!(entry.tag, Tag::User(_) | Tag::Group(_) | Tag::GroupObj);
    let needs_mask = entries.iter().any(|entry| matches!(entry.tag, Tag::User(_) | Tag::Group(_)));
    if needs_mask && !entries.iter().any(|entry| entry.tag == Tag::Mask) {
        let perm = entries.iter().filter(named).fold(0, |perm, entry| perm | entry.perm);
        entries.push(Entry { tag: Tag::Mask, perm });
    }
    Acl::new(entries).map_err(|fault| fault.to_string())
}

fn parse_entry(entry: &str) -> Result<Entry, String> {
    let bad = || format!("{entry:?} is no entry as user:1000:rw- or group::r--; users and groups are numbers");
    let parts: Vec<&str> = entry.split(':').collect();
    let [tag, id, perm] = parts[..] else { return Err(bad()) };
    let number = || id.parse::<u32>().map_err(|_| bad());
    let tag = match (tag, id.is_empty()) {
        ("u" | "user", true) => Tag::UserObj,
        ("u" | "user", false) => Tag::User(number()?),
        ("g" | "group", true) => Tag::GroupObj,
        ("g" | "group", false) => Tag::Group(number()?),
        ("m" | "mask", true) => Tag::Mask,
        ("o" | "other", true) => Tag::Other,
        _ => return Err(bad()),
    };
    let perm = perm.chars().try_fold(0, |perm, letter| match letter {
        'r' => Ok(perm | 4),
        'w' => Ok(perm | 2),
        'x' => Ok(perm | 1),
        '-' => Ok(perm),
        _ => Err(bad()),
    })?;
    Ok(Entry { tag, perm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_written_as_getfacl_does() {
        let acl = parse("u::rw-, user:1000:rwx,g::r--,other::---").expect("a list");
        let mut shown = String::new();
        write_acl(&mut shown, "default:", &acl);
        let expected =
            "default:user::rw-\ndefault:user:1000:rwx\ndefault:group::r--\ndefault:mask::rwx\ndefault:other::---\n";
        assert_eq!(shown, expected);
        assert!(parse("u::rw-,g::r--").is_err(), "others are missing");
        for bad in ["u:me:rwx", "x::r", "u::rq", "o:5:r", "u:rw"] {
            assert!(parse(&format!("u::r,g::r,o::r,{bad}")).is_err(), "{bad}");
        }
    }
}
