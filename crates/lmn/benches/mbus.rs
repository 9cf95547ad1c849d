//! A wireless telegram to typed values, next to the raw AES of it and to `m-bus-parser` in the same run; the registry
//! with a million meters in random order next to one; allocations per telegram.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures and prints"
)]

use std::{hint::black_box, time::Instant};

use gridseal_crypto::{Key, lmn::Direction, lmn::MeterKeyRef, role::MeterLmn};
use gridseal_lmn::mbus::{
    Header, KeySource, Manufacturer, Medium, MeterAddress, OpenOptions, Opener, Quirks, SingleKey,
    encode::Telegram,
    frame::{Format, Link, strip},
    record::{RecordOptions, Records},
    registry::Registry,
    tpl::{Configuration, Content, Tpl, TplFields},
};
use gridseal_types::Tick;

const ROUND_COUNT: u32 = 100;
const ROUND_SIZE: u32 = 2_000;
const METER_COUNT: u32 = 1_000_000;
/// T8 of the fact sheet: mode 5, 103 bytes, of a real meter.
const MODE_5: &str = "6644496A3100015514377203926314496A00075000500598A78E0D71AA6358EEBD0B20BFDF99EDA2D22FA25314F3F1B84470898E495303923770BA8DDA97C964F0EA6CE24F5650C0A6CDF3DE37DE33FBFBEBACE4009BB0D8EBA2CBE80433FF131328206020B1BF";
const MODE_5_KEY: &str = "F8B24F12F9D113F680BEE765FDE67EC0";
/// T2: profile B.
const PROFILE_B: &str = "434493157856341233038C2075900F002C25B30A000021924D4F2FB66E017A75002007109058475F4BC91DF878B80A1B0F98B629024AAC727942BFC549233C0140829B93";
const PROFILE_B_KEY: &str = "000102030405060708090A0B0C0D0E0F";
/// T7: profile D in format A.
const PROFILE_D: &str = "4544372c060382533c16b8a68c20807a8010ff2a1001dc2e0d00cf1a763885672e138d6c0af61338403fdeb528ab5e52264e2c61e41b06073550aa296ae9815c1a868a7a9868ec6c624cfbbcecb37210";
const PROFILE_D_KEY: &str = "BF902DD6DFADAFE83E4AE6832B5FA14C";

fn key(hex: &str) -> Key<MeterLmn, 16> {
    Key::take_slice(&mut hex::decode(hex).unwrap()).unwrap()
}

/// Nanoseconds for one call: the best of many short rounds, so that other programs on the machine do not count.
fn each(mut call: impl FnMut(u32)) -> f64 {
    (0..ROUND_COUNT)
        .map(|round| {
            let start = Instant::now();
            (0..ROUND_SIZE).for_each(|index| call(round * ROUND_SIZE + index));
            start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUND_SIZE)
        })
        .fold(f64::INFINITY, f64::min)
}

/// Opens a telegram and reads every record.
fn read(opener: &mut Opener, keys: &impl KeySource, bytes: &[u8]) -> usize {
    let mut header = Header::default();
    let opened = opener.open(Tick(0), bytes, keys, &OpenOptions::default(), &mut header).unwrap();
    let records = opened.body.records(header.meter, Quirks::default()).unwrap();
    records.fold(0, |count, record| {
        black_box(record.unwrap());
        count + 1
    })
}

fn one(name: &str, hex: &str, key_hex: &str, target_ns: Option<f64>, raw: impl FnMut(u32)) {
    let bytes = hex::decode(hex).unwrap();
    let keys = SingleKey(key(key_hex));
    let mut opener = Opener::default();
    let ours = each(|_| {
        black_box(read(&mut opener, &keys, black_box(&bytes)));
    });
    let raw = each(raw);
    let allocations = allocation_counter::measure(|| {
        read(&mut opener, &keys, &bytes);
    });
    let target = target_ns.map_or(String::new(), |ns| format!("  (target: at most {ns:.0} ns)"));
    println!(
        "  {name:34} {ours:7.0} ns{target}; raw AES of it {raw:5.0} ns, ratio {:.2}; {} allocations",
        ours / raw,
        allocations.count_total
    );
}

/// The other library on the plain body of T8: records only, without frame and decryption.
fn peer() {
    let bytes = hex::decode(MODE_5).unwrap();
    let keys = SingleKey(key(MODE_5_KEY));
    let mut opener = Opener::default();
    let mut header = Header::default();
    let body = {
        let opened = opener.open(Tick(0), &bytes, &keys, &OpenOptions::default(), &mut header).unwrap();
        opened.body.bytes.to_vec()
    };
    let theirs = each(|_| {
        let records = m_bus_parser::user_data::DataRecords::from(black_box(body.as_slice()));
        records.for_each(|record| {
            let _ = black_box(record);
        });
    });
    let ours = each(|_| {
        let records = Records::new(black_box(&body), 0, RecordOptions::default());
        records.for_each(|record| {
            let _ = black_box(record);
        });
    });
    println!(
        "  records of T8 alone                {ours:7.0} ns; m-bus-parser 0.5.3 {theirs:.0} ns, ratio {:.2}",
        ours / theirs
    );
}

