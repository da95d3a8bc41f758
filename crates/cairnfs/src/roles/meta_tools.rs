//! `cairn meta backup`, `dump`, `load`, `migrate` and `check`: work on metadata as a whole, through a server or on an engine that no
//! server uses.

mod backup;

use std::{
    fmt::Display,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use cairn_client::{Cursor, DumpPiece, Error, ErrorKind, RowFinding};
use cairn_server::tools::{LoadError, OpenEngine};
use serde::Serialize;

use super::start_failure;
use crate::{
    args::{MetaCheck, MetaDump, MetaInstead, MetaLoad, MetaMigrate, MetaRecover},
    cmd::live::Live,
    context::Context,
    failure::Failure,
    output::{Out, say},
    text,
};

/// Bytes of a dump read at once.
const READ_LEN: usize = 256 * 1024;

/// Runs the command.
pub async fn run(what: MetaInstead, context: &Context, out: &mut Out) -> Result<(), Failure> {
    match what {
        MetaInstead::Backup(args) => backup::run(args, context, out).await,
        MetaInstead::Dump(args) => dump(args, context, out).await,
        MetaInstead::Load(args) => load(args, out).await,
        MetaInstead::Migrate(args) => migrate(args, out).await,
        MetaInstead::Check(args) => check(args, context, out).await,
        MetaInstead::Recover(args) => recover(args, context, out).await,
    }
}

async fn open(url: &str, must_exist: bool) -> Result<OpenEngine, Failure> {
    let there = |dir: PathBuf| dir.join(OpenEngine::MARKER).exists();
    if must_exist && !OpenEngine::dir(url).is_none_or(there) {
        return Err(Failure::at(url, "there is no engine in that directory"));
    }
    OpenEngine::open(url).await.map_err(|error| start_failure(&error))
}

/// Nothing is moved away from under servers, or in between them.
async fn refuse_running(engine: &OpenEngine, url: &str) -> Result<(), Failure> {
    let running = engine.running().await.map_err(|error| Failure::at(url, error))?;
    let Some(first) = running.first() else { return Ok(()) };
    let since = if first.since_ns > 0 { format!(" since {}", text::minute(first.since_ns)) } else { String::new() };
    let more = match running.len() - 1 {
        0 => String::new(),
        more => format!(", and {}", text::count(more as u64, "other")),
    };
    Err(Failure::at(url, format_args!("{first} is at work on it{since}{more}: stop the servers first")))
}

/// How far it is, and how fast.
struct Progress {
    live: Live,
    begun: Instant,
    verb: &'static str,
}

impl Progress {
    fn new(wanted: bool, verb: &'static str) -> Self {
        Self { live: Live::new(wanted), begun: Instant::now(), verb }
    }

    fn words(&self, rows: u64, bytes: u64) -> String {
        let rate = rows as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        format!("{}, {}, {rate:.0} rows/s", text::count(rows, "row"), text::human(bytes))
    }

    fn set(&mut self, rows: u64, bytes: u64) {
        let words = self.words(rows, bytes);
        self.live.set(format_args!("{} {words}", self.verb));
    }

    /// Takes the line away; what there was in all.
    fn end(self, rows: u64, bytes: u64) -> String {
        self.live.finish();
        self.words(rows, bytes)
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Where a dump goes: a file that appears under its name only when it is whole and on disk, or standard output.
enum Target<'a> {
    Stdout(&'a mut Out),
    /// `part` until it is kept.
    File {
        file: File,
        part: PathBuf,
        path: PathBuf,
        kept: bool,
    },
}

impl<'a> Target<'a> {
    fn open(path: &Path, out: &'a mut Out) -> Result<Self, Failure> {
        if is_dash(path) {
            return Ok(Self::Stdout(out));
        }
        if path.exists() {
            return Err(Failure::at(text::path(path), "exists already: choose another name, or remove it"));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&part);
        Ok(Self::File {
            file: file.map_err(|error| Failure::io(&part, &error))?,
            part,
            path: path.to_owned(),
            kept: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(out) => out.bytes(bytes),
            Self::File { file, part, .. } => file.write_all(bytes).map_err(|error| Failure::io(part, &error)),
        }
    }

    /// Brings it to disk, and gives it its name.
    fn keep(&mut self) -> Result<(), Failure> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File { file, part, path, kept } => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let named = file.sync_all().and_then(|()| fs::rename(&part, &path));
                *kept = named.is_ok();
                named.and_then(|()| File::open(parent)?.sync_all()).map_err(|error| Failure::io(&*path, &error))
            }
        }
    }

    fn abandon(self) {
        if let Self::File { part, path, kept, .. } = self {
            // What is left of it has the name of a part, and is written over the next time.
            let _ = fs::remove_file(if kept { path } else { part });
        }
    }
}

async fn dump(args: MetaDump, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let mut progress = Progress::new(!args.quiet, "dumping");
    let mut target = Target::open(&args.output, out)?;
    let made = match &args.engine {
        Some(url) => dump_engine(url, &mut target, &mut progress).await,
        None => dump_server(context, &mut target, &mut progress).await,
    };
    let (rows, bytes) = match made {
        Ok(made) => made,
        Err(failure) => {
            progress.live.finish();
            target.abandon();
            return Err(failure);
        }
    };
    let to_file = matches!(target, Target::File { .. });
    target.keep()?;
    let words = progress.end(rows, bytes);
    if to_file { out.line(format_args!("dumped {words}")) } else { Ok(()) }
}

async fn dump_engine(url: &str, target: &mut Target<'_>, progress: &mut Progress) -> Result<(u64, u64), Failure> {
    let engine = open(url, true).await?;
    let mut dump = engine.dump().await.map_err(|error| Failure::at(url, error))?;
    while let Some(piece) = dump.next().await.map_err(|error| Failure::at(url, error))? {
        target.write(&piece)?;
        progress.set(dump.progress().rows, dump.progress().bytes);
    }
    let made = (dump.progress().rows, dump.progress().bytes);
    drop(dump);
    engine.close().await;
    Ok(made)
}

/// Writes one piece after the other; rows and bytes of all.
async fn write_pieces(
    mut next: impl AsyncFnMut() -> Result<Option<DumpPiece>, Error>,
    target: &mut Target<'_>,
    progress: &mut Progress,
) -> Result<(u64, u64), Failure> {
    let mut made = (0, 0);
    while let Some(piece) = next().await.map_err(|error| Failure::admin(&error))? {
        made = (piece.rows, piece.bytes);
        target.write(&piece.data)?;
        progress.set(piece.rows, piece.bytes);
    }
    Ok(made)
}

async fn dump_server(
    context: &Context,
    target: &mut Target<'_>,
    progress: &mut Progress,
) -> Result<(u64, u64), Failure> {
    let client = context.connect().await?;
    let result = match client.admin().held_dump().await {
        Ok(mut dump) => {
            let made = write_pieces(async || dump.next().await, target, progress).await;
            dump.abandon().await;
            made
        }
        // A cluster whose upgrade is not finalized has no holds yet, and is to be dumped before that.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let mut dump = client.admin().dump();
            let made = write_pieces(async || dump.next().await, target, progress).await;
            dump.cancel().await;
            made
        }
        Err(error) => Err(Failure::admin(&error)),
    };
    client.close().await;
    result
}

