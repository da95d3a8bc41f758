//! Who this node is, kept in `node.json` of its directory: drawn once, completed by the first registration, and never
//! changed afterwards. A node whose directory belongs to one cluster does not talk to another.

use crate::state_file;
use cairn_proto::{ClusterId, NodeId, StoreId, StoreUuid};
use cairn_store::Disk;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use thiserror::Error;

const FILE: &str = "node.json";
const FORMAT: u32 = 1;

/// The node's identity could not be read or kept.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot read or write {FILE}")]
    Io(#[from] io::Error),
    /// The file is not what this program writes.
    #[error("{FILE} is damaged ({0}): restore it, or remove it together with the stores to start as a new node")]
    Damaged(String),
    /// Metadata of another cluster answered.
    #[error("this directory belongs to cluster {ours}, but the metadata server is of cluster {theirs}")]
    WrongCluster {
        /// The cluster in the file.
        ours: ClusterId,
        /// The cluster that answered.
        theirs: ClusterId,
    },
    /// Metadata gave a number other than the one it had given before.
    #[error("metadata calls this node {theirs}, but it is {ours} since its first registration")]
    WrongNode {
        /// The number in the file.
        ours: NodeId,
        /// The number in the answer.
        theirs: NodeId,
    },
}

/// What metadata granted at registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Registration {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// Numbers of the stores, by their lasting identity.
    pub(crate) stores: BTreeMap<StoreUuid, StoreId>,
}

/// The identity as it is known now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeIdentity {
    pub(crate) uuid: [u8; 16],
    /// Absent until the first registration.
    pub(crate) registration: Option<Registration>,
    /// Which store was found last in each directory: one that is gone from there is missed, not made anew.
    pub(crate) places: BTreeMap<String, StoreUuid>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    uuid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registration: Option<FileRegistration>,
    /// Directory -> store uuid.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    places: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRegistration {
    cluster_id: String,
    node_id: u32,
    /// Store uuid -> store id.
    stores: BTreeMap<String, u32>,
}

impl NodeIdentity {
    /// Reads the identity of the directory, or draws one (`fresh`) and keeps it.
    pub(crate) fn load_or_create(disk: &dyn Disk, fresh: [u8; 16]) -> Result<Self, IdentityError> {
        match state_file::read(disk, FILE)? {
            Some(content) => Self::decode(&content),
            None => {
                let identity = Self { uuid: fresh, registration: None, places: BTreeMap::new() };
                identity.save(disk)?;
                Ok(identity)
            }
        }
    }

    /// Takes what a registration granted, after checking that it continues what is known; durable when it returns.
    pub(crate) fn register(&mut self, disk: &dyn Disk, granted: Registration) -> Result<(), IdentityError> {
        if let Some(known) = &self.registration {
            if known.cluster != granted.cluster {
                return Err(IdentityError::WrongCluster { ours: known.cluster, theirs: granted.cluster });
            }
            if known.node != granted.node {
                return Err(IdentityError::WrongNode { ours: known.node, theirs: granted.node });
            }
            if *known == granted {
                return Ok(());
            }
        }
        let next = Self { registration: Some(granted), ..self.clone() };
        next.save(disk)?;
        *self = next;
        Ok(())
    }

    /// Remembers which stores lie where; durable when it returns.
    pub(crate) fn found(
        &mut self,
        disk: &dyn Disk,
        stores: impl IntoIterator<Item = (String, StoreUuid)>,
    ) -> Result<(), IdentityError> {
        let mut next = self.clone();
        next.places.extend(stores);
        if next.places != self.places {
            next.save(disk)?;
            *self = next;
        }
        Ok(())
    }

    fn save(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        state_file::replace(disk, FILE, &self.encode())?;
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let registration = self.registration.as_ref().map(|granted| FileRegistration {
            cluster_id: granted.cluster.to_string(),
            node_id: granted.node.0,
            stores: granted.stores.iter().map(|(uuid, id)| (uuid.to_string(), id.0)).collect(),
        });
        let places = self.places.iter().map(|(path, uuid)| (path.clone(), uuid.to_string())).collect();
        let file = File { format: FORMAT, uuid: StoreUuid(self.uuid).to_string(), registration, places };
        let mut content = serde_json::to_vec_pretty(&file).expect("strings and numbers are always JSON");
        content.push(b'\n');
        content
    }

    fn decode(content: &[u8]) -> Result<Self, IdentityError> {
        let file: File = serde_json::from_slice(content).map_err(|error| IdentityError::Damaged(error.to_string()))?;
        if file.format != FORMAT {
            let message = format!("format {} instead of {FORMAT}: written by another version", file.format);
            return Err(IdentityError::Damaged(message));
        }
        let registration = match file.registration {
            None => None,
            Some(granted) => Some(Registration {
                cluster: ClusterId(parse_uuid(&granted.cluster_id)?),
                node: NodeId(granted.node_id),
                stores: granted
                    .stores
                    .iter()
                    .map(|(uuid, id)| Ok((StoreUuid(parse_uuid(uuid)?), StoreId(*id))))
                    .collect::<Result<_, IdentityError>>()?,
            }),
        };
        let places = file.places.into_iter().map(|(path, uuid)| Ok((path, StoreUuid(parse_uuid(&uuid)?))));
        let places = places.collect::<Result<_, IdentityError>>()?;
        Ok(Self { uuid: parse_uuid(&file.uuid)?, registration, places })
    }
}

fn parse_uuid(text: &str) -> Result<[u8; 16], IdentityError> {
    uuid::Uuid::parse_str(text)
        .map(uuid::Uuid::into_bytes)
        .map_err(|error| IdentityError::Damaged(format!("\"{text}\": {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store::RealDisk;

    fn granted() -> Registration {
        let stores = BTreeMap::from([(StoreUuid([7; 16]), StoreId(4))]);
        Registration { cluster: ClusterId([9; 16]), node: NodeId(3), stores }
    }

    #[test]
    fn identity_survives_and_does_not_change_sides() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        let mut identity = NodeIdentity::load_or_create(&disk, [1; 16]).expect("made");
        identity.register(&disk, granted()).expect("first registration");
        identity.found(&disk, [("/disks/1".to_owned(), StoreUuid([7; 16]))]).expect("kept");
        let again = NodeIdentity::load_or_create(&disk, [2; 16]).expect("read");
        assert_eq!(again, identity);
        assert_eq!(again.uuid, [1; 16]);

        let mut other = again.clone();
        let elsewhere = Registration { cluster: ClusterId([8; 16]), ..granted() };
        assert!(matches!(other.register(&disk, elsewhere), Err(IdentityError::WrongCluster { .. })));
        let renamed = Registration { node: NodeId(4), ..granted() };
        assert!(matches!(other.register(&disk, renamed), Err(IdentityError::WrongNode { .. })));
        assert_eq!(NodeIdentity::load_or_create(&disk, [2; 16]).expect("read"), identity);
    }

    #[test]
    fn damage_is_an_error_not_a_new_identity() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        for content in [&b""[..], b"{", b"{\"format\":2,\"uuid\":\"\"}", b"{\"format\":1,\"uuid\":\"zz\"}", &[0xff; 99]]
        {
            state_file::replace(&disk, FILE, content).expect("written");
            assert!(matches!(NodeIdentity::load_or_create(&disk, [2; 16]), Err(IdentityError::Damaged(_))));
        }
    }
}
