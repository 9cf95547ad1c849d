//! What the owner's side refuses, check by check (onboarding specification, section 7.2). The wire never tells why.

use gridseal_crypto::{Key, SigningKey, role::ServiceTls};
use gridseal_keys::record::{DEVICES as KEY_DEVICES, DeviceEntry};
use gridseal_trust::{
    csr::{assemble_csr, csr_to_be_signed},
    enrol::{
        device::Event,
        secrets::SessionSecretExt,
        session::{Step, encode_error, id_of, seal_message, sid_of},
    },
};
use gridseal_types::{Code, DeviceState, Digest, records::Records};

use crate::{
    device::{Change, flipped},
    support::{Leg, TestRng, Touched, World, signing_key, straight},
};

const HELLO: Leg = Leg::Session(Step::HELLO);
const EVIDENCE: Leg = Leg::Session(Step::EVIDENCE);
const RESPONSES: Leg = Leg::Session(Step::RESPONSES);
const INSTALLED: Leg = Leg::Session(Step::INSTALLED);

fn key_state(world: &World) -> DeviceState {
    let row = world.key_records.get(KEY_DEVICES, world.device_name().as_bytes()).unwrap().unwrap();
    minicbor::decode::<DeviceEntry>(&row).unwrap().state
}

/// Runs until the owner's side has refused a changed message, and checks that it said nothing about it.
fn refused(name: &str, leg: Leg, code: Code, change: Change) -> World {
    let mut world = World::new();
    let changed = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = std::rc::Rc::clone(&changed);
    world.touch(leg, move |spy, wire| {
        let wire = change(spy, wire);
        seen.replace(wire.clone());
        Touched::Replaced(wire)
    });
    world.start();
    let heard = world.run_until(|world| world.meter.events.contains(&Event::Unanswered));
    assert!(heard, "{name}: accepted, {:?}", world.register_events);
    assert_eq!(world.owner_refusals(), [code], "{name}");
    let uniform = encode_error(&id_of(&changed.borrow()), Code::Refused, 0);
    assert_eq!(world.sent.last().map(|(_, wire)| wire.clone()), Some(uniform), "{name}");
    world
}

/// The message is dropped, nothing changed, and the right one is taken afterwards.
fn refuses(leg: Leg, rows: &[(&str, Code, Change)]) {
    for (name, code, change) in rows {
        let mut world = refused(name, leg, *code, *change);
        let before = world.before.take().expect("asked");
        assert_eq!(world.owner_state(), before.owner, "{name}: something changed");
        if leg == HELLO {
            assert!(!world.key_requests.contains(&"challenge"), "{name}: public-key work");
        }
        world.run();
        assert!(world.is_confirmed(), "{name}: {:?}", world.meter.events);
        assert_eq!(world.owner_refusals(), [*code], "{name}");
    }
}

/// An authenticated check failed: the device goes to quarantine, and no later message lifts that.
fn quarantines(leg: Leg, rows: &[(&str, Code, Change)]) {
    for (name, code, change) in rows {
        let mut world = refused(name, leg, *code, *change);
        let entry = world.entry();
        assert_eq!((entry.state, entry.quarantine), (DeviceState::Quarantined, Some(*code)), "{name}");
        assert_eq!(key_state(&world), DeviceState::Quarantined, "{name}");
        assert!(!world.key_requests.contains(&"provision"), "{name}");
        let after = world.owner_state();
        let tried = world.run_until(|world| world.owner_refusals().len() >= 6);
        assert!(tried, "{name}: {:?}", world.meter.events);
        assert!(world.owner_refusals()[1..].iter().all(|later| *later == Code::State), "{name}");
        assert_eq!(world.owner_state(), after, "{name}: quarantine was lifted");
    }
}

