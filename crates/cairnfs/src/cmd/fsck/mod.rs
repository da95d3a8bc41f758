//! `cairn fsck`: metadata, groups and what nodes hold, checked against each other while work goes on.
//!
//! Nothing that is read is one snapshot, so the order does the work. Runs are read first, then what nodes hold: a block
//! that a file needed is on its members by then, or a degraded row says that it is not. What looks wrong is asked about
//! again in that order, and metadata then says whether a file still refers to it; only what holds with the group unchanged
//! from before to after is a defect. Blocks are never named twice and never change, so a live one that is missing at one
//! moment is missing.
//!
//! Memory is bounded by runs, not blocks: files are checked in windows of their numbers, groups a few at a time.

mod ask;
mod check;
mod compare;
mod dropped;
mod findings;
mod names;
mod rules;
mod spans;
mod words;

use std::time::Instant;

use check::Check;

use super::live::Live;
use crate::{args, context::Context, failure::Failure, output::Out};

/// Runs the command.
pub async fn run(args: args::Fsck, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let begun = Instant::now();
    let client = context.connect().await?;
    let mut check = Check::new(&client, &args, Live::new(!args.quiet));
    let result = check.run().await;
    let mut report = check.finish();
    let named = match &result {
        Ok(()) => {
            let nameless = report.nameless();
            names::find(&client, nameless, &mut Live::new(!args.quiet)).await
        }
        Err(_) => Ok(Default::default()),
    };
    client.close().await;
    result?;
    report.names = named?;
    report.took = begun.elapsed();
    report.sort();
    if args.json {
        report.write_json(out)?;
    } else {
        report.write(out)?;
    }
    if report.open() == 0 { Ok(()) } else { Err(Failure::Told) }
}
