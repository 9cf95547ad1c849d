//! The rest of a meter's life on three more meters: a rotation, a theft, a resale to a second owner, and an end.

use std::{path::Path, sync::mpsc::Receiver, time::Duration};

use anyhow::{Context, Result, bail};
use gridseal_io::clock::tick_now;

use super::{
    fleet::{BUYER, Fleet, owner_keys},
    process::Line,
    view::View,
};
use crate::{config, files::format_public_key, setup::factory::Made, tools::factory::OwnerFile};

/// How long a single step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A demo that has to end sooner shows no more than the first day.
pub(super) const NEEDS: Duration = Duration::from_secs(60);

/// What was shown.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// Meters that deliver under new channel secrets.
    pub(super) rotated: u32,
    /// Stolen meters that their owner has suspended, and that deliver nothing, power cut or not.
    pub(super) suspended: u32,
    /// Meters that deliver to their second owner.
    pub(super) resold: u32,
    /// Meters whose end their TPM has signed.
    pub(super) decommissioned: u32,
    /// Somebody has stopped the demo meanwhile.
    pub(super) is_stopped: bool,
    /// What is not as it must be.
    pub(super) problem: Option<String>,
}

/// Shows everything; what fails is in the result.
pub(super) fn play(fleet: &mut Fleet, view: &mut View, stop: &Receiver<()>) -> Life {
    let mut life = Life::default();
    let mut stage = Stage { fleet, view, stop, is_stopped: false };
    if let Err(error) = stage.play(&mut life) {
        match stage.is_stopped {
            true => life.is_stopped = true,
            false => life.problem = Some(format!("the rest of a meter's life: {error:#}")),
        }
    }
    life
}

struct Stage<'f> {
    fleet: &'f mut Fleet,
    view: &'f mut View,
    stop: &'f Receiver<()>,
    is_stopped: bool,
}

