//! Every byte of every message, flipped on its way: who gets it refuses it, nothing changes on either side, and with the
//! right message the onboarding, or the order, ends well.
//!
//! Every tenth byte or so by default, from GRIDSEAL_FIRST_SEED on; all of them with GRIDSEAL_SEEDS set.

use gridseal_onboarding::endpoint_manager::{
    EndpointManager,
    orders::{self, Job},
    register::{Shipped, outbox},
};
use gridseal_trust::enrol::{
    device::{Event, Input},
    init::is_challenge,
    session::{Step, encode_error},
};
use gridseal_types::{
    Code,
    records::{Commit, MemoryRecords},
    service::keys::KeyReply,
};

use crate::{
    device::flipped,
    support::{
        Leg, Touched, World,
        factory::{Factory, Owner},
        straight,
    },
};

/// Places in a message of this length, one of so many.
#[expect(
    clippy::disallowed_methods,
    reason = "a longer run says that it wants every place, a replay where to begin"
)]
fn places(length: usize, one_of: usize) -> impl Iterator<Item = usize> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let one_of = if number("GRIDSEAL_SEEDS").is_some() { 1 } else { one_of };
    (number("GRIDSEAL_FIRST_SEED").unwrap_or(0) % one_of..length).step_by(one_of)
}

fn last(world: &World, leg: Leg) -> Vec<u8> {
    let found = world.sent.iter().rev().find(|(at, _)| *at == leg);
    found.unwrap_or_else(|| panic!("{leg:?} was never sent")).1.clone()
}

/// A world in which this message was sent for the first time, and has not arrived.
fn not_arrived(leg: Leg) -> (World, Vec<u8>) {
    let mut world = World::new();
    world.lose(leg);
    world.start();
    assert!(world.run_until(|world| !world.untouched()), "{leg:?}");
    let wire = last(&world, leg);
    (world, wire)
}

#[test]
fn s5_the_owners_side_refuses_each_flip_of_a_devices_message() {
    for step in [Step::HELLO, Step::EVIDENCE, Step::RESPONSES, Step::INSTALLED] {
        let (mut world, wire) = not_arrived(Leg::Session(step));
        let before = world.owner_state();
        for at in places(wire.len(), 5) {
            let (reply, code) = straight(&mut world, &flipped(&wire, at));
            assert!(reply.is_none() && code.is_some(), "{step:?}, byte {at}: {reply:?}, {code:?}");
            assert_eq!(world.owner_state(), before, "{step:?}, byte {at}");
        }
        world.run();
        assert!(world.is_confirmed(), "{step:?}: {:?}", world.meter.events);
    }
}

#[test]
fn s5_the_init_server_changes_nothing_for_a_flip_of_a_devices_message() {
    let uniform = encode_error(&[0; 16], Code::Refused, 0);
    for leg in [Leg::InitHello, Leg::InitProof] {
        let (mut world, wire) = not_arrived(leg);
        let before = world.init_records.clone();
        for at in places(wire.len(), 3) {
            let reply = world.ask_init(&flipped(&wire, at));
            // Nobody has authenticated I1: a challenge for another exchange, or another TPM, is no secret.
            let is_other = leg == Leg::InitHello && is_challenge(&reply);
            assert!(reply == uniform || is_other, "{leg:?}, byte {at}");
            assert!(world.init_records == before, "{leg:?}, byte {at}");
        }
        world.run();
        assert!(world.is_confirmed(), "{leg:?}: {:?}", world.meter.events);
    }
}

/// How often the device has refused an answer, let its root refuse it, or taken it for the error that nobody signs.
fn refusals(world: &World) -> usize {
    let is_one =
        |event: &&Event| matches!(event, Event::Refused(_) | Event::Unanswered | Event::RootFailed(_));
    world.meter.events.iter().filter(is_one).count()
}

/// Flips bytes of one kind of answer, two in each of a device's sessions and a loss that ends it, for as long as sessions
/// begin anew by themselves; then in a new world.
fn device_refuses(leg: Leg, one_of: usize) {
    let (_, wire) = not_arrived(leg);
    let mut all = places(wire.len(), one_of).peekable();
    while all.peek().is_some() {
        let mut world = World::new();
        world.manager = EndpointManager::new(Owner::new(1).rules()).with_hellos_per_hour(1_000_000);
        world.start();
        while all.peek().is_some() {
            let mut is_alive = true;
            for at in all.by_ref().take(2) {
                let seen = refusals(&world);
                // Another session's message may be a byte or two shorter.
                world.touch(leg, move |_, wire| Touched::Replaced(flipped(wire, at.min(wire.len() - 1))));
                is_alive = world.run_until(|world| !world.untouched() && refusals(world) > seen);
                assert!(is_alive, "{leg:?}, byte {at} was accepted: {:?}", world.meter.events);
                let before = world.before.take().expect("asked");
                assert_eq!(world.meter_state(), before.meter, "{leg:?}, byte {at}: something changed");
            }
            // No session begins anew after the last message, and few challenges are answered in an hour.
            if [Leg::InitChallenge, Leg::Session(Step::DONE)].contains(&leg) {
                break;
            }
            world.lose(leg);
            is_alive &= world.run_until(|world| !world.untouched());
            assert!(is_alive, "{leg:?}: {:?}", world.meter.events);
        }
        world.run();
        assert!(world.is_confirmed(), "{leg:?}: {:?}", world.meter.events);
    }
}

