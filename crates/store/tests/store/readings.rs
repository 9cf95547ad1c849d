//! What any store of readings and admissions must do, written once and run on each.

use std::{fs, path::Path};

use gridseal_crypto::{Key, Rng, RngError, role::Dek};
use gridseal_headend::{
    LIST_MAX, ReadingFilter, ReadingStore,
    StoreOutcome::{Conflict, Duplicate, Stored},
    admission::{AdmissionStore, Change, Standing, lookup, record},
    memory::{MemoryAdmissions, MemoryReadings},
};
use gridseal_store::{Access, OpenError, ReadingsError, SqliteReadings};
use gridseal_types::{
    DeviceState, Digest, ObisCode, Quality, Reading, ReadingKey, SystemTitle, Unit, UtcTime,
    service::admission::Admission,
};

use crate::scratch::Scratch;

/// Different bytes each time, the same in every run.
pub(crate) struct CountingRng(pub(crate) u64);

impl Rng for CountingRng {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for byte in buffer {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 33) as u8;
        }
        Ok(())
    }
}

fn key(byte: u8) -> Key<Dek, 32> {
    Key::take(&mut [byte; 32])
}

fn sealed(path: &Path) -> SqliteReadings {
    SqliteReadings::open(path, key(1), CountingRng(1)).unwrap()
}

fn reading(start: u64, meter: u8, value: i64) -> Reading {
    let key = ReadingKey {
        start: UtcTime(start),
        meter: SystemTitle([meter; 8]),
        obis: ObisCode::ACTIVE_ENERGY_IMPORT,
    };
    Reading { key, interval_s: 900, value, unit: Unit::WattHour, quality: Quality(0) }
}

fn a_key_is_stored_once_and_another_value_is_kept_beside_the_first(mut store: impl ReadingStore) {
    let first = reading(0, 1, 5);
    assert_eq!(store.store(&[]).unwrap(), []);
    let outcomes =
        store.store(&[first, first, reading(0, 1, 6), reading(0, 1, 6), reading(0, 1, 7)]).unwrap();
    assert_eq!(outcomes, [Stored, Duplicate, Conflict, Duplicate, Conflict]);
    let outcomes = store.store(&[reading(0, 1, 7), first, reading(0, 2, 5), reading(1, 1, 5)]).unwrap();
    assert_eq!(outcomes, [Duplicate, Duplicate, Stored, Stored]);
    // Every part of a reading that is not its key counts as its value.
    let differing = [
        Reading { interval_s: 60, ..first },
        Reading { unit: Unit::VarHour, ..first },
        Reading { quality: Quality(1), ..first },
        Reading { value: i64::MIN, ..first },
    ];
    assert_eq!(store.store(&differing).unwrap(), [Conflict; 4]);
    assert_eq!(
        store.list(&ReadingFilter { until: Some(UtcTime(1)), ..Default::default() }).unwrap(),
        [first, reading(0, 2, 5)]
    );
}