#[test]
fn a_hello_is_checked_in_every_part_before_any_public_key_work() {
    refuses(
        HELLO,
        &[
            ("unknown pseudonym", Code::Unknown, |_, wire| flipped(wire, 4)),
            ("another M", Code::Grant, |_, wire| flipped(wire, 30)),
            ("seal", Code::Grant, |_, wire| flipped(wire, wire.len() - 1)),
            ("another device", Code::Unknown, |spy, wire| spy.hello(wire, |hello| hello.ek_name.0[9] ^= 1)),
            ("epoch", Code::EpochMismatch, |spy, wire| spy.hello(wire, |hello| hello.epoch = 2)),
            ("voucher head", Code::Fork, |spy, wire| spy.hello(wire, |hello| hello.voucher_head.0[0] ^= 1)),
            ("redirect", Code::RedirectSig, |spy, wire| spy.hello(wire, |hello| hello.redirect.0[0] ^= 1)),
            ("endorsement key", Code::Endorsement, |spy, wire| {
                spy.hello(wire, |hello| *hello.ek_pub.last_mut().unwrap() ^= 1)
            }),
            ("a weaker suite", Code::Suite, |spy, wire| spy.hello(wire, |hello| hello.suites = vec![2])),
            ("one suite more", Code::Suite, |spy, wire| spy.hello(wire, |hello| hello.suites = vec![1, 2])),
            ("attestation key not restricted", Code::AkAttr, |spy, wire| {
                spy.hello(wire, |hello| hello.ak_pub[5] = 0x04)
            }),
            ("attestation key that decrypts", Code::AkAttr, |spy, wire| {
                spy.hello(wire, |hello| hello.ak_pub[5] = 0x07)
            }),
            ("attestation key that may leave", Code::AkAttr, |spy, wire| {
                spy.hello(wire, |hello| hello.ak_pub[7] = 0x70)
            }),
            ("attestation key off the curve", Code::AkAttr, |spy, wire| {
                spy.hello(wire, |hello| *hello.ak_pub.last_mut().unwrap() ^= 1)
            }),
            ("storage key not restricted", Code::Certify, |spy, wire| {
                spy.hello(wire, |hello| hello.sto_pub[5] = 0x02)
            }),
            ("TLS key restricted", Code::Certify, |spy, wire| {
                spy.hello(wire, |hello| hello.tls_pub[5] = 0x05)
            }),
            ("TLS key made in software", Code::Certify, |spy, wire| {
                spy.hello(wire, |hello| hello.tls_pub[7] = 0x52)
            }),
            ("identity key not restricted", Code::Certify, |spy, wire| {
                spy.hello(wire, |hello| hello.iak_pub[5] = 0x04)
            }),
            ("identity key equals attestation key", Code::AkAttr, |spy, wire| {
                spy.hello(wire, |hello| hello.iak_pub = hello.ak_pub.clone())
            }),
            ("TLS key equals attestation key", Code::AkAttr, |spy, wire| {
                spy.hello(wire, |hello| {
                    let length = hello.tls_pub.len();
                    let tail = hello.ak_pub[hello.ak_pub.len() - 68..].to_vec();
                    hello.tls_pub[length - 68..].copy_from_slice(&tail);
                })
            }),
            ("body with a trailing byte", Code::Format, |spy, wire| {
                spy.with_body(wire, &[spy.opened(wire).as_slice(), &[0]].concat())
            }),
        ],
    );
}

#[test]
fn evidence_whose_seal_or_proof_is_wrong_is_dropped() {
    refuses(
        EVIDENCE,
        &[
            ("unknown session", Code::Nonce, |_, wire| flipped(wire, 5)),
            ("seal", Code::Act, |_, wire| flipped(wire, wire.len() - 1)),
            ("act", Code::Act, |spy, wire| spy.evidence(wire, |evidence| evidence.act.0[0] ^= 1)),
            ("body with a trailing byte", Code::Format, |spy, wire| {
                spy.with_body(wire, &[spy.opened(wire).as_slice(), &[0]].concat())
            }),
        ],
    );
}

