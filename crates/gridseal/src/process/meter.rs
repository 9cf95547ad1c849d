//! `gridseal meter run`: a meter. It finds its owner, proves itself, gets its keys, and pushes its load profile.

pub mod fleet;
pub mod onboard;
mod push;
pub mod root;
pub mod serve;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gridseal_io::clock::utc_now;
use gridseal_trust::{
    enrol::{
        device::{DeviceRecord, Input},
        installation::is_point,
    },
    root::DeviceRoot,
};

use gridseal_types::UtcTime;

use crate::{
    config::{self, Firmware},
    files::{read_if_there, write_atomic},
    observe::Observer,
};
use root::SharedRoot;

/// A meter with what its flash holds.
pub struct Meter {
    firmware: Firmware,
    dir: PathBuf,
    root: SharedRoot,
    observer: Observer,
    /// When power came: nothing before it was measured.
    powered_at: UtcTime,
}

/// Runs a meter out of its directory, until its ownership has come to an end for good.
pub async fn run(dir: &Path, button: bool) -> Result<()> {
    let meter = Meter::power_on(dir, false, button)?;
    meter.while_rooted(live(&meter, button)).await
}

async fn live(meter: &Meter, button: bool) -> Result<()> {
    let mut owner = onboard::Shell::start(meter, button)?;
    let mut power_came = meter.load_record()?.installed.is_some();
    while owner.until_operating().await? {
        match push::run(meter, &mut owner, std::mem::take(&mut power_came)).await? {
            push::Left::Refused => owner.tell(Input::TerminusRefused)?,
            push::Left::Lost => owner.tell(Input::OwnerLost)?,
            push::Left::Ordered => {}
        }
    }
    Ok(())
}

impl Meter {
    /// Reads the firmware and gives power to the root.
    ///
    /// Boot firmware keeps the platform's authorisation while the button is held, and until a recovery that began is done.
    fn power_on(dir: &Path, is_quiet: bool, button: bool) -> Result<Self> {
        let (firmware, dir): (Firmware, _) = config::load(&dir.join("firmware.toml"))?;
        let name = format!("meter {}", firmware.serial);
        let observer = if is_quiet { Observer::quiet() } else { Observer::new(name).with_journal(&dir)? };
        let recovers = button || load_record(&dir)?.recovery.is_some();
        let power_on = if recovers { SharedRoot::recover_on } else { SharedRoot::power_on };
        let root = power_on(&firmware.root, firmware.measurements.as_ref(), &dir)?;
        observer.event("powered", &[("root", &root.lock()?.assurance().name()), ("button", &button)]);
        Ok(Self { firmware, dir, root, observer, powered_at: utc_now() })
    }

    /// Works as long as the root answers. A meter without its root can do nothing but try for ever: it ends, so that whoever
    /// watches over it starts it anew.
    async fn while_rooted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            lost = self.root.lost() => Err(lost),
        }
    }

    /// Connection point that was read from the meter board's tag, or typed, when the meter was mounted.
    fn place(&self) -> Result<Option<String>> {
        let Some(text) = read_if_there(&self.dir.join("place.txt"))? else { return Ok(None) };
        let text = String::from_utf8(text).context("place.txt is not text")?.trim().to_owned();
        if is_point(&text) {
            Ok(Some(text))
        } else {
            bail!("place.txt is not the name of a connection point")
        }
    }

    fn load_record(&self) -> Result<DeviceRecord> {
        load_record(&self.dir)
    }

    fn store_record(&self, record: &DeviceRecord) -> Result<()> {
        write_atomic(&self.dir.join(RECORD), &record.encode())
    }
}

/// What a meter keeps on flash.
const RECORD: &str = "device.cbor";

fn load_record(dir: &Path) -> Result<DeviceRecord> {
    match read_if_there(&dir.join(RECORD))? {
        None => Ok(DeviceRecord::default()),
        Some(bytes) => DeviceRecord::decode(&bytes).context("device.cbor is no device record"),
    }
}
