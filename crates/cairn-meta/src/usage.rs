//! What is counted: inodes and bytes of the namespace, bytes of each group. Each server counts what is committed through
//! it, and writes the sum down under its own number; the whole is the sum over all servers.

use crate::keys::{self, Key};
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{SCAN_ROWS, USAGE_EVERY};
use crate::meta::{Meta, transact};
use crate::rows;
use cairn_proto::status::Status;
use std::collections::BTreeMap;

/// Totals of the namespace. After a crash, what its server had not written down in the last second is missing.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Totals {
    /// Counted by this server.
    own: (i64, i64),
    /// As its row says.
    written: (i64, i64),
    /// Counted by all others, as read last.
    others: (i64, i64),
}

impl Totals {
    /// The rows as they were found when this server, number `me`, was opened.
    pub(crate) fn load(me: u32, rows: &[(keys::Usage, rows::Usage)]) -> Self {
        let mut totals = Self::default();
        if let Some((_, row)) = rows.iter().find(|(key, _)| key.server == me) {
            totals.own = (row.inodes, row.file_bytes);
            totals.written = totals.own;
        }
        totals.note_others(me, rows);
        totals
    }

    pub(crate) fn note_others(&mut self, me: u32, rows: &[(keys::Usage, rows::Usage)]) {
        let others = rows.iter().filter(|(key, _)| key.server != me);
        self.others = others.fold((0, 0), |(inodes, bytes), (_, row)| (inodes + row.inodes, bytes + row.file_bytes));
    }

    pub(crate) fn count(&mut self, inodes: i64, file_bytes: i64) {
        self.own = (self.own.0 + inodes, self.own.1 + file_bytes);
    }

    /// The row to be written, if it has changed.
    pub(crate) fn unwritten(&self) -> Option<rows::Usage> {
        (self.own != self.written).then_some(rows::Usage { inodes: self.own.0, file_bytes: self.own.1 })
    }

    pub(crate) fn note_written(&mut self, row: &rows::Usage) {
        self.written = (row.inodes, row.file_bytes);
    }

    /// What was written stands under the old number, or with those that are gone; the rest begins the new one's.
    pub(crate) fn renumber(&mut self) {
        self.own = (self.own.0 - self.written.0, self.own.1 - self.written.1);
        self.written = (0, 0);
    }

    pub(crate) fn inodes(&self) -> u64 {
        u64::try_from(self.own.0 + self.others.0).unwrap_or(0)
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        u64::try_from(self.own.1 + self.others.1).unwrap_or(0)
    }
}

/// Bytes committed to a group.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct GroupUsage {
    own: u64,
    written: u64,
    others: u64,
}

impl GroupUsage {
    pub(crate) fn count(&mut self, bytes: u64) {
        self.own = self.own.saturating_add(bytes);
    }

    /// The bytes to be written, if they have changed.
    pub(crate) fn unwritten(&self) -> Option<u64> {
        (self.own != self.written).then_some(self.own)
    }

    pub(crate) fn note_written(&mut self, bytes: u64) {
        self.written = bytes;
    }

    pub(crate) fn renumber(&mut self) {
        self.own = self.own.saturating_sub(self.written);
        self.written = 0;
    }

    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.own.saturating_add(self.others)
    }
}

impl Meta {
    /// Reads what other servers, and those that are gone, committed to groups: at open, and then as often as it may
    /// change.
    pub(crate) async fn refresh_group_usage(&self) -> Result<(), Status> {
        let now = self.now();
        let read = *self.inner.usage_read.lock();
        let is_due = |at| !self.inner.options.alone && now.saturating_sub(at) >= USAGE_EVERY;
        if !read.is_none_or(is_due) {
            return Ok(());
        }
        let me = self.server();
        let mut others: BTreeMap<u32, u64> = BTreeMap::new();
        let mut own: Vec<(u32, u64)> = Vec::new();
        self.each_row::<keys::PgUsage>(|key, row| *others.entry(key.pg).or_default() += row.bytes).await?;
        self.each_row::<keys::ServerPgUsage>(|key, row| match key.server == me {
            true => own.push((key.pg, row.bytes)),
            false => *others.entry(key.pg).or_default() += row.bytes,
        })
        .await?;
        let mut cluster = self.inner.cluster.lock();
        for (pg, usage) in &mut cluster.pg_bytes {
            usage.others = others.remove(pg).unwrap_or(0);
        }
        for (pg, bytes) in others {
            cluster.pg_bytes.entry(pg).or_default().others = bytes;
        }
        if read.is_none() {
            // What this server, or its predecessor of the same number, had counted before.
            for (pg, bytes) in own {
                let usage = cluster.pg_bytes.entry(pg).or_default();
                usage.own = usage.own.saturating_add(bytes);
                usage.written = bytes;
            }
        }
        drop(cluster);
        *self.inner.usage_read.lock() = Some(now);
        Ok(())
    }

    /// Shows every row of a table, read in pages.
    async fn each_row<K: Key>(&self, mut show: impl FnMut(K, K::Row)) -> Result<(), Status> {
        let mut range = K::all();
        loop {
            let page = transact!(self, Durability::Relaxed, async |tx: &mut Tx| tx
                .scan::<K>(&range, SCAN_ROWS, Order::Forward)
                .await)?;
            let last = page.last().filter(|_| page.len() == SCAN_ROWS).map(|(key, _)| key.encode());
            page.into_iter().for_each(|(key, row)| show(key, row));
            match last {
                Some(last) => range.start = KeyRange::successor(&last),
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(of: &[(u32, i64)]) -> Vec<(keys::Usage, rows::Usage)> {
        of.iter()
            .map(|(server, inodes)| (keys::Usage { server: *server }, rows::Usage { inodes: *inodes, file_bytes: 0 }))
            .collect()
    }

    #[test]
    fn a_new_number_begins_with_what_was_not_written_down() {
        let mut totals = Totals::load(2, &rows(&[(0, 1), (2, 10), (3, 5)]));
        assert_eq!((totals.inodes(), totals.unwritten()), (16, None));
        totals.count(4, 0);
        totals.note_written(&totals.unwritten().expect("counted"));
        totals.count(1, 0);
        // The old number was folded into that of those that are gone.
        totals.renumber();
        totals.note_others(4, &rows(&[(0, 15), (3, 5)]));
        assert_eq!(totals.inodes(), 21);
        assert_eq!(totals.unwritten(), Some(rows::Usage { inodes: 1, file_bytes: 0 }));
    }

    #[test]
    fn a_group_s_bytes_are_everybody_s() {
        let mut usage = GroupUsage { own: 0, written: 0, others: 7 };
        usage.count(5);
        assert_eq!((usage.total(), usage.unwritten()), (12, Some(5)));
        usage.note_written(5);
        usage.count(1);
        usage.renumber();
        assert_eq!((usage.unwritten(), usage.total()), (Some(1), 8));
    }
}