#[test]
fn evidence_that_fails_a_check_quarantines_the_device_for_good() {
    quarantines(
        EVIDENCE,
        &[
            ("certify of the storage key", Code::Certify, |spy, wire| {
                spy.evidence(wire, |evidence| *evidence.certify_storage.signature.last_mut().unwrap() ^= 1)
            }),
            ("certify of the TLS key", Code::Certify, |spy, wire| {
                spy.evidence(wire, |evidence| *evidence.certify_tls.attest.last_mut().unwrap() ^= 1)
            }),
            ("certify of the identity key", Code::Certify, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.certify_identity.attest[8] ^= 1)
            }),
            ("storage certified as TLS key", Code::Certify, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.certify_tls = evidence.certify_storage.clone())
            }),
            ("identity certified as storage key", Code::Certify, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.certify_storage = evidence.certify_identity.clone())
            }),
            ("quote", Code::Quote, |spy, wire| {
                spy.evidence(wire, |evidence| *evidence.quote.attest.last_mut().unwrap() ^= 1)
            }),
            ("a certify as quote", Code::Quote, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.quote = evidence.certify_tls.clone())
            }),
            ("an event log that is none", Code::Policy, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.logs.event_log = vec![1])
            }),
            ("an IMA log that is none", Code::Policy, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.logs.ima_log = vec![1])
            }),
            ("certificate request of another key", Code::Csr, |spy, wire| {
                let key: SigningKey<ServiceTls> = signing_key("software");
                let body = csr_to_be_signed("GS-0000001", &gridseal_crypto::Signer::public(&key));
                let request = assemble_csr(&body, &gridseal_crypto::Signer::sign(&key, &body).unwrap());
                spy.evidence(wire, |evidence| evidence.csr = request)
            }),
            ("certificate request without possession", Code::Csr, |spy, wire| {
                spy.evidence(wire, |evidence| *evidence.csr.last_mut().unwrap() ^= 1)
            }),
            ("Clear disabled", Code::Owned, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.permanent |= 1 << 8)
            }),
            ("open platform hierarchy", Code::PlatformOpen, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.platform_open = true)
            }),
            ("an owner whom we do not know", Code::Owned, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.permanent |= 1)
            }),
            ("a lockout owner whom we do not know", Code::Owned, |spy, wire| {
                spy.evidence(wire, |evidence| evidence.permanent |= 1 << 2)
            }),
        ],
    );
}

#[test]
fn a_device_that_runs_other_software_is_never_owned() {
    let mut world = World::with(|made, _| made.root.extend_pcr(4, &Digest([1; 32])).unwrap());
    world.start();
    assert!(world.run_until(|world| !world.owner_refusals().is_empty()));
    assert_eq!(world.owner_refusals(), [Code::Policy]);
    assert_eq!(world.entry().state, DeviceState::Quarantined);
    assert_eq!(world.meter.description().permanent & 5, 0, "TPM untouched");
}

#[test]
fn a_device_whose_platform_hierarchy_is_open_is_never_owned() {
    let mut world = World::with(|made, _| made.root.set_platform_open(true));
    world.start();
    assert!(world.run_until(|world| !world.owner_refusals().is_empty()));
    assert_eq!(world.owner_refusals(), [Code::PlatformOpen]);
    assert_eq!(world.meter.description().permanent & 5, 0, "TPM untouched");
}

#[test]
fn ownership_counts_only_with_both_proofs_of_the_tpm() {
    refuses(
        RESPONSES,
        &[
            ("unknown session", Code::Nonce, |_, wire| flipped(wire, 5)),
            ("seal", Code::Transcript, |_, wire| flipped(wire, wire.len() - 1)),
            ("th4", Code::Transcript, |spy, wire| spy.responses(wire, |body| body.th4.0[0] ^= 1)),
            ("owner response", Code::Tpm, |spy, wire| {
                spy.responses(wire, |body| *body.responses[0].last_mut().unwrap() ^= 1)
            }),
            ("lockout response", Code::Tpm, |spy, wire| {
                spy.responses(wire, |body| *body.responses[1].last_mut().unwrap() ^= 1)
            }),
            ("responses swapped", Code::Tpm, |spy, wire| {
                spy.responses(wire, |body| body.responses.reverse())
            }),
            ("one response missing", Code::Tpm, |spy, wire| {
                spy.responses(wire, |body| drop(body.responses.pop()))
            }),
            ("no response", Code::Tpm, |spy, wire| spy.responses(wire, |body| body.responses.clear())),
            ("a response code", Code::Tpm, |spy, wire| {
                spy.responses(wire, |body| body.responses[1] = vec![0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0xa2])
            }),
            ("body with a trailing byte", Code::Format, |spy, wire| {
                spy.with_body(wire, &[spy.opened(wire).as_slice(), &[0]].concat())
            }),
        ],
    );
}

