//! What interrupted uploads left behind, so that they can go on where they ended.

use std::collections::BTreeMap;
use std::time::Duration;

use exeunt_protocol::message::BlobRef;
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};

use super::part::Part;

/// Most bytes kept of all nodes' interrupted uploads.
const MAX_KEPT: u64 = 512 << 20;
/// Most bytes kept of one node's.
const MAX_KEPT_NODE: u64 = 256 << 20;
/// Most interrupted uploads kept.
const MAX_KEPT_PARTS: usize = 4096;
/// Most interrupted uploads kept of one node.
const MAX_KEPT_PARTS_NODE: usize = 4;
/// How long one is kept.
const KEEP: Duration = Duration::from_secs(3600);

/// Whose answer an upload brings, and to what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) node: NodeId,
    pub(crate) run: RunId,
    pub(crate) query: QueryId,
}

/// Which answer that is. Another one is another upload, and has no use for the bytes of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) dataset: DatasetVersion,
    pub(crate) table: BlobRef,
}

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    bytes: u64,
    node_bytes: u64,
    parts: usize,
    node_parts: usize,
    age: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: MAX_KEPT,
            node_bytes: MAX_KEPT_NODE,
            parts: MAX_KEPT_PARTS,
            node_parts: MAX_KEPT_PARTS_NODE,
            age: KEEP,
        }
    }
}

/// Parts of answers by whose they are; at most one for each key. When there is no room, the oldest goes: its upload
/// begins again from its first byte.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bounds: Bounds,
    /// With the time since when, and a number that orders those of one time.
    parts: BTreeMap<Key, ((Duration, u64), Part)>,
    next: u64,
}

impl Kept {
    /// Keeps a part, in place of what was kept for the key.
    pub(crate) fn put(&mut self, now: Duration, key: Key, mut part: Part) {
        self.parts.remove(&key);
        self.expire(now);
        let (bytes, bounds) = (part.held(), self.bounds);
        if bytes == 0 || bytes > bounds.node_bytes.min(bounds.bytes) {
            return;
        }
        // Among the node's own first: whoever leaves much behind pushes out nobody else's.
        self.make_room(|other| other.node == key.node, bounds.node_bytes - bytes, bounds.node_parts);
        self.make_room(|_any| true, bounds.bytes - bytes, bounds.parts);
        part.bytes.shrink_to_fit();
        self.next += 1;
        self.parts.insert(key, ((now, self.next), part));
    }

    /// Takes out what is kept of this answer. What is kept of another one to the same question is of no use any more.
    pub(crate) fn take(&mut self, now: Duration, key: &Key, answer: Answer) -> Option<Part> {
        self.expire(now);
        let (_, part) = self.parts.remove(key)?;
        (part.answer == answer).then_some(part)
    }

    /// Drops what is too old.
    pub(crate) fn expire(&mut self, now: Duration) {
        let age = self.bounds.age;
        self.parts.retain(|_, ((since, _), _)| now.saturating_sub(*since) < age);
    }

