//! `gridseal decode mbus`.

pub mod keys;
mod print;
mod state;

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use gridseal_lmn::mbus::{Header, OpenError, OpenOptions, Opener, Quirks, frame::Format};
use gridseal_types::Tick;
use serde_json::{Value, json};

use super::input;
use crate::files;
use keys::Keys;
use state::State;

/// Telegrams printed after one commit of the counters.
const CHUNK: usize = 512;

/// Arguments of `decode mbus`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints one JSON object for each telegram; with more than one, a summary on standard error.\n\
    `authenticated` is true only when an authentication code was verified, false for encryption without one and \
    \"none\" for clear text.\n\n\
    Exit codes: 0 every telegram was decoded, 1 a file cannot be read or written, 2 a telegram or the usage is wrong.\n\n\
    A file of keys:\n  [[meter]]\n  id = \"12345678\"\n  manufacturer = \"ELS\"\n  version = 0x33\n  medium = \"gas\"\n  \
    key = \"0102030405060708090A0B0C0D0E0F11\"\n  profile = \"A\"   # A, B, D or ELL; nothing else is then accepted\n\n\
    Examples:\n  gridseal decode mbus --key 0102030405060708090A0B0C0D0E0F11 2e4493157856...\n  \
    gridseal decode mbus --keys meters.toml --state counters --file telegrams.txt\n  \
    rtl_wmbus | gridseal decode mbus --keys meters.toml -"
)]
pub struct Arguments {
    /// Telegrams in hex, or - for standard input, one a line.
    #[arg(value_name = "HEX")]
    telegrams: Vec<String>,
    /// File with one telegram in hex on each line; # begins a comment. Wireless and wired may be mixed.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Key of whichever meter sends: 32 hex digits.
    #[arg(long, value_name = "HEX", conflicts_with = "keys")]
    key: Option<String>,
    /// File of keys (TOML). A meter in it is not accepted in clear.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// The body is already decrypted, as captures are often published. Nothing is then authenticated.
    #[arg(long)]
    plain_body: bool,
    /// File of the last counters: replays are refused, and it is written before anything is printed.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Format of the frames.
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = ["auto", "A", "B", "stripped", "wired"])]
    frame: String,
    /// Format of compact frames: all DIF to VIFE bytes of the full frame in hex. Those of full frames are learned.
    #[arg(long, value_name = "HEX")]
    format: Vec<String>,
    /// Deviation of a meter to allow for.
    #[arg(long, value_parser = ["mode5-zero-means-all", "mode5-no-check-bytes", "text-before-extensions"])]
    quirk: Vec<String>,
    /// One JSON object for each telegram; there is no other form.
    #[arg(long, hide = true)]
    json: bool,
}

impl Arguments {
    /// The telegrams as text, in order.
    fn lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for text in &self.telegrams {
            if text == "-" {
                lines.extend(input::lines(
                    &std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?,
                ));
            } else {
                lines.push(text.clone());
            }
        }
        if let Some(path) = &self.file {
            let bytes = files::read(path)?;
            lines.extend(input::lines(&String::from_utf8_lossy(&bytes)));
        }
        if self.telegrams.is_empty() && self.file.is_none() {
            bail!(crate::tools::Usage("no telegram given: HEX, - or --file FILE".into()));
        }
        Ok(lines)
    }

    fn options(&self) -> OpenOptions {
        let quirk = |name: &str| self.quirk.iter().any(|quirk| quirk == name);
        OpenOptions {
            format: Format::from_name(&self.frame),
            is_wired: self.frame == "wired",
            plain_body: self.plain_body,
            learn_formats: true,
            quirks: Quirks {
                mode5_zero_means_all: quirk("mode5-zero-means-all"),
                mode5_no_check_bytes: quirk("mode5-no-check-bytes"),
                text_before_extensions: quirk("text-before-extensions"),
            },
        }
    }
}

/// Hex of a telegram, or why it is none.
fn telegram_bytes(text: &str) -> Result<Vec<u8>, Value> {
    input::hex_bytes(text)
        .map_err(|error| json!({"code": "lmn.hex", "offset": error.offset, "message": error.message}))
}

/// Whether bytes have the shape of a wired frame. A wireless one of the same first bytes would need an L field that
/// stands twice.
fn looks_wired(bytes: &[u8]) -> bool {
    match bytes {
        [0xE5] => true,
        [0x10, _, _, _, 0x16] => true,
        [0x68, a, b, 0x68, rest @ ..] => a == b && rest.len() == usize::from(*a) + 2,
        _ => false,
    }
}

