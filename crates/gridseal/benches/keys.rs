//! The key service over mutual TLS: the real processes, a durable store, a head-end of this process on the same cores.
//!
//! Batches of 256 with leases, audit of class B and durable windows; single requests at a fixed rate; key changes. CPU is
//! that of `keys` and `keys-core` together. `-- METERS SECONDS` changes the size (100,000 and 4).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a bench measures and prints"
)]

#[path = "support/cpu.rs"]
mod cpu;
#[path = "../../keys/benches/support/fleet.rs"]
#[allow(dead_code, reason = "the bench in process uses more of it")]
mod fleet;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fleet::{Draw, device_rows, gak, guek, site_row, tickets, title, version_row};
use gridseal_api::KeysClient;
use gridseal_crypto::{EnvelopeContext, Key, SigningKey, WrappedKey, role::ServiceTls, sha256};
use gridseal_dlms::suite::protect::seal_general_glo;
use gridseal_io::{
    clock::utc_now,
    rng::OsRng,
    tls::{Alpn, Identity, TlsKey, mutual},
};
use gridseal_keys::{DataKeysFile, KeystoreFile, record::VERSIONS};
use gridseal_store::{Claim, SoleWriter, SqliteRecords, record_tag_key};
use gridseal_types::{
    records::{Commit, Write},
    service::keys::{Carrier, ExchangeReply, KeyKind, KeyReply, KeyRequest, OpenVerdict, Seal},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gridseal");
/// Requests in one call.
const BATCH: u32 = 256;
/// Calls at a time.
const CALLS: usize = 8;
/// Calls after which a meter may come again.
const APART: u32 = 64;
/// Single requests a second.
const UNARY_RATE: u32 = 10_000;
const APDU: usize = 128;

fn certificates(path: &Path) -> Vec<Vec<u8>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split_inclusive(END).filter(|block| block.contains(END));
    blocks.map(|block| der::pem::decode_vec(block.trim().as_bytes()).unwrap().1).collect()
}

fn zone_key(dir: &Path) -> Key<gridseal_crypto::role::Dek, 32> {
    Key::take_slice(&mut std::fs::read(dir.join("zone.kek")).unwrap()).unwrap()
}

fn identity(dir: &Path) -> Identity {
    let mut object = [0; 16];
    object.copy_from_slice(&sha256(&[b"identity"])[..16]);
    let context = EnvelopeContext::new([0; 16], object, 1);
    let wrapped = WrappedKey(std::fs::read(dir.join("identity.key")).unwrap());
    let key: Key<ServiceTls, 32> = Key::unwrap_key(&zone_key(dir), &context, &wrapped).unwrap();
    Identity::new(certificates(&dir.join("identity.pem")), TlsKey::software(SigningKey::new(&key).unwrap()))
        .unwrap()
}

