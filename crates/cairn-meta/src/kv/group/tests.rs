use super::*;
use parking_lot::Mutex;

/// Notes what it is told to write, and fails on demand.
#[derive(Default)]
struct Recorder {
    applied: Mutex<Vec<(Writes, Durability)>>,
    broken: bool,
}

struct NoView;

impl View for NoView {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }
    fn scan(&self, _range: &KeyRange, _limit: usize, _order: Order) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        Ok(Vec::new())
    }
}

impl Backend for Recorder {
    type View = NoView;

    fn view(&self) -> NoView {
        NoView
    }

    fn apply(&self, writes: Writes, durability: Durability) -> Result<(), EngineError> {
        if self.broken {
            return Err(EngineError::Failed { cause: "the disk is gone".into() });
        }
        self.applied.lock().push((writes, durability));
        Ok(())
    }
}

fn job(snapshot: u64, read: &str, write: &str, value: &str, durability: Durability) -> Job {
    Job {
        snapshot,
        reads: ReadSet { keys: vec![read.into()], ranges: Vec::new() },
        writes: Writes::from([(write.into(), Some(value.into()))]),
        durability,
    }
}

#[test]
fn what_is_valid_becomes_one_write_as_durable_as_the_strictest() {
    use CommitOutcome::{Conflict, Done};
    use Durability::{Durable, Relaxed};
    let backend = Arc::new(Recorder::default());
    let mut group = Group::new(backend.clone());
    let (outcomes, applied) = group.commit(vec![
        job(0, "x", "a", "1", Relaxed),
        // Reads what the one before it in the same group writes.
        job(0, "a", "b", "2", Durable),
        job(0, "x", "a", "3", Relaxed),
    ]);
    assert_eq!(outcomes, [Done, Conflict, Done]);
    // The strict one did not take part.
    assert_eq!(applied, Ok(Some(Relaxed)));
    assert_eq!(group.published().read().seq, 2);
    let (outcomes, applied) = group.commit(vec![job(2, "a", "c", "4", Relaxed), job(2, "b", "d", "5", Durable)]);
    assert_eq!((outcomes, applied), (vec![Done, Done], Ok(Some(Durable))));
    let (outcomes, applied) = group.commit(vec![job(2, "c", "e", "6", Durable)]);
    assert_eq!((outcomes, applied), (vec![Conflict], Ok(None)));
    let written = backend.applied.lock();
    assert_eq!(written.len(), 2, "one write for each group");
    assert_eq!(written[0].0, Writes::from([(b"a".to_vec(), Some(b"3".to_vec()))]), "the later one wins");
    assert_eq!(written[1].0.len(), 2);
}

#[test]
fn a_failed_write_leaves_the_outcome_unknown_and_publishes_nothing() {
    let mut group = Group::new(Arc::new(Recorder { broken: true, ..Recorder::default() }));
    let (outcomes, applied) =
        group.commit(vec![job(0, "x", "a", "1", Durability::Durable), job(0, "a", "b", "2", Durability::Durable)]);
    assert_eq!(outcomes, [CommitOutcome::Unknown, CommitOutcome::Conflict]);
    assert!(applied.is_err());
    assert_eq!(group.published().read().seq, 0);
}
