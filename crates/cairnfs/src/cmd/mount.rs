//! `cairn mount`: the process that serves a mount. How it is started and watched: mount/.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cairn_cache::{CacheOptions, LocalCache};
use cairn_client::{DfsClient, DfsClientBuilder, RetryPolicy};
use cairn_fuse::{MountError, MountOptions};
use tokio::time::timeout;

use crate::{
    args::Mount,
    context::Context,
    failure::Failure,
    mount::{self, How, READY_LINE},
    output::{Out, say},
    signals::Signals,
    up::show,
};

/// How long who is inside an unmounted mount may take to leave when it is to end.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How long operations of a hard mount wait: for ever, as far as anybody is concerned.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long operations of other mounts wait for servers that are away or restart.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a hard mount, rounds go on for so long; beyond, only what waits for a server that is known to be away goes on to wait.
const HARD_ROUNDS: Duration = Duration::from_secs(24 * 3600);
/// Memory for blocks, and bytes of a local disk, when nothing says otherwise.
const CACHE_MEMORY: u64 = 256 << 20;
const CACHE_SIZE: u64 = 10 << 30;

/// Mounts, and serves the mount until it is gone.
///
/// # Errors
/// The mount point, the device, the cluster: what is wrong with it. Nothing is mounted then.
pub async fn run(args: Mount, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let options = mount_options(&args, context)?;
    let cache = Arc::new(LocalCache::new(cache_options(&args)?));
    let mut signals = Signals::catch()?;
    let (point, _claim) = mount::take(&args.path).await?;
    let builder = DfsClient::builder().block_cache(cache.clone()).count_links(true);
    // Only where it is asked for: otherwise each file's policy says it.
    let builder = if options.relaxed { builder.relaxed(true) } else { builder };
    let builder = patient(builder, options.hard);
    let connect = async {
        // Who mounts is told soon that there is no cluster; only a mount that answered once has patience.
        context.connect().await?.close().await;
        context.connect_as(builder).await
    };
    let client = tokio::select! {
        client = connect => client?,
        () = signals.received() => return Err(Failure::Interrupted),
    };
    // What a server that died left here goes at the last moment: until now it kept everybody out of the directory below.
    mount::clear(&point).map_err(|error| Failure::io(&point, &error))?;
    let mounted = cairn_fuse::mount(client.clone(), &point, options).await;
    let mut mounted = mounted.map_err(|error| explain(&error))?;
    show(out, READY_LINE)?;
    if let Err(error) = mount::tell_systemd() {
        tracing::warn!("nobody could be told that the mount answers: {error}");
    }
    tokio::select! {
        () = mounted.ended() => {}
        () = signals.received() => {
            tokio::select! {
                () = leave(point) => {}
                // Who asks twice does not want to wait.
                () = signals.received() => {}
            }
            // What is in the kernel has been written; programs that hold files get a moment.
            let _ = timeout(LEAVE_MAX, mounted.ended()).await;
        }
    }
    mounted.finish().await;
    client.close().await;
    cache.settle().await;
    tracing::info!(cache = ?cache.stats(), "the mount has ended");
    Ok(())
}

/// Unmounts; lazily when somebody uses the mount.
async fn leave(point: PathBuf) {
    let unmount = move || match mount::unmount(&point, How::IfUnused) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => mount::unmount(&point, How::Lazily),
        other => other,
    };
    match tokio::task::spawn_blocking(unmount).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => say(format_args!("cairn mount: cannot unmount: {error}")),
        Err(error) => say(format_args!("cairn mount: cannot unmount: {error}")),
    }
}

/// Programs on a mount do not try again as callers of the library may: their operations go through as many rounds as fit
/// into their deadline.
fn patient(builder: DfsClientBuilder, hard: bool) -> DfsClientBuilder {
    let (timeout, rounds) = if hard { (FOR_EVER, HARD_ROUNDS) } else { (PATIENCE, PATIENCE) };
    let RetryPolicy { mut pauses, jitter } = RetryPolicy::default();
    let last = pauses.last().copied().unwrap_or(Duration::from_secs(1));
    pauses.resize(pauses.len() + (rounds.as_secs_f64() / last.as_secs_f64()) as usize, last);
    builder.retry(RetryPolicy { pauses, jitter }).read_timeout(timeout).write_timeout(timeout).meta_timeout(timeout)
}

fn mount_options(args: &Mount, context: &Context) -> Result<MountOptions, Failure> {
    let mut options = MountOptions { source: String::new(), ..MountOptions::default() };
    for words in &args.options {
        options.apply(words).map_err(|error| Failure::usage("-o", error))?;
    }
    if let Some(root) = &args.root {
        options.root.clone_from(root);
    }
    crate::context::remote_path(&options.root)?;
    if let Some(source) = &args.source {
        options.source.clone_from(source);
    }
    if options.source.is_empty() {
        let root = options.root.to_string_lossy();
        options.source = format!("{}{}", context.meta(), if root == "/" { "" } else { &root });
    }
    Ok(options)
}

fn cache_options(args: &Mount) -> Result<CacheOptions, Failure> {
    let memory = args.cache_memory.map_or(CACHE_MEMORY, |size| size.0);
    let Some(dir) = &args.cache_dir else { return Ok(CacheOptions { memory, disk: None }) };
    let size = args.cache_size.map_or(CACHE_SIZE, |size| size.0);
    if size < cairn_cache::limits::DISK_SIZE_MIN {
        return Err(Failure::usage("--cache-size", "at least 16MiB are needed"));
    }
    let dir = std::path::absolute(dir).map_err(|error| Failure::io(dir, &error))?;
    Ok(CacheOptions { memory, disk: Some((dir, size)) })
}

fn explain(error: &MountError) -> Failure {
    match error {
        MountError::Root { what, source } => Failure::client(Path::new(what), source),
        _ => Failure::Failed { message: error.to_string(), general: false },
    }
}
