//! `gridseal audit`: reads a log offline and checks it: the chain of its entries, what is retained of the batches of
//! APDUs, and that it continues what somebody noted before.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use gridseal_store::{PostgresRecords, PostgresSettings, SqliteRecords};
use gridseal_trust::audit::{
    self, AUDIT, AUDIT_BATCH, BatchBroken, Entry, Item, LogBroken, prove_item, proven_item, tree::Head,
    verify_batches, verify_chain, verify_head,
};
use gridseal_types::{
    Digest,
    records::{Records, RecordsError},
};

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the log is whole, 1 it cannot be read, 2 it is broken: the message names the place.\n\n\
    The last line on standard error is the head of the log: note it, and give it back with --continues to learn \
    whether anything before it was changed since.\n\n\
    Examples:\n  gridseal audit --db owner/keys/keys.db\n  \
    gridseal audit --db owner/keys/keys.db --prove 17:3\n  \
    gridseal audit --postgres 'host=/run/postgresql dbname=gridseal user=auditor'"
)]
pub struct Arguments {
    /// Database of a process: keys/keys.db, endpoint-manager/register.db, init-server/init.db.
    #[arg(long, value_name = "FILE", required_unless_present = "postgres", conflicts_with = "postgres")]
    db: Option<PathBuf>,
    /// The same in PostgreSQL: connection as libpq takes it.
    #[arg(long, value_name = "CONNECTION")]
    postgres: Option<String>,
    /// Schema of the process's records there.
    #[arg(long, default_value = "keys", requires = "postgres")]
    schema: String,
    /// Print one JSON object per entry.
    #[arg(long)]
    json: bool,
    /// Head that was noted before: SIZE:ROOT. A log that does not continue it is broken.
    #[arg(long, value_name = "HEAD", value_parser = parse_head)]
    continues: Option<Head>,
    /// Print the proof of one APDU of a batch in place of the entries: number of the entry, place in the batch from 0.
    #[arg(long, value_name = "ENTRY:PLACE", value_parser = parse_place)]
    prove: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    sequence: u64,
    index: usize,
}

fn parse_head(text: &str) -> Result<Head, String> {
    let (size, root) = text.split_once(':').ok_or("expected SIZE:ROOT")?;
    let size = size.parse().map_err(|_| "size is no number")?;
    let root = hex::decode(root).ok().and_then(|root| Digest::from_slice(&root));
    Ok(Head { size, root: root.ok_or("root is not 64 hex digits")? })
}

fn parse_place(text: &str) -> Result<Place, String> {
    let (sequence, index) = text.split_once(':').ok_or("expected ENTRY:PLACE")?;
    let sequence = sequence.parse().map_err(|_| "entry is no number")?;
    Ok(Place { sequence, index: index.parse().map_err(|_| "place is no number")? })
}

/// Entries read at a time.
const STEP: usize = 1_000;

/// All entries of a log, encoded.
fn entries(records: &impl Records) -> Result<Vec<Vec<u8>>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut after: Vec<u8> = Vec::new();
    loop {
        let rows = records.range(AUDIT, &after, STEP)?;
        let Some((last, _)) = rows.last() else { return Ok(all) };
        after.clone_from(last);
        all.extend(rows.into_iter().map(|(_, value)| value));
    }
}

/// A log that is whole.
#[derive(Debug)]
pub struct Log {
    /// Entries.
    pub chain: Vec<Entry>,
    /// What a witness notes.
    pub head: Head,
    /// Batches whose items are retained and fit.
    batches: usize,
}

/// Why a log was not read to its end.
enum Stop {
    Broken(LogBroken),
    Failed(RecordsError),
}

impl From<BatchBroken> for Stop {
    fn from(broken: BatchBroken) -> Self {
        Self::Broken(broken.into())
    }
}

/// Reads a log and checks its chain up to the end that is on record, and what is retained of its batches.
pub fn checked(records: &impl Records) -> Result<Result<Log, LogBroken>> {
    checked_against(records, None)
}

