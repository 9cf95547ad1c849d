//! Which files are opened, and that the others stay as they are.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use gridseal_store::{OpenError, SqliteRecords};
use gridseal_types::records::{Commit, Records, Write};

use crate::scratch::Scratch;

fn row() -> Vec<Write> {
    vec![Write { table: "a", key: b"k".to_vec(), value: Some(b"v".to_vec()) }]
}

#[test]
fn what_was_committed_is_there_after_reopening_and_beside_another_handle() {
    let scratch = Scratch::new("reopen");
    let path = scratch.path().join("records.db");
    let mut first = SqliteRecords::open(&path).unwrap();
    let second = SqliteRecords::open(&path).unwrap();
    first.commit(row()).unwrap();
    assert_eq!(second.get("a", b"k"), Ok(Some(b"v".to_vec())));
    drop((first, second));
    assert_eq!(SqliteRecords::open(&path).unwrap().get("a", b"k"), Ok(Some(b"v".to_vec())));
}

#[test]
fn files_of_the_database_are_the_owners_alone() {
    let scratch = Scratch::new("mode");
    let path = scratch.path().join("records.db");
    let mut store = SqliteRecords::open(&path).unwrap();
    store.commit(row()).unwrap();
    let files: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "database, log and its index");
    for file in files {
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let scratch = Scratch::new("exposed");
    let path = scratch.path().join("records.db");
    drop(SqliteRecords::open(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(SqliteRecords::open(&path), Err(OpenError::Exposed { mode: 0o640 })));
}

#[test]
fn a_file_of_something_else_or_of_another_version_is_refused_and_stays_as_it_is() {
    let scratch = Scratch::new("foreign");
    let refused = |name: &str, change: &str| {
        let path = scratch.path().join(name);
        drop(SqliteRecords::open(&path).unwrap());
        rusqlite::Connection::open(&path).unwrap().execute_batch(change).unwrap();
        let before = fs::read(&path).unwrap();
        let error = SqliteRecords::open(&path).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), before, "{name}");
        error
    };
    let error = refused("version", "PRAGMA user_version = 9");
    assert_eq!(error.to_string(), "database file has schema version 9, this program knows 2");
    let error = refused("foreign", "PRAGMA application_id = 7; PRAGMA journal_mode = DELETE");
    assert!(matches!(error, OpenError::Foreign { found: 7, .. }), "{error}");

    let path = scratch.path().join("text");
    fs::write(&path, "not a database, but a text that somebody would miss").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(SqliteRecords::open(&path), Err(OpenError::Sqlite(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    // Nobody makes files here, whatever his rights.
    assert!(matches!(SqliteRecords::open("/proc/records.db"), Err(OpenError::Io(_))));
    let scratch = Scratch::new("folder");
    assert!(matches!(SqliteRecords::open(scratch.path().join("none/records.db")), Err(OpenError::Io(_))));
    let locked = scratch.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    // Permissions do not bind a superuser: then there is nothing to see.
    if fs::write(locked.join("probe"), "").is_err() {
        assert!(matches!(SqliteRecords::open(locked.join("records.db")), Err(OpenError::Io(_))));
        assert_eq!(fs::read_dir(&locked).unwrap().count(), 0);
    }
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
}
