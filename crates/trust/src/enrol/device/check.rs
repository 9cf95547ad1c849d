//! What the device checks before it acts: redirect, challenge, commands, configuration.
//!
//! # Source
//! Onboarding specification, section 7.2.

use alloc::{boxed::Box, vec::Vec};

use gridseal_crypto::tpm::SEALED_PUBLIC_HEAD;
use gridseal_types::{Code, Digest, EkName, Nonce, Tick, service::keys::Bytes};

use super::{CHALLENGES_MAX, Challenge, DeliveredKey, Device, Installed, Session};
use crate::{
    csr::certificate_key,
    enrol::{
        cose::{Sign1, SignedType},
        document::Use,
        init::{INIT_SIZE_MAX, InitChallenge, InitRedirect, VerifiedRedirect},
        secrets::{OwnerSecretExt, SessionSecretExt},
        session::{
            ChallengeBody, ChallengePayload, Config, Configuration, Envelope, FinishedPayload,
            MESSAGE_SIZE_MAX, OwnPayload, Step, config_digest, open, suite_of,
        },
        wire::Reader,
    },
    root::{ImportObject, KeyBlob, OwnerPin},
    tpm::{self, Tunnelled},
};

impl Device {
    /// I1C: for our nonce, asked once, and not too often. It is not signed: what it costs is one operation of the root,
    /// whose result leaves only as an HMAC.
    pub(super) fn check_init_challenge(
        &mut self,
        now: Tick,
        m: &Nonce,
        is_proof: bool,
        wire: &[u8],
    ) -> Result<InitChallenge, Code> {
        if wire.len() > INIT_SIZE_MAX {
            return Err(Code::Size);
        }
        let challenge = InitChallenge::decode(wire)?;
        if challenge.m != *m {
            return Err(Code::Nonce);
        }
        if is_proof {
            return Err(Code::State);
        }
        let window = self.firmware.pace.challenges();
        self.challenged.retain(|at| now.since(*at) < window);
        if self.challenged.len() >= CHALLENGES_MAX { Err(Code::Busy) } else { Ok(challenge) }
    }

    /// I2: signed by an init key, for this device and nonce; voucher and redirect valid; not older than what was accepted.
    pub(super) fn check_redirect(
        &self,
        wire: &[u8],
        m: &Nonce,
    ) -> Result<(InitRedirect, VerifiedRedirect), Code> {
        let answer = InitRedirect::open(wire, &self.firmware.init_keys, m)?;
        let description = self.description.as_ref().ok_or(Code::State)?;
        if answer.ek_name != tpm::name(&description.ek_public) {
            return Err(Code::RedirectSig);
        }
        if answer.suite != suite_of(&description.ek_public)? {
            return Err(Code::Suite);
        }
        let verified = answer.signed.verify(&self.firmware.voucher_keys)?;
        if verified.redirect.ek_name != answer.ek_name {
            return Err(Code::RedirectSig);
        }
        if verified.voucher.epoch < description.epoch {
            return Err(Code::EpochMismatch);
        }
        if let Some(pin) = &description.pin {
            verified.voucher.contains(pin)?;
        }
        if let Some((epoch, seq)) = self.record.redirect_seq
            && verified.redirect.epoch == epoch
            && verified.redirect.seq < seq
        {
            return Err(Code::Rollback);
        }
        if verified.redirect.expires < self.record.floor {
            return Err(Code::Time);
        }
        Ok((answer, verified))
    }

