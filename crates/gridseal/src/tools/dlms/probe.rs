//! `gridseal dlms probe`: what is wrong with a meter, or with the way it is spoken to.
//!
//! | file | what is in it |
//! |---|---|
//! | `catalogue` | every finding: id, severity, why it matters, how it is mended |
//! | `raw` | the keys of a lab file without the discipline of an honest party |
//! | `talk` | connections, bounded in time and memory; the evidence |
//! | `associate`, `service` | associations and services, step by step |
//! | `assay` | one probe from beginning to end |
//! | `access`, `proofs`, `protection`, `limits` | the checks |
//! | `diagnose` | why an association fails |
//! | `report`, `html` | what is told |

mod access;
mod assay;
mod associate;
mod catalogue;
mod diagnose;
mod html;
mod limits;
mod proofs;
mod protection;
pub mod raw;
mod report;
mod service;
mod talk;

#[cfg(test)]
mod tests;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use gridseal_dlms::suite::local::{CounterStore, KeySet};
use gridseal_io::clock::utc_now;

use super::counters::Counters;
use crate::{
    lab::{Lab, Side},
    observe::say,
    tools::Usage,
};
use assay::{Assay, Dangers};
use catalogue::Severity;
use report::Report;
use talk::{Prober, Target};

/// Arguments of `dlms probe`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Meter: host:port.
    #[arg(long, value_name = "ADDR", value_parser = super::channel::host_port)]
    connect: String,
    /// Lab file (TOML) with keys and titles.
    #[arg(long, value_name = "FILE")]
    lab: PathBuf,
    /// HDLC over TCP, instead of the wrapper.
    #[arg(long)]
    hdlc_tcp: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Write the report as one HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Keeps the invocation counter of this client. Without it the probe begins at the lab file's counter, or above what
    /// the meter says it has seen.
    #[arg(long, value_name = "FILE")]
    counter_file: Option<PathBuf>,
    /// From which severity on a finding makes the exit code 1.
    #[arg(long, value_name = "SEVERITY", default_value = "low")]
    threshold: Severity,
    /// How long one answer is waited for, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
    /// How long everything may take, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=3_600))]
    limit: u64,
    /// Try no default passwords: a meter may lock its clients out.
    #[arg(long)]
    no_passwords: bool,
    /// Also write: values that are there already, and an unsigned image up to its verification, which discards an image
    /// that is being transferred. Nothing is activated.
    #[arg(long)]
    danger_write: bool,
    /// Also send malformed messages: a bad meter may hang until its power is cut.
    #[arg(long)]
    danger_malformed: bool,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let lab = Lab::load(&arguments.lab)?;
    if arguments.hdlc_tcp && (lab.client_sap > 127 || lab.listen_sap > 16_383) {
        let why = "client_sap above 127 or listen_sap above 16383 has no HDLC address";
        return Err(Usage(why.into()).into());
    }
    let target = Target {
        address: arguments.connect.clone(),
        is_hdlc: arguments.hdlc_tcp,
        timeout: Duration::from_secs(arguments.timeout),
        limit: Duration::from_secs(arguments.limit),
    };
    let raw = raw::load(&lab, Side::Client)?;
    let owner = (raw.check_value(), lab.client.system_title);
    let counters = Counters::load(arguments.counter_file.as_deref(), owner);
    let mut counters = counters.map_err(|error| Usage(format!("{error:#}")))?;
    let first = u32::try_from(counters.sending_end(lab.client.invocation_counter));
    let first = first.map_err(|_| Usage("the invocation counter is used up; only a new key helps".into()))?;
    let reserve = Box::new(move |end| {
        if counters.reserve(KeySet::Unicast, end).is_err() {
            eprintln!("gridseal: the counter file cannot be written: stopped, so that no nonce repeats");
            std::process::exit(2);
        }
    });
    let mut prober = Prober::new(&lab, raw, &target, (first, reserve));
    let shows_progress = std::io::stderr().is_terminal();
    if shows_progress {
        prober.progress = |what| {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\u{1b}[Kgridseal: {what}");
            let _ = out.flush();
        };
    }
    let dangers = Dangers {
        write: arguments.danger_write,
        malformed: arguments.danger_malformed,
        no_passwords: arguments.no_passwords,
    };
    let at = utc_now();
    let mut assay = Assay::new(prober, dangers);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_interrupted = runtime.block_on(async {
        tokio::select! {
            () = assay.run() => false,
            _ = tokio::signal::ctrl_c() => true,
        }
    });
    if shows_progress {
        eprint!("\r\u{1b}[K");
    }
    if is_interrupted {
        eprintln!("gridseal: interrupted");
        return Ok(ExitCode::from(130));
    }
    tell(arguments, &Report { assay: &assay, at })
}

/// Prints and writes the report; gives the exit code.
fn tell(arguments: &Arguments, report: &Report<'_>) -> Result<ExitCode> {
    if let Some(path) = &arguments.html {
        std::fs::write(path, html::page(report))
            .map_err(|error| Usage(format!("cannot write {}: {error}", path.display())))?;
    }
    if arguments.json {
        say(&report.json().to_string());
    } else {
        say(report.text(std::io::stdout().is_terminal()).trim_end());
    }
    let findings = &report.assay.findings;
    Ok(if !report.assay.is_associated {
        ExitCode::from(3)
    } else if findings.iter().any(|finding| finding.known.severity >= arguments.threshold) {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}
