//! The endorsement challenge: a device is told where its owner is only once its TPM has answered.
//!
//! I1 names the endorsement key, whose Name is the device's, and the identity key. The credential of I1C opens only in the
//! TPM that has both; the answer I1P is an HMAC under it. A known and an unknown device get the same challenge and, unless
//! they are to be told something, the same refusal.
//!
//! # Source
//! Onboarding specification, sections 7.2, 7.7 and 18.4.

use alloc::{collections::VecDeque, vec::Vec};

use gridseal_crypto::{Key, Rng, Signer, ct_eq, random, tpm::SecretLabel, tpm::make_credential};
use gridseal_trust::{
    enrol::{
        init::{
            INIT_HELLO_SIZE_MAX, InitChallenge, InitHello, InitProof, init_proof, is_proof, is_registration,
        },
        session::suite_of,
    },
    tpm,
};
use gridseal_types::{
    Code, Digest, EkName, Nonce, UtcTime,
    records::{Overlay, Records, RecordsError},
};

use super::{Answer, InitServer};

/// Most challenges that wait for their answer; the oldest is dropped.
pub const PENDING_MAX: usize = 4_096;
/// How long a challenge waits for its answer, seconds.
pub const PENDING_S: u64 = 300;

/// A challenge under way. The credential itself is not kept: the answer is compared with the one answer there is.
struct Pending {
    device: EkName,
    suite: u16,
    m: Nonce,
    n: Nonce,
    proof: Digest,
    until: UtcTime,
}

/// Challenges under way, in memory: who loses them costs devices a new I1.
#[derive(Default)]
pub struct Challenges(VecDeque<Pending>);

impl core::fmt::Debug for Challenges {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Challenges({} under way)", self.0.len())
    }
}

impl Challenges {
    /// Answers one message as [`InitServer::answer`] does, but tells nobody anything who has not proven its TPM.
    ///
    /// # Errors
    /// [`RecordsError`]: no answer.
    pub fn answer<S: Signer, R: Records>(
        &mut self,
        server: &InitServer<S>,
        (records, rng): (&R, &mut dyn Rng),
        now: UtcTime,
        wire: &[u8],
    ) -> Result<Answer, RecordsError> {
        if is_registration(wire) {
            return server.answer(records, now, wire);
        }
        self.0.retain(|pending| pending.until > now);
        let outcome = if is_proof(wire) {
            match self.proven(wire) {
                Ok(pending) => {
                    server.redirect_of(&Overlay::new(records), &pending.device, &pending.m, pending.suite)?
                }
                Err(code) => Err(code),
            }
        } else {
            self.challenge(rng, now, wire)
        };
        Ok(super::answer_of(Vec::new(), outcome))
    }

    fn challenge(&mut self, rng: &mut dyn Rng, now: UtcTime, wire: &[u8]) -> Result<Vec<u8>, Code> {
        if wire.len() > INIT_HELLO_SIZE_MAX {
            return Err(Code::Size);
        }
        let hello = InitHello::decode(wire)?;
        let (Some(ek_pub), Some(iak_pub)) = (&hello.ek_pub, &hello.iak_pub) else {
            return Err(Code::Format);
        };
        // Nothing here depends on whether the device is known.
        if tpm::name(ek_pub) != hello.ek_name {
            return Err(Code::Endorsement);
        }
        let suite = suite_of(ek_pub)?;
        if hello.suites.first() != Some(&suite) {
            return Err(Code::Suite);
        }
        tpm::identity_key(iak_pub).map_err(|_| Code::AkAttr)?;
        let credential = Key::generate(rng).map_err(|_| Code::Busy)?;
        let endorsement = tpm::endorsement_key(ek_pub)?;
        let (seed, secret) = endorsement.share_secret(SecretLabel::Identity, rng).map_err(|_| Code::Busy)?;
        let n = Nonce(random(rng).map_err(|_| Code::Busy)?);
        let challenge = InitChallenge {
            m: hello.m,
            credential: make_credential(&seed, tpm::name(iak_pub).as_bytes(), &credential),
            secret,
            n,
        }
        .encode();
        if self.0.len() >= PENDING_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Pending {
            device: hello.ek_name,
            suite,
            m: hello.m,
            n,
            proof: init_proof(&credential, wire, &challenge),
            until: UtcTime(now.0.saturating_add(PENDING_S)),
        });
        Ok(challenge)
    }

    /// The challenge that this answers. It stays until its time is up, so that a lost redirect can be asked for again with
    /// the same bytes.
    fn proven(&self, wire: &[u8]) -> Result<&Pending, Code> {
        if wire.len() > INIT_HELLO_SIZE_MAX {
            return Err(Code::Size);
        }
        let proof = InitProof::decode(wire)?;
        let pending = self.0.iter().find(|pending| pending.n == proof.n && pending.m == proof.m);
        let pending = pending.ok_or(Code::Nonce)?;
        if ct_eq(pending.proof.as_bytes(), proof.proof.as_bytes()) { Ok(pending) } else { Err(Code::Act) }
    }
}
