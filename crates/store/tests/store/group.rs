//! Group commit: decisions go on while a commit runs, and rest on what is under way.

use std::sync::{
    Arc, Mutex,
    mpsc::{Receiver, Sender, channel},
};

use gridseal_store::{Claim, GROUP_WRITES_MAX, GroupCommit, SoleWriter, SqliteRecords};
use gridseal_types::records::{Commit, Durability, MemoryRecords, Records, RecordsError, Row, Table, Write};

use crate::scratch::Scratch;

fn put(key: u32, value: u32) -> Write {
    Write { table: "a", key: key.to_be_bytes().to_vec(), value: Some(value.to_be_bytes().to_vec()) }
}

fn delete(key: u32) -> Write {
    Write { table: "a", key: key.to_be_bytes().to_vec(), value: None }
}

/// Records whose commits wait for a sign, and are noted.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<MemoryRecords>>);

impl Records for Shared {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        self.0.lock().unwrap().get(table, key)
    }
    fn range(&self, table: Table, after: &[u8], limit: usize) -> Result<Vec<Row>, RecordsError> {
        self.0.lock().unwrap().range(table, after, limit)
    }
}

struct Gated {
    records: Shared,
    begun: Sender<(usize, Durability)>,
    outcome: Receiver<Result<(), RecordsError>>,
}

impl Commit for Gated {
    fn commit_with(&mut self, writes: Vec<Write>, durability: Durability) -> Result<(), RecordsError> {
        self.begun.send((writes.len(), durability)).unwrap();
        self.outcome.recv().unwrap()?;
        self.records.0.lock().unwrap().commit(writes)
    }
}

type Gate = (Receiver<(usize, Durability)>, Sender<Result<(), RecordsError>>);

fn gated() -> (GroupCommit<Shared>, Gate) {
    let records = Shared::default();
    let ((begun, begins), (open, outcome)) = (channel(), channel());
    let writer = Gated { records: records.clone(), begun, outcome };
    (GroupCommit::start(writer, records), (begins, open))
}

#[test]
fn what_was_decided_while_a_commit_ran_goes_into_one_commit() {
    let (mut group, (begins, open)) = gated();
    let first = group.submit(vec![put(1, 1)], Durability::Local);
    assert_eq!(begins.recv().unwrap(), (1, Durability::Local), "idle, it is committed at once");
    let meanwhile: Vec<_> = (2..12)
        .map(|key| {
            let durability = if key == 7 { Durability::Replicated } else { Durability::Local };
            group.submit(vec![put(key, 1), put(100 + key, 1)], durability)
        })
        .collect();
    assert_eq!(first.poll(), None);
    open.send(Ok(())).unwrap();
    assert_eq!(begins.recv().unwrap(), (20, Durability::Replicated), "as durable as the strictest");
    assert_eq!(first.wait(), Ok(()));
    assert!(meanwhile.iter().all(|receipt| receipt.poll().is_none()));
    open.send(Ok(())).unwrap();
    for receipt in meanwhile {
        assert_eq!(receipt.wait(), Ok(()));
    }
}

#[test]
fn a_group_has_a_limit_and_an_empty_decision_waits_its_turn() {
    let (mut group, (begins, open)) = gated();
    let first = group.submit(vec![put(1, 1)], Durability::Local);
    begins.recv().unwrap();
    let many = |count: usize| (0..count as u32).map(|key| put(key, 2)).collect::<Vec<_>>();
    let second = group.submit(many(GROUP_WRITES_MAX), Durability::Local);
    let third = group.submit(many(1), Durability::Local);
    let empty = group.submit(Vec::new(), Durability::Local);
    open.send(Ok(())).unwrap();
    assert_eq!(begins.recv().unwrap().0, GROUP_WRITES_MAX);
    open.send(Ok(())).unwrap();
    assert_eq!(begins.recv().unwrap().0, 1);
    assert_eq!((first.wait(), second.wait()), (Ok(()), Ok(())));
    assert_eq!((third.poll(), empty.poll()), (None, None));
    open.send(Ok(())).unwrap();
    assert_eq!((third.wait(), empty.wait()), (Ok(()), Ok(())));
}

