//! Several processes on one file, processes that are killed, disks that are full: the state on disk stays whole.
//!
//! A test starts this very file again as the process it needs, and tells it over standard input which database to use.

use std::{
    io::{BufRead, BufReader, Write as _, stdin, stdout},
    path::Path,
    process::{Child, Command, Stdio},
};

use gridseal_store::SqliteRecords;
use gridseal_trust::audit::{AUDIT, Act, append, end, verify_chain};
use gridseal_types::{
    UtcTime,
    records::{Commit, Overlay, Records, RecordsError, Write},
};

use crate::scratch::Scratch;

const ROWS: u8 = 20;
const AUDITED_BY_EACH: usize = 200;

/// Starts a test of this file as a process of its own, under a limit on the size of files if there is one.
fn start(test: &str, database: &Path, file_blocks_max: Option<u32>) -> Child {
    let program = std::env::current_exe().unwrap();
    // A write beyond the limit raises a signal that ends the process, unless it is ignored.
    let limit =
        file_blocks_max.map(|blocks| format!("trap '' XFSZ; ulimit -f {blocks};")).unwrap_or_default();
    let mut child = Command::new("sh")
        .args(["-c", &format!("{limit} exec \"$0\" \"$@\"")])
        .arg(program)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{}", database.display()).unwrap();
    child
}

/// The database this process was started for, `None` when somebody ran it as a test.
fn database() -> Option<SqliteRecords> {
    let mut path = String::new();
    stdin().read_line(&mut path).unwrap();
    (!path.is_empty()).then(|| SqliteRecords::open(path.trim_end()).unwrap())
}

fn report(number: u32) {
    let mut out = stdout().lock();
    writeln!(out, "done {number}").unwrap();
    out.flush().unwrap();
}

/// Numbers that a process reported in full lines, as they come.
fn reports(child: &mut Child) -> impl Iterator<Item = u32> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.filter_map(|line| line.rsplit_once("done ").and_then(|(_, number)| number.parse().ok()))
}

fn batch(number: u32) -> Vec<Write> {
    let value = number.to_be_bytes().repeat(500);
    let row = |index| Write {
        table: if index % 2 == 0 { "even" } else { "odd" },
        key: vec![index],
        value: Some(value.clone()),
    };
    (0..ROWS).map(row).collect()
}

/// The number of the batch that stands, after a check that it stands whole.
fn batch_on_disk(store: &SqliteRecords) -> Option<u32> {
    let mut values: Vec<Option<Vec<u8>>> = (0..ROWS)
        .map(|index| store.get(if index % 2 == 0 { "even" } else { "odd" }, &[index]).unwrap())
        .collect();
    values.dedup();
    assert_eq!(values.len(), 1, "rows of more than one batch");
    values.remove(0).map(|value| u32::from_be_bytes(value[..4].try_into().unwrap()))
}

#[test]
#[ignore = "started by other tests as a process of its own"]
fn process_that_commits_batches() {
    let Some(mut store) = database() else { return };
    for number in batch_on_disk(&store).map_or(1, |last| last + 1).. {
        if store.commit(batch(number)).is_err() {
            assert_eq!(batch_on_disk(&store), number.checked_sub(1), "a failed commit leaves nothing behind");
            break;
        }
        report(number);
    }
}

#[test]
fn after_a_kill_every_acknowledged_commit_is_there_and_none_is_torn() {
    let scratch = Scratch::new("kill");
    let path = scratch.path().join("records.db");
    let mut last = 0;
    for acknowledged_before_kill in [1, 2, 3, 10, 50, 51, 100, 200] {
        let mut child = start("processes::process_that_commits_batches", &path, None);
        let mut reports = reports(&mut child);
        let seen = reports.by_ref().take(acknowledged_before_kill).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What was reported between the decision to kill and the kill is in the pipe.
        let acknowledged = reports.last().unwrap_or(seen);
        let found = batch_on_disk(&SqliteRecords::open(&path).unwrap()).unwrap();
        assert!(acknowledged > last, "the killed process went on where the last one stopped");
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "{acknowledged} acknowledged, {found} found"
        );
        last = found;
    }
}

#[test]
fn a_full_disk_fails_the_commit_and_changes_nothing() {
    let scratch = Scratch::new("full");
    let path = scratch.path().join("records.db");
    drop(SqliteRecords::open(&path).unwrap());
    let mut child = start("processes::process_that_commits_batches", &path, Some(2_048));
    let acknowledged = reports(&mut child).last().unwrap();
    assert!(child.wait().unwrap().success());
    let mut store = SqliteRecords::open(&path).unwrap();
    assert_eq!(batch_on_disk(&store), Some(acknowledged));
    store.commit(batch(acknowledged + 1)).unwrap();
    assert_eq!(batch_on_disk(&store), Some(acknowledged + 1), "with room again, it goes on");
}

#[test]
#[ignore = "started by other tests as a process of its own"]
fn process_that_audits() {
    let Some(mut store) = database() else { return };
    report(0);
    // Both are to have the file open before the first of them writes: the end of the input is the sign.
    stdin().read_line(&mut String::new()).unwrap();
    let name = format!("{}", std::process::id());
    for number in 0..AUDITED_BY_EACH {
        store
            .transact(|records| {
                let mut overlay = Overlay::new(records);
                let act = Act { actor: &name, act: "tested", subject: &"", detail: &number };
                append(&mut overlay, UtcTime(7), act)?;
                Ok::<_, RecordsError>((overlay.into_writes(), ()))
            })
            .unwrap();
        std::thread::yield_now();
    }
}

#[test]
fn two_processes_that_audit_at_once_make_one_unbroken_chain() {
    let scratch = Scratch::new("audit");
    let path = scratch.path().join("records.db");
    // The file is not there yet: both make it.
    let mut children = [(); 2].map(|()| start("processes::process_that_audits", &path, None));
    let mut outputs = Vec::new();
    for child in &mut children {
        let mut reports = reports(child);
        assert_eq!(reports.next(), Some(0));
        outputs.push(reports);
    }
    for child in &mut children {
        drop(child.stdin.take());
    }
    for (mut child, output) in children.into_iter().zip(outputs) {
        assert_eq!(output.count(), 0);
        assert!(child.wait().unwrap().success());
    }
    let store = SqliteRecords::open(&path).unwrap();
    let entries = store.range(AUDIT, &[], usize::MAX).unwrap();
    let chain =
        verify_chain(entries.iter().map(|(_, value)| value.as_slice()), end(&store).unwrap()).unwrap();
    assert_eq!(chain.len(), 2 * AUDITED_BY_EACH);
    let mut writers: Vec<&str> = chain.iter().map(|entry| entry.actor.as_str()).collect();
    writers.sort_unstable();
    writers.dedup();
    assert_eq!(writers.len(), 2);
}
