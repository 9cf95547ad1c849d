//! Protection of 1 KiB responses next to OpenSSL's EVP in the same run, a load profile of 1,000 x 4 with its allocations
//! counted, associations next to their public-key operations, and what the carriers cost in bytes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures and prints"
)]

use std::{
    collections::BTreeMap,
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use gridseal_crypto::{Curve, CurveSigner, InvocationCounter, Key, Rng, RngError, Ticket};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::{
        carrier::{Carrier, Signing},
        ciphered::{Protected, SecurityControl},
        general::{GeneralCiphering, GeneralHeader, KeyInfo},
        get::{GetRequest, GetResponse},
        reference::{AttributeId, InvokeId},
        result::{ActionResult, DataAccessResult},
    },
    assoc::{
        ActionReply, AssociationHandle, AttributeRequest, Done, MethodRequest, Objects, Operation,
        Protection, Value,
        client::{self, Client, ClientSettings},
        server::{self, Server, ServerSettings},
    },
    suite::local::{KeyRing, LocalCrypto, LocalSettings, Ports, SigningKeys, VolatileCounters},
    wire::{ClockColumn, Data, Rows},
};
use gridseal_types::{ObisCode, SystemTitle, Tick};

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
    let keys = KeyRing::new(Key::take(&mut [1; N]), Key::take(&mut [2; N]));
    LocalCrypto::new(LocalSettings::client(suite, own_title), keys, 0)
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
        signing: Signing::None,
        peer: None,
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
    let (allocations, cells) = allocations_of_rows(&buffer, period);
    let tree = each(200, |_| drop(black_box(Data::from_bytes(black_box(&buffer)).unwrap())));
    println!("load profile of 1,000 x 4, {} bytes", buffer.len());
    println!("  row by row                {:>8.1} us    (target: at most 200)", rows * 1e6);
    println!("  allocations, row by row   {allocations:>8}       for {cells} cells (target: none per cell)");
    println!("  as a tree                 {:>8.1} us", tree * 1e6);
}

/// How often memory is allocated while every row is read, and how many cells there were.
fn allocations_of_rows(buffer: &[u8], period: ClockColumn) -> (u64, usize) {
    let mut cells = 0;
    let counted = allocation_counter::measure(|| {
        let mut rows = Rows::new(black_box(buffer), Some(period)).unwrap();
        while let Some(row) = rows.next_row().unwrap() {
            cells += black_box(row).len();
        }
    });
    // The columns of one row, grown as they come: never a number that follows the rows.
    assert!(counted.count_total < 10, "{} allocations", counted.count_total);
    (counted.count_total, cells)
}

/// Nothing to read: only associations are measured.
struct Nothing;

impl Objects for Nothing {
    fn get(&mut self, _: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
        Err(DataAccessResult::ObjectUndefined)
    }

    fn set(&mut self, _: AttributeRequest<'_>, _: &[u8]) -> Result<(), DataAccessResult> {
        Err(DataAccessResult::ReadWriteDenied)
    }

    fn action(&mut self, _: MethodRequest<'_>) -> ActionReply {
        ActionReply::refused(ActionResult::ObjectUndefined)
    }
}

/// Both ends of associations, with their keys.
struct Pair {
    client: Client,
    server: Server,
    client_crypto: LocalCrypto,
    server_crypto: LocalCrypto,
    rng: Counting,
}

fn signer(seed: u8) -> CurveSigner {
    CurveSigner::take(Curve::P256, &mut [seed; 32]).unwrap()
}

fn ring(own: u8, peer: u8, peer_title: SystemTitle) -> KeyRing {
    let peers = BTreeMap::from([(peer_title, signer(peer).public())]);
    KeyRing {
        signing: Some(SigningKeys { own: signer(own), peers }),
        ..KeyRing::new(Key::take(&mut [1; 16]), Key::take(&mut [2; 16]))
    }
}

impl Pair {
    fn new(mechanism: Mechanism) -> Self {
        let handle = AssociationHandle(1);
        Self {
            client: Client::new(ClientSettings::ciphered(TITLE, mechanism), handle).unwrap(),
            server: Server::new(ServerSettings::ciphered(1, PEER, mechanism), handle),
            client_crypto: LocalCrypto::new(LocalSettings::client(0, TITLE), ring(3, 4, PEER), 0),
            server_crypto: LocalCrypto::new(LocalSettings::server(0, PEER), ring(4, 3, TITLE), 0),
            rng: Counting(0),
        }
    }

    /// Opens the association and releases it.
    fn associate(&mut self) {
        self.client.handle(Tick(0), client::Input::Associate).unwrap();
        assert!(self.run(), "associated");
        self.client.handle(Tick(0), client::Input::Release).unwrap();
        self.run();
    }

    /// Carries everything from one end to the other until both rest; whether an association was opened.
    fn run(&mut self) -> bool {
        let mut is_associated = false;
        loop {
            let mut is_idle = true;
            while let Some(output) = self.client.poll() {
                is_idle = false;
                match output {
                    client::Output::Transmit(apdu) => {
                        let input = server::Input::Received(&apdu);
                        self.server.handle(Tick(0), input, &mut Nothing).unwrap();
                    }
                    client::Output::Crypto(handle, id, operation) => {
                        let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut self.rng };
                        let result = self.client_crypto.perform(handle, &operation, &mut ports);
                        let _ = self.client.handle(Tick(0), client::Input::CryptoDone(id, result));
                    }
                    client::Output::Event(event) => {
                        is_associated |= matches!(event, client::Event::Associated { .. });
                    }
                    _ => {}
                }
            }
            while let Some(output) = self.server.poll() {
                is_idle = false;
                match output {
                    server::Output::Transmit(apdu) => {
                        self.client.handle(Tick(0), client::Input::Received(&apdu)).unwrap();
                    }
                    server::Output::Crypto(handle, id, operation) => {
                        let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut self.rng };
                        let result = self.server_crypto.perform(handle, &operation, &mut ports);
                        let input = server::Input::CryptoDone(id, result);
                        let _ = self.server.handle(Tick(0), input, &mut Nothing);
                    }
                    _ => {}
                }
            }
            if is_idle {
                return is_associated;
            }
        }
    }
}

