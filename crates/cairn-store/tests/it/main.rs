//! Integration tests of the store: behaviour on a real disk, crashes on a simulated one, damage, properties.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and look at files behind the store's back"
)]

mod basics;
mod corpus;
mod crash;
mod damage;
mod faults;
mod inspect;
mod model;
mod process;
mod scrub;
mod sim_disk;
mod space;
mod support;
mod threads;
