//! The corpus of the fuzz targets, replayed without a fuzzer: what broke a decoder once never does again.

#[path = "../../../../fuzz/src/bodies.rs"]
mod bodies;

fn replay(target: &str, body: fn(&[u8])) {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        // The panic itself was printed already; this says which input it was.
        assert!(std::panic::catch_unwind(|| body(&bytes)).is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count > 1, "{} has a corpus", dir.display());
}

#[test]
fn records() {
    replay("record", bodies::record);
}

#[test]
fn segments() {
    replay("segment", bodies::segment);
}

#[test]
fn checkpoints() {
    replay("checkpoint", bodies::checkpoint);
}

#[test]
fn identities() {
    replay("identity", bodies::identity);
}
