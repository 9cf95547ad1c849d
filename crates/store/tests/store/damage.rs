//! Databases that somebody or something changed behind the service's back: noticed, named, and nothing is done on them.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use gridseal_crypto::Key;
use gridseal_store::{Claim, ClaimError, SoleWriter, SqliteRecords, record_tag_key};
use gridseal_types::records::{Commit, Records, RecordsError, Write};

use crate::{scratch::Scratch, server};

fn put(table: &'static str, key: u8, value: u8) -> Write {
    Write { table, key: vec![key], value: Some(vec![value; 40]) }
}

/// Two meters with a lease each, written twice.
fn fill<S: SoleWriter>(store: &mut S, marker: &Path) {
    store.claim(Claim::IfFree, marker).unwrap();
    for value in [1, 2] {
        let rows = [put("lease", 1, value), put("lease", 2, value + 10), put("key", 1, value)];
        store.commit(rows.to_vec()).unwrap();
    }
}

/// How a change of rows comes out: what reading says, and what a claim says.
struct Outcome {
    read: Result<Option<Vec<u8>>, RecordsError>,
    claim: Result<u64, ClaimError>,
}

fn look<S: SoleWriter>(mut store: S, marker: &Path) -> Outcome {
    let read = store.get("lease", &[1]);
    Outcome { read, claim: store.claim(Claim::IfFree, marker) }
}

/// Changes of rows, as SQL of both engines, with the names of the tables filled in; and whether the row that is read
/// shows it before a claim does.
const CHANGES: [(&str, &str, bool); 8] = [
    (
        "swapped between meters",
        "UPDATE records SET value = (SELECT value FROM was WHERE tbl = records.tbl AND key <> records.key),
             tag = (SELECT tag FROM was WHERE tbl = records.tbl AND key <> records.key) WHERE tbl = 'lease'",
        true,
    ),
    (
        "copied from another table",
        "UPDATE records SET value = (SELECT value FROM was WHERE tbl = 'key'),
             tag = (SELECT tag FROM was WHERE tbl = 'key') WHERE tbl = 'lease' AND key = {1}",
        true,
    ),
    ("changed", "UPDATE records SET value = {2} WHERE tbl = 'lease' AND key = {1}", true),
    ("without its tag", "UPDATE records SET tag = NULL WHERE tbl = 'lease' AND key = {1}", true),
    (
        "put back to an older state",
        "UPDATE records SET value = (SELECT value FROM older WHERE tbl = 'lease' AND key = {1}),
             tag = (SELECT tag FROM older WHERE tbl = 'lease' AND key = {1}) WHERE tbl = 'lease' AND key = {1}",
        false,
    ),
    ("deleted", "DELETE FROM records WHERE tbl = 'lease' AND key = {2}", false),
    (
        "added from an older state",
        "INSERT INTO records(tbl, key, value, tag) SELECT tbl, {3}, value, tag FROM older WHERE tbl = 'key'",
        false,
    ),
    ("all put back, the marker new", "DELETE FROM records; INSERT INTO records SELECT * FROM older", false),
];

fn judge(name: &str, shows: bool, outcome: &Outcome) {
    if shows {
        assert_eq!(outcome.read, Err(RecordsError::Damaged), "{name}");
    } else {
        assert!(outcome.read.is_ok(), "{name}");
    }
    let code = match &outcome.claim {
        Err(error) => error.code(),
        Ok(_) => panic!("{name}: claimed"),
    };
    let expected: &[&str] = match name {
        "all put back, the marker new" => &["store.stale"],
        // The row does not fit its own key.
        "added from an older state" => &["store.damaged"],
        _ if shows => &["store.damaged"],
        _ => &["store.altered"],
    };
    assert!(expected.contains(&code), "{name}: {code}");
}

fn tag_key() -> Key<gridseal_crypto::role::RecordTag, 32> {
    record_tag_key(&Key::take(&mut [9; 32]))
}

#[test]
fn a_changed_moved_lost_or_older_row_is_noticed_in_a_file() {
    let scratch = Scratch::new("damage_rows");
    let (file, older) = (scratch.path().join("records.db"), scratch.path().join("older.db"));
    for (name, change, shows) in CHANGES {
        let marker = scratch.path().join("marker");
        for path in [&file, &older, &marker] {
            let _ = fs::remove_file(path);
        }
        let open = || SqliteRecords::open(&file).unwrap().authenticated_by(tag_key());
        let mut store = open();
        store.claim(Claim::IfFree, &marker).unwrap();
        store.commit(vec![put("lease", 1, 0), put("lease", 2, 0), put("key", 1, 0)]).unwrap();
        drop(store);
        fs::copy(&file, &older).unwrap();
        fill(&mut open(), &marker);
        let sql = rusqlite::Connection::open(&file).unwrap();
        sql.execute_batch(&format!(
            "ATTACH '{}' AS o; CREATE TEMP TABLE was AS SELECT * FROM main.records;
             CREATE TEMP TABLE older AS SELECT * FROM o.records; {}",
            older.display(),
            [1, 2, 3].iter().fold(change.to_owned(), |change, number| {
                change.replace(&format!("{{{number}}}"), &format!("x'0{number}'"))
            })
        ))
        .unwrap();
        drop(sql);
        judge(name, shows, &look(open(), &marker));
    }
}

