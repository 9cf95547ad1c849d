//! The owner of these tests: signs and seals orders, opens results, and sells.

use std::collections::BTreeMap;

use gridseal_crypto::{
    Key, PublicKey, Rng, RngError, SecondSigner, Signer, SigningKey, random,
    role::{
        AuthValue, ConfigSigning, DeviceRootSecret, OwnerSecond, OwnerSecret, OwnerSigning, RecoverySecond,
        RecoverySigning, TpmSeed, VoucherSecond, VoucherSigning,
    },
    sha256,
    tpm::{
        AuthInForce, ChangeAuth, Clear, EndorsementKey, SecretLabel, SessionNonces, TpmSessionKey,
        change_auth_command, clear_command, clear_confirmed,
    },
};
use gridseal_trust::{
    csr::subject_public_key_info,
    enrol::{
        cose::{SignedType, key_id, sign},
        device::Pace,
        document::{Delegation, Entry, EntryKind, Header},
        order::{
            Answer, Envelope, Kind, Order, OrderBody, PollBody, ResultBody, Task, order_digest, seal_order,
        },
        secrets::{OwnerSecretExt, owner_secret},
        session::encode_error,
        voucher::{RecoveryKey, Voucher, VoucherKey},
    },
    root::{DeviceRoot, OwnerPin, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{Code, Digest, EkName, N16, Nonce, UtcTime, service::keys::TpmSession};

use super::rig::Reply;

pub(super) const START: UtcTime = UtcTime(1_800_000_000);
pub(super) const DEVICE_ROOT: [u8; 32] = [7; 32];
pub(super) const PACE: Pace = Pace {
    first: core::time::Duration::from_secs(30),
    most: core::time::Duration::from_secs(86_400),
    reply: core::time::Duration::from_secs(60),
};
/// TPM_PT_PERMANENT: owner and lockout authorisation set, and neither.
pub(super) const OWNED: u32 = 0x405;
pub(super) const FRESH: u32 = 0x400;

pub(super) struct Hashed([u8; 32], u64);

impl Hashed {
    pub(super) fn new(label: &str, number: u64) -> Self {
        Self(sha256(&[label.as_bytes(), &number.to_be_bytes()]), 0)
    }
}

impl Rng for Hashed {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for chunk in buffer.chunks_mut(32) {
            self.1 += 1;
            chunk.copy_from_slice(&sha256(&[&self.0, &self.1.to_be_bytes()])[..chunk.len()]);
        }
        Ok(())
    }
}

pub(super) fn signer<R: gridseal_crypto::role::Role>(label: &str) -> SigningKey<R> {
    SigningKey::new(&Key::generate_scalar(&mut Hashed::new(label, 0)).unwrap()).unwrap()
}

pub(super) fn second<R: gridseal_crypto::role::Role>(label: &str) -> SecondSigner<R> {
    SecondSigner::new(&Key::generate(&mut Hashed::new(label, 0)).unwrap()).unwrap()
}

pub(super) fn vendor() -> VoucherKey {
    let second = second::<VoucherSecond>("vendor second").public().id();
    let recovery_second = super::owner::second::<RecoverySecond>("recovery second").public().id();
    let recovery = RecoveryKey {
        key: signer::<RecoverySigning>("recovery").public(),
        second: Some(Digest(recovery_second)),
    };
    VoucherKey {
        key: signer::<VoucherSigning>("vendor").public(),
        second: Some(Digest(second)),
        recovery: Some(recovery),
    }
}

/// A certificate as far as a device looks into one: a TLV structure with the key in its place.
pub(super) fn certificate(key: &PublicKey) -> Vec<u8> {
    let tlv = |tag: u8, content: &[u8]| {
        assert!(content.len() < 256);
        let mut out = vec![tag];
        if content.len() >= 128 {
            out.push(0x81);
        }
        out.push(u8::try_from(content.len()).unwrap());
        out.extend_from_slice(content);
        out
    };
    let empty = tlv(0x30, &[]);
    let body = [
        tlv(0x02, &[1]),
        empty.clone(),
        empty.clone(),
        empty.clone(),
        empty.clone(),
        subject_public_key_info(key).to_vec(),
    ];
    tlv(0x30, &tlv(0x30, &body.concat()))
}

/// Sessions that the owner has asked for, and what it needs to use them.
pub(super) struct Tunnel {
    pub(super) seeds: Vec<Key<TpmSeed, 32>>,
    pub(super) callers: Vec<N16>,
    pub(super) opened: Vec<TpmSession>,
    pub(super) permanent: u32,
}

impl Tunnel {
    pub(super) fn session(&self, which: usize) -> TpmSessionKey {
        let nonces = SessionNonces { caller: self.callers[which].0, tpm: self.opened[which].nonce_tpm.0 };
        nonces.session_key(&self.seeds[which])
    }
}

/// The owner: signs and seals orders, opens results.
pub(super) struct Owner {
    pub(super) rng: Hashed,
    pub(super) key: SigningKey<OwnerSigning>,
    pub(super) config: SigningKey<ConfigSigning>,
    pub(super) generation: u32,
    pub(super) voucher: Voucher,
    pub(super) secret: Key<OwnerSecret, 32>,
    pub(super) ek_name: EkName,
    pub(super) endorsement: EndorsementKey,
    pub(super) epoch: u32,
    pub(super) seq: u64,
    pub(super) now: UtcTime,
    /// Lockout authorisation that the device's TPM was given, and the owner's.
    pub(super) auth: [Key<AuthValue, 32>; 2],
    pub(super) in_force: [Key<AuthValue, 32>; 2],
    /// Order without a result: number, R, payload, message.
    pub(super) pending: Option<(u64, Nonce, Vec<u8>, Vec<u8>)>,
    pub(super) tunnel: Option<Tunnel>,
    pub(super) clear_nonce: [u8; 16],
    pub(super) change_nonces: Vec<[u8; 16]>,
    pub(super) has_receipt: bool,
    /// Every result by number: a second one must be the same bytes.
    pub(super) results: BTreeMap<u64, Vec<u8>>,
    pub(super) answers: Vec<(Kind, Result<Answer, Code>)>,
}

impl Owner {
    pub(super) fn new(ek_public: &[u8]) -> Self {
        let ek_name = tpm::name(ek_public);
        let key = signer("owner key");
        let voucher = sold(ek_name, &key);
        let values = [[3u8; 32], [5; 32]];
        Self {
            rng: Hashed::new("owner", 2),
            key,
            config: signer("config"),
            generation: 1,
            voucher,
            secret: owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut DEVICE_ROOT.clone()), 1),
            ek_name,
            endorsement: tpm::endorsement_key(ek_public).unwrap(),
            epoch: 1,
            seq: 100,
            now: START,
            auth: values.map(|mut value| Key::take(&mut value)),
            in_force: values.map(|mut value| Key::take(&mut value)),
            pending: None,
            tunnel: None,
            clear_nonce: [0; 16],
            change_nonces: Vec::new(),
            has_receipt: false,
            results: BTreeMap::new(),
            answers: Vec::new(),
        }
    }

    pub(super) fn order(&mut self, task: Task) -> Vec<u8> {
        self.seq += 1;
        let order = Order { ek_name: self.ek_name, epoch: self.epoch, seq: self.seq, task, now: self.now };
        self.seal(order.seq, &order.encode(), |delegation| delegation)
    }

    pub(super) fn delegation(&self) -> Delegation {
        Delegation {
            owner_key: key_id(&self.key.public()),
            uses: 1,
            key: self.config.public(),
            generation: self.generation,
            not_before: START,
            not_after: UtcTime(START.0 + 1_000_000),
        }
    }

    pub(super) fn seal(
        &mut self,
        seq: u64,
        payload: &[u8],
        change: impl Fn(Delegation) -> Delegation,
    ) -> Vec<u8> {
        let r = Nonce(random(&mut self.rng).unwrap());
        let delegation = change(self.delegation()).encode();
        let body = OrderBody {
            signed: sign(&self.config, SignedType::Order, payload).unwrap(),
            delegation: sign(&self.key, SignedType::Delegation, &delegation).unwrap(),
        };
        let wire = seal_order(&self.secret.seal_order(seq, &r), seq, &r, &body).unwrap();
        self.pending = Some((seq, r, payload.to_vec(), wire.clone()));
        wire
    }

    /// Orders sessions for the owner and the lockout hierarchy.
    pub(super) fn sessions(&mut self, count: usize) -> Task {
        let (mut seeds, mut salts, mut callers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let (seed, salt) = self.endorsement.share_secret(SecretLabel::Secret, &mut self.rng).unwrap();
            seeds.push(seed);
            salts.push(salt);
            callers.push(N16(random(&mut self.rng).unwrap()));
        }
        let nonce_callers = callers.clone();
        self.tunnel = Some(Tunnel { seeds, callers, opened: Vec::new(), permanent: 0 });
        Task::Sessions { salts, nonce_callers }
    }

    /// A Clear in the last session, under the authorisation that the permanent bits show.
    pub(super) fn clear(&mut self) -> Task {
        let tunnel = self.tunnel.as_ref().unwrap();
        let which = tunnel.opened.len() - 1;
        self.clear_nonce = random(&mut self.rng).unwrap();
        let in_force = if tunnel.permanent & 4 == 0 {
            AuthInForce::Empty
        } else {
            AuthInForce::Value(&self.in_force[1])
        };
        Task::Commands(vec![clear_command(&Clear {
            session_handle: tunnel.opened[which].handle,
            session: &tunnel.session(which),
            in_force,
            nonce_tpm: tunnel.opened[which].nonce_tpm.0,
            nonce_caller: self.clear_nonce,
        })])
    }

    /// Sets both authorisations to the owner's values.
    pub(super) fn own(&mut self) -> Task {
        let tunnel = self.tunnel.as_ref().unwrap();
        self.change_nonces = (0..2).map(|_| random(&mut self.rng).unwrap()).collect();
        let command = |which: usize| {
            change_auth_command(&ChangeAuth {
                hierarchy: [tpm::RH_OWNER, tpm::RH_LOCKOUT][which],
                session_handle: tunnel.opened[which].handle,
                session: &tunnel.session(which),
                in_force: match tunnel.permanent & [1, 4][which] {
                    0 => AuthInForce::Empty,
                    _ => AuthInForce::Value(&self.in_force[which]),
                },
                new: &self.auth[which],
                nonce_tpm: tunnel.opened[which].nonce_tpm.0,
                nonce_caller: self.change_nonces[which],
                keep_session: false,
            })
        };
        Task::Commands(vec![command(0), command(1)])
    }

    /// What the owner answers: an order, the uniform error, or nothing to a result.
    pub(super) fn answer(&mut self, wire: &[u8]) -> Reply {
        match Envelope::decode(wire).unwrap() {
            envelope @ Envelope::Poll { kid, r3, .. } => {
                assert_eq!(kid, self.secret.kid());
                let body = envelope.open(&self.secret.seal_poll(&r3)).unwrap();
                assert!(PollBody::decode(&body).unwrap().last_seq <= self.seq);
                match &self.pending {
                    Some((.., wire)) => Reply::Message(wire.clone()),
                    None => Reply::Message(encode_error(&kid.0, Code::Busy, 60)),
                }
            }
            envelope @ Envelope::Result { seq, r2, .. } => {
                let before = self.results.insert(seq, wire.to_vec());
                assert!(before.is_none_or(|before| before == wire), "two results of order {seq}");
                let pending = self.pending.take_if(|(pending, ..)| *pending == seq);
                let Some((_, r, payload, _)) = pending else { return Reply::Taken };
                let body = envelope.open(&self.secret.seal_result(seq, &r, &r2)).unwrap();
                let kind = Order::decode(&payload).unwrap().task.kind();
                let result = ResultBody::decode(&body, kind).unwrap();
                assert_eq!(result.order, order_digest(&payload));
                self.note(&result.outcome);
                self.answers.push((kind, result.outcome));
                Reply::Taken
            }
            Envelope::Order { .. } => panic!("an order from a device"),
        }
    }

    pub(super) fn note(&mut self, outcome: &Result<Answer, Code>) {
        match outcome {
            Ok(Answer::Sessions { sessions, permanent }) => {
                let tunnel = self.tunnel.as_mut().unwrap();
                (tunnel.opened, tunnel.permanent) = (sessions.clone(), *permanent);
            }
            Ok(Answer::Responses { responses, .. }) => {
                let tunnel = self.tunnel.as_ref().unwrap();
                if let (Some(last), false) = (responses.last(), tunnel.opened.is_empty()) {
                    let session = tunnel.session(tunnel.opened.len() - 1);
                    self.has_receipt |= clear_confirmed(&session, &self.clear_nonce, last);
                }
            }
            _ => {}
        }
    }
}

