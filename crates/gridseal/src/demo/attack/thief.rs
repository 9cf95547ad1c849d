//! Who has the device on a table: its TPM, its bus, its flash, its clock, and a switch for its power.

use anyhow::{Context, Result};
use gridseal_trust::{
    enrol::{
        device::{DeviceRecord, Event},
        session::Step,
    },
    root::{DeviceRoot, RootRequest},
};
use gridseal_types::{Code, UtcTime};

use super::{
    Verdict,
    chip::{Chip, response_code, with_empty_password},
    forge::is_step,
    stage::{MANAGER, Stage, search_for},
};
use crate::files::{read, write_atomic};

/// A16: Clear by whoever holds the device, and a second life for what is left.
pub(super) fn reset(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let mut puppet = stage.puppet(&victim)?;
    puppet.onboard()?;
    // Clear, authorised by the platform hierarchy with an empty password.
    let clear = with_empty_password(0x126, 0x4000_000c, &[]);
    let refused = match puppet.chip.raw(&clear)? {
        Some(response) => {
            stage.sent("tpm-clear", &clear)?;
            stage.keep("tpm-response.bin", &response)?;
            response_code(&response).is_some_and(|code| code != 0)
        }
        None => true,
    };
    // Nothing of the owner is left on the flash: it begins as a new device would.
    puppet.write_flash(&DeviceRecord::default());
    puppet.events.clear();
    puppet.start()?;
    puppet.run_until("an answer is missing", |puppet| {
        puppet.events.contains(&Event::Sent(Step::HELLO)) && puppet.events.contains(&Event::Unanswered)
    })?;
    let heard = stage.refusal(&MANAGER, Code::State)?;
    let c1 = puppet.sent.iter().rfind(|wire| is_step(wire, Step::HELLO)).context("no C1")?;
    stage.sent("c1-after-the-reset", c1)?;
    Ok(Verdict::refused(heard).and(refused, "the TPM refuses Clear"))
}

/// Power cuts in one row.
const CUTS: usize = 10;

/// A17: power is cut again and again while keys are in use.
pub(super) fn power_cuts(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let mut puppet = stage.puppet(&victim)?;
    puppet.onboard()?;
    let tls = puppet.record()?.keys.context("no keys")?.tls;
    for _ in 0..CUTS {
        puppet.chip.perform(RootRequest::Sign { tls: tls.clone(), message: b"in use".to_vec() })?;
        puppet.chip.power_cycle()?;
    }
    let counted = puppet.chip.lockout_counter()?;
    let permanent = puppet.chip.description()?.permanent;
    stage.keep(
        "tpm.txt",
        format!("cuts {CUTS} lockout_counter {counted:?} permanent {permanent:#x}").as_bytes(),
    )?;
    // Bit 9: inLockout.
    Ok(Verdict::held("tpm")
        .and(counted.unwrap_or(0) == 0 && permanent & 0x200 == 0, "no failed authorisation counted"))
}

/// A18: every byte between processor and TPM is recorded through a whole onboarding, and searched for every secret.
pub(super) fn bus(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let mut puppet = stage.puppet(&victim)?;
    puppet.onboard()?;
    let record = puppet.record()?;
    let storage = record.keys.context("no keys")?.storage;
    for key in record.installed.context("nothing installed")?.keys {
        puppet.chip.perform(RootRequest::Unseal { storage: storage.clone(), object: key.blob })?;
    }
    let bus = puppet.chip.bus();
    if bus.is_empty() {
        return Ok(Verdict::missing("the software root has no bus"));
    }
    let bytes: Vec<&[u8]> = bus.iter().map(Vec::as_slice).collect();
    stage.keep("bus.bin", &bus.concat())?;
    let secrets = stage.secrets_in(&bytes, None, None)?;
    let public = puppet.chip.description()?.ek_public;
    let point = public.get(public.len().saturating_sub(32)..).unwrap_or_default();
    let control = stage.found(&search_for(&[("endorsement key", point)])?, &bytes, None, None)?;
    Ok(Verdict::held("tpm")
        .and(!control.is_empty(), "the search finds the endorsement key")
        .and(secrets.is_empty(), "only ciphertext on the bus")
        .obtained(secrets))
}

/// A30: the answer to the ownership commands is lost: who guesses now locks the TPM.
pub(super) fn lost_answer(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let mut puppet = stage.puppet(&victim)?;
    puppet.on_wire(|wire| (!is_step(wire, Step::RESPONSES)).then(|| wire.to_vec()));
    puppet.start()?;
    puppet.run_until("C5 was lost", |puppet| puppet.events.contains(&Event::Sent(Step::RESPONSES)))?;
    let owned = puppet.chip.description()?.permanent & 5;
    puppet.behave();
    puppet.chip.power_cycle()?;
    puppet.events.clear();
    puppet.onboard()?;
    let counted = puppet.chip.lockout_counter()?;
    let permanent = puppet.chip.description()?.permanent;
    stage.keep("tpm.txt", format!("lockout_counter {counted:?} permanent {permanent:#x}").as_bytes())?;
    Ok(Verdict::held("keys")
        .and(owned == 5, "the commands had been executed")
        .and(counted.unwrap_or(0) == 0 && permanent & 0x200 == 0, "no authorisation was guessed"))
}

/// A37: an image of the flash is kept, and put back after the meter has gone on.
pub(super) fn rollback(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    stage.switch_on(&victim)?;
    stage.told(&victim, "sealed", 1)?;
    stage.switch_off(&victim);
    let files = ["device.cbor", "push.cbor"].map(|name| victim.made.dir.join(name));
    let [device, push] = [read(&files[0])?, read(&files[1])?];
    // After a restart it reserves anew.
    let sealed = stage.count_told(&victim, "sealed");
    stage.switch_on(&victim)?;
    stage.told(&victim, "sealed", sealed + 1)?;
    stage.switch_off(&victim);
    for (path, image) in files.iter().zip([&device, &push]) {
        stage.sent("flash-image", image)?;
        write_atomic(path, image)?;
    }
    let sealed = stage.count_told(&victim, "sealed");
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::Rollback)?;
    // And an image of the time before the first value was used.
    std::fs::remove_file(&files[1])?;
    let mut record = DeviceRecord::decode(&device)?;
    if let Some(installed) = &mut record.installed {
        installed.is_counting = false;
    }
    write_atomic(&files[0], &record.encode())?;
    stage.switch_off(&victim);
    stage.switch_on(&victim)?;
    stage.on_record_times(&meter, "code", Code::Rollback.name(), 2)?;
    stage.switch_off(&victim);
    let repeated = stage.count_told(&victim, "sealed") != sealed;
    Ok(Verdict::refused(heard).and(!repeated, "nothing is sealed from an older state"))
}

/// A39: the meter's clock is set back, so that an expired redirect would do. It has no clock to set: it compares with the
/// largest time that its owner has told it.
pub(super) fn clock(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    // The owner had told it a time twelve years on; the redirect that it is given ends after ten.
    let later = UtcTime(gridseal_io::clock::utc_now().0.saturating_add(12 * 365 * 86_400));
    let record = DeviceRecord { floor: later, ..DeviceRecord::default() };
    write_atomic(&victim.made.dir.join("device.cbor"), &record.encode())?;
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::Time)?;
    stage.switch_off(&victim);
    let untouched = Chip::power_on(&victim.made.dir)?.description()?.pin.is_none();
    Ok(Verdict::refused(heard).and(untouched, "the TPM is untouched"))
}
