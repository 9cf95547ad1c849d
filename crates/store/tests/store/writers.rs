//! One writer for one database: the second is refused or the first is fenced, and an older database is noticed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gridseal_store::{Claim, ClaimError, SoleWriter, SqliteRecords, Transact};
use gridseal_types::records::{Overlay, Records, RecordsError, Write};

use crate::scratch::Scratch;

/// Opens the database of one test, keeps a copy of it, and puts the copy back.
struct Place<O, S, B> {
    open: O,
    save: S,
    put_back: B,
    marker: PathBuf,
}

/// Runs a rule on a file and on a schema.
macro_rules! on_both {
    ($($rule:ident)*) => {
        mod sqlite {
            use super::*;
            $(#[test] fn $rule() {
                let scratch = Scratch::new(&format!("writers_{}", stringify!($rule)));
                let file = scratch.path().join("records.db");
                let copy = scratch.path().join("copy.db");
                super::$rule(&Place {
                    open: || SqliteRecords::open(&file).unwrap(),
                    save: || { fs::copy(&file, &copy).unwrap(); },
                    put_back: || { fs::copy(&copy, &file).unwrap(); },
                    marker: scratch.path().join("marker"),
                });
            })*
        }
        #[test]
        fn postgresql_keeps_every_rule() {
            let server = crate::server::shared();
            $(
                println!("{}", stringify!($rule));
                let scratch = Scratch::new(&format!("writers_pg_{}", stringify!($rule)));
                let schema = format!("w_{:.40}", stringify!($rule));
                $rule(&Place {
                    open: || server.records(&schema),
                    save: || { server.sql(&format!("CREATE TABLE {schema}.copy AS TABLE {schema}.records")); },
                    put_back: || {
                        server.sql(&format!(
                            "TRUNCATE {schema}.records; INSERT INTO {schema}.records TABLE {schema}.copy"
                        ));
                    },
                    marker: scratch.path().join("marker"),
                });
            )*
        }
    };
}

on_both! {
    a_second_writer_is_refused_while_the_first_lives
    a_writer_that_was_pushed_aside_is_fenced_and_writes_nothing
    who_has_not_claimed_only_reads
    an_older_database_that_was_put_back_is_refused
    a_lost_or_damaged_marker_is_refused_and_a_torn_one_is_not
    nobody_commits_between_a_decision_and_its_commit
}

fn put(value: u8) -> Vec<Write> {
    vec![Write { table: "a", key: b"k".to_vec(), value: Some(vec![value]) }]
}

fn value(records: &impl Records) -> Option<u8> {
    records.get("a", b"k").unwrap().map(|value| value[0])
}

fn a_second_writer_is_refused_while_the_first_lives<R: SoleWriter>(
    place: &Place<impl Fn() -> R, impl Fn(), impl Fn()>,
) {
    let (mut first, mut second) = ((place.open)(), (place.open)());
    let epoch = first.claim(Claim::IfFree, &place.marker).unwrap();
    let refused = second.claim(Claim::IfFree, &place.marker).unwrap_err();
    assert!(matches!(refused, ClaimError::Occupied), "{refused}");
    assert_eq!(refused.code(), "store.occupied");
    first.commit(put(1)).unwrap();
    drop(first);
    assert_eq!(second.claim(Claim::IfFree, &place.marker).unwrap(), epoch + 1);
    second.commit(put(2)).unwrap();
    assert_eq!(value(&second), Some(2));
}

fn a_writer_that_was_pushed_aside_is_fenced_and_writes_nothing<R: SoleWriter>(
    place: &Place<impl Fn() -> R, impl Fn(), impl Fn()>,
) {
    let (mut first, mut second) = ((place.open)(), (place.open)());
    first.claim(Claim::IfFree, &place.marker).unwrap();
    first.commit(put(1)).unwrap();
    second.claim(Claim::Force, &place.marker).unwrap();
    second.commit(put(2)).unwrap();
    let mut was_asked = false;
    let fenced = first.transact(|_| {
        was_asked = true;
        Ok::<_, RecordsError>((put(3), ()))
    });
    assert_eq!(fenced, Err(RecordsError::Fenced));
    assert!(!was_asked, "it does not even decide");
    assert_eq!(RecordsError::Fenced.code(), "store.fenced");
    assert_eq!(value(&first), Some(2), "it reads on");
    second.commit(put(4)).unwrap();
    assert_eq!(value(&first), Some(4));
}

fn who_has_not_claimed_only_reads<R: SoleWriter>(place: &Place<impl Fn() -> R, impl Fn(), impl Fn()>) {
    let (mut writer, mut other) = ((place.open)(), (place.open)());
    other.commit(put(1)).unwrap();
    writer.claim(Claim::IfFree, &place.marker).unwrap();
    assert_eq!(other.commit(put(2)), Err(RecordsError::Fenced));
    drop(writer);
    assert_eq!(other.commit(put(2)), Err(RecordsError::Fenced), "the writer may come back");
    assert_eq!(value(&other), Some(1));
}

