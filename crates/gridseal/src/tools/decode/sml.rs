//! `gridseal decode sml`.

use std::{
    io::{Read, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use gridseal_lmn::{
    DecodeError,
    reading::Value as Typed,
    sml::{
        self, Checksum, Mode,
        element::{Element, Elements},
        message::{Body, Message, Time},
        reading::{SmlReading, readings},
        transport,
    },
};
use serde_json::{Map, Value, json};

use super::input::{NotHex, hex_bytes};
use crate::observe::say;

/// Most bytes read from one input.
const INPUT_SIZE_MAX: u64 = 1 << 28;

/// Arguments of `decode sml`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints one JSON object for each SML file found in the input, bytes or hex; what lies between files is \
    skipped and counted.\n\
    `authenticated` is always \"none\": SML's signatures are shown as sent, not verified.\n\n\
    Exit codes: 0 every file was decoded, 1 the input cannot be read, 2 a file is wrong or there is none.\n\n\
    Examples:\n  gridseal decode sml capture.bin\n  xxd -r -p capture.hex | gridseal decode sml\n  \
    gridseal decode sml capture.bin | gridseal encode sml"
)]
pub struct Arguments {
    /// File of bytes or of hex; - or nothing for standard input.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Refuse the deviations of known meters.
    #[arg(long)]
    strict: bool,
}

/// Decodes.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let bytes = match from_hex(input(arguments.file.as_ref().filter(|path| path.as_os_str() != "-"))?) {
        Ok(bytes) => bytes,
        Err(error) => {
            say(&failed("lmn.hex", error.offset, &error.message).to_string());
            return Ok(ExitCode::from(2));
        }
    };
    let mode = if arguments.strict { Mode::Strict } else { Mode::Tolerant };
    let mut receiver = transport::Receiver::new();
    let (mut good, mut bad) = (0u32, 0u32);
    receiver.push(&bytes, |file| {
        let told = match decoded(file, mode) {
            Ok(told) => {
                good += 1;
                told
            }
            Err(error) => {
                bad += 1;
                failed(error.code(), error.offset, &error.to_string())
            }
        };
        say(&told.to_string());
    });
    let skipped = receiver.skipped() + receiver.pending();
    if good + bad == 0 {
        say(&failed(
            "lmn.no_file",
            0,
            "no SML file in the input: none begins with 1B1B1B1B01010101 and ends",
        )
        .to_string());
    } else if good + bad > 1 || skipped > 0 {
        let _ = writeln!(std::io::stderr(), "{good} files decoded, {bad} refused, {skipped} bytes skipped");
    }
    Ok(if bad == 0 && good > 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn input(path: Option<&PathBuf>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match path {
        Some(path) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            file.take(INPUT_SIZE_MAX).read_to_end(&mut bytes)?;
        }
        None => {
            std::io::stdin().lock().take(INPUT_SIZE_MAX).read_to_end(&mut bytes)?;
        }
    }
    Ok(bytes)
}

/// Bytes that are text of hex, as what that says; others as they are.
fn from_hex(bytes: Vec<u8>) -> Result<Vec<u8>, NotHex> {
    let is_text =
        !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace());
    if is_text { hex_bytes(&String::from_utf8_lossy(&bytes)) } else { Ok(bytes) }
}

/// A refusal as JSON.
pub fn failed(code: &str, offset: usize, message: &str) -> Value {
    json!({ "ok": false, "error": { "code": code, "offset": offset, "message": message } })
}

/// A file as JSON.
pub fn decoded(file: &[u8], mode: Mode) -> Result<Value, DecodeError> {
    let payload = transport::open(file)?;
    let messages = sml::messages(&payload, mode)?;
    let mut told = Map::new();
    told.insert("ok".into(), true.into());
    told.insert("authenticated".into(), "none".into());
    let mut entries = Vec::new();
    for message in &messages {
        if let Body::GetListResponse(list) = &message.body {
            told.insert("server_id".into(), hex::encode(list.server_id.0).into());
            if let Some(time) = &list.sensor_time {
                told.insert("sensor_time".into(), time_of(time));
            }
            entries.extend(readings(list).zip(&list.entries).map(|(reading, entry)| {
                self::entry(&reading, entry.name.0, entry.scaler.map(|scaler| scaler.value))
            }));
        }
    }
    told.insert("entries".into(), entries.into());
    let mut elements = Elements::new(&payload, mode);
    let mut shown = Vec::new();
    for message in &messages {
        shown.push(message_of(message, &mut elements)?);
    }
    told.insert("messages".into(), shown.into());
    Ok(told.into())
}

