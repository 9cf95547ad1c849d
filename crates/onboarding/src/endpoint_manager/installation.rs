//! Which device hangs at which connection point: bound by what an installer scanned, compared with what the device itself
//! says when it calls in.
//!
//! An installer's request is data that anybody may have made (row A40): it binds what is free and known, and replaces
//! nothing. A device whose own place is another than the bound one is held, and so is the device that is bound to that place,
//! unless it has confirmed it (row A38). What is held waits in quarantine until a person has corrected the binding; the
//! comparison is then made again.

use alloc::{format, string::String, vec::Vec};

use gridseal_trust::{
    audit::{self, Act},
    enrol::{installation::InstallRequest, label::LabelA},
};
use gridseal_types::{
    Code, DeviceState, EkName, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
};

use super::register::{DEVICES, RegisterEntry};

/// Bindings by device.
pub const INSTALLATIONS: Table = "em_installations";
/// Devices by connection point.
const POINTS: Table = "em_points";

/// What is to be committed, and what was decided or why it was refused.
pub type Decision<T> = (Vec<Write>, Result<T, Code>);

/// Where a device hangs.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Installation {
    /// Connection point.
    #[n(0)]
    pub point: String,
    /// When it was bound.
    #[n(1)]
    pub since: UtcTime,
    /// The device itself has named this point.
    #[n(2)]
    pub confirmed: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// An installer's request from the inbox: unauthenticated.
    Installer,
    /// A person who may write the register.
    Operator,
}

impl By {
    const fn actor(self) -> &'static str {
        match self {
            Self::Installer => "installer",
            Self::Operator => "operator",
        }
    }
}

/// The binding of a device.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn of<R: Records>(records: &R, device: &EkName) -> Result<Option<Installation>, RecordsError> {
    Overlay::new(records).load(INSTALLATIONS, device.as_bytes())
}

/// The device at a connection point.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn at<R: Records>(records: &R, point: &str) -> Result<Option<EkName>, RecordsError> {
    device_at(&Overlay::new(records), point)
}

fn device_at<R: Records>(overlay: &Overlay<'_, R>, point: &str) -> Result<Option<EkName>, RecordsError> {
    overlay.load(POINTS, point.as_bytes())
}

fn bind_in<R: Records>(overlay: &mut Overlay<'_, R>, device: &EkName, point: &str, since: UtcTime) {
    overlay.save(POINTS, point.as_bytes(), device);
    overlay.save(
        INSTALLATIONS,
        device.as_bytes(),
        &Installation { point: point.into(), since, confirmed: false },
    );
}

fn unbind_in<R: Records>(overlay: &mut Overlay<'_, R>, device: &EkName, point: &str) {
    overlay.delete(POINTS, point.as_bytes());
    overlay.delete(INSTALLATIONS, device.as_bytes());
}

/// The register's entry for a label, when model and serial number are those of the register.
fn labelled<R: Records>(
    overlay: &Overlay<'_, R>,
    label: &LabelA,
) -> Result<Result<RegisterEntry, Code>, RecordsError> {
    let Some(entry) = overlay.load::<RegisterEntry>(DEVICES, label.device.as_bytes())? else {
        return Ok(Err(Code::Unknown));
    };
    let fits = entry.serial == label.serial && entry.model == label.model;
    Ok(if fits { Ok(entry) } else { Err(Code::Label) })
}

/// Binds a device to a connection point, to be committed. Repeating it changes nothing.
///
/// # Errors
/// [`RecordsError`] from the store; inside, [`Code::Unknown`] when the device is not ours, [`Code::Label`] when the label
/// names another model or serial number, [`Code::State`] when the device or the point is bound otherwise. A refusal is
/// audited.
pub fn bind<R: Records>(
    records: &R,
    now: UtcTime,
    by: By,
    request: &InstallRequest,
) -> Result<Decision<EkName>, RecordsError> {
    let mut overlay = Overlay::new(records);
    let device = request.label.device;
    let outcome = match labelled(&overlay, &request.label)? {
        Err(code) => Err(code),
        Ok(_) => {
            let bound = overlay.load::<Installation>(INSTALLATIONS, device.as_bytes())?;
            match (bound, device_at(&overlay, &request.point)?) {
                (None, None) => Ok(true),
                (Some(bound), _) if bound.point == request.point => Ok(false),
                _ => Err(Code::State),
            }
        }
    };
    let (act, detail) = match outcome {
        Ok(false) => return Ok((Vec::new(), Ok(device))),
        Ok(true) => {
            bind_in(&mut overlay, &device, &request.point, now);
            ("device.installed", request.point.clone())
        }
        Err(code) => ("installation.refused", format!("{code} at {}", request.point)),
    };
    audit::append(&mut overlay, now, Act { actor: by.actor(), act, subject: &device, detail: &detail })?;
    Ok((overlay.into_writes(), outcome.map(|_| device)))
}

