//! `gridseal audit`: reads a log offline and checks its chain.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use gridseal_store::SqliteRecords;
use gridseal_trust::audit::{self, AUDIT, ChainBroken, Entry, verify_chain};
use gridseal_types::records::Records;

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the chain is whole, 1 the log cannot be read, 2 the chain is broken.\n\n\
    Example:\n  gridseal audit --db owner/keys/keys.db"
)]
pub struct Arguments {
    /// Database of a process: keys/keys.db, endpoint-manager/register.db, init-server/init.db.
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// Print one JSON object per entry.
    #[arg(long)]
    json: bool,
}

/// Entries read at a time.
const STEP: usize = 1_000;

/// All entries of a log, encoded.
fn entries(records: &SqliteRecords) -> Result<Vec<Vec<u8>>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut after: Vec<u8> = Vec::new();
    loop {
        let rows = records.range(AUDIT, &after, STEP)?;
        let Some((last, _)) = rows.last() else { return Ok(all) };
        after.clone_from(last);
        all.extend(rows.into_iter().map(|(_, value)| value));
    }
}

/// All entries of a log, their chain checked up to the end that is on record.
pub fn checked(records: &SqliteRecords) -> Result<Result<Vec<Entry>, ChainBroken>> {
    let entries = entries(records)?;
    let end = audit::end(records).context("the end of the chain cannot be read")?;
    Ok(verify_chain(entries.iter().map(Vec::as_slice), end))
}

/// Entry as one JSON object.
pub fn to_json(entry: &Entry) -> serde_json::Value {
    serde_json::json!({
        "sequence": entry.sequence, "previous": entry.previous.to_string(), "at": entry.at.to_string(),
        "actor": entry.actor, "act": entry.act, "subject": entry.subject, "detail": entry.detail,
    })
}

/// Prints a log and checks it.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.db.is_file() {
        anyhow::bail!("{} does not exist", arguments.db.display());
    }
    if std::fs::metadata(&arguments.db)?.len() == 0 {
        anyhow::bail!("{} is empty: no process of ours leaves that", arguments.db.display());
    }
    let records = SqliteRecords::open(&arguments.db).context("cannot open the database")?;
    match checked(&records)? {
        Ok(chain) => {
            for entry in &chain {
                if arguments.json {
                    crate::observe::say(&format!("{}", to_json(entry)));
                } else {
                    let Entry { sequence, at, actor, act, subject, detail, .. } = entry;
                    crate::observe::say(&format!("{sequence:>6} {at} {actor} {act} {subject} {detail}"));
                }
            }
            eprintln!("{} entries, chain whole", chain.len());
            Ok(ExitCode::SUCCESS)
        }
        Err(broken) => {
            eprintln!("gridseal: {broken}");
            Ok(ExitCode::from(2))
        }
    }
}