fn an_older_database_that_was_put_back_is_refused<R: SoleWriter>(
    place: &Place<impl Fn() -> R, impl Fn(), impl Fn()>,
) {
    let mut writer = (place.open)();
    let epoch = writer.claim(Claim::IfFree, &place.marker).unwrap();
    writer.commit(put(1)).unwrap();
    drop(writer);
    (place.save)();
    let mut writer = (place.open)();
    writer.claim(Claim::IfFree, &place.marker).unwrap();
    drop(writer);
    (place.put_back)();
    let mut writer = (place.open)();
    let refused = writer.claim(Claim::IfFree, &place.marker).unwrap_err();
    assert!(matches!(refused, ClaimError::Stale { .. }), "a claim alone is noticed: {refused}");
    assert_eq!(refused.code(), "store.stale");
    assert!(matches!(writer.claim(Claim::Force, &place.marker), Err(ClaimError::Stale { .. })));
    assert_eq!(value(&writer), Some(1), "it can be looked at");
    let restored = writer.claim(Claim::Restored, &place.marker).unwrap();
    assert!(restored > epoch + 1, "above every epoch that was");
    for number in 2..4 {
        writer.commit(put(number)).unwrap();
    }
    drop(writer);
    (place.put_back)();
    let refused = (place.open)().claim(Claim::IfFree, &place.marker).unwrap_err();
    assert!(matches!(refused, ClaimError::Stale { .. }), "{refused}");
}

fn a_lost_or_damaged_marker_is_refused_and_a_torn_one_is_not<R: SoleWriter>(
    place: &Place<impl Fn() -> R, impl Fn(), impl Fn()>,
) {
    let claim = |claim| (place.open)().claim(claim, &place.marker);
    let mut writer = (place.open)();
    writer.claim(Claim::IfFree, &place.marker).unwrap();
    writer.commit(put(1)).unwrap();
    drop(writer);
    let whole = fs::read(&place.marker).unwrap();
    assert_eq!(whole.len(), 64, "two copies");
    let change = |offset: usize| {
        let mut bytes = whole.clone();
        bytes[offset] ^= 1;
        bytes
    };
    let with = |bytes: &[u8]| fs::write(&place.marker, bytes).unwrap();
    let mut both = change(15);
    both[47] ^= 1;
    with(&both);
    assert!(matches!(claim(Claim::IfFree), Err(ClaimError::MarkerDamaged)));
    with(&whole[..10]);
    assert!(matches!(claim(Claim::IfFree), Err(ClaimError::MarkerDamaged)));
    fs::remove_file(&place.marker).unwrap();
    assert!(matches!(claim(Claim::IfFree), Err(ClaimError::MarkerMissing { found: 2 })));
    with(&change(20));
    claim(Claim::IfFree).unwrap();
    with(&change(40));
    claim(Claim::IfFree).unwrap();
    fs::remove_file(&place.marker).unwrap();
    claim(Claim::Restored).unwrap();
    claim(Claim::IfFree).unwrap();
}

fn nobody_commits_between_a_decision_and_its_commit<R: SoleWriter + Send>(
    place: &Place<impl Fn() -> R, impl Fn(), impl Fn()>,
) {
    fn count_up<R: Transact>(records: &R) -> Result<(Vec<Write>, u64), RecordsError> {
        let mut overlay = Overlay::new(records);
        let count = overlay.load::<u64>("count", b"")?.unwrap_or(0) + 1;
        overlay.save("count", b"", &count);
        Ok((overlay.into_writes(), count))
    }
    let (mut first, mut second) = ((place.open)(), (place.open)());
    std::thread::scope(|scope| {
        let (begun, begins) = std::sync::mpsc::channel();
        let other = first.transact(|records| {
            let decided = count_up(records)?;
            let other = scope.spawn(move || {
                begun.send(()).unwrap();
                second.transact(count_up)
            });
            begins.recv().unwrap();
            Ok::<_, RecordsError>((decided.0, other))
        });
        assert_eq!(other.unwrap().join().unwrap(), Ok(2), "it waited, and counted on");
    });
}

#[test]
fn files_of_the_writer_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new("writer_modes");
    let (file, marker) = (scratch.path().join("records.db"), scratch.path().join("marker"));
    let mut writer = SqliteRecords::open(&file).unwrap();
    writer.claim(Claim::IfFree, &marker).unwrap();
    for path in [marker.as_path(), Path::new(&format!("{}-writer", file.display()))] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
}