#[test]
fn s5_a_device_refuses_each_flip_of_an_init_servers_answer() {
    device_refuses(Leg::InitChallenge, 11);
    device_refuses(Leg::InitRedirect, 101);
}

#[test]
fn s5_a_device_refuses_each_flip_of_its_owners_answer() {
    for step in [Step::CHALLENGE, Step::COMMANDS, Step::PROVISION, Step::DONE] {
        device_refuses(Leg::Session(step), 29);
    }
}

fn order(world: &mut World, job: Job) {
    let keys = [Factory::new().voucher_key()];
    let (device, now) = (world.device_name(), world.utc());
    let (writes, decided) = orders::request(&world.register, now, &device, job, ("test", &keys)).unwrap();
    world.register.commit(writes).unwrap();
    decided.unwrap();
}

fn fetch(world: &mut World) {
    world.meter.device.handle(world.now, Input::FetchOrders).expect("operating");
    world.run();
}

#[test]
fn s5_each_flip_of_a_question_an_order_and_a_result_is_refused() {
    let mut world = World::new();
    world.start();
    world.run();
    order(&mut world, Job::Rotate);
    for leg in [Leg::Poll, Leg::Result] {
        // Two ways lead to the owner.
        world.lose(leg);
        world.lose(leg);
        fetch(&mut world);
        let wire = last(&world, leg);
        let before = world.owner_state();
        for at in places(wire.len(), 3) {
            let (reply, _) = straight(&mut world, &flipped(&wire, at));
            assert!(reply.is_none(), "{leg:?}, byte {at}: {reply:?}");
            assert_eq!(world.owner_state(), before, "{leg:?}, byte {at}");
        }
        if leg == Leg::Poll {
            let wire = {
                world.lose(Leg::Order);
                world.lose(Leg::Order);
                fetch(&mut world);
                last(&world, Leg::Order)
            };
            for at in places(wire.len(), 7) {
                let before = world.meter_state();
                world.replace(Leg::Order, move |_, wire| flipped(wire, at));
                fetch(&mut world);
                assert!(!world.untouched(), "byte {at}");
                assert_eq!(world.meter_state(), before, "order, byte {at}");
            }
        }
    }
    fetch(&mut world);
    assert_eq!(world.entry().policy_version, 2, "{:?}", world.register_events);
}

#[test]
fn s5_no_flip_of_a_devices_papers_is_believed() {
    let world = World::new();
    let rules = Owner::new(1).registration_rules(&Factory::new());
    let made = &world.made;
    for at in places(made.manifest.len(), 5) {
        assert!(Shipped::check(&rules, &flipped(&made.manifest, at), &made.voucher).is_err(), "byte {at}");
    }
    for at in places(made.voucher.len(), 31) {
        assert!(Shipped::check(&rules, &made.manifest, &flipped(&made.voucher, at)).is_err(), "byte {at}");
    }
    let delivery = made.delivery.clone();
    let mut world = World::new();
    let shipped = Shipped::check(&rules, &made.manifest, &made.voucher).unwrap();
    let before = world.owner_state();
    for at in places(delivery.len(), 5) {
        let reply = world.ask_keys(shipped.deliver(flipped(&delivery, at)));
        assert!(matches!(reply, KeyReply::Refused { .. }), "byte {at}: {reply:?}");
        assert_eq!(world.owner_state(), before, "byte {at}");
    }
}

#[test]
fn s5_the_init_server_takes_no_flipped_registration() {
    let world = World::new();
    let mut register = MemoryRecords::default();
    let rules = Owner::new(1).registration_rules(&Factory::new());
    let shipped = Shipped::check(&rules, &world.made.manifest, &world.made.voucher).unwrap();
    let payload = shipped.redirect(&rules, world.utc(), 7);
    let redirect = gridseal_trust::enrol::cose::sign(
        &Owner::new(1).signing,
        gridseal_trust::enrol::cose::SignedType::Redirect,
        &payload,
    );
    let signed = gridseal_trust::enrol::init::SignedRedirect {
        redirect: redirect.unwrap(),
        delegation: None,
        voucher: world.made.voucher.clone(),
    };
    let writes = shipped.enter(&register, world.utc(), &payload, signed).unwrap();
    register.commit(writes).unwrap();
    let (pending, _) = outbox(&register, &[], 10).unwrap();
    let (_, wire) = &pending.registrations[0];
    let answer = |wire: &[u8]| world.init.answer(&MemoryRecords::default(), world.utc(), wire).unwrap();
    assert!(!answer(wire).writes.is_empty());
    for at in places(wire.len(), 53) {
        let refused = answer(&flipped(wire, at));
        assert!(refused.writes.is_empty() && refused.refused.is_some(), "byte {at}");
    }
}
