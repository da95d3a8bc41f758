//! The lock of the pool, which the `shuttle` tests replace by one that their scheduler controls.

#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(all(test, feature = "shuttle"))]
pub(crate) use scheduled::{Mutex, MutexGuard};

#[cfg(all(test, feature = "shuttle"))]
mod scheduled {
    pub(crate) use shuttle::sync::MutexGuard;

    /// `shuttle`'s lock with the interface of `parking_lot`'s.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a test that panicked is over")
        }
    }
}
