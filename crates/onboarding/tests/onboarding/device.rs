//! What the device refuses, check by check (onboarding specification, section 7.2). Each row changes one message, lets it
//! be signed and sealed again where the check lies behind that, and names the code.

use gridseal_crypto::{
    Key, SecondSigner, Signer, SigningKey,
    role::{InitSigning, OwnerSigning, VoucherSecond},
};
use gridseal_trust::{
    enrol::{
        cose::{Sign1, SignedType, sign},
        device::Event,
        document::{Header, Redirect},
        session::Step,
        voucher::Voucher,
    },
    root::{DeviceRoot, OwnerPin, RootRequest},
    tpm,
};
use gridseal_types::{Code, Digest, EkName, Epoch, Nonce, UtcTime};

use crate::support::{
    Leg, START, World,
    factory::{Factory, Owner},
    signing_key,
    spy::{Spy, open_init_redirect},
};

pub(crate) type Change = fn(&Spy, &[u8]) -> Vec<u8>;

const CHALLENGE: Leg = Leg::Session(Step::CHALLENGE);
const COMMANDS: Leg = Leg::Session(Step::COMMANDS);
const PROVISION: Leg = Leg::Session(Step::PROVISION);
const DONE: Leg = Leg::Session(Step::DONE);

fn stranger() -> SigningKey<OwnerSigning> {
    signing_key("stranger")
}

pub(crate) fn flipped(wire: &[u8], at: usize) -> Vec<u8> {
    let mut wire = wire.to_vec();
    wire[at] ^= 1;
    wire
}

fn last_flipped(_: &Spy, wire: &[u8]) -> Vec<u8> {
    flipped(wire, wire.len() - 1)
}

/// Changes one message to a device: it refuses with the code, nothing is different from when it asked, and when it asks
/// again the right answer is taken and the onboarding ends well.
fn refuses(leg: Leg, rows: &[(&str, Code, Change)]) {
    for (name, code, change) in rows {
        let mut world = World::new();
        world.replace(leg, *change);
        world.start();
        let refused = world.run_until(|world| !world.device_refusals().is_empty());
        assert!(refused, "{name}: accepted, {:?}", world.meter.events);
        assert_eq!(world.device_refusals(), [*code], "{name}");
        let before = world.before.take().expect("asked");
        assert_eq!(world.meter_state(), before.meter, "{name}: something changed");
        world.run();
        assert!(world.is_confirmed(), "{name}: {:?}", world.meter.events);
        assert_eq!(world.device_refusals(), [*code], "{name}");
        assert_eq!(world.owner_refusals(), [], "{name}");
    }
}

/// As [`refuses`], for a device that is prepared so that it can never accept.
fn never_accepts(world: &mut World, leg: Leg, code: Code) {
    world.start();
    assert!(world.run_until(|world| !world.device_refusals().is_empty()), "{:?}", world.meter.events);
    assert_eq!(world.device_refusals(), [code]);
    assert_eq!(world.sent.last().map(|(leg, _)| *leg), Some(leg));
    let before = world.before.take().expect("asked");
    assert_eq!(world.meter_state(), before.meter, "something changed");
}

fn redirect(spy: &Spy, change: impl FnOnce(&mut Redirect)) -> Vec<u8> {
    let mut redirect = Redirect {
        ek_name: EkName([0; 34]),
        epoch: 1,
        urls: vec!["https://config.example:8443".into()],
        pins: vec![Digest([3; 32])],
        not_before: START,
        expires: UtcTime(START.0 + 1_000),
        seq: 9,
    };
    change(&mut redirect);
    sign(&spy.owner.signing, SignedType::Redirect, &redirect.encode()).unwrap()
}

/// I2 with another redirect, signed by the owner key itself.
fn redirected(spy: &Spy, wire: &[u8], change: impl FnOnce(&mut Redirect)) -> Vec<u8> {
    spy.init_redirect(wire, |payload| {
        let own = payload.ek_name;
        payload.signed.delegation = None;
        payload.signed.redirect = redirect(spy, |redirect| {
            redirect.ek_name = own;
            change(redirect);
        });
    })
}

fn header_of(voucher: &Voucher) -> Header {
    Header::decode(Sign1::decode(&voucher.header).unwrap().payload).unwrap()
}

