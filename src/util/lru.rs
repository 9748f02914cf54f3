//! A bounded memory of what was used lately. Knows nothing of what it holds.

use crate::util::lock::lock;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Mutex;

/// Two generations of at most `HALF` entries each: when the young one is full it becomes the old one, and what
/// was in the old one and not used since is forgotten. Holds the `HALF` entries used last, and never more than twice that.
pub(crate) struct Lru<K, V, const HALF: usize> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V, const HALF: usize> Default for Lru<K, V, HALF> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Hash + Eq, V, const HALF: usize> Lru<K, V, HALF> {
    /// The value of a key, which counts as used.
    pub(crate) fn get(&mut self, key: &K) -> Option<&mut V> {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.put(key, value);
        }
        self.young.get_mut(key)
    }

    /// The same; what is not there is made.
    pub(crate) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V
    where
        K: Copy,
    {
        if self.get(&key).is_none() {
            self.put(key, make());
        }
        self.young.get_mut(&key).expect("it was found or put")
    }

    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.young.len() >= HALF && !self.young.contains_key(&key) {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, value);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// The same for several threads, by hashes of the keys only. Takes no memory before the first.
#[derive(Default)]
pub(crate) struct SharedLru<const HALF: usize, V = ()> {
    hasher: RandomState,
    values: Mutex<Lru<u64, V, HALF>>,
}

impl<const HALF: usize, V: Clone> SharedLru<HALF, V> {
    pub(crate) fn put(&self, key: impl Hash, value: V) {
        lock(&self.values).put(self.hasher.hash_one(key), value);
    }

    pub(crate) fn get(&self, key: impl Hash) -> Option<V> {
        lock(&self.values).get(&self.hasher.hash_one(key)).cloned()
    }

    pub(crate) fn clear(&self) {
        *lock(&self.values) = Lru::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_lately_stays_and_the_rest_is_forgotten() {
        let mut recent = Lru::<_, _, 10>::default();
        recent.put(0, "kept");
        for n in 1..1000 {
            recent.put(n, "passing");
            assert_eq!(recent.get(&0), Some(&mut "kept"), "{n}");
            assert!(recent.len() <= 20);
        }
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.get(&999), Some(&mut "passing"));
    }

    // R23
    #[test]
    fn what_was_put_lately_is_known_and_memory_is_bounded() {
        let ids = SharedLru::<4_096>::default();
        assert_eq!(ids.get("resp_0"), None);
        (0..100_000).for_each(|n| ids.put(format!("resp_{n}"), ()));
        assert_eq!([99_999, 96_000, 0].map(|n| ids.get(format!("resp_{n}")).is_some()), [true, true, false]);
        assert!(lock(&ids.values).len() <= 2 * 4_096);
        ids.clear();
        assert_eq!(ids.get("resp_99999"), None);
    }

    #[test]
    fn a_key_is_held_once() {
        let mut recent = Lru::<_, _, 2>::default();
        for n in [1, 2, 3, 1, 1, 2] {
            recent.put(n, n);
            assert_eq!(recent.get(&n), Some(&mut { n }));
        }
        assert!(recent.len() <= 4);
    }
}
