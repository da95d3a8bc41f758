//! Integration tests of the store: behaviour on a real disk, crashes on a simulated one, damage, properties.

mod basics;
mod crash;
mod damage;
mod faults;
mod model;
mod sim_disk;
mod support;
mod threads;
