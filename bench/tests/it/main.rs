//! Runs the program as a user does, in its short form.
#![allow(clippy::disallowed_methods, reason = "the test looks at its own scratch directory")]

use serde_json::Value;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Every limit, with what it is counted in.
const LIMITS: [(&str, &str); 12] = [
    ("memcpy", "MiB/s"),
    ("crc32c", "MiB/s"),
    ("frame_echo_4k", "op/s"),
    ("append_4k_sync", "op/s"),
    ("raw_write_sync_4m", "MiB/s"),
    ("raw_write_sync_32m", "MiB/s"),
    ("raw_write_three", "MiB/s"),
    ("page_cache_write", "MiB/s"),
    ("tcp_copy", "MiB/s"),
    ("tcp_copy_threads", "MiB/s"),
    ("tcp_fan_out", "MiB/s"),
    ("tcp_fan_out_files", "MiB/s"),
];
const LIMIT_STEPS: &str = "memcpy,crc32c,frame-echo,append,raw-write,tcp-copy,raw-write-three,page-cache-write,\
                           tcp-fanout,tcp-fanout-files";

fn bench(data: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn-bench"));
    command.arg("--data").arg(data.path()).args(args).output().expect("the program starts")
}

fn is_empty(dir: &TempDir) -> bool {
    dir.path().read_dir().expect("the directory is there").next().is_none()
}

#[test]
fn every_limit_is_measured_and_nothing_is_left_behind() {
    let data = TempDir::new().unwrap();
    let output = bench(&data, &["--quick", "--size", "8M", "--rounds", "2", "--only", LIMIT_STEPS]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("standard output is JSON and nothing else");
    let mut measured = report["limits"].as_object().unwrap().clone();
    // Not every filesystem can.
    measured.remove("raw_write_direct");
    assert_eq!(measured.len(), LIMITS.len());
    for (name, unit) in LIMITS {
        let figure = &report["limits"][name];
        assert_eq!(figure["unit"], unit, "{name}");
        assert_eq!(figure["rounds"].as_array().unwrap().len(), 2, "{name}");
        let of = |key: &str| figure[key].as_f64().unwrap();
        assert!(0.0 < of("min") && of("min") <= of("median") && of("median") <= of("max"), "{name}: {figure}");
        assert!(said.contains(name), "{name} is told of while it runs");
    }
    for name in ["frame_echo_4k", "append_4k_sync"] {
        let latency = &report["limits"][name]["latency"];
        assert!(latency["p50_us"].as_u64() <= latency["p99_us"].as_u64(), "{latency}");
        assert!(latency["count"].as_u64() > Some(0), "{latency}");
    }
    for name in ["tcp_copy", "tcp_fan_out", "tcp_fan_out_files"] {
        assert!(report["limits"][name]["cpu"]["peers"]["s_per_gib"].is_number(), "{name} runs between processes");
    }
    assert_eq!(report["cluster"].as_object().unwrap().len(), 0);
    assert_eq!(report["aims"].as_array().unwrap().len(), 0, "no ratio without a cluster");
    assert!(report["machine"]["memory_bytes"].as_u64() > Some(0));
    assert!(is_empty(&data));
}

#[test]
fn a_program_that_is_no_cluster_fails_with_words() {
    let data = TempDir::new().unwrap();
    let missing = data.path().join("none");
    let output = bench(&data, &["--quick", "--only", "durable-seq", "--cairn", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cargo build --release -p cairnfs"));

    let output = bench(&data, &["--quick", "--only", "durable-seq", "--cairn", "/bin/false"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ended before it was ready"));
    assert!(output.stdout.is_empty());
    assert!(is_empty(&data));
}

#[test]
fn losses_of_stores_are_computed_for_three_placements() {
    let data = TempDir::new().unwrap();
    let lists = ["--nodes", "5,20", "--groups-per-store", "6", "--losses", "2,3,7", "--trials", "5000"];
    let output = bench(&data, &[&["copysets"][..], &lists].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("standard output is JSON and nothing else");
    let rows = report["rows"].as_array().unwrap();
    // Seven of five nodes cannot fail.
    assert_eq!(rows.len(), 5);
    for row in rows {
        let of = |placement: &str| row[placement]["probability"].as_f64().unwrap();
        let single = row["per_block"].as_f64().unwrap();
        assert!(of("disjoint") <= of("ours") && of("ours") <= single, "{row}");
        assert_eq!(of("ours") > 0.0, row["losses"].as_u64() > Some(2), "{row}");
    }
    let output = bench(&data, &["copysets", "--nodes", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot hold 3 replicas"));
}

#[test]
fn wrong_usage_is_told_apart() {
    let data = TempDir::new().unwrap();
    for wrong in [&["--only", "nonsense"][..], &["--size", "5M"], &["--rounds", "0"]] {
        assert_eq!(bench(&data, wrong).status.code(), Some(2), "{wrong:?}");
    }
    let output = bench(&data, &["--quick", "--only", "raw-write", "--size", "16777216G"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("MiB free"));
    assert!(is_empty(&data));
}

#[test]
fn the_engine_is_measured_beside_files_and_large_stores_open() {
    let data = TempDir::new().unwrap();
    let output = bench(&data, &["engine", "--quick", "--blocks", "3000"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    for figure in rows.iter().flat_map(|row| row["figures"].as_array().unwrap()) {
        assert!(figure["per_second"].as_f64().unwrap() > 0.0 && figure["p50_us"].as_u64().unwrap() > 0, "{figure}");
    }
    assert_eq!(rows[0]["figures"][1]["contender"], "engine_reused");
    assert_eq!(
        (report["start"][0]["blocks_found"].as_u64(), report["start"][0]["segments"].as_u64()),
        (Some(3000), Some(12))
    );
    assert!(is_empty(&data), "everything is removed");
}
