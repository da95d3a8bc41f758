//! `cairn-chaos`: runs scenarios.

fn main() {}
