//! `gridseal readings`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use gridseal_headend::{LIST_MAX, ReadingFilter};
use gridseal_io::rng::OsRng;
use gridseal_store::{Access, SqliteReadings};
use gridseal_types::{Reading, SystemTitle};

use crate::files::Zone;

/// Arguments of `readings`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  gridseal readings --dir owner/headend --meter 47534c0102030405 --limit 20"
)]
pub struct Arguments {
    /// Directory of the head-end.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Only this meter: system title in hex.
    #[arg(long)]
    meter: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// For what purpose they are read: recorded with the access, readings are personal data.
    #[arg(long, default_value = "command line")]
    purpose: String,
    /// Who reads.
    #[arg(long, default_value = "operator")]
    who: String,
    /// Print one JSON object per reading.
    #[arg(long)]
    json: bool,
}

/// Opens the reading store of a head-end's directory.
pub fn open(dir: &std::path::Path) -> Result<SqliteReadings> {
    let zone = Zone::open(dir)?;
    SqliteReadings::open(dir.join("readings.db"), zone.load("readings")?, OsRng)
        .context("cannot open the reading store")
}

/// Lists readings.
pub fn run(arguments: &Arguments) -> Result<()> {
    let meter = arguments.meter.as_ref().map(|text| {
        let bytes = hex::decode(text).ok();
        bytes.and_then(|bytes| SystemTitle::from_slice(&bytes)).context("--meter is not 16 hex digits")
    });
    let store = open(&arguments.dir)?;
    let mut filter = ReadingFilter {
        meter: meter.transpose()?,
        limit: arguments.limit.min(LIST_MAX),
        ..ReadingFilter::default()
    };
    let mut left = arguments.limit;
    while left > 0 {
        filter.limit = left.min(LIST_MAX);
        let access = Access { at: None, who: &arguments.who, purpose: &arguments.purpose };
        let page = store.list_for(access, &filter)?;
        let Some(last) = page.last() else { break };
        filter.after = Some(last.key);
        left -= page.len();
        page.iter().for_each(|reading| print(reading, arguments.json));
    }
    Ok(())
}

fn print(reading: &Reading, json: bool) {
    let Reading { key, interval_s, value, unit, quality } = reading;
    if json {
        crate::observe::say(&format!(
            "{}",
            serde_json::json!({
                "start": key.start.to_string(), "interval_s": interval_s, "meter": key.meter.to_string(),
                "obis": key.obis.to_string(), "value": value, "unit": unit.symbol(), "status": quality.0,
            })
        ));
    } else {
        crate::observe::say(&format!(
            "{} +{interval_s}s  {}  {}  {value} {}",
            key.start,
            key.meter,
            key.obis,
            unit.symbol()
        ));
    }
}
