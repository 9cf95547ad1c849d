//! Protection of 1 KiB responses next to OpenSSL's EVP in the same run, a load profile of 1,000 x 4, and what the
//! carriers cost in bytes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures and prints"
)]

use std::{
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use gridseal_crypto::{InvocationCounter, Key, Rng, RngError, Ticket};
use gridseal_dlms::{
    apdu::{
        carrier::Carrier,
        get::{GetRequest, GetResponse},
        reference::{AttributeId, InvokeId},
    },
    assoc::{AssociationHandle, Done, Operation, Protection},
    suite::local::{KeyRing, LocalCrypto, LocalSettings, Ports, VolatileCounters},
    wire::{ClockColumn, Data, Rows},
};
use gridseal_types::{ObisCode, SystemTitle};

const SIZE: usize = 1_024;
const TITLE: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\x01");
const PEER: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\x02");

struct Counting(u8);

impl Rng for Counting {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.fill_with(|| {
            self.0 = self.0.wrapping_add(1);
            self.0
        });
        Ok(())
    }
}

/// Seconds for one call, best of five runs.
fn each(count: u32, mut call: impl FnMut(u32)) -> f64 {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(&mut call);
            start.elapsed().as_secs_f64() / f64::from(count)
        })
        .fold(f64::INFINITY, f64::min)
}

fn tickets(count: u32) -> impl FnMut() -> Ticket {
    let mut counter = InvocationCounter::resume(0);
    counter.extend(counter.reserve(count).unwrap());
    move || counter.take().unwrap()
}

fn local<const N: usize>(suite: u8, own_title: SystemTitle) -> LocalCrypto<N> {
    let settings =
        LocalSettings { suite, own_title, legacy_mechanisms: false, danger_unauthenticated: false };
    let keys = KeyRing {
        guek: Key::take(&mut [1; N]),
        gak: Key::take(&mut [2; N]),
        gbek: None,
        secret: None,
        signing: None,
    };
    LocalCrypto::new(settings, keys, 0)
}

/// Seconds that OpenSSL's EVP needs for one block of 1 KiB, from its own bench; `None` where it is not installed.
fn evp(cipher: &str) -> Option<f64> {
    let arguments = ["speed", "-evp", cipher, "-bytes", "1024", "-seconds", "1", "-mr"];
    let output = Command::new("openssl").args(arguments).output().ok()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let rate =
        text.lines().find_map(|line| line.strip_prefix("+F:"))?.rsplit(':').next()?.parse::<f64>().ok()?;
    Some(1_024.0 / rate)
}

fn protection<const N: usize>(suite: u8, cipher: &str) {
    let value = Data::OctetString(&[0x5A; SIZE - 8]).to_bytes();
    let apdu = GetResponse::Normal { invoke_id: InvokeId::confirmed(1), result: Ok(&value) }.to_bytes();
    let (guek, gak) = (Key::<gridseal_crypto::role::Guek, N>::take(&mut [1; N]), Key::take(&mut [2; N]));
    let header = gridseal_crypto::apdu::Header { originator: TITLE, security_control: 0x30 | suite };
    let mut ticket = tickets(u32::MAX);
    let primitive = each(20_000, |_| {
        black_box(gridseal_crypto::apdu::protect(&guek, &gak, header, ticket(), black_box(&apdu)));
    });
    let handle = AssociationHandle(1);
    let mut rng = Counting(0);
    let mut sender = local::<N>(suite, TITLE);
    let seal = Operation::Seal {
        carrier: Carrier::Glo,
        protection: Protection::AuthenticatedEncrypted,
        apdu: apdu.clone(),
    };
    let mut sealed = vec![];
    let sealing = each(20_000, |_| {
        let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut rng };
        let Ok(Done::Bytes(bytes)) = sender.perform(handle, &seal, &mut ports) else { return };
        sealed = bytes;
    });
    // Each counter opens once, so that the APDUs are made beforehand.
    let mut opening = f64::INFINITY;
    for _ in 0..5 {
        let mut receiver = local::<N>(suite, PEER);
        let mut all: Vec<Operation> = (0..20_000)
            .map(|_| {
                let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut rng };
                let Ok(Done::Bytes(apdu)) = sender.perform(handle, &seal, &mut ports) else { unreachable!() };
                Operation::Open { apdu, peer: Some(TITLE), is_broadcast: false }
            })
            .collect();
        let start = Instant::now();
        for open in &mut all {
            let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut rng };
            assert!(receiver.perform(handle, open, &mut ports).is_ok());
        }
        opening = opening.min(start.elapsed().as_secs_f64() / 20_000.0);
    }
    println!("suite {suite}, get-response of 1 KiB, {} bytes protected", sealed.len());
    println!("  AES-GCM alone             {:>8.2} us", primitive * 1e6);
    println!("  seal, counter and carrier {:>8.2} us", sealing * 1e6);
    println!("  open, counter and carrier {:>8.2} us", opening * 1e6);
    match evp(cipher) {
        Some(evp) => {
            println!("  OpenSSL EVP {cipher}   {:>8.2} us", evp * 1e6);
            println!(
                "  ratio                     {:>8.2}    (target: at most 3)",
                (sealing + opening) / 2.0 / evp
            );
        }
        None => println!("  OpenSSL is not installed: no ratio"),
    }
}

