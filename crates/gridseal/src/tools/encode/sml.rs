//! `gridseal encode sml`.

use std::{
    io::{BufRead, Write as _},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use gridseal_lmn::sml::{
    self, Checksum, Mode,
    element::{Element, Signed, Unsigned},
    transport,
};
use serde_json::Value;

use crate::observe::say;

/// Longest line of JSON, bytes.
const LINE_SIZE_MAX: usize = 1 << 22;
/// Deepest nesting.
const DEPTH_MAX: usize = 16;

/// Arguments of `encode sml`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads the JSON objects that `gridseal decode sml` prints, one a line, from standard input, and prints \
    each file in hex. Checksums and padding are made anew; `messages[].elements` is what is encoded.\n\n\
    Exit codes: 0 every object was encoded, 1 the input cannot be read, 2 an object is wrong.\n\n\
    Example:\n  gridseal decode sml capture.bin | gridseal encode sml"
)]
pub struct Arguments {
    /// Encode what no decoder would read, too: for tests of others.
    #[arg(long)]
    danger_unchecked: bool,
}

/// Encodes.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut all_good = true;
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        match file_of(&line, arguments.danger_unchecked) {
            Ok(file) => say(&hex::encode(file)),
            Err(error) => {
                all_good = false;
                let _ = writeln!(std::io::stderr(), "error: line {}: {error:#}", number + 1);
            }
        }
    }
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn file_of(line: &str, unchecked: bool) -> Result<Vec<u8>> {
    if line.len() > LINE_SIZE_MAX {
        bail!("longer than {LINE_SIZE_MAX} bytes");
    }
    let object: Value = serde_json::from_str(line).context("not JSON")?;
    let messages = object.get("messages").and_then(Value::as_array).context("no `messages`")?;
    let mut payload = Vec::new();
    for message in messages {
        let fields =
            message.get("elements").and_then(Value::as_array).context("a message without `elements`")?;
        if fields.len() != 4 {
            bail!(
                "`elements` of a message are transaction, group, abort and body, not {} elements",
                fields.len()
            );
        }
        let checksum = match message.get("checksum").and_then(Value::as_str) {
            None | Some("x25") => Checksum::X25,
            Some("kermit") => Checksum::Kermit,
            Some(other) => bail!("checksum is x25 or kermit, not {other}"),
        };
        let start = payload.len();
        Element::List(6).encode(&mut payload);
        fields.iter().try_for_each(|field| element(field, &mut payload, 0))?;
        let crc = checksum.of(payload.get(start..).unwrap_or_default());
        Element::Unsigned(Unsigned::new(u64::from(crc.swap_bytes()), 2)).encode(&mut payload);
        Element::End.encode(&mut payload);
    }
    if !unchecked {
        sml::messages(&payload, Mode::Tolerant).context("no decoder would read this")?;
    }
    Ok(transport::seal(&payload))
}

fn element(value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        bail!("nested deeper than {DEPTH_MAX} levels");
    }
    match value {
        Value::Null => Element::Absent.encode(out),
        Value::Bool(value) => Element::Boolean(*value).encode(out),
        Value::String(text) => Element::Octets(&hex::decode(text).context("octets are hex")?).encode(out),
        Value::Array(items) => {
            Element::List(items.len()).encode(out);
            items.iter().try_for_each(|item| element(item, out, depth + 1))?;
        }
        Value::Object(fields) => {
            let width = fields.get("w").and_then(Value::as_u64).and_then(|width| u8::try_from(width).ok());
            let width = width.filter(|width| (1..=8).contains(width)).context("`w` is 1 to 8 bytes")?;
            match (fields.get("u").and_then(Value::as_u64), fields.get("i").and_then(Value::as_i64)) {
                (Some(value), None) => Element::Unsigned(Unsigned::new(value, width)).encode(out),
                (None, Some(value)) => Element::Signed(Signed::new(value, width)).encode(out),
                _ => bail!("a number is {{\"u\":..,\"w\":..}} or {{\"i\":..,\"w\":..}}"),
            }
        }
        Value::Number(_) => bail!("a number needs its width: {{\"u\":..,\"w\":..}} or {{\"i\":..,\"w\":..}}"),
    }
    Ok(())
}