/// What a device's first contact says about its binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Comparison {
    /// It fits, or there is nothing to compare.
    Fits,
    /// It hangs elsewhere: these are to be held.
    Elsewhere {
        /// The device, and the one that is bound to the place it named.
        held: Vec<EkName>,
        /// What was found, for the audit log.
        finding: String,
    },
}

/// Compares the place that a device named with its binding. Records a confirmation in the overlay.
pub(super) fn compare<R: Records>(
    overlay: &mut Overlay<'_, R>,
    device: &EkName,
    place: Option<&str>,
) -> Result<Comparison, RecordsError> {
    let Some(place) = place else { return Ok(Comparison::Fits) };
    let bound = overlay.load::<Installation>(INSTALLATIONS, device.as_bytes())?;
    let other = device_at(overlay, place)?.filter(|other| other != device);
    let expected = match (bound, &other) {
        (Some(bound), _) if bound.point == place => {
            if !bound.confirmed {
                overlay.save(INSTALLATIONS, device.as_bytes(), &Installation { confirmed: true, ..bound });
            }
            return Ok(Comparison::Fits);
        }
        (Some(bound), _) => bound.point,
        (None, Some(_)) => "no point".into(),
        (None, None) => return Ok(Comparison::Fits),
    };
    let mut held = alloc::vec![*device];
    if let Some(other) = other {
        let theirs = overlay.load::<Installation>(INSTALLATIONS, other.as_bytes())?;
        // Who has named its place itself is where it should be: a stranger's word does not hold it.
        if theirs.is_some_and(|theirs| !theirs.confirmed) {
            held.push(other);
        }
    }
    Ok(Comparison::Elsewhere { held, finding: format!("at {place}, bound to {expected}") })
}

/// Puts a device on hold: quarantined, the head-end to be told when it serves it. Returns whether anything changed.
pub(super) fn hold<R: Records>(
    overlay: &mut Overlay<'_, R>,
    now: UtcTime,
    device: &EkName,
    finding: &str,
) -> Result<bool, RecordsError> {
    let Some(mut entry) = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())? else {
        return Ok(false);
    };
    if entry.state == DeviceState::Quarantined {
        return Ok(false);
    }
    entry.state = DeviceState::Quarantined;
    entry.quarantine = Some(Code::Label);
    entry.admission_pending = entry.tls_key.is_some();
    entry.revision = entry.revision.saturating_add(1);
    let act = Act { actor: "endpoint-manager", act: "device.held", subject: device, detail: &finding };
    audit::append(overlay, now, act)?;
    overlay.save(DEVICES, device.as_bytes(), &entry);
    Ok(true)
}

/// A device whose state an operator's act changed: the key service is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Device.
    pub device: EkName,
    /// New state.
    pub state: DeviceState,
    /// When its evidence was verified last.
    pub attested_at: UtcTime,
}

impl Changed {
    const fn of(entry: &RegisterEntry) -> Self {
        Self { device: entry.device, state: entry.state, attested_at: entry.attested_at }
    }
}

/// Exchanges the bindings of two devices that hang in each other's place, and lets both try again when they were held for
/// it. To be committed.
///
/// # Errors
/// [`RecordsError`] from the store; inside, [`Code::State`] when one of them is not bound.
pub fn correct<R: Records>(
    records: &R,
    now: UtcTime,
    devices: [EkName; 2],
    reason: &str,
) -> Result<Decision<Vec<Changed>>, RecordsError> {
    let mut overlay = Overlay::new(records);
    let [first, second] = devices;
    let load = |overlay: &Overlay<'_, R>, device: &EkName| {
        overlay.load::<Installation>(INSTALLATIONS, device.as_bytes())
    };
    let (Some(one), Some(two)) = (load(&overlay, &first)?, load(&overlay, &second)?) else {
        return Ok((Vec::new(), Err(Code::State)));
    };
    if first == second {
        return Ok((Vec::new(), Err(Code::State)));
    }
    bind_in(&mut overlay, &first, &two.point, now);
    bind_in(&mut overlay, &second, &one.point, now);
    let mut changed = Vec::new();
    for (device, point) in [(first, two.point), (second, one.point)] {
        let detail = format!("{point}: {reason}");
        let act = Act { actor: "operator", act: "installation.corrected", subject: &device, detail: &detail };
        audit::append(&mut overlay, now, act)?;
        let Some(mut entry) = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())? else { continue };
        if entry.state == DeviceState::Quarantined && entry.quarantine == Some(Code::Label) {
            entry.state = DeviceState::Registered;
            entry.quarantine = None;
            entry.revision = entry.revision.saturating_add(1);
            overlay.save(DEVICES, device.as_bytes(), &entry);
            changed.push(Changed::of(&entry));
        }
    }
    Ok((overlay.into_writes(), Ok(changed)))
}