#[test]
fn a_changed_moved_lost_or_older_row_is_noticed_in_postgresql() {
    let server = server::shared();
    let scratch = Scratch::new("damage_rows_pg");
    for (number, (name, change, shows)) in CHANGES.into_iter().enumerate() {
        let (schema, marker) = (format!("damage{number}"), scratch.path().join(number.to_string()));
        let open = || server.records(&schema).authenticated_by(tag_key());
        let mut store = open();
        store.claim(Claim::IfFree, &marker).unwrap();
        store.commit(vec![put("lease", 1, 0), put("lease", 2, 0), put("key", 1, 0)]).unwrap();
        drop(store);
        server.sql(&format!("CREATE TABLE {schema}.older AS TABLE {schema}.records"));
        fill(&mut open(), &marker);
        server.sql(&format!(
            "SET search_path = {schema}; CREATE TEMP TABLE was AS TABLE records; {}",
            [1, 2, 3].iter().fold(change.to_owned(), |change, number| {
                change.replace(&format!("{{{number}}}"), &format!("'\\x0{number}'::bytea"))
            })
        ));
        judge(name, shows, &look(open(), &marker));
    }
}

#[test]
fn a_database_without_tags_is_taken_only_when_that_is_said_and_keeps_them() {
    let scratch = Scratch::new("adopt");
    let (file, marker) = (scratch.path().join("records.db"), scratch.path().join("marker"));
    let plain = || SqliteRecords::open(&file).unwrap();
    fill(&mut plain(), &marker);
    let refused = plain().authenticated_by(tag_key()).claim(Claim::IfFree, &marker).unwrap_err();
    assert_eq!(refused.code(), "store.unauthenticated");
    let mut store = plain().authenticated_by(tag_key());
    store.claim(Claim::Adopt, &marker).unwrap();
    assert_eq!(store.get("lease", &[1]), Ok(Some(vec![2; 40])));
    store.commit(vec![put("lease", 3, 3)]).unwrap();
    drop(store);
    assert_eq!(plain().claim(Claim::IfFree, &marker).unwrap_err().code(), "store.key_missing");
    let other = record_tag_key(&Key::take(&mut [1; 32]));
    let refused = plain().authenticated_by(other).claim(Claim::IfFree, &marker).unwrap_err();
    assert_eq!(refused.code(), "store.damaged", "another key");
    plain().authenticated_by(tag_key()).claim(Claim::IfFree, &marker).unwrap();
}

#[test]
fn a_file_from_before_tags_is_brought_up_to_date() {
    let scratch = Scratch::new("upgrade");
    let file = scratch.path().join("records.db");
    rusqlite::Connection::open(&file)
        .unwrap()
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA application_id = 0x47537263; PRAGMA user_version = 1;
             CREATE TABLE records(tbl TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
                 PRIMARY KEY(tbl, key)) STRICT, WITHOUT ROWID;
             INSERT INTO records VALUES('lease', x'01', x'07')",
        )
        .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut store = SqliteRecords::open(&file).unwrap();
    assert_eq!(store.get("lease", &[1]), Ok(Some(vec![7])));
    store.commit(vec![put("lease", 1, 8)]).unwrap();
    drop(store);
    assert_eq!(SqliteRecords::open(&file).unwrap().get("lease", &[1]), Ok(Some(vec![8; 40])));
}

/// All rows but the writer's own.
fn content(store: &SqliteRecords) -> Result<Vec<Vec<u8>>, RecordsError> {
    let mut all = Vec::new();
    for table in ["lease", "key", "log"] {
        all.extend(store.range(table, &[], 1_000)?.into_iter().flat_map(|(key, value)| [key, value]));
    }
    Ok(all)
}

/// Opens, claims and reads: the content, or the code of the refusal.
fn content_or_code(file: &Path, marker: &Path) -> Result<Vec<Vec<u8>>, String> {
    let store = SqliteRecords::open(file).map_err(|error| format!("open: {error}"))?;
    let mut store = store.authenticated_by(tag_key());
    store.claim(Claim::IfFree, marker).map_err(|error| error.code().to_owned())?;
    content(&store).map_err(|error| error.code().to_owned())
}

