//! Rule S14: whose clock is wrong, by how much and from when on makes no difference to who is believed.
//!
//! A device has no calendar clock at all: only the floor, which its owner has signed. So what is wrong here is the clock of
//! a server: back at 1970, an hour slow, ten years fast; from the start, or stepping after a message. What it then refuses
//! has the code `E_TIME`; once it is right, everything goes on.

use gridseal_trust::enrol::{device::Input, session::Step};
use gridseal_types::{Code, DeviceState, service::keys::OpenVerdict};

use crate::{
    orders::fetch,
    support::{Leg, Party, START, World},
};

const PARTIES: [Party; 4] = [Party::Init, Party::Manager, Party::Keys, Party::Authority];
const YEAR_S: i64 = 365 * 86_400;
/// After which message the clock steps; `None` when it is wrong from the start.
const MOMENTS: [Option<Leg>; 6] = [
    None,
    Some(Leg::InitChallenge),
    Some(Leg::Session(Step::HELLO)),
    Some(Leg::Session(Step::EVIDENCE)),
    Some(Leg::Session(Step::RESPONSES)),
    Some(Leg::Session(Step::INSTALLED)),
];
/// Things that the device asks for while the clock is wrong, when it does not come to operate.
const STEPS: usize = 200;

/// An onboarding under a clock that becomes wrong after a message, which is lost, for as long as it goes on.
fn run_wrong(party: Party, shift: i64, moment: Option<Leg>) -> World {
    let mut world = World::new();
    let wrong = Some((party, shift));
    match moment {
        None => {
            world.wrong_clock = wrong;
            world.start();
        }
        Some(leg) => {
            world.lose(leg);
            world.start();
            world.run_until(|world| !world.untouched());
            world.wrong_clock = wrong;
        }
    }
    let mut steps = 0;
    while steps < STEPS && world.step() {
        steps += 1;
    }
    world
}

#[test]
fn s14_whose_clock_is_wrong_decides_nothing_and_strands_nobody() {
    for party in PARTIES {
        for shift in [-(START.0 as i64), -3_600, 10 * YEAR_S] {
            for moment in MOMENTS {
                let case = format!("{party:?} {shift} s from {moment:?} on");
                let mut world = run_wrong(party, shift, moment);
                let seen = world.owner_refusals();
                // Sessions that begin again and again meet the limit of an hour, whichever hour it is.
                let is_fit = |code: &Code| matches!(code, Code::Time | Code::Busy);
                assert!(seen.iter().all(is_fit), "{case}: {seen:?}");
                // A device that asks the init server again and again answers few of its challenges in an hour.
                let heard = world.device_refusals();
                assert!(heard.iter().all(|code| *code == Code::Busy), "{case}: {heard:?}");
                let state = world.entry().state;
                assert_ne!(state, DeviceState::Quarantined, "{case}");
                assert_eq!(state == DeviceState::Operating, world.is_confirmed(), "{case}: {seen:?}");
                if shift == -3_600 || party == Party::Init {
                    assert!(world.is_confirmed(), "{case}: {seen:?}");
                }

                world.wrong_clock = None;
                if !world.is_confirmed() {
                    world.run();
                }
                if !world.is_confirmed() {
                    // It gave up on its last word; the terminus tells.
                    world.meter.device.handle(world.now, Input::TerminusRefused).expect("operating");
                    world.run();
                }
                assert!(world.is_confirmed(), "{case}: {:?}", world.meter.events);
                // The floor never falls: it must not have run ahead.
                assert!(world.meter.record().floor <= world.utc(), "{case}");
                // An attestation with a wrong time is made good by the next one, which the calendar wants at once.
                for _ in 0..2 {
                    fetch(&mut world);
                }
                let apdu = world.seal_apdu(1, b"reading");
                let opened = world.open_apdu(&apdu);
                assert!(matches!(opened, OpenVerdict::Fresh { .. }), "{case}: {opened:?}");
                let entry = world.entry();
                assert_eq!((entry.state, entry.quarantine), (DeviceState::Operating, None), "{case}");
                assert!(entry.attested_at <= world.utc(), "{case}: {:?}", entry.attested_at);
            }
        }
    }
}

#[test]
fn s13_an_attestation_from_the_future_opens_nothing() {
    let mut world = World::new();
    world.start();
    world.run();
    world.wrong_clock = Some((Party::Keys, -2 * 86_400));
    let apdu = world.seal_apdu(1, b"reading");
    assert!(!matches!(world.open_apdu(&apdu), OpenVerdict::Fresh { .. }), "its clock says it is yet to come");
    world.wrong_clock = None;
    assert!(matches!(world.open_apdu(&apdu), OpenVerdict::Fresh { .. }));
}
