//! Integration tests of the store: behaviour on a real disk, crashes on a simulated one, damage, properties.

mod basics;
mod crash;
mod sim_disk;
mod support;
