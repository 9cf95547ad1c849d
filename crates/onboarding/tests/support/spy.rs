//! Somebody who knows every secret of a run: opens a message, changes what is inside, and signs and seals it again, so
//! that a test reaches the one check it is about.

use std::collections::BTreeMap;

use gridseal_crypto::{
    Key, SigningKey,
    role::{ActivationSecret, ConfigSigning, DeviceRootSecret, OwnerSecret, Seal, SessionSecret},
};
use gridseal_trust::enrol::{
    cose::{Sign1, SignedType, sign},
    init::InitRedirect,
    secrets::{OwnerSecretExt, SessionSecretExt, owner_secret},
    session::{
        ChallengeBody, ChallengePayload, Configuration, Envelope, EvidenceBody, FinishedPayload, HelloBody,
        InstalledBody, OwnPayload, ResponsesBody, Step, Transcript, open, seal_challenge, seal_hello,
        seal_message, sid_of,
    },
    wire::{Reader, encode},
};
use gridseal_types::{Nonce, Sid, service::keys::KeyRequest};

use super::{Leg, TestRng, factory::Owner, signing_key};

/// Secrets of the run, and the messages of its sessions.
pub struct Spy {
    device_root: [u8; 32],
    pub owner: Owner,
    config: SigningKey<ConfigSigning>,
    /// Number of the key service's call that drew K_act, by session.
    activations: BTreeMap<[u8; 16], u64>,
    /// C1 and C2 by session.
    hellos: BTreeMap<[u8; 16], Vec<u8>>,
    challenges: BTreeMap<[u8; 16], Vec<u8>>,
}

impl Spy {
    pub fn new(device_root: [u8; 32], owner: Owner) -> Self {
        let config = owner.config_key();
        Self {
            device_root,
            owner,
            config,
            activations: BTreeMap::new(),
            hellos: BTreeMap::new(),
            challenges: BTreeMap::new(),
        }
    }

    pub fn forget(&mut self) {
        self.activations.clear();
    }

    pub fn watches(&mut self, request: &KeyRequest, call: u64) {
        if let KeyRequest::Challenge(challenge) = request {
            self.activations.entry(sid_of(&challenge.c1).0).or_insert(call);
        }
    }

    pub fn saw(&mut self, leg: Leg, wire: &[u8]) {
        match (leg, Envelope::decode(wire)) {
            (Leg::Session(Step::HELLO), _) => drop(self.hellos.insert(sid_of(wire).0, wire.to_vec())),
            (_, Ok(Envelope::Challenge { sid, .. })) => drop(self.challenges.insert(sid.0, wire.to_vec())),
            _ => {}
        }
    }

