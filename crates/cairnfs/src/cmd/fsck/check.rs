//! The steps of the check.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use cairn_client::{Admin, Cursor, DfsClient, Error, MapGroup, PlacedRun, RowFinding, RunKind};
use tokio::time::sleep;

use super::{
    ask::{self, Inodes, NoAnswer},
    compare::{Wrong, compare},
    findings::{Counts, Finding, Kind, Report},
    rules::{self, Gathering, GroupFault, Groups, RunFault, Window},
    spans::{Span, Spans},
    words::{self, Stores},
};
use crate::{args, cmd::live::Live, failure::Failure, text};

/// Spans of files that are checked at once: some 50 MB with what belongs to them. Never less than one file.
pub(super) const WINDOW_SPANS: usize = 1 << 20;
/// How often a group whose members change is looked at again, before it is left alone.
const CONFIRM_ROUNDS: usize = 3;
/// Between two looks at what may mend itself.
const SETTLE_PAUSE: Duration = Duration::from_secs(2);
/// How often what may mend itself is looked at again while it does.
const SETTLE_ROUNDS: usize = 5;
/// With --repair, how long nothing may get better before the rest is told as it is.
const REPAIR_STALL: Duration = Duration::from_secs(60);
/// Spans of blocks with something wrong that are kept for repair; what is beyond is told by the next check.
const WRONG_SPANS_MAX: usize = 1 << 20;
/// Findings of rows that are compared between two looks.
const ROW_FINDINGS_MAX: usize = 10_000;
/// Runs that name a group we do not know yet, or no group.
const ODD_RUNS_MAX: usize = 1000;

/// Degraded rows that --quick compares between two looks.
const DEGRADED_ROWS_MAX: usize = 100_000;

/// What one look at the degraded rows showed.
#[derive(Default)]
struct DegradedRows {
    /// By group and store that is no member of it: how many.
    strangers: BTreeMap<(u32, u32), u64>,
    /// Rows about members, as far as they are kept.
    rows: BTreeSet<(u32, u32, Span)>,
}

/// What is wrong, by group.
type Wrongs = BTreeMap<u32, Wrong>;

/// What a second look showed.
#[derive(Default)]
struct Confirmed {
    wrongs: Wrongs,
    /// Blocks that looked wrong and that metadata could not decide about: they are being dropped, or their file has too
    /// many extents to be looked through.
    undecided: u64,
}

/// See the module.
pub struct Check {
    pub(super) admin: Admin,
    repair: bool,
    pub(super) quick: bool,
    live: Live,
    groups: Groups,
    stores: Stores,
    /// Stores that did not say what they hold, and why.
    away: BTreeMap<u32, String>,
    /// Those that were away when their blocks were first asked for: what they hold was not compared as a whole.
    unchecked: BTreeMap<u32, String>,
    wrongs: Wrongs,
    wrong_spans: usize,
    report: Report,
}

pub(super) fn failed(error: Error) -> Failure {
    Failure::admin(&error)
}

impl Check {
    pub fn new(client: &DfsClient, args: &args::Fsck, live: Live) -> Self {
        Self {
            admin: client.admin(),
            repair: args.repair,
            quick: args.quick,
            live,
            groups: Groups::new(),
            stores: Stores::new(),
            away: BTreeMap::new(),
            unchecked: BTreeMap::new(),
            wrongs: Wrongs::new(),
            wrong_spans: 0,
            report: Report::default(),
        }
    }

    /// Does all steps.
    pub async fn run(&mut self) -> Result<(), Failure> {
        self.read_map().await?;
        self.rows().await?;
        self.members().await?;
        self.degraded_rows().await?;
        self.files().await?;
        self.dropped().await?;
        self.settle().await?;
        self.bad_blocks().await
    }

    /// What was found.
    pub fn finish(self) -> Report {
        self.live.finish();
        self.report
    }

    pub(super) fn counts(&mut self) -> &mut Counts {
        &mut self.report.counts
    }

    async fn read_map(&mut self) -> Result<(), Failure> {
        let map = self.admin.map().await.map_err(failed)?;
        self.groups = map.groups.into_iter().map(|group| (group.id, group)).collect();
        self.stores = map.stores.into_iter().map(|store| (store.id, store)).collect();
        let members: BTreeSet<u32> =
            self.groups.values().flat_map(|group| group.members.iter().map(|(store, _)| *store)).collect();
        let counts = &mut self.report.counts;
        (counts.groups, counts.stores) = (self.groups.len() as u64, members.len() as u64);
        Ok(())
    }

