//! What only PostgreSQL can do to us: connections that break anywhere, a full server, standbys, settings that lie.

use std::{
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use gridseal_store::{Claim, ConnectError, PostgresRecords, PostgresSettings, SoleWriter, Transact};
use gridseal_types::records::{Commit, Durability, Records, RecordsError, Write};

use crate::{
    scratch::Scratch,
    server::{Server, shared, signal},
};

fn put(table: &'static str, key: u8, value: u8) -> Write {
    Write { table, key: vec![key], value: Some(vec![value; 50]) }
}

/// A batch that stands whole or not at all: two tables, one row deleted.
fn batch(value: u8) -> Vec<Write> {
    vec![put("a", 1, value), put("b", 2, value), Write { table: "a", key: vec![3], value: None }]
}

fn standing(records: &impl Records) -> u8 {
    let values = [("a", 1), ("b", 2)].map(|(table, key)| records.get(table, &[key]).unwrap().unwrap()[0]);
    assert_eq!(values[0], values[1], "rows of two batches");
    values[0]
}

/// A connection that breaks after a number of bytes, both directions counted; never, while the number is negative.
struct Cut {
    port: u16,
    budget: Arc<AtomicI64>,
}

impl Cut {
    fn before(socket: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let budget = Arc::new(AtomicI64::new(i64::MIN));
        let counted = Arc::clone(&budget);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = UnixStream::connect(&socket).unwrap();
                let (to_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (counted, counted_back) = (Arc::clone(&counted), Arc::clone(&counted));
                std::thread::spawn(move || pass(client, server, &counted));
                std::thread::spawn(move || pass_back(from_server, to_client, &counted_back));
            }
        });
        Self { port, budget }
    }

    fn records(&self, schema: &str) -> Result<PostgresRecords, ConnectError> {
        let connection = format!("host=127.0.0.1 port={} user=gridseal dbname=postgres", self.port);
        PostgresRecords::connect(PostgresSettings::new(&connection, schema))
    }

    fn after(&self, bytes: i64) {
        self.budget.store(bytes, Ordering::SeqCst);
    }

    fn never(&self) {
        self.after(i64::MIN);
    }
}

/// How many of these bytes still pass.
fn allowed(budget: &AtomicI64, size: usize) -> usize {
    if budget.load(Ordering::SeqCst) < 0 && budget.load(Ordering::SeqCst) < -(1 << 40) {
        return size;
    }
    let before = budget.fetch_sub(size as i64, Ordering::SeqCst);
    usize::try_from(before.clamp(0, size as i64)).unwrap()
}

