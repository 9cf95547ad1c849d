//! `gridseal sim group`.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use gridseal_group::Scheme;
use gridseal_sim::group::{Evidence, FleetError, FleetPlan, FleetReport, Pattern, run_fleet};
use serde_json::json;

use crate::observe::say;

/// What to simulate.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Members of the group, 1 to 1048576.
    #[arg(long)]
    members: u32,
    /// How many of them are evicted.
    #[arg(long)]
    evict: u32,
    /// Which ones.
    #[arg(long, value_enum, default_value = "random")]
    pattern: PatternName,
    /// Seed of all choices and keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Subset difference, key hierarchy of degree 4, or a wrap for each member.
    #[arg(long, value_enum, default_value = "sd")]
    scheme: SchemeName,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Leave header, group key and labels in this empty directory, for an outside program to check (scheme sd; about 7
    /// KB for each evicted member and for each of 1,000 others).
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,
    /// Plant a fault: seats that nobody has do not count as revoked. The run must find it.
    #[arg(long)]
    danger_forget_unassigned: bool,
    /// Plant a fault: the last one of the evicted does not count as revoked. The run must find it.
    #[arg(long)]
    danger_forget_evicted: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PatternName {
    Random,
    Adjacent,
    Alternating,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SchemeName {
    Sd,
    Lkh,
    Flat,
}

fn plan(arguments: &Arguments) -> FleetPlan {
    FleetPlan {
        members: arguments.members,
        evict: arguments.evict,
        pattern: match arguments.pattern {
            PatternName::Random => Pattern::Random,
            PatternName::Adjacent => Pattern::Adjacent,
            PatternName::Alternating => Pattern::Alternating,
        },
        scheme: match arguments.scheme {
            SchemeName::Sd => Scheme::SubsetDifference,
            SchemeName::Lkh => Scheme::KeyHierarchy,
            SchemeName::Flat => Scheme::Flat,
        },
        seed: arguments.seed,
        danger_forget_unassigned: arguments.danger_forget_unassigned,
        danger_forget_evicted: arguments.danger_forget_evicted,
    }
}

/// Runs the simulation and says what came of it.
#[expect(clippy::disallowed_methods, reason = "a person wants to know how long the header took")]
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.evidence.is_some() && arguments.scheme != SchemeName::Sd {
        eprintln!("error: --evidence is for --scheme sd: the other schemes have no labels");
        return Ok(ExitCode::from(2));
    }
    if let Some(dir) = arguments.evidence.as_deref().filter(|dir| dir.exists())
        && !std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
    {
        eprintln!("error: {} is no empty directory: evidence of two runs must not be mixed", dir.display());
        return Ok(ExitCode::from(2));
    }
    let start = Instant::now();
    let mut folder = arguments.evidence.as_deref().map(Folder::new);
    let mut shown = Instant::now();
    let is_watched = std::io::stderr().is_terminal() && !arguments.json;
    let mut told = |tried: u32, of: u32| {
        if is_watched && shown.elapsed().as_secs() >= 1 {
            shown = Instant::now();
            let _ = write!(std::io::stderr(), "\r{tried} of {of} members tried");
        }
    };
    let evidence = folder.as_mut().map(|folder| folder as &mut dyn Evidence);
    let report = match run_fleet(&plan(arguments), &mut || start.elapsed(), &mut told, evidence) {
        Ok(report) => report,
        Err(error @ (FleetError::Members(_) | FleetError::Evict { .. } | FleetError::Fault)) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(2));
        }
        Err(error) => return Err(error.into()),
    };
    if is_watched {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    if let Some(folder) = folder {
        folder.finish()?;
    }
    tell(arguments, &report);
    let holds = report.recovered == arguments.members - arguments.evict
        && report.evicted_recovered == 0
        && !report.coalition_recovered
        && !report.newcomer_recovered;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(arguments: &Arguments, report: &FleetReport) {
    let ms = |time: std::time::Duration| (time.as_secs_f64() * 1_000_000.0).round() / 1_000.0;
    let build_ms = ms(report.build);
    if arguments.json {
        say(&json!({
            "scheme": format!("{:?}", arguments.scheme).to_lowercase(),
            "members": arguments.members,
            "evicted": arguments.evict,
            "header_bytes": report.header_bytes,
            "blocks": report.blocks,
            "build_ms": build_ms,
            "signer_start_ms": ms(report.signer_start),
            "member_aes_blocks_max": report.member_aes_blocks_max,
            "member_storage_bytes": report.member_storage_bytes,
            "recovered": report.recovered,
            "evicted_recovered": report.evicted_recovered,
            "coalition_recovered": report.coalition_recovered,
            "newcomer_recovered": report.newcomer_recovered,
        })
        .to_string());
    } else {
        say(&format!("{} members, {} evicted", arguments.members, arguments.evict));
        say(&format!("header   {} bytes, made in {build_ms:.3} ms", report.header_bytes));
        say(&format!(
            "member   {} AES blocks at most, {} bytes of keys",
            report.member_aes_blocks_max, report.member_storage_bytes
        ));
        say(&format!(
            "key      {} of {} remaining members have it",
            report.recovered,
            arguments.members - arguments.evict
        ));
        say(&format!(
            "evicted  {} have it; all together: {}; newcomer: {}",
            report.evicted_recovered,
            if report.coalition_recovered { "yes" } else { "no" },
            if report.newcomer_recovered { "yes" } else { "no" },
        ));
    }
}

const LABELS: &str = "labels.jsonl";

/// Evidence on its way into a directory; the first failure is kept until the end.
struct Folder<'d> {
    dir: &'d Path,
    labels: Option<BufWriter<File>>,
    failed: Option<anyhow::Error>,
}

impl<'d> Folder<'d> {
    const fn new(dir: &'d Path) -> Self {
        Self { dir, labels: None, failed: None }
    }

    fn begin(&mut self, header: &[u8], facts: &str) -> Result<()> {
        let dir = self.dir;
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        crate::files::write_atomic(&dir.join("header.bin"), header)?;
        crate::files::write_atomic(&dir.join("facts.json"), facts.as_bytes())?;
        let path = dir.join(LABELS);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        self.labels = Some(BufWriter::new(file));
        Ok(())
    }

    fn finish(self) -> Result<()> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let flushed = self.labels.map_or(Ok(()), |mut labels| labels.flush());
        flushed.with_context(|| format!("cannot write {}", self.dir.join(LABELS).display()))
    }
}

impl Evidence for Folder<'_> {
    fn header(&mut self, header: &[u8], facts: &str) {
        self.failed = self.begin(header, facts).err();
    }

    fn labels(&mut self, line: &str) {
        let Some(labels) = self.labels.as_mut().filter(|_| self.failed.is_none()) else { return };
        let written = labels.write_all(line.as_bytes());
        let path = self.dir.join(LABELS);
        self.failed = written.with_context(|| format!("cannot write {}", path.display())).err();
    }
}
