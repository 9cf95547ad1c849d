//! Tokens a second on one core, next to the raw block cipher in the same run, and whether time depends on secrets.
//!
//! The leak test is Welch's t-test between one fixed input and random inputs, in random order, the slowest tenth of all
//! samples left out (interrupts). Below 4.5 nothing was found.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures and prints"
)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use gridseal_crypto::sts::{Algorithm, DecoderKey};
use gridseal_sts::{
    derive::{Dkga, VendingKey},
    identity::{
        DrnCheck, KeyAttributes, KeyExpiryNumber, KeyRevisionNumber, KeyType, Pan, SupplyGroupCode,
        TariffIndex,
    },
    issuer::{Account, Order, Request, RequestId},
    tid::BaseDate,
    token::{Block, Commodity, Content},
};
use gridseal_types::UtcTime;

const COUNT: u32 = 400_000;
const SAMPLES: usize = 1_000_000;
/// 25 November 2026, noon.
const NOW: UtcTime = UtcTime(1_795_608_000);

fn attributes() -> KeyAttributes {
    KeyAttributes {
        key_type: KeyType::Unique,
        supply_group: SupplyGroupCode::new(201_457).unwrap(),
        tariff_index: TariffIndex::new(1).unwrap(),
        revision: KeyRevisionNumber::new(1).unwrap(),
        expiry: KeyExpiryNumber(255),
        base: BaseDate::Y2014,
    }
}

/// Nanoseconds for one call, best of three runs.
fn each(mut call: impl FnMut(u32)) -> f64 {
    (0..3)
        .map(|_| {
            let start = Instant::now();
            (0..COUNT).for_each(&mut call);
            start.elapsed().as_secs_f64() * 1e9 / f64::from(COUNT)
        })
        .fold(f64::INFINITY, f64::min)
}

fn rates(name: &str, algorithm: Algorithm) {
    let size = if algorithm == Algorithm::Misty1 { 16 } else { 8 };
    let key = DecoderKey::take(algorithm, &mut vec![7; size]).unwrap();
    let raw = each(|number| {
        black_box(key.encrypt(black_box(u64::from(number))));
    });
    let account = Account::new(attributes());
    let issue = each(|number| {
        let order = Order::Credit(Commodity::Electricity, i64::from(number % 10_000));
        let request = Request { id: RequestId([1; 16]), order, random: 5, attributes: attributes() };
        let (_, issued) = account.issue(request, NOW).unwrap();
        black_box(issued.content.to_block().unwrap().seal(&key));
    });
    let order = Order::Credit(Commodity::Electricity, 17);
    let request = Request { id: RequestId([1; 16]), order, random: 5, attributes: attributes() };
    let token = account.issue(request, NOW).unwrap().1.content.to_block().unwrap().seal(&key);
    let decode = each(|_| {
        let (block, is_right) = Block::open(black_box(token), Some(&key)).unwrap();
        assert!(is_right);
        black_box(Content::of_block(block).unwrap());
    });
    let vending = VendingKey::take(Dkga::Four, &mut [3; 20]).unwrap();
    let pan = Pan::parse("600727000000000009", DrnCheck::Strict).unwrap();
    let derive = each(|_| {
        black_box(vending.derive(algorithm, black_box(&pan), &attributes()).unwrap());
    });
    let rate = |ns: f64| 1e3 / ns;
    println!(
        "{name}  cipher {raw:>6.0} ns   issue {issue:>6.0} ns ({:.2} M/s, {:.2} x cipher)   decode {decode:>6.0} ns \
         ({:.2} M/s)   derive key {derive:>6.0} ns",
        rate(issue),
        issue / raw,
        rate(decode),
    );
}

struct Draws(u64);

impl Draws {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Welch's t between the times of a fixed secret and of random ones.
fn leak(name: &str, samples: usize, mut timed: impl FnMut([u64; 2]) -> Duration) {
    let mut draws = Draws(0x1234_5678_9ABC_DEF1);
    let mut times: Vec<(bool, f64)> = Vec::with_capacity(samples);
    for _ in 0..samples {
        let random = [draws.next(), draws.next()];
        let is_fixed = draws.next() & 1 == 0;
        let secret = if is_fixed { [0, 0] } else { random };
        times.push((is_fixed, timed(secret).as_secs_f64() * 1e9));
    }
    let mut sorted: Vec<f64> = times.iter().map(|(_, ns)| *ns).collect();
    sorted.sort_by(f64::total_cmp);
    let limit = sorted[samples * 9 / 10];
    let moments = |fixed: bool| {
        let class: Vec<f64> =
            times.iter().filter(|(is, ns)| *is == fixed && *ns <= limit).map(|(_, ns)| *ns).collect();
        let count = class.len() as f64;
        let mean = class.iter().sum::<f64>() / count;
        let variance = class.iter().map(|ns| (ns - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((one, one_error), (two, two_error)) = (moments(true), moments(false));
    let t = (one - two) / (one_error + two_error).sqrt();
    let verdict = if t.abs() < 4.5 { "nothing found" } else { "TIME DEPENDS ON THE SECRET" };
    println!(
        "leak  {name:<28} {samples:>8} samples   fixed {one:>8.1} ns   random {two:>8.1} ns   t {t:>6.2}   {verdict}"
    );
}

fn key_of(algorithm: Algorithm, secret: [u64; 2]) -> DecoderKey {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&secret[0].to_be_bytes());
    bytes[8..].copy_from_slice(&secret[1].to_be_bytes());
    let size = if algorithm == Algorithm::Misty1 { 16 } else { 8 };
    DecoderKey::take(algorithm, &mut bytes[..size]).unwrap()
}

fn main() {
    rates("EA 07 STA   ", Algorithm::Sta);
    rates("EA 11 MISTY1", Algorithm::Misty1);
    for (name, algorithm) in [("STA key", Algorithm::Sta), ("MISTY1 key", Algorithm::Misty1)] {
        leak(&format!("{name}, encrypt"), SAMPLES, |secret| {
            let key = key_of(algorithm, secret);
            let start = Instant::now();
            black_box(key.encrypt(black_box(0x0123_4567_89AB_CDEF)));
            start.elapsed()
        });
        let key = key_of(algorithm, [5, 6]);
        leak(&format!("{name}, block decrypted"), SAMPLES, |secret| {
            let start = Instant::now();
            black_box(key.decrypt(black_box(secret[0])));
            start.elapsed()
        });
    }
    let pan = Pan::parse("600727000000000009", DrnCheck::Strict).unwrap();
    for (name, dkga) in [("DKGA 02", Dkga::Two), ("DKGA 04", Dkga::Four)] {
        leak(&format!("{name}, vending key"), SAMPLES, |secret| {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&secret[0].to_be_bytes());
            bytes[8..16].copy_from_slice(&secret[1].to_be_bytes());
            let size = if dkga == Dkga::Two { 8 } else { 20 };
            let vending = VendingKey::take(dkga, &mut bytes[..size]).unwrap();
            let start = Instant::now();
            black_box(vending.derive(Algorithm::Sta, &pan, &attributes()).unwrap());
            start.elapsed()
        });
    }
}