/// The same device sold to the same owner by another manufacturer.
fn reissued(factory: &Factory, voucher: &Voucher, owner: &Owner) -> Voucher {
    factory.sell(factory.header_for(header_of(voucher)), owner)
}

/// As who can forge P-256 but not the second signature would have it.
fn without_second(factory: &Factory, voucher: &Voucher, owner: &Owner) -> Voucher {
    let none = None::<&SecondSigner<VoucherSecond>>;
    let mut voucher = Voucher::issue(header_of(voucher), &factory.voucher, none).unwrap();
    voucher.extend(factory.first_entry(owner), &factory.voucher, none).unwrap();
    voucher
}

fn voucher_changed(spy: &Spy, wire: &[u8], change: impl FnOnce(&mut Voucher)) -> Vec<u8> {
    spy.init_redirect(wire, |payload| {
        let mut voucher = Voucher::decode(&payload.signed.voucher).unwrap();
        change(&mut voucher);
        payload.signed.voucher = voucher.encode();
    })
}

#[test]
fn an_answer_of_an_init_server_is_checked_in_every_part() {
    refuses(
        Leg::InitRedirect,
        &[
            ("another init server's key", Code::RedirectSig, |spy, wire| {
                let (m, payload) = open_init_redirect(wire);
                spy.sign_init_redirect(&signing_key::<InitSigning>("rogue"), &m, &payload)
            }),
            ("signature changed", Code::RedirectSig, last_flipped),
            ("m of another exchange", Code::Nonce, |spy, wire| {
                spy.init_redirect(wire, |payload| payload.m = Nonce([5; 32]))
            }),
            ("m of another envelope", Code::Nonce, |_, wire| flipped(wire, 5)),
            ("another device", Code::RedirectSig, |spy, wire| {
                spy.init_redirect(wire, |payload| payload.ek_name.0[33] ^= 1)
            }),
            ("another device's whole answer", Code::RedirectSig, |spy, wire| {
                let other = Factory::new().make("GS-0000002", &spy.owner);
                spy.init_redirect(wire, |payload| {
                    payload.ek_name = other.ek_name;
                    payload.signed.delegation = None;
                    payload.signed.redirect = redirect(spy, |redirect| redirect.ek_name = other.ek_name);
                    payload.signed.voucher = other.voucher;
                })
            }),
            ("another suite", Code::Suite, |spy, wire| spy.init_redirect(wire, |payload| payload.suite = 2)),
            ("voucher entry changed", Code::Voucher, |spy, wire| {
                voucher_changed(spy, wire, |voucher| *voucher.entries[0].last_mut().unwrap() ^= 1)
            }),
            ("voucher header changed", Code::Voucher, |spy, wire| {
                voucher_changed(spy, wire, |voucher| *voucher.header.last_mut().unwrap() ^= 1)
            }),
            ("voucher without an owner", Code::Voucher, |spy, wire| {
                voucher_changed(spy, wire, |voucher| voucher.entries.clear())
            }),
            ("voucher entry twice", Code::Voucher, |spy, wire| {
                voucher_changed(spy, wire, |voucher| voucher.entries.push(voucher.entries[0].clone()))
            }),
            ("voucher of another vendor", Code::Voucher, |spy, wire| {
                let factory = Factory { voucher: signing_key("another vendor"), ..Factory::new() };
                voucher_changed(spy, wire, |voucher| *voucher = reissued(&factory, voucher, &spy.owner))
            }),
            ("voucher of the vendor's key without the second one", Code::Voucher, |spy, wire| {
                voucher_changed(spy, wire, |voucher| {
                    voucher.second.clear();
                    *voucher = without_second(&Factory::new(), voucher, &spy.owner);
                })
            }),
            ("voucher with the second key of another", Code::Voucher, |spy, wire| {
                let second = SecondSigner::new(&Key::take(&mut [7; 32])).unwrap();
                let factory = Factory { second, ..Factory::new() };
                voucher_changed(spy, wire, |voucher| *voucher = reissued(&factory, voucher, &spy.owner))
            }),
            ("voucher without its second signatures", Code::Voucher, |spy, wire| {
                voucher_changed(spy, wire, |voucher| voucher.second.clear())
            }),
            ("second signature changed", Code::Voucher, |spy, wire| {
                voucher_changed(spy, wire, |voucher| *voucher.second[1].last_mut().unwrap() ^= 1)
            }),
            ("redirect by a stranger", Code::RedirectSig, |spy, wire| {
                spy.init_redirect(wire, |payload| {
                    let redirect = Sign1::decode(&payload.signed.redirect).unwrap().payload.to_vec();
                    payload.signed.redirect = sign(&stranger(), SignedType::Redirect, &redirect).unwrap();
                })
            }),
            ("delegate without the use", Code::RedirectSig, |spy, wire| {
                spy.init_redirect(wire, |payload| {
                    let key = spy.owner.config_key().public();
                    payload.signed.delegation = Some(spy.owner.delegation(key, 1, 1));
                })
            }),
            ("delegate's redirect without its delegation", Code::RedirectSig, |spy, wire| {
                spy.init_redirect(wire, |payload| payload.signed.delegation = None)
            }),
            ("redirect of another type", Code::RedirectSig, |spy, wire| {
                spy.init_redirect(wire, |payload| {
                    let redirect = Sign1::decode(&payload.signed.redirect).unwrap().payload.to_vec();
                    payload.signed.delegation = None;
                    payload.signed.redirect = sign(&spy.owner.signing, SignedType::C2, &redirect).unwrap();
                })
            }),
            ("redirect of another device", Code::RedirectSig, |spy, wire| {
                redirected(spy, wire, |redirect| redirect.ek_name.0[33] ^= 1)
            }),
            ("redirect of another epoch", Code::RedirectSig, |spy, wire| {
                redirected(spy, wire, |redirect| redirect.epoch = 2)
            }),
            ("trailing byte", Code::Format, |_, wire| [wire, &[0]].concat()),
            ("cut short", Code::Format, |_, wire| wire[..wire.len() - 1].to_vec()),
            ("nothing", Code::Format, |_, _| Vec::new()),
            ("not deterministic", Code::Format, |_, wire| [&[0x98, 4], &wire[1..]].concat()),
            ("too large", Code::Size, |_, _| vec![0; 64 * 1024 + 1]),
        ],
    );
}

