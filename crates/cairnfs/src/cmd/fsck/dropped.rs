//! What no file refers to any more: counted, and looked at as far as snapshots and backups keep it.

use cairn_client::{Cursor, ErrorKind, PlacedRun, RunKind};

use super::{
    ask::Inodes,
    check::{Check, WINDOW_SPANS, failed},
    rules::Gathering,
    spans::Spans,
};
use crate::failure::Failure;

impl Check {
    /// Counts what waits for the collector, and checks the blocks that snapshots keep from it like those of files.
    pub(super) async fn dropped(&mut self) -> Result<(), Failure> {
        let mut cursor = Cursor::default();
        loop {
            let page = self.admin.scan_runs(RunKind::Garbage, &cursor).await.map_err(failed)?;
            self.counts().garbage_blocks += page.runs.iter().map(|placed| u64::from(placed.run.count)).sum::<u64>();
            match page.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        self.held().await
    }

    async fn held(&mut self) -> Result<(), Failure> {
        let mut cursor = Cursor::default();
        let mut gathering = Gathering::default();
        loop {
            let page = match self.admin.scan_runs(RunKind::Held, &cursor).await {
                // A server of a former version does not tell what is held.
                Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(()),
                page => page.map_err(failed)?,
            };
            for placed in page.runs {
                self.counts().held_blocks += u64::from(placed.run.count);
                gathering.add(&PlacedRun { current: true, ..placed });
            }
            if gathering.len() >= WINDOW_SPANS || page.next.is_none() {
                self.held_window(std::mem::take(&mut gathering)).await?;
            }
            match page.next {
                Some(next) => cursor = next,
                None => return Ok(()),
            }
        }
    }

    async fn held_window(&mut self, gathering: Gathering) -> Result<(), Failure> {
        let window = gathering.finish();
        let ranges = window.needed.values().filter_map(Spans::inodes);
        match ranges.reduce(|(low, high), (l, h)| (low.min(l), high.max(h))) {
            Some((low, high)) => self.window(window, Inodes { low, high }, &mut Vec::new(), false).await,
            None => Ok(()),
        }
    }
}
