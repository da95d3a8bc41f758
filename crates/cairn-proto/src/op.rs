//! Op numbers: what a request asks for, as it stands in the frame header.
//!
//! An op equals the protobuf field number of the request's kind, so that a peer (or a dissector) that reads only the
//! fixed header knows what travels.

use crate::pb::request::Kind;

/// Defines the ops once: constant, name for logs and metrics, request kind, whether it mutates metadata.
macro_rules! ops {
    ($($const:ident = $number:literal, $name:literal, $kind:ident, $mutation:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`.")]
            pub const $const: u16 = $number;
        )*

        /// Name of an op for logs and metrics; `unknown` for a number without meaning.
        pub const fn name(op: u16) -> &'static str {
            match op {
                $($number => $name,)*
                _ => "unknown",
            }
        }

        /// The op of a request.
        pub const fn of(kind: &Kind) -> u16 {
            match kind {
                $(Kind::$kind(_) => $number,)*
            }
        }

        /// True for operations that must carry an operation id, because doing them twice would be wrong.
        pub const fn is_mutation(op: u16) -> bool {
            match op {
                $($number => $mutation,)*
                _ => false,
            }
        }
    };
}

ops! {
    PUT = 257, "put", Put, false;
    GET = 258, "get", Get, false;
    SYNC = 259, "sync", Sync, false;
    DELETE = 260, "delete", Delete, false;
    LIST = 261, "list", List, false;
    REPORT_CORRUPT = 262, "report_corrupt", ReportCorrupt, false;
    NODE_STATUS = 263, "node_status", NodeStatus, false;
    SCRUB = 264, "scrub", Scrub, false;
    INVENTORY_DIGEST = 265, "inventory_digest", InventoryDigest, false;
    LIST_LEDGER = 266, "list_ledger", ListLedger, false;
    OPEN_SESSION = 513, "open_session", OpenSession, false;
    RENEW_SESSION = 514, "renew_session", RenewSession, false;
    CLOSE_SESSION = 515, "close_session", CloseSession, false;
    OPEN_WRITER = 516, "open_writer", OpenWriter, false;
    ALLOC_INODES = 517, "alloc_inodes", AllocInodes, false;
    CLUSTER_MAP = 518, "cluster_map", ClusterMap, false;
    CLUSTER_STATUS = 519, "cluster_status", ClusterStatus, false;
    REGISTER_NODE = 520, "register_node", RegisterNode, false;
    HEARTBEAT = 521, "heartbeat", Heartbeat, false;
    LIST_DEGRADED = 522, "list_degraded", ListDegraded, false;
    CLEAR_DEGRADED = 523, "clear_degraded", ClearDegraded, false;
    JOIN_DONE = 524, "join_done", JoinDone, false;
    CLOSE_WRITER = 525, "close_writer", CloseWriter, false;
    JUDGE_WRITERS = 526, "judge_writers", JudgeWriters, false;
    JUDGE_BLOCKS = 527, "judge_blocks", JudgeBlocks, false;
    JUDGE_GROUPS = 528, "judge_groups", JudgeGroups, false;
    REPORT_LACKING = 529, "report_lacking", ReportLacking, false;
    START_TASK = 530, "start_task", StartTask, false;
    LIST_TASKS = 531, "list_tasks", ListTasks, false;
    CANCEL_TASK = 532, "cancel_task", CancelTask, false;
    SCAN_RUNS = 533, "scan_runs", ScanRuns, false;
    CHECK_ROWS = 534, "check_rows", CheckRows, false;
    ACCEPT_ROLLBACK = 535, "accept_rollback", AcceptRollback, false;
    ABORT_OP = 536, "abort_op", AbortOp, true;
    APPEND_METALOG = 560, "append_metalog", AppendMetalog, false;
    LIST_METALOG = 561, "list_metalog", ListMetalog, false;
    FETCH_METALOG = 562, "fetch_metalog", FetchMetalog, false;
    ACCEPT_COLLECTION = 570, "accept_collection", AcceptCollection, false;
    STAT = 769, "stat", Stat, false;
    READ_DIR = 770, "read_dir", ReadDir, false;
    MKDIR = 771, "mkdir", Mkdir, true;
    CREATE = 772, "create", Create, true;
    CREATE_UNNAMED = 773, "create_unnamed", CreateUnnamed, true;
    PUBLISH = 774, "publish", Publish, true;
    SYMLINK = 775, "symlink", Symlink, true;
    RENAME = 776, "rename", Rename, true;
    UNLINK = 777, "unlink", Unlink, true;
    RMDIR = 778, "rmdir", Rmdir, true;
    SET_ATTR = 779, "set_attr", SetAttr, true;
    TRUNCATE = 780, "truncate", Truncate, true;
    COMMIT = 781, "commit", Commit, true;
    GET_EXTENTS = 782, "get_extents", GetExtents, false;
    SET_POLICY = 783, "set_policy", SetPolicy, true;
    LINK = 784, "link", Link, true;
    MKNOD = 785, "mknod", Mknod, true;
    SET_XATTR = 786, "set_xattr", SetXattr, true;
    GET_XATTR = 787, "get_xattr", GetXattr, false;
    LIST_XATTRS = 788, "list_xattrs", ListXattrs, false;
    REMOVE_XATTR = 789, "remove_xattr", RemoveXattr, true;
    ACCESS = 790, "access", Access, false;
    SUSTAIN = 791, "sustain", Sustain, true;
    RELEASE = 792, "release", Release, true;
    STAT_FS = 793, "stat_fs", StatFs, false;
    CREATE_SNAPSHOT = 816, "create_snapshot", CreateSnapshot, true;
    DELETE_SNAPSHOT = 817, "delete_snapshot", DeleteSnapshot, true;
    LIST_SNAPSHOTS = 818, "list_snapshots", ListSnapshots, false;
    RENEW_SNAPSHOT = 819, "renew_snapshot", RenewSnapshot, true;
    CLONE_RANGE = 820, "clone_range", CloneRange, true;
    DUMP_ROWS = 848, "dump_rows", DumpRows, false;
    UPGRADE_STATUS = 849, "upgrade_status", UpgradeStatus, false;
    FINALIZE_UPGRADE = 850, "finalize_upgrade", FinalizeUpgrade, false;
    APPEND = 800, "append", Append, true;
    ALLOCATE = 801, "allocate", Allocate, true;
    SET_LOCK = 802, "set_lock", SetLock, true;
    WAIT_LOCK = 803, "wait_lock", WaitLock, false;
    LIST_LOCKS = 804, "list_locks", ListLocks, false;
    WATCH_CHANGES = 832, "watch_changes", WatchChanges, false;
    LIST_TRASH = 833, "list_trash", ListTrash, false;
    RESTORE_TRASH = 834, "restore_trash", RestoreTrash, true;
    EMPTY_TRASH = 835, "empty_trash", EmptyTrash, true;
    REMOVE_TREE = 836, "remove_tree", RemoveTree, true;
    SET_QUOTA = 837, "set_quota", SetQuota, true;
    GET_QUOTA = 838, "get_quota", GetQuota, false;
    LIST_QUOTAS = 839, "list_quotas", ListQuotas, false;
}

/// True for the ops that storage nodes serve; the others go to metadata.
pub const fn is_node_op(op: u16) -> bool {
    op < OPEN_SESSION || (op >= APPEND_METALOG && op <= FETCH_METALOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;
    use prost::Message;

    #[test]
    fn an_op_is_the_field_number_on_the_wire() {
        let request = pb::Request { kind: Some(Kind::GetExtents(pb::GetExtents::default())), ..Default::default() };
        let bytes = request.encode_to_vec();
        let (key, _) = bytes.split_at(2);
        let tag = (u16::from(key[0] & 0x7f) | u16::from(key[1]) << 7) >> 3;
        assert_eq!(tag, GET_EXTENTS);
        assert_eq!(of(&request.kind.expect("set above")), GET_EXTENTS);
        assert_eq!(name(GET_EXTENTS), "get_extents");
    }

    #[test]
    fn no_block_operation_is_a_metadata_mutation() {
        assert!((0..OPEN_SESSION).all(|op| is_node_op(op) && !is_mutation(op)));
        assert!(is_mutation(COMMIT) && !is_mutation(STAT));
    }
}
