//! Keeping the kernel current: what others change is told by the change feed, and the kernel is told what to forget.
//!
//! Names and attributes hold for a second anyhow; the feed is what makes content current that the kernel keeps for longer,
//! and the rest current sooner.

use crate::face::Face;
use crate::limits::FEED_PAUSE;
use cairn_client::{Changes, DfsClient, ErrorKind, WatchOptions, WatchedChange, WatchedKind};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Follows the feed until the mount ends.
pub async fn follow(client: DfsClient, face: Arc<Face>, end: CancellationToken) {
    tokio::select! {
        () = end.cancelled() => {}
        () = follow_for_ever(&client, &face) => {}
    }
}

async fn follow_for_ever(client: &DfsClient, face: &Face) {
    loop {
        let options = WatchOptions { skip_own: true, ..WatchOptions::default() };
        match client.watch_with("/", options).await {
            Ok(mut changes) => {
                // Between two watches something may have been missed.
                face.forget_everything().await;
                follow_one(&mut changes, face).await;
            }
            Err(error) => tracing::warn!("changes of others are seen late: {error}"),
        }
        tokio::time::sleep(FEED_PAUSE).await;
    }
}

/// Until the feed no longer has what comes next.
async fn follow_one(changes: &mut Changes, face: &Face) {
    loop {
        match changes.next_change().await {
            Ok(change) => told(face, change).await,
            Err(error) if error.kind() == ErrorKind::CursorTooOld => return,
            Err(error) => {
                tracing::info!("changes of others are seen late: {error}");
                tokio::time::sleep(FEED_PAUSE).await;
            }
        }
    }
}

async fn told(face: &Face, change: WatchedChange) {
    match change.kind {
        WatchedKind::Created { .. } | WatchedKind::Removed { .. } | WatchedKind::Renamed { .. } => {
            face.name_changed(change.dir, change.name).await;
            if change.from_dir != 0 {
                face.name_changed(change.from_dir, change.from_name).await;
            }
            // Links were added or taken away.
            face.attributes_changed(change.inode).await;
        }
        WatchedKind::Changed { content: true, .. } => face.content_changed(change.inode, change.version).await,
        WatchedKind::Changed { .. } => face.attributes_changed(change.inode).await,
    }
}
