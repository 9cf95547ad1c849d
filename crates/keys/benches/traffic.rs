//! Sealing and opening of 128-byte APDUs over a fleet in random order, in batches as the process decides them: with
//! leases, replay windows, the log of both, and the audit of class B; against the raw loop that opens a pair of keys and
//! runs GCM, and against the same loop on OpenSSL's EVP, all in one run.
//!
//! Times are CPU time of the one thread that works, so that other work on the machine does not count. Before the clock runs
//! every meter was served once: its window exists, its block of counters is leased, as in a fleet that lives.
//! `-- METERS SECONDS` changes the size (a million meters, two seconds for each line).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a bench measures and prints"
)]

#[path = "support/fleet.rs"]
#[allow(dead_code, reason = "the bench over the network uses more of it")]
mod fleet;

use std::{
    hint::black_box,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use fleet::{Draw, Fleet, NOW, gak, get, guek, keystore, site_row, tickets, title};
use gridseal_crypto::{Key, PairContext, PairSeal, SealedPair, Ticket};
use gridseal_dlms::suite::protect::seal_general_glo;
use gridseal_keys::{Core, Service, site::Site};
use gridseal_types::{
    UtcTime,
    records::{Commit, Write},
    service::keys::{Carrier, ExchangeReply, KeyReply, KeyRequest, OpenVerdict, Seal},
};

/// Plaintext of one APDU.
const APDU: usize = 128;
/// CPU time of this thread, seconds.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// How often a second of CPU.
fn rate(time: Duration, batch: u32, mut each: impl FnMut()) -> f64 {
    each();
    let (start, began, mut count) = (Instant::now(), cpu(), 0u32);
    while start.elapsed() < time {
        each();
        count += 1;
    }
    f64::from(count) * f64::from(batch) / (cpu() - began)
}

/// The least that has to be done: the pair is opened, the APDU sealed or opened.
fn raw(meters: u32, time: Duration) -> [f64; 2] {
    let mut seal = PairSeal::generate(&mut Draw(3)).unwrap();
    let context = |meter| PairContext { system_title: title(meter), guek_version: 1, gak_version: 1 };
    let pairs: Vec<SealedPair> =
        (0..meters).map(|meter| seal.seal(&guek(meter), &gak(meter), &context(meter)).unwrap()).collect();
    let (mut draw, mut ticket) = (Draw(5), tickets(0));
    let mut body = [0u8; APDU + 12];
    let sealing = rate(time, 1_000, || {
        for _ in 0..1_000 {
            let meter = draw.below(meters);
            let keys = seal.open(&pairs[meter as usize], &context(meter)).unwrap();
            let tag = keys.seal_in_place(title(0), 0x30, &ticket(), &mut body[..APDU]).unwrap();
            black_box(tag);
        }
    });
    // APDUs that are opened were sealed by their meters.
    let sealed: Vec<(u32, u32, Vec<u8>)> = (0..meters.min(200_000))
        .map(|_| {
            let (meter, ticket) = (draw.below(meters), ticket());
            let keys = seal.open(&pairs[meter as usize], &context(meter)).unwrap();
            let mut body = vec![7; APDU];
            let tag = keys.seal_in_place(title(meter), 0x30, &ticket, &mut body).unwrap();
            body.extend_from_slice(&tag);
            (meter, ticket.value(), body)
        })
        .collect();
    let mut at = 0;
    let opening = rate(time, 1_000, || {
        for _ in 0..1_000 {
            let (meter, counter, apdu) = &sealed[at];
            at = (at + 1) % sealed.len();
            body.copy_from_slice(apdu);
            let keys = seal.open(&pairs[*meter as usize], &context(*meter)).unwrap();
            black_box(keys.open_in_place(title(*meter), 0x30, *counter, &mut body).unwrap());
        }
    });
    [sealing, opening]
}

/// The same on EVP, by a program of ours that is built here; `None` without a compiler or the library.
fn evp(meters: u32, time: Duration) -> Option<Vec<f64>> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("evp");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/evp.c");
    let built = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).arg("-lcrypto").output();
    if !built.ok()?.status.success() {
        return None;
    }
    let output = Command::new(program).args([meters.to_string(), time.as_secs_f64().to_string()]).output();
    let rates: Vec<f64> =
        String::from_utf8(output.ok()?.stdout).ok()?.lines().map_while(|line| line.parse().ok()).collect();
    (rates.len() == 3).then_some(rates)
}

fn seal(meter: u32) -> KeyRequest {
    KeyRequest::Seal(Seal {
        system_title: title(meter),
        apdu: get(APDU),
        carrier: Carrier::GeneralGlo,
        idempotency: Seal::UNNAMED,
    })
}

/// An APDU of a meter that was never opened.
fn open(meter: u32, ticket: &mut impl FnMut() -> Ticket) -> KeyRequest {
    let apdu = seal_general_glo(&guek(meter), &gak(meter), title(meter), ticket(), &[0x0F; APDU]);
    KeyRequest::OpenApdu { apdu: apdu.unwrap() }
}