async fn load(args: MetaLoad, out: &mut Out) -> Result<(), Failure> {
    let failed = |error: LoadError| Failure::at(text::path(&args.file), error);
    let mut input: Box<dyn Read + Send> = match is_dash(&args.file) {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(&args.file).map_err(|error| Failure::io(&args.file, &error))?),
    };
    let engine = open(&args.engine, false).await?;
    refuse_running(&engine, &args.engine).await?;
    let from = if is_dash(&args.file) { "a dump on standard input".to_owned() } else { text::path(&args.file) };
    let mut loader = engine.loader(&from).await.map_err(|error| Failure::at(&args.engine, error))?;
    let mut progress = Progress::new(!args.quiet, "loading");
    let mut bytes = 0;
    loop {
        let mut buffer = vec![0; READ_LEN];
        let read = tokio::task::block_in_place(|| input.read(&mut buffer));
        match read {
            Ok(0) => break,
            Ok(len) => {
                bytes += len as u64;
                if let Err(error) = loader.feed(&buffer[..len]).await {
                    progress.live.finish();
                    return Err(failed(error));
                }
                progress.set(loader.digest().rows, bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::io(&args.file, &error)),
        }
    }
    progress.live.set("reading everything back");
    let finished = loader.finish().await;
    let (header, digest) = finished.map_err(|error| {
        progress.live.finish();
        failed(error)
    })?;
    engine.close().await;
    let words = progress.end(digest.rows, bytes);
    out.line(format_args!("loaded {words}, as of {}", text::minute(header.taken_ns)))
}

async fn migrate(args: MetaMigrate, out: &mut Out) -> Result<(), Failure> {
    if args.from == args.to {
        return Err(Failure::usage("TO", "is the engine that is to be left"));
    }
    let from = open(&args.from, true).await?;
    let to = open(&args.to, false).await?;
    refuse_running(&from, &args.from).await?;
    refuse_running(&to, &args.to).await?;
    let mut progress = Progress::new(!args.quiet, "moving");
    let moved = from.migrate(&to, |digest| progress.set(digest.rows, digest.bytes)).await;
    let digest = match moved {
        Ok(digest) => digest,
        Err(error) => {
            progress.live.finish();
            return Err(Failure::at(format_args!("{} to {}", args.from, args.to), error));
        }
    };
    to.close().await;
    from.close().await;
    let words = progress.end(digest.rows, digest.bytes);
    out.line(format_args!("moved {words}; both sides read back the same (sum {:016x})", digest.sum))?;
    out.line(format_args!("start the servers on {} now; {} is fenced", args.to, args.from))
}