#[test]
fn a_cut_or_bit_flipped_file_is_refused_or_reads_as_it_was_written() {
    let scratch = Scratch::new("flips");
    let [file, marker, bad, bad_marker] =
        ["records.db", "marker", "bad.db", "bad_marker"].map(|name| scratch.path().join(name));
    let mut store = SqliteRecords::open(&file).unwrap().authenticated_by(tag_key());
    fill(&mut store, &marker);
    let log = |key| Write { table: "log", key: vec![key], value: Some(vec![key; 9_000]) };
    store.commit((1..4).map(log).collect()).unwrap();
    let expected = content(&store).unwrap();
    drop(store);
    let whole = fs::read(&file).unwrap();
    let mut refused = 0;
    let mut try_with = |bytes: &[u8], what: &str| {
        for suffix in ["", "-wal", "-shm", "-writer"] {
            let _ = fs::remove_file(format!("{}{suffix}", bad.display()));
        }
        fs::write(&bad, bytes).unwrap();
        fs::set_permissions(&bad, fs::Permissions::from_mode(0o600)).unwrap();
        fs::copy(&marker, &bad_marker).unwrap();
        match content_or_code(&bad, &bad_marker) {
            Ok(found) => assert!(found == expected, "{what}: other content without a word"),
            Err(_) => refused += 1,
        }
    };
    // Every bit of the header's bytes one by one would take long: bytes at a stride that no structure divides.
    for offset in (0..100).chain((100..whole.len()).step_by(61)) {
        let mut bytes = whole.clone();
        bytes[offset] ^= 1 << (offset % 8);
        try_with(&bytes, &format!("bit of byte {offset}"));
    }
    for size in (0..whole.len()).step_by(2_048 + 7) {
        try_with(&whole[..size], &format!("cut to {size}"));
    }
    assert!(refused > 300, "{refused} refused");
}

#[test]
fn a_log_of_the_database_that_lost_its_end_is_noticed() {
    let scratch = Scratch::new("wal");
    let [file, marker, bad] = ["records.db", "marker", "bad.db"].map(|name| scratch.path().join(name));
    let mut store = SqliteRecords::open(&file).unwrap().authenticated_by(tag_key());
    fill(&mut store, &marker);
    let log = fs::read(scratch.path().join("records.db-wal")).unwrap();
    for (what, size, flip) in
        [("cut", log.len() - 100, None), ("flipped", log.len(), Some(log.len() - 2_000))]
    {
        let mut bytes = log[..size].to_vec();
        if let Some(offset) = flip {
            bytes[offset] ^= 1;
        }
        fs::copy(&file, &bad).unwrap();
        let _ = fs::remove_file(scratch.path().join("bad.db-shm"));
        fs::write(scratch.path().join("bad.db-wal"), bytes).unwrap();
        let bad_marker = scratch.path().join("bad_marker");
        fs::copy(&marker, &bad_marker).unwrap();
        assert_eq!(content_or_code(&bad, &bad_marker), Err("store.stale".into()), "{what}");
        // Without the damage it is taken: the test can fail.
        fs::remove_file(scratch.path().join("bad.db-shm")).ok();
        fs::copy(&file, &bad).unwrap();
        fs::write(scratch.path().join("bad.db-wal"), &log).unwrap();
        fs::copy(&marker, &bad_marker).unwrap();
        assert!(content_or_code(&bad, &bad_marker).is_ok());
    }
}

#[test]
fn a_full_file_at_each_write_changes_nothing_and_says_so() {
    let scratch = Scratch::new("full_pages");
    let (file, marker) = (scratch.path().join("records.db"), scratch.path().join("marker"));
    let mut store = SqliteRecords::open(&file).unwrap().authenticated_by(tag_key());
    store.claim(Claim::IfFree, &marker).unwrap();
    let batch = |value: u8| -> Vec<Write> {
        (0..20).map(|key| Write { table: "lease", key: vec![key], value: Some(vec![value; 3_000]) }).collect()
    };
    store.commit(vec![put("key", 1, 1)]).unwrap();
    let mut full = 0;
    for pages in 1.. {
        store.limit_pages(pages).unwrap();
        let before = content(&store).unwrap();
        let done = store.transact(|_| Ok::<_, RecordsError>((batch(1), ())));
        if done.is_ok() {
            break;
        }
        assert_eq!(done, Err(RecordsError::Full), "{pages} pages");
        assert_eq!(content(&store).unwrap(), before, "{pages} pages");
        full += 1;
    }
    assert!(full > 10, "{full} different rows were the last straw");
    drop(store);
    let mut store = SqliteRecords::open(&file).unwrap().authenticated_by(tag_key());
    store.claim(Claim::IfFree, &marker).unwrap();
    assert_eq!(store.get("lease", &[19]), Ok(Some(vec![1; 3_000])), "and the tags add up");
}
