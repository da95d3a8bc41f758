//! What an engine says of itself before anything else in it is looked at: versions, the cluster's id, and marks that
//! stop a server from opening it.

use crate::error::OpenError;
use crate::keys::{Key, Setting, setting};
use crate::limits::{CLUSTER_VERSION, FORMAT_VERSION};
use bytes::Bytes;
use cairn_proto::ClusterId;

/// The settings that [`judge`] looks at, in its order.
pub(crate) const NAMES: [&[u8]; 5] =
    [setting::FORMAT_VERSION, setting::CLUSTER_VERSION, setting::CLUSTER_ID, setting::LOADING, setting::MIGRATED_TO];

/// What an engine holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub cluster_id: ClusterId,
    pub format_version: u32,
    pub cluster_version: u32,
}

/// True for the key of a mark: a setting that stops a server, and no part of what is dumped.
pub(crate) fn is_mark(key: &[u8]) -> bool {
    [setting::LOADING, setting::MIGRATED_TO]
        .iter()
        .any(|name| key.split_first().is_some_and(|(tag, rest)| *tag == Setting::TAG && rest == *name))
}

fn version(value: &Bytes, what: &str) -> Result<u32, OpenError> {
    let bytes = value[..].try_into().map_err(|_| OpenError::Damaged { what: what.into() })?;
    Ok(u32::from_le_bytes(bytes))
}

/// Refuses what is newer than this program.
pub(crate) fn check_versions(format: u32, cluster: u32) -> Result<(), OpenError> {
    if format > FORMAT_VERSION {
        return Err(OpenError::NewerFormat { found: format, known: FORMAT_VERSION });
    }
    if cluster > CLUSTER_VERSION {
        return Err(OpenError::NewerCluster { found: cluster, known: CLUSTER_VERSION });
    }
    Ok(())
}

/// Judges the values of [`NAMES`]; `None` for an engine without a namespace.
///
/// # Errors
/// It holds one that must not be opened, in the order of what an operator should know first.
pub(crate) fn judge(values: &[Option<Bytes>]) -> Result<Option<Found>, OpenError> {
    let [format, cluster, id, loading, migrated] = values else {
        return Err(OpenError::Damaged { what: "settings are incomplete".into() });
    };
    if let Some(from) = loading {
        return Err(OpenError::Loading { from: String::from_utf8_lossy(from).into_owned() });
    }
    if let Some(to) = migrated {
        return Err(OpenError::Migrated { to: String::from_utf8_lossy(to).into_owned() });
    }
    let format_version = format.as_ref().map(|value| version(value, "format version")).transpose()?;
    match (format_version, cluster, id) {
        (Some(format_version), Some(cluster), Some(id)) => {
            let cluster_version = version(cluster, "cluster version")?;
            check_versions(format_version, cluster_version)?;
            let cluster_id =
                ClusterId::from_slice(id).ok_or_else(|| OpenError::Damaged { what: "cluster id".into() })?;
            Ok(Some(Found { cluster_id, format_version, cluster_version }))
        }
        (None, None, None) => Ok(None),
        (Some(format_version), ..) => {
            check_versions(format_version, 0)?;
            Err(OpenError::Damaged { what: "settings are incomplete".into() })
        }
        _ => Err(OpenError::Damaged { what: "the format version is missing".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(format: u32, cluster: u32) -> Vec<Option<Bytes>> {
        let number = |number: u32| Some(Bytes::copy_from_slice(&number.to_le_bytes()));
        vec![number(format), number(cluster), Some(Bytes::from_static(&[7; 16])), None, None]
    }

    #[test]
    fn what_is_newer_or_marked_is_refused_by_name() {
        let found = judge(&values(FORMAT_VERSION, CLUSTER_VERSION)).expect("ours").expect("a namespace");
        assert_eq!((found.format_version, found.cluster_version), (FORMAT_VERSION, CLUSTER_VERSION));
        assert!(matches!(judge(&values(FORMAT_VERSION + 1, 1)), Err(OpenError::NewerFormat { .. })));
        assert!(matches!(judge(&values(1, CLUSTER_VERSION + 1)), Err(OpenError::NewerCluster { .. })));
        let mut marked = values(1, 1);
        marked[4] = Some(Bytes::from_static(b"file:b"));
        assert!(matches!(judge(&marked), Err(OpenError::Migrated { to }) if to == "file:b"));
        marked[3] = Some(Bytes::from_static(b"dump"));
        assert!(matches!(judge(&marked), Err(OpenError::Loading { from }) if from == "dump"));
        assert!(matches!(judge(&[None, None, None, None, None]), Ok(None)));
        let mut lacking = values(1, 1);
        lacking[0] = None;
        assert!(matches!(judge(&lacking), Err(OpenError::Damaged { .. })));
        lacking[0] = Some(Bytes::copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes()));
        lacking[1] = None;
        assert!(matches!(judge(&lacking), Err(OpenError::NewerFormat { .. })), "newer says more than incomplete");
    }

    #[test]
    fn marks_are_told_from_other_settings() {
        let key = |name: &'static [u8]| Setting { name: Bytes::from_static(name) }.encode();
        assert!(is_mark(&key(setting::LOADING)) && is_mark(&key(setting::MIGRATED_TO)));
        assert!(!is_mark(&key(setting::CLUSTER_ID)) && !is_mark(&[]) && !is_mark(&[1]));
    }
}
