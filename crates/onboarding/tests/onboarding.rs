//! A whole onboarding between all its machines, and every way in which it must not go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

#[path = "onboarding/challenge.rs"]
mod challenge;
#[path = "onboarding/clocks.rs"]
mod clocks;
#[path = "onboarding/device.rs"]
mod device;
#[path = "onboarding/flips.rs"]
mod flips;
#[path = "onboarding/orders.rs"]
mod orders;
#[path = "onboarding/places.rs"]
mod places;
#[path = "onboarding/recorded.rs"]
mod recorded;
#[path = "onboarding/recording.rs"]
mod recording;
#[path = "onboarding/registrar.rs"]
mod registrar;
#[path = "onboarding/sessions.rs"]
mod sessions;
#[path = "onboarding/software.rs"]
mod software;
mod support;

use gridseal_trust::enrol::{device::Event, session::Step};
use gridseal_types::{DeviceState, service::keys::OpenVerdict};
use support::{World, factory::SYSTEM_TITLE};

#[test]
fn a_fresh_device_finds_its_owner_and_its_first_apdu_opens_once() {
    let mut world = World::new();
    world.start();
    world.run();
    assert_eq!(
        world.meter.events,
        [
            Event::OwnerFound,
            Event::KeysMade,
            Event::Sent(Step::HELLO),
            Event::Accepted(Step::CHALLENGE),
            Event::Sent(Step::EVIDENCE),
            Event::Accepted(Step::COMMANDS),
            Event::Sent(Step::RESPONSES),
            Event::Accepted(Step::PROVISION),
            Event::Sent(Step::INSTALLED),
            Event::Accepted(Step::DONE),
            Event::Operating { confirmed: true },
        ],
        "{:?}",
        world.register_events
    );
    let entry = world.entry();
    assert_eq!((entry.state, entry.policy_version), (DeviceState::Operating, 1));
    assert_eq!(world.admissions, [entry.admission().unwrap()]);
    let installed = world.meter.record().installed.unwrap();
    assert_eq!((installed.digest, installed.confirmed), (entry.configuration, true));
    let apdu = world.seal_apdu(5, b"reading");
    let plain = b"reading".to_vec();
    assert_eq!(
        world.open_apdu(&apdu),
        OpenVerdict::Fresh { system_title: SYSTEM_TITLE, plain: plain.clone(), late: false }
    );
    assert_eq!(world.open_apdu(&apdu), OpenVerdict::Duplicate { system_title: SYSTEM_TITLE, plain });
    for at in 0..apdu.len() {
        let mut changed = apdu.clone();
        changed[at] ^= 1;
        assert_eq!(world.open_apdu(&changed), OpenVerdict::Rejected, "byte {at}");
    }
    let other = world.seal_apdu(5, b"another");
    assert_eq!(world.open_apdu(&other), OpenVerdict::Replay);
}
