//! Replicated commits of SQLite: the standby has them before the writer hears that they are done.

use std::sync::{Arc, Mutex};

use gridseal_store::{Claim, SoleWriter, SqliteRecords, Standby, StandbyRecords};
use gridseal_types::records::{Commit, Durability, Records, RecordsError, Write};

use crate::scratch::Scratch;

fn put(value: u8) -> Vec<Write> {
    vec![Write { table: "a", key: b"k".to_vec(), value: Some(vec![value]) }]
}

/// A standby behind a link that can be cut, before or after the changes went over.
#[derive(Debug, Clone)]
struct Link {
    far: Arc<Mutex<StandbyRecords<SqliteRecords>>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Up,
    Down,
    /// Takes changes, and its acknowledgements are lost.
    Silent,
}

impl Link {
    fn is(&self, state: State) -> bool {
        *self.state.lock().unwrap() == state
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
    }

    fn value(&self) -> Option<u8> {
        self.far.lock().unwrap().records().get("a", b"k").unwrap().map(|value| value[0])
    }
}

impl Standby for Link {
    fn is_ready(&mut self, number: u64) -> bool {
        !self.is(State::Down) && self.far.lock().unwrap().is_ready(number)
    }
    fn ship(&mut self, number: u64, writes: &[Write]) {
        if !self.is(State::Down) {
            self.far.lock().unwrap().ship(number, writes);
        }
    }
    fn has_acknowledged(&mut self, number: u64) -> bool {
        self.is(State::Up) && self.far.lock().unwrap().has_acknowledged(number)
    }
}

#[test]
fn what_must_be_replicated_is_at_the_standby_or_refused() {
    let scratch = Scratch::new("standby");
    let (file, copy) = (scratch.path().join("records.db"), scratch.path().join("standby.db"));
    let marker = scratch.path().join("marker");
    let mut writer = SqliteRecords::open(&file).unwrap();
    writer.claim(Claim::IfFree, &marker).unwrap();
    assert_eq!(writer.commit_with(put(1), Durability::Replicated), Err(RecordsError::Unreplicated));
    assert_eq!(writer.get("a", b"k"), Ok(None), "without a standby nothing is done");
    drop(writer);

    let open_standby = || {
        std::fs::copy(&file, &copy).unwrap();
        let far = StandbyRecords::new(SqliteRecords::open(&copy).unwrap().as_standby()).unwrap();
        Link { far: Arc::new(Mutex::new(far)), state: Arc::new(Mutex::new(State::Up)) }
    };
    let mut writer = SqliteRecords::open(&file).unwrap();
    writer.claim(Claim::IfFree, &marker).unwrap();
    drop(writer);
    let link = open_standby();
    let mut writer = SqliteRecords::open(&file).unwrap().replicated_to(link.clone());
    writer.claim(Claim::IfFree, &marker).unwrap();
    let value = |writer: &SqliteRecords| writer.get("a", b"k").unwrap().map(|value| value[0]);

    writer.commit_with(put(2), Durability::Replicated).unwrap();
    assert_eq!(link.value(), Some(2));
    writer.commit(put(3)).unwrap();
    assert_eq!(link.value(), Some(3), "it gets everything");

    link.set(State::Silent);
    assert_eq!(writer.commit_with(put(4), Durability::Replicated), Err(RecordsError::Unreplicated));
    assert_eq!(value(&writer), Some(4), "durable here, as the code says");
    link.set(State::Down);
    assert_eq!(writer.commit_with(put(5), Durability::Replicated), Err(RecordsError::Unreplicated));
    assert_eq!(value(&writer), Some(4), "known before: nothing is done");
    writer.commit(put(6)).unwrap();
    link.set(State::Up);
    assert_eq!(writer.commit_with(put(7), Durability::Replicated), Err(RecordsError::Unreplicated));
    assert_eq!(link.value(), Some(4), "a standby with a gap takes nothing more");
    drop((writer, link));

    let link = open_standby();
    let mut writer = SqliteRecords::open(&file).unwrap().replicated_to(link.clone());
    writer.claim(Claim::IfFree, &marker).unwrap();
    writer.commit_with(put(8), Durability::Replicated).unwrap();
    assert_eq!(link.value(), Some(8), "a new copy goes on");
    assert_eq!(
        SqliteRecords::open(&copy).unwrap().commit(put(9)),
        Err(RecordsError::Fenced),
        "nobody else writes to the copy"
    );
}
