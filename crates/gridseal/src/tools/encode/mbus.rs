//! `gridseal encode mbus`.

mod telegram;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    files,
    tools::{Usage, decode::mbus::keys::Keys},
};

/// Arguments of `encode mbus`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads what `gridseal decode mbus` prints, one JSON object a line, and prints each telegram in hex.\n\
    A record is made of `dif_vif` and `data`; without `data` of its `value`; without `dif_vif` of `quantity`, `unit`, \
    `scaler`, `storage`, `tariff`, `subunit` and `function`.\n\
    Without `tpl` a telegram with a short header is made, protected as `security.mode` or `security.profile` says.\n\
    The counter is taken from the object: who simulates a meter must never use one twice under a key.\n\n\
    Exit codes: 0 every object was encoded, 1 a file cannot be read, 2 an object or the usage is wrong.\n\n\
    Examples:\n  gridseal decode mbus --key $KEY 2e44... | gridseal encode mbus --key $KEY -\n  \
    echo '{\"manufacturer\":\"ELS\",\"id\":\"12345678\",\"version\":51,\"medium\":\"gas\",\"security\":{\"profile\":\"B\"},\
    \"counter\":7,\"records\":[{\"quantity\":\"volume\",\"value\":28504.27,\"unit\":\"m3\",\"scaler\":-2}]}' \
    | gridseal encode mbus --key 0102030405060708090a0b0c0d0e0f11 -"
)]
pub struct Arguments {
    /// File with one JSON object a line, or - for standard input.
    #[arg(value_name = "FILE|-")]
    input: PathBuf,
    /// Key of every meter: 32 hex digits.
    #[arg(long, value_name = "HEX", conflicts_with = "keys")]
    key: Option<String>,
    /// File of keys (TOML), as for decode.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

/// Encodes every object.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let keys = Keys::load(arguments.key.as_deref(), arguments.keys.as_deref())?;
    let text = if arguments.input.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        String::from_utf8(files::read(&arguments.input)?).context("input is not text")?
    };
    let mut failed = 0usize;
    let mut out = std::io::stdout().lock();
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    for (index, value) in values.enumerate() {
        let value = match value {
            Ok(value) => value,
            Err(error) => bail!(Usage(format!("object {}: not JSON: {error}", index + 1))),
        };
        match telegram::encode(&value, &keys) {
            Ok(bytes) => {
                writeln!(out, "{}", hex::encode(bytes)).context("cannot write to standard output")?
            }
            Err(error) => {
                failed += 1;
                eprintln!("gridseal: object {}: {error:#}", index + 1);
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
