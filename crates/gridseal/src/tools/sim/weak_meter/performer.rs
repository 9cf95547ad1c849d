//! The keys of the weak meter: an honest performer, and what each weakness makes of it.

use std::collections::BTreeSet;

use anyhow::Result;
use gridseal_crypto::{Rng, RngError};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::{
        carrier::{CipheredApdu, Signing},
        tag,
    },
    assoc::{AssociationHandle, CryptoFault, CryptoResult, Done, Operation, PeerChallenge, Protection},
    suite::local::LocalSettings,
};
use gridseal_io::rng::OsRng;
use gridseal_types::SystemTitle;

use super::Weakness;
use crate::{
    lab::{Lab, Side},
    tools::dlms::probe::raw::{self, Honest, Performer, Raw, Seal},
};

/// The password that opens a meter with a default password.
const DEFAULT_PASSWORD: &[u8] = b"12345678";
/// Bytes of a short challenge.
const SHORT: usize = 4;

/// Gives the same bytes for ever.
struct Stuck;

impl Rng for Stuck {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.fill(0x5C);
        Ok(())
    }
}

/// Opens a protected body, well or badly.
type Opener = fn(&dyn Raw, Seal, &[u8]) -> Option<Vec<u8>>;

/// What belongs to one association.
#[derive(Debug, Default)]
pub struct Local {
    short: Option<Vec<u8>>,
    counter: Option<u32>,
}

/// Keys and counters.
pub struct Keys {
    raw: Box<dyn Raw>,
    honest: Performer,
    weak: BTreeSet<Weakness>,
    client: SystemTitle,
    server: SystemTitle,
    suite: u8,
    first_counter: u32,
    required: Protection,
    /// Last counter accepted.
    pub last_counter: u32,
}

impl Keys {
    /// The server's half of a lab file.
    pub fn new(lab: &Lab, weak: BTreeSet<Weakness>) -> Result<Self> {
        let raw = raw::load(lab, Side::Server)?;
        let rng: Box<dyn Rng + Send> =
            if weak.contains(&Weakness::ChallengeFixed) { Box::new(Stuck) } else { Box::new(OsRng) };
        let settings = LocalSettings {
            legacy_mechanisms: true,
            danger_unauthenticated: true,
            ..lab.local_settings(Side::Server)
        };
        let counter = lab.server.invocation_counter;
        let honest = raw.performer(Honest { lab, side: Side::Server, settings, counter, rng })?;
        Ok(Self {
            raw,
            honest,
            weak,
            client: lab.client.system_title,
            server: lab.server.system_title,
            suite: lab.suite,
            first_counter: counter,
            required: lab.protection,
            last_counter: 0,
        })
    }

    fn is(&self, weakness: Weakness) -> bool {
        self.weak.contains(&weakness)
    }

    /// Performs an operation, as well as this meter does.
    pub fn perform(
        &mut self,
        handle: AssociationHandle,
        operation: &Operation,
        local: &mut Local,
    ) -> CryptoResult {
        match operation {
            Operation::OpenInitiate { apdu, peer } => {
                self.open_initiate(handle, operation, (apdu.as_slice(), *peer))
            }
            Operation::Open { apdu, peer, is_broadcast: false } => {
                self.open(handle, operation, (apdu.as_slice(), peer.unwrap_or(self.client)))
            }
            Operation::Seal { apdu, .. }
                if self.is(Weakness::PlainAnswer) && apdu.first() == Some(&tag::GET_RESPONSE) =>
            {
                Ok(Done::Bytes(apdu.clone()))
            }
            Operation::Seal { carrier, protection, apdu, .. } if self.is(Weakness::ServerCounterReset) => {
                let counter = local.counter.unwrap_or(self.first_counter);
                local.counter = Some(counter.saturating_add(1));
                let seal = Seal { control: protection.bits() | self.suite, title: self.server, counter };
                let tag = apdu.first().copied().unwrap_or_default();
                let body = self.raw.seal(seal, apdu).ok_or(CryptoFault::Unavailable)?;
                seal.carried(*carrier, tag, &body).map(Done::Bytes).ok_or(CryptoFault::Form)
            }
            Operation::Challenge(Mechanism::Manufacturer) if self.is(Weakness::MechanismManufacturer) => {
                (self.honest)(handle, &Operation::Challenge(Mechanism::Gmac))
            }
            Operation::Challenge(_) if self.is(Weakness::ChallengeShort) => {
                let Done::Bytes(mut challenge) = (self.honest)(handle, operation)? else {
                    return Err(CryptoFault::Form);
                };
                challenge.truncate(SHORT);
                local.short = Some(challenge.clone());
                Ok(Done::Bytes(challenge))
            }
            Operation::HlsVerify { .. } if self.is(Weakness::HlsWrongAccepted) => {
                let _ = (self.honest)(handle, operation);
                Ok(Done::Verified)
            }
            Operation::HlsVerify { peer, reply } if local.short.is_some() => {
                let challenge = local.short.take().unwrap_or_default();
                self.verify_short(peer, reply, &challenge)
            }
            Operation::HlsReply(_) if self.is(Weakness::HlsUnproven) => {
                let Done::Bytes(mut reply) = (self.honest)(handle, operation)? else {
                    return Err(CryptoFault::Form);
                };
                if let Some(last) = reply.last_mut() {
                    *last ^= 1;
                }
                Ok(Done::Bytes(reply))
            }
            Operation::CheckPassword(password)
                if self.is(Weakness::PasswordDefault) && password == DEFAULT_PASSWORD =>
            {
                Ok(Done::Verified)
            }
            _ => (self.honest)(handle, operation),
        }
    }

