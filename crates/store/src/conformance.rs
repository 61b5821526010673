//! What every [`Store`] must do, as checks that any implementation can be put through.

#![expect(clippy::unwrap_used, reason = "a failed check is a panic here")]

use exeunt_protocol::message::{BlobRef, Membership};
use exeunt_protocol::{DatasetVersion, NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::Digest;

use crate::{
    AuditEntry, NewContribution, NodeRecord, Packed, PutOutcome, STAGE, Seal, StageId, Store, TokenOutcome,
    TokenRecord, Traffic,
};

/// Puts stores made by `make` (each empty) through everything.
///
/// # Panics
/// When a store does not conform.
pub fn conformance(make: &mut dyn FnMut() -> Box<dyn Store>) {
    contributions_are_put_once_and_replaced_by_newer_data(&mut *make());
    long_tables_are_staged_and_read_in_parts(&mut *make());
    tokens_are_spent_once(&mut *make());
    seals_never_change(&mut *make());
    blobs_are_read_in_pieces(&mut *make());
    records_are_kept_in_order(&mut *make());
    a_run_has_one_record(&mut *make());
}

fn run() -> RunId {
    "run-1".parse().unwrap()
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn put(store: &mut dyn Store, query: u32, who: u8, version: u64, bytes: &[u8]) -> PutOutcome {
    let run = run();
    let new = NewContribution {
        run: &run,
        query: QueryId(query),
        node: node(who),
        dataset: DatasetVersion(version),
        table: BlobRef::of(bytes),
        packed: &Packed::Whole(bytes.to_vec()),
    };
    store.put_contributions(&[new], 10).unwrap()[0]
}

fn a_run_has_one_record(store: &mut dyn Store) {
    assert_eq!((store.run(&run()).unwrap(), store.runs().unwrap()), (None, Vec::new()));
    let longer: RunId = "run-10".parse().unwrap();
    for (run, record) in [(&longer, b"other"), (&run(), b"first"), (&run(), b"again")] {
        store.save_run(run, record, 1).unwrap();
    }
    assert_eq!(store.run(&run()).unwrap(), Some(b"again".to_vec()));
    assert_eq!(store.runs().unwrap(), [(run(), b"again".to_vec()), (longer, b"other".to_vec())]);
}

fn contributions_are_put_once_and_replaced_by_newer_data(store: &mut dyn Store) {
    assert_eq!(put(store, 1, 1, 1, b"a"), PutOutcome::Stored);
    assert_eq!(put(store, 1, 1, 1, b"a"), PutOutcome::Duplicate);
    assert_eq!(put(store, 1, 1, 1, b"b"), PutOutcome::Conflict { expected: Digest::of(b"a") });
    assert_eq!(put(store, 1, 1, 3, b"c"), PutOutcome::Replaced { previous: DatasetVersion(1) });
    assert_eq!(put(store, 1, 1, 2, b"d"), PutOutcome::Stale { current: DatasetVersion(3) });
    let table = |store: &dyn Store, query: u32, bytes: &[u8]| {
        store.contribution(&run(), QueryId(query), node(1), Digest::of(bytes)).unwrap()
    };
    assert_eq!(table(store, 1, b"c"), Some(b"c".to_vec()));
    assert_eq!(table(store, 1, b"a"), None);

    // Neighbouring keys are other contributions.
    assert_eq!(put(store, 1, 2, 1, b"e"), PutOutcome::Stored);
    assert_eq!(put(store, 2, 1, 1, b"f"), PutOutcome::Stored);
    let who: Vec<NodeId> =
        store.contributions(&run(), QueryId(1)).unwrap().iter().map(|(node, _)| *node).collect();
    assert_eq!(who, [node(1), node(2)]);
    let other: RunId = "run-10".parse().unwrap();
    assert_eq!(store.contributions(&other, QueryId(1)).unwrap(), []);
    assert_eq!(store.contribution(&other, QueryId(1), node(1), Digest::of(b"c")).unwrap(), None);

    // What was counted stays, however often it is replaced.
    store.put_seal(&run(), QueryId(2), &seal(vec![(node(1), DatasetVersion(1), Digest::of(b"f"))])).unwrap();
    assert_eq!(put(store, 2, 1, 2, b"g"), PutOutcome::Replaced { previous: DatasetVersion(1) });
    assert_eq!(put(store, 2, 1, 3, b"h"), PutOutcome::Replaced { previous: DatasetVersion(2) });
    assert_eq!(
        [&b"f"[..], b"g", b"h"].map(|bytes| table(store, 2, bytes)),
        [Some(b"f".to_vec()), None, Some(b"h".to_vec())]
    );

    // Several in one call see each other.
    let run = run();
    let new = |bytes: &[u8], packed| NewContribution {
        run: &run,
        query: QueryId(3),
        node: node(1),
        dataset: DatasetVersion(1),
        table: BlobRef::of(bytes),
        packed,
    };
    let [x, y] = [b"x", b"y"].map(|bytes| Packed::Whole(bytes.to_vec()));
    let outcomes = store.put_contributions(&[new(b"x", &x), new(b"x", &x), new(b"y", &y)], 11).unwrap();
    let expected = Digest::of(b"x");
    assert_eq!(outcomes, [PutOutcome::Stored, PutOutcome::Duplicate, PutOutcome::Conflict { expected }]);
}

fn long_tables_are_staged_and_read_in_parts(store: &mut dyn Store) {
    let long: Vec<u8> = (0..2 * STAGE + 77).map(|i| (i % 251) as u8).collect();
    let stage = |store: &mut dyn Store, bytes: &[u8], cuts: &[usize]| -> StageId {
        let (first, mut rest) = bytes.split_at(cuts[0]);
        let mut staged = store.stage(None, first).unwrap();
        for cut in &cuts[1..] {
            let (part, after) = rest.split_at(*cut);
            staged = store.stage(Some(staged), part).unwrap();
            rest = after;
        }
        store.stage(Some(staged), rest).unwrap()
    };
    let run = run();
    let put = |store: &mut dyn Store, version: u64, bytes: &[u8], packed: Packed| {
        let (query, node, dataset) = (QueryId(1), node(1), DatasetVersion(version));
        let new =
            NewContribution { run: &run, query, node, dataset, table: BlobRef::of(bytes), packed: &packed };
        store.put_contributions(&[new], 10).map(|outcomes| outcomes[0])
    };
    let read = |store: &dyn Store, bytes: &[u8], offset: usize, limit: usize| {
        store.read_contribution(&run, QueryId(1), node(1), Digest::of(bytes), offset as u64, limit).unwrap()
    };

    // Two at once, in any parts, do not get into each other's way.
    let other = store.stage(None, b"oth").unwrap();
    let staged = stage(store, &long, &[STAGE, 0, 1, 70_000, 5]);
    let other = store.stage(Some(other), b"er").unwrap();
    assert_eq!(read(store, &long, 0, 1), None, "it is no contribution yet");
    assert_eq!(put(store, 1, &long, Packed::Staged(staged)).unwrap(), PutOutcome::Stored);
    assert!(put(store, 2, b"too short", Packed::Staged(other)).is_err());
    assert_eq!(
        put(store, 2, b"other", Packed::Staged(other)).unwrap(),
        PutOutcome::Replaced { previous: DatasetVersion(1) }
    );
    assert_eq!(read(store, b"other", 0, 9), Some(b"other".to_vec()));
    assert_eq!(read(store, &long, 0, 1), None, "it was replaced");

    let staged = stage(store, &long, &[3, STAGE]);
    assert_eq!(
        put(store, 3, &long, Packed::Staged(staged)).unwrap(),
        PutOutcome::Replaced { previous: DatasetVersion(2) }
    );
    store.discard(staged).unwrap();
    assert_eq!(store.contribution(&run, QueryId(1), node(1), Digest::of(&long)).unwrap(), Some(long.clone()));
    assert_eq!(read(store, &long, STAGE - 7, 99_000).unwrap(), &long[STAGE - 7..][..99_000]);
    assert_eq!(read(store, &long, 2 * STAGE + 70, 100).unwrap(), &long[2 * STAGE + 70..]);
    assert_eq!(read(store, &long, 3 * STAGE, 100), Some(Vec::new()));
    assert!(store.has_contribution(&run, QueryId(1), node(1), Digest::of(&long)).unwrap());
    assert!(!store.has_contribution(&run, QueryId(1), node(1), Digest::of(b"other")).unwrap());

    // What comes again is known by its digest, and takes no place.
    let again = stage(store, &long, &[9]);
    assert_eq!(put(store, 3, &long, Packed::Staged(again)).unwrap(), PutOutcome::Duplicate);
    assert!(store.stage(Some(again), b"more").is_err(), "it is not staged any more");
    assert_eq!(
        put(store, 4, &long, Packed::Kept).unwrap(),
        PutOutcome::Replaced { previous: DatasetVersion(3) }
    );
    let again = stage(store, &long, &[9]);
    assert_eq!(
        put(store, 5, &long, Packed::Staged(again)).unwrap(),
        PutOutcome::Replaced { previous: DatasetVersion(4) }
    );
    assert!(put(store, 6, b"never came", Packed::Kept).is_err());
    assert_eq!(read(store, &long, 0, 5).unwrap(), &long[..5]);

    // What is in the store may be named together with what takes its place.
    let contribution = |version, bytes: &[u8], packed| NewContribution {
        run: &run,
        query: QueryId(5),
        node: node(1),
        dataset: DatasetVersion(version),
        table: BlobRef::of(bytes),
        packed,
    };
    let [first, second] = [&b"first"[..], b"second"].map(|bytes| Packed::Whole(bytes.to_vec()));
    store.put_contributions(&[contribution(1, b"first", &first)], 10).unwrap();
    let second = contribution(2, b"second", &second);
    store.put_contributions(&[second, contribution(3, b"first", &Packed::Kept)], 11).unwrap();
    let kept = [&b"first"[..], b"second"]
        .map(|bytes| store.has_contribution(&run, QueryId(5), node(1), Digest::of(bytes)).unwrap());
    assert_eq!(kept, [true, false]);

    let given_up = store.stage(None, b"given up").unwrap();
    store.discard(given_up).unwrap();
    store.discard(given_up).unwrap();
    assert!(store.stage(Some(given_up), b"more").is_err());

    // A table of no cells has no bytes, and is one nevertheless.
    let empty = store.stage(None, b"").unwrap();
    assert_eq!(
        put(store, 6, b"", Packed::Staged(empty)).unwrap(),
        PutOutcome::Replaced { previous: DatasetVersion(5) }
    );
    assert_eq!(read(store, b"", 0, 9), Some(Vec::new()));
}

fn tokens_are_spent_once(store: &mut dyn Store) {
    let secret = Digest::of(b"secret");
    let token = TokenRecord { label: "lab".to_owned(), expires_ms: 100, used_by: None, approve: false };
    assert_eq!(store.use_token(secret, node(1), "a", 5).unwrap(), TokenOutcome::Unknown);
    store.add_token(secret, &token, 1).unwrap();
    assert_eq!(store.use_token(secret, node(1), "a", 5).unwrap(), TokenOutcome::Enrolled);
    assert_eq!(store.use_token(secret, node(1), "a", 6).unwrap(), TokenOutcome::EnrolledBefore);
    assert_eq!(store.use_token(secret, node(2), "b", 7).unwrap(), TokenOutcome::Used);
    store.add_token(secret, &token, 7).unwrap();
    assert_eq!(store.use_token(secret, node(2), "b", 7).unwrap(), TokenOutcome::Used);
    let old = Digest::of(b"old");
    store.add_token(old, &token, 1).unwrap();
    assert_eq!(store.use_token(old, node(2), "b", 100).unwrap(), TokenOutcome::Expired);
    let mut enrolled =
        NodeRecord { name: "a".to_owned(), enrolled_ms: 5, revoked: false, membership: Membership::Active };
    assert_eq!(store.nodes().unwrap(), [(node(1), enrolled.clone())]);

    // Who was shut out does not come back with the old token, but with a new one.
    enrolled.revoked = true;
    store.save_node(node(1), &enrolled, 8).unwrap();
    assert_eq!(store.use_token(secret, node(1), "a", 9).unwrap(), TokenOutcome::Revoked);
    let fresh = Digest::of(b"fresh");
    store.add_token(fresh, &TokenRecord { approve: true, ..token.clone() }, 9).unwrap();
    assert_eq!(store.use_token(fresh, node(1), "again", 10).unwrap(), TokenOutcome::Enrolled);
    let pending = NodeRecord {
        name: "again".to_owned(),
        enrolled_ms: 10,
        revoked: false,
        membership: Membership::Pending,
    };
    assert_eq!(store.nodes().unwrap(), [(node(1), pending.clone())]);

    // A quarantine and a name that was given outlast a new token.
    let kept = NodeRecord { name: "given".to_owned(), membership: Membership::Quarantined, ..pending };
    store.save_node(node(1), &kept, 11).unwrap();
    let third = Digest::of(b"third");
    store.add_token(third, &token, 11).unwrap();
    assert_eq!(store.use_token(third, node(1), "own", 12).unwrap(), TokenOutcome::Enrolled);
    assert_eq!(store.nodes().unwrap(), [(node(1), NodeRecord { enrolled_ms: 12, ..kept })]);
}

fn seal(cohort: Vec<(NodeId, DatasetVersion, Digest)>) -> Seal {
    Seal {
        cohort,
        declined: vec![(node(2), "below_min_count".to_owned())],
        merged: Some(vec![1, 2, 3]),
        cells: 3,
        digest: Some(Digest::of(b"sum")),
        sealed_ms: 9,
        asked: Some(Digest::of(b"body")),
        reused: None,
    }
}

fn seals_never_change(store: &mut dyn Store) {
    let seal = seal(vec![(node(1), DatasetVersion(1), Digest::of(b"a"))]);
    store.put_seal(&run(), QueryId(10), &seal).unwrap();
    store.put_seal(&run(), QueryId(10), &seal).unwrap();
    let other = Seal { merged: None, ..seal.clone() };
    assert!(store.put_seal(&run(), QueryId(10), &other).is_err());
    store.put_seal(&run(), QueryId(2), &other).unwrap();
    assert_eq!(store.seals(&run()).unwrap(), [(QueryId(2), other), (QueryId(10), seal)]);
}

fn blobs_are_read_in_pieces(store: &mut dyn Store) {
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let digest = Digest::of(&bytes);
    assert_eq!(store.blob_len(digest).unwrap(), None);
    assert_eq!(store.read_blob(digest, 0, 10).unwrap(), None);
    store.put_blob(digest, &bytes).unwrap();
    store.put_blob(digest, &bytes).unwrap();
    assert_eq!(store.blob_len(digest).unwrap(), Some(200_000));
    assert_eq!(store.read_blob(digest, 150_000, 100_000).unwrap().unwrap(), &bytes[150_000..]);
    assert_eq!(store.read_blob(digest, 7, 3).unwrap().unwrap(), &bytes[7..10]);
    assert_eq!(store.read_blob(digest, 999_999, 3).unwrap(), Some(Vec::new()));
}

fn records_are_kept_in_order(store: &mut dyn Store) {
    for version in [10, 2, 1] {
        store.save_policy(&run(), PolicyVersion(version), &[version as u8], 4).unwrap();
    }
    let versions: Vec<u32> = store.policies(&run()).unwrap().iter().map(|(version, _)| version.0).collect();
    assert_eq!(versions, [1, 2, 10]);

    let other: RunId = "run-10".parse().unwrap();
    for (run, name) in [(&run(), "shy"), (&run(), "bold"), (&other, "away")] {
        store.name_policy(run, name, Some(name.as_bytes()), 4).unwrap();
    }
    store.name_policy(&run(), "bold", Some(b"bolder"), 5).unwrap();
    store.name_policy(&other, "away", None, 6).unwrap();
    let named = [("bold".to_owned(), b"bolder".to_vec()), ("shy".to_owned(), b"shy".to_vec())];
    assert_eq!(store.named_policies(&run()).unwrap(), named);
    assert_eq!(store.named_policies(&other).unwrap(), []);

    let key = (run(), QueryId(1), node(1));
    store
        .add_traffic(&[(key.clone(), Traffic { up: 1, down: 2 }), (key, Traffic { up: 10, down: 20 })])
        .unwrap();
    assert_eq!(store.traffic(&run()).unwrap(), [(QueryId(1), node(1), Traffic { up: 11, down: 22 })]);

    let before = store.audit(0, 1000).unwrap().len() as u64;
    let line = |text: &str| AuditEntry { at_ms: 1, run: Some(run()), node: None, text: text.to_owned() };
    store.append_audit(&[line("one"), line("two")]).unwrap();
    assert_eq!(store.audit(before + 1, 10).unwrap(), [(before + 1, line("two"))]);
    let of = |text: &str| AuditEntry { node: Some(node(9)), ..line(text) };
    store.append_audit(&[of("three"), line("four"), of("five"), of("six")]).unwrap();
    let last = [(before + 4, of("five")), (before + 5, of("six"))];
    assert_eq!(store.audit_of(node(9), 2, 100).unwrap(), last);
    assert_eq!(store.audit_of(node(9), 9, 2).unwrap(), last);
    assert_eq!(store.audit_of(node(8), 9, 100).unwrap(), []);
}