#[test]
fn installation_counts_only_with_receipt_and_names() {
    refuses(
        INSTALLED,
        &[
            ("unknown session", Code::Nonce, |_, wire| flipped(wire, 5)),
            ("seal", Code::Transcript, |_, wire| flipped(wire, wire.len() - 1)),
            ("th6", Code::Transcript, |spy, wire| spy.installed(wire, |body| body.th6.0[0] ^= 1)),
            ("receipt", Code::Act, |spy, wire| spy.installed(wire, |body| body.receipt.0[0] ^= 1)),
            ("a name", Code::Object, |spy, wire| spy.installed(wire, |body| body.names[1].0[3] ^= 1)),
            ("names in another order", Code::Object, |spy, wire| {
                spy.installed(wire, |body| body.names.reverse())
            }),
            ("a name missing", Code::Object, |spy, wire| spy.installed(wire, |body| body.names.truncate(2))),
            ("body with a trailing byte", Code::Format, |spy, wire| {
                spy.with_body(wire, &[spy.opened(wire).as_slice(), &[0]].concat())
            }),
        ],
    );
}

fn wire_of(world: &World, step: Step) -> Vec<u8> {
    let found = world.sent.iter().rev().find(|(leg, _)| *leg == Leg::Session(step));
    found.expect("sent").1.clone()
}

#[test]
fn a_message_that_was_answered_gets_the_same_answer_byte_for_byte() {
    let mut world = World::new();
    world.start();
    for (step, answer) in [
        (Step::HELLO, Step::CHALLENGE),
        (Step::EVIDENCE, Step::COMMANDS),
        (Step::RESPONSES, Step::PROVISION),
        (Step::INSTALLED, Step::DONE),
    ] {
        assert!(
            world.run_until(|world| world.sent.last().is_some_and(|(leg, _)| *leg == Leg::Session(answer)))
        );
        let (message, answered, before) =
            (wire_of(&world, step), wire_of(&world, answer), world.owner_state());
        let (asked, audited) = (world.key_requests.len(), world.admissions.len());
        assert_eq!(straight(&mut world, &message), (Some(answered), None), "{step:?}");
        assert_eq!(world.owner_state(), before, "{step:?}");
        assert_eq!((world.key_requests.len(), world.admissions.len()), (asked, audited), "{step:?}: work");
    }
    world.run();
    assert!(world.is_confirmed());
}

#[test]
fn a_message_out_of_turn_or_of_no_session_changes_nothing() {
    let mut world = World::new();
    world.start();
    assert!(world.run_until(|world| world.meter.events.contains(&Event::Accepted(Step::CHALLENGE))));
    let sid = sid_of(&wire_of(&world, Step::HELLO));
    // Sealed as the device would, had it got that far.
    let seal = world.spy.session_secret(&sid).device_to_owner();
    for step in [Step::RESPONSES, Step::INSTALLED] {
        let early = seal_message(&seal, step, &sid, b"early").unwrap();
        let before = world.owner_state();
        assert_eq!(straight(&mut world, &early), (None, Some(Code::State)), "{step:?}");
        assert_eq!(world.owner_state(), before);
    }
    for step in [Step::CHALLENGE, Step::COMMANDS, Step::PROVISION, Step::DONE] {
        let own = seal_message(&seal, step, &sid, b"of the other direction").unwrap();
        let (reply, code) = straight(&mut world, &own);
        assert!(reply.is_none() && code.is_some(), "{step:?}");
    }
    assert!(
        world.run_until(|world| world
            .sent
            .last()
            .is_some_and(|(leg, _)| *leg == Leg::Session(Step::PROVISION)))
    );
    let before = world.owner_state();
    for step in [Step::HELLO, Step::EVIDENCE] {
        let late = wire_of(&world, step);
        assert_eq!(straight(&mut world, &late), (None, Some(Code::State)), "{step:?}");
    }
    let unknown = flipped(&wire_of(&world, Step::EVIDENCE), 10);
    assert_eq!(straight(&mut world, &unknown), (None, Some(Code::Nonce)));
    assert_eq!(world.owner_state(), before);
    world.run();
    assert!(world.is_confirmed());
}

