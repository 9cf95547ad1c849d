//! The owner's calendar and his orders, with the device's own machine: rule S13, crashes, resumption.

use gridseal_onboarding::endpoint_manager::{
    EventKind,
    orders::{self, Job, OrderRules, watch},
    register::{DEVICES, Told, outbox, told},
};
use gridseal_trust::{
    enrol::device::{Event, Input},
    measured::Verdict,
};
use gridseal_types::{
    Code, DeviceState, Digest, Tick,
    records::{Commit, Records},
    service::keys::OpenVerdict,
};

use crate::support::{
    World,
    factory::{Factory, Owner, measured_update},
};

const HOUR_MS: u64 = 3_600_000;

fn operating() -> World {
    let mut world = World::new();
    world.start();
    world.run();
    assert!(world.is_confirmed());
    world
}

/// The device asks for orders and does what there is.
pub(crate) fn fetch(world: &mut World) {
    world.meter.device.handle(world.now, Input::FetchOrders).expect("operating");
    world.run();
    tell_states(world);
}

/// What the outbox tells the key service.
fn tell_states(world: &mut World) {
    let (pending, _) = outbox(&world.register, &[], 100).unwrap();
    for (device, (revision, request)) in pending.states {
        world.ask_keys(request);
        let writes = told(&world.register, &[(device, Told::State(revision))]).unwrap();
        world.register.commit(writes).unwrap();
    }
}

fn order(world: &mut World, job: Job) -> Result<(), Code> {
    let keys = [Factory::new().voucher_key()];
    let (device, now) = (world.device_name(), world.utc());
    let (writes, decided) = orders::request(&world.register, now, &device, job, ("test", &keys)).unwrap();
    world.register.commit(writes).unwrap();
    tell_states(world);
    decided.map(drop)
}

fn opens(world: &mut World, counter: u64) -> bool {
    let apdu = world.seal_apdu(counter, b"reading");
    matches!(world.open_apdu(&apdu), OpenVerdict::Fresh { .. })
}

fn jobs(world: &World) -> Vec<String> {
    orders::status(&world.register, &world.device_name()).unwrap().jobs
}

#[test]
fn s13_an_old_attestation_closes_seal_and_open_and_a_good_one_opens_again() {
    let mut world = operating();
    assert!(opens(&mut world, 1));
    world.now = Tick(world.now.0 + 27 * HOUR_MS);
    assert!(!opens(&mut world, 2), "too old, whatever the register says");
    let (writes, alarms, _) =
        watch(&world.register, world.utc(), &OrderRules::default(), (&[], 100)).unwrap();
    let whats: Vec<&str> = alarms.iter().map(|alarm| alarm.what).collect();
    assert_eq!(whats, ["silent", "attestation-stale"]);
    world.register.commit(writes).unwrap();
    tell_states(&mut world);
    assert_eq!((world.entry().state, world.entry().quarantine), (DeviceState::Quarantined, Some(Code::Time)));
    let again = watch(&world.register, world.utc(), &OrderRules::default(), (&[], 100)).unwrap();
    assert_eq!((again.0, again.1), (vec![], vec![]), "once");

    fetch(&mut world);
    let entry = world.entry();
    assert_eq!((entry.state, entry.quarantine, entry.silent_since), (DeviceState::Operating, None, None));
    assert_eq!(entry.attested_at, world.utc());
    assert!(opens(&mut world, 3), "{:?}", world.register_events);
    fetch(&mut world);
    assert!(jobs(&world).is_empty(), "once a day");
}