fn checked_against(records: &impl Records, noted: Option<&Head>) -> Result<Result<Log, LogBroken>> {
    let entries = entries(records)?;
    let end = audit::end(records).context("the end of the chain cannot be read")?;
    let slices = || entries.iter().map(Vec::as_slice);
    let chain = match verify_chain(slices(), end) {
        Ok(chain) => chain,
        Err(broken) => return Ok(Err(broken.into())),
    };
    let items = |sequence: u64| records.get(AUDIT_BATCH, &sequence.to_be_bytes()).map_err(Stop::Failed);
    let batches = match verify_batches(&chain, items) {
        Ok(batches) => batches,
        Err(Stop::Broken(broken)) => return Ok(Err(broken)),
        Err(Stop::Failed(error)) => return Err(error.into()),
    };
    if let Some(Err(broken)) = noted.map(|noted| verify_head(slices(), noted)) {
        return Ok(Err(broken));
    }
    Ok(Ok(Log { chain, head: audit::head(slices()), batches }))
}

/// Entry as one JSON object.
pub fn to_json(entry: &Entry) -> serde_json::Value {
    let batch =
        entry.batch.map(|batch| serde_json::json!({ "count": batch.count, "root": batch.root.to_string() }));
    let mut object = serde_json::json!({
        "sequence": entry.sequence, "previous": entry.previous.to_string(), "at": entry.at.to_string(),
        "actor": entry.actor, "act": entry.act, "subject": entry.subject, "detail": entry.detail,
    });
    if let (Some(batch), Some(fields)) = (batch, object.as_object_mut()) {
        fields.insert("batch".to_owned(), batch);
    }
    object
}

/// One APDU of a batch with its proof, verified before it is printed.
fn proof(records: &impl Records, log: &Log, Place { sequence, index }: Place) -> Result<serde_json::Value> {
    let entry = log.chain.iter().find(|entry| entry.sequence == sequence);
    let summary = entry.and_then(|entry| entry.batch).context("no batch has this entry")?;
    let items = records.get(AUDIT_BATCH, &sequence.to_be_bytes())?.context("items were pruned")?;
    let proof = prove_item(&items, index).context("the batch ends before this place")?;
    let item = proven_item(&summary, index, &proof).context("the proof does not hold")?;
    let Item { operation, system_title, version, counter, verdict, tag } = item;
    let siblings: Vec<String> = proof.siblings.iter().map(ToString::to_string).collect();
    Ok(serde_json::json!({
        "entry": sequence, "place": index, "count": summary.count, "root": summary.root.to_string(),
        "group": hex::encode(&proof.group), "siblings": siblings,
        "item": {
            "operation": operation, "system_title": system_title.to_string(), "version": version,
            "counter": counter, "verdict": verdict, "tag": hex::encode(tag),
        },
    }))
}

/// Prints a log and checks it.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(connection) = &arguments.postgres {
        let settings = PostgresSettings::new(connection, &arguments.schema);
        return print(&PostgresRecords::connect(settings).context("cannot open the database")?, arguments);
    }
    let path = arguments.db.as_ref().context("no database is named")?;
    if !path.is_file() {
        anyhow::bail!("{} does not exist", path.display());
    }
    if std::fs::metadata(path)?.len() == 0 {
        anyhow::bail!("{} is empty: no process of ours leaves that", path.display());
    }
    print(&SqliteRecords::open(path).context("cannot open the database")?, arguments)
}

fn print(records: &impl Records, arguments: &Arguments) -> Result<ExitCode> {
    let log = match checked_against(records, arguments.continues.as_ref())? {
        Ok(log) => log,
        Err(broken) => {
            eprintln!("gridseal: {broken}");
            return Ok(ExitCode::from(2));
        }
    };
    if let Some(place) = arguments.prove {
        crate::observe::say(&proof(records, &log, place)?.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for entry in &log.chain {
        if arguments.json {
            crate::observe::say(&to_json(entry).to_string());
        } else {
            let Entry { sequence, at, actor, act, subject, detail, .. } = entry;
            crate::observe::say(&format!("{sequence:>6} {at} {actor} {act} {subject} {detail}"));
        }
    }
    eprintln!("{} entries, chain whole, {} batches with their APDUs", log.chain.len(), log.batches);
    eprintln!("head {}:{}", log.head.size, log.head.root);
    Ok(ExitCode::SUCCESS)
}
