//! Several sessions of one device: what one carries never counts in another, what is lost is made up for.

use gridseal_trust::enrol::{
    device::{Event, Input},
    relay::RelayItem,
    session::{Envelope, Step, sid_of},
};
use gridseal_types::{
    Code, DeviceState, N16, Tick, UtcTime,
    service::keys::{KeyReply, KeyRequest},
};

use crate::support::{Leg, World, straight};

fn step_of(leg: Leg) -> Option<Step> {
    match leg {
        Leg::Session(step) => Some(step),
        _ => None,
    }
}

fn count(world: &World, step: Step) -> usize {
    world.sent.iter().filter(|(leg, _)| *leg == Leg::Session(step)).count()
}

/// A device whose first session ran up to a C7 that never arrived, and whose terminus then refused it.
fn second_session() -> World {
    let mut world = World::new();
    for _ in 0..3 {
        world.lose(Leg::Session(Step::INSTALLED));
    }
    world.start();
    world.run();
    assert_eq!(world.meter.events.last(), Some(&Event::Operating { confirmed: false }));
    assert_eq!(world.entry().state, DeviceState::Installing);
    world.meter.device.handle(world.now, Input::TerminusRefused).expect("operating");
    world
}

/// The message of another session under the session identifier of this one.
fn spliced(other: &[u8], this: &[u8]) -> Vec<u8> {
    let sid = match Envelope::decode(this).unwrap() {
        Envelope::Challenge { sid, .. } | Envelope::Message { sid, .. } => sid,
        envelope => panic!("{envelope:?}"),
    };
    let mut wire = other.to_vec();
    wire[4..20].copy_from_slice(sid.as_bytes());
    wire
}

#[test]
fn a_lost_receipt_leads_to_a_second_session_that_ends_well() {
    let mut world = second_session();
    world.run();
    assert!(world.is_confirmed(), "{:?}", world.meter.events);
    assert_eq!(world.device_refusals(), []);
    assert_eq!(world.owner_refusals(), []);
    assert_eq!(world.meter.root.open_sessions(), 0);
}

#[test]
fn no_message_of_one_session_is_taken_in_another() {
    let mut world = second_session();
    let first: Vec<(Leg, Vec<u8>)> = world.sent.drain(..).collect();
    let older = |step: Step| {
        let found = first.iter().find(|(leg, _)| *leg == Leg::Session(step));
        found.expect("sent in the first session").1.clone()
    };
    for step in
        [Step::CHALLENGE, Step::EVIDENCE, Step::COMMANDS, Step::RESPONSES, Step::PROVISION, Step::INSTALLED]
    {
        let other = older(step);
        world.replace(Leg::Session(step), move |_, this| spliced(&other, this));
    }
    world.run();
    assert!(world.is_confirmed(), "{:?}", world.meter.events);
    assert!(!world.untouched());
    assert_eq!(world.device_refusals(), [Code::Grant, Code::Grant, Code::Grant]);
    assert_eq!(world.owner_refusals(), [Code::Act, Code::Transcript, Code::Transcript]);
}

#[test]
fn messages_of_an_older_session_under_their_own_name_are_refused_by_the_device() {
    let mut world = second_session();
    let first: Vec<(Leg, Vec<u8>)> = world.sent.drain(..).collect();
    for (leg, wire) in first {
        let Some(step) = step_of(leg) else { continue };
        if step.number() % 2 == 0 {
            world.replace(leg, move |_, _| wire);
        }
    }
    world.run();
    assert!(world.is_confirmed(), "{:?}", world.meter.events);
    assert_eq!(world.device_refusals(), [Code::Nonce, Code::Nonce, Code::Nonce]);
}

#[test]
fn each_message_may_be_lost_in_either_direction() {
    for number in 0..8 {
        let leg = [
            Step::HELLO,
            Step::CHALLENGE,
            Step::EVIDENCE,
            Step::COMMANDS,
            Step::RESPONSES,
            Step::PROVISION,
            Step::INSTALLED,
            Step::DONE,
        ]
        .map(Leg::Session)[number];
        let mut world = World::new();
        world.lose(leg);
        world.start();
        world.run();
        assert!(world.is_confirmed(), "{leg:?}");
        assert_eq!(
            (world.entry().sessions.len(), world.key_requests.iter().filter(|of| **of == "own").count()),
            (1, 1)
        );
    }
}

#[test]
fn power_may_fail_after_each_message_and_the_auth_values_stay_known() {
    for answer in [Step::CHALLENGE, Step::COMMANDS, Step::PROVISION, Step::DONE] {
        for steps in 0..8 {
            let mut world = World::new();
            world.start();
            assert!(world.run_until(|world| count(world, answer) == 1));
            for _ in 0..steps {
                world.step();
            }
            world.reboot();
            world.run();
            if world.meter.events.last() == Some(&Event::Operating { confirmed: false }) {
                let arrived = world.entry().state == DeviceState::Operating;
                let word = if arrived { Input::TerminusAccepted } else { Input::TerminusRefused };
                world.meter.device.handle(world.now, word).expect("operating");
                world.run();
            }
            assert!(world.is_confirmed(), "{answer:?} and {steps} steps: {:?}", world.meter.events);
            assert_eq!(world.owner_refusals(), [], "{answer:?} and {steps} steps");
            assert_eq!(world.meter.description().permanent & 5, 5);
            assert_eq!(world.entry().state, DeviceState::Operating);
        }
    }
}