impl Owner {
    pub(super) fn pin(&self) -> OwnerPin {
        let verified = self.voucher.verify(&[vendor()]).unwrap();
        OwnerPin { index: verified.index(), generation: self.generation, entry: verified.head() }
    }

    /// The voucher's next entry, its second signature, and the voucher with it.
    pub(super) fn entry(
        &self,
        kind: EntryKind,
        to: &SigningKey<OwnerSigning>,
    ) -> (Vec<u8>, Vec<u8>, Voucher) {
        let mut voucher = self.voucher.clone();
        let entry = Entry {
            index: 0,
            epoch: self.epoch + u32::from(kind == EntryKind::Transfer),
            kind,
            previous: Digest([0; 32]),
            owner: to.public(),
            encryption: to.public(),
            issued: START,
            second_key: None,
            owner_second: Some(Digest(second::<OwnerSecond>("owner second").public().id())),
        };
        let second = second::<OwnerSecond>("owner second");
        voucher.extend(entry, &self.key, Some(&second)).unwrap();
        let last = voucher.entries.len();
        (voucher.entries[last - 1].clone(), voucher.second[last].clone(), voucher)
    }
}

pub(super) fn perform(root: &mut SoftwareRoot, request: RootRequest) -> RootReply {
    root.perform(request).unwrap()
}

/// A voucher with its first entry: to this owner, whose second key it names.
pub(super) fn sold(ek_name: EkName, to: &SigningKey<OwnerSigning>) -> Voucher {
    let header = Header {
        ek_name,
        model: "GS-1".into(),
        serial: "GS-0000001".into(),
        n_commit: Digest([1; 32]),
        second_key: None,
    };
    let (key, second_vendor) = (signer::<VoucherSigning>("vendor"), second::<VoucherSecond>("vendor second"));
    let mut voucher = Voucher::issue(header, &key, Some(&second_vendor)).unwrap();
    let entry = Entry {
        index: 1,
        epoch: 1,
        kind: EntryKind::Transfer,
        previous: Digest([0; 32]),
        owner: to.public(),
        encryption: to.public(),
        issued: START,
        second_key: None,
        owner_second: Some(Digest(second::<OwnerSecond>("owner second").public().id())),
    };
    voucher.extend(entry, &key, Some(&second_vendor)).unwrap();
    voucher
}