#[test]
fn a_voucher_that_ends_before_the_devices_epoch_is_refused() {
    let mut world = World::with(|made, _| {
        for _ in 0..2 {
            made.root.perform(RootRequest::RaiseEpoch).unwrap();
        }
    });
    never_accepts(&mut world, Leg::InitRedirect, Code::EpochMismatch);
}

#[test]
fn a_voucher_without_the_pinned_entry_is_refused() {
    for pin in [
        OwnerPin { index: 1, generation: 0, entry: Digest([8; 32]) },
        OwnerPin { index: 2, generation: 0, entry: Digest([8; 32]) },
    ] {
        let mut world = World::with(|made, _| drop(made.root.perform(RootRequest::WritePin(pin)).unwrap()));
        never_accepts(&mut world, Leg::InitRedirect, Code::Pin);
    }
}

#[test]
fn an_older_redirect_of_the_same_epoch_is_refused_and_another_epoch_does_not_count() {
    let mut world = World::with(|_, record| record.redirect_seq = Some((1, 2)));
    never_accepts(&mut world, Leg::InitRedirect, Code::Rollback);
    for accepted in [(1, 1), (0, 9)] {
        let mut world = World::with(|_, record| record.redirect_seq = Some(accepted));
        world.start();
        world.run();
        assert!(world.is_confirmed());
    }
}

#[test]
fn a_redirect_that_ended_before_the_floor_clock_is_refused() {
    let mut world = World::with(|_, record| record.floor = UtcTime(START.0 + 366 * 86_400));
    never_accepts(&mut world, Leg::InitRedirect, Code::Time);
}

#[test]
fn the_uniform_error_only_makes_the_device_wait() {
    for leg in [Leg::InitRedirect, CHALLENGE, COMMANDS, PROVISION, DONE] {
        let mut world = World::new();
        world.replace(leg, |_, _| gridseal_trust::enrol::session::encode_error(&[0; 16], Code::Busy, 86_400));
        world.start();
        assert!(world.run_until(|world| world.meter.events.contains(&Event::Unanswered)));
        let before = world.before.take().expect("asked");
        assert_eq!(world.meter_state(), before.meter);
        world.run();
        assert!(world.is_confirmed(), "{leg:?}");
        assert_eq!(world.device_refusals(), []);
    }
}