    /// Metadata's own rows. What one look finds may be in the middle of a change: only what two looks find is told.
    async fn rows(&mut self) -> Result<(), Failure> {
        let first = self.look_at_rows(false).await?;
        if first.is_empty() {
            return Ok(());
        }
        let suspected: BTreeSet<(String, String)> =
            first.into_iter().map(|finding| (finding.rule, finding.what)).collect();
        self.report.counts.rows = 0;
        for RowFinding { rule, what, remedy, repaired } in self.look_at_rows(self.repair).await? {
            if repaired || suspected.contains(&(rule.clone(), what.clone())) {
                let finding = Finding::new(Kind::Row, format!("{rule}: {what}"), String::new(), remedy);
                self.report.add(finding.repaired(repaired));
            }
        }
        Ok(())
    }

    async fn look_at_rows(&mut self, repair: bool) -> Result<Vec<RowFinding>, Failure> {
        let mut findings = Vec::new();
        let mut cursor = Cursor::default();
        loop {
            let page = self.admin.check_rows(repair, &cursor).await.map_err(failed)?;
            self.counts().rows += page.rows;
            let room = ROW_FINDINGS_MAX - findings.len();
            findings.extend(page.findings.into_iter().take(room));
            self.live.set(format_args!("fsck: {} of metadata", text::count(self.report.counts.rows, "row")));
            match page.next {
                Some(next) => cursor = next,
                None => return Ok(findings),
            }
        }
    }

    /// Groups by themselves.
    async fn members(&mut self) -> Result<(), Failure> {
        let suspected: BTreeSet<u32> = self
            .groups
            .values()
            .filter(|group| !rules::check_group(group, &self.stores).is_empty())
            .map(|g| g.id)
            .collect();
        if suspected.is_empty() {
            return Ok(());
        }
        self.read_map().await?;
        for group in suspected.iter().filter_map(|pg| self.groups.get(pg)) {
            for fault in rules::check_group(group, &self.stores) {
                self.report.add(group_finding(group, &fault));
            }
        }
        Ok(())
    }

    /// Degraded rows: how many, and whether each is about a member. With --quick also which of them stay: what members
    /// hold is not looked at then.
    async fn degraded_rows(&mut self) -> Result<(), Failure> {
        let first = self.look_at_degraded().await?;
        let quick = self.quick && !first.rows.is_empty();
        if first.strangers.is_empty() && !quick {
            return Ok(());
        }
        if quick {
            // Those of a write that is just being done go with its last acknowledgement.
            sleep(SETTLE_PAUSE).await; // tidy: sleep-ok(the cluster works meanwhile)
        }
        // The rows may be younger than our map.
        self.read_map().await?;
        let second = self.look_at_degraded().await?;
        for ((pg, store), count) in &second.strangers {
            if first.strangers.contains_key(&(*pg, *store)) {
                let what = format!("group {pg}: {} about store {store}", text::count(*count, "degraded row"));
                let why = "it is no member of the group".to_owned();
                let remedy = "harmless; metadata's own check removes them (`cairn fsck --repair`)".to_owned();
                let finding = Finding::new(Kind::DegradedStranger, what, why, remedy).on(*store);
                self.report.add(Finding { group: Some(*pg), ..finding });
            }
        }
        if quick {
            let mut stay: BTreeMap<u32, Wrong> = BTreeMap::new();
            for (pg, store, span) in second.rows.intersection(&first.rows) {
                let degraded = &mut stay.entry(*pg).or_default().degraded;
                let spans = degraded.entry(*store).or_default();
                *spans = spans.or(&[*span].into_iter().collect());
            }
            for (pg, wrong) in stay {
                let Some(group) = self.groups.get(&pg) else { continue };
                let findings = words::findings(group, &wrong, &[], &self.stores, false);
                findings.into_iter().for_each(|finding| self.report.add(finding));
            }
        }
        Ok(())
    }