fn lists_are_ordered_filtered_and_paged(mut store: impl ReadingStore) {
    let obis = |reading: Reading, group| Reading {
        key: ReadingKey { obis: ObisCode::new([1, 0, group, 8, 0, 255]), ..reading.key },
        ..reading
    };
    let all: Vec<_> = (0..4u64)
        .flat_map(|start| {
            (1..=2).flat_map(move |meter| [1, 2].map(|group| obis(reading(start, meter, -1), group)))
        })
        .collect();
    store.store(&all.iter().rev().copied().collect::<Vec<_>>()).unwrap();
    let none = ReadingFilter::default();
    let list = |filter: ReadingFilter| {
        let found = store.list(&filter).unwrap();
        let expected: Vec<_> = all.iter().filter(|reading| filter.matches(&reading.key)).copied().collect();
        assert_eq!(found, expected[..expected.len().min(filter.limit)], "{filter:?}");
        found
    };
    assert_eq!(list(none), all);
    for (meter, group) in
        [(None, None), (Some(2), None), (None, Some(2)), (Some(1), Some(1)), (Some(3), None)]
    {
        let of = ReadingFilter {
            meter: meter.map(|meter| SystemTitle([meter; 8])),
            obis: group.map(|group| ObisCode::new([1, 0, group, 8, 0, 255])),
            ..none
        };
        for (from, until) in
            [(None, None), (Some(1), Some(3)), (Some(2), None), (None, Some(0)), (Some(3), Some(3))]
        {
            let span = ReadingFilter { from: from.map(UtcTime), until: until.map(UtcTime), ..of };
            list(span);
            list(ReadingFilter { limit: 3, ..span });
            list(ReadingFilter { after: Some(all[6].key), ..span });
        }
    }
    let mut pages = Vec::new();
    let mut after = None;
    while let [.., last] = list(ReadingFilter { limit: 3, after, ..none })[..] {
        after = Some(last.key);
        pages.push(last);
    }
    assert_eq!(pages.len(), 6);
    assert_eq!(list(ReadingFilter { limit: 0, ..none }), []);
    assert_eq!(
        list(ReadingFilter { from: Some(UtcTime(u64::MAX)), until: Some(UtcTime(u64::MAX)), ..none }),
        []
    );
}

fn a_list_has_a_limit_whatever_is_asked(mut store: impl ReadingStore) {
    let readings: Vec<_> = (0..LIST_MAX as u64 + 1).map(|start| reading(start, 1, 0)).collect();
    store.store(&readings).unwrap();
    let filter = ReadingFilter { limit: usize::MAX, ..Default::default() };
    assert_eq!(store.list(&filter).unwrap(), readings[..LIST_MAX]);
}

fn the_newest_admission_counts_and_a_tls_key_has_one_meter(mut store: impl AdmissionStore) {
    let admission = |meter: u8, key: u8, state, revision| Admission {
        meter: SystemTitle([meter; 8]),
        tls_key: Digest([key; 32]),
        state,
        revision,
    };
    let operating = admission(1, 1, DeviceState::Operating, 1);
    assert!(matches!(lookup(&store, &Digest([1; 32])), Ok(Standing::Unknown)));
    assert_eq!(record(&mut store, &operating).unwrap(), Change::Applied);
    assert_eq!(store.by_meter(operating.meter).unwrap(), Some(operating.clone()));
    assert_eq!(store.by_tls_key(&operating.tls_key).unwrap(), Some(operating.clone()));
    assert!(record(&mut store, &admission(2, 1, DeviceState::Operating, 1)).is_err());
    record(&mut store, &admission(1, 2, DeviceState::Suspended, 2)).unwrap();
    assert_eq!(store.by_tls_key(&Digest([1; 32])).unwrap(), None, "the former key is nobody's");
    assert!(matches!(lookup(&store, &Digest([2; 32])), Ok(Standing::Held { .. })));
    record(&mut store, &admission(2, 1, DeviceState::Operating, 1)).unwrap();
    assert!(matches!(lookup(&store, &Digest([1; 32])), Ok(Standing::Served(_))));
}

/// Runs each rule on each store.
macro_rules! conformance {
    ($memory:ty: $($rule:ident)*) => {
        mod memory {
            $(#[test] fn $rule() { super::$rule(<$memory>::default()); })*
        }
        conformance!(@sqlite clear "clear" super::SqliteReadings::danger_open_clear => $($rule)*);
        conformance!(@sqlite sealed "sealed" super::open_sealed => $($rule)*);
    };
    (@sqlite $module:ident $name:literal $open:path => $($rule:ident)*) => {
        mod $module {
            $(#[test] fn $rule() {
                let scratch = super::Scratch::new(concat!($name, "-", stringify!($rule)));
                super::$rule($open(scratch.path().join("readings.db")).unwrap());
            })*
        }
    };
}