#[test]
fn a14_what_fails_an_attestation_is_held_until_a_person_asks_for_a_good_one() {
    let mut world = operating();
    order(&mut world, Job::Attest).unwrap();
    world.meter.root.extend_pcr(0, &Digest([9; 32])).unwrap();
    fetch(&mut world);
    assert_eq!(world.entry().state, DeviceState::Quarantined);
    assert!(
        matches!(world.entry().quarantine, Some(Code::Policy | Code::Quote)),
        "{:?}",
        world.entry().quarantine
    );
    assert!(!opens(&mut world, 1));
    fetch(&mut world);
    assert!(jobs(&world).is_empty(), "it does not lift that itself");
    order(&mut world, Job::Resume).unwrap();
    fetch(&mut world);
    assert_eq!(world.entry().state, DeviceState::Quarantined, "the same software");
    assert!(jobs(&world).is_empty());

    world.reboot();
    world.run();
    order(&mut world, Job::Resume).unwrap();
    fetch(&mut world);
    fetch(&mut world);
    assert_eq!((world.entry().state, world.entry().quarantine), (DeviceState::Operating, None));
    assert!(opens(&mut world, 2));
}

#[test]
fn s2_an_endpoint_manager_that_dies_before_its_commit_gets_the_same_order_again() {
    let mut world = operating();
    order(&mut world, Job::Rotate).unwrap();
    let before = world.register.clone();
    fetch(&mut world);
    assert_eq!(world.entry().policy_version, 2, "{:?}", world.register_events);
    // Its disk is as before it asked the key service: the device has done it, and says so again.
    world.register = before;
    fetch(&mut world);
    assert_eq!(world.entry().policy_version, 2);
    let installed = world.meter.record().installed.unwrap();
    assert_eq!((installed.policy_version, installed.digest), (2, world.entry().configuration));
    assert!(opens(&mut world, 1));
}

#[test]
fn a_job_is_refused_where_the_state_has_no_place_for_it() {
    let mut world = World::new();
    assert_eq!(order(&mut world, Job::Attest), Err(Code::State), "not seen yet");
    let mut world = operating();
    assert_eq!(order(&mut world, Job::Resume), Err(Code::State), "not held");
    order(&mut world, Job::Suspend).unwrap();
    assert_eq!(order(&mut world, Job::Rotate), Err(Code::State));
    order(&mut world, Job::Decommission).unwrap();
    assert_eq!(order(&mut world, Job::Resume), Err(Code::State), "it is on its way to its end");
    assert_eq!(world.entry().state, DeviceState::Suspended);
    fetch(&mut world);
    assert_eq!(world.entry().state, DeviceState::Decommissioned, "{:?}", world.register_events);
    assert!(orders::receipt(&world.register, &world.device_name(), 1).unwrap().is_some());
    let row = world.register.get(DEVICES, world.device_name().as_bytes()).unwrap();
    assert!(row.is_some(), "what it was stays on record");
}

#[test]
fn s13_an_authority_that_refuses_for_days_holds_up_no_attestation() {
    let mut world = operating();
    let (keys, certificate) = (world.entry().keys, world.entry().certificate);
    world.authority_refuses = true;
    order(&mut world, Job::Renew { with_storage: true }).unwrap();
    fetch(&mut world);
    assert!(world.register_events.contains(&EventKind::CertificateRefused));
    for _ in 0..4 {
        world.now = Tick(world.now.0 + 25 * HOUR_MS);
        fetch(&mut world);
        let entry = world.entry();
        assert_eq!((entry.state, entry.attested_at), (DeviceState::Rekeying, world.utc()));
        let (_, alarms, _) = watch(&world.register, world.utc(), &OrderRules::default(), (&[], 100)).unwrap();
        assert_eq!(alarms, [], "{:?}", world.register_events);
    }
    assert!(opens(&mut world, 1));
    // Other orders are carried out as well.
    order(&mut world, Job::Rotate).unwrap();
    fetch(&mut world);
    assert_eq!((world.entry().policy_version, jobs(&world)), (2, vec!["renew".into()]));
    assert_eq!(world.entry().certificate, certificate);

    world.authority_refuses = false;
    fetch(&mut world);
    assert_eq!(jobs(&world), ["renew"], "it is not asked at once again");
    world.now = Tick(world.now.0 + HOUR_MS / 4);
    fetch(&mut world);
    let entry = world.entry();
    assert_eq!((entry.state, jobs(&world)), (DeviceState::Operating, vec![]));
    assert_ne!((entry.keys, entry.certificate), (keys, certificate), "renewed");
    assert!(opens(&mut world, 1), "under the new keys");
}

