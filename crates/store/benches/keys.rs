//! Durable storage of the key service: key-change transitions and traffic-log appends, each against batched row updates
//! of the same database in the same run, on SQLite and on a PostgreSQL server that the bench starts.
//!
//! Bytes are what SQLite hands to the system (log, checkpoints) and what PostgreSQL writes to its log.
//! `-- SECONDS` changes how long each line is measured.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a bench measures and prints"
)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use gridseal_crypto::Key;
use gridseal_store::{
    Claim, GroupCommit, PostgresRecords, SoleWriter, SqliteRecords, Transact, record_tag_key,
};
use gridseal_trust::audit::{Act, Batch, Item, append, append_batch};
use gridseal_types::{
    SystemTitle, UtcTime,
    records::{Commit, Durability, Overlay, Records, RecordsError, Write},
};

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/store/server.rs"]
mod server;

/// Meters on record.
const METERS: u64 = 200_000;
/// Transitions, and updates of the peer, in one commit.
const TRANSITIONS: u64 = 100;
/// APDUs in one batch.
const APDUS: u32 = 256;
/// Meters in one row of the folded form.
const PACKED: usize = 64;
/// Rows and log blobs in one fold.
const FOLDED_ROWS: u64 = 64;
const BLOBS_DELETED: u64 = 64;
const LOG: &str = "key_traffic_log";

