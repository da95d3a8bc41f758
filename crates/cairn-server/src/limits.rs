//! Every bound of the servers, with the relations between them checked at compile time.

use cairn_proto::limits::{BLOCK_LEN_MAX, BLOCKS_JUDGED_MAX, BLOCKS_PER_REQUEST_MAX, FRAME_BODY_MAX};
use std::time::Duration;

// ---------------------------------------------------------------- console

/// The console of a server listens this many ports above it, where no option says otherwise.
pub const CONSOLE_PORT_STEP: u16 = 80;
/// Connections to a console at once; later ones wait to be accepted.
pub const CONSOLE_CONNECTIONS_MAX: usize = 32;
/// Bytes of a request to a console, its body left out, which is never read.
pub const CONSOLE_HEAD_MAX: usize = 8 * 1024;
/// Header lines of a request to a console.
pub const CONSOLE_HEADERS_MAX: usize = 64;
/// Time in which a request to a console has to come.
pub const CONSOLE_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a connection to a console may last, the answer included.
pub const CONSOLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Time that a check of health or readiness may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Counts that cost a scan of rows are taken anew for a scrape when they are older than this.
pub const COUNTS_AGE_MAX: Duration = Duration::from_secs(5);

// ---------------------------------------------------------------- metadata server

/// In a cluster on one machine, ports above the first metadata server for storage nodes; further metadata servers come
/// behind them.
pub const LOCAL_METAS_STEP: u16 = 64;
/// Metadata requests executed at once; further ones are answered OVERLOADED.
pub const META_REQUESTS_MAX: usize = 1024;
/// Pauses between tries to reach an engine that is away.
pub const ENGINE_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// When clients are told to ask again while the engine has never been there.
pub const ENGINE_RETRY_AFTER_MS: u32 = 500;
/// Requests that wait for a lock and are held meanwhile; further ones are answered at once.
pub const LOCK_PLACES: usize = 1024;
/// How long one is held at most.
pub const LOCK_HOLD_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether another server has let a lock go.
pub const LOCK_LOOK_EVERY: Duration = Duration::from_millis(250);
/// Memory for cached rows, where no option says otherwise.
pub const META_CACHE_BYTES: u64 = 64 << 20;
/// A duty that goes on failing is told of this often.
pub const TROUBLE_TOLD_EVERY: Duration = Duration::from_secs(60);
/// An engine serves again when no duty failed by it for this long.
pub const TROUBLE_QUIET: Duration = Duration::from_secs(3);
/// How often the silence of nodes is counted and groups are looked after.
pub const CLUSTER_DUTY_PERIOD: Duration = Duration::from_secs(1);
/// How often heartbeats and renewals of sessions are written down.
pub const BEATS_PERIOD: Duration = Duration::from_secs(1);
/// How often expired sessions are closed.
pub const EXPIRY_PERIOD: Duration = Duration::from_secs(5);
/// Sessions with a shorter lease than usual are looked at so many times within it.
pub const EXPIRY_CHECKS: u32 = 4;
/// How often dropped maps are taken apart, while there are none.
pub const DROP_MAPS_PERIOD: Duration = Duration::from_secs(1);
/// How often change logs are looked after.
pub const FEED_PERIOD: Duration = Duration::from_secs(1);
/// How often the trash and trees under way are looked at, while there is nothing to do.
pub const TREES_PERIOD: Duration = Duration::from_secs(1);
/// Readers of changes that wait at once; further ones are answered without waiting.
pub const WATCHERS_MAX: usize = 256;
/// Longest time a reader of changes waits for one answer.
pub const WATCH_WAIT_MAX: Duration = Duration::from_secs(20);
/// How often a waiting reader looks for changes that other servers made.
pub const WATCH_POLL: Duration = Duration::from_millis(500);
/// How often snapshots are looked at: whether one runs out, and whether one was deleted.
pub const SNAPSHOTS_PERIOD: Duration = Duration::from_secs(1);
/// How often the garbage rows are looked through.
pub const GARBAGE_PERIOD: Duration = Duration::from_secs(1);
/// Time between the first sight of a garbage row and its DELETE, where no option says otherwise.
pub const GARBAGE_GRACE_DEFAULT: Duration = Duration::from_secs(60);
/// Percent of what all stores hold that may be collected within [`GARBAGE_MASS_WINDOW`], where no option says otherwise.
pub const GARBAGE_MASS_PERCENT: u8 = 30;
/// So many copies of blocks may always be: 64 GiB in blocks of the default size.
pub const GARBAGE_MASS_MIN: u64 = 16 * 1024;
/// Time over which it is counted.
pub const GARBAGE_MASS_WINDOW: Duration = Duration::from_secs(3600);
/// Collection that was stopped for its mass goes on after so long, where no option says otherwise.
pub const GARBAGE_MASS_HOLD: Duration = Duration::from_secs(24 * 3600);
/// Garbage rows whose grace is being timed; further ones wait until some are gone.
pub const GARBAGE_TRACKED_MAX: usize = 128 * 1024;
/// Garbage rows read, sent to nodes and removed together.
pub const GARBAGE_PAGE: usize = 256;
/// DELETE requests under way at once.
pub const DELETES_IN_FLIGHT_MAX: usize = 8;
/// Time one DELETE may take.
pub const DELETE_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that did not answer a DELETE is left alone this long.
pub const AWAY_PAUSE: Duration = Duration::from_secs(10);