    /// N_1.
    pub fn owner_secret(&self) -> Key<OwnerSecret, 32> {
        owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut self.device_root.clone()), 1)
    }

    /// K_act of a session: the first thing that the key service drew for its challenge.
    pub fn activation(&self, sid: &Sid) -> Key<ActivationSecret, 32> {
        Key::generate(&mut TestRng::new("keys", self.activations[&sid.0])).unwrap()
    }

    /// K_s of a session, from the C1 and C2 that were sent.
    pub fn session_secret(&self, sid: &Sid) -> Key<SessionSecret, 32> {
        let th2 = Transcript::new()
            .after(Step::HELLO, &self.hellos[&sid.0])
            .after(Step::CHALLENGE, &self.challenges[&sid.0]);
        self.owner_secret().session(&th2.value(), &self.activation(sid))
    }

    fn m(&self, sid: &Sid) -> Nonce {
        match Envelope::decode(&self.hellos[&sid.0]).unwrap() {
            Envelope::Hello { m, .. } => m,
            other => panic!("{other:?}"),
        }
    }

    /// The key that seals a message, and its envelope.
    fn seal_of<'w>(&self, wire: &'w [u8]) -> (Key<Seal, 32>, Envelope<'w>) {
        let envelope = Envelope::decode(wire).unwrap();
        let key = match &envelope {
            Envelope::Hello { m, .. } => self.owner_secret().seal_c1(m),
            Envelope::Challenge { sid, m_em, .. } => self.owner_secret().seal_c2(&self.m(sid), m_em),
            Envelope::Message { step, sid, .. } if step.number() % 2 == 1 => {
                self.session_secret(sid).device_to_owner()
            }
            Envelope::Message { sid, .. } => self.session_secret(sid).owner_to_device(),
            Envelope::Error { .. } => panic!("an error has no seal"),
        };
        (key, envelope)
    }

    /// The opened body of a message.
    pub fn opened(&self, wire: &[u8]) -> Vec<u8> {
        let (key, envelope) = self.seal_of(wire);
        open(&key, &envelope).unwrap()
    }

    /// The message with another body.
    pub fn with_body(&self, wire: &[u8], body: &[u8]) -> Vec<u8> {
        let (key, envelope) = self.seal_of(wire);
        match envelope {
            Envelope::Hello { kid, m, .. } => seal_hello(&key, &kid, &m, body),
            Envelope::Challenge { sid, m_em, .. } => seal_challenge(&key, &sid, &m_em, body),
            Envelope::Message { step, sid, .. } => seal_message(&key, step, &sid, body),
            Envelope::Error { .. } => panic!("an error has no seal"),
        }
        .unwrap()
    }

    /// A C1 with another M, as somebody makes it who knows N_1.
    pub fn fresh_hello(&self, wire: &[u8], number: u8) -> Vec<u8> {
        let body = self.opened(wire);
        let m = Nonce([number; 32]);
        let secret = self.owner_secret();
        seal_hello(&secret.seal_c1(&m), &secret.kid(), &m, &body).unwrap()
    }

    pub fn hello(&self, wire: &[u8], change: impl FnOnce(&mut HelloBody)) -> Vec<u8> {
        let mut body = HelloBody::decode(&self.opened(wire)).unwrap();
        change(&mut body);
        self.with_body(wire, &body.encode())
    }

    pub fn evidence(&self, wire: &[u8], change: impl FnOnce(&mut EvidenceBody)) -> Vec<u8> {
        let mut body = EvidenceBody::decode(&self.opened(wire)).unwrap();
        change(&mut body);
        self.with_body(wire, &body.encode())
    }

    pub fn responses(&self, wire: &[u8], change: impl FnOnce(&mut ResponsesBody)) -> Vec<u8> {
        let mut body = ResponsesBody::decode(&self.opened(wire)).unwrap();
        change(&mut body);
        self.with_body(wire, &body.encode())
    }

    pub fn installed(&self, wire: &[u8], change: impl FnOnce(&mut InstalledBody)) -> Vec<u8> {
        let mut body = InstalledBody::decode(&self.opened(wire)).unwrap();
        change(&mut body);
        self.with_body(wire, &body.encode())
    }

    /// C2 with a changed body: signed payload, grant, delegation.
    pub fn challenge_body(&self, wire: &[u8], change: impl FnOnce(&mut ChallengeBody)) -> Vec<u8> {
        let mut body = ChallengeBody::decode(&self.opened(wire)).unwrap();
        change(&mut body);
        self.with_body(wire, &body.encode())
    }

    /// C2 with a changed payload, signed and granted again.
    pub fn challenge(&self, wire: &[u8], change: impl FnOnce(&mut ChallengePayload)) -> Vec<u8> {
        self.challenge_body(wire, |body| {
            let mut payload = ChallengePayload::decode(Sign1::decode(&body.signed).unwrap().payload).unwrap();
            let th1 = payload.th1;
            change(&mut payload);
            let payload = payload.encode();
            body.signed = sign(&self.config, SignedType::C2, &payload).unwrap();
            body.grant = self.owner_secret().grant(&th1, &payload);
        })
    }

    /// C4, C6 or C8 with another payload, signed by `signer`.
    pub fn with_payload(&self, wire: &[u8], kind: SignedType, payload: &[u8]) -> Vec<u8> {
        self.with_payload_by(&self.config, wire, kind, payload)
    }

    pub fn with_payload_by<R: gridseal_crypto::role::Role>(
        &self,
        signer: &SigningKey<R>,
        wire: &[u8],
        kind: SignedType,
        payload: &[u8],
    ) -> Vec<u8> {
        let signed = sign(signer, kind, payload).unwrap();
        self.with_body(
            wire,
            &encode(|w| {
                w.bytes(&signed);
            }),
        )
    }

    /// The payload of C4, C6 or C8.
    pub fn payload(&self, wire: &[u8]) -> Vec<u8> {
        let body = self.opened(wire);
        let signed = Reader::whole(&body, |r| r.bytes(1..=65_536)).unwrap();
        Sign1::decode(signed).unwrap().payload.to_vec()
    }

    pub fn own(&self, wire: &[u8], change: impl FnOnce(&mut OwnPayload)) -> Vec<u8> {
        let mut payload = OwnPayload::decode(&self.payload(wire)).unwrap();
        change(&mut payload);
        self.with_payload(wire, SignedType::C4, &payload.encode())
    }

    pub fn configuration(&self, wire: &[u8], change: impl FnOnce(&mut Configuration)) -> Vec<u8> {
        let mut payload = Configuration::decode(&self.payload(wire)).unwrap();
        change(&mut payload);
        self.with_payload(wire, SignedType::C6, &payload.encode())
    }

    pub fn finished(&self, wire: &[u8], change: impl FnOnce(&mut FinishedPayload)) -> Vec<u8> {
        let mut payload = FinishedPayload::decode(&self.payload(wire)).unwrap();
        change(&mut payload);
        self.with_payload(wire, SignedType::C8, &payload.encode())
    }

    /// I2 with a changed payload, signed again by the init server's key.
    pub fn init_redirect(&self, wire: &[u8], change: impl FnOnce(&mut InitRedirect)) -> Vec<u8> {
        let (m, mut payload) = open_init_redirect(wire);
        change(&mut payload);
        self.sign_init_redirect(&signing_key("init"), &m, &payload)
    }

    pub fn sign_init_redirect(
        &self,
        signer: &SigningKey<gridseal_crypto::role::InitSigning>,
        m: &Nonce,
        payload: &InitRedirect,
    ) -> Vec<u8> {
        InitRedirect::encode_message(m, &sign(signer, SignedType::I2, &payload.encode_payload()).unwrap())
    }
}

/// The payload of an I2, and the m on its envelope.
pub fn open_init_redirect(wire: &[u8]) -> (Nonce, InitRedirect) {
    let m = Reader::whole(wire, |r| {
        r.array(4..=4, |r, _| {
            r.constant(1)?;
            r.constant(23)?;
            let m = Nonce(r.fixed()?);
            r.skip()?;
            Ok(m)
        })
    })
    .unwrap();
    let key = gridseal_crypto::Signer::public(&signing_key::<gridseal_crypto::role::InitSigning>("init"));
    (m, InitRedirect::open(wire, &[key], &m).unwrap())
}
