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

#[path = "root/changes.rs"]
mod changes;
#[path = "../../trust/tests/root/contract.rs"]
mod contract;
#[path = "root/strangers.rs"]
mod strangers;

use std::path::PathBuf;

use contract::{Bench, Owner};
use gridseal_io::{
    rng::OsRng,
    tpm::{Swtpm, swtpm_available},
};
use gridseal_trust::{
    root::{Assurance, DeviceRoot, EndorsementKind, RootError, RootRequest, TpmTransport, tpm2::Tpm2Root},
    tpm,
};
use gridseal_types::Code;

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
        Self::start_with(test, EndorsementKind::P256)
    }

    fn start_with(test: &str, endorsement: EndorsementKind) -> Option<Self> {
        if !swtpm_available() {
            eprintln!("swtpm is not installed: {test} did not run");
            return None;
        }
        let state = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&state);
        std::fs::create_dir_all(&state).unwrap();
        let mut root =
            Tpm2Root::new(Swtpm::start(&state).unwrap(), Box::new(OsRng)).with_endorsement(endorsement);
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

    fn start_for_recovery(&mut self) {
        self.root.start_for_recovery();
        self.power_cut();
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

/// Credential, salts and tunnelled ownership to an RSA key, accepted by a TPM; the key comes back after every power cut.
#[test]
fn a_tpm_with_an_rsa_endorsement_key_lives_the_same_life() {
    let Some(mut bench) = Emulated::start_with("rsa-life", EndorsementKind::Rsa2048) else { return };
    let Some(mut other) = Emulated::start("rsa-life-other") else { return };
    contract::manufacture(&mut other);
    let foreign = contract::create_keys(&mut other);
    contract::whole_life(&mut bench, &mut OsRng, &foreign);
    let public = contract::describe(&mut bench).ek_public;
    assert!(public.starts_with(&tpm::ENDORSEMENT_RSA_TEMPLATE));
}

/// One whole command without sessions or with one empty password.
fn command(cc: u32, body: &[&[u8]], with_password: bool) -> Vec<u8> {
    let body = body.concat();
    let size = u32::try_from(10 + body.len()).unwrap();
    let tag: u16 = if with_password { 0x8002 } else { 0x8001 };
    [&tag.to_be_bytes()[..], &size.to_be_bytes(), &cc.to_be_bytes(), &body].concat()
}

/// What another provisioning tool leaves at the handle of the endorsement key is not taken for the device's own.
#[test]
fn an_endorsement_key_on_p384_and_one_of_another_kind_are_refused_with_a_code() {
    let Some(mut bench) = Emulated::start("p384") else { return };
    // TCG high-range template for P-384: SHA-384, AES-256-CFB, policy of the template.
    let policy = [
        0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07,
        0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47,
        0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
    ];
    let tail = [0, 6, 1, 0, 0, 0x43, 0, 0x10, 0, 4, 0, 0x10, 0, 0, 0, 0];
    let template = [&[0, 0x23, 0, 0x0c, 0, 3, 0, 0xf2, 0, 0x30][..], &policy, &tail].concat();
    let password = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
    let size = u16::try_from(template.len()).unwrap().to_be_bytes();
    let create = command(
        0x131,
        &[&[0x40, 0, 0, 0x0b], &password, &[0, 4, 0, 0, 0, 0], &size, &template, &[0; 6]],
        true,
    );
    let transport = bench.root.transport_mut();
    let made = transport.transmit(&create).unwrap();
    assert_eq!(made[6..10], [0; 4], "{made:02x?}");
    let handle = &made[10..14].to_vec();
    let keep = command(0x120, &[&[0x40, 0, 0, 1], handle, &password, &[0x81, 1, 0, 1]], true);
    assert_eq!(transport.transmit(&keep).unwrap()[6..10], [0; 4]);
    transport.transmit(&command(0x165, &[handle], false)).unwrap();
    let manufacture = RootRequest::Manufacture(contract::n_root());
    assert_eq!(bench.root.perform(manufacture).unwrap_err(), RootError::Endorsement(Code::Suite));

    let Some(mut rsa) = Emulated::start_with("other-kind", EndorsementKind::Rsa2048) else { return };
    contract::manufacture(&mut rsa);
    let Emulated { root, state } = &mut rsa;
    root.transport_mut().power_cut();
    let mut reopened = Tpm2Root::new(Swtpm::start(state).unwrap(), Box::new(OsRng));
    reopened.boot().unwrap_err();
    assert_eq!(
        reopened.perform(RootRequest::Describe).unwrap_err(),
        RootError::Endorsement(Code::Endorsement)
    );
    reopened.transport_mut().power_cut();
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