/// Numbers that look random and are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Commits for a while; how many there were a second, and bytes for each.
fn measure(time: Duration, bytes: impl Fn() -> u64, mut commit: impl FnMut()) -> (f64, f64) {
    commit();
    let (start, before, mut count) = (Instant::now(), bytes(), 0_u32);
    while start.elapsed() < time {
        commit();
        count += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    (f64::from(count) / seconds, (bytes() - before) as f64 / f64::from(count))
}

/// One key change moves on: its row, the device's row, an audit entry of class A.
fn transitions(draw: &mut Draw, store: &mut impl Transact) {
    store
        .transact(|view| {
            let mut overlay = Overlay::new(view);
            for _ in 0..TRANSITIONS {
                let meter = draw.below(METERS).to_be_bytes();
                // What is written is new each time: SQLite leaves a page alone whose bytes do not change.
                let mut device = overlay.get("device", &meter)?.unwrap_or_default();
                device.fill(draw.0.to_be_bytes()[3]);
                overlay.put("key_change", &meter, vec![draw.0.to_be_bytes()[3]; 180]);
                overlay.put("device", &meter, device);
                let act = Act { actor: "keys", act: "key.sent", subject: &draw.0, detail: &7 };
                append(&mut overlay, UtcTime(7), act)?;
            }
            Ok::<_, RecordsError>((overlay.into_writes(), ()))
        })
        .unwrap();
}

/// A batch of APDUs: one blob of windows and leases, one audit entry of class B with its items.
fn traffic(view: &impl Records, draw: &mut Draw, number: u64) -> Vec<Write> {
    let mut overlay = Overlay::new(view);
    let mut blob = Vec::with_capacity(APDUS as usize * 20);
    let mut batch = Batch::new();
    for counter in 0..APDUS {
        let meter = draw.below(METERS);
        blob.extend_from_slice(&[7; 20]);
        let system_title = SystemTitle(meter.to_be_bytes());
        batch.push(&Item { operation: 2, system_title, version: 1, counter, verdict: 1, tag: [9; 8] });
    }
    overlay.put(LOG, &number.to_be_bytes(), blob);
    let act = Act { actor: "keys", act: "apdus", subject: &"", detail: &"" };
    append_batch(&mut overlay, UtcTime(7), act, batch).unwrap();
    overlay.into_writes()
}

/// The state of the next meters in the order of their slots, 64 to a row, in one commit with the end of log blobs that a
/// whole round of such rows has made superfluous. Work and bytes do not depend on how much was logged.
fn fold(store: &mut impl Transact, number: u64, blobs: std::ops::Range<u64>) {
    let first_row = number * FOLDED_ROWS % (METERS / PACKED as u64);
    let rows = (first_row..first_row + FOLDED_ROWS).map(|row| Write {
        table: "key_traffic",
        key: row.to_be_bytes().to_vec(),
        value: Some(vec![number as u8; PACKED * 60]),
    });
    // The numbers of blobs have no gaps: they need not be read to be deleted.
    let deletes = blobs.map(|number| Write { table: LOG, key: number.to_be_bytes().to_vec(), value: None });
    store.transact(|_| Ok::<_, RecordsError>((rows.chain(deletes).collect(), ()))).unwrap();
}

fn fill(store: &mut impl Commit) {
    for first in (0..METERS).step_by(5_000) {
        let rows = (first..first + 5_000).flat_map(|meter| {
            [("device", 160), ("window", 60)].map(|(table, size)| Write {
                table,
                key: meter.to_be_bytes().to_vec(),
                value: Some(vec![1; size]),
            })
        });
        store.commit(rows.collect()).unwrap();
    }
}

#[expect(clippy::too_many_arguments, reason = "a database, its peer, and how both are looked at")]
/// The lines of one database. `peer` commits a batch of so many plain row updates.
fn run<S: SoleWriter + Send + 'static>(
    name: &str,
    time: Duration,
    open: impl Fn() -> S,
    marker: &Path,
    bytes: impl Fn() -> u64 + Copy,
    mut peer: impl FnMut(u64),
) {
    let mut draw = Draw(1);
    let mut store = open();
    store.claim(Claim::IfFree, marker).unwrap();
    fill(&mut store);
    println!("{name}, {METERS} meters, every row authenticated");
    let (peer_rate, peer_bytes) = measure(time, bytes, || peer(TRANSITIONS));
    let peer_rate = peer_rate * TRANSITIONS as f64;
    println!(
        "  plain row updates, {TRANSITIONS} in a commit    {peer_rate:>10.0} rows/s        {peer_bytes:>9.0} bytes/commit"
    );
    let (rate, size) = measure(time, bytes, || transitions(&mut draw, &mut store));
    let rate = rate * TRANSITIONS as f64;
    println!(
        "  key-change transitions, {TRANSITIONS}      {rate:>15.0} transitions/s {size:>9.0} bytes/commit"
    );
    println!(
        "  ratio                           {:>15.2}  (3 rows each: {:.2} by rows)",
        rate / peer_rate,
        3.0 * rate / peer_rate
    );

    let apdus = f64::from(APDUS);
    let (peer_rate, peer_bytes) = measure(time, bytes, || peer(u64::from(APDUS)));
    println!(
        "  a window row for each of {APDUS} APDUs {:>13.0} APDUs/s       {peer_bytes:>9.0} bytes/commit",
        peer_rate * apdus
    );
    let mut number = 0;
    let (rate, size) = measure(time, bytes, || {
        number += 1;
        let done = store.transact(|view| Ok::<_, RecordsError>((traffic(view, &mut draw, number), ())));
        done.unwrap();
    });
    println!(
        "  one log blob, with audit of class B {:>11.0} APDUs/s       {size:>9.0} bytes/commit",
        rate * apdus
    );
    println!(
        "  ratio                           {:>15.2}  (bytes {:.2})",
        rate / peer_rate,
        size / peer_bytes
    );
    let (start, before) = (Instant::now(), bytes());
    let (mut folds, mut deleted) = (0, 1);
    while start.elapsed() < time {
        let last = (deleted + BLOBS_DELETED).min(number);
        fold(&mut store, folds, deleted..last);
        (folds, deleted) = (folds + 1, last);
    }
    let meters = folds as f64 * (FOLDED_ROWS * PACKED as u64) as f64;
    println!(
        "  fold, {PACKED} meters to a row      {:>17.0} meters/s      {:>9.1} bytes/meter, {} blobs deleted",
        meters / start.elapsed().as_secs_f64(),
        (bytes() - before) as f64 / meters,
        deleted - 1
    );

    let mut group = GroupCommit::start(store, open());
    let start = Instant::now();
    let mut receipts = std::collections::VecDeque::new();
    let mut count = 0.0;
    while start.elapsed() < time {
        number += 1;
        let writes = traffic(&group, &mut draw, number);
        receipts.push_back(group.submit(writes, Durability::Local));
        count += apdus;
        if receipts.len() > 8 {
            receipts.pop_front().unwrap().wait().unwrap();
        }
    }
    receipts.into_iter().for_each(|receipt| receipt.wait().unwrap());
    println!("  log blobs in groups, 8 under way {:>14.0} APDUs/s", count / start.elapsed().as_secs_f64());
}