fn profile() {
    let clock = [0x07, 0xEA, 11, 25, 3, 12, 0, 0, 0, 0xFF, 0xC4, 0];
    let row = |number: u32| {
        Data::Structure(vec![
            Data::OctetString(&clock),
            Data::Unsigned(8),
            Data::DoubleLongUnsigned(number),
            Data::DoubleLongUnsigned(number * 2),
        ])
    };
    let buffer = Data::Array((0..1_000).map(row).collect()).to_bytes();
    let period = ClockColumn { column: 0, capture_period_s: 900 };
    let rows = each(200, |_| {
        let mut rows = Rows::new(black_box(&buffer), Some(period)).unwrap();
        let mut sum = 0u64;
        while let Some(row) = rows.next_row().unwrap() {
            if let [.., Data::DoubleLongUnsigned(value)] = row {
                sum += u64::from(*value);
            }
        }
        assert_eq!(sum, 999_000);
    });
    let tree = each(200, |_| drop(black_box(Data::from_bytes(black_box(&buffer)).unwrap())));
    println!("load profile of 1,000 x 4, {} bytes", buffer.len());
    println!("  row by row                {:>8.1} us    (target: at most 200)", rows * 1e6);
    println!("  as a tree                 {:>8.1} us", tree * 1e6);
}

fn sizes() {
    let attribute = AttributeId::new(3, ObisCode::ACTIVE_ENERGY_IMPORT, 2);
    let invoke_id = InvokeId::confirmed(1);
    let value = Data::DoubleLongUnsigned(123_456).to_bytes();
    let request = GetRequest::Normal { invoke_id, attribute, selection: None }.to_bytes();
    let response = GetResponse::Normal { invoke_id, result: Ok(&value) }.to_bytes();
    println!("one register read, bytes of request and response");
    println!("  plain                     {:>4} {:>4}", request.len(), response.len());
    let mut crypto = local::<16>(0, TITLE);
    let mut rng = Counting(0);
    for (name, carrier) in [("glo", Carrier::Glo), ("general-glo", Carrier::GeneralGlo)] {
        let mut size = |apdu: &[u8]| {
            let protection = Protection::AuthenticatedEncrypted;
            let seal = Operation::Seal { carrier, protection, apdu: apdu.to_vec() };
            let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut rng };
            match crypto.perform(AssociationHandle(1), &seal, &mut ports) {
                Ok(Done::Bytes(bytes)) => bytes.len(),
                _ => 0,
            }
        };
        println!("  {name:<24}  {:>4} {:>4}", size(&request), size(&response));
    }
}

fn main() {
    // `cargo test` runs benches too, with an argument that asks for nothing but a start.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let start = Instant::now();
    protection::<16>(0, "aes-128-gcm");
    protection::<32>(2, "aes-256-gcm");
    profile();
    sizes();
    assert!(start.elapsed() < Duration::from_secs(600));
}
