//! `cairn mount`: the mount itself, in the foreground.

use std::time::Duration;

use cairn_client::{DfsClient, DfsClientBuilder};
use cairn_fuse::{MountError, MountOptions, Mounted};

use crate::{args::Mount, context::Context, failure::Failure, output::Out, signals::Signals};

/// How long who is inside an unmounted mount may take to leave.
const LEAVE_MAX: Duration = Duration::from_secs(60);
/// How long operations of a hard mount wait: for ever, as far as anybody is concerned.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Mounts, and serves the mount until it is gone.
///
/// # Errors
/// The mount point, the device, the cluster: what is wrong with it. Nothing is mounted then.
pub async fn run(args: Mount, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let options = mount_options(&args, context)?;
    let mut signals = Signals::catch()?;
    let builder = if options.hard { waiting_for_ever(DfsClient::builder()) } else { DfsClient::builder() };
    let client = context.connect_as(builder).await?;
    let mounted = cairn_fuse::mount(client.clone(), &args.path, options).await;
    let mut mounted = mounted.map_err(|error| explain(&error))?;
    out.line("ready")?;
    out.flush()?;
    tokio::select! {
        () = mounted.ended() => {}
        () = signals.received() => leave(&mut mounted, &mut signals).await,
    }
    mounted.finish().await;
    client.close().await;
    Ok(())
}

/// Unmounts, and waits for who is inside.
async fn leave(mounted: &mut Mounted, signals: &mut Signals) {
    if let Err(error) = mounted.unmount() {
        tracing::warn!(path = %mounted.path().display(), "cannot unmount: {error}");
    }
    tokio::select! {
        () = mounted.ended() => {}
        () = signals.received() => {}
        () = tokio::time::sleep(LEAVE_MAX) => {}
    }
}

fn waiting_for_ever(builder: DfsClientBuilder) -> DfsClientBuilder {
    builder.read_timeout(FOR_EVER).write_timeout(FOR_EVER).meta_timeout(FOR_EVER)
}

fn mount_options(args: &Mount, context: &Context) -> Result<MountOptions, Failure> {
    let mut options = MountOptions { source: format!("cairn:{}", context.meta()), ..MountOptions::default() };
    for words in &args.options {
        options.apply(words).map_err(|error| Failure::usage("-o", error))?;
    }
    if let Some(root) = &args.root {
        options.root.clone_from(root);
    }
    crate::context::remote_path(&options.root)?;
    if let Some(memory) = args.cache_memory {
        options.cache.memory = memory.0;
    }
    if let (Some(directory), Some(size)) = (&args.cache_dir, args.cache_size) {
        options.cache.directory = Some(directory.clone());
        options.cache.disk = size.0;
    }
    Ok(options)
}

fn explain(error: &MountError) -> Failure {
    match error {
        MountError::Root { what, source } => Failure::client(std::path::Path::new(what), source),
        MountError::Missing { .. } | MountError::NotADirectory { .. } | MountError::RootKind { .. } => {
            Failure::Usage(error.to_string())
        }
        _ => Failure::Failed { message: error.to_string(), general: false },
    }
}