#[test]
fn a_challenge_is_checked_in_every_part_before_the_tpm_hears_of_it() {
    refuses(
        CHALLENGE,
        &[
            ("another session", Code::Nonce, |_, wire| flipped(wire, 5)),
            ("another fresh value", Code::Grant, |_, wire| flipped(wire, 30)),
            ("seal", Code::Grant, last_flipped),
            ("grant", Code::Grant, |spy, wire| spy.challenge_body(wire, |body| body.grant.0[0] ^= 1)),
            ("delegation by a stranger", Code::ConfigChain, |spy, wire| {
                spy.challenge_body(wire, |body| {
                    let delegation = Sign1::decode(&body.delegation).unwrap().payload.to_vec();
                    body.delegation = sign(&stranger(), SignedType::Delegation, &delegation).unwrap();
                })
            }),
            ("delegation without the use", Code::ConfigChain, |spy, wire| {
                let delegation = spy.owner.delegation(spy.owner.config_key().public(), 2, 1);
                spy.challenge_body(wire, |body| body.delegation = delegation)
            }),
            ("delegation to another key", Code::ConfigChain, |spy, wire| {
                let delegation = spy.owner.delegation(stranger().public(), 3, 1);
                spy.challenge_body(wire, |body| body.delegation = delegation)
            }),
            ("signature", Code::ConfigChain, |spy, wire| {
                spy.challenge_body(wire, |body| *body.signed.last_mut().unwrap() ^= 1)
            }),
            ("signed by another key", Code::ConfigChain, |spy, wire| {
                spy.challenge_body(wire, |body| {
                    let payload = Sign1::decode(&body.signed).unwrap().payload.to_vec();
                    body.signed = sign(&stranger(), SignedType::C2, &payload).unwrap();
                })
            }),
            ("signed as another type", Code::ConfigChain, |spy, wire| {
                spy.challenge_body(wire, |body| {
                    let payload = Sign1::decode(&body.signed).unwrap().payload.to_vec();
                    body.signed = sign(&spy.owner.config_key(), SignedType::C4, &payload).unwrap();
                })
            }),
            ("epoch", Code::EpochMismatch, |spy, wire| spy.challenge(wire, |payload| payload.epoch = 2)),
            ("suites", Code::Suite, |spy, wire| spy.challenge(wire, |payload| payload.suites = vec![1, 2])),
            ("suite", Code::Suite, |spy, wire| spy.challenge(wire, |payload| payload.suite = 2)),
            ("M", Code::Nonce, |spy, wire| spy.challenge(wire, |payload| payload.m.0[0] ^= 1)),
            ("M_em", Code::Nonce, |spy, wire| spy.challenge(wire, |payload| payload.m_em.0[0] ^= 1)),
            ("th1", Code::Transcript, |spy, wire| spy.challenge(wire, |payload| payload.th1.0[0] ^= 1)),
            ("device", Code::Transcript, |spy, wire| {
                spy.challenge(wire, |payload| payload.ek_name.0[9] ^= 1)
            }),
            ("voucher head", Code::Transcript, |spy, wire| {
                spy.challenge(wire, |payload| payload.voucher_head.0[0] ^= 1)
            }),
            ("body with a trailing byte", Code::Format, |spy, wire| {
                spy.with_body(wire, &[spy.opened(wire).as_slice(), &[0]].concat())
            }),
            ("trailing byte", Code::Format, |_, wire| [wire, &[0]].concat()),
            ("cut short", Code::Format, |_, wire| wire[..wire.len() - 1].to_vec()),
            ("not deterministic", Code::Format, |_, wire| [&[0x98, 5], &wire[1..]].concat()),
            ("too large", Code::Size, |_, _| vec![0; 64 * 1024 + 1]),
        ],
    );
}

fn pinned(generation: u32, epoch: Epoch) -> World {
    World::with(|made, _| {
        let voucher =
            Voucher::decode(&made.voucher).unwrap().verify(&[Factory::new().voucher_key()]).unwrap();
        let pin = OwnerPin { index: 1, generation, entry: voucher.head() };
        made.root.perform(RootRequest::WritePin(pin)).unwrap();
        for _ in 0..epoch {
            made.root.perform(RootRequest::RaiseEpoch).unwrap();
        }
    })
}