#[test]
fn what_the_key_service_does_not_open_holds_up_no_attestation() {
    let mut world = operating();
    let before = world.key_records.clone();
    order(&mut world, Job::Rotate).unwrap();
    world.meter.device.handle(world.now, Input::FetchOrders).expect("operating");
    let is_done =
        |world: &World| world.meter.events.iter().any(|event| matches!(event, Event::OrderAnswered { .. }));
    assert!(world.run_until(is_done));
    // An older database is put back: this order was never made.
    world.key_records = before;
    world.now = Tick(world.now.0 + 25 * HOUR_MS);
    world.run();
    fetch(&mut world);
    fetch(&mut world);
    assert_eq!(world.entry().attested_at, world.utc(), "{:?}", world.register_events);
}

#[test]
fn a_change_of_software_is_over_when_an_attestation_shows_it() {
    let rules = Owner::rules_of([Owner::policy(), Owner::next_policy()]);
    let mut world = World::with_rules(rules, |_, _| ());
    world.start();
    world.run();
    let attest = |world: &mut World| {
        world.now = Tick(world.now.0 + HOUR_MS / 4);
        fetch(world);
        assert_eq!(world.entry().attested_at, world.utc());
        world.entry().state
    };
    order(&mut world, Job::Update).unwrap();
    assert_eq!(world.entry().state, DeviceState::Updating);
    assert!(opens(&mut world, 1), "it works as before");
    assert_eq!(attest(&mut world), DeviceState::Updating, "the same software");
    world.reboot_with(measured_update);
    world.run();
    assert_eq!(attest(&mut world), DeviceState::Operating);
    assert_eq!(world.entry().software.unwrap().verdict, Verdict::Pass);
    assert!(jobs(&world).is_empty());

    // The firmware of its TPM is software too, and shows in the quote alone.
    order(&mut world, Job::Update).unwrap();
    assert_eq!(attest(&mut world), DeviceState::Updating);
    world.meter.root.set_firmware_version(2);
    assert_eq!(attest(&mut world), DeviceState::Operating);

    // A meter that comes back with something else is held; one of which nobody sees a change is let go.
    order(&mut world, Job::Update).unwrap();
    world.now = Tick(world.now.0 + 8 * 24 * HOUR_MS);
    fetch(&mut world);
    assert_eq!((world.entry().state, jobs(&world)), (DeviceState::Operating, vec![]));
    order(&mut world, Job::Update).unwrap();
    world.reboot_with(|root| root.extend_pcr(4, &Digest([7; 32])).unwrap());
    world.run();
    world.now = Tick(world.now.0 + HOUR_MS / 4);
    fetch(&mut world);
    assert_eq!((world.entry().state, jobs(&world)), (DeviceState::Quarantined, vec![]));
    assert_eq!(order(&mut world, Job::Update), Err(Code::State), "not while it is held");
}

#[test]
fn a_device_is_held_out_of_every_state() {
    for (state, jobs) in [
        (DeviceState::Operating, vec![]),
        (DeviceState::Rekeying, vec![Job::Renew { with_storage: true }]),
        (DeviceState::Updating, vec![Job::Update]),
        (DeviceState::Suspended, vec![Job::Suspend]),
    ] {
        let mut world = operating();
        world.authority_refuses = true;
        for job in jobs {
            order(&mut world, job).unwrap();
        }
        fetch(&mut world);
        assert_eq!(world.entry().state, state);
        order(&mut world, if state == DeviceState::Suspended { Job::Resume } else { Job::Attest }).unwrap();
        world.meter.root.extend_pcr(0, &Digest([9; 32])).unwrap();
        fetch(&mut world);
        assert_eq!(world.entry().state, DeviceState::Quarantined, "out of {}", state.name());
        assert!(!opens(&mut world, 1));
    }
}
