//! Requests to etcd in short words.

use super::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use super::pb::range_request::{SortOrder, SortTarget};
use super::pb::{self, request_op, response_op};
use cairn_meta::kv::KeyRange;

pub(super) fn get(key: Vec<u8>, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), revision, ..Default::default() }
}

/// At most `limit` rows, smallest first; 0 = all.
pub(super) fn rows(range: KeyRange, revision: i64, limit: usize) -> pb::RangeRequest {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    pb::RangeRequest { key: range.start.into(), range_end: range.end.into(), limit, revision, ..Default::default() }
}

/// As [`rows`], largest first. etcd collects the whole range for it.
pub(super) fn rows_reversed(range: KeyRange, revision: i64, limit: usize) -> pb::RangeRequest {
    pb::RangeRequest {
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Key.into(),
        ..rows(range, revision, limit)
    }
}

/// The key was last written at this revision; 0 = it is not there.
pub(super) fn unchanged(key: Vec<u8>, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

/// No row of the range was written after `revision`.
pub(super) fn none_newer(range: KeyRange, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Less.into(),
        target: CompareTarget::Mod.into(),
        key: range.start.into(),
        range_end: range.end.into(),
        target_union: Some(TargetUnion::ModRevision(revision + 1)),
    }
}

/// The key is there.
pub(super) fn exists(key: Vec<u8>) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        key: key.into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    }
}

/// The key is there and its value sorts before this one.
pub(super) fn value_below(key: Vec<u8>, value: Vec<u8>) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Less.into(),
        target: CompareTarget::Value.into(),
        key: key.into(),
        target_union: Some(TargetUnion::Value(value.into())),
        ..Default::default()
    }
}

pub(super) fn put(key: Vec<u8>, value: Vec<u8>) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.into(), value: value.into() };
    pb::RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

pub(super) fn delete(key: Vec<u8>) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
    pb::RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
}

pub(super) fn delete_all(range: KeyRange) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key: range.start.into(), range_end: range.end.into() };
    pb::RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
}

pub(super) fn read(range: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(request_op::Request::RequestRange(range)) }
}

/// Rows that the reads of a transaction answered with, a list each.
pub(super) fn found(answer: pb::TxnResponse) -> Vec<Vec<pb::KeyValue>> {
    let rows = answer.responses.into_iter().map(|response| match response.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs,
        _ => Vec::new(),
    });
    rows.collect()
}

/// The revision an answer was given at.
pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