    /// C2: both signature and grant; nothing it carries reaches the TPM before.
    pub(super) fn check_challenge(&self, session: &Session, wire: &[u8]) -> Result<Challenge, Code> {
        let envelope = decoded(wire)?;
        let Envelope::Challenge { sid, m_em, .. } = envelope else { return Err(Code::Format) };
        if sid != session.sid {
            return Err(Code::Nonce);
        }
        let seal = session.owner_secret.seal_c2(&session.m, &m_em);
        let body = ChallengeBody::decode(&open(&seal, &envelope)?)?;
        let signed = Sign1::decode(&body.signed)?;
        let th1 = session.transcript.value();
        if !session.owner_secret.grant_verifies(&th1, signed.payload, &body.grant) {
            return Err(Code::Grant);
        }
        let delegation = session.redirect.voucher.delegate(&body.delegation, Use::Config)?;
        let voucher = &session.redirect.voucher;
        let stored = self.description.as_ref().and_then(|description| description.pin);
        // A new entry restarts the generation at 0; under the same entry it never falls.
        let least = stored.filter(|pin| pin.entry == voucher.head()).map_or(0, |pin| pin.generation);
        if delegation.generation < least || delegation.not_after < self.record.floor {
            return Err(Code::ConfigChain);
        }
        if !signed.verify(SignedType::C2, &delegation.key) {
            return Err(Code::ConfigChain);
        }
        let payload = ChallengePayload::decode(signed.payload)?;
        if payload.epoch != voucher.epoch {
            return Err(Code::EpochMismatch);
        }
        if payload.suites != [session.suite] || payload.suite != session.suite {
            return Err(Code::Suite);
        }
        if payload.m != session.m || payload.m_em != m_em {
            return Err(Code::Nonce);
        }
        let same = payload.th1 == th1
            && payload.ek_name == session.ek_name
            && payload.voucher_head == voucher.head();
        if !same {
            return Err(Code::Transcript);
        }
        let pin =
            OwnerPin { index: voucher.index(), generation: delegation.generation, entry: voucher.head() };
        Ok(Challenge { payload, config_key: delegation.key, pin })
    }

    /// Opens C4, C6 or C8 and checks K_config's signature; returns the payload.
    fn open_signed(session: &Session, wire: &[u8], step: Step, kind: SignedType) -> Result<Vec<u8>, Code> {
        let envelope = decoded(wire)?;
        match envelope {
            Envelope::Message { step: found, sid, .. } if found == step && sid == session.sid => {}
            Envelope::Message { .. } => return Err(Code::Nonce),
            _ => return Err(Code::Format),
        }
        let secrets = session.secrets.as_ref().ok_or(Code::State)?;
        let challenge = session.challenge.as_ref().ok_or(Code::State)?;
        let body = open(&secrets.session.owner_to_device(), &envelope)?;
        // The plaintext is the signed object as a byte string, with its head.
        let signed = Sign1::decode(Reader::whole(&body, |r| r.bytes(1..=MESSAGE_SIZE_MAX))?)?;
        if !signed.verify(kind, &challenge.config_key) {
            return Err(Code::ConfigChain);
        }
        Ok(signed.payload.to_vec())
    }

    /// C4: this session's transcript, and only commands that the allow-list has.
    pub(super) fn check_commands(session: &Session, wire: &[u8]) -> Result<Vec<Vec<u8>>, Code> {
        let payload = Self::open_signed(session, wire, Step::COMMANDS, SignedType::C4)?;
        let own = OwnPayload::decode(&payload)?;
        if own.th3 != session.transcript.value() {
            return Err(Code::Transcript);
        }
        let secrets = session.secrets.as_ref().ok_or(Code::State)?;
        let handles = secrets.attested.sessions.map(|opened| opened.handle);
        for command in &own.commands {
            if tpm::check_tunnelled(command, &handles)? != Tunnelled::ChangeAuth {
                return Err(Code::Command);
            }
        }
        Ok(own.commands)
    }

    /// C6: newer than what is installed, for this pin and this TLS key, objects of the announced shape.
    pub(super) fn check_configuration(
        &self,
        session: &Session,
        wire: &[u8],
    ) -> Result<(Box<Installed>, Vec<ImportObject>), Code> {
        let payload = Self::open_signed(session, wire, Step::PROVISION, SignedType::C6)?;
        let Configuration { th5, config } = Configuration::decode(&payload)?;
        if th5 != session.transcript.value() {
            return Err(Code::Transcript);
        }
        let challenge = session.challenge.as_ref().ok_or(Code::State)?;
        let keys = self.record.keys.as_ref().ok_or(Code::State)?;
        self.check_config(config, &challenge.pin, &keys.tls, config_digest(&payload))
    }

