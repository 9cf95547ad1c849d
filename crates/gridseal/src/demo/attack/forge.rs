//! Messages as somebody makes them who has stolen what it takes: an owner secret, a signing key, a manufacturer's key.

use super::hostile::Act;
use anyhow::{Context, Result, anyhow, bail};
use gridseal_crypto::{
    Key, PublicKey, Signer, SigningKey, random,
    role::{ActivationSecret, ConfigSigning, InitSigning, OwnerSecret, OwnerSigning, Role, Seal},
    tpm::{SecretLabel, make_credential},
};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_trust::{
    enrol::{
        cose::{SignedType, key_id, sign},
        document::{Delegation, Redirect},
        init::{InitHello, InitRedirect},
        order::{Order, OrderBody, seal_order},
        secrets::OwnerSecretExt,
        session::{
            ChallengeBody, ChallengePayload, Envelope, HelloBody, Step, Transcript, open, seal_challenge,
            seal_hello, seal_message, sid_of,
        },
        wire::{Reader, encode},
    },
    tpm,
};
use gridseal_types::{Digest, EkName, N16, Nonce, Sid, UtcTime};

pub(super) fn fresh<R: Role>() -> Result<SigningKey<R>> {
    Ok(SigningKey::new(&Key::<R, 32>::generate_scalar(&mut OsRng)?)?)
}

pub(super) fn nonce() -> Result<Nonce> {
    Ok(Nonce(random(&mut OsRng)?))
}

fn coded<T>(result: Result<T, gridseal_types::Code>) -> Result<T> {
    result.map_err(|code| anyhow!("{code}"))
}

/// The question I1 about a device, as anybody may ask it.
pub(super) fn init_question(device: &EkName) -> Result<Vec<u8>> {
    let m = nonce()?;
    Ok(encode(|w| {
        w.array(4).uint(1u8).uint(20u8).bytes(m.as_bytes()).map(3);
        w.key(1).array(1).uint(1u8).key(2).bytes(device.as_bytes()).key(3).uint(0u8);
    }))
}

/// The question I1 with these public keys.
pub(super) fn init_question_with(ek_pub: &[u8], iak_pub: &[u8]) -> Result<Vec<u8>> {
    let hello = InitHello {
        m: nonce()?,
        suites: vec![1],
        ek_name: tpm::name(ek_pub),
        epoch: 0,
        iak_pub: Some(iak_pub.to_vec()),
        ek_pub: Some(ek_pub.to_vec()),
    };
    Ok(hello.encode())
}

/// The m on the envelope of an I2; `None` for any other message.
pub(super) fn m_of_redirect(wire: &[u8]) -> Option<Nonce> {
    Reader::whole(wire, |r| {
        r.array(4..=4, |r, _| {
            r.constant(1)?;
            r.constant(23)?;
            let m = Nonce(r.fixed()?);
            r.skip()?;
            Ok(m)
        })
    })
    .ok()
}

/// An I2 with another payload, signed by `signer`. What is no I2 is left as it is.
pub(super) fn redirect_answer(
    wire: Vec<u8>,
    init: &PublicKey,
    signer: &SigningKey<InitSigning>,
    change: impl FnOnce(&mut InitRedirect),
) -> Vec<u8> {
    let Some(m) = m_of_redirect(&wire) else { return wire };
    let Ok(mut payload) = InitRedirect::open(&wire, std::slice::from_ref(init), &m) else { return wire };
    change(&mut payload);
    match sign(signer, SignedType::I2, &payload.encode_payload()) {
        Ok(signed) => InitRedirect::encode_message(&m, &signed),
        Err(_) => wire,
    }
}

/// A redirect to a place of the attacker's choice.
pub(super) fn redirect(signer: &SigningKey<OwnerSigning>, device: EkName, epoch: u32) -> Result<Vec<u8>> {
    let now = utc_now();
    let redirect = Redirect {
        ek_name: device,
        epoch,
        urls: vec!["https://thief.example:443".into()],
        pins: vec![Digest([7; 32])],
        not_before: UtcTime(now.0.saturating_sub(300)),
        expires: UtcTime(now.0.saturating_add(86_400)),
        seq: 1_000_000,
    };
    Ok(sign(signer, SignedType::Redirect, &redirect.encode())?)
}

/// A delegation by `owner` to `config`.
pub(super) fn delegation(owner: &SigningKey<OwnerSigning>, config: PublicKey) -> Result<Vec<u8>> {
    let now = utc_now();
    let delegation = Delegation {
        owner_key: key_id(&owner.public()),
        uses: 3,
        key: config,
        generation: 1_000,
        not_before: UtcTime(now.0.saturating_sub(300)),
        not_after: UtcTime(now.0.saturating_add(86_400)),
    };
    Ok(sign(owner, SignedType::Delegation, &delegation.encode())?)
}

/// Opens a C1 with the owner secret.
pub(super) fn opened_hello(secret: &Key<OwnerSecret, 32>, wire: &[u8]) -> Result<(Nonce, HelloBody)> {
    let envelope = Envelope::decode(wire)?;
    let Envelope::Hello { m, .. } = envelope else { bail!("no C1") };
    let body = coded(open(&secret.seal_c1(&m), &envelope))?;
    Ok((m, HelloBody::decode(&body)?))
}

/// A C1 under this owner secret.
pub(super) fn hello(secret: &Key<OwnerSecret, 32>, m: &Nonce, body: &[u8]) -> Result<Vec<u8>> {
    coded(seal_hello(&secret.seal_c1(m), &secret.kid(), m, body))
}