struct Running {
    child: Child,
    dir: PathBuf,
    client: KeysClient,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Fills the store of `keys-core` as imports would leave it.
fn fill(keys: &Path, meters: u32) {
    let zone = zone_key(keys);
    let file: KeystoreFile = minicbor::decode(&std::fs::read(keys.join("keystore.cbor")).unwrap()).unwrap();
    let kek = zone.derive(&[b"gs-data-keys-v1"]);
    let mut data_keys = DataKeysFile::new();
    data_keys.renew(&kek, file.tenant, utc_now(), &mut OsRng).unwrap();
    std::fs::write(keys.join("data-keys.cbor"), minicbor::to_vec(&data_keys).unwrap()).unwrap();
    let opened = data_keys.open(&kek, file.tenant).unwrap();
    let mut records =
        SqliteRecords::open(keys.join("keys.db")).unwrap().authenticated_by(record_tag_key(&zone));
    records.claim(Claim::IfFree, &keys.join("keys.marker")).unwrap();
    let write = |table, key, value| Write { table, key, value: Some(value) };
    for first in (0..meters).step_by(2_000) {
        let rows = (first..meters.min(first + 2_000)).flat_map(|meter| {
            let keys = KeyKind::ALL.map(|kind| {
                let under = (opened.current().into(), &file.tenant);
                let (key, value) = version_row(meter, kind, under, &mut Draw(u64::from(meter)));
                write(VERSIONS, key, value)
            });
            device_rows(meter).map(|(table, key, value)| write(table, key, value)).into_iter().chain(keys)
        });
        records.commit(rows.collect()).unwrap();
    }
    // Nothing is left to be wrapped anew.
    let done = write("key_rewrap", vec![], vec![0x85, 1, 3, 0x40, 0, 0]);
    records.commit(vec![site_row(meters), done]).unwrap();
    std::fs::write(keys.join("site-epoch"), "1").unwrap();
}

fn start(meters: u32) -> Running {
    let name: [u8; 6] = gridseal_crypto::random(&mut OsRng).unwrap();
    let dir = std::env::temp_dir().join(format!("gridseal-bench-{}", hex::encode(name)));
    let owner = dir.join("owner");
    let made = Command::new(PROGRAM)
        .args(["ceremony", "owner", "--config-listen", "127.0.0.1:1", "--out"])
        .arg(&owner)
        .output()
        .unwrap();
    assert!(made.status.success());
    let keys = owner.join("keys");
    std::fs::write(
        keys.join("config.toml"),
        "listen = \"127.0.0.1:0\"\nvoucher_keys = []\ndanger_unlocked_memory = true\n",
    )
    .unwrap();
    fill(&keys, meters);
    let began = Instant::now();
    let mut child = Command::new(PROGRAM)
        .args(["keys", "--with-parent", "--config"])
        .arg(keys.join("config.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(drop));
    let address = line.split('"').find(|word| word.starts_with("127.0.0.1:")).unwrap().to_owned();
    let roots = certificates(&keys.join("inner-root.pem"));
    let tls = mutual(&roots, &identity(&owner.join("headend")), Alpn::Http2).unwrap();
    let running = Running { child, dir, client: KeysClient::new(address, tls) };
    println!(
        "loading begins ({meters} meters on record) {:.1} s after the start",
        began.elapsed().as_secs_f64()
    );
    running
}

fn seal(meter: u32, apdu: &[u8]) -> KeyRequest {
    KeyRequest::Seal(Seal {
        system_title: title(meter),
        apdu: apdu.to_vec(),
        carrier: Carrier::GeneralGlo,
        idempotency: Seal::UNNAMED,
    })
}

/// Makes calls until none is left or the time is up; requests served, seconds, and CPU of the service.
async fn calls(
    running: &Running,
    batches: Vec<Vec<KeyRequest>>,
    good: fn(&KeyReply) -> bool,
) -> (f64, f64, f64) {
    let cpu = cpu::seconds(running.child.id());
    let (start, mut served) = (Instant::now(), 0usize);
    let mut out = tokio::task::JoinSet::new();
    for batch in batches {
        while out.len() >= CALLS {
            served += out.join_next().await.unwrap().unwrap();
        }
        let client = running.client.clone();
        out.spawn(async move {
            let replies = client.batch(batch).await.unwrap();
            assert!(replies.iter().all(good), "{:?}", replies.iter().find(|reply| !good(reply)));
            replies.len()
        });
    }
    while let Some(done) = out.join_next().await {
        served += done.unwrap();
    }
    (served as f64, start.elapsed().as_secs_f64(), cpu::seconds(running.child.id()) - cpu)
}

fn tell(what: &str, (served, seconds, cpu): (f64, f64, f64)) {
    println!(
        "  {what:<36} {:>9.0}/s   {:>9.0} per second of the service's CPU",
        served / seconds,
        served / cpu
    );
}

async fn unary(running: &Running, meters: u32, time: Duration) {
    let (mut draw, apdu) = (Draw(17), fleet::get(APDU));
    let mut waits = Vec::new();
    let cpu = cpu::seconds(running.child.id());
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let start = Instant::now();
    while start.elapsed() < time {
        tick.tick().await;
        for _ in 0..UNARY_RATE / 1_000 {
            let (client, request) = (running.client.clone(), seal(draw.below(meters), &apdu));
            waits.push(tokio::spawn(async move {
                let asked = Instant::now();
                client.ask(request).await.unwrap();
                asked.elapsed()
            }));
        }
    }
    let mut took = Vec::with_capacity(waits.len());
    for wait in waits {
        took.push(wait.await.unwrap());
    }
    let rate = took.len() as f64 / start.elapsed().as_secs_f64();
    took.sort();
    let at = |part: usize| took[(took.len() * part / 1_000).min(took.len() - 1)].as_secs_f64() * 1e3;
    let busy = (cpu::seconds(running.child.id()) - cpu) / start.elapsed().as_secs_f64();
    println!(
        "  unary at {rate:.0}/s (asked: {UNARY_RATE}): p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms; CPU {busy:.2} cores  (target: p99 2 ms)",
        at(500),
        at(990),
        at(999)
    );
}

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u32>().ok());
    let meters = numbers.next().unwrap_or(100_000);
    let seconds = numbers.next().unwrap_or(4);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let running = start(meters);
    runtime.block_on(async {
        let (mut draw, apdu) = (Draw(5), fleet::get(APDU));
        // The first call waits until everything is loaded.
        let began = Instant::now();
        while running.client.batch(vec![seal(0, &apdu)]).await.is_err() {}
        println!("first answer {:.1} s later", began.elapsed().as_secs_f64());
        println!("over mutual TLS, batches of {BATCH}, {CALLS} calls at a time");
        // As many as are served in the time, by a first short run.
        let batch = |draw: &mut Draw| (0..BATCH).map(|_| seal(draw.below(meters), &apdu)).collect::<Vec<_>>();
        let first = calls(&running, (0..200).map(|_| batch(&mut draw)).collect(), is_sealed).await;
        let count = (first.0 / first.1 * f64::from(seconds)) as u32 / BATCH;
        tell("seal", calls(&running, (0..count).map(|_| batch(&mut draw)).collect(), is_sealed).await);
        let mut ticket = tickets(0);
        let ready: Vec<Vec<KeyRequest>> = (0..count)
            .map(|number| {
                let requests = (0..BATCH).map(|_| {
                    // Calls overtake each other: those under way at one time are about different meters.
                    let meter = draw.below(meters / APART) * APART + number % APART;
                    let keys = (guek(meter), gak(meter));
                    let apdu = seal_general_glo(&keys.0, &keys.1, title(meter), ticket(), &[0x0F; APDU]);
                    KeyRequest::OpenApdu { apdu: apdu.unwrap() }
                });
                requests.collect()
            })
            .collect();
        tell("open", calls(&running, ready, is_opened).await);
        unary(&running, meters, Duration::from_secs(u64::from(seconds))).await;
        let changes = (0..meters.min(20_000)).step_by(64).map(|first| {
            let items = vec![KeyKind::Guek, KeyKind::Gak];
            let begin =
                |meter| KeyRequest::BeginKeyChange { system_title: title(meter), items: items.clone() };
            (first..(first + 64).min(meters)).map(begin).collect()
        });
        tell("key changes begun, batches of 64", calls(&running, changes.collect(), is_begun).await);
    });
}

fn is_sealed(reply: &KeyReply) -> bool {
    matches!(reply, KeyReply::Exchange(ExchangeReply::Sealed(_)))
}

fn is_opened(reply: &KeyReply) -> bool {
    matches!(reply, KeyReply::Apdu(OpenVerdict::Fresh { .. }))
}

fn is_begun(reply: &KeyReply) -> bool {
    matches!(reply, KeyReply::Exchange(ExchangeReply::Change(change)) if change.transfer.is_some())
}