/// Bytes that this process has handed to the system.
fn written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(3);
    let time = Duration::from_secs(seconds);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-keys");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let key = || record_tag_key(&Key::take(&mut [7; 32]));

    let file = folder.join("records.db");
    let plain = rusqlite::Connection::open(folder.join("plain.db")).unwrap();
    plain
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
        CREATE TABLE row(tbl TEXT, key BLOB, value BLOB, PRIMARY KEY(tbl, key)) WITHOUT ROWID",
        )
        .unwrap();
    plain.execute_batch("BEGIN").unwrap();
    for meter in 0..METERS {
        plain
            .prepare_cached("INSERT INTO row VALUES('device', ?1, zeroblob(160))")
            .unwrap()
            .execute([meter.to_be_bytes()])
            .unwrap();
    }
    plain.execute_batch("COMMIT").unwrap();
    let mut draw = Draw(2);
    run(
        "SQLite",
        time,
        || SqliteRecords::open(&file).unwrap().authenticated_by(key()),
        &folder.join("marker"),
        written,
        |count| {
            let transaction = plain.unchecked_transaction().unwrap();
            for _ in 0..count {
                transaction
                    .prepare_cached("UPDATE row SET value = ?2 WHERE tbl = 'device' AND key = ?1")
                    .unwrap()
                    .execute(rusqlite::params![
                        draw.below(METERS).to_be_bytes(),
                        vec![draw.below(256) as u8; 160]
                    ])
                    .unwrap();
            }
            transaction.commit().unwrap();
        },
    );

    if !server::is_installed() {
        println!("PostgreSQL is not installed: left out");
        return;
    }
    let server = server::Server::start(&["shared_buffers=256MB", "max_wal_size=4GB"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (client, connection) =
        runtime.block_on(tokio_postgres::connect(&server.connection(), tokio_postgres::NoTls)).unwrap();
    runtime.spawn(async { connection.await.unwrap() });
    let (look, connection) =
        runtime.block_on(tokio_postgres::connect(&server.connection(), tokio_postgres::NoTls)).unwrap();
    runtime.spawn(async { connection.await.unwrap() });
    runtime
        .block_on(client.batch_execute(&format!(
            "CREATE TABLE row(tbl text COLLATE \"C\", key bytea, value bytea, PRIMARY KEY(tbl, key));
             INSERT INTO row SELECT 'device', int8send(meter), decode(repeat('01', 160), 'hex')
                 FROM generate_series(0, {METERS} - 1) AS meter; ANALYZE row"
        )))
        .unwrap();
    let update = "UPDATE row SET value = $2 FROM unnest($1::bytea[]) AS d(key)
        WHERE row.tbl = 'device' AND row.key = d.key";
    let update = runtime.block_on(client.prepare(update)).unwrap();
    run::<PostgresRecords>(
        &server
            .sql("SHOW server_version")
            .split(' ')
            .next()
            .map(|version| format!("PostgreSQL {version}"))
            .unwrap(),
        time,
        || server.records("keys").authenticated_by(key()),
        &folder.join("marker_pg"),
        || {
            let row =
                runtime.block_on(look.query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8", &[]));
            row.unwrap().get::<_, i64>(0).unsigned_abs()
        },
        |count| {
            let keys: Vec<[u8; 8]> = (0..count).map(|_| draw.below(METERS).to_be_bytes()).collect();
            let value = draw.below(256) as u8;
            let keys: Vec<&[u8]> = keys.iter().map(<[u8; 8]>::as_slice).collect();
            runtime.block_on(client.execute(&update, &[&keys, &vec![value; 160]])).unwrap();
        },
    );
    let _ = fs::remove_dir_all(&folder);
}