fn pass(mut from: TcpStream, mut to: UnixStream, budget: &AtomicI64) {
    let mut buffer = [0; 8192];
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        let size_allowed = allowed(budget, size);
        if to.write_all(&buffer[..size_allowed]).is_err() || size_allowed < size {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn pass_back(mut from: UnixStream, mut to: TcpStream, budget: &AtomicI64) {
    let mut buffer = [0; 8192];
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        let size_allowed = allowed(budget, size);
        if to.write_all(&buffer[..size_allowed]).is_err() || size_allowed < size {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn a_connection_that_breaks_anywhere_leaves_all_or_nothing_and_says_which() {
    let server = shared();
    let mut witness = server.records("cut");
    witness.commit(batch(0)).unwrap();
    let cut = Cut::before(server.folder().join(".s.PGSQL.5432"));
    let mut seen = [0_u32; 3];
    let mut value = 0_u8;
    for bytes in (0..1_200).step_by(31) {
        cut.never();
        let mut records = cut.records("cut").unwrap();
        cut.after(bytes);
        let before = value;
        value = value.wrapping_add(1);
        match records.commit(batch(value)) {
            Ok(()) => {
                seen[0] += 1;
                assert_eq!(standing(&witness), value, "acknowledged, cut after {bytes} bytes");
            }
            Err(RecordsError::Failed) => {
                seen[1] += 1;
                assert_eq!(standing(&witness), before, "failed, cut after {bytes} bytes");
                value = before;
            }
            Err(RecordsError::Uncertain) => {
                seen[2] += 1;
                // The server may still be about to notice: its turn is over when we get ours.
                witness.commit(vec![put("turn", 0, 0)]).unwrap();
                let found = standing(&witness);
                assert!(found == before || found == value, "cut after {bytes} bytes");
                value = found;
            }
            Err(other) => panic!("{other}, cut after {bytes} bytes"),
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "done, failed, uncertain: {seen:?}");
}

#[test]
fn a_store_without_a_claim_connects_again_and_a_writer_does_not() {
    let server = shared();
    let end_sessions = || {
        let sessions = "FROM pg_stat_activity WHERE application_name = 'gridseal again'";
        server.sql(&format!("SELECT pg_terminate_backend(pid, 5000) {sessions}"));
    };
    let scratch = Scratch::new("pg_again");
    let mut records = server.records("again");
    records.commit(batch(1)).unwrap();
    end_sessions();
    assert_eq!(records.commit(batch(2)), Err(RecordsError::Failed));
    records.commit(batch(3)).unwrap();
    assert_eq!(standing(&records), 3);

    let mut writer = records;
    writer.claim(Claim::IfFree, &scratch.path().join("marker")).unwrap();
    let lost = writer.transact(|records| {
        records.get("a", &[1])?;
        end_sessions();
        Ok::<_, RecordsError>((batch(4), ()))
    });
    assert!(matches!(lost, Err(RecordsError::Uncertain | RecordsError::Failed)), "{lost:?}");
    assert_eq!(writer.commit(batch(5)), Err(RecordsError::Failed), "it starts anew");
    let mut next = server.records("again");
    next.claim(Claim::IfFree, &scratch.path().join("marker")).unwrap();
    assert_eq!(standing(&next), 3);
}

#[test]
fn a_server_that_is_full_at_any_row_changes_nothing_and_says_so() {
    let server = shared();
    let mut records = server.records("filled");
    records.commit(batch(1)).unwrap();
    server.sql(
        "CREATE TABLE filled.rows_left(count int);
         INSERT INTO filled.rows_left VALUES (0);
         CREATE FUNCTION filled.spend() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE filled.rows_left SET count = count - 1;
             IF (SELECT count FROM filled.rows_left) < 0 THEN
                 RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100';
             END IF;
             RETURN COALESCE(NEW, OLD);
         END $$;
         CREATE TRIGGER spend BEFORE INSERT OR UPDATE OR DELETE ON filled.records
             FOR EACH ROW EXECUTE FUNCTION filled.spend()",
    );
    // An upsert of a row that is there fires for the insert and for the update.
    for rows in 0..4 {
        server.sql(&format!("UPDATE filled.rows_left SET count = {rows}"));
        assert_eq!(records.commit(batch(2)), Err(RecordsError::Full), "room for {rows}");
        assert_eq!(standing(&records), 1);
    }
    server.sql("UPDATE filled.rows_left SET count = 100");
    records.commit(batch(2)).unwrap();
    assert_eq!(standing(&records), 2, "with room again, it goes on");
}

#[test]
fn what_must_be_replicated_waits_for_the_standby_or_is_refused() {
    let primary = Server::start(&[]);
    let scratch = Scratch::new("pg_standby");
    let mut settings = primary.settings("keys");
    settings.standby_timeout = Duration::from_millis(500);
    let mut records = PostgresRecords::connect(settings.clone()).unwrap();
    records.claim(Claim::IfFree, &scratch.path().join("marker")).unwrap();
    let replicated = Durability::Replicated;
    assert_eq!(records.commit_with(batch(1), replicated), Err(RecordsError::Unreplicated));
    assert_eq!(records.get("a", &[1]), Ok(None), "without a standby nothing is done");

    let standby = primary.standby();
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    primary.sql("SELECT pg_reload_conf()");
    primary.wait_for("is now a synchronous standby");
    records.commit_with(batch(2), replicated).unwrap();
    let there = "SELECT value FROM keys.records WHERE tbl = 'a' AND key = '\\x01'";
    // The standby has flushed it; it becomes visible there when it is replayed.
    let position = primary.sql("SELECT pg_current_wal_flush_lsn()");
    standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"));
    assert_eq!(standby.sql(there), format!("\\x{}", "02".repeat(50)));

    let mut at_standby = PostgresRecords::connect(standby.settings("keys")).unwrap();
    assert_eq!(at_standby.commit(batch(9)), Err(RecordsError::Fenced), "a standby does not write");
    assert_eq!(standing(&at_standby), 2);
    drop(at_standby);

    // The standby hangs: it is still listed, so the commit is sent, and waits in vain.
    let receiver = standby.sql("SELECT pid FROM pg_stat_wal_receiver");
    signal("STOP", &receiver);
    assert_eq!(records.commit_with(batch(3), replicated), Err(RecordsError::Unreplicated));
    assert_eq!(standing(&records), 3, "it may be durable here: that is what the code says");
    records.commit(batch(4)).unwrap();
    assert_eq!(standing(&records), 4, "what is local does not wait");
    signal("CONT", &receiver);
    records.commit_with(batch(5), replicated).unwrap();

    drop(standby);
    let gone = "SELECT NOT EXISTS(SELECT 1 FROM pg_stat_replication)";
    primary.wait_until(gone);
    assert_eq!(records.commit_with(batch(6), replicated), Err(RecordsError::Unreplicated));
    assert_eq!(standing(&records), 5, "known before it was sent");
    let mut records = records.standing_alone();
    records.commit_with(batch(7), replicated).unwrap();
    assert_eq!(standing(&records), 7);
}

#[test]
fn a_server_that_would_lose_or_expose_records_is_refused() {
    let server = Server::start(&["fsync=off"]);
    let refused = |settings: PostgresSettings| PostgresRecords::connect(settings).unwrap_err();
    let error = refused(server.settings("keys"));
    assert!(matches!(error, ConnectError::NotDurable { setting: "fsync" }), "{error}");
    for host in ["192.0.2.1", "db.example", "localhost,192.0.2.1", "10.0.0.7 hostaddr=192.0.2.1"] {
        let error = refused(PostgresSettings::new(&format!("host={host} user=gridseal"), "keys"));
        assert!(matches!(error, ConnectError::Unprotected), "{host}: {error}");
    }
    for schema in ["", "Keys", "a;b", "a b", &"a".repeat(49)] {
        assert!(matches!(refused(server.settings(schema)), ConnectError::SchemaName), "{schema}");
    }
    let server = shared();
    drop(server.records("newer"));
    server.sql("UPDATE newer.layout SET version = 9");
    assert!(matches!(refused(server.settings("newer")), ConnectError::Layout { found: 9 }));
}

#[test]
fn beyond_the_machine_the_server_proves_its_name_under_tls() {
    let scratch = Scratch::new("pg_tls");
    let (_server, port) = Server::start_with_tls(scratch.path());
    let tls = |roots: rustls::RootCertStore| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Some(Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth()))
    };
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(scratch.path().join("ca.pem")).unwrap();
    roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap()).unwrap();
    let connect = |host: &str, roots| {
        let connection = format!("host={host} hostaddr=127.0.0.1 port={port} user=gridseal dbname=postgres");
        let settings = PostgresSettings { tls: tls(roots), ..PostgresSettings::new(&connection, "tls") };
        PostgresRecords::connect(settings)
    };
    let mut records = connect("db.example", roots.clone()).unwrap();
    records.commit(batch(1)).unwrap();
    assert_eq!(standing(&records), 1);
    assert!(connect("other.example", roots).is_err(), "another name");
    assert!(connect("db.example", rustls::RootCertStore::empty()).is_err(), "another authority");
    // A server without TLS is not spoken to in clear.
    let plain = shared();
    let cut = Cut::before(plain.folder().join(".s.PGSQL.5432"));
    let connection = format!("host=localhost port={} user=gridseal dbname=postgres", cut.port);
    let settings = PostgresSettings {
        tls: tls(rustls::RootCertStore::empty()),
        ..PostgresSettings::new(&connection, "tls")
    };
    assert!(PostgresRecords::connect(settings).is_err());
}