/// Dumps that clients take through a server at once: each holds a snapshot of the engine.
pub const DUMPS_MAX: usize = 2;
/// A dump of which no piece was asked for so long is given up.
pub const DUMP_IDLE_MAX: Duration = Duration::from_secs(60);
/// A dump that takes longer is given up: dump a stopped engine, or one of those that keep snapshots apart.
pub const DUMP_LIFE_MAX: Duration = Duration::from_secs(6 * 3600);
/// Time one request of a recovery may take.
pub const RECOVER_TIMEOUT: Duration = Duration::from_secs(20);
/// Storage nodes that an embedded engine's commits are shipped to.
pub const SHIP_TARGETS: usize = 2;
/// Bytes of commits that wait to be shipped to a node; when there are more, it gets a new snapshot instead.
pub const SHIP_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Bytes of commits shipped with one request.
pub const SHIP_BATCH_BYTES: usize = 512 << 10;
/// Commits wait so long for others before they are shipped.
pub const SHIP_PAUSE: Duration = Duration::from_millis(50);
/// A node gets a new snapshot when the log behind the last one is as long as it, and at least so long.
pub const SHIP_LOG_MIN: u64 = 64 << 20;
/// Time one request of shipping may take.
pub const SHIP_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest pause after a node did not take what was shipped.
pub const SHIP_RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Another node is taken in place of one that took nothing for so long.
pub const SHIP_GIVE_UP: Duration = Duration::from_secs(30);
/// Commits that are not on enough nodes for so long make an alarm.
pub const SHIP_BEHIND_AFTER: Duration = Duration::from_secs(30);
/// How often dumps are looked at for that.
pub const DUMP_CHECK_PERIOD: Duration = Duration::from_secs(5);

// ---------------------------------------------------------------- storage node