async fn recover(args: MetaRecover, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let engine = open(&args.engine, false).await?;
    let recovered = engine.recover(&args.from_nodes, context.net()?).await;
    let recovered = recovered.map_err(|error| Failure::at(&args.engine, error))?;
    engine.close().await;
    for failure in &recovered.failures {
        say(format_args!("cairn meta: not used: {failure}"));
    }
    out.line(format_args!(
        "recovered cluster {} from {}: the snapshot of {} ({}), and {} up to commit {} of epoch {}",
        recovered.cluster,
        recovered.addr,
        text::minute(recovered.taken_ns),
        text::count(recovered.rows, "row"),
        text::count(recovered.groups, "later write"),
        recovered.last,
        recovered.epoch,
    ))?;
    out.line(format_args!("start the metadata server on {} now", args.engine))
}

#[derive(Serialize)]
struct CheckJson<'a> {
    healthy: bool,
    rows: u64,
    open: u64,
    repaired: u64,
    defects: Vec<DefectJson<'a>>,
}

#[derive(Serialize)]
struct DefectJson<'a> {
    rule: &'a str,
    what: &'a str,
    remedy: &'a str,
    repaired: bool,
}

/// Findings that are kept to be shown.
const FINDINGS_MAX: usize = 10_000;

async fn check(args: MetaCheck, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let mut progress = Progress::new(!args.quiet, "checking");
    let mut seen = Seen::default();
    match &args.engine {
        Some(url) => check_engine(url, args.repair, &mut seen, &mut progress).await,
        None => check_server(context, args.repair, &mut seen, &mut progress).await,
    }
    .inspect_err(|_| progress.live.finish())?;
    progress.live.finish();
    if args.json {
        let defects = seen.findings.iter().map(|finding| DefectJson {
            rule: &finding.rule,
            what: &finding.what,
            remedy: &finding.remedy,
            repaired: finding.repaired,
        });
        let (healthy, open) = (seen.open == 0, seen.open);
        out.json(&CheckJson { healthy, rows: seen.rows, open, repaired: seen.repaired, defects: defects.collect() })?;
    } else {
        seen.write(args.repair, out)?;
    }
    if seen.open == 0 { Ok(()) } else { Err(Failure::Told) }
}

/// What a check has found.
#[derive(Default)]
struct Seen {
    rows: u64,
    open: u64,
    repaired: u64,
    findings: Vec<RowFinding>,
}

impl Seen {
    fn add(&mut self, rows: u64, findings: impl IntoIterator<Item = RowFinding>) {
        self.rows += rows;
        for finding in findings {
            match finding.repaired {
                true => self.repaired += 1,
                false => self.open += 1,
            }
            if self.findings.len() < FINDINGS_MAX {
                self.findings.push(finding);
            }
        }
    }

    fn write(&self, repair: bool, out: &mut Out) -> Result<(), Failure> {
        for finding in &self.findings {
            let (state, verb) = match (finding.repaired, repair) {
                (true, _) => (" (repaired)", "done"),
                (false, true) => ("", "to do"),
                (false, false) => ("", "with --repair"),
            };
            out.line(format_args!("{}: {}{state}", finding.rule, finding.what))?;
            out.line(format_args!("  {verb}: {}", finding.remedy))?;
        }
        let left_out = self.open + self.repaired - self.findings.len() as u64;
        if left_out > 0 {
            out.line(format_args!("and {}", text::count(left_out, "more defect")))?;
        }
        let rows = text::count(self.rows, "row");
        match (self.open, self.repaired) {
            (0, 0) => out.line(format_args!("healthy: {rows} checked, 0 defects")),
            (0, repaired) => out.line(format_args!("{rows} checked, {} repaired", text::count(repaired, "defect"))),
            (open, 0) => out.line(format_args!("{rows} checked, {}", text::count(open, "defect"))),
            (open, repaired) => {
                out.line(format_args!("{rows} checked, {} left, {repaired} repaired", text::count(open, "defect")))
            }
        }
    }
}

async fn check_engine(url: &str, repair: bool, seen: &mut Seen, progress: &mut Progress) -> Result<(), Failure> {
    let engine = open(url, true).await?;
    let mut cursor = None;
    loop {
        let page = engine.check(cursor.as_ref(), repair).await.map_err(|error| told(url, error))?;
        let finding = |finding: cairn_server::tools::Finding| RowFinding {
            rule: finding.rule,
            what: finding.what,
            remedy: finding.remedy,
            repaired: finding.repaired,
        };
        seen.add(page.rows, page.findings.into_iter().map(finding));
        progress.set(seen.rows, 0);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    engine.close().await;
    Ok(())
}

fn told(url: &str, what: impl Display) -> Failure {
    Failure::at(url, what)
}

async fn check_server(
    context: &Context,
    repair: bool,
    seen: &mut Seen,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let client = context.connect().await?;
    let admin = client.admin();
    let mut cursor = Cursor::default();
    let result = loop {
        match admin.check_rows(repair, &cursor).await {
            Ok(page) => {
                seen.add(page.rows, page.findings);
                progress.set(seen.rows, 0);
                match page.next {
                    Some(next) => cursor = next,
                    None => break Ok(()),
                }
            }
            Err(error) => break Err(Failure::admin(&error)),
        }
    };
    client.close().await;
    result
}
