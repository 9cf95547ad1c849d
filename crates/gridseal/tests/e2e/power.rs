//! Power cuts of a meter with a TPM, at each step: the kill of the meter takes its emulator with it, without any notice.
//! The device ends operating, and the TPM's lock-out counter never moves (onboarding 9, A17 and A30).

use std::{path::Path, time::Duration};

use gridseal_io::tpm::Swtpm;
use gridseal_trust::root::TpmTransport;

use crate::{
    faults::{STEPS, Step, cell, settled},
    machine::has_tpm_emulator,
    site::{Plan, Site},
};

/// TPM_PT_LOCKOUT_COUNTER.
const LOCKOUT_COUNTER: u32 = 0x20e;
/// TPM_PT_PERMANENT.
const PERMANENT: u32 = 0x200;
/// Bits of it: ownerAuthSet, lockoutAuthSet, inLockout.
const OWNER_AUTH_SET: u32 = 1;
const LOCKOUT_AUTH_SET: u32 = 1 << 2;
const IN_LOCKOUT: u32 = 1 << 9;

/// An emulator on this state. The one of a killed meter dies a moment after it, and until then holds the state.
fn started(state: &Path) -> Swtpm {
    for _ in 0..200 {
        let mut tpm = Swtpm::start(state).unwrap();
        // TPM2_Startup(CLEAR) was done by the emulator's flag or is done here; either answer is fine.
        if tpm.transmit(&[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0]).is_ok() {
            return tpm;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no emulator starts on {}", state.display());
}

/// A property of the TPM whose state lies in a directory and which nobody else runs.
fn property(state: &Path, property: u32) -> u32 {
    let mut tpm = started(state);
    // TPM2_GetCapability(TPM_CAP_TPM_PROPERTIES, property, 1).
    let mut command = vec![0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7a, 0, 0, 0, 6];
    command.extend_from_slice(&property.to_be_bytes());
    command.extend_from_slice(&1u32.to_be_bytes());
    let response = tpm.transmit(&command).unwrap();
    // Header, moreData, capability, count, then property and value.
    assert_eq!((&response[6..10], &response[15..19]), (&[0; 4][..], &[0, 0, 0, 1][..]), "{response:02x?}");
    assert_eq!(response[19..23], property.to_be_bytes());
    u32::from_be_bytes(response[23..27].try_into().unwrap())
}

/// What must hold of the TPM of a meter that its owner has and that nobody runs: never locked, and owned.
pub(crate) fn check_tpm(state: &Path) -> Vec<String> {
    let permanent = property(state, PERMANENT);
    let counter = property(state, LOCKOUT_COUNTER);
    let mut wrong = Vec::new();
    if counter != 0 || permanent & IN_LOCKOUT != 0 {
        wrong.push(format!("lock-out counter {counter}, permanent {permanent:#x}"));
    }
    // Owned, and by the one whose register says operating: see `settled`.
    if permanent & (OWNER_AUTH_SET | LOCKOUT_AUTH_SET) != OWNER_AUTH_SET | LOCKOUT_AUTH_SET {
        wrong.push(format!("nobody owns the TPM, permanent {permanent:#x}"));
    }
    wrong
}

#[test]
fn onboarding_9_a17_power_cuts_at_each_step_never_lock_the_tpm() {
    if !has_tpm_emulator() {
        return;
    }
    let mut moments: Vec<_> = STEPS.into_iter().map(|step| (step, Duration::ZERO)).collect();
    // Between the two commands that set the owner's and the lock-out value, as near as time can tell.
    moments.extend([1, 2, 3, 5, 8, 13].map(|ms| (Step::Meter("accepted", "C4"), Duration::from_millis(ms))));
    let mut site = Site::new("power", Plan { meters: moments.len(), anchor: "tpm", ..Plan::default() });
    let mut failures = Vec::new();
    for (moment, serial) in moments.into_iter().zip(site.meters.clone()) {
        if let Err(why) = cell(&mut site, "meter", moment, &serial) {
            failures.push(format!("power cut at {moment:?}, meter {serial}: {why}"));
        }
        let wrong = check_tpm(&site.factory(&serial).join("tpm"));
        failures.extend(wrong.into_iter().map(|what| format!("power cut at {moment:?}: {what}")));
    }
    if failures.is_empty() {
        failures = settled(&site);
    }
    assert!(failures.is_empty(), "{} cells failed:\n{}", failures.len(), failures.join("\n"));
}
