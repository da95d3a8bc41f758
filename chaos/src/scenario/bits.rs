//! AC10: bits that flip on the way and on disk.

use super::{Form, Scenario};
use crate::bits::{self, Settings};
use crate::report::Outcome;

/// Beyond the table: that flips hit data and heads, and hardly any an answer that nobody read.
const AC10: &str = ".wrong_bytes==0 and .detected==.injected and .reported_with_node==.injected and .failed==0 and \
                    .injected>=11000 and .on_disk>=1000 and .in_data>=1000 and .anywhere>=1000 and \
                    .connections_closed>0 and .unread<=0.01*.injected";
const AC10_SHORT: &str = ".wrong_bytes==0 and .detected==.injected and .reported_with_node==.injected and .failed==0 \
                          and .injected>=120 and .on_disk>=20 and .in_data>0 and .anywhere>0";

/// See the module.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "AC10",
    about: "one bit flipped in each of 10,000 answers and in one replica of each of 1,000 blocks on disk",
    criterion: AC10,
    short: AC10_SHORT,
    families: &["flip_bit"],
    ci: true,
    run: |context| {
        let seed = context.seed;
        let settings = match context.form {
            Form::Full => Settings { seed, on_the_way: 10_000, on_disk: 1_000 },
            Form::Short => Settings { seed, on_the_way: 100, on_disk: 20 },
        };
        Box::pin(async move {
            let cluster = context.cluster(3).await?;
            let fields = bits::run(&cluster, settings).await?;
            let mut outcome = Outcome { fired: cluster.fired(), ..Outcome::default() };
            outcome.extend(&fields)?;
            Ok(outcome)
        })
    },
}];
