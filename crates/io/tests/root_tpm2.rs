//! The TPM root over an emulator does what every root does, and stands what a meter on a wall stands.
//!
//! Without swtpm these tests say so and pass; `make test` installs it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code"
)]

#[path = "../../trust/tests/root/contract.rs"]
mod contract;

use std::path::PathBuf;

use contract::{Bench, Owner};
use gridseal_io::{
    rng::OsRng,
    tpm::{Swtpm, swtpm_available},
};
use gridseal_trust::root::{Assurance, DeviceRoot, RootError, RootRequest, TpmTransport, tpm2::Tpm2Root};

/// TPM_PT_LOCKOUT_COUNTER.
const PT_LOCKOUT_COUNTER: u32 = 0x20e;

/// An emulator in a folder of its own, which goes with it.
struct Emulated {
    root: Tpm2Root<Swtpm>,
    state: PathBuf,
}

impl Emulated {
    /// `None` when swtpm is not installed.
    fn start(test: &str) -> Option<Self> {
        if !swtpm_available() {
            eprintln!("swtpm is not installed: {test} did not run");
            return None;
        }
        let state = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&state);
        std::fs::create_dir_all(&state).unwrap();
        let mut root = Tpm2Root::new(Swtpm::start(&state).unwrap(), Box::new(OsRng));
        root.boot().unwrap();
        Some(Self { root, state })
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        self.root.transport_mut().power_cut();
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

impl Bench for Emulated {
    fn root(&mut self) -> &mut dyn DeviceRoot {
        &mut self.root
    }

    fn power_cut(&mut self) {
        self.root.transport_mut().power_cut();
        self.root.transport_mut().power_on().unwrap();
        self.root.boot().unwrap();
    }

    fn loaded(&mut self) -> (usize, usize) {
        self.root.loaded().unwrap()
    }
}

#[test]
fn tpm_root_lives_a_whole_life() {
    let Some(mut bench) = Emulated::start("whole-life") else { return };
    let Some(mut other) = Emulated::start("whole-life-other") else { return };
    assert_eq!(bench.root.assurance(), Assurance::Tpm);
    contract::manufacture(&mut other);
    let foreign = contract::create_keys(&mut other);
    contract::whole_life(&mut bench, &mut OsRng, &foreign);
}

#[test]
fn ten_power_cuts_in_use_count_no_failed_authorisation() {
    let Some(mut bench) = Emulated::start("power-cuts") else { return };
    contract::manufacture(&mut bench);
    let mut rng = OsRng;
    let mut owner = Owner::new(&mut rng);
    let (keys, blobs) = contract::onboard(&mut bench, &mut owner);
    for _ in 0..10 {
        contract::power_cut_keeps_what_is_durable(&mut bench, &mut owner, &keys, &blobs);
        assert_eq!(bench.root.property(PT_LOCKOUT_COUNTER).unwrap(), 0);
    }
    assert_eq!(contract::describe(&mut bench).epoch, 10);
}

#[test]
fn a_restarted_process_finds_the_tpm_running_and_closes_what_was_left_open() {
    let Some(mut bench) = Emulated::start("process-restart") else { return };
    contract::manufacture(&mut bench);
    let keys = contract::create_keys(&mut bench);
    let mut rng = OsRng;
    let mut owner = Owner::new(&mut rng);
    let challenge = owner.challenge(&contract::describe(&mut bench), &keys);
    contract::attest_with(&mut bench, &challenge);
    assert_eq!(bench.loaded(), (2, 0));
    bench.root.boot().unwrap();
    assert_eq!(bench.loaded(), (0, 0));
}

#[test]
fn one_wrong_lockout_authorisation_disables_the_hierarchy_for_the_right_one_too() {
    let Some(mut bench) = Emulated::start("lockout") else { return };
    contract::manufacture(&mut bench);
    let mut rng = OsRng;
    let mut owner = Owner::new(&mut rng);
    let (keys, _) = contract::onboard(&mut bench, &mut owner);
    contract::wrong_lockout_authorisation(&mut bench, &mut owner, &keys);
    assert_eq!(contract::lockout_code_with_the_right_value(&mut bench, &mut owner, &keys), 0x921);
}

#[test]
fn an_open_platform_hierarchy_is_reported() {
    let Some(mut bench) = Emulated::start("platform") else { return };
    let made = bench.root.perform(RootRequest::Manufacture(contract::n_root())).unwrap();
    let gridseal_trust::root::RootReply::Described(made) = made else { panic!("{made:?}") };
    assert!(made.platform_open, "production ends with the hierarchy open");
    bench.root.boot().unwrap();
    assert!(!contract::describe(&mut bench).platform_open, "firmware closes it");
}

#[test]
fn a_dead_tpm_is_a_transport_error_and_power_brings_it_back() {
    let Some(mut bench) = Emulated::start("dead") else { return };
    contract::manufacture(&mut bench);
    bench.root.transport_mut().power_cut();
    assert_eq!(bench.root.transport_mut().process_id(), None);
    assert_eq!(bench.root.perform(RootRequest::Describe).unwrap_err(), RootError::Transport);
    bench.root.transport_mut().power_on().unwrap();
    bench.root.boot().unwrap();
    contract::describe(&mut bench);
}

#[test]
fn what_is_no_command_is_not_sent() {
    let Some(mut bench) = Emulated::start("no-command") else { return };
    contract::manufacture(&mut bench);
    let none = RootRequest::Execute([vec![0x80, 0x02, 0, 0, 0, 9, 0, 0, 1]].into());
    assert_eq!(bench.root.perform(none).unwrap_err(), RootError::Unsuitable);
    // GetCapability, sent past the root: the transport itself still works.
    let raw = bench
        .root
        .transport_mut()
        .transmit(&[0x80, 0x01, 0, 0, 0, 22, 0, 0, 0x01, 0x7a, 0, 0, 0, 6, 0, 0, 2, 0, 0, 0, 0, 1]);
    assert_eq!(raw.unwrap()[6..10], [0; 4]);
}
