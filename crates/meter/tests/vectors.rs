//! What the meter sends is what the shared vectors say, which the head-end and a foreign stack read too.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use gridseal_crypto::Key;
use gridseal_dlms::{apdu::notification::LongInvokeId, frame::wrapper::WrapperDecoder};
use gridseal_meter::{Input, Output, Push, PushConfig, PushKeys, Row};
use gridseal_types::{SystemTitle, Tick, UtcTime};

fn vector(name: &str) -> toml::Table {
    let path = format!("{}/../../tests/vectors/dlms/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn bytes(vector: &toml::Table, field: &str) -> Vec<u8> {
    hex::decode(vector[field].as_str().unwrap()).unwrap()
}

/// 2026-11-25T11:00:00Z, a quarter hour.
fn row() -> Row {
    let start = UtcTime::from_civil(2026, 11, 25, 11, 0, 0).unwrap();
    Row { start, interval_s: 900, status: 0, energy_wh: 74_565 }
}

#[test]
fn a_row_is_pushed_in_the_form_of_the_vector() {
    let plain = row().notification(LongInvokeId::confirmed(0)).unwrap();
    assert_eq!(hex::encode(plain), vector("push-row-plain")["input"].as_str().unwrap());
}

#[test]
fn the_first_row_of_a_meter_leaves_as_the_sealed_vector() {
    let vector = vector("push-row-sealed");
    let config = PushConfig {
        system_title: SystemTitle::from_slice(&bytes(&vector, "originator")).unwrap(),
        key_generation: 1,
    };
    let keys = PushKeys {
        guek: Key::take_slice(&mut bytes(&vector, "guek")).unwrap(),
        gak: Key::take_slice(&mut bytes(&vector, "gak")).unwrap(),
        kek: Key::take(&mut [0xE0; 16]),
    };
    let mut push = Push::begin(config, keys);
    push.handle(Tick(0), Input::Connected).unwrap();
    push.handle(Tick(0), Input::Captured(row())).unwrap();
    let frame = loop {
        match push.poll().expect("a frame") {
            Output::Persist { id, .. } => push.handle(Tick(0), Input::Persisted(id)).unwrap(),
            Output::Transmit(frame) => break frame,
            _ => {}
        }
    };
    let mut decoder = WrapperDecoder::new(1_024);
    decoder.push(&frame).unwrap();
    assert_eq!(hex::encode(decoder.poll().unwrap().apdu()), vector["input"].as_str().unwrap());
}