fn message_of(message: &Message<'_>, elements: &mut Elements<'_>) -> Result<Value, DecodeError> {
    let mut fields = generic(elements)?;
    elements.element("end of message")?;
    // What is behind the body is made anew by whoever encodes.
    if let Some(fields) = fields.as_array_mut() {
        fields.truncate(4);
    }
    Ok(json!({
        "body": message.body.name(),
        "transaction_id": hex::encode(message.transaction_id.0),
        "checksum": match message.checksum { Checksum::X25 => "x25", Checksum::Kermit => "kermit" },
        "elements": fields,
    }))
}

/// An element as JSON: lists as arrays, octets in hex, numbers with the bytes they were sent in.
fn generic(elements: &mut Elements<'_>) -> Result<Value, DecodeError> {
    Ok(match elements.element("element")? {
        Element::Absent | Element::End => Value::Null,
        Element::Octets(bytes) => hex::encode(bytes).into(),
        Element::Boolean(value) => value.into(),
        Element::Signed(number) => json!({ "i": number.value, "w": number.width }),
        Element::Unsigned(number) => json!({ "u": number.value, "w": number.width }),
        Element::List(6) if elements.offset() < 2 || is_message(elements) => {
            // The sixth element of a message is its end, which is no element of its own.
            let items: Result<Vec<Value>, DecodeError> = (0..5).map(|_| generic(elements)).collect();
            items?.into()
        }
        Element::List(count) => {
            let items: Result<Vec<Value>, DecodeError> = (0..count).map(|_| generic(elements)).collect();
            items?.into()
        }
    })
}

/// Whether the list of six that was just begun is a message: its fourth element is a list of two, its last the end.
fn is_message(elements: &Elements<'_>) -> bool {
    let mut ahead = elements.clone();
    (0..3).all(|_| ahead.skip("element").is_ok()) && matches!(ahead.peek("body"), Ok(Element::List(2)))
}

fn time_of(time: &Time) -> Value {
    if time.is_calendar() {
        crate::tools::sts::rfc3339(gridseal_types::UtcTime(time.seconds())).into()
    } else {
        json!({ "second_index": time.seconds() })
    }
}

/// One entry for people and programs. Also what `gridseal lmn listen` prints.
pub fn entry(read: &SmlReading<'_>, name: &[u8], scaler: Option<i64>) -> Value {
    let mut told = Map::new();
    let reading = &read.reading;
    match &reading.obis {
        Some(obis) => told.insert("obis".into(), obis.to_string().into()),
        None => told.insert("name".into(), hex::encode(name).into()),
    };
    told.insert("quantity".into(), reading.quantity.name().into());
    told.insert("value".into(), value(&reading.value));
    told.insert("unit".into(), reading.unit.symbol().into());
    told.insert("tariff".into(), reading.tariff.into());
    for (name, field) in [
        ("scaler", scaler.map(Value::from)),
        ("status", read.status.map(|status| format!("{status:#x}").into())),
        ("time", read.time.as_ref().map(time_of)),
        ("signature", read.signature.map(|signature| hex::encode(signature).into())),
    ] {
        if let Some(field) = field {
            told.insert(name.into(), field);
        }
    }
    told.into()
}

/// A value as JSON.
pub fn value(value: &Typed<'_>) -> Value {
    match value {
        Typed::Number(number) => {
            number.to_string().parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
        }
        Typed::Boolean(value) => (*value).into(),
        Typed::Text(text) => text.to_string().into(),
        Typed::Octets(octets) => hex::encode(octets).into(),
        _ => Value::Null,
    }
}