    fn open_initiate(
        &mut self,
        handle: AssociationHandle,
        operation: &Operation,
        (apdu, peer): (&[u8], SystemTitle),
    ) -> CryptoResult {
        if peer != self.client && !self.is(Weakness::TitleUnchecked) {
            return Err(CryptoFault::Title);
        }
        match (self.honest)(handle, operation) {
            Err(CryptoFault::Counter { .. }) if self.is(Weakness::CounterForgotten) => {
                self.anyway(apdu, peer, |raw, seal, body| raw.open(seal, body))
            }
            other => self.noted(apdu, other),
        }
    }

    fn open(
        &mut self,
        handle: AssociationHandle,
        operation: &Operation,
        (apdu, peer): (&[u8], SystemTitle),
    ) -> CryptoResult {
        let ciphered = CipheredApdu::from_bytes(apdu).map_err(|_| CryptoFault::Form)?;
        let control = ciphered.protected.security_control;
        if !Protection::of(control).covers(self.required) && !self.is(Weakness::PolicyNotEnforced) {
            return Err(CryptoFault::SecurityControl(control));
        }
        match (self.honest)(handle, operation) {
            Err(CryptoFault::Tag) if self.is(Weakness::TagUnchecked) => {
                self.anyway(apdu, peer, |raw, seal, body| raw.decrypt_unverified(seal, body))
            }
            Err(CryptoFault::Counter { found, lowest }) if self.takes_counter(found, lowest) => {
                self.anyway(apdu, peer, |raw, seal, body| raw.open(seal, body))
            }
            other => self.noted(apdu, other),
        }
    }

    fn takes_counter(&self, found: u32, lowest: u32) -> bool {
        let is_repeated = found.saturating_add(1) == lowest;
        self.is(if is_repeated { Weakness::ReplayAccepted } else { Weakness::CounterLowered })
    }

    fn noted(&mut self, apdu: &[u8], result: CryptoResult) -> CryptoResult {
        if let (Ok(_), Ok(ciphered)) = (&result, CipheredApdu::from_bytes(apdu)) {
            self.last_counter = self.last_counter.max(ciphered.protected.invocation_counter);
        }
        result
    }

    /// Opens what an honest performer refuses.
    fn anyway(&self, apdu: &[u8], peer: SystemTitle, open: Opener) -> CryptoResult {
        let ciphered = CipheredApdu::from_bytes(apdu).map_err(|_| CryptoFault::Form)?;
        let control = ciphered.protected.security_control;
        let counter = ciphered.protected.invocation_counter;
        let seal = Seal { control: control.0, title: peer, counter };
        let plain = open(self.raw.as_ref(), seal, ciphered.protected.body).ok_or(CryptoFault::Tag)?;
        Ok(Done::Opened {
            plain,
            security_control: control,
            carrier: ciphered.carrier,
            signing: Signing::None,
        })
    }

    /// Opens an APDU and remembers nothing of it.
    pub fn peek(&self, apdu: &[u8]) -> Option<Vec<u8>> {
        match self.anyway(apdu, self.client, |raw, seal, body| raw.open(seal, body)) {
            Ok(Done::Opened { plain, .. }) => Some(plain),
            _ => None,
        }
    }

    fn verify_short(&self, peer: &PeerChallenge, reply: &[u8], challenge: &[u8]) -> CryptoResult {
        let [control, a, b, c, d, tag @ ..] = reply else { return Err(CryptoFault::Authentication) };
        let counter = u32::from_be_bytes([*a, *b, *c, *d]);
        let title = peer.title.ok_or(CryptoFault::Title)?;
        let seal = Seal { control: *control, title, counter };
        match self.raw.is_gmac(seal, challenge, tag) {
            true => Ok(Done::Verified),
            false => Err(CryptoFault::Authentication),
        }
    }
}
