//! Extended attributes and ACLs.

use crate::client::DfsClient;
use crate::error::{Error, ErrorKind};
use crate::namespace::Metadata;
use crate::nodes::Symlinks;
use crate::place::Place;
use bytes::Bytes;
use cairn_proto::acl::Acl;
use cairn_proto::pb::{self, request, response};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Whether an attribute has to be there before it is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XattrMode {
    /// It is made or replaced.
    #[default]
    Set,
    /// `AlreadyExists` when it is there.
    Create,
    /// `NoAttribute` when it is not.
    Replace,
}

/// The two ACLs that something can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AclKind {
    /// Who may do what with it.
    Access,
    /// Of a directory: what is made in it inherits this.
    Default,
}

impl AclKind {
    /// The extended attribute that stands for it.
    pub fn xattr(self) -> &'static str {
        match self {
            Self::Access => "system.posix_acl_access",
            Self::Default => "system.posix_acl_default",
        }
    }
}

impl DfsClient {
    /// Sets an extended attribute: its name begins with `user.`, `trusted.` or `security.`, or is that of an ACL in the
    /// kernel's form. A name has at most 255 bytes, a value 48 KiB, all of one inode together 64 KiB.
    ///
    /// # Errors
    /// `TooLarge` beyond these; `Unsupported` for other names; `PermissionDenied`, also for a `user.` attribute of what is
    /// neither file nor directory; what `mode` says.
    pub async fn set_xattr(
        &self,
        place: impl Into<Place>,
        name: impl AsRef<OsStr>,
        value: impl Into<Bytes>,
        mode: XattrMode,
        symlinks: Symlinks,
    ) -> Result<Metadata, Error> {
        let (place, value) = (place.into(), value.into());
        let work = async {
            let set = pb::SetXattr {
                at: Some(place.at()?),
                follow: symlinks.follow(),
                name: Bytes::copy_from_slice(name.as_ref().as_bytes()),
                value,
                create: mode == XattrMode::Create,
                replace: mode == XattrMode::Replace,
            };
            self.mutate_attr(request::Kind::SetXattr(set), None).await
        };
        self.operation("set_xattr", place.shown(), work).await
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`, `PermissionDenied`, `Unsupported`.
    pub async fn xattr(
        &self,
        place: impl Into<Place>,
        name: impl AsRef<OsStr>,
        symlinks: Symlinks,
    ) -> Result<Bytes, Error> {
        let place = place.into();
        let work = async {
            let name = Bytes::copy_from_slice(name.as_ref().as_bytes());
            let get = pb::GetXattr { at: Some(place.at()?), follow: symlinks.follow(), name };
            match self.look(request::Kind::GetXattr(get)).await? {
                response::Kind::Xattr(reply) => Ok(reply.value),
                _ => Err(self.inner.unexpected("xattr")),
            }
        };
        self.operation("xattr", place.shown(), work).await
    }

    /// The names of all extended attributes, ACLs among them, in order of their bytes. `trusted.` ones are shown to user 0
    /// and to clients that act for nobody in particular.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Unavailable`.
    pub async fn xattrs(&self, place: impl Into<Place>, symlinks: Symlinks) -> Result<Vec<OsString>, Error> {
        let place = place.into();
        let work = async {
            let (at, follow) = (place.at()?, symlinks.follow());
            let mut names: Vec<OsString> = Vec::new();
            let mut after = Bytes::new();
            loop {
                let ask = request::Kind::ListXattrs(pb::ListXattrs { at: Some(at.clone()), follow, after });
                let response::Kind::ListXattrs(page) = self.look(ask).await? else {
                    return Err(self.inner.unexpected("xattrs"));
                };
                after = page.names.last().cloned().unwrap_or_default();
                names.extend(page.names.iter().map(|name| OsString::from_vec(name.to_vec())));
                if page.end || after.is_empty() {
                    return Ok(names);
                }
            }
        };
        self.operation("xattrs", place.shown(), work).await
    }

    /// Removes an extended attribute. An access ACL leaves the mode as it is.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`, `PermissionDenied`, `Unsupported`.
    pub async fn remove_xattr(
        &self,
        place: impl Into<Place>,
        name: impl AsRef<OsStr>,
        symlinks: Symlinks,
    ) -> Result<Metadata, Error> {
        let place = place.into();
        let work = async {
            let name = Bytes::copy_from_slice(name.as_ref().as_bytes());
            let remove = pb::RemoveXattr { at: Some(place.at()?), follow: symlinks.follow(), name };
            self.mutate_attr(request::Kind::RemoveXattr(remove), None).await
        };
        self.operation("remove_xattr", place.shown(), work).await
    }

    /// An ACL; `None` when there is none, so that the mode says everything. Symbolic links are followed.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Unavailable`.
    pub async fn acl(&self, place: impl Into<Place>, kind: AclKind) -> Result<Option<Acl>, Error> {
        let place = place.into();
        match self.xattr(&place, kind.xattr(), Symlinks::Follow).await {
            Ok(bytes) => Acl::from_bytes(&bytes).map_err(|fault| {
                let message = format!("metadata sent no ACL: {fault}");
                Error::invalid("acl", message).at("acl", place.shown())
            }),
            Err(error) if error.kind() == ErrorKind::NoAttribute => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets an ACL, and with an access ACL the mode; `None` removes it. Symbolic links are followed.
    ///
    /// # Errors
    /// `PermissionDenied` unless on behalf of the owner or user 0, and for a default ACL of what is no directory.
    pub async fn set_acl(&self, place: impl Into<Place>, kind: AclKind, acl: Option<&Acl>) -> Result<Metadata, Error> {
        let place = place.into();
        match acl {
            Some(acl) => {
                let value = acl.to_bytes();
                self.set_xattr(&place, kind.xattr(), value, XattrMode::Set, Symlinks::Follow).await
            }
            None => match self.remove_xattr(&place, kind.xattr(), Symlinks::Follow).await {
                Err(error) if error.kind() == ErrorKind::NoAttribute => self.metadata(&place).await,
                other => other,
            },
        }
    }
}