#[test]
fn a_flood_of_hellos_does_not_push_a_proven_session_out() {
    let mut world = World::new();
    world.start();
    assert!(world.run_until(|world| count(world, Step::COMMANDS) == 1));
    let (_, hello) = world.sent.iter().find(|(leg, _)| *leg == Leg::Session(Step::HELLO)).unwrap().clone();
    let proven = sid_of(&hello);
    let mut flooded = Vec::new();
    for number in 0..10 {
        // Somebody with the label: fresh M, sealed as it must be.
        let flood = world.spy.fresh_hello(&hello, number);
        flooded.push(sid_of(&flood));
        assert!(world.ask_relay(flood).is_some());
        assert!(world.entry().sessions.contains(&proven), "after {number}");
        assert!(world.entry().sessions.len() <= 5);
    }
    assert_eq!(world.entry().sessions[1..], flooded[6..], "the oldest unproven ones went");
    world.run();
    assert!(world.is_confirmed());
}

#[test]
fn onboarding_7_7_a_source_begins_twelve_sessions_of_a_device_in_an_hour() {
    let mut world = World::new();
    world.start();
    assert!(world.run_until(|world| count(world, Step::COMMANDS) == 1));
    let (_, hello) = world.sent.iter().find(|(leg, _)| *leg == Leg::Session(Step::HELLO)).unwrap().clone();
    let challenges = |world: &World| world.key_requests.iter().filter(|of| **of == "challenge").count();
    let before = challenges(&world);
    for number in 0..12 {
        let hello = world.spy.fresh_hello(&hello, number);
        assert_eq!(straight(&mut world, &hello).1, None, "{number}");
    }
    let more = world.spy.fresh_hello(&hello, 12);
    assert_eq!(straight(&mut world, &more), (None, Some(Code::Busy)));
    assert_eq!(challenges(&world), before + 12, "public-key work for one too many");
    // The device itself, behind another address, goes on; and an hour later so may the other.
    let item = RelayItem { id: 7, source: N16([7; 16]), message: more.clone() };
    assert!(matches!(world.work(vec![item])[..], [(7, Some(_))]));
    world.now = Tick(world.now.0 + 3_600_000);
    let later = world.spy.fresh_hello(&hello, 13);
    assert_eq!(straight(&mut world, &later).1, None);
}

#[test]
fn a_proven_session_replaces_a_proven_one() {
    let mut world = World::new();
    world.start();
    assert!(world.run_until(|world| count(world, Step::COMMANDS) == 1));
    let (_, hello) = world.sent.iter().find(|(leg, _)| *leg == Leg::Session(Step::HELLO)).unwrap().clone();
    world.reboot();
    assert!(world.run_until(|world| count(world, Step::COMMANDS) == 2));
    let sessions = world.entry().sessions;
    assert_eq!(sessions.len(), 1);
    assert_ne!(sessions[0], sid_of(&hello));
    let before = world.owner_state();
    assert_eq!(straight(&mut world, &hello), (None, Some(Code::Nonce)), "the hello of a replaced session");
    assert_eq!(world.owner_state(), before);
    world.run();
    assert!(world.is_confirmed());
}

#[test]
fn a_device_that_operates_begins_no_session() {
    let mut world = World::new();
    world.start();
    world.run();
    let (_, hello) = world.sent.iter().find(|(leg, _)| *leg == Leg::Session(Step::HELLO)).unwrap().clone();
    let again = world.spy.fresh_hello(&hello, 1);
    let before = world.owner_state();
    assert!(world.ask_relay(again).is_some());
    assert_eq!(world.owner_refusals(), [Code::State]);
    assert_eq!(world.owner_state(), before);
}

#[test]
fn the_quarantine_of_one_session_stops_the_others_of_that_device() {
    let mut world = World::new();
    world.start();
    assert!(world.run_until(|world| count(world, Step::PROVISION) == 1));
    // A clone with the device's secrets shows bad evidence in a session of its own, while the device installs.
    world.change_entry(|entry| entry.state = DeviceState::Quarantined);
    assert!(world.run_until(|world| !world.owner_refusals().is_empty()));
    assert_eq!(world.owner_refusals(), [Code::State]);
    assert_eq!(world.entry().state, DeviceState::Quarantined);
    assert!(!world.key_requests.contains(&"finish"));
}

#[test]
fn a_quarantine_while_the_key_service_works_keeps_the_device_out() {
    for (request, step) in
        [("own", Step::EVIDENCE), ("provision", Step::RESPONSES), ("finish", Step::INSTALLED)]
    {
        let mut world = World::new();
        world.meanwhile(request, |entry| entry.state = DeviceState::Quarantined);
        world.start();
        assert!(world.run_until(|world| !world.owner_refusals().is_empty()), "{request}");
        assert_eq!(world.owner_refusals(), [Code::State], "{request}");
        assert_eq!(world.entry().state, DeviceState::Quarantined, "{request}");
        assert_eq!(world.admissions, [], "{request}");
        assert_eq!(world.sent.iter().filter(|(leg, _)| *leg == Leg::Session(step)).count(), 1);
    }
}

#[test]
fn the_key_service_lets_no_session_lift_a_quarantine() {
    for (answer, request) in [(Step::CHALLENGE, "own"), (Step::PROVISION, "finish")] {
        let mut world = World::new();
        world.start();
        assert!(world.run_until(|world| count(world, answer) == 1));
        let device = world.device_name();
        let quarantine =
            KeyRequest::SetState { device, state: DeviceState::Quarantined, attested_at: UtcTime(0) };
        assert!(matches!(world.ask_keys(quarantine), KeyReply::Done));
        assert!(world.run_until(|world| !world.owner_refusals().is_empty()));
        assert_eq!((world.owner_refusals(), world.key_requests.last()), (vec![Code::State], Some(&request)));
    }
}
