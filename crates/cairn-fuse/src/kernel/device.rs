//! The open device: requests come out of it, answers and messages go into it.

use super::reply::{self, Answer};
use super::request::{self, Request};
use crate::limits::{MAX_WRITE, REQUEST_HEAD_MAX};
use bytes::Bytes;
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

/// See the module. Everything may be called from many threads at once.
pub struct Device(OwnedFd);

/// What came out.
pub enum Received {
    /// A request.
    Request(Request),
    /// One that cannot be read and was refused.
    Refused,
    /// The mount is gone.
    Gone,
}

impl Device {
    /// Over an open device that belongs to a mount.
    pub fn new(device: impl Into<OwnedFd>) -> Self {
        Self(device.into())
    }

    /// Waits for a request. `buffer` is memory of the caller, to be lent again: what holds a large request is kept by it, and
    /// there is another one afterwards.
    ///
    /// # Errors
    /// Of read(2), where it does not say that the mount is gone or that there was nothing after all.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Received> {
        buffer.clear();
        buffer.reserve_exact(REQUEST_HEAD_MAX + MAX_WRITE as usize);
        loop {
            match rustix::io::read(&self.0, rustix::buffer::spare_capacity(buffer)) {
                Ok(_) => break,
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Received::Gone),
                // The caller was interrupted before the request could be handed out.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if buffer.is_empty() {
            return Ok(Received::Gone);
        }
        // A small request keeps no big buffer.
        let is_small = buffer.len() <= REQUEST_HEAD_MAX;
        let bytes = if is_small { Bytes::copy_from_slice(buffer) } else { Bytes::from(std::mem::take(buffer)) };
        match Request::parse(&bytes) {
            Ok(request) => Ok(Received::Request(request)),
            Err(errno) => {
                tracing::warn!(len = bytes.len(), "the kernel sent a request that cannot be read");
                if let Some(unique) = request::unique_of(&bytes) {
                    self.answer(unique, &Err(errno));
                }
                Ok(Received::Refused)
            }
        }
    }

    /// Answers a request; false when the kernel did not take the answer. That nobody waits for it any more is no error.
    pub fn answer(&self, unique: u64, result: &Result<Answer, Errno>) -> bool {
        match reply::send(unique, result, |parts| self.write(parts)) {
            None | Some(Ok(())) => true,
            Some(Err(Errno::NOENT | Errno::NODEV)) => false,
            Some(Err(error)) => {
                tracing::warn!(unique, "an answer was not taken: {error}");
                // The caller must not wait for ever; should it have got its answer, this one is refused.
                let _ = reply::send(unique, &Err(Errno::IO), |parts| self.write(parts));
                false
            }
        }
    }

    /// Tells the kernel something. That it does not know the inode or name is no error.
    ///
    /// # Errors
    /// Of write(2).
    pub fn tell(&self, message: &[u8]) -> io::Result<()> {
        match self.write(&[IoSlice::new(message)]) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        loop {
            match rustix::io::writev(self.0.as_fd(), parts) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
