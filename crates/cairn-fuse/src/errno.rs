//! Errors of the client as the kernel takes them. What each failure means to a system call is said in one place, by
//! [`cairn_client::Error::errno`]; here it is only looked at from where the call stood.

use cairn_client::Error;
use rustix::io::Errno;

/// Of an operation on a name.
pub fn of(error: &Error) -> Errno {
    tracing::debug!("{error}");
    Errno::from_raw_os_error(error.errno())
}

/// Of an operation on an inode by its number. The kernel found it by a name before: that it is gone means that the name
/// leads elsewhere by now, and the kernel looks again when it is told so.
pub fn of_inode(error: &Error) -> Errno {
    match of(error) {
        Errno::NOENT => Errno::STALE,
        errno => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_client::DfsClient;

    #[tokio::test]
    async fn a_bad_address_is_a_bad_argument() {
        let error = DfsClient::new("nonsense").await.err().expect("no address");
        assert_eq!(of(&error), Errno::INVAL);
        assert_eq!(of_inode(&error), Errno::INVAL);
    }
}