/// Takes a device from its connection point: it is suspended, so that nothing is sealed or opened for it, and the head-end is
/// told. To be committed.
///
/// # Errors
/// [`RecordsError`] from the store; inside, [`Code::State`] when it is bound nowhere.
pub fn take_back<R: Records>(
    records: &R,
    now: UtcTime,
    device: &EkName,
    reason: &str,
) -> Result<Decision<Vec<Changed>>, RecordsError> {
    let mut overlay = Overlay::new(records);
    let outcome = take_back_in(&mut overlay, now, device, reason)?;
    Ok((overlay.into_writes(), outcome.map(|changed| changed.into_iter().collect())))
}

fn take_back_in<R: Records>(
    overlay: &mut Overlay<'_, R>,
    now: UtcTime,
    device: &EkName,
    reason: &str,
) -> Result<Result<Option<Changed>, Code>, RecordsError> {
    let bound = overlay.load::<Installation>(INSTALLATIONS, device.as_bytes())?;
    let entry = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())?;
    let (Some(bound), Some(mut entry)) = (bound, entry) else { return Ok(Err(Code::State)) };
    unbind_in(overlay, device, &bound.point);
    let detail = format!("{}: {reason}", bound.point);
    let act = Act { actor: "operator", act: "device.returned", subject: device, detail: &detail };
    audit::append(overlay, now, act)?;
    // A device that never operated waits for its next place as it is; one in quarantine stays there.
    if entry.tls_key.is_none() || entry.state == DeviceState::Quarantined {
        return Ok(Ok(None));
    }
    entry.state = DeviceState::Suspended;
    entry.admission_pending = true;
    entry.revision = entry.revision.saturating_add(1);
    overlay.save(DEVICES, device.as_bytes(), &entry);
    Ok(Ok(Some(Changed::of(&entry))))
}

/// Puts another device in the place of the one at a connection point, which is taken back. To be committed. The new one may
/// have been suspended before: it then operates again.
///
/// # Errors
/// [`RecordsError`] from the store; inside, as [`bind`], and [`Code::State`] when nothing hangs at the point.
pub fn exchange<R: Records>(
    records: &R,
    now: UtcTime,
    request: &InstallRequest,
    reason: &str,
) -> Result<Decision<Vec<Changed>>, RecordsError> {
    let mut overlay = Overlay::new(records);
    let device = request.label.device;
    let refused = |code| Ok((Vec::new(), Err(code)));
    let mut entry = match labelled(&overlay, &request.label)? {
        Ok(entry) => entry,
        Err(code) => return refused(code),
    };
    let Some(old) = device_at(&overlay, &request.point)?.filter(|old| *old != device) else {
        return refused(Code::State);
    };
    if overlay.load::<Installation>(INSTALLATIONS, device.as_bytes())?.is_some() {
        return refused(Code::State);
    }
    let mut changed = Vec::new();
    match take_back_in(&mut overlay, now, &old, reason)? {
        Ok(returned) => changed.extend(returned),
        Err(code) => return refused(code),
    }
    bind_in(&mut overlay, &device, &request.point, now);
    if entry.state == DeviceState::Suspended {
        entry.state = DeviceState::Operating;
        entry.admission_pending = true;
        entry.revision = entry.revision.saturating_add(1);
        overlay.save(DEVICES, device.as_bytes(), &entry);
        changed.push(Changed::of(&entry));
    }
    let detail = format!("{}: {reason}", request.point);
    let act = Act { actor: "operator", act: "device.installed", subject: &device, detail: &detail };
    audit::append(&mut overlay, now, act)?;
    Ok((overlay.into_writes(), Ok(changed)))
}
