//! Messages to the kernel about what it knows and should forget, sent by one thread of their own: such a message may wait
//! in the kernel for a request that this daemon has to answer, so no thread that answers requests may send it.

use crate::kernel::device::Device;
use crate::kernel::reply;
use crate::limits::MESSAGES_MAX;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

enum Message {
    Attributes(u64),
    Content(u64),
    Name(u64, OsString),
    /// Everything before is done.
    Barrier(oneshot::Sender<()>),
}

/// Where messages are handed in.
#[derive(Clone)]
pub struct Messages(mpsc::Sender<Message>);

impl Messages {
    /// Starts the thread. It ends when the last sender is dropped.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(device: Arc<Device>) -> io::Result<Self> {
        let (sender, mut receiver) = mpsc::channel(MESSAGES_MAX);
        std::thread::Builder::new().name("cairn-messages".to_owned()).spawn(move || {
            while let Some(message) = receiver.blocking_recv() {
                let told = match message {
                    Message::Attributes(inode) => device.tell(&reply::forget_inode(inode, false)),
                    Message::Content(inode) => device.tell(&reply::forget_inode(inode, true)),
                    Message::Name(dir, name) => device.tell(&reply::forget_name(dir, &name)),
                    Message::Barrier(done) => {
                        // Whoever waited may be gone.
                        let _ = done.send(());
                        Ok(())
                    }
                };
                if let Err(error) = told {
                    tracing::warn!("the kernel did not take a message: {error}");
                }
            }
        })?;
        Ok(Self(sender))
    }

    async fn send(&self, message: Message) {
        // At the end of the mount nobody listens, and nothing is known that could be forgotten.
        let _ = self.0.send(message).await;
    }

    /// The kernel asks for the attributes of an inode anew.
    pub async fn forget_attributes(&self, inode: u64) {
        self.send(Message::Attributes(inode)).await;
    }

    /// The kernel asks for attributes and content of an inode anew.
    pub async fn forget_content(&self, inode: u64) {
        self.send(Message::Content(inode)).await;
    }

    /// The kernel asks anew where a name leads.
    pub async fn forget_name(&self, dir: u64, name: OsString) {
        self.send(Message::Name(dir, name)).await;
    }

    /// Returns when everything handed in before has reached the kernel.
    pub async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        self.send(Message::Barrier(done)).await;
        // Dropped at the end of the mount.
        let _ = settled.await;
    }
}