#[test]
fn a_decision_sees_what_is_under_way_and_afterwards_what_is_stored() {
    let (mut group, (begins, open)) = gated();
    let value = |group: &GroupCommit<Shared>, key: u32| {
        let value = group.get("a", &key.to_be_bytes()).unwrap();
        value.map(|value| u32::from_be_bytes(value.try_into().unwrap()))
    };
    let keys = |group: &GroupCommit<Shared>, after: u32, limit| -> Vec<u32> {
        let rows = group.range("a", &after.to_be_bytes(), limit).unwrap();
        rows.into_iter().map(|(key, _)| u32::from_be_bytes(key.try_into().unwrap())).collect()
    };
    let first = group.submit((1..6).map(|key| put(key, 1)).collect(), Durability::Local);
    begins.recv().unwrap();
    assert_eq!((value(&group, 3), keys(&group, 1, 3)), (Some(1), vec![2, 3, 4]));
    let second = group.submit(vec![delete(3), put(4, 2), put(9, 2)], Durability::Local);
    assert_eq!((value(&group, 3), value(&group, 4)), (None, Some(2)));
    assert_eq!(keys(&group, 0, 10), [1, 2, 4, 5, 9]);
    open.send(Ok(())).unwrap();
    begins.recv().unwrap();
    assert_eq!(first.wait(), Ok(()));
    let third = group.submit(vec![put(1, 3)], Durability::Local);
    assert_eq!(
        (value(&group, 3), value(&group, 4)),
        (None, Some(2)),
        "the first is stored, the second under way"
    );
    assert_eq!(keys(&group, 2, 2), [4, 5], "a deleted row does not use up the limit");
    open.send(Ok(())).unwrap();
    open.send(Ok(())).unwrap();
    assert_eq!((second.wait(), third.wait()), (Ok(()), Ok(())));
    drop(group.submit(Vec::new(), Durability::Local));
    assert_eq!((value(&group, 1), keys(&group, 0, 10)), (Some(3), vec![1, 2, 4, 5, 9]));
}

#[test]
fn after_a_failed_commit_nothing_that_rests_on_it_is_committed() {
    let (mut group, (begins, open)) = gated();
    let first = group.submit(vec![put(1, 1)], Durability::Local);
    begins.recv().unwrap();
    let second = group.submit(vec![put(2, 1)], Durability::Local);
    open.send(Err(RecordsError::Full)).unwrap();
    assert_eq!((first.wait(), second.wait()), (Err(RecordsError::Full), Err(RecordsError::Full)));
    let third = group.submit(vec![put(3, 1)], Durability::Local);
    assert_eq!(third.wait(), Err(RecordsError::Full));
    assert!(begins.try_recv().is_err(), "the store was not even asked");
    let is_there =
        |group: &GroupCommit<Shared>, key: u32| group.get("a", &key.to_be_bytes()).unwrap().is_some();
    assert_eq!((group.failure(), is_there(&group, 3)), (Some(RecordsError::Full), true));
    // From here on as if nothing of it had been decided.
    group.recover().unwrap();
    assert_eq!((group.failure(), is_there(&group, 1), is_there(&group, 3)), (None, false, false));
    let next = group.submit(vec![put(4, 1)], Durability::Local);
    begins.recv().unwrap();
    open.send(Ok(())).unwrap();
    assert!(next.wait().is_ok() && is_there(&group, 4));
}

#[test]
fn what_was_handed_over_is_on_disk_when_the_group_is_dropped() {
    let scratch = Scratch::new("group");
    let path = scratch.path().join("records.db");
    let mut writer = SqliteRecords::open(&path).unwrap();
    writer.claim(Claim::IfFree, &scratch.path().join("marker")).unwrap();
    let reader = SqliteRecords::open(&path).unwrap();
    let mut group = GroupCommit::start(writer, reader);
    for number in 0..200 {
        let seen = group.get("a", &7_u32.to_be_bytes()).unwrap();
        assert_eq!(seen.map(|value| u32::from_be_bytes(value.try_into().unwrap())), (0..number).last());
        drop(group.submit(vec![put(7, number)], Durability::Local));
    }
    drop(group);
    let records = SqliteRecords::open(&path).unwrap();
    assert_eq!(records.get("a", &7_u32.to_be_bytes()), Ok(Some(199_u32.to_be_bytes().to_vec())));
}
