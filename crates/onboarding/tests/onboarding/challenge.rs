//! The endorsement challenge of the init server (attack A35): nobody learns from it where a device belongs, and it makes no
//! device an oracle.

use gridseal_crypto::{Key, role::ActivationSecret};
use gridseal_onboarding::init_server::{Challenges, PENDING_MAX, PENDING_S};
use gridseal_trust::{
    enrol::{
        device::{CHALLENGES_MAX, Event},
        init::{InitChallenge, InitHello, InitProof, init_proof, is_challenge},
        session::encode_error,
    },
    root::{Description, DeviceRoot, RootError, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{Code, Digest, Nonce, UtcTime};

use crate::{
    device::{Change, flipped},
    support::{Leg, START, TestRng, World},
};

/// A TPM of somebody.
struct Somebody {
    root: SoftwareRoot,
    description: Description,
}

impl Somebody {
    fn new(label: &str) -> Self {
        let mut root = SoftwareRoot::new(Box::new(TestRng::new(label, 1)));
        let made = root.perform(RootRequest::Manufacture(Key::take(&mut [1; 32])));
        let Ok(RootReply::Described(description)) = made else { panic!("{made:?}") };
        Self { root, description }
    }

    fn hello(&self) -> InitHello {
        InitHello {
            m: Nonce([8; 32]),
            suites: vec![1],
            ek_name: tpm::name(&self.description.ek_public),
            epoch: 0,
            iak_pub: Some(self.description.iak_public.clone()),
            ek_pub: Some(self.description.ek_public.clone()),
        }
    }

    fn activate(&mut self, challenge: &InitChallenge) -> Result<Key<ActivationSecret, 32>, RootError> {
        let (credential, secret) = (challenge.credential.clone(), challenge.secret.clone());
        match self.root.perform(RootRequest::ActivateIdentity { credential, secret })? {
            RootReply::Activated(credential) => Ok(credential),
            other => panic!("{other:?}"),
        }
    }
}

fn uniform() -> Vec<u8> {
    encode_error(&[0; 16], Code::Refused, 0)
}

#[test]
fn a_known_and_an_unknown_device_look_the_same_from_outside() {
    let mut world = World::new();
    let mut stranger = Somebody::new("stranger");
    let hello = stranger.hello().encode();
    let wire = world.ask_init(&hello);
    let challenge = InitChallenge::decode(&wire).unwrap();
    world.start();
    assert!(world.run_until(|world| world.sent.iter().any(|(leg, _)| *leg == Leg::InitChallenge)));
    let known = world.sent.iter().find(|(leg, _)| *leg == Leg::InitChallenge).unwrap().1.clone();
    assert_eq!(known.len(), wire.len(), "one shape");
    // A right answer of a TPM that nobody sold, and a wrong one, get the same bytes.
    let credential = stranger.activate(&challenge).unwrap();
    let proof = init_proof(&credential, &hello, &wire);
    let right = InitProof { m: challenge.m, n: challenge.n, proof };
    assert_eq!(world.ask_init(&right.encode()), uniform());
    assert_eq!(world.init_refusals.last(), Some(&Code::Unknown));
    let wrong = InitProof { proof: Digest([0; 32]), ..right };
    assert_eq!(world.ask_init(&wrong.encode()), uniform());
    assert_eq!(world.init_refusals.last(), Some(&Code::Act));
    let other = InitProof { n: Nonce([1; 32]), ..right };
    assert_eq!(world.ask_init(&other.encode()), uniform());
    assert_eq!(world.init_refusals.last(), Some(&Code::Nonce));
}

/// Label A is printed on the device: who knows its Name, and even its endorsement key, but has not its TPM, gets nothing.
#[test]
fn a_name_from_a_label_is_worth_nothing_without_its_tpm() {
    let mut world = World::new();
    let target = world.meter.description();
    let mut thief = Somebody::new("thief");
    let mut hello = thief.hello();
    hello.ek_name = tpm::name(&target.ek_public);
    assert_eq!(world.ask_init(&hello.encode()), uniform(), "a key of another Name");
    assert_eq!(world.init_refusals.last(), Some(&Code::Endorsement));
    hello.ek_pub = Some(target.ek_public.clone());
    let wire = world.ask_init(&hello.encode());
    let challenge = InitChallenge::decode(&wire).unwrap();
    assert_eq!(
        thief.activate(&challenge).err(),
        Some(RootError::Refused { command: 0x147, rc: 0x1df }),
        "made for another endorsement key"
    );
    // Nor does the real device open it: it is bound to the thief's identity key.
    let opened = world.meter.root.perform(RootRequest::ActivateIdentity {
        credential: challenge.credential.clone(),
        secret: challenge.secret.clone(),
    });
    assert_eq!(opened.err(), Some(RootError::Refused { command: 0x147, rc: 0x1df }));
    type Spoil = fn(&mut InitHello);
    let rows: [(&str, Spoil); 4] = [
        ("no endorsement key", |hello| hello.ek_pub = None),
        ("no identity key", |hello| hello.iak_pub = None),
        ("another suite", |hello| hello.suites = vec![2]),
        ("an identity key that is not restricted", |hello| hello.iak_pub.as_mut().unwrap()[5] = 4),
    ];
    for (what, change) in rows {
        let mut changed = hello.clone();
        change(&mut changed);
        assert_eq!(world.ask_init(&changed.encode()), uniform(), "{what}");
    }
}

#[test]
fn a_device_answers_a_challenge_of_its_own_question_once() {
    let rows: [(&str, Code, Change); 3] = [
        ("another m", Code::Nonce, |_, wire| flipped(wire, 10)),
        ("a byte behind", Code::Format, |_, wire| [wire, &[0]].concat()),
        ("larger than allowed", Code::Size, |_, wire| [wire, &[0; 65_536][..]].concat()),
    ];
    for (name, code, change) in rows {
        let mut world = World::new();
        world.replace(Leg::InitChallenge, change);
        world.start();
        assert!(world.run_until(|world| !world.device_refusals().is_empty()), "{name}");
        assert_eq!(world.device_refusals(), [code], "{name}");
        world.run();
        assert!(world.is_confirmed(), "{name}: {:?}", world.meter.events);
    }
    // Asked again in place of the redirect: one answer is all there is.
    let mut world = World::new();
    let asked = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = std::rc::Rc::clone(&asked);
    world.replace(Leg::InitChallenge, move |_, wire| {
        seen.replace(wire.to_vec());
        wire.to_vec()
    });
    world.replace(Leg::InitRedirect, move |_, _| asked.borrow().clone());
    world.start();
    world.run();
    assert_eq!(world.device_refusals(), [Code::State]);
    assert!(world.is_confirmed());
}

#[test]
fn a_credential_that_does_not_open_costs_a_wait_and_nothing_else() {
    let mut world = World::new();
    world.replace(Leg::InitChallenge, |_, wire| {
        let mut challenge = InitChallenge::decode(wire).unwrap();
        *challenge.credential.last_mut().unwrap() ^= 1;
        challenge.encode()
    });
    world.start();
    world.run();
    let failed = Event::RootFailed(RootError::Refused { command: 0x147, rc: 0x1df });
    assert!(world.meter.events.contains(&failed), "{:?}", world.meter.events);
    assert!(world.is_confirmed());
}

/// An init server that goes on asking and never tells: the device stops answering.
#[test]
fn a_device_answers_few_challenges_in_an_hour() {
    let mut world = World::new();
    for _ in 0..30 {
        world.lose(Leg::InitProof);
    }
    world.start();
    assert!(world.run_until(|world| world.device_refusals().contains(&Code::Busy)));
    let proofs: std::collections::BTreeSet<_> =
        world.sent.iter().filter(|(leg, _)| *leg == Leg::InitProof).map(|(_, wire)| wire).collect();
    assert_eq!(proofs.len(), CHALLENGES_MAX);
}

/// A lost redirect is asked for again with the same proof; a proof that comes too late, or after a restart, is not known.
#[test]
fn a_proof_is_good_until_its_time_is_up() {
    let mut world = World::new();
    world.lose(Leg::InitRedirect);
    world.start();
    world.run();
    assert!(world.is_confirmed());
    let proofs = world.sent.iter().filter(|(leg, _)| *leg == Leg::InitProof);
    assert!(proofs.count() >= 2 || world.meter.events.contains(&Event::Unanswered));

    let mut stranger = Somebody::new("stranger");
    let (server, mut challenges) = (&world.init, Challenges::default());
    let mut rng = TestRng::new("challenges", 0);
    let hello = stranger.hello().encode();
    let mut ask = |challenges: &mut Challenges, at: UtcTime, wire: &[u8]| {
        challenges.answer(server, (&world.init_records, &mut rng), at, wire).unwrap()
    };
    let wire = ask(&mut challenges, START, &hello).reply;
    assert!(is_challenge(&wire));
    let challenge = InitChallenge::decode(&wire).unwrap();
    let credential = stranger.activate(&challenge).unwrap();
    let proof = init_proof(&credential, &hello, &wire);
    let answer = InitProof { m: challenge.m, n: challenge.n, proof }.encode();
    assert_eq!(ask(&mut challenges, START, &answer).refused, Some(Code::Unknown), "proven, not sold");
    assert_eq!(ask(&mut Challenges::default(), START, &answer).refused, Some(Code::Nonce), "restarted");
    let late = UtcTime(START.0 + PENDING_S);
    assert_eq!(ask(&mut challenges, late, &answer).refused, Some(Code::Nonce), "late");
    // Those who only ask push out the oldest question and nothing else.
    let wire = ask(&mut challenges, START, &hello).reply;
    let challenge = InitChallenge::decode(&wire).unwrap();
    let proof = init_proof(&stranger.activate(&challenge).unwrap(), &hello, &wire);
    let answer = InitProof { m: challenge.m, n: challenge.n, proof }.encode();
    for _ in 1..PENDING_MAX {
        ask(&mut challenges, START, &hello);
    }
    assert_eq!(ask(&mut challenges, START, &answer).refused, Some(Code::Unknown), "still known");
    ask(&mut challenges, START, &hello);
    assert_eq!(ask(&mut challenges, START, &answer).refused, Some(Code::Nonce), "pushed out");
}