#[test]
fn bytes_that_are_no_message_are_refused_at_every_port() {
    let mut world = World::new();
    world.start();
    world.run();
    let before = world.owner_state();
    let refusals = world.owner_refusals().len();
    for step in [Step::HELLO, Step::EVIDENCE, Step::RESPONSES, Step::INSTALLED] {
        let whole = wire_of(&world, step);
        let head = whole[0];
        let mut bad: Vec<Vec<u8>> =
            (0..whole.len()).step_by(7).map(|length| whole[..length].to_vec()).collect();
        bad.push([&whole[..], &[0]].concat());
        bad.push([&[0x98, head & 0x1f], &whole[1..]].concat());
        bad.push([&[0xc6], &whole[..]].concat());
        bad.push([&[0x9f], &whole[1..], &[0xff]].concat());
        for bytes in bad {
            assert_eq!(straight(&mut world, &bytes), (None, Some(Code::Format)));
            let reply = world.ask_relay(bytes).expect("answered");
            assert_eq!(reply, encode_error(&[0; 16], Code::Refused, 0));
        }
        let mut large = whole[..whole.len().min(20)].to_vec();
        large.extend(vec![0; 600_000]);
        let (reply, code) = straight(&mut world, &large);
        assert!(reply.is_none() && code.is_some());
    }
    assert_eq!(world.owner_state(), before);
    assert!(world.owner_refusals().len() > refusals);

    let hello = world.sent[0].1.clone();
    for length in 0..hello.len() {
        assert_eq!(world.ask_init(&hello[..length]), encode_error(&[0; 16], Code::Refused, 0));
    }
    for bytes in [[&hello[..], &[0]].concat(), [&[0x98, 4], &hello[1..]].concat()] {
        assert_eq!(world.ask_init(&bytes), encode_error(&[0; 16], Code::Refused, 0));
    }
    assert!(world.init_refusals.iter().all(|code| *code == Code::Format));
    assert_eq!(world.ask_init(&vec![0x84; 64 * 1024]), encode_error(&[0; 16], Code::Refused, 0));
    assert_eq!(world.init_refusals.last(), Some(&Code::Size));
}

#[test]
fn an_evidence_larger_than_allowed_is_refused_by_size_before_its_format() {
    let mut world = World::new();
    world.start();
    assert!(world.run_until(|world| world.meter.events.contains(&Event::Accepted(Step::CHALLENGE))));
    let sid = sid_of(&wire_of(&world, Step::HELLO));
    let seal: Key<_, 32> = world.spy.session_secret(&sid).device_to_owner();
    let large = seal_message(&seal, Step::EVIDENCE, &sid, &vec![0; 535_000]).unwrap();
    let before = world.owner_state();
    assert_eq!(straight(&mut world, &large[..]).1, Some(Code::Format));
    let larger = seal_message(&seal, Step::RESPONSES, &sid, &vec![0; 65_536]).unwrap();
    assert_eq!(straight(&mut world, &larger).1, Some(Code::Size));
    let hello = wire_of(&world, Step::HELLO);
    let larger = world.spy.with_body(&hello, &vec![0; 16_384]);
    assert_eq!(straight(&mut world, &larger).1, Some(Code::Size));
    assert_eq!(world.owner_state(), before);
}

#[test]
fn test_randomness_repeats_for_its_seed_alone() {
    let draw =
        |label: &str, number| Key::<ServiceTls, 32>::generate(&mut TestRng::new(label, number)).unwrap();
    assert!(bool::from(draw("a", 1).ct_eq(&draw("a", 1))));
    assert!(!bool::from(draw("a", 1).ct_eq(&draw("a", 2))));
}
