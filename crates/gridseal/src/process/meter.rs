//! `gridseal meter run`: a meter. It finds its owner, proves itself, gets its keys, and pushes its load profile.

mod onboard;
mod push;
pub mod root;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gridseal_trust::{enrol::device::DeviceRecord, root::DeviceRoot};

use crate::{
    config::{self, Firmware},
    files::{read_if_there, write_atomic},
    observe::Observer,
};
use root::SharedRoot;

/// A meter with what its flash holds.
struct Meter {
    firmware: Firmware,
    dir: PathBuf,
    root: SharedRoot,
    observer: Observer,
}

/// Runs a meter out of its directory.
pub async fn run(dir: &Path) -> Result<()> {
    let (firmware, dir): (Firmware, _) = config::load(&dir.join("firmware.toml"))?;
    let observer = Observer::new(format!("meter {}", firmware.serial));
    let root = SharedRoot::power_on(&firmware.root, &dir)?;
    observer.event("powered", &[("root", &root.lock()?.assurance().name())]);
    let meter = Meter { firmware, dir, root, observer };
    let mut record = meter.load_record()?;
    loop {
        record = onboard::run(&meter, record).await?;
        // Comes back only when a terminus refuses a configuration that was never confirmed.
        record = match push::run(&meter, record).await? {
            push::Ended::Refused(record) => record,
        };
    }
}

impl Meter {
    fn record_path(&self) -> PathBuf {
        self.dir.join("device.cbor")
    }

    fn load_record(&self) -> Result<DeviceRecord> {
        match read_if_there(&self.record_path())? {
            None => Ok(DeviceRecord::default()),
            Some(bytes) => DeviceRecord::decode(&bytes).context("device.cbor is no device record"),
        }
    }

    fn store_record(&self, record: &DeviceRecord) -> Result<()> {
        write_atomic(&self.record_path(), &record.encode())
    }
}
