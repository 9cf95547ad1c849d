//! An SML file to typed readings, both checksums verified, next to `sml-rs` in the same run.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures and prints"
)]

use std::{hint::black_box, time::Instant};

use gridseal_lmn::sml::{self, Mode, message::Body, reading::readings, transport};

const COUNT: u32 = 200_000;

/// Nanoseconds for one call, best of five runs.
fn each(mut call: impl FnMut()) -> f64 {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            (0..COUNT).for_each(|_| call());
            start.elapsed().as_secs_f64() * 1e9 / f64::from(COUNT)
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/sml/emh-ehz361.toml");
    let vector: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let file = hex::decode(vector["input"].as_str().unwrap()).unwrap();
    let ours = each(|| {
        let payload = transport::open(black_box(&file)).unwrap();
        let messages = sml::messages(&payload, Mode::Tolerant).unwrap();
        let mut count = 0;
        for message in &messages {
            if let Body::GetListResponse(list) = &message.body {
                readings(list).for_each(|reading| {
                    black_box(reading);
                    count += 1;
                });
            }
        }
        assert_eq!(count, 5);
    });
    let theirs = each(|| {
        let payload = sml_rs::transport::decode(black_box(&file)).remove(0).unwrap();
        black_box(sml_rs::parser::complete::parse(&payload).unwrap());
    });
    println!(
        "SML file of {} bytes, both checksums: {ours:.0} ns to typed readings; sml-rs {theirs:.0} ns to its messages \
         (target 2000 ns)",
        file.len()
    );
}