#[test]
fn a_delegation_below_the_generation_that_the_device_has_seen_is_refused() {
    never_accepts(&mut pinned(2, 1), CHALLENGE, Code::ConfigChain);
    // A crash between pin and counter is completed by the next challenge.
    for (generation, epoch) in [(1, 0), (1, 1), (0, 1)] {
        let mut world = pinned(generation, epoch);
        world.start();
        world.run();
        assert!(world.is_confirmed());
        let description = world.meter.description();
        assert_eq!((description.epoch, description.pin.unwrap().generation), (1, 1));
    }
}

#[test]
fn a_delegation_that_ended_before_the_floor_clock_is_refused() {
    let mut world = World::with(|_, record| record.floor = START);
    world.replace(CHALLENGE, |spy, wire| {
        let delegation =
            spy.owner.delegation_until(spy.owner.config_key().public(), 3, 1, UtcTime(START.0 - 1));
        spy.challenge_body(wire, |body| body.delegation = delegation)
    });
    world.start();
    world.run();
    assert_eq!(world.device_refusals(), [Code::ConfigChain]);
    assert!(world.is_confirmed());
}

#[test]
fn ownership_commands_are_checked_in_every_part_before_the_tpm_runs_one() {
    refuses(
        COMMANDS,
        &[
            ("another session", Code::Nonce, |_, wire| flipped(wire, 5)),
            ("another message number", Code::Nonce, |_, wire| {
                let mut wire = wire.to_vec();
                wire[2] = 6;
                wire
            }),
            ("seal", Code::Grant, last_flipped),
            ("signed by another key", Code::ConfigChain, |spy, wire| {
                spy.with_payload_by(&stranger(), wire, SignedType::C4, &spy.payload(wire))
            }),
            ("signed as another type", Code::ConfigChain, |spy, wire| {
                spy.with_payload(wire, SignedType::C6, &spy.payload(wire))
            }),
            ("th3", Code::Transcript, |spy, wire| spy.own(wire, |own| own.th3.0[0] ^= 1)),
            ("TPM2_Clear", Code::Command, |spy, wire| spy.own(wire, |own| command_code(own, 0x126))),
            ("TPM2_ClearControl", Code::Command, |spy, wire| spy.own(wire, |own| command_code(own, 0x127))),
            ("TPM2_EvictControl", Code::Command, |spy, wire| spy.own(wire, |own| command_code(own, 0x120))),
            ("a password instead of a session", Code::Command, |spy, wire| {
                spy.own(wire, |own| own.commands[0][18..22].copy_from_slice(&0x4000_0009u32.to_be_bytes()))
            }),
            ("a session that is not ours", Code::Command, |spy, wire| {
                spy.own(wire, |own| own.commands[0][21] = 7)
            }),
            ("the platform hierarchy", Code::Command, |spy, wire| {
                spy.own(wire, |own| own.commands[0][13] = 0x0c)
            }),
            ("a new value in clear", Code::Command, |spy, wire| spy.own(wire, |own| own.commands[1][40] = 0)),
            ("payload with a trailing byte", Code::Format, |spy, wire| {
                spy.with_payload(wire, SignedType::C4, &[spy.payload(wire).as_slice(), &[0]].concat())
            }),
            ("a challenge instead", Code::Format, |_, wire| {
                [&[0x85, 1, 2], &wire[3..20], &[0x58, 32], &[0; 32], &wire[20..]].concat()
            }),
            ("trailing byte", Code::Format, |_, wire| [wire, &[0]].concat()),
            ("too large", Code::Size, |_, _| vec![0; 64 * 1024 + 1]),
        ],
    );
}

fn command_code(own: &mut gridseal_trust::enrol::session::OwnPayload, code: u32) {
    own.commands[1][6..10].copy_from_slice(&code.to_be_bytes());
}

