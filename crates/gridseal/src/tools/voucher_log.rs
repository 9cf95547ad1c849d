//! `gridseal import voucher-log`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use gridseal_io::clock::utc_now;
use gridseal_onboarding::endpoint_manager::voucher_log;
use gridseal_store::SqliteRecords;
use gridseal_trust::enrol::voucher_log::VoucherLog;

use super::witness;
use crate::{files::read, observe::say, process::endpoint_manager::set_up};

/// Arguments of `import voucher-log`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// A witness's word on the head of this log; as often as there are words.
    #[arg(long, value_name = "FILE")]
    witnessed: Vec<PathBuf>,
    /// The log as the manufacturer publishes it.
    log: PathBuf,
}

/// Reads a log, compares it with what was seen of it before and with our devices.
pub fn run(arguments: &Arguments) -> Result<()> {
    let (setup, dir) = set_up(&arguments.config)?;
    let (head, log) =
        VoucherLog::open(&read(&arguments.log)?, &setup.registration.voucher_keys).map_err(|code| {
            anyhow::anyhow!("{code}: {} is no log of a manufacturer of ours", arguments.log.display())
        })?;
    let words = witness::words(&arguments.witnessed)?;
    let signed =
        setup.witnesses.check(&head, &words).map_err(|code| witness::lacking(&setup.witnesses, code))?;
    let mut records = SqliteRecords::open(dir.join("register.db"))?;
    // Heads that witnesses have signed are of this log too.
    for other in signed.iter().filter(|signed| signed.head.size < head.head.size) {
        records
            .transact(|view| voucher_log::remember(view, other))?
            .map_err(|code| witness::lacking(&setup.witnesses, code))?;
    }
    let found = records.transact(|view| voucher_log::read(view, utc_now(), &head, &log))?;
    let found = found.map_err(|code| {
        anyhow::anyhow!(
            "{code}: this log does not continue what was seen before: somebody is shown another one"
        )
    })?;
    if arguments.json {
        say(&serde_json::json!({
            "size": head.head.size, "root": head.head.root.to_string(), "signed_at": head.at.to_string(),
            "in_order": found.in_order, "missing": found.missing, "forked": found.forked,
        })
        .to_string());
    } else {
        say(&format!("{} entries, root {}", head.head.size, head.head.root));
        say(&format!("{} devices of ours are in order", found.in_order));
        found.missing.iter().for_each(|serial| say(&format!("missing    {serial}")));
        found.forked.iter().for_each(|serial| say(&format!("sold twice {serial}")));
    }
    if !found.forked.is_empty() || !found.missing.is_empty() {
        bail!("E_FORK: {} devices sold twice, {} not in the log", found.forked.len(), found.missing.len());
    }
    Ok(())
}