fn open_sealed(path: impl AsRef<Path>) -> Result<SqliteReadings, OpenError> {
    SqliteReadings::open(path, key(1), CountingRng(1))
}

conformance! {
    super::MemoryReadings:
    a_key_is_stored_once_and_another_value_is_kept_beside_the_first
    lists_are_ordered_filtered_and_paged
    a_list_has_a_limit_whatever_is_asked
}

mod admissions {
    use super::{
        MemoryAdmissions, SqliteReadings, the_newest_admission_counts_and_a_tls_key_has_one_meter as rule,
    };

    #[test]
    fn in_memory() {
        rule(MemoryAdmissions::default());
    }

    #[test]
    fn in_sqlite() {
        rule(SqliteReadings::in_memory().unwrap());
    }
}

#[test]
fn readings_conflicts_and_admissions_are_there_after_reopening() {
    let scratch = Scratch::new("readings-reopen");
    let path = scratch.path().join("readings.db");
    let admission = Admission {
        meter: SystemTitle([1; 8]),
        tls_key: Digest([1; 32]),
        state: DeviceState::Operating,
        revision: 1,
    };
    let mut store = sealed(&path);
    store.store(&[reading(0, 1, 5), reading(0, 1, 6)]).unwrap();
    store.put(&admission).unwrap();
    drop(store);
    let mut store = sealed(&path);
    assert_eq!(
        store.store(&[reading(0, 1, 5), reading(0, 1, 6), reading(0, 1, 7)]).unwrap(),
        [Duplicate, Duplicate, Conflict]
    );
    assert_eq!(store.by_meter(admission.meter).unwrap(), Some(admission));
    let all = ReadingFilter::default();
    assert_eq!(
        store.list_conflicts_for(Access::UNSTATED, &all).unwrap(),
        [reading(0, 1, 6), reading(0, 1, 7)]
    );
    assert_eq!(store.count(&all).unwrap(), 1);
    assert_eq!(store.count(&ReadingFilter { meter: Some(SystemTitle([2; 8])), ..all }).unwrap(), 0);
}

#[test]
fn a_batch_with_a_reading_that_cannot_be_stored_stores_nothing() {
    let mut store = SqliteReadings::in_memory().unwrap();
    let result = store.store(&[reading(0, 1, 5), reading(u64::MAX, 1, 5)]);
    assert!(matches!(result, Err(ReadingsError::Start { start: UtcTime(u64::MAX) })));
    assert_eq!(store.count(&ReadingFilter::default()).unwrap(), 0);
}

#[test]
fn sealed_readings_show_no_value_and_the_same_value_twice_looks_different() {
    let scratch = Scratch::new("readings-sealed");
    const VALUE: i64 = 0x1234_5678_9abc_def0;
    for (name, shows) in [("clear.db", 3), ("sealed.db", 0)] {
        let path = scratch.path().join(name);
        let mut store =
            if shows == 0 { sealed(&path) } else { SqliteReadings::danger_open_clear(&path).unwrap() };
        store
            .store(&[reading(0, 1, VALUE), reading(0, 2, VALUE), reading(0, 2, 1), reading(900, 1, VALUE)])
            .unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        let contents: Vec<Vec<u8>> = connection
            .prepare("SELECT content FROM reading UNION SELECT content FROM conflict")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        if shows == 0 {
            assert_eq!(contents.len(), 4, "union drops what is equal");
        }
        drop(store);
        drop(connection);
        let bytes = fs::read(&path).unwrap();
        let needle = VALUE.to_be_bytes();
        assert_eq!(bytes.windows(8).filter(|window| *window == needle).count(), shows, "{name}");
    }
}