    async fn look_at_degraded(&mut self) -> Result<DegradedRows, Failure> {
        let mut seen = DegradedRows::default();
        let mut blocks = 0;
        let mut cursor = Cursor::default();
        loop {
            let page = self.admin.list_degraded(None, &cursor).await.map_err(failed)?;
            for row in page.rows {
                blocks += u64::from(row.run.count);
                let group = self.groups.get(&row.pg);
                if !group.is_some_and(|group| group.members.iter().any(|(store, _)| *store == row.store)) {
                    *seen.strangers.entry((row.pg, row.store)).or_default() += 1;
                } else if self.quick && seen.rows.len() < DEGRADED_ROWS_MAX {
                    seen.rows.insert((row.pg, row.store, Span::from(row.run)));
                }
            }
            match page.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        self.counts().degraded_blocks = blocks;
        Ok(seen)
    }

    /// Everything that files refer to, window by window.
    async fn files(&mut self) -> Result<(), Failure> {
        let mut gathering = Gathering::default();
        // Blocks that were written for another file than the one whose map they stand in.
        let mut shared = Gathering::default();
        let mut odd: Vec<PlacedRun> = Vec::new();
        let (mut low, mut last) = (0, None);
        let mut cursor = Cursor::default();
        loop {
            let page = self.admin.scan_runs(RunKind::Extents, &cursor).await.map_err(failed)?;
            for placed in page.runs {
                let counts = &mut self.report.counts;
                counts.runs += 1;
                if last != Some(placed.inode) {
                    if let Some(done) = last
                        && gathering.len() >= WINDOW_SPANS
                    {
                        let window = std::mem::take(&mut gathering).finish();
                        self.window(window, Inodes { low, high: done }, &mut odd, true).await?;
                        low = done + 1;
                    }
                    last = Some(placed.inode);
                    self.report.counts.files += u64::from(placed.current);
                }
                if placed.current {
                    self.report.counts.blocks += u64::from(placed.run.count);
                    if rules::check_run(&placed, &self.groups).is_some() && odd.len() < ODD_RUNS_MAX {
                        odd.push(placed.clone());
                    }
                }
                let own = placed.run.first.inode.0 == placed.inode;
                if own { gathering.add(&placed) } else { shared.add(&placed) }
            }
            self.progress();
            match page.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        self.window(gathering.finish(), Inodes { low, high: u64::MAX }, &mut odd, true).await?;
        let shared = shared.finish();
        let range = shared.needed.values().filter_map(Spans::inodes);
        if let Some((low, high)) = range.reduce(|(low, high), (l, h)| (low.min(l), high.max(h))) {
            self.window(shared, Inodes { low, high }, &mut odd, false).await?;
        }
        Ok(())
    }

    fn progress(&mut self) {
        let Counts { files, runs, blocks, replicas, .. } = self.report.counts.clone();
        let (files, runs) = (text::count(files, "file"), text::count(runs, "run"));
        let (blocks, replicas) = (text::count(blocks, "block"), text::count(replicas, "replica"));
        self.live.set(format_args!("fsck: {files}, {runs}, {blocks}, {replicas} found"));
    }

    /// Checks the blocks of some files. `whole` = the window names everything that refers to blocks of these files.
    pub(super) async fn window(
        &mut self,
        window: Window,
        inodes: Inodes,
        odd: &mut Vec<PlacedRun>,
        whole: bool,
    ) -> Result<(), Failure> {
        // Not older than the runs.
        self.read_map().await?;
        for placed in odd.drain(..) {
            if let Some(fault) = rules::check_run(&placed, &self.groups) {
                self.report.add(run_finding(&placed, &fault));
            }
        }
        if self.quick {
            return Ok(());
        }
        let suspected = self.first_look(&window, inodes, whole).await?;
        if suspected.is_empty() {
            return Ok(());
        }
        let Confirmed { wrongs, undecided } = self.confirm(suspected, inodes).await?;
        self.counts().undecided_blocks += undecided;
        for (pg, wrong) in wrongs {
            self.note(pg, wrong);
        }
        Ok(())
    }

    fn note(&mut self, pg: u32, wrong: Wrong) {
        let spans = wrong.blocks().len();
        if !wrong.is_empty() && (self.wrong_spans == 0 || self.wrong_spans + spans <= WRONG_SPANS_MAX) {
            self.wrong_spans += spans;
            self.wrongs.entry(pg).or_default().join(wrong);
        }
    }

    /// Reads what all members hold; returns what files need of groups in which something looks wrong.
    async fn first_look(
        &mut self,
        window: &Window,
        inodes: Inodes,
        whole: bool,
    ) -> Result<BTreeMap<u32, Spans>, Failure> {
        let nothing = Spans::default();
        let mut suspected = BTreeMap::new();
        let mut silent: Vec<NoAnswer> = Vec::new();
        let (mut replicas, mut unreferenced) = (0, 0);
        let wanted = |group: &&MapGroup| whole || window.needed.contains_key(&group.id);
        let groups: Vec<MapGroup> = self.groups.values().filter(wanted).cloned().collect();
        self.skip_nodes_that_are_down(&groups);
        // What metadata knows of stores that cannot be asked.
        let away: Vec<u32> = self.away.keys().copied().collect();
        let degraded = self.degraded_of(away, inodes).await?;
        let none_degraded = BTreeMap::new();
        let total = groups.len();
        let mut done = 0;
        let live = &mut self.live;
        ask::inventories(&self.admin, groups.into_iter(), inodes, &self.away, |group, holdings, no_answers| {
            let needed = window.needed.get(&group.id).unwrap_or(&nothing);
            let known = window.known.get(&group.id).unwrap_or(&nothing);
            for held in holdings.iter().filter_map(|holding| holding.held.as_ref()) {
                replicas += held.and(needed).blocks();
                unreferenced += if whole { held.minus(known).blocks() } else { 0 };
            }
            let rows = degraded.get(&group.id).unwrap_or(&none_degraded);
            if !no_answers.is_empty() || !compare(needed, group.replicas, &holdings, rows).is_empty() {
                suspected.insert(group.id, needed.clone());
            }
            silent.extend(no_answers);
            done += 1;
            live.set(format_args!("fsck: {done} of {total} groups compared with what nodes hold"));
        })
        .await;
        self.counts().replicas += replicas;
        self.counts().unreferenced_replicas += unreferenced;
        self.hear_silence(silent);
        self.unchecked.extend(self.away.clone());
        Ok(suspected)
    }

    /// What metadata knows these stores to lack: by group and store.
    async fn degraded_of(
        &self,
        stores: impl IntoIterator<Item = u32>,
        inodes: Inodes,
    ) -> Result<BTreeMap<u32, BTreeMap<u32, Spans>>, Failure> {
        let mut degraded: BTreeMap<u32, BTreeMap<u32, Spans>> = BTreeMap::new();
        for store in stores {
            for (pg, spans) in ask::degraded(&self.admin, store, inodes).await.map_err(failed)? {
                degraded.entry(pg).or_default().insert(store, spans);
            }
        }
        Ok(degraded)
    }

    /// A node that metadata has not heard of lately would only cost time.
    fn skip_nodes_that_are_down(&mut self, groups: &[MapGroup]) {
        for (id, _) in groups.iter().flat_map(|group| &group.members) {
            if let Some(store) = self.stores.get(id).filter(|store| !store.up) {
                let why = || format!("node {} is {}", store.node, store.node_state);
                self.away.entry(*id).or_insert_with(why);
            }
        }
    }

    fn hear_silence(&mut self, silent: Vec<NoAnswer>) {
        for NoAnswer { store, error } in silent {
            let why = Failure::admin(&error).message().unwrap_or_default().to_owned();
            self.away.entry(store).or_insert(why);
        }
    }

    /// Asks again about blocks of groups in which something looked wrong, in the order that makes the answer sure.
    async fn confirm(&mut self, mut needed: BTreeMap<u32, Spans>, inodes: Inodes) -> Result<Confirmed, Failure> {
        let mut confirmed = Confirmed::default();
        for _ in 0..CONFIRM_ROUNDS {
            self.read_map().await?;
            let groups: Vec<MapGroup> = needed.keys().filter_map(|pg| self.groups.get(pg)).cloned().collect();
            // Degraded rows before inventories: a row that goes between the two went because the copy came.
            let members: BTreeSet<u32> =
                groups.iter().flat_map(|group| &group.members).map(|(store, _)| *store).collect();
            let degraded = self.degraded_of(members, inodes).await?;
            let mut silent: Vec<NoAnswer> = Vec::new();
            let mut found: Vec<(MapGroup, Wrong)> = Vec::new();
            self.skip_nodes_that_are_down(&groups);
            ask::inventories(&self.admin, groups.into_iter(), inodes, &self.away, |group, holdings, no_answers| {
                let nothing = BTreeMap::new();
                let rows = degraded.get(&group.id).unwrap_or(&nothing);
                if let Some(needed) = needed.get(&group.id) {
                    let wrong = compare(needed, group.replicas, &holdings, rows);
                    found.push((group, wrong));
                }
                silent.extend(no_answers);
            })
            .await;
            self.hear_silence(silent);
            let mut sure = Vec::new();
            for (group, wrong) in found {
                // Any store will do: the question is what files refer to.
                let (live, open) = match self.stores.keys().next() {
                    Some(store) if !wrong.is_empty() => {
                        ask::live(&self.admin, *store, group.id, &wrong.blocks()).await.map_err(failed)?
                    }
                    _ => Default::default(),
                };
                sure.push((group.id, group.epoch, wrong.within(&live), open));
            }
            self.read_map().await?;
            for (pg, epoch, wrong, open) in sure {
                // Members may have changed under our eyes: look again.
                if self.groups.get(&pg).is_none_or(|group| group.epoch == epoch) {
                    needed.remove(&pg);
                    confirmed.wrongs.insert(pg, wrong);
                    confirmed.undecided += open;
                }
            }
            if needed.is_empty() {
                break;
            }
        }
        Ok(confirmed)
    }

    /// Lets what mends itself do so, has the rest mended if that is asked for, and tells what is left.
    async fn settle(&mut self) -> Result<(), Failure> {
        let before = std::mem::take(&mut self.wrongs);
        let mut now = before.clone();
        if self.repair {
            self.report_lacking(&before).await?;
        }
        let mut better = (Instant::now(), blocks_of(&now));
        for round in 0.. {
            let left = blocks_of(&now);
            if left == 0 {
                break;
            }
            if left < better.1 {
                better = (Instant::now(), left);
            }
            let stalled = better.0.elapsed() > if self.repair { REPAIR_STALL } else { SETTLE_PAUSE };
            if stalled || !self.repair && round >= SETTLE_ROUNDS || !now.values().any(may_mend) {
                break;
            }
            let doing = if self.repair { "repair" } else { "looking again" };
            self.live.set(format_args!("fsck: {doing}: {} left", text::count(left, "block")));
            sleep(SETTLE_PAUSE).await; // tidy: sleep-ok(the cluster works meanwhile)
            now = self.look_again(&now).await?;
        }
        for (pg, was) in &before {
            let Some(group) = self.groups.get(pg).cloned() else { continue };
            let nothing = Wrong::default();
            let left = now.get(pg).unwrap_or(&nothing);
            let mended = |(store, spans): (&u32, &Spans)| (*store, spans.minus(&left.blocks()));
            let repaired = was.unknown.iter().map(mended).filter(|(_, spans)| self.repair && !spans.is_empty());
            let repaired = Wrong { unknown: repaired.collect(), ..Wrong::default() };
            let elsewhere = self.elsewhere(&group, &left.lost).await;
            let repaired = words::findings(&group, &repaired, &[], &self.stores, true);
            let left = words::findings(&group, left, &elsewhere, &self.stores, false);
            left.into_iter().chain(repaired).for_each(|finding| self.report.add(finding));
        }
        self.tell_who_was_away();
        Ok(())
    }

    /// Asks once more about what was wrong.
    async fn look_again(&mut self, wrongs: &Wrongs) -> Result<Wrongs, Failure> {
        // A store that was away may be back.
        self.away.clear();
        let needed: BTreeMap<u32, Spans> =
            wrongs.iter().filter(|(_, wrong)| !wrong.is_empty()).map(|(pg, wrong)| (*pg, wrong.blocks())).collect();
        let ranges = needed.values().filter_map(Spans::inodes);
        let Some((low, high)) = ranges.reduce(|(low, high), (l, h)| (low.min(l), high.max(h))) else {
            return Ok(Wrongs::new());
        };
        Ok(self.confirm(needed, Inodes { low, high }).await?.wrongs)
    }

    /// Tells metadata of copies that it takes for existing, so that members copy them.
    async fn report_lacking(&mut self, wrongs: &Wrongs) -> Result<(), Failure> {
        for (pg, wrong) in wrongs {
            for (store, spans) in &wrong.unknown {
                for batch in ask::batches(*pg, spans) {
                    self.admin.report_lacking(*store, &batch).await.map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// Stores outside the group that hold blocks which no member has, and how many.
    async fn elsewhere(&mut self, group: &MapGroup, lost: &Spans) -> Vec<(u32, u64)> {
        let Some((low, high)) = lost.inodes() else { return Vec::new() };
        let mut found = Vec::new();
        for (id, store) in &self.stores {
            if !store.up || group.members.iter().any(|(member, _)| member == id) {
                continue;
            }
            // One that does not answer has nothing to offer.
            if let Ok(held) = ask::inventory(&self.admin, *id, group.id, Inodes { low, high }).await {
                found.push((*id, held.and(lost).blocks()));
            }
        }
        found.retain(|(_, blocks)| *blocks > 0);
        found
    }

    fn tell_who_was_away(&mut self) {
        for (id, why) in &self.unchecked {
            let what = format!("{}: what it holds is not known", words::store(&self.stores, *id));
            let remedy = "start its node and check again; if it is gone for good, drain it".to_owned();
            self.report.add(Finding::new(Kind::StoreAway, what, why.clone(), remedy).on(*id));
        }
    }

    /// Blocks in quarantine. They are not served, and repaired by themselves as long as another member has them.
    async fn bad_blocks(&mut self) -> Result<(), Failure> {
        self.read_map().await?;
        if rules::bad_blocks(&self.groups, &self.stores).is_empty() {
            return Ok(());
        }
        sleep(SETTLE_PAUSE).await; // tidy: sleep-ok(the cluster works meanwhile)
        self.read_map().await?;
        for (id, count) in rules::bad_blocks(&self.groups, &self.stores) {
            let what = format!("{}: {} found bad", words::store(&self.stores, id), text::count(count.into(), "block"));
            let why = "their bytes do not match their checksums, and they are not repaired yet".to_owned();
            let remedy = "`cairn admin ledger --open` says why; look after the disk".to_owned();
            self.report.add(Finding::new(Kind::Quarantined, what, why, remedy).on(id));
        }
        Ok(())
    }
}

fn blocks_of(wrongs: &Wrongs) -> u64 {
    wrongs.values().map(|wrong| wrong.blocks().blocks()).sum()
}

/// Whether waiting may help.
fn may_mend(wrong: &Wrong) -> bool {
    !(wrong.unknown.is_empty() && wrong.degraded.is_empty() && wrong.joining.is_empty() && wrong.unseen.is_empty())
}

fn group_finding(group: &MapGroup, fault: &GroupFault) -> Finding {
    let MapGroup { id, replicas, .. } = group;
    let finding = match fault {
        GroupFault::UnknownStore(store) => Finding::new(
            Kind::UnknownStore,
            format!("group {id} names store {store}, which does not exist"),
            "no node ever registered it, or metadata lost its row".to_owned(),
            "report this as a defect".to_owned(),
        )
        .on(*store),
        GroupFault::Short(members) => Finding::new(
            Kind::GroupShort,
            format!("group {id} has {} for {replicas} copies", text::count(*members as u64, "member")),
            "stores are out and there is no other to take their place".to_owned(),
            "start the nodes that are out, or add one: `cairn status` shows them".to_owned(),
        ),
    };
    Finding { group: Some(*id), ..finding }
}

fn run_finding(placed: &PlacedRun, fault: &RunFault) -> Finding {
    let PlacedRun { run, inode, file_offset, len, block_len, .. } = placed;
    let remedy = "report this as a defect; restore the file from a backup".to_owned();
    let finding = match fault {
        RunFault::Group(pg) => {
            let named = pg.map_or_else(|| "no group".to_owned(), |pg| format!("group {pg}, which does not exist"));
            let what = format!("blocks {run} at offset {file_offset} name {named}");
            Finding::new(Kind::UnknownGroup, what, "without its group a block is not found".to_owned(), remedy)
        }
        RunFault::Length => {
            let what = format!("{len} bytes at offset {file_offset} are in blocks {run} of {block_len} bytes");
            Finding::new(Kind::RunLength, what, "these are too few or too many blocks".to_owned(), remedy)
        }
    };
    Finding { blocks: run.count.into(), inodes: vec![*inode], files: 1, ..finding }
}