/// A C1 with another body, everything else as it was; what is no C1 stays as it is.
pub(super) fn changed_hello(
    secret: &Key<OwnerSecret, 32>,
    wire: &[u8],
    change: impl FnOnce(&mut HelloBody),
) -> Vec<u8> {
    let Ok((m, mut body)) = opened_hello(secret, wire) else { return wire.to_vec() };
    change(&mut body);
    hello(secret, &m, &body.encode()).unwrap_or_else(|_| wire.to_vec())
}

/// An order as whoever has all that it takes makes it.
pub(super) fn order(authority: &Authority<'_>, order: &Order) -> Result<Vec<u8>> {
    let body = OrderBody {
        signed: sign(authority.config, SignedType::Order, &order.encode())?,
        delegation: authority.delegation.to_vec(),
    };
    let r = nonce()?;
    coded(seal_order(&authority.secret.seal_order(order.seq, &r), order.seq, &r, &body))
}

/// What a forged C2, or a forged order, rests on.
pub(super) struct Authority<'a> {
    /// Owner secret of the victim.
    pub(super) secret: &'a Key<OwnerSecret, 32>,
    /// Key that signs.
    pub(super) config: &'a SigningKey<ConfigSigning>,
    /// Delegation to it.
    pub(super) delegation: &'a [u8],
}

/// A session that the attacker leads with a victim.
pub(super) struct Led {
    /// C2.
    pub(super) challenge: Vec<u8>,
    /// Session.
    pub(super) sid: Sid,
    /// Transcript after C2.
    pub(super) th2: Transcript,
    activation: Key<ActivationSecret, 32>,
}

impl Led {
    /// Answers a C1: a credential of the attacker's own for the victim's TPM, salts for its sessions.
    pub(super) fn begin(
        authority: &Authority<'_>,
        c1: &[u8],
        change: impl FnOnce(&mut ChallengePayload),
    ) -> Result<Self> {
        let (m, body) = opened_hello(authority.secret, c1)?;
        let endorsement = coded(tpm::endorsement_key(&body.ek_pub))?;
        let activation = Key::<ActivationSecret, 32>::generate(&mut OsRng)?;
        let (seed, secret) = endorsement.share_secret(SecretLabel::Identity, &mut OsRng)?;
        let mut salts = [Vec::new(), Vec::new()];
        for salt in &mut salts {
            *salt = endorsement.share_secret(SecretLabel::Secret, &mut OsRng)?.1;
        }
        let (m_em, th1) = (nonce()?, Transcript::new().after(Step::HELLO, c1));
        let mut payload = ChallengePayload {
            th1: th1.value(),
            ek_name: body.ek_name,
            epoch: body.epoch,
            suite: *body.suites.first().context("no suite")?,
            suites: body.suites,
            credential: make_credential(&seed, &tpm::name(&body.ak_pub).0, &activation),
            secret,
            salts,
            nonce_callers: [N16(random(&mut OsRng)?), N16(random(&mut OsRng)?)],
            pcr_selection: tpm::pcr_selection(&[0, 7, 11]),
            ima_next: 0,
            voucher_head: body.voucher_head,
            m,
            m_em,
        };
        change(&mut payload);
        let payload = payload.encode();
        let body = ChallengeBody {
            signed: sign(authority.config, SignedType::C2, &payload)?,
            grant: authority.secret.grant(&th1.value(), &payload),
            delegation: authority.delegation.to_vec(),
        };
        let sid = sid_of(c1);
        let seal = authority.secret.seal_c2(&m, &m_em);
        let challenge = coded(seal_challenge(&seal, &sid, &m_em, &body.encode()))?;
        let th2 = th1.after(Step::CHALLENGE, &challenge);
        Ok(Self { challenge, sid, th2, activation })
    }

    /// K_s of the session.
    pub(super) fn session(
        &self,
        secret: &Key<OwnerSecret, 32>,
    ) -> Key<gridseal_crypto::role::SessionSecret, 32> {
        secret.session(&self.th2.value(), &self.activation)
    }
}

/// A message under a key that was made up.
pub(super) fn guessed(step: Step, sid: &Sid) -> Result<Vec<u8>> {
    let seal = Key::<Seal, 32>::generate(&mut OsRng)?;
    coded(seal_message(&seal, step, sid, &[0xa0]))
}

/// A C2 under a key that was made up.
pub(super) fn guessed_challenge(c1: &[u8]) -> Result<Vec<u8>> {
    let seal = Key::<Seal, 32>::generate(&mut OsRng)?;
    coded(seal_challenge(&seal, &sid_of(c1), &nonce()?, &[0x83]))
}

/// Whether these bytes are the message of this number.
pub(super) fn is_step(wire: &[u8], step: Step) -> bool {
    Envelope::decode(wire).is_ok_and(|envelope| envelope.step() == Some(step))
}

/// The message with its last bit changed.
pub(super) fn flipped(mut wire: Vec<u8>) -> Vec<u8> {
    if let Some(last) = wire.last_mut() {
        *last ^= 1;
    }
    wire
}

/// What a thief does with questions who has an owner's secret and answers each C1 as the owner would.
pub(super) fn posing_as_owner(
    secret: Key<OwnerSecret, 32>,
    config: SigningKey<ConfigSigning>,
    delegation: Vec<u8>,
) -> impl FnMut(&[u8]) -> Act + Send + 'static {
    move |question| {
        let authority = Authority { secret: &secret, config: &config, delegation: &delegation };
        match Led::begin(&authority, question, |_| ()) {
            Ok(led) if is_step(question, Step::HELLO) => Act::Answer(led.challenge),
            _ => Act::Silence,
        }
    }
}
