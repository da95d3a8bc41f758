//! What the model must show.

use super::*;

/// Latencies and outcomes of the operations that began in a window.
struct View {
    latencies: Vec<Duration>,
    failed: usize,
    legs_per_op: f64,
}

impl View {
    fn of(sim: &Sim, window: std::ops::Range<Duration>) -> Self {
        let ops: Vec<&Op> = sim.ops.iter().filter(|op| window.contains(&op.begun)).collect();
        let legs = sim.legs.iter().filter(|leg| window.contains(&leg.begun)).count();
        let done = ops.iter().filter(|op| op.ok);
        let mut latencies: Vec<Duration> = done.filter_map(|op| Some(op.ended? - op.begun)).collect();
        latencies.sort_unstable();
        let failed = ops.iter().filter(|op| !op.ok).count();
        Self { latencies, failed, legs_per_op: legs as f64 / ops.len().max(1) as f64 }
    }

    fn at(&self, q: f64) -> Duration {
        let rank = (q * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).copied().unwrap_or(Duration::MAX)
    }

    fn p99_ms(&self) -> f64 {
        self.at(0.99).as_secs_f64() * 1e3
    }
}

struct Shown {
    healthy: View,
    /// First two seconds of the fault.
    f0: View,
    /// The rest of it.
    f2: View,
    after: View,
    sim: Sim,
}

const SEEDS: [u64; 3] = [1, 2, 3];

fn show(name: &str, seed: u64, troubles: [Trouble; NODES], deadline: Duration) -> Shown {
    let sim = Sim::run(seed, troubles, deadline);
    let view = |from: u64, to: u64| View::of(&sim, Duration::from_secs(from)..Duration::from_secs(to));
    let shown = Shown { healthy: view(1, 10), f0: view(10, 12), f2: view(12, 30), after: view(31, 38), sim };
    let row = |view: &View| {
        let ms = |q| if view.latencies.is_empty() { f64::NAN } else { view.at(q).as_secs_f64() * 1e3 };
        let (p99, p999) = (ms(0.99), ms(0.999));
        format!("p99 {p99:8.2} p99.9 {p999:8.2} ms, failed {:5}, legs/op {:.3}", view.failed, view.legs_per_op)
    };
    println!("{name} (seed {seed})");
    println!("  healthy {}", row(&shown.healthy));
    println!("  f0      {}", row(&shown.f0));
    println!("  f2      {}", row(&shown.f2));
    println!("  after   {}", row(&shown.after));
    let c = &shown.sim.counters;
    println!(
        "  hedges {} (refused {}) timers {} failovers {} opened {} probes {} parked {} shed {}",
        c.hedges,
        shown.sim.hedges.refused(),
        c.timers,
        c.failovers,
        c.opened,
        c.probes,
        shown.sim.parking.total(),
        shown.sim.parking.shed(),
    );
    shown
}

const READ_DEADLINE: Duration = Duration::from_secs(30);

/// What holds whatever one of three replicas does.
fn assert_unnoticed(shown: &Shown) {
    let Shown { healthy, f0, f2, after, sim } = shown;
    assert_eq!(healthy.failed + f0.failed + f2.failed + after.failed, 0);
    assert!(f2.p99_ms() <= 1.5 * healthy.p99_ms() + 1.0);
    assert!(f0.p99_ms() <= 60.0);
    assert!(f2.legs_per_op <= 1.10);
    assert!(after.p99_ms() <= 1.5 * healthy.p99_ms() + 1.0);
    assert!(sim.counters.hedges as f64 <= 0.05 * sim.ops.len() as f64 + 32.0);
    assert_eq!((sim.hedges.in_flight(), sim.hedges.bytes_in_flight()), (0, 0));
    assert!(sim.nodes.iter().all(|node| node.flights.is_empty()));
}

#[test]
fn one_black_hole_of_three() {
    for seed in SEEDS {
        let shown = show("black hole", seed, [Trouble::BlackHole, Trouble::None, Trouble::None], READ_DEADLINE);
        assert_unnoticed(&shown);
        assert_eq!(shown.sim.counters.opened, 1);
        assert!(shown.sim.counters.probes <= 12);
        // It takes part again after the fault.
        let legs = shown.sim.legs.iter().filter(|leg| leg.node == 0 && leg.begun > Duration::from_secs(37)).count();
        assert!(legs > 30, "{legs} legs in the last second");
    }
}

#[test]
fn one_slow_of_three() {
    for seed in SEEDS {
        let shown =
            show("+200 ms on one", seed, [Trouble::Slow(200 * MS), Trouble::None, Trouble::None], READ_DEADLINE);
        assert_unnoticed(&shown);
        assert_eq!(shown.sim.counters.opened, 0, "slowness never trips");
    }
}

#[test]
fn one_refuses_of_three() {
    for seed in SEEDS {
        let shown = show("refuses", seed, [Trouble::Refuses, Trouble::None, Trouble::None], READ_DEADLINE);
        assert_unnoticed(&shown);
        // A node that fails fast does not attract requests.
        assert!(shown.sim.counters.failovers <= 20);
    }
}

#[test]
fn all_slow() {
    for seed in SEEDS {
        let Shown { healthy, f0, f2, after, sim } =
            show("+200 ms on all", seed, [Trouble::Slow(200 * MS); 3], READ_DEADLINE);
        assert_eq!(healthy.failed + f0.failed + f2.failed + after.failed, 0);
        assert!(f2.p99_ms() <= 200.0 + 2.0 * healthy.p99_ms());
        assert!(f2.legs_per_op <= 1.06);
        assert!(f0.legs_per_op <= 1.20, "no flood while the timers learn");
        assert_eq!(sim.counters.opened, 0);
    }
}

