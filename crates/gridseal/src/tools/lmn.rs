//! `gridseal lmn`: what the meters of a house say, live.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Subcommand;
use gridseal_io::{
    feed::{Feed, Got},
    readout::{ReadoutFailure, read_out},
    serial::{LineSettings, SerialPort},
};
use gridseal_lmn::{
    iec62056_21::{self, Message, readout::Readout},
    sml::{Mode, transport},
};
use serde_json::{Value, json};

use super::{Usage, decode::sml};
use crate::observe::say;

/// Wait for bytes before the next look round.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Lmn {
    /// Listen to an optical head and print what the meter says.
    Listen(Arguments),
}

/// Arguments of `lmn listen`.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("source").required(true).args(["serial", "tcp", "input"]),
    after_help = "Finds SML files and pushed messages of IEC 62056-21 in what comes. Nothing of a file with a wrong \
    checksum, and nothing of a message with wrong parity, is shown. Neither language proves who speaks: \
    `authenticated` is always \"none\".\n\
    With --sign-on the meter is asked (IEC 62056-21, mode C, from 300 baud 7E1).\n\
    Radio sticks are not read here: their frames are the makers' own; pipe their telegrams as hex into \
    `gridseal decode mbus -`.\n\n\
    Exit codes: 0 the source has ended or --count is reached, 1 it failed, 2 wrong usage, or nothing readable came.\n\n\
    Examples:\n  gridseal lmn listen --serial /dev/ttyUSB0\n  gridseal lmn listen --serial /dev/ttyUSB0 --sign-on --json\n  \
    gridseal lmn listen --tcp 192.0.2.7:7970 --count 1\n  gridseal lmn listen - < capture.bin"
)]
pub struct Arguments {
    /// Serial line, such as an optical head on USB.
    #[arg(long, value_name = "PATH")]
    serial: Option<PathBuf>,
    /// Server that hands a serial line on: host:port.
    #[arg(long, value_name = "ADDR")]
    tcp: Option<String>,
    /// Standard input: give -.
    #[arg(value_name = "-", value_parser = ["-"])]
    input: Option<String>,
    /// Speed and shape of a character of the serial line.
    #[arg(long, value_name = "BAUD,SHAPE", default_value_t = LineSettings::SML, requires = "serial")]
    line: LineSettings,
    /// Ask the meter, by its address or whichever is there, instead of waiting for what it pushes.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "", requires = "serial", conflicts_with = "line")]
    sign_on: Option<String>,
    /// End after so many files or messages, good or bad.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// One JSON object for each file or message.
    #[arg(long)]
    json: bool,
    /// Refuse the deviations of known meters.
    #[arg(long)]
    strict: bool,
}

