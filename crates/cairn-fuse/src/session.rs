//! A mount from the first request to the last: threads take requests from the kernel, tasks answer them.

use crate::changes;
use crate::face::Face;
use crate::kernel::abi::{self, init};
use crate::kernel::device::{Device, Received};
use crate::kernel::mount::{self, MountAsk, MountError};
use crate::kernel::reply::{self, Answer};
use crate::kernel::request::{Op, Request};
use crate::limits::{
    BACKGROUND, DRAIN_MAX, FLUSH_INTERVAL, HARD_PAUSE, INTERRUPT_GRACE, MAX_WRITE, READ_AHEAD, THREADS_MAX,
};
use crate::messages::Messages;
use crate::options::MountOptions;
use cairn_client::{DfsClient, Place};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Waker};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Capabilities of the kernel that are used where it has them.
const WANTED: u64 = init::ASYNC_READ
    | init::POSIX_LOCKS
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::FLOCK_LOCKS
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::POSIX_ACL
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::EXPLICIT_INVAL_DATA
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT
    | init::INIT_EXT
    | init::DIRECT_IO_ALLOW_MMAP;

/// A mounted file system. It stays mounted when this is dropped; see [`Mounted::unmount`].
pub struct Mounted {
    path: PathBuf,
    face: Arc<Face>,
    /// Threads that are still taking requests.
    running: watch::Receiver<usize>,
    upkeep: CancellationToken,
}

/// What all threads of a mount share.
struct Session {
    device: Arc<Device>,
    face: Arc<Face>,
    runtime: tokio::runtime::Handle,
    /// Requests under way, each with what ends it early.
    under_way: Mutex<HashMap<u64, CancellationToken>>,
}

/// Mounts a directory of CairnFS at `path`; when it returns, the mount answers. Has to be called inside a runtime, which
/// then runs the operations.
///
/// # Errors
/// See [`MountError`]. Nothing is mounted then.
pub async fn mount(client: DfsClient, path: &Path, options: MountOptions) -> Result<Mounted, MountError> {
    let path = mount::check_mount_point(path)?;
    let root = find_root(&client, &options).await?;
    let ask = MountAsk {
        source: options.source.clone(),
        allow_other: options.allow_other,
        default_permissions: true,
        flags: options.flags,
        max_read: MAX_WRITE,
    };
    let device = Arc::new(Device::new(mount::mount(&path, &ask)?));
    let started = begin(&device, &path).and_then(|()| start(client, device, root, &path, options));
    if started.is_err() {
        // Nobody can have been told anything: it is as if there had been no mount.
        let _ = mount::unmount(&path);
    }
    started
}

/// Starts what answers and what looks after a mount.
fn start(
    client: DfsClient,
    device: Arc<Device>,
    root: u64,
    path: &Path,
    options: MountOptions,
) -> Result<Mounted, MountError> {
    let ended = |source| MountError::Ended { path: path.to_path_buf(), source };
    let messages = Messages::start(device.clone()).map_err(ended)?;
    let face = Arc::new(Face::new(client.clone(), root, options, messages));
    mount::read_ahead(path, READ_AHEAD / 1024);
    let session = Arc::new(Session {
        device,
        face: face.clone(),
        runtime: tokio::runtime::Handle::current(),
        under_way: Mutex::default(),
    });
    let (running, watched) = watch::channel(0);
    let running = Arc::new(running);
    let count = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, THREADS_MAX);
    for index in 0..count {
        let (session, running) = (session.clone(), running.clone());
        running.send_modify(|running| *running += 1);
        std::thread::Builder::new()
            .name(format!("cairn-fuse-{index}"))
            .spawn(move || {
                session.serve();
                running.send_modify(|running| *running -= 1);
            })
            .map_err(ended)?;
    }
    let upkeep = CancellationToken::new();
    if !face.is_strict() {
        tokio::spawn(changes::follow(client, face.clone(), upkeep.clone()));
    }
    tokio::spawn(keep_up(face.clone(), upkeep.clone()));
    Ok(Mounted { path: path.to_path_buf(), face, running: watched, upkeep })
}

/// The inode of the directory that is to be the mount's root.
async fn find_root(client: &DfsClient, options: &MountOptions) -> Result<u64, MountError> {
    let what = options.root.display().to_string();
    match client.metadata(Place::from(options.root.as_path())).await {
        Ok(metadata) if metadata.is_dir() => Ok(metadata.inode),
        Ok(_) => Err(MountError::RootKind { what }),
        Err(source) => Err(MountError::Root { what, source }),
    }
}