#[test]
fn a_file_opens_only_under_its_own_key() {
    let scratch = Scratch::new("readings-key");
    let path = scratch.path().join("sealed.db");
    drop(sealed(&path));
    assert!(matches!(SqliteReadings::open(&path, key(2), CountingRng(1)), Err(OpenError::Key)));
    assert!(matches!(SqliteReadings::danger_open_clear(&path), Err(OpenError::Key)));
    drop(sealed(&path));
    let path = scratch.path().join("clear.db");
    drop(SqliteReadings::danger_open_clear(&path).unwrap());
    assert!(matches!(SqliteReadings::open(&path, key(1), CountingRng(1)), Err(OpenError::Key)));
    drop(SqliteReadings::danger_open_clear(&path).unwrap());
}

#[test]
fn a_row_that_was_changed_or_moved_does_not_open() {
    let scratch = Scratch::new("readings-moved");
    let path = scratch.path().join("readings.db");
    let mut store = sealed(&path);
    store.store(&[reading(0, 1, 5), reading(0, 2, 6), reading(0, 2, 7)]).unwrap();
    let all = ReadingFilter::default();
    let connection = rusqlite::Connection::open(&path).unwrap();
    for change in [
        "UPDATE reading SET meter = x'0303030303030303' WHERE meter = x'0101010101010101'",
        "UPDATE reading SET start = 900 WHERE meter = x'0101010101010101'",
        "UPDATE reading SET obis = x'0100020800ff' WHERE meter = x'0101010101010101'",
        "UPDATE reading SET content = (SELECT content FROM conflict) WHERE meter = x'0202020202020202'",
        "UPDATE reading SET content = x''",
    ] {
        connection.execute_batch(&format!("SAVEPOINT s; {change}; RELEASE s")).unwrap();
        assert!(matches!(store.list(&all), Err(ReadingsError::Envelope(_))), "{change}");
        connection.execute_batch("DELETE FROM reading; DELETE FROM conflict").unwrap();
        store.store(&[reading(0, 1, 5), reading(0, 2, 6), reading(0, 2, 7)]).unwrap();
        assert_eq!(store.list(&all).unwrap().len(), 2);
    }
}

#[test]
fn every_list_is_on_record_with_its_purpose_and_stays_there() {
    let scratch = Scratch::new("readings-access");
    let path = scratch.path().join("readings.db");
    let mut store = sealed(&path);
    store.store(&[reading(0, 1, 5), reading(0, 2, 6)]).unwrap();
    let all = ReadingFilter::default();
    let of_one = ReadingFilter { meter: Some(SystemTitle([1; 8])), limit: 5, ..all };
    let access = Access { at: Some(UtcTime(77)), who: "anna", purpose: "case C-4711" };
    store.list_for(access, &of_one).unwrap();
    store.list(&all).unwrap();
    store.list_conflicts_for(access, &ReadingFilter { meter: Some(SystemTitle([2; 8])), ..all }).unwrap();
    for (who, purpose) in [("", "billing"), ("anna", " "), ("anna", "x".repeat(257).as_str())] {
        let refused = store.list_for(Access { at: None, who, purpose }, &all);
        assert!(matches!(refused, Err(ReadingsError::Access)));
    }
    let of_meter_one = store.accesses(of_one.meter, 0, 10).unwrap();
    let told: Vec<_> =
        of_meter_one.iter().map(|one| (one.who.as_str(), one.purpose.as_str(), one.readings)).collect();
    assert_eq!(told, [("anna", "case C-4711", 1), ("unnamed", "unstated", 2)]);
    assert_eq!(of_meter_one[0].at, UtcTime(77));
    assert_eq!(of_meter_one[0].filter, "meter=0101010101010101 limit=5");
    assert!(of_meter_one[1].at > UtcTime(1_700_000_000), "the database's clock");
    assert_eq!(store.accesses(None, 1, 10).unwrap().len(), 2);
    let connection = rusqlite::Connection::open(&path).unwrap();
    assert!(connection.execute_batch("DELETE FROM access").is_err());
    assert!(connection.execute_batch("UPDATE access SET who = 'nobody'").is_err());
}