/// Decodes everything that is given.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let lines = arguments.lines()?;
    let mut keys = Keys::load(arguments.key.as_deref(), arguments.keys.as_deref())?;
    let mut state = arguments.state.as_deref().map(State::load).transpose()?;
    let mut opener = Opener::default();
    for format in &arguments.format {
        let bytes = input::hex_bytes(format).ok();
        let added = bytes.is_some_and(|bytes| opener.formats_mut().add(&bytes).is_ok());
        if !added {
            bail!(crate::tools::Usage("--format is not the DIF and VIF bytes of a frame in hex".into()));
        }
    }
    if let Some(state) = &state {
        keys.restore(state);
    }
    let options = arguments.options();
    let mut summary = Summary::default();
    for chunk in lines.chunks(CHUNK) {
        let mut printed = Vec::new();
        for line in chunk {
            let value = decode(&mut opener, &mut keys, &options, arguments, line);
            summary.add(&value);
            printed.push(value);
        }
        // Rule S2: a counter is durable before a value that depends on it leaves.
        if let Some(state) = &mut state {
            state.save(&keys)?;
        }
        let mut out = std::io::stdout().lock();
        for value in printed {
            writeln!(out, "{value}").context("cannot write to standard output")?;
        }
    }
    if lines.len() > 1 {
        eprintln!("{}", summary.text());
    }
    Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn decode(
    opener: &mut Opener,
    keys: &mut Keys,
    options: &OpenOptions,
    arguments: &Arguments,
    line: &str,
) -> Value {
    let bytes = match telegram_bytes(line) {
        Ok(bytes) => bytes,
        Err(error) => return json!({"ok": false, "authenticated": false, "error": error}),
    };
    let is_auto = arguments.frame == "auto";
    let mut options = *options;
    options.is_wired |= is_auto && looks_wired(&bytes);
    let mut header = Header::default();
    let mut result = open(opener, keys, &options, &bytes, &mut header);
    if is_auto && result.is_err() && header.format == Some(Format::B) {
        // One stripped frame in 65,536 ends, by chance, in what would be its checksum.
        options.format = Some(Format::Stripped);
        let mut stripped = Header::default();
        if let Ok(fields) = open(opener, keys, &options, &bytes, &mut stripped) {
            (header, result) = (stripped, Ok(fields));
        }
    }
    let mut value = print::header(&header);
    match result {
        Ok(fields) => {
            value["ok"] = json!(true);
            fields.into_iter().for_each(|(name, field)| value[name] = field);
            if let Some(warning) = keys.warning(&header) {
                value["warning"] = json!(warning);
            }
        }
        Err(error) => {
            value["ok"] = json!(false);
            value["authenticated"] = json!(false);
            value["error"] = print::error(&error);
            hint(&error).into_iter().for_each(|hint| value["error"]["hint"] = json!(hint));
        }
    }
    value
}

/// Opens one telegram and notes its counter.
fn open(
    opener: &mut Opener,
    keys: &mut Keys,
    options: &OpenOptions,
    bytes: &[u8],
    header: &mut Header,
) -> Result<print::Fields, OpenError> {
    // Nothing here waits: fragments of one run belong together, however long the run takes.
    let opened = opener.open(Tick(0), bytes, keys, options, header)?;
    let fields = print::opened(header, &opened, options.quirks)?;
    if let Some(counter) = opened.counter {
        keys.accept(&counter);
    }
    Ok(fields)
}

/// What to do next.
const fn hint(error: &OpenError) -> Option<&'static str> {
    match error {
        OpenError::NoKey { .. } => {
            Some("give the key with --key or --keys, or --plain-body if the capture is decrypted")
        }
        OpenError::CheckBytes { .. } | OpenError::EllChecksum { .. } => {
            Some("check key and address; if the capture is already decrypted, use --plain-body")
        }
        OpenError::Mac { .. } => Some("check that counter and id are the meter's before the key is blamed"),
        OpenError::Compact(_) => {
            Some("decode a full frame of the meter first, or give its format with --format")
        }
        _ => None,
    }
}

#[derive(Default)]
struct Summary {
    decoded: usize,
    failed: usize,
    authenticated: usize,
    records: usize,
    codes: BTreeMap<String, usize>,
}

impl Summary {
    fn add(&mut self, value: &Value) {
        if value["ok"] == json!(true) {
            self.decoded += 1;
            self.authenticated += usize::from(value["authenticated"] == json!(true));
            self.records += value["records"].as_array().map_or(0, Vec::len);
        } else {
            self.failed += 1;
            let code = value["error"]["code"].as_str().unwrap_or("unknown");
            *self.codes.entry(code.to_owned()).or_default() += 1;
        }
    }

    fn text(&self) -> String {
        let codes: Vec<_> = self.codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
        format!(
            "{} telegrams: {} decoded ({} authenticated, {} records), {} refused{}{}",
            self.decoded + self.failed,
            self.decoded,
            self.authenticated,
            self.records,
            self.failed,
            if codes.is_empty() { "" } else { ": " },
            codes.join(", ")
        )
    }
}