/// Answers INIT: what both sides can do.
fn begin(device: &Device, path: &Path) -> Result<(), MountError> {
    let ended = |source| MountError::Ended { path: path.to_path_buf(), source };
    let mut buffer = Vec::new();
    loop {
        let request = match device.receive(&mut buffer).map_err(ended)? {
            Received::Request(request) => request,
            Received::Refused => continue,
            Received::Gone => return Err(ended(io::Error::from(Errno::NODEV))),
        };
        let Op::Init { major, minor, max_read_ahead, flags } = request.op else {
            device.answer(request.unique, &Err(Errno::IO));
            continue;
        };
        if major != abi::MAJOR || minor < abi::MINOR_MIN {
            device.answer(request.unique, &Err(Errno::PROTO));
            return Err(MountError::Version { major, minor });
        }
        let answer = reply::init(&reply::Init {
            minor: minor.min(abi::MINOR),
            max_read_ahead: max_read_ahead.min(READ_AHEAD),
            flags: flags & WANTED,
            background: BACKGROUND,
            max_write: MAX_WRITE,
        });
        device.answer(request.unique, &Ok(answer));
        return Ok(());
    }
}

/// Commits what has waited long enough, until the mount ends.
async fn keep_up(face: Arc<Face>, end: CancellationToken) {
    let mut ticks = tokio::time::interval(FLUSH_INTERVAL);
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            _ = ticks.tick() => face.flush_old().await,
        }
    }
}

impl Session {
    /// Takes requests until the mount is gone.
    fn serve(self: &Arc<Self>) {
        let mut buffer = Vec::new();
        loop {
            match self.device.receive(&mut buffer) {
                Ok(Received::Request(request)) => self.take(request),
                Ok(Received::Refused) => {}
                Ok(Received::Gone) => return,
                Err(error) => {
                    tracing::error!("the mount ends: {}: {error}", crate::system::DEVICE);
                    return;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, request: Request) {
        match request.op {
            Op::Interrupt { unique } => self.interrupt(request.unique, unique),
            Op::Destroy => {
                self.device.answer(request.unique, &Ok(Answer::Empty));
            }
            _ => {
                let end = CancellationToken::new();
                self.under_way.lock().insert(request.unique, end.clone());
                let pending = Pending { session: self.clone(), unique: request.unique };
                let mut task = Box::pin(async move {
                    let is_lock = matches!(request.op, Op::SetLock { wait: true, .. });
                    let result = tokio::select! {
                        biased;
                        result = persist(&pending.session.face, &request) => result,
                        () = interrupted(&end, is_lock) => Err(Errno::INTR),
                    };
                    pending.answer(&result);
                });
                // Much is answered from memory: then no other thread has to be woken for it.
                let _runtime = self.runtime.enter();
                if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                    self.runtime.spawn(task);
                }
            }
        }
    }

    fn interrupt(&self, message: u64, unique: u64) {
        match self.under_way.lock().get(&unique) {
            Some(end) => end.cancel(),
            // Done, or another thread is just taking it: the kernel asks again while it waits.
            None => {
                self.device.answer(message, &Err(Errno::AGAIN));
            }
        }
    }
}

/// Does what is asked; on a hard mount again and again while the cluster does not answer: what timed out had no effect.
async fn persist(face: &Face, request: &Request) -> Result<Answer, Errno> {
    loop {
        match face.answer(request).await {
            Err(Errno::TIMEDOUT) if face.is_hard() => tokio::time::sleep(HARD_PAUSE).await,
            result => return result,
        }
    }
}

/// Returns when an operation that was interrupted is to be given up: a wait for a lock at once, everything else when it has
/// not ended by itself in a while.
async fn interrupted(end: &CancellationToken, is_lock: bool) {
    end.cancelled().await;
    if !is_lock {
        tokio::time::sleep(INTERRUPT_GRACE).await;
    }
}

/// A request that has to be answered, whatever becomes of its task.
struct Pending {
    session: Arc<Session>,
    unique: u64,
}

impl Pending {
    fn answer(self, result: &Result<Answer, Errno>) {
        self.session.under_way.lock().remove(&self.unique);
        let taken = self.session.device.answer(self.unique, result);
        if !taken || matches!(result, Err(Errno::INTR)) {
            self.session.face.not_told();
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Still there: nobody has answered, because the task was ended by a defect or by the runtime.
        if self.session.under_way.lock().remove(&self.unique).is_some() {
            self.session.device.answer(self.unique, &Err(Errno::IO));
        }
    }
}

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns when the kernel has let go of the mount: somebody unmounted it, or aborted it.
    pub async fn ended(&mut self) {
        // The sender lives in the threads.
        let _ = self.running.wait_for(|running| *running == 0).await;
    }

    /// Takes the mount away: nobody finds it any more; who is inside may finish.
    ///
    /// # Errors
    /// Of umount(2).
    pub fn unmount(&self) -> io::Result<()> {
        mount::unmount(&self.path)
    }

    /// Commits what was written, at the end of everything.
    pub async fn finish(self) {
        self.upkeep.cancel();
        if tokio::time::timeout(DRAIN_MAX, self.face.drain()).await.is_err() {
            tracing::error!("what was written last could not be committed within {DRAIN_MAX:?}");
        }
    }
}
