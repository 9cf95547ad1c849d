//! `gridseal meter fleet`: many meters with software roots in one process, each onboarded once. For load and benches.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use gridseal_io::clock::tick_now;
use tokio::sync::Semaphore;

use super::{Meter, onboard, push};

/// What one meter cost on the wire.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    round_trips: u64,
    bytes: u64,
}

/// Onboards every meter below a directory, `concurrency` at a time, up to its link with the terminus.
pub async fn run(dir: &Path, concurrency: usize) -> Result<()> {
    let mut devices: Vec<PathBuf> = std::fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("firmware.toml").exists())
        .collect();
    devices.sort();
    let slots = Arc::new(Semaphore::new(concurrency.max(1)));
    let began = tick_now();
    let mut meters = tokio::task::JoinSet::new();
    for device in devices {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        meters.spawn(async move {
            let cost = one(&device).await.with_context(|| device.display().to_string());
            drop(slot);
            cost
        });
    }
    let (mut onboarded, mut failed, mut total) = (0u64, 0u64, Cost::default());
    while let Some(meter) = meters.join_next().await {
        match meter? {
            Ok(cost) => {
                onboarded += 1;
                total.round_trips += cost.round_trips;
                total.bytes += cost.bytes;
            }
            Err(error) => {
                failed += 1;
                eprintln!("{error:#}");
            }
        }
    }
    let seconds = tick_now().since(began).as_secs_f64();
    let each = |sum: u64| sum as f64 / onboarded.max(1) as f64;
    println!(
        "{}",
        serde_json::json!({
            "event": "fleet", "onboarded": onboarded, "failed": failed, "seconds": seconds,
            "round_trips_each": each(total.round_trips), "bytes_each": each(total.bytes),
            "cpu_s": own_cpu_s(),
        })
    );
    Ok(())
}

async fn one(dir: &Path) -> Result<Cost> {
    let meter = Meter::power_on(dir, true, false)?;
    let mut owner = onboard::Shell::start(&meter, false)?;
    let work = async {
        anyhow::ensure!(owner.until_operating().await?, "the device is decommissioned");
        push::reach(&meter, owner.record()).await
    };
    meter.while_rooted(work).await?;
    let traffic = owner.traffic();
    Ok(Cost { round_trips: traffic.round_trips, bytes: traffic.bytes })
}

/// CPU of this process so far, seconds; zero where the system does not tell.
fn own_cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // After the command name: state, then numbers; the 12th and 13th are user and system ticks of 10 ms.
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}
