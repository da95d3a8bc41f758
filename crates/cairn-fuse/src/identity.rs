//! On whose behalf an operation of the mount runs.

use crate::kernel::request::Request;
use crate::limits::{GROUPS_COUNT_MAX, GROUPS_TTL};
use crate::options::MountOptions;
use crate::system;
use cairn_client::{Credentials, DfsClient};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// User and group of nobody, to whom root is squashed.
const NOBODY: u32 = 65534;

/// Groups of processes as they were a moment ago, by process, user and group.
type Groups = HashMap<(u32, u32, u32), (Instant, Arc<[u32]>)>;

/// See the module.
pub struct Identity {
    client: DfsClient,
    uid: Option<u32>,
    gid: Option<u32>,
    root_squash: bool,
    groups: Mutex<Groups>,
}

impl Identity {
    /// As the options of the mount say.
    pub fn new(client: DfsClient, options: &MountOptions) -> Self {
        let MountOptions { uid, gid, root_squash, .. } = *options;
        Self { client, uid, gid, root_squash, groups: Mutex::default() }
    }

    /// The client that asks on the caller's behalf. On a mount where everything belongs to one user, it asks for nobody in
    /// particular: the kernel checks, by what it is shown.
    pub fn client(&self, request: &Request) -> DfsClient {
        if self.uid.is_some() || self.gid.is_some() {
            return self.client.clone();
        }
        let credentials = match request.uid {
            0 if self.root_squash => Credentials { uid: NOBODY, gid: NOBODY, groups: Vec::new() },
            // Root may do everything, whatever its groups.
            0 => Credentials { uid: 0, gid: request.gid, groups: Vec::new() },
            uid => Credentials { uid, gid: request.gid, groups: self.groups(request).to_vec() },
        };
        self.client.on_behalf_of(&credentials)
    }

    /// True when metadata would let the caller do everything.
    pub fn may_everything(&self, request: &Request) -> bool {
        self.uid.is_some() || self.gid.is_some() || request.uid == 0 && !self.root_squash
    }

    /// Owner of what the caller makes, where metadata does not know the caller.
    pub fn owner(&self, request: &Request) -> (u32, u32) {
        (self.uid.unwrap_or(request.uid), self.gid.unwrap_or(request.gid))
    }

    /// Whom something that belongs to these is shown to belong to.
    pub fn shown(&self, uid: u32, gid: u32) -> (u32, u32) {
        (self.uid.unwrap_or(uid), self.gid.unwrap_or(gid))
    }

    fn groups(&self, request: &Request) -> Arc<[u32]> {
        let key = (request.pid, request.uid, request.gid);
        let now = Instant::now();
        if let Some((at, groups)) = self.groups.lock().get(&key)
            && now.duration_since(*at) < GROUPS_TTL
        {
            return groups.clone();
        }
        // A process outside of our sight has none that could be known.
        let status = system::read_text(format!("/proc/{}/status", request.pid)).unwrap_or_default();
        let groups: Arc<[u32]> = groups_of(&status).into();
        let mut known = self.groups.lock();
        if known.len() >= GROUPS_COUNT_MAX {
            known.retain(|_, (at, _)| now.duration_since(*at) < GROUPS_TTL);
        }
        if known.len() < GROUPS_COUNT_MAX {
            known.insert(key, (now, groups.clone()));
        }
        groups
    }
}

/// The line `Groups:` of /proc/PID/status.
fn groups_of(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_the_status_of_a_process() {
        assert_eq!(groups_of("Name:\tsh\nUid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nNStgid:\t5\n"), [4, 24, 1000]);
        assert!(groups_of("Name:\tsh\nGroups:\t \n").is_empty());
        assert!(groups_of("").is_empty());
    }
}
