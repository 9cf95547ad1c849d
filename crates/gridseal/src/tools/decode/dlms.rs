//! `gridseal decode dlms`.

mod keys;
mod print;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use gridseal_dlms::tree::{Closed, Form, Opener, TreeDecoder};

use super::input;
use crate::{lab::Lab, observe::say, tools::Usage};

/// Arguments of `decode dlms`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Takes HDLC frames, wrapper units and bare APDUs, several in one line as they were sent; segments and blocks \
    are put together over the lines. With --keys what is protected is opened with the keys and titles of a lab file, in \
    both directions; dedicated keys are learned from the association that delivers them, and never shown.\n\
    Each line of the tree: offset, size in bytes, field, value, meaning. Below decrypted or put-together bytes offsets \
    count from their start.\n\
    `authenticated` is true when every part that was opened has a tag that verified, false when one has none, \"none\" \
    when nothing was opened. A tag that does not verify releases nothing.\n\n\
    Exit codes: 0 every frame was decoded, 1 a file cannot be read, 2 a frame or the usage is wrong.\n\n\
    Examples:\n  gridseal decode dlms 7EA0190321107FDAE6E600C001C100080000010000FF0200601A7E\n  \
    gridseal decode dlms --keys lab.toml --json - < capture.hex"
)]
pub struct Arguments {
    /// Frames in hex, or - for standard input, a line each; # begins a comment.
    #[arg(value_name = "HEX", required = true)]
    frames: Vec<String>,
    /// Lab file (TOML) with keys and titles.
    #[arg(long, value_name = "LABFILE")]
    keys: Option<PathBuf>,
    /// What the bytes are.
    #[arg(long = "as", value_name = "FORM", default_value = "auto", value_parser = ["auto", "hdlc", "wrapper", "apdu", "data"])]
    form: String,
    /// Also show what decrypts without its tag being verified: it may be anything. For captures of meters whose
    /// authentication key is not known.
    #[arg(long, requires = "keys")]
    danger_unverified: bool,
    /// One JSON object for each frame.
    #[arg(long)]
    json: bool,
}

/// Decodes.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let lines = arguments.lines()?;
    let mut opener = arguments.opener()?;
    let form = match arguments.form.as_str() {
        "hdlc" => Form::Hdlc,
        "wrapper" => Form::Wrapper,
        "apdu" => Form::Apdu,
        "data" => Form::Data,
        _ => Form::Auto,
    };
    let mut decoder = TreeDecoder::new();
    let (mut good, mut bad) = (0usize, 0usize);
    for line in &lines {
        let frames = match input::hex_bytes(line) {
            Ok(bytes) => decoder.decode(&bytes, form, opener.as_mut()),
            Err(error) => {
                bad += 1;
                say(&print::not_hex(&error, arguments.json));
                continue;
            }
        };
        for frame in &frames {
            if frame.fault.is_none() {
                good += 1
            } else {
                bad += 1
            }
            say(&if arguments.json { print::json(frame).to_string() } else { print::text(frame) });
        }
    }
    let pending = decoder.pending();
    if good + bad > 1 || pending > 0 {
        eprintln!("{good} frames decoded, {bad} refused, {pending} messages still not whole at the end");
    }
    Ok(if bad == 0 && good > 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

impl Arguments {
    fn lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for text in &self.frames {
            if text == "-" {
                let all = std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?;
                lines.extend(input::lines(&all));
            } else {
                lines.push(text.clone());
            }
        }
        if lines.is_empty() {
            bail!(Usage("standard input holds no frame".into()));
        }
        Ok(lines)
    }

    fn opener(&self) -> Result<Box<dyn Opener>> {
        let Some(path) = &self.keys else { return Ok(Box::new(Closed)) };
        let lab = Lab::load(path)?;
        Ok(if lab.suite == 2 {
            Box::new(keys::LabOpener::<32>::new(&lab, self.danger_unverified)?)
        } else {
            Box::new(keys::LabOpener::<16>::new(&lab, self.danger_unverified)?)
        })
    }
}