/// Block reads served at once; further ones are answered OVERLOADED.
pub const READS_MAX: usize = 512;
/// Reads that wait for the disk at once; further ones queue behind them within [`READS_MAX`].
pub const COLD_READS_MAX: usize = 32;
/// Blocks read as a whole to verify them, at once.
pub const VERIFIES_MAX: usize = 4;
/// Block writes held at once; further ones are answered OVERLOADED. Their bytes are bounded by the store's queue.
pub const WRITES_MAX: usize = 512;
/// Longest part of a block that is handed to the connection in one piece.
pub const PART_LEN: u32 = FRAME_BODY_MAX;
/// A block that was asked for within this time has its header in the page cache, most likely; other headers are read where
/// waiting for a disk harms nobody.
pub const WARM_FOR: Duration = Duration::from_secs(30);
/// Blocks of which it is remembered when they were last asked for.
pub const WARM_BLOCKS: usize = 16 * 1024;
/// Deleted blocks remembered, so that a copy that was under way does not bring one back.
pub const DELETED_REMEMBERED: usize = 64 * 1024;
/// NOT_FOUND answers remembered, so that a later report about such a block can be told to which group it belongs.
pub const MISSES_REMEMBERED: usize = 4096;
/// Time between two heartbeats, where metadata does not say otherwise.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_secs(1);
/// Shortest and longest time between heartbeats that metadata may ask for.
pub const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));
/// Time one request to metadata may take.
pub const META_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause before a duty that failed is tried again.
pub const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Defects named in one heartbeat; further ones wait for the next.
pub const DEFECTS_PER_BEAT: usize = 64;
/// Repaired blocks whose report waits for a heartbeat; older ones are forgotten.
pub const REPAIRED_WAITING_MAX: usize = 4096;
/// Groups being joined whose progress is told in one heartbeat.
pub const JOINS_PER_BEAT: usize = 256;
/// First and longest pause before a store that failed is opened again.
pub const REVIVE_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the stores are looked at whether one has failed.
pub const REVIVE_PERIOD: Duration = Duration::from_secs(1);
/// A store that was well for this long is opened again soon when it fails the next time.
pub const REVIVE_FORGET: Duration = Duration::from_secs(600);
/// Entries of the ledger that are remembered; open ones are in any case.
pub const LEDGER_ENTRIES_MAX: usize = 16 * 1024;
/// Entries of the ledger told at once.
pub const LEDGER_PAGE_MAX: usize = 1024;
/// The journal of the ledger begins anew after so many bytes; one former file is kept.
pub const LEDGER_FILE_MAX: u64 = 4 << 20;
/// Blocks of the index listed for scrub at once, unless a single segment has more.
pub const SCRUB_STRETCH: u64 = 64 * 1024;
/// Blocks, and bytes, read back in one go; a larger block is read alone.
pub const SCRUB_BATCH_BLOCKS: usize = 64;
/// See [`SCRUB_BATCH_BLOCKS`].
pub const SCRUB_BATCH_BYTES: u64 = 4 << 20;
/// Time in which everything is read back once, where no option says otherwise.
pub const SCRUB_PERIOD: Duration = Duration::from_secs(14 * 24 * 3600);
/// Slowest pace of scrub, in bytes a second.
pub const SCRUB_RATE_MIN: f64 = 64.0 * 1024.0;
/// Scrub looks again after this time whether the store is disturbed, or a pass is due.
pub const SCRUB_YIELD: Duration = Duration::from_millis(100);
/// A pass that was asked for, or that is late, waits no longer than this before each batch: however busy a store is, it
/// is read at some megabytes a second.
pub const SCRUB_PATIENCE: Duration = Duration::from_secs(1);
/// Longest sleep of scrub at once.
pub const SCRUB_NAP: Duration = Duration::from_secs(10);
/// How often the position of scrub is written down.
pub const SCRUB_SAVE: Duration = Duration::from_secs(10);
/// So many blocks in a row that cannot be read are a failing disk rather than bad blocks: scrub rests.
pub const SCRUB_UNREADABLE_MAX: u32 = 16;
/// How long it rests then.
pub const SCRUB_REST: Duration = Duration::from_secs(60);
/// Foreground requests are disturbed when they take so many times as long as they do when left alone, and more than the
/// slack.
pub const CALM_FACTOR: f64 = 1.5;
/// See [`CALM_FACTOR`].
pub const CALM_SLACK: Duration = Duration::from_millis(2);
/// A single request is late when it takes so many times as long as the mean of those that are left alone, and more than the
/// slack.
pub const CALM_LATE_FACTOR: f64 = 2.0;
/// About so many samples say which share of them is late.
pub const CALM_LATE_SAMPLES: f64 = 64.0;
/// Foreground requests are disturbed when this share of them is late, beyond the share that is late when they are left alone:
/// what shows in the 99th percentile of a request that takes a few turns.
pub const CALM_LATE_SHARE: f64 = 0.03;
/// As [`CALM_SLACK`], for the turn of a task on a processor: a request waits for several.
pub const CALM_LAG: Duration = Duration::from_millis(1);
/// How often it is measured how late tasks get their turn, while there are foreground requests.
pub const LAG_STEP: Duration = Duration::from_millis(5);
/// How often it is looked whether there are any.
pub const LAG_LOOK: Duration = Duration::from_millis(100);
/// What a foreground request told, or background work did, counts for this long.
pub const CALM_MEMORY: Duration = Duration::from_secs(1);
/// A disk that owes an answer for so long is disturbed.
pub const CALM_STALL: Duration = Duration::from_millis(250);
/// Rate of copies to a store at first, in bytes a second.
pub const REPAIR_RATE_FIRST: f64 = 64.0 * 1024.0 * 1024.0;
/// What it is lowered to at most: repair never stands still.
pub const REPAIR_RATE_MIN: f64 = 4.0 * 1024.0 * 1024.0;
/// What it grows by in each step while nobody else asks for anything.
pub const REPAIR_RATE_STEP: f64 = 8.0 * 1024.0 * 1024.0;
/// What it grows by in each step beside foreground requests. A quarter of this made copies six times slower and the 99th
/// percentile of small reads a third better (docs/benchmarks.md): what a read waits for is one block being copied, not many.
pub const REPAIR_RATE_STEP_ASKED: f64 = 4.0 * 1024.0 * 1024.0;
/// Time between two changes of the rate.
pub const REPAIR_STEP: Duration = Duration::from_millis(100);
/// Longest sleep of a copy before it looks at its turn again.
pub const REPAIR_NAP: Duration = Duration::from_secs(1);
/// How often each group is compared with another member, where no option says otherwise.
pub const COMPARE_PERIOD: Duration = Duration::from_secs(3600);
/// How often a node looks whether a comparison is due.
pub const COMPARE_LOOK: Duration = Duration::from_secs(1);
/// Differing blocks of one group that are looked into in one comparison; further ones wait for the next.
pub const COMPARE_BLOCKS_MAX: usize = 64 * 1024;
/// Share of a store that a purge may delete at one look, in percent, unless the store is drained.
pub const PURGE_MASS_PERCENT: u64 = 50;
/// Blocks copied from peers at once, by all duties of a node together.
pub const COPIES_IN_FLIGHT_MAX: usize = 8;
/// Time one block may take to come from a peer.
pub const COPY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bad or missing blocks that wait for their own repair; further reports are dropped (the reader will report again).
pub const HEAL_QUEUE_MAX: usize = 4096;
/// Blocks looked at, copied and made durable together by a duty.
pub const COPY_BATCH: usize = 128;
/// Degraded rows asked for at once.
pub const DEGRADED_PAGE: u32 = 256;
/// Blocks of degraded rows that are caught up together, unless a single row has more.
pub const CATCH_UP_BLOCKS: usize = 1024;
/// Blocks in the run of one degraded or garbage row that are accepted.
pub const RUN_BLOCKS_MAX: usize = 1 << 20;
/// Blocks of an inventory asked for at once.
pub const INVENTORY_PAGE: u32 = BLOCKS_PER_REQUEST_MAX as u32;
/// First and longest pause before unfinished repairs (degraded runs, quarantined blocks, joins) are tried again while
/// nothing changes; a new cluster map calls earlier.
pub const REPAIR_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Parts in which inventories are compared, and most that a peer may ask for.
pub const DIGEST_PARTS_MAX: u32 = 1024;
/// Time a digest of a group may take: it costs a pass over the index of a store.
pub const DIGEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a node looks for orphans, where no option says otherwise. Within some two of these after a writer is closed its
/// orphans are gone.
pub const SWEEP_PERIOD: Duration = Duration::from_secs(10);
/// Longest pause between looks at a closed writer of whom some block stays undecided.
pub const SWEEP_PAUSE_MAX: Duration = Duration::from_secs(600);
/// Writers whose blocks wait to be judged, of one store; further ones are found in its index again.
pub const SWEEP_CANDIDATES_MAX: usize = 64 * 1024;
/// Dead blocks of one store that are held back until all of them are known.
pub const SWEEP_HELD_MAX: usize = 64 * 1024;
/// Pause after each page of blocks that metadata has judged.
pub const SWEEP_PAGE_PAUSE: Duration = Duration::from_millis(50);
/// Share of what a store held when it was opened that a sweep may delete, in percent, where no option says otherwise.
pub const SWEEP_MASS_PERCENT: u8 = 10;
/// So many blocks may always go.
pub const SWEEP_MASS_MIN: u64 = 1024;
/// Time one judgement of blocks may take: metadata walks the maps of their files.
pub const JUDGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Files of metadata logs that a node keeps.
pub const METALOG_FILES_MAX: usize = 64;
/// A node takes nothing more for a metadata log when less than this is free.
pub const METALOG_SPACE_MIN: u64 = 256 << 20;
/// Bytes of a metadata log given out at once.
pub const METALOG_FETCH_MAX: u32 = FRAME_BODY_MAX;
/// How often a cluster that is starting is asked whether it is ready.
pub const READY_POLL: Duration = Duration::from_millis(10);
/// How long a graceful stop waits for work in flight.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// Largest state file (identity, fence) that is read back.
pub const STATE_FILE_MAX: u64 = 16 << 20;

