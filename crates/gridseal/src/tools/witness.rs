//! `gridseal witness key` and `cosign`: a party that reads manufacturers' logs of voucher entries and signs one list only.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{Signer, SigningKey, role::WitnessSigning};
use gridseal_io::clock::utc_now;
use gridseal_trust::enrol::{
    voucher_log::VoucherLog,
    witness::{WitnessPolicy, Witnessed},
};

use crate::{
    files::{Zone, format_public_key, lock_directory, parse_voucher_key, read, read_if_there, write_atomic},
    observe::say,
};

/// What a witness has signed last.
const SEEN: &str = "witnessed.cbor";
const KEY: &str = "witness";

/// A witness of logs of voucher entries.
#[derive(Debug, clap::Subcommand)]
pub enum Witness {
    /// Print this witness's public key; make it on first use.
    #[command(after_help = "Example:\n  gridseal witness key --dir witness")]
    Key(KeyArguments),
    /// Read a log and sign its head: only if it continues what was signed before, and holds no fork.
    #[command(after_help = "Example:\n  gridseal witness cosign --dir witness --voucher-key KEY \
        --out voucher-log.witness voucher-log.cbor\n\nExit codes: 0 signed, 1 refused or failed, 2 wrong usage.")]
    Cosign(Cosign),
}

/// Arguments of `witness key`.
#[derive(Debug, clap::Args)]
pub struct KeyArguments {
    /// Directory of the witness: its key and what it has signed last.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Arguments of `witness cosign`.
#[derive(Debug, clap::Args)]
pub struct Cosign {
    /// Directory of the witness: its key and what it has signed last.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Voucher key of the manufacturer whose log this is, as `voucher_keys` of a configuration has it.
    #[arg(long, value_name = "KEY")]
    voucher_key: String,
    /// Where the witness's word goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The log as the manufacturer publishes it.
    log: PathBuf,
}

fn open(dir: &std::path::Path) -> Result<SigningKey<WitnessSigning>> {
    Ok(SigningKey::new(&Zone::open_or_create(dir)?.load_or_generate::<WitnessSigning>(KEY)?)?)
}

/// Runs one verb.
pub fn run(witness: &Witness) -> Result<()> {
    match witness {
        Witness::Key(KeyArguments { dir }) => {
            say(&format_public_key(&open(dir)?.public()));
            Ok(())
        }
        Witness::Cosign(arguments) => cosign(arguments),
    }
}

fn cosign(arguments: &Cosign) -> Result<()> {
    let Cosign { dir, voucher_key, out, log: path } = arguments;
    let signer = open(dir)?;
    let _lock = lock_directory(dir)?;
    let (head, log) = VoucherLog::open(&read(path)?, &[parse_voucher_key(voucher_key)?])
        .map_err(|code| anyhow::anyhow!("{code}: {} is no log of this manufacturer", path.display()))?;
    let kept = dir.join(SEEN);
    let mut seen = match read_if_there(&kept)? {
        None => Witnessed::default(),
        Some(bytes) => Witnessed::decode(&bytes).map_err(|_| {
            anyhow::anyhow!("{} is damaged: a witness without memory signs nothing", kept.display())
        })?,
    };
    let word = match seen.take(&head, &log, utc_now()) {
        Ok(word) => word,
        Err(code) => bail!(
            "{code}: {} does not continue what this witness has signed, or sells a device twice; nothing is signed",
            path.display()
        ),
    };
    // Durable before anybody can hold it against us.
    write_atomic(&kept, &seen.encode())?;
    write_atomic(out, &word.sign(&signer)?)?;
    say(&format!("{} entries, root {}: {}", head.head.size, head.head.root, out.display()));
    Ok(())
}

/// Words of witnesses, from files.
pub fn words(files: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    files
        .iter()
        .map(|path| fs::read(path).with_context(|| format!("cannot read {}", path.display())))
        .collect()
}

/// What is wrong with words on a head, in words.
pub fn lacking(policy: &WitnessPolicy, code: gridseal_types::Code) -> anyhow::Error {
    match code {
        gridseal_types::Code::Fork => {
            anyhow::anyhow!(
                "{code}: a witness has signed another list of this size: somebody is shown another log"
            )
        }
        _ => anyhow::anyhow!(
            "{code}: {} of {} witnesses must have signed the head of the manufacturer's log: --witnessed FILE",
            policy.required,
            policy.witnesses.len()
        ),
    }
}
