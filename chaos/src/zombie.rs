//! A writer in a process of its own, which can be frozen in the middle of its writes and go on when its session is over.
//!
//! The process reads commands from its standard input, a line each, and answers on its standard output: `write SEQ` makes
//! a client, opens the file, says `writing`, overwrites every block at once, and says `ended OK FENCED OTHER` when all
//! of them have returned. It begins nothing that it was not told to begin.

use crate::payload::{self, Mark};
use anyhow::{Context, Result, bail, ensure};
use cairn_client::{CreateOptions, DfsClient, ErrorKind, File, OpenOptions};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Bytes of a block of the file.
const BLOCK_LEN: u32 = 64 * 1024;
/// Blocks of the file.
pub const BLOCKS: u64 = 8;
/// Writes of the zombie bear this number of a file, those of the other writer another one.
pub const ZOMBIE: u32 = 1;
/// See [`ZOMBIE`].
pub const SECOND: u32 = 2;
/// What an answer may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// What a write may take: it may have to wait out that its process was frozen.
const DEADLINE: Duration = Duration::from_secs(20);

/// How the writes of one command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// They returned that they are done.
    pub ok: u64,
    /// They were refused because the session is over.
    pub fenced: u64,
    /// They failed otherwise.
    pub other: u64,
}

/// Opens the file that both writers write.
///
/// # Errors
/// Those of the client.
pub async fn open(client: &DfsClient) -> Result<File> {
    let options = OpenOptions::new().attributes(CreateOptions::new().block_len(BLOCK_LEN));
    Ok(client.open_with("/contended", options).await?)
}

/// Overwrites every block at once.
pub async fn write_all(file: &File, mark: Mark) -> Ends {
    let writes = (0..BLOCKS).map(|index| {
        let (file, bytes) = (file.clone(), payload::content(mark, index * u64::from(BLOCK_LEN), BLOCK_LEN as usize));
        tokio::spawn(async move { file.write_block(index, bytes).await })
    });
    let mut ends = Ends::default();
    for write in writes.collect::<Vec<_>>() {
        match write.await {
            Ok(Ok(_)) => ends.ok += 1,
            Ok(Err(error)) if error.kind() == ErrorKind::Fenced => ends.fenced += 1,
            _ => ends.other += 1,
        }
    }
    ends
}

/// Whose write each block shows; `None` where its bytes are not one write's.
///
/// # Errors
/// Those of the client.
pub async fn marks(file: &File) -> Result<Vec<Option<Mark>>> {
    let mut marks = Vec::new();
    for index in 0..BLOCKS {
        let bytes = file.read_block(index).await?;
        let mark = payload::claimed(&bytes);
        marks.push(mark.filter(|mark| payload::wrong_bytes(*mark, index * u64::from(BLOCK_LEN), &bytes) == 0));
    }
    Ok(marks)
}

/// The process: does what it is told until its input ends.
///
/// # Errors
/// The file cannot be opened, or the input is none of its commands.
#[allow(clippy::print_stdout, reason = "its answers go to standard output")]
pub async fn serve(meta: &str) -> Result<()> {
    let mut commands: Lines<BufReader<Stdin>> = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = commands.next_line().await? {
        let Some(seq) = line.strip_prefix("write ").and_then(|seq| seq.parse().ok()) else {
            bail!("{line:?} is not a command");
        };
        let client = DfsClient::builder().meta(meta).name("zombie").write_timeout(DEADLINE).connect().await?;
        let file = open(&client).await?;
        println!("writing");
        let ends = write_all(&file, Mark { file: ZOMBIE, seq }).await;
        println!("ended {} {} {}", ends.ok, ends.fenced, ends.other);
        client.close().await;
    }
    Ok(())
}

/// The process from outside. Dropping kills it.
pub struct Zombie {
    child: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Zombie {
    /// Starts it: this program, as `zombie --meta ADDR`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(meta: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.args(["zombie", "--meta", meta]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting the writer that will be frozen")?;
        let input = child.stdin.take().context("it has no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("it has no standard output")?).lines();
        Ok(Self { child, input, answers })
    }

    /// Tells it to write and waits until it does.
    ///
    /// # Errors
    /// It ended, or took too long.
    pub async fn write(&mut self, seq: u32) -> Result<()> {
        self.input.write_all(format!("write {seq}\n").as_bytes()).await?;
        let answer = self.answer().await?;
        ensure!(answer == "writing", "the zombie says {answer:?}");
        Ok(())
    }

    /// Waits until its writes have returned.
    ///
    /// # Errors
    /// It ended, or took too long.
    pub async fn ended(&mut self) -> Result<Ends> {
        let answer = self.answer().await?;
        let numbers: Vec<u64> = answer.split(' ').skip(1).filter_map(|number| number.parse().ok()).collect();
        match numbers[..] {
            [ok, fenced, other] if answer.starts_with("ended ") => Ok(Ends { ok, fenced, other }),
            _ => bail!("the zombie says {answer:?}"),
        }
    }

    async fn answer(&mut self) -> Result<String> {
        let line = timeout(PATIENCE, self.answers.next_line()).await.context("the zombie says nothing")?;
        line?.context("the zombie has ended")
    }

    /// Freezes it (SIGSTOP), or lets it go on (SIGCONT).
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("the zombie has ended")?;
        Ok(kill_process(pid, if frozen { Signal::STOP } else { Signal::CONT })?)
    }
}