fn address(number: u32) -> MeterAddress {
    MeterAddress::new(Manufacturer(0x1593), number.to_be_bytes(), 0x33, Medium(7))
}

fn telegram(number: u32, key: MeterKeyRef<'_>) -> Vec<u8> {
    let configuration = Configuration { cf: 0x0500, ..Configuration::default() };
    let body = [0x04, 0x13, 1, 2, 3, 0].repeat(12);
    Telegram {
        link: Link { control: 0x44, address: address(number) },
        ell: None,
        afl: None,
        tpl: Tpl {
            ci: 0x7A,
            content: Content::Full,
            address: None,
            fields: Some(TplFields { access: 9, status: 0, configuration }),
        },
        body: &body,
        clear_tail: 0,
    }
    .encode(Format::A, Some(key), None)
    .unwrap()
}

fn meter_key(number: u32) -> Key<MeterLmn, 16> {
    let mut bytes = [0x5A; 16];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    Key::take(&mut bytes)
}

fn load(count: u32) -> Registry {
    let mut registry = Registry::with_capacity(count as usize);
    for number in 0..count {
        registry.insert(address(number), &meter_key(number), None).unwrap();
    }
    registry
}

fn registry() {
    let start = Instant::now();
    let million = load(METER_COUNT);
    let loaded = start.elapsed().as_secs_f64();
    let per_meter = million.size_bytes() as f64 / f64::from(METER_COUNT);
    println!("registry of {METER_COUNT} meters");
    println!(
        "  loaded in {loaded:.2} s (target: 2 s), {per_meter:.0} bytes a meter, key included (target: 64 and 16)"
    );
    let single = load(1);
    // The telegrams of both runs are as many and lie equally far apart in memory: only the registry differs.
    let mut seed = 1u32;
    let mut numbers = Vec::new();
    for _ in 0..ROUND_COUNT * ROUND_SIZE {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        numbers.push(seed % METER_COUNT);
    }
    let of_many: Vec<_> = numbers.iter().map(|&n| telegram(n, (&meter_key(n)).into())).collect();
    let of_one: Vec<_> = numbers.iter().map(|_| telegram(0, (&meter_key(0)).into())).collect();
    let mut opener = Opener::default();
    let mut run = |registry: &Registry, telegrams: &[Vec<u8>]| {
        each(|index| {
            black_box(read(&mut opener, registry, &telegrams[index as usize]));
        })
    };
    let (one, many) = (run(&single, &of_one), run(&million, &of_many));
    println!("  one meter                          {one:7.0} ns a telegram of mode 5 with 12 records");
    println!(
        "  a million, at random               {many:7.0} ns, ratio {:.2} (target: at most 1.3)",
        many / one
    );
}

fn main() {
    println!("wireless M-Bus, bytes to typed values");
    let mode_5 = key(MODE_5_KEY);
    let mut blocks = [7u8; 80];
    one("mode 5, 103 bytes (T8)", MODE_5, MODE_5_KEY, Some(1_000.0), |_| {
        MeterKeyRef::from(&mode_5).cbc_decrypt(&[1; 16], black_box(&mut blocks));
    });
    let profile_b = key(PROFILE_B_KEY);
    let mut blocks = [7u8; 32];
    let message = [9u8; 43];
    one("profile B, 68 bytes (T2)", PROFILE_B, PROFILE_B_KEY, Some(1_200.0), |count| {
        let keys = MeterKeyRef::from(&profile_b).derive(Direction::FromMeter, count, [1; 4]);
        black_box(keys.mac(&[&message]));
        keys.cbc_decrypt(black_box(&mut blocks));
    });
    let profile_d = key(PROFILE_D_KEY);
    let mut text = [7u8; 37];
    one("profile D, 80 bytes, format A (T7)", PROFILE_D, PROFILE_D_KEY, None, |count| {
        let keys = MeterKeyRef::from(&profile_d).derive(Direction::FromMeter, count, [1; 4]);
        black_box(keys.ccm_open(&[1; 13], &[2; 7], black_box(&mut text), &[3; 8]));
    });
    peer();
    let frame = hex::decode(PROFILE_D).unwrap();
    let mut plain = Vec::new();
    let checksums = each(|_| {
        strip(black_box(&frame), None, &mut plain).unwrap();
    });
    println!("  checksums of 80 bytes in format A  {checksums:7.0} ns");
    registry();
}
