//! The meter's root of trust: a TPM device, an emulated TPM, or the software stand-in.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, anyhow};
use gridseal_io::{
    rng::OsRng,
    tpm::{DeviceFile, Swtpm},
};
use gridseal_trust::{
    measured::{Logs, ima},
    root::{
        Assurance, DeviceRoot, MeasurementSource, RootError, RootReply, RootRequest, TpmTransport,
        software::SoftwareRoot, tpm2::Tpm2Root,
    },
};

use tokio::sync::Notify;

use crate::{
    config::{Measurements, Root},
    files::{Zone, read_if_there, write_atomic},
};

/// Whichever root the device has.
#[expect(clippy::large_enum_variant, reason = "one value for each meter")]
enum AnyRoot {
    Device(Tpm2Root<DeviceFile>),
    Emulator(Tpm2Root<Swtpm>),
    Software { root: SoftwareRoot, zone: Zone, state: PathBuf, unsaved: Option<anyhow::Error> },
}

impl DeviceRoot for AnyRoot {
    fn assurance(&self) -> Assurance {
        match self {
            Self::Device(root) => root.assurance(),
            Self::Emulator(root) => root.assurance(),
            Self::Software { root, .. } => root.assurance(),
        }
    }

    fn perform(&mut self, request: RootRequest) -> Result<RootReply, RootError> {
        match self {
            Self::Device(root) => root.perform(request),
            Self::Emulator(root) => root.perform(request),
            Self::Software { root, zone, state, unsaved } => {
                let changes = changes_state(&request);
                let reply = root.perform(request)?;
                if changes && let Err(error) = save(root, zone, state) {
                    *unsaved = Some(error);
                    return Err(RootError::Transport);
                }
                Ok(reply)
            }
        }
    }
}

/// Whether an operation changes what a TPM would keep in its non-volatile memory.
const fn changes_state(request: &RootRequest) -> bool {
    matches!(
        request,
        RootRequest::Manufacture(_)
            | RootRequest::Describe
            | RootRequest::WritePin(_)
            | RootRequest::RaiseEpoch
            | RootRequest::RaiseGeneration
            | RootRequest::Execute(_)
            | RootRequest::Clear
    )
}

fn save(root: &mut SoftwareRoot, zone: &Zone, state: &Path) -> Result<()> {
    let bytes = root.save(zone.dek()).map_err(|error| anyhow!("software root: {error}"))?;
    write_atomic(state, &bytes)
}

/// Measurement logs as files, of the kernel or of a test.
struct LogFiles {
    event_log: Option<PathBuf>,
    ima_log: Option<PathBuf>,
}

impl LogFiles {
    fn new(logs: &Measurements, dir: &Path) -> Self {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| dir.join(path));
        Self { event_log: path(&logs.event_log), ima_log: path(&logs.ima_log) }
    }
}

impl MeasurementSource for LogFiles {
    fn read(&mut self, ima_next: u64) -> Result<Logs, RootError> {
        let read = |path: &Option<PathBuf>| match path {
            Some(path) => std::fs::read(path).map_err(|_| RootError::Transport),
            None => Ok(Vec::new()),
        };
        let list = read(&self.ima_log)?;
        // A list that we cannot read goes out whole: who asked for it says what is wrong.
        let (ima_first, part) = ima::from(&list, ima_next).unwrap_or((0, &list));
        Ok(Logs { event_log: read(&self.event_log)?, ima_first, ima_log: part.to_vec() })
    }
}

fn with_logs<T: TpmTransport>(root: Tpm2Root<T>, logs: Option<LogFiles>) -> Tpm2Root<T> {
    match logs {
        Some(logs) => root.with_measurements(Box::new(logs)),
        None => root,
    }
}

/// A root that the TLS stack, the onboarding and the push share.
#[derive(Clone)]
pub struct SharedRoot(Arc<Shared>);

struct Shared {
    root: Mutex<AnyRoot>,
    /// It did not answer once.
    lost: Notify,
}