    /// What holds for every configuration: newer than what is installed, for this epoch, pin and TLS key, objects of the
    /// announced shape. `digest` names it.
    pub(super) fn check_config(
        &self,
        config: Config,
        pin: &OwnerPin,
        tls: &KeyBlob,
        digest: Digest,
    ) -> Result<(Box<Installed>, Vec<ImportObject>), Code> {
        let description = self.description.as_ref().ok_or(Code::State)?;
        if config.epoch != description.epoch {
            return Err(Code::EpochMismatch);
        }
        if config.pin != *pin {
            return Err(Code::Pin);
        }
        // One that was never confirmed does not count: the owner may not know that it arrived.
        let (version, previous) = self
            .record
            .installed
            .as_ref()
            .filter(|installed| installed.confirmed)
            .map_or((0, Digest([0; 32])), |installed| (installed.policy_version, installed.digest));
        if config.policy_version <= version || config.previous != previous || config.now < self.record.floor {
            return Err(Code::Rollback);
        }
        let own_key = tpm::tls_key(&tls.public).ok();
        let leaf = config.ldevid_chain.first().and_then(|leaf| certificate_key(leaf));
        if own_key.is_none() || leaf != own_key {
            return Err(Code::Csr);
        }
        for (at, object) in config.objects.iter().enumerate() {
            let is_repeated = config.objects.iter().take(at).any(|earlier| earlier.id == object.id);
            if is_repeated || !object.public.starts_with(&SEALED_PUBLIC_HEAD) {
                return Err(Code::Object);
            }
        }
        let installed = Installed {
            ldevid_chain: config.ldevid_chain.into_iter().map(Bytes).collect(),
            ca_bundle: config.ca_bundle.into_iter().map(Bytes).collect(),
            terminus_urls: config.terminus_urls,
            terminus_pins: config.terminus_pins,
            keys: config.objects.iter().map(announced).collect(),
            policy_version: config.policy_version,
            digest,
            pin: config.pin,
            confirmed: false,
            is_counting: false,
            generation: description.generation,
        };
        let import = |object: crate::enrol::session::DeliveredObject| ImportObject {
            public: object.public,
            duplicate: object.duplicate,
            in_sym_seed: object.in_sym_seed,
        };
        Ok((Box::new(installed), config.objects.into_iter().map(import).collect()))
    }

    /// The root's answer to the import: Names as announced. Puts the blobs where the announcement stood.
    pub(super) fn check_imported(
        installed: &mut Installed,
        imported: Vec<(KeyBlob, EkName)>,
    ) -> Result<Vec<EkName>, Code> {
        if imported.len() != installed.keys.len() {
            return Err(Code::Object);
        }
        let mut names = Vec::with_capacity(imported.len());
        for (key, (blob, name)) in installed.keys.iter_mut().zip(imported) {
            if name != tpm::name(&key.blob.public) || blob.public != key.blob.public {
                return Err(Code::Object);
            }
            key.blob = blob;
            names.push(name);
        }
        Ok(names)
    }

    /// C8: the end of this session; gives the owner's time.
    pub(super) fn check_done(session: &Session, wire: &[u8]) -> Result<FinishedPayload, Code> {
        let payload = Self::open_signed(session, wire, Step::DONE, SignedType::C8)?;
        let finished = FinishedPayload::decode(&payload)?;
        if finished.th7 == session.transcript.value() { Ok(finished) } else { Err(Code::Transcript) }
    }
}

/// Envelope of a message to the device, none of which is larger than the common limit.
fn decoded(wire: &[u8]) -> Result<Envelope<'_>, Code> {
    if wire.len() > MESSAGE_SIZE_MAX { Err(Code::Size) } else { Ok(Envelope::decode(wire)?) }
}

/// An object before its import: public area only.
fn announced(object: &crate::enrol::session::DeliveredObject) -> DeliveredKey {
    DeliveredKey { id: object.id, blob: KeyBlob { public: object.public.clone(), private: Vec::new() } }
}