#[test]
fn a_configuration_is_checked_in_every_part_before_anything_is_installed() {
    refuses(
        PROVISION,
        &[
            ("another session", Code::Nonce, |_, wire| flipped(wire, 5)),
            ("seal", Code::Grant, last_flipped),
            ("signed by another key", Code::ConfigChain, |spy, wire| {
                spy.with_payload_by(&stranger(), wire, SignedType::C6, &spy.payload(wire))
            }),
            ("signed as another type", Code::ConfigChain, |spy, wire| {
                spy.with_payload(wire, SignedType::C8, &spy.payload(wire))
            }),
            ("th5", Code::Transcript, |spy, wire| spy.configuration(wire, |c6| c6.th5.0[0] ^= 1)),
            ("epoch", Code::EpochMismatch, |spy, wire| spy.configuration(wire, |c6| c6.config.epoch = 2)),
            ("pinned index", Code::Pin, |spy, wire| spy.configuration(wire, |c6| c6.config.pin.index = 2)),
            ("pinned generation", Code::Pin, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.pin.generation = 2)
            }),
            ("pinned entry", Code::Pin, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.pin.entry.0[0] ^= 1)
            }),
            ("version", Code::Rollback, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.policy_version = 0)
            }),
            ("previous", Code::Rollback, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.previous = Digest([1; 32]))
            }),
            ("certificate of the issuer", Code::Csr, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.ldevid_chain.rotate_left(1))
            }),
            ("no certificate", Code::Csr, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.ldevid_chain[0] = vec![0x30; 16])
            }),
            ("object with fixedTPM", Code::Object, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.objects[0].public[7] |= 0x02)
            }),
            ("object with fixedParent", Code::Object, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.objects[2].public[7] |= 0x10)
            }),
            ("object of another type", Code::Object, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.objects[1].public[1] = 0x23)
            }),
            ("two objects for one purpose", Code::Object, |spy, wire| {
                spy.configuration(wire, |c6| c6.config.objects[1].id = 1)
            }),
            ("payload with a trailing byte", Code::Format, |spy, wire| {
                spy.with_payload(wire, SignedType::C6, &[spy.payload(wire).as_slice(), &[0]].concat())
            }),
            ("trailing byte", Code::Format, |_, wire| [wire, &[0]].concat()),
            ("too large", Code::Size, |_, _| vec![0; 64 * 1024 + 1]),
        ],
    );
}

#[test]
fn a_configuration_from_before_the_floor_clock_is_refused() {
    let mut world = World::with(|_, record| record.floor = UtcTime(START.0 + 86_400));
    never_accepts(&mut world, PROVISION, Code::Rollback);
}

#[test]
fn an_object_that_the_root_refuses_installs_nothing_and_a_new_session_succeeds() {
    let changes: [Change; 2] = [
        |spy, wire| spy.configuration(wire, |c6| *c6.config.objects[2].duplicate.last_mut().unwrap() ^= 1),
        |spy, wire| spy.configuration(wire, |c6| *c6.config.objects[0].public.last_mut().unwrap() ^= 1),
    ];
    for change in changes {
        let mut world = World::new();
        world.replace(PROVISION, change);
        world.start();
        let failed = world
            .run_until(|world| world.meter.events.iter().any(|event| matches!(event, Event::RootFailed(_))));
        assert!(failed, "{:?}", world.meter.events);
        assert_eq!(world.meter.record().installed, None);
        world.run();
        assert!(world.is_confirmed());
        assert_eq!(world.meter.root.open_sessions(), 0);
    }
}

#[test]
fn the_last_message_is_checked_in_every_part() {
    refuses(
        DONE,
        &[
            ("another session", Code::Nonce, |_, wire| flipped(wire, 5)),
            ("seal", Code::Grant, last_flipped),
            ("signed by another key", Code::ConfigChain, |spy, wire| {
                spy.with_payload_by(&stranger(), wire, SignedType::C8, &spy.payload(wire))
            }),
            ("signed as another type", Code::ConfigChain, |spy, wire| {
                spy.with_payload(wire, SignedType::C4, &spy.payload(wire))
            }),
            ("th7", Code::Transcript, |spy, wire| spy.finished(wire, |finished| finished.th7.0[0] ^= 1)),
            ("payload with a trailing byte", Code::Format, |spy, wire| {
                spy.with_payload(wire, SignedType::C8, &[spy.payload(wire).as_slice(), &[0]].concat())
            }),
            ("trailing byte", Code::Format, |_, wire| [wire, &[0]].concat()),
        ],
    );
}

#[test]
fn the_device_uses_its_own_endorsement_key_as_its_name() {
    let mut world = World::new();
    let description = world.meter.description();
    assert_eq!(tpm::name(&description.ek_public), world.device_name());
    let other = Factory::new().make("GS-0000002", &Owner::new(1));
    assert_ne!(other.ek_name, world.device_name());
}
