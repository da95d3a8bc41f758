//! A bounded memory of what came last: the oldest entry makes room for the newest.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The last `max` distinct keys, with a value each.
pub(crate) struct Recent<K, V> {
    values: HashMap<K, V>,
    order: VecDeque<K>,
    max: usize,
}

impl<K: Copy + Eq + Hash, V: Copy> Recent<K, V> {
    /// Remembers nothing yet.
    pub(crate) fn new(max: usize) -> Self {
        Self { values: HashMap::new(), order: VecDeque::new(), max }
    }

    /// Remembers `key`; a key that is remembered already keeps its place and gets the new value.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key, value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.max
                && let Some(oldest) = self.order.pop_front()
            {
                self.values.remove(&oldest);
            }
        }
    }

    /// The value of a remembered key.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.values.get(key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut recent = Recent::new(2);
        recent.insert(1, 'a');
        recent.insert(2, 'b');
        recent.insert(1, 'c');
        recent.insert(3, 'd');
        assert_eq!((recent.get(&1), recent.get(&2), recent.get(&3)), (None, Some('b'), Some('d')));
        for key in 0..1000 {
            recent.insert(key, 'e');
        }
        assert_eq!((recent.values.len(), recent.order.len()), (2, 2));
    }
}
