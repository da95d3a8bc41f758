//! `cairn explain`: does one read or one write and says where its time went, leg by leg.
//!
//! Nothing of the user's is changed: a write goes to a scratch file in the directory of PATH, which is removed again.

mod json;
mod text;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cairn_client::{Content, DfsClient, Error, FileKind, OpenOptions, Record};

use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::{Out, say},
};

/// Bytes that are read when nothing says how many, if the file has them.
const READ_LEN: u64 = 4 << 20;
/// Bytes that are written when nothing says how many: more than metadata keeps by itself, so that nodes are asked.
const WRITE_LEN: u64 = 1 << 20;
/// Most bytes of one operation: they are held in memory.
const LEN_MAX: u64 = 1 << 30;

/// What was done, and what became of it.
pub struct Explained {
    pub operation: &'static str,
    pub path: PathBuf,
    pub offset: u64,
    /// Bytes asked for; what was read may be less, at the end of the file.
    pub len: u64,
    /// Bytes read or written; why not.
    pub result: Result<u64, String>,
    pub took: Duration,
    /// Of that, checksums in this process; legs that work at once add up.
    pub checksum: Duration,
    pub records: Vec<Record>,
}

/// Runs the command.
pub async fn run(args: args::Explain, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let (operation, args) = match args.what {
        args::ExplainWhat::Read(args) => ("read", args),
        args::ExplainWhat::Write(args) => ("write", args),
    };
    remote_path(&args.path)?;
    let offset = args.offset.map_or(0, |offset| offset.0);
    let len = args.len.map(|len| len.0);
    if let Some(len) = len.filter(|len| *len == 0 || *len > LEN_MAX) {
        return Err(Failure::usage(format_args!("--len {len}"), "1 byte to 1G are allowed"));
    }
    let client = context.connect_recording().await?;
    let explained = match operation {
        "read" => read(&client, &args.path, offset, len).await,
        _ => write(&client, &args.path, offset, len.unwrap_or(WRITE_LEN)).await,
    };
    client.close().await;
    let explained = explained?;
    if args.json {
        out.json(&json::of(&explained))?
    } else {
        text::write(&explained, out)?
    }
    match explained.result {
        Ok(_) => Ok(()),
        // Said in the explanation, and once more where failures are looked for.
        Err(why) => Err(Failure::at(crate::text::path(&explained.path), why)),
    }
}

async fn read(client: &DfsClient, path: &Path, offset: u64, len: Option<u64>) -> Result<Explained, Failure> {
    let failed = |error: Error| Failure::client(path, &error);
    let file = client.open_with(path, OpenOptions::new().create(false)).await.map_err(failed)?;
    let size = file.len().await.map_err(failed)?;
    let len = len.unwrap_or(size.saturating_sub(offset).min(READ_LEN));
    let count = usize::try_from(len).expect("bounded by LEN_MAX");
    let work = async { file.read_at(offset, count).await.map(|bytes| bytes.len() as u64) };
    Ok(explain(client, "read", path, (offset, len), work).await)
}

async fn write(client: &DfsClient, path: &Path, offset: u64, len: u64) -> Result<Explained, Failure> {
    let scratch = scratch_path(client, path).await;
    let failed = |error: Error| Failure::client(&scratch, &error);
    let file = client.open_with(&scratch, OpenOptions::new().create_new(true)).await.map_err(failed)?;
    let count = usize::try_from(len).expect("bounded by LEN_MAX");
    let content: Content = vec![0xa5; count].into();
    let work = async { file.write_at(offset, content).await.map(|_| len) };
    let explained = explain(client, "write", &scratch, (offset, len), work).await;
    if let Err(error) = client.remove_file(&scratch).await {
        say(format_args!("cairn explain: {}: is left behind: {error}", crate::text::path(&scratch)));
    }
    Ok(explained)
}

/// Beside `path`, or inside when it is a directory, under a name that nobody has.
async fn scratch_path(client: &DfsClient, path: &Path) -> PathBuf {
    let is_dir = client.metadata(path).await.is_ok_and(|found| found.kind == FileKind::Directory);
    let dir = if is_dir { path } else { path.parent().unwrap_or(path) };
    dir.join(format!(".cairn-explain-{}-{}", std::process::id(), uniquely()))
}

/// A number that the next process of this id does not have.
fn uniquely() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_nanos())
}

/// Runs `work` and takes what was recorded meanwhile.
async fn explain(
    client: &DfsClient,
    operation: &'static str,
    path: &Path,
    (offset, len): (u64, u64),
    work: impl Future<Output = Result<u64, Error>>,
) -> Explained {
    // What came before is of no interest.
    let _ = client.take_records();
    let begun = Instant::now();
    let result = work.await.map_err(|error| error.to_string());
    let took = begun.elapsed();
    let (records, checksum) = client.take_records();
    Explained { operation, path: path.to_owned(), offset, len, result, took, checksum, records }
}