#[test]
fn all_dead() {
    for seed in SEEDS {
        let Shown { f2, after, sim, .. } = show("all dead", seed, [Trouble::BlackHole; 3], Duration::from_secs(10));
        assert!(f2.legs_per_op <= 0.1);
        assert_eq!(sim.counters.opened, 3);
        let first = sim.ops.iter().filter(|op| op.ok).filter_map(|op| op.ended).find(|ended| *ended > FAULT.end);
        let after_heal = first.expect("reads succeed again") - FAULT.end;
        println!("  first success {after_heal:.1?} after the heal");
        assert!(after_heal <= 1500 * MS);
        // At most 4 probes per second and node.
        assert!(sim.counters.probes <= 20 * 4 * 3);
        // What was parked comes back in batches, beside some 20 reads that arrive in the same time.
        let batch =
            |from: u64| -> u64 { sim.counters.legs_by_ms.range(from..from + 10).map(|(_, count)| *count).sum() };
        let worst = (30_000..33_000).map(batch).max().expect("some");
        println!("  at most {worst} legs within 10 ms of the heal");
        assert!(worst <= 64 + 40);
        let healed = View::of(&sim, FAULT.end..FAULT.end + Duration::from_secs(3));
        assert_eq!(healed.failed, 0, "whoever comes after the heal is served");
        assert_eq!(after.failed, 0);
        assert!(sim.nodes.iter().all(|node| node.breaker.is_closed()));
        assert!(after.legs_per_op > 1.02, "all replicas are back: reads are hedged again");
    }
}

/// What a literal reading of "three attempts of 5 s, each at another replica" gives, for contrast.
#[test]
fn three_attempts_of_five_seconds() {
    for seed in SEEDS {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut latency = || {
            let mut order = [Trouble::BlackHole, Trouble::None, Trouble::None];
            rng.shuffle(&mut order);
            let lost = order.iter().take_while(|trouble| **trouble == Trouble::BlackHole).count();
            Duration::from_secs(5) * lost as u32 + Sim::service(&mut rng)
        };
        let mut latencies: Vec<Duration> = (0..20_000).map(|_| latency()).collect();
        latencies.sort_unstable();
        let p99 = latencies[latencies.len() * 99 / 100];
        println!("literal, one black hole of three (seed {seed}): p99 {p99:.1?}");
        assert!(p99 >= Duration::from_secs(5));
    }
}

/// The model is what it claims to be: the same seed gives the same history.
#[test]
fn a_seed_is_a_history() {
    let history = || {
        let sim = Sim::run(7, [Trouble::BlackHole, Trouble::None, Trouble::Slow(20 * MS)], READ_DEADLINE);
        sim.legs.iter().map(|leg| (leg.node, leg.begun)).collect::<Vec<_>>()
    };
    assert!(history() == history());
}

#[test]
fn two_black_holes_of_three() {
    let Shown { healthy, f0, f2, after, sim } =
        show("two black holes", 1, [Trouble::BlackHole, Trouble::BlackHole, Trouble::None], READ_DEADLINE);
    assert_eq!(healthy.failed + f0.failed + f2.failed + after.failed, 0);
    assert!(f0.p99_ms() <= 600.0, "a hedge may hit the other dark one: then it takes until their silence is noticed");
    assert!(f2.p99_ms() <= 2.0 * healthy.p99_ms() + 1.0, "no hedges are left, but nothing else is missing");
    assert!(f2.legs_per_op <= 1.01);
    assert_eq!(sim.counters.opened, 2);
}

#[test]
fn all_refuse() {
    let Shown { f2, sim, .. } = show("all refuse", 1, [Trouble::Refuses; 3], Duration::from_secs(10));
    assert!(f2.legs_per_op <= 0.01);
    assert_eq!(sim.counters.opened, 3);
    assert!(sim.counters.failovers <= 40, "everyone parks within moments");
    assert_eq!(View::of(&sim, FAULT.end..END).failed, 0);
}

/// A jump that first looks like three dead nodes. Nothing fails, and within seconds it is taken for what it is.
#[test]
fn all_very_slow() {
    let slower = 600 * MS;
    let Shown { healthy, f0, f2, after, sim } = show("+600 ms on all", 1, [Trouble::Slow(slower); 3], READ_DEADLINE);
    assert_eq!(healthy.failed + f0.failed + f2.failed + after.failed, 0);
    assert!(f2.p99_ms() <= 600.0 + 2.0 * healthy.p99_ms());
    assert!(f0.legs_per_op <= 1.4 && f2.legs_per_op <= 1.06);
    assert_eq!(sim.parking.total(), 0, "one node is always left to ask");
}

/// A jump so big that nothing but new measurements tell it from an outage: they are made, nothing is stuck.
#[test]
fn all_absurdly_slow() {
    let slower = 1500 * MS;
    let Shown { sim, .. } = show("+1.5 s on all", 1, [Trouble::Slow(slower); 3], READ_DEADLINE);
    let later = View::of(&sim, Duration::from_secs(20)..FAULT.end);
    assert_eq!(later.failed, 0);
    assert!(later.p99_ms() <= 1500.0 + 30.0);
}