impl Stage<'_> {
    fn play(&mut self, life: &mut Life) -> Result<()> {
        self.view.step("twenty years are more than the first day: three more meters");
        let made = self.fleet.make_more(3, "more")?;
        let [first, stolen, sold] = made.as_slice() else { bail!("three meters were wanted") };
        for meter in &made {
            self.fleet.switch_on(meter)?;
        }
        for meter in &made {
            self.until("its first reading", 0, |line| is_meter(line, meter, "confirmed"))?;
        }
        self.rotate(first)?;
        life.rotated = 1;
        self.suspend(stolen)?;
        life.suspended = 1;
        self.resell(sold)?;
        life.resold = 1;
        self.decommission(first)?;
        life.decommissioned = 1;
        Ok(())
    }

    /// New channel secrets by an order, and a reading under them.
    fn rotate(&mut self, meter: &Made) -> Result<()> {
        self.view.step(&format!("rotation: new channel secrets for {}", meter.serial));
        let from = self.order("rotate", meter, &[])?;
        let carried_out =
            |line: &Line| is_meter(line, meter, "order-answered") && line.field("code").is_empty();
        let at = self.until("its new secrets", from, carried_out)?;
        self.until("a reading under them", at, |line| is_meter(line, meter, "confirmed"))?;
        Ok(())
    }

    /// A stolen meter is suspended: it delivers nothing, and a power cut changes nothing.
    fn suspend(&mut self, meter: &Made) -> Result<()> {
        self.view
            .step(&format!("theft: {} is suspended, and its thief switches it off and on", meter.serial));
        let from = self.order("suspend", meter, &[])?;
        let at = self.until("its suspension", from, |line| is_meter(line, meter, "order-answered"))?;
        self.fleet.stop_process(&name_of(meter));
        self.fleet.switch_on(meter)?;
        let at = self.until("its power", at, |line| is_meter(line, meter, "operating"))?;
        let until = tick_now() + Duration::from_secs(u64::from(self.fleet.options.interval_s) * 2 + 1);
        while tick_now() < until {
            self.next()?;
        }
        if self.fleet.log.iter().skip(at).any(|line| is_meter(line, meter, "confirmed")) {
            bail!("{} delivers although it is suspended", meter.serial);
        }
        Ok(())
    }

    /// The seller signs and releases, the manufacturer hands over, the TPM is cleared, the buyer's processes take over.
    fn resell(&mut self, meter: &Made) -> Result<()> {
        self.view
            .step(&format!("resale: {} goes to a second owner, with processes of his own", meter.serial));
        let buyers = self.fleet.start_buyer(self.view)?;
        let path = |name: &str| self.fleet.dir.join(name).to_string_lossy().into_owned();
        let (papers, transfer, handed) = (path("papers"), path("transfer"), path("handed"));
        let (seller, owner) = (path("owner/endpoint-manager/config.toml"), path("owner"));
        // Log and escrow lie where a meter was made; the manufacturer's keys are the same everywhere.
        let made_at = path("more");
        std::os::unix::fs::symlink("../factory/vendor", self.fleet.dir.join("more/vendor"))?;
        let buyer_keys = path("buyer/owner.toml");
        let keys = owner_keys(&self.fleet.dir.join("buyer"))?;
        let file = OwnerFile {
            owner_key: format_public_key(&keys.owner),
            encryption_key: format_public_key(&keys.encryption),
            second_key: keys.second.map(|second| second.to_string()),
        };
        config::save(Path::new(&buyer_keys), &file)?;
        let serial = meter.serial.as_str();
        gridseal(&["device", "papers", "--config", &seller, "--out", &papers, serial])?;
        gridseal(&[
            "ceremony",
            "transfer",
            "--out",
            &owner,
            "--papers",
            &papers,
            "--buyer",
            &buyer_keys,
            "--to",
            &transfer,
        ])?;
        gridseal(&["factory", "release", "--out", &made_at, "--transfer", &transfer, "--to", &handed])?;
        let from = self.order("release", meter, &["--transfer", &transfer])?;
        let ended = |line: &Line| line.process == "endpoint-manager" && line.event == "ended-ownership";
        self.until("its receipt", from, ended)?;
        let receipts = path_of(self.fleet, "receipts");
        std::fs::create_dir_all(&receipts)?;
        let receipt = format!("{receipts}/{serial}.receipt");
        gridseal(&["device", "receipt", "export", "--config", &seller, "--out", &receipt, serial])?;
        let shipment = format!("{handed}/shipment.cbor");
        let buyers = buyers.to_string_lossy().into_owned();
        gridseal(&["device", "receipt", "verify", &receipt, "--config", &buyers, "--shipment", &shipment])?;
        gridseal(&["import", "shipment", "--config", &buyers, "--receipts", &receipts, &shipment])?;
        self.view.step("resale: the receipt holds offline; the buyer has registered the meter");
        self.fleet.start_buyers_manager()?;
        let headend = format!("{BUYER}headend");
        self.until("a reading for the buyer", from, |line| {
            line.process == headend && line.event == "stored"
        })?;
        Ok(())
    }

    /// The last order, and the receipt that anybody can check.
    fn decommission(&mut self, meter: &Made) -> Result<()> {
        self.view.step(&format!("end: {} is decommissioned", meter.serial));
        let from = self.order("decommission", meter, &[])?;
        self.until("its end", from, |line| is_meter(line, meter, "ended"))?;
        self.fleet.stop_process(&name_of(meter));
        let config = path_of(self.fleet, "owner/endpoint-manager/config.toml");
        let receipt = path_of(self.fleet, "end.receipt");
        gridseal(&["device", "receipt", "export", "--config", &config, "--out", &receipt, &meter.serial])?;
        gridseal(&["device", "receipt", "verify", &receipt, "--config", &config])?;
        Ok(())
    }

    /// An operator's order; where in the log it was given.
    fn order(&mut self, what: &str, meter: &Made, more: &[&str]) -> Result<usize> {
        let config = path_of(self.fleet, "owner/endpoint-manager/config.toml");
        let arguments = ["device", what, "--config", &config, "--reason", "demo"];
        let from = self.fleet.log.len();
        gridseal(&[&arguments[..], more, &[&meter.serial]].concat())?;
        Ok(from)
    }

    fn next(&mut self) -> Result<()> {
        if self.stop.try_recv().is_ok() {
            self.is_stopped = true;
            bail!("stopped");
        }
        if let Some(line) = self.fleet.next_line(Duration::from_millis(50))? {
            self.view.line(&line);
        }
        Ok(())
    }

    /// Waits for a line from this place in the log on; where it is.
    fn until(&mut self, what: &str, from: usize, is_it: impl Fn(&Line) -> bool) -> Result<usize> {
        let until = tick_now() + PATIENCE;
        let mut at = from;
        loop {
            while let Some(line) = self.fleet.log.get(at) {
                if is_it(line) {
                    return Ok(at);
                }
                if line.event == "ended" && !line.process.starts_with("meter ") {
                    bail!("{} has ended by itself: {}", line.process, line.field("status"));
                }
                at += 1;
            }
            if tick_now() > until {
                bail!("it never came to {what}");
            }
            self.next()?;
        }
    }
}

fn name_of(meter: &Made) -> String {
    format!("meter {}", meter.serial)
}

fn is_meter(line: &Line, meter: &Made, event: &str) -> bool {
    line.event == event && line.process.strip_prefix("meter ") == Some(meter.serial.as_str())
}

fn path_of(fleet: &Fleet, name: &str) -> String {
    fleet.dir.join(name).to_string_lossy().into_owned()
}

/// A command of an operator's, of an owner's or of the manufacturer's, as a person would type it.
fn gridseal(arguments: &[&str]) -> Result<()> {
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot run gridseal {}", arguments.join(" ")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!(
            "gridseal {} failed: {}",
            arguments.iter().take(3).copied().collect::<Vec<_>>().join(" "),
            text.trim()
        );
    }
    Ok(())
}