/// Somebody holds the root.
pub struct Held<'r> {
    root: MutexGuard<'r, AnyRoot>,
    lost: &'r Notify,
}

impl DeviceRoot for Held<'_> {
    fn assurance(&self) -> Assurance {
        self.root.assurance()
    }

    fn perform(&mut self, request: RootRequest) -> Result<RootReply, RootError> {
        let reply = self.root.perform(request);
        if matches!(reply, Err(RootError::Transport)) {
            self.lost.notify_one();
        }
        reply
    }
}

impl SharedRoot {
    /// Gives power to the root and does what firmware does before the application starts.
    pub fn power_on(config: &Root, measurements: Option<&Measurements>, dir: &Path) -> Result<Self> {
        Self::started(config, measurements, dir, false)
    }

    /// The same, with the button held: the root can be cleared without its owner. A TPM device that something before us has
    /// started cannot.
    pub fn recover_on(config: &Root, measurements: Option<&Measurements>, dir: &Path) -> Result<Self> {
        Self::started(config, measurements, dir, true)
    }

    fn started(
        config: &Root,
        measurements: Option<&Measurements>,
        dir: &Path,
        recovers: bool,
    ) -> Result<Self> {
        let logs = measurements.map(|logs| LogFiles::new(logs, dir));
        let root = match config {
            Root::Device { path, endorsement } => {
                let mut root = with_logs(
                    Tpm2Root::new(DeviceFile::open(path)?, Box::new(OsRng))
                        .with_endorsement((*endorsement).into()),
                    logs,
                );
                if recovers {
                    root.start_for_recovery();
                }
                root.boot().context("the TPM does not start")?;
                AnyRoot::Device(root)
            }
            Root::Emulator { dir: state, endorsement } => {
                let swtpm = Swtpm::start(&dir.join(state)).context("cannot start the TPM emulator")?;
                let mut root = with_logs(
                    Tpm2Root::new(swtpm, Box::new(OsRng)).with_endorsement((*endorsement).into()),
                    logs,
                );
                if recovers {
                    root.start_for_recovery();
                }
                root.boot().context("the TPM emulator does not start")?;
                AnyRoot::Emulator(root)
            }
            Root::Software { state } => {
                let (zone, state) = (Zone::open_or_create(dir)?, dir.join(state));
                let mut root = match read_if_there(&state)? {
                    None => SoftwareRoot::new(Box::new(OsRng)),
                    Some(bytes) => SoftwareRoot::restore(Box::new(OsRng), zone.dek(), &bytes)
                        .map_err(|error| anyhow!("software root: {error}"))?,
                };
                if let Some(logs) = logs {
                    root.set_measurements(Box::new(logs));
                }
                if recovers {
                    root.start_for_recovery();
                }
                AnyRoot::Software { root, zone, state, unsaved: None }
            }
        };
        Ok(Self(Arc::new(Shared { root: Mutex::new(root), lost: Notify::new() })))
    }

    /// The root for one or several operations.
    pub fn lock(&self) -> Result<Held<'_>> {
        let root = self.0.root.lock().map_err(|_| anyhow!("an operation of the root has failed before"))?;
        Ok(Held { root, lost: &self.0.lost })
    }

    /// Does one operation.
    pub fn perform(&self, request: RootRequest) -> Result<RootReply, RootError> {
        self.lock().map_err(|_| RootError::Transport)?.perform(request)
    }

    /// Ready once the root has not answered: a TPM that lost its power, or state that could not be saved. Sessions, closed
    /// platform hierarchy and measurements may be gone, and only a start of the whole device brings them back.
    pub async fn lost(&self) -> anyhow::Error {
        self.0.lost.notified().await;
        let mut root = self.0.root.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = match &mut *root {
            AnyRoot::Software { unsaved, .. } => unsaved.take(),
            _ => None,
        };
        cause
            .unwrap_or_else(|| RootError::Transport.into())
            .context("the root of trust has to be started anew, with the whole device")
    }
}
