//! What any record store must do, written once and run on each.

use std::path::Path;

use gridseal_crypto::{Key, role::RecordTag};
use gridseal_store::{Claim, SoleWriter, SqliteRecords, Transact, record_tag_key};
use gridseal_types::records::{Commit, Durability, MemoryRecords, Records, RecordsError, Write};

use crate::scratch::Scratch;

fn put(table: &'static str, key: &[u8], value: &[u8]) -> Write {
    Write { table, key: key.to_vec(), value: Some(value.to_vec()) }
}

fn delete(table: &'static str, key: &[u8]) -> Write {
    Write { table, key: key.to_vec(), value: None }
}

fn what_is_committed_is_read_and_the_last_write_of_a_key_counts(mut store: impl Transact) {
    assert_eq!(store.get("a", b"k"), Ok(None));
    store
        .commit(vec![put("a", b"k", b"1"), put("a", b"k", b"2"), put("a", b"", b""), delete("a", b"none")])
        .unwrap();
    assert_eq!(store.get("a", b"k"), Ok(Some(b"2".to_vec())));
    assert_eq!(store.get("a", b""), Ok(Some(Vec::new())), "empty key, empty value");
    assert_eq!(store.get("b", b"k"), Ok(None), "another table");
    store.commit(vec![put("a", b"k", b"3"), delete("a", b"k")]).unwrap();
    assert_eq!(store.get("a", b"k"), Ok(None));
    store.commit(vec![delete("a", b"k"), put("a", b"k", b"4")]).unwrap();
    assert_eq!(store.get("a", b"k"), Ok(Some(b"4".to_vec())));
    store.commit(Vec::new()).unwrap();
}

fn ranges_ascend_stay_in_their_table_and_keep_to_their_limit(mut store: impl Transact) {
    let keys: [&[u8]; 6] = [b"", b"\x00", b"a", b"a\x00", b"b", b"\xff\xff"];
    let writes =
        keys.iter().rev().flat_map(|key| [put("m", key, key), put("l", key, b"l"), put("n", key, b"n")]);
    store.commit(writes.collect()).unwrap();
    let range = |after: &[u8], limit| -> Vec<Vec<u8>> {
        let entries = store.range("m", after, limit).unwrap();
        assert!(entries.iter().all(|(key, value)| key == value));
        entries.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(range(b"", usize::MAX), keys[1..], "the empty key is never above another");
    assert_eq!(range(b"a", 10), keys[3..]);
    assert_eq!(range(b"a", 2), keys[3..5]);
    assert_eq!(range(b"aa", 1), keys[4..5], "above a key that is not there");
    assert_eq!(range(b"a", 0), keys[..0]);
    assert_eq!(range(b"\xff\xff", 10), keys[..0]);
    assert_eq!(store.range("x", b"", 10), Ok(Vec::new()));
}

fn large_values_and_many_keys_are_kept(mut store: impl Transact) {
    let large = vec![7; 1 << 20];
    store.commit(vec![put("large", b"k", &large)]).unwrap();
    assert_eq!(store.get("large", b"k"), Ok(Some(large)));
    store.commit((0..10_000u32).map(|number| put("many", &number.to_be_bytes(), b"v")).collect()).unwrap();
    let (mut after, mut count) = (Vec::new(), 0);
    while let Some((last, _)) = {
        let page = store.range("many", &after, 999).unwrap();
        count += page.len();
        page.last().cloned()
    } {
        after = last;
    }
    assert_eq!(count, 10_000);
}

fn a_decision_reads_committed_state_and_writes_all_or_nothing(mut store: impl Transact) {
    store.commit(vec![put("a", b"k", b"1")]).unwrap();
    let seen = store.transact(|records| {
        let seen = records.get("a", b"k")?;
        Ok::<_, RecordsError>((vec![put("a", b"k", b"2"), put("b", b"k", b"2")], seen))
    });
    assert_eq!(seen, Ok(Some(b"1".to_vec())));
    assert_eq!(store.get("b", b"k"), Ok(Some(b"2".to_vec())));

    #[derive(Debug, PartialEq)]
    enum Refusal {
        No,
        Records,
    }
    impl From<RecordsError> for Refusal {
        fn from(_: RecordsError) -> Self {
            Self::Records
        }
    }
    let refused: Result<(), _> = store.transact(|_| Err(Refusal::No));
    assert_eq!(refused, Err(Refusal::No));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.transact(|_| -> Result<(Vec<Write>, ()), RecordsError> { panic!("on purpose") })
    }));
    assert!(panicked.is_err());
    assert_eq!(store.get("a", b"k"), Ok(Some(b"2".to_vec())));
    store.commit(vec![put("a", b"k", b"3")]).unwrap();
    assert_eq!(store.get("a", b"k"), Ok(Some(b"3".to_vec())), "and the store goes on");
}