fn associations() {
    println!("associations, both ends, opened and released");
    let mut pair = Pair::new(Mechanism::Gmac);
    let gmac = each(200, |_| pair.associate());
    println!("  mechanism 5 (GMAC)        {:>8.0} /s", 1.0 / gmac);
    let mut pair = Pair::new(Mechanism::Ecdsa);
    let ecdsa = each(50, |_| pair.associate());
    let (own, message) = (signer(3), [0x5A; 80]);
    let public = own.public();
    let signature = own.sign(&message).unwrap();
    let sign = each(100, |_| assert!(black_box(own.sign(black_box(&message))).is_some()));
    let verify = each(100, |_| assert!(black_box(public.verifies(black_box(&message), &signature))));
    // Each end signs once and verifies once.
    let operations = 2.0 * (sign + verify);
    println!("  mechanism 7 (ECDSA P-256) {:>8.0} /s", 1.0 / ecdsa);
    println!(
        "    sign {:.1} us, verify {:.1} us, two of each: {:.0} /s",
        sign * 1e6,
        verify * 1e6,
        1.0 / operations
    );
    println!("    association by its public-key operations {:.2}", ecdsa / operations);
}

/// Bytes of an APDU of this size in general-ciphering.
fn general_ciphering(apdu: usize, key_info: KeyInfo<'_>) -> usize {
    // Transaction of 8 bytes, both titles, no time, nothing else.
    let mut wire = vec![8; 9];
    wire.extend([8; 9]);
    wire.extend([8; 9]);
    wire.extend([0, 0]);
    let header = GeneralHeader {
        transaction_id: &[],
        originator: &[],
        recipient: &[],
        date_time: &[],
        other_information: &[],
        wire: &wire,
    };
    let protected = Protected {
        security_control: SecurityControl::AUTHENTICATED_ENCRYPTION,
        invocation_counter: 1,
        body: &vec![0; apdu + 12],
    };
    GeneralCiphering { header, key_info: Some(key_info), protected }.to_bytes().len()
}

fn sizes() {
    let attribute = AttributeId::new(3, ObisCode::ACTIVE_ENERGY_IMPORT, 2);
    let invoke_id = InvokeId::confirmed(1);
    let value = Data::DoubleLongUnsigned(123_456).to_bytes();
    let request = GetRequest::Normal { invoke_id, attribute, selection: None }.to_bytes();
    let response = GetResponse::Normal { invoke_id, result: Ok(&value) }.to_bytes();
    let clock = [0x07, 0xEA, 11, 25, 3, 12, 0, 0, 0, 0xFF, 0xC4, 0];
    let row = |number: u32| {
        let energy = Data::DoubleLongUnsigned;
        Data::Structure(vec![
            Data::OctetString(&clock),
            Data::Unsigned(8),
            energy(number),
            energy(number * 2),
        ])
    };
    let day = Data::Array((0..96).map(row).collect()).to_bytes();
    let day = GetResponse::Normal { invoke_id, result: Ok(&day) }.to_bytes();
    let readings = 96 * 2;
    println!(
        "bytes: request and response of one register, response of a day's profile (96 rows), by reading"
    );
    let line = |name: &str, request: usize, response: usize, day: usize| {
        println!(
            "  {name:<32} {request:>4} {response:>4} {day:>6} {:>7.2}",
            day as f64 / f64::from(readings)
        );
    };
    line("plain", request.len(), response.len(), day.len());
    let mut crypto = local::<16>(0, TITLE);
    let mut rng = Counting(0);
    let handle = AssociationHandle(1);
    let initiate = vec![0x01, 0, 0, 0, 6, 0x5F, 0x1F, 4, 0, 0, 0x7E, 0x1F, 4, 0xB0];
    let dedicated = Operation::SealInitiate { apdu: initiate, dedicated: true };
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut rng };
    assert!(crypto.perform(handle, &dedicated, &mut ports).is_ok());
    for (name, carrier) in [
        ("glo", Carrier::Glo),
        ("ded", Carrier::Ded),
        ("general-glo", Carrier::GeneralGlo),
        ("general-ded", Carrier::GeneralDed),
    ] {
        let mut size = |apdu: &[u8]| {
            let protection = Protection::AuthenticatedEncrypted;
            let seal = Operation::Seal {
                carrier,
                protection,
                signing: Signing::None,
                peer: None,
                apdu: apdu.to_vec(),
            };
            let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut rng };
            match crypto.perform(handle, &seal, &mut ports) {
                Ok(Done::Bytes(bytes)) => bytes.len(),
                _ => 0,
            }
        };
        line(name, size(&request), size(&response), size(&day));
    }
    for (name, info) in [
        ("general-ciphering, identified", KeyInfo::Identified(0)),
        ("general-ciphering, wrapped", KeyInfo::Wrapped { kek_id: 0, wrapped: &[0; 24] }),
        ("general-ciphering, agreed 1-pass", KeyInfo::Agreed { parameters: &[1], data: &[0; 128] }),
        ("general-ciphering, agreed static", KeyInfo::Agreed { parameters: &[2], data: &[] }),
    ] {
        let size = |apdu: &[u8]| general_ciphering(apdu.len(), info);
        line(name, size(&request), size(&response), size(&day));
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
    associations();
    sizes();
    assert!(start.elapsed() < Duration::from_secs(600));
}