/// Runs it.
pub fn run(lmn: &Lmn) -> Result<ExitCode> {
    let Lmn::Listen(arguments) = lmn;
    let mut teller = Teller { json: arguments.json, limit: arguments.count, good: 0, bad: 0 };
    match (&arguments.sign_on, &arguments.serial) {
        (Some(address), Some(path)) => {
            let mut port = SerialPort::open(path, LineSettings::SIGN_ON)?;
            while !teller.is_done() {
                let readout = Readout::new(address.as_bytes()).map_err(|error| Usage(error.to_string()))?;
                match read_out(&mut port, readout) {
                    Ok(message) => teller.message(&message),
                    Err(ReadoutFailure::Line(error)) => bail!(error),
                    Err(error) => teller.tell(&failed(error.code(), &error.to_string())),
                }
            }
        }
        _ => listen(&mut feed(arguments)?, arguments.strict, &mut teller)?,
    }
    Ok(if teller.bad == 0 && teller.good > 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn feed(arguments: &Arguments) -> Result<Feed> {
    Ok(match (&arguments.serial, &arguments.tcp) {
        (Some(path), _) => Feed::serial(path, arguments.line)?,
        (None, Some(address)) => Feed::tcp(address)?,
        (None, None) => Feed::standard_input()?,
    })
}

fn listen(feed: &mut Feed, strict: bool, teller: &mut Teller) -> Result<()> {
    let mode = if strict { Mode::Strict } else { Mode::Tolerant };
    let mut files = transport::Receiver::new();
    let mut messages = iec62056_21::Receiver::new();
    let mut buffer = [0; 512];
    while !teller.is_done() {
        let count = match feed.read(&mut buffer, PATIENCE)? {
            Got::Bytes(count) => count,
            Got::Silence => {
                eprintln!("nothing came for {} s", PATIENCE.as_secs());
                continue;
            }
            Got::End => break,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        files.push(bytes, |file| {
            let told = sml::decoded(file, mode)
                .unwrap_or_else(|error| sml::failed(error.code(), error.offset, &error.to_string()));
            teller.tell(&told);
        });
        let damaged = messages.damaged();
        messages.push(bytes, |message| teller.message(message));
        for _ in damaged..messages.damaged() {
            teller.tell(&failed("lmn.parity", "a pushed message with a damaged character was dropped"));
        }
    }
    if teller.good + teller.bad == 0 {
        teller.tell(&failed("lmn.no_file", "neither an SML file nor a message of IEC 62056-21 came"));
    }
    Ok(())
}

fn failed(code: &str, message: &str) -> Value {
    json!({ "ok": false, "error": { "code": code, "message": message } })
}

/// Prints what was found, and counts.
struct Teller {
    json: bool,
    limit: Option<u64>,
    good: u64,
    bad: u64,
}

impl Teller {
    fn is_done(&self) -> bool {
        self.limit.is_some_and(|limit| self.good + self.bad >= limit)
    }

    fn message(&mut self, bytes: &[u8]) {
        let told = match Message::parse(bytes) {
            Ok(message) => readable(&message),
            Err(error) => sml::failed(error.code(), error.offset, &error.to_string()),
        };
        self.tell(&told);
    }

    fn tell(&mut self, told: &Value) {
        // What came in the same read behind the last one wanted is not told.
        if self.is_done() {
            return;
        }
        let is_good = told["ok"] == json!(true);
        *(if is_good { &mut self.good } else { &mut self.bad }) += 1;
        if self.json {
            say(&told.to_string());
        } else if is_good {
            say(&format!(
                "-- {}",
                told["server_id"].as_str().or(told["identification"].as_str()).unwrap_or("meter")
            ));
            for entry in told["entries"].as_array().into_iter().flatten() {
                say(&line(entry));
            }
        } else {
            eprintln!("refused: {}", told["error"]["message"].as_str().unwrap_or_default());
        }
    }
}

fn line(entry: &Value) -> String {
    let name =
        ["obis", "name", "address"].into_iter().find_map(|name| entry[name].as_str()).unwrap_or_default();
    let value = match &entry["value"] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    format!("{name:24} {value:>20} {}", entry["unit"].as_str().unwrap_or_default())
}

/// A message of readable lines as JSON.
fn readable(message: &Message<'_>) -> Value {
    let entries: Vec<Value> = message
        .items
        .iter()
        .map(|item| {
            let reading = item.reading();
            let mut told = json!({
                "address": String::from_utf8_lossy(item.address), "place": item.place,
                "quantity": reading.quantity.name(), "value": sml::value(&reading.value),
                "unit": reading.unit.symbol(), "tariff": reading.tariff,
                "text": String::from_utf8_lossy(item.value),
            });
            if let Some(obis) = reading.obis {
                told["obis"] = obis.to_string().into();
            }
            told
        })
        .collect();
    let who = message.identification.map(|who| {
        format!("{}{}", String::from_utf8_lossy(&who.manufacturer), String::from_utf8_lossy(who.name))
    });
    json!({
        "ok": true, "authenticated": "none", "identification": who, "checked": message.is_checked,
        "entries": entries,
    })
}