#[test]
fn without_a_standby_a_replicated_commit_is_refused_unless_the_site_stands_alone() {
    let mut store = SqliteRecords::in_memory().unwrap();
    let refused = store.commit_with(vec![put("a", b"k", b"1")], Durability::Replicated);
    assert_eq!(refused, Err(RecordsError::Unreplicated));
    assert_eq!(store.get("a", b"k"), Ok(None));
    let mut store = store.standing_alone();
    store.commit_with(vec![put("a", b"k", b"1")], Durability::Replicated).unwrap();
    assert_eq!(store.get("a", b"k"), Ok(Some(b"1".to_vec())));
}

fn tag_key() -> Key<RecordTag, 32> {
    record_tag_key(&Key::take(&mut [7; 32]))
}

fn claimed<S: SoleWriter>(mut store: S, folder: &Path) -> S {
    store.claim(Claim::IfFree, &folder.join("marker")).unwrap();
    store
}

/// Runs each rule on each store.
macro_rules! conformance {
    ($($rule:ident)*) => {
        mod memory {
            $(#[test] fn $rule() { super::$rule(super::MemoryRecords::default()); })*
        }
        mod sqlite_in_memory {
            $(#[test] fn $rule() { super::$rule(super::SqliteRecords::in_memory().unwrap()); })*
        }
        mod sqlite_file {
            $(#[test] fn $rule() {
                let scratch = super::Scratch::new(stringify!($rule));
                super::$rule(super::SqliteRecords::open(scratch.path().join("records.db")).unwrap());
            })*
        }
        mod sqlite_authenticated {
            $(#[test] fn $rule() {
                let scratch = super::Scratch::new(&format!("tags_{}", stringify!($rule)));
                let store = super::SqliteRecords::open(scratch.path().join("records.db")).unwrap();
                super::$rule(super::claimed(store.authenticated_by(super::tag_key()), scratch.path()));
            })*
        }
        /// One server for all rules, each in a schema of its own.
        #[test]
        fn postgresql_keeps_every_rule() {
            let server = crate::server::shared();
            $(println!("{}", stringify!($rule));
            $rule(server.records(&format!("{:.48}", stringify!($rule))));
            let scratch = Scratch::new(&format!("pg_tags_{}", stringify!($rule)));
            let store = server.records(&format!("t_{:.46}", stringify!($rule)));
            $rule(claimed(store.authenticated_by(tag_key()), scratch.path())); )*
        }
    };
}

conformance! {
    what_is_committed_is_read_and_the_last_write_of_a_key_counts
    ranges_ascend_stay_in_their_table_and_keep_to_their_limit
    large_values_and_many_keys_are_kept
    a_decision_reads_committed_state_and_writes_all_or_nothing
}

#[test]
fn sqlite_and_memory_agree_after_random_commits() {
    let scratch = Scratch::new("agree");
    let path = scratch.path().join("records.db");
    agrees_with_memory(|| SqliteRecords::open(&path).unwrap());
}

#[test]
fn postgresql_and_memory_agree_after_random_commits() {
    let server = crate::server::shared();
    agrees_with_memory(|| server.records("agree"));
}

/// Random commits to a store and to memory, with random looks at both; now and then the store is opened anew.
fn agrees_with_memory<S: Transact>(mut open: impl FnMut() -> S) {
    let (mut memory, mut store) = (MemoryRecords::default(), open());
    // A small generator of its own: the sequence is the same in every run.
    let mut state = 1u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..200u32 {
        let writes: Vec<Write> = (0..draw(6))
            .map(|_| {
                let key = [draw(12) as u8];
                let table = if draw(2) == 0 { "a" } else { "b" };
                if draw(3) == 0 { delete(table, &key) } else { put(table, &key, &round.to_be_bytes()) }
            })
            .collect();
        memory.commit(writes.clone()).unwrap();
        store.commit(writes).unwrap();
        if draw(20) == 0 {
            drop(store);
            store = open();
        }
        for table in ["a", "b"] {
            let (after, limit) = ([draw(12) as u8], draw(8) as usize);
            assert_eq!(
                memory.range(table, &after, limit),
                store.range(table, &after, limit),
                "round {round}"
            );
            assert_eq!(memory.get(table, &after), store.get(table, &after), "round {round}");
        }
    }
}