    /// Drops what nobody waits for any more.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(&Key) -> bool) {
        self.parts.retain(|key, _| wanted(key));
    }

    /// What is kept, by whose it is.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.parts.keys()
    }

    /// Drops the oldest of those until one more fits.
    fn make_room(&mut self, of: impl Fn(&Key) -> bool, bytes: u64, parts: usize) {
        loop {
            let these = || self.parts.iter().filter(|(key, _)| of(key));
            let (count, held) =
                these().fold((0, 0), |(count, held), (_, (_, part))| (count + 1, held + part.held()));
            let oldest = these().min_by_key(|(_, (since, _))| *since).map(|(key, _)| key.clone());
            match oldest {
                Some(oldest) if count >= parts || held > bytes => self.parts.remove(&oldest),
                _ => return,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use exeunt_stats::Digest;
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds =
        Bounds { bytes: 100, node_bytes: 60, parts: 5, node_parts: 3, age: Duration::from_secs(10) };

    fn key(node: u8, query: u32) -> Key {
        Key {
            node: NodeId::from_bytes([node; 16]),
            run: RunId::numbered("digits", 1).unwrap(),
            query: QueryId(query),
        }
    }

    fn answer(name: u8) -> Answer {
        let table = BlobRef { digest: Digest::of(&[name]), bytes: 1000 };
        Answer { dataset: DatasetVersion(1), table }
    }

    fn part(name: u8, length: usize) -> Part {
        let mut part = Part::new(answer(name), 0).unwrap();
        part.bytes = vec![name; length];
        part
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn kept() -> Kept {
        Kept { bounds: BOUNDS, ..Kept::default() }
    }

    #[test]
    fn an_answer_goes_on_where_it_ended_and_another_one_from_nothing() {
        let mut kept = kept();
        kept.put(at(0), key(1, 0), part(7, 20));
        kept.put(at(1), key(1, 0), part(7, 30));
        let part_of = kept.take(at(2), &key(1, 0), answer(7)).unwrap();
        assert_eq!(part_of.held(), 30);
        assert!(kept.take(at(2), &key(1, 0), answer(7)).is_none(), "it was taken out");

        kept.put(at(2), key(1, 0), part(7, 20));
        assert!(kept.take(at(2), &key(1, 0), answer(8)).is_none());
        assert!(kept.take(at(2), &key(1, 0), answer(7)).is_none(), "the newer answer made it useless");
        kept.put(at(2), key(1, 0), part(7, 20));
        let newer = Answer { dataset: DatasetVersion(2), ..answer(7) };
        assert!(kept.take(at(2), &key(1, 0), newer).is_none(), "other data, although the same bytes");
        kept.put(at(2), key(1, 0), part(7, 20));
        assert!(kept.take(at(2), &key(2, 0), answer(7)).is_none(), "somebody else's");
        assert!(kept.take(at(2), &key(1, 0), answer(7)).is_some());
    }

    #[test]
    fn what_is_old_or_not_waited_for_goes() {
        let mut kept = kept();
        kept.put(at(0), key(1, 0), part(7, 20));
        kept.put(at(5), key(2, 0), part(7, 20));
        assert!(kept.take(at(10), &key(1, 0), answer(7)).is_none());
        kept.expire(at(14));
        assert_eq!(kept.keys().collect::<Vec<_>>(), [&key(2, 0)]);
        kept.retain(|key| key.node != NodeId::from_bytes([2; 16]));
        assert_eq!(kept.keys().count(), 0);
    }

    #[test]
    fn who_leaves_much_behind_loses_it_before_others_do() {
        let mut kept = kept();
        kept.put(at(0), key(1, 0), part(7, 30));
        for query in 0..4 {
            kept.put(at(1), key(2, query), part(7, 25));
        }
        let left: Vec<Key> = kept.keys().cloned().collect();
        assert_eq!(left, [key(1, 0), key(2, 2), key(2, 3)]);
        kept.put(at(2), key(3, 0), part(7, 61));
        assert_eq!(kept.keys().count(), 3, "more than a node may leave is not kept, and pushes out nothing");
        kept.put(at(2), key(3, 0), part(7, 60));
        assert_eq!(kept.keys().cloned().collect::<Vec<_>>(), [key(2, 3), key(3, 0)], "the oldest went");
    }

    proptest! {
        #[test]
        fn bounds_hold_whatever_comes(
            puts in prop::collection::vec((0_u8..4, 0_u32..6, 0_usize..80, 0_u64..3), 0..60)
        ) {
            let (mut kept, mut now) = (kept(), 0);
            for (node, query, length, later) in puts {
                now += later;
                kept.put(at(now), key(node, query), part(7, length));
                let held = |of: Option<u8>| {
                    let of = of.map(|of| NodeId::from_bytes([of; 16]));
                    let parts = kept.parts.iter().filter(|(key, _)| of.is_none_or(|of| key.node == of));
                    parts.fold((0, 0), |(parts, bytes), (_, (_, part))| (parts + 1, bytes + part.bytes.len()))
                };
                let (parts, bytes) = held(None);
                prop_assert!(parts <= BOUNDS.parts && bytes as u64 <= BOUNDS.bytes);
                for node in 0..4 {
                    let (parts, bytes) = held(Some(node));
                    prop_assert!(parts <= BOUNDS.node_parts && bytes as u64 <= BOUNDS.node_bytes);
                }
                let fits = length > 0 && length as u64 <= BOUNDS.node_bytes;
                prop_assert_eq!(kept.parts.contains_key(&key(node, query)), fits);
            }
        }
    }
}