/// A metadata server that is at work on an engine shows a sign of life there within this time: several of its periods.
pub const SERVER_SIGN_WAIT: Duration = Duration::from_secs(4);

const _: () = {
    assert!(COLD_READS_MAX <= READS_MAX);
    // Between two failures of the slowest of the frequent duties it does not look quiet.
    assert!(TROUBLE_QUIET.as_millis() > 2 * BEATS_PERIOD.as_millis());
    assert!(CHECK_TIMEOUT.as_millis() + CONSOLE_HEAD_TIMEOUT.as_millis() < CONSOLE_TIMEOUT.as_millis());
    assert!(COPY_BATCH <= BLOCKS_PER_REQUEST_MAX);
    assert!(COPY_BATCH <= CATCH_UP_BLOCKS);
    assert!(DEFECTS_PER_BEAT <= REPAIRED_WAITING_MAX);
    // Copies in flight hold whole blocks: half a gigabyte at most, and 32 MiB with blocks of the default size.
    assert!(COPIES_IN_FLIGHT_MAX as u64 * BLOCK_LEN_MAX as u64 <= 512 << 20);
    assert!(SHIP_BATCH_BYTES < SHIP_QUEUE_BYTES_MAX);
    assert!(GARBAGE_PAGE <= GARBAGE_TRACKED_MAX);
    // A whole page fits beside what is held already.
    assert!(2 * BLOCKS_JUDGED_MAX <= SWEEP_HELD_MAX);
    assert!(SWEEP_MASS_MIN as usize <= SWEEP_HELD_MAX);
    assert!(SWEEP_PERIOD.as_millis() * 3 < 60_000);
};

/// Metadata servers that a node reports to; further ones of a cluster map are left out.
pub(crate) const METAS_MAX: usize = 64;
/// How long a report waits for a metadata server while others answer: less than the pause between reports.
pub(crate) const BEAT_TIMEOUT: Duration = Duration::from_millis(700);
