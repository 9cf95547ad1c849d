//! Opening a telegram in one call, and printing it in one line.

use std::fmt::Write;

use gridseal_crypto::Key;
use gridseal_lmn::{
    mbus::{Authenticity, Header, KeySource, OpenError, OpenOptions, Opened, Opener, SingleKey},
    reading::{Unit, Value},
};
use gridseal_types::Tick;

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).unwrap()
}

pub(crate) fn single(hex: &str) -> SingleKey {
    SingleKey(Key::take_slice(&mut bytes(hex)).unwrap())
}

/// A vector's field, or `None`.
pub(crate) fn vector(name: &str) -> toml::Table {
    let path = format!("{}/../../tests/vectors/lmn/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).parse().unwrap()
}

pub(crate) fn key_and_input(name: &str) -> (SingleKey, Vec<u8>) {
    let vector = vector(name);
    (single(vector["key"].as_str().unwrap()), bytes(vector["input"].as_str().unwrap()))
}

/// Opens with an opener of its own, knowing the format of T4.
pub(crate) fn open(
    keys: &impl KeySource,
    options: &OpenOptions,
    input: &[u8],
) -> Result<(Header, String), OpenError> {
    let mut opener = Opener::default();
    opener.formats_mut().add(&bytes("040504fb827504853c04fb82f53c01fd17")).unwrap();
    open_with(&mut opener, keys, options, input)
}

pub(crate) fn open_with(
    opener: &mut Opener,
    keys: &impl KeySource,
    options: &OpenOptions,
    input: &[u8],
) -> Result<(Header, String), OpenError> {
    let mut header = Header::default();
    let opened = opener.open(Tick(0), input, keys, options, &mut header)?;
    let line = line(&header, &opened)?;
    Ok((header, line))
}

fn line(header: &Header, opened: &Opened<'_>) -> Result<String, OpenError> {
    let mut line = String::from(match opened.authenticity {
        Authenticity::None => "none",
        Authenticity::Unproven => "unproven",
        Authenticity::Verified => "verified",
    });
    if let Some(counter) = opened.counter {
        write!(line, " {}", counter.value).unwrap();
    }
    write!(line, " {}", header.format.map_or("wired", |format| format.name())).unwrap();
    if let Some(meter) = header.meter {
        write!(line, " {meter}").unwrap();
    }
    let mut separator = " | ";
    for record in opened.body.records(header.meter, Default::default()).into_iter().flatten() {
        let record = record?;
        let reading = record.reading;
        write!(line, "{separator}{}", reading.quantity.name()).unwrap();
        separator = "; ";
        match reading.value {
            Value::Number(number) => write!(line, " {number}"),
            Value::Date(date) => write!(line, " {date}"),
            Value::DateTime(at) => write!(line, " {at}"),
            Value::Text(text) => write!(line, " '{text}'"),
            Value::Octets(octets) => write!(line, " {}", hex::encode(octets)),
            other => write!(line, " {other:?}"),
        }
        .unwrap();
        if reading.unit != Unit::None {
            write!(line, " {}", reading.unit.symbol()).unwrap();
        }
        if reading.storage != 0 {
            write!(line, " storage {}", reading.storage).unwrap();
        }
        if let Some(obis) = reading.obis {
            write!(line, " {obis}").unwrap();
        }
    }
    Ok(line)
}