/// The whole service.
struct Bench<'c> {
    service: Service<&'c Core>,
    fleet: Fleet,
    now: UtcTime,
    rng: Draw,
}

impl Bench<'_> {
    /// Decides and commits, and forgets the rows that only grow.
    fn decide(&mut self, requests: Vec<KeyRequest>) -> Vec<KeyReply> {
        let decision = self.service.decide(&self.fleet, self.now, &mut self.rng, requests).unwrap();
        // Where the chain ends has to be known for the next entry; blobs of log and audit are for the disk.
        let grows = |write: &Write| {
            ["key_traffic_log", gridseal_trust::audit::AUDIT, gridseal_trust::audit::AUDIT_BATCH]
                .contains(&write.table)
        };
        let kept = decision.writes.into_iter().filter(|write| !grows(write)).collect();
        self.fleet.written.commit(kept).unwrap();
        decision.replies
    }

    /// How many requests of these batches are served in a second of CPU.
    fn rate(
        &mut self,
        batches: Vec<Vec<KeyRequest>>,
        time: Duration,
        good: impl Fn(&KeyReply) -> bool,
    ) -> f64 {
        let (start, began, mut served) = (Instant::now(), cpu(), 0usize);
        for requests in batches {
            if start.elapsed() >= time {
                break;
            }
            let replies = self.decide(requests);
            assert!(replies.iter().all(&good));
            served += replies.len();
        }
        served as f64 / (cpu() - began)
    }
}

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u32>().ok());
    let meters = numbers.next().unwrap_or(1_000_000);
    let time = Duration::from_secs(u64::from(numbers.next().unwrap_or(2)));
    println!("{APDU}-byte APDUs, {meters} meters in random order, one thread");
    let [sealing, opening] = raw(meters, time);
    println!("  raw loop: open the pair, GCM        seal {sealing:>9.0}/s   open {opening:>9.0}/s");
    match evp(meters, time) {
        Some(rates) => println!(
            "  the same on OpenSSL's EVP           seal {:>9.0}/s   open {:>9.0}/s   (ours {:.2} and {:.2} of it)\n  \
             EVP seal alone, a new key each time      {:>9.0}/s",
            rates[0],
            rates[1],
            sealing / rates[0],
            opening / rates[1],
            rates[2]
        ),
        None => println!("  OpenSSL's EVP: no compiler or no libcrypto here, left out"),
    }

    let dek = || Key::take(&mut [7; 32]);
    let mut fleet = Fleet::new(meters, dek());
    fleet.written.commit(vec![site_row(meters)]).unwrap();
    let core = Core::new(keystore(dek()), Core::ATTESTATION_AGE_DEFAULT_S);
    let started = Instant::now();
    let site = Site { marker: Some(1), ..Site::single(Core::CLIENT_TITLE) };
    let service = Service::load(&core, &fleet, site, &mut Draw(1)).unwrap();
    println!("  loaded in {:.1} s", started.elapsed().as_secs_f64());
    let mut bench = Bench { service, fleet, now: NOW, rng: Draw(9) };
    let mut draw = Draw(13);
    let mut ticket = tickets(0);
    for first in (0..meters).step_by(256) {
        let both = (first..meters.min(first + 256)).flat_map(|meter| [seal(meter), open(meter, &mut ticket)]);
        bench.decide(both.collect());
    }
    for batch in [16, 256, 1_024] {
        // What is asked for is there before the clock runs, as it is for the raw loop.
        let count = (sealing * time.as_secs_f64()) as u32 / batch;
        let ready: Vec<Vec<KeyRequest>> = (0..count.min(2_000_000 / batch))
            .map(|_| (0..batch).map(|_| seal(draw.below(meters))).collect())
            .collect();
        let is_sealed = |reply: &KeyReply| matches!(reply, KeyReply::Exchange(ExchangeReply::Sealed(_)));
        let seals = bench.rate(ready, time, is_sealed);
        // Fresh APDUs, sealed before the clock runs; each is opened once.
        let count = (opening * time.as_secs_f64()) as u32 / batch;
        let ready: Vec<Vec<KeyRequest>> = (0..count.min(2_000_000 / batch))
            .map(|_| (0..batch).map(|_| open(draw.below(meters), &mut ticket)).collect())
            .collect();
        let is_fresh = |reply: &KeyReply| matches!(reply, KeyReply::Apdu(OpenVerdict::Fresh { .. }));
        let opens = bench.rate(ready, time, is_fresh);
        println!(
            "  key service, batches of {batch:<5}       seal {seals:>9.0}/s   open {opens:>9.0}/s   ({:.0} % and {:.0} % of the raw loop; target 70)",
            100.0 * seals / sealing,
            100.0 * opens / opening
        );
    }
}
