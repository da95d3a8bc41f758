//! Threads for what no user waits for: copies, scrubs, comparisons. The system gives them a processor when nobody else
//! wants one, so that a request does not queue behind blocks that are being copied.

use rustix::process::setpriority_process;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::failure::Failure;

/// Niceness of these threads: about a tenth of the processor time of a thread of requests, when both want one
/// (sched(7): 1.25 per step).
const NICE: i32 = 10;

/// A runtime of low priority. Dropped, its tasks end at their next pause, without being waited for.
pub struct Background(Option<Runtime>);

impl Background {
    /// Starts it, with a thread for each second processor.
    pub fn start() -> Result<Self, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .worker_threads(cores.div_ceil(2))
            .thread_name("cairn-background")
            .on_thread_start(|| {
                // On Linux this is about the calling thread alone. Refused, copies merely are not behind requests.
                let _ = setpriority_process(None, NICE);
            })
            .build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|error| Failure::at("the runtime of background work", error))
    }

    /// To spawn on.
    pub fn handle(&self) -> Option<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
