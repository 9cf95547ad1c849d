//! The keys of a lab file without the discipline of an honest party: any counter, any title, any protection.
//!
//! Also the deliberately weak meter is built with it. Never for an association that is meant to protect something.

use anyhow::Result;
use gridseal_crypto::{InvocationCounter, Rng, Ticket, apdu};
use gridseal_dlms::{
    apdu::{
        carrier::{Carrier, carry},
        ciphered::{Protected, SecurityControl},
    },
    assoc::{AssociationHandle, CryptoResult, Operation},
    suite::local::{KeyRing, LocalCrypto, LocalSettings, Ports, VolatileCounters},
};
use gridseal_types::SystemTitle;

use crate::lab::{Lab, Side};

/// Performs the operations of associations as they should be performed.
pub type Performer = Box<dyn FnMut(AssociationHandle, &Operation) -> CryptoResult + Send>;

/// What an honest performer works with.
#[allow(missing_debug_implementations, reason = "a generator")]
pub struct Honest<'l> {
    /// Keys.
    pub lab: &'l Lab,
    /// Whose half of them.
    pub side: Side,
    /// How they are used.
    pub settings: LocalSettings,
    /// First counter.
    pub counter: u32,
    /// Draws challenges.
    pub rng: Box<dyn Rng + Send>,
}

/// What goes into nonce and associated data.
#[derive(Debug, Clone, Copy)]
pub struct Seal {
    /// Security control octet.
    pub control: u8,
    /// Who protects.
    pub title: SystemTitle,
    /// Invocation counter.
    pub counter: u32,
}

impl Seal {
    const fn header(self) -> apdu::Header {
        apdu::Header { originator: self.title, security_control: self.control }
    }

    fn ticket(self) -> Option<Ticket> {
        let mut counter = InvocationCounter::resume(self.counter.into());
        let block = counter.reserve(1).ok()?;
        counter.extend(block);
        counter.take().ok()
    }

    /// A protected body in its carrier.
    pub fn carried(self, carrier: Carrier, tag: u8, body: &[u8]) -> Option<Vec<u8>> {
        let protected = Protected {
            security_control: SecurityControl(self.control),
            invocation_counter: self.counter,
            body,
        };
        carry(carrier, tag, Some(self.title), &protected)
    }
}

/// Keys of one lab file; whichever size the suite gives them.
pub trait Raw: Send {
    /// Protects under the unicast key; gives what follows the counter.
    fn seal(&self, seal: Seal, plain: &[u8]) -> Option<Vec<u8>>;
    /// Opens what follows the counter; `None` when the tag is wrong.
    fn open(&self, seal: Seal, body: &[u8]) -> Option<Vec<u8>>;
    /// Decrypts what follows the counter, whatever the tag says.
    fn decrypt_unverified(&self, seal: Seal, body: &[u8]) -> Option<Vec<u8>>;
    /// Whether a tag is the GMAC of a challenge.
    fn is_gmac(&self, seal: Seal, challenge: &[u8], tag: &[u8]) -> bool;
    /// Four bytes that tell keys apart and say nothing of them.
    fn check_value(&self) -> [u8; 4];
    /// An honest performer.
    fn performer(&self, honest: Honest<'_>) -> Result<Performer>;
}

struct Ring<const N: usize>(KeyRing<N>);

/// The keys of a lab file.
pub fn load(lab: &Lab, side: Side) -> Result<Box<dyn Raw>> {
    Ok(if lab.suite == 2 {
        Box::new(Ring(lab.key_ring::<32>(side)?))
    } else {
        Box::new(Ring(lab.key_ring::<16>(side)?))
    })
}

impl<const N: usize> Raw for Ring<N> {
    fn seal(&self, seal: Seal, plain: &[u8]) -> Option<Vec<u8>> {
        apdu::protect(&self.0.guek, &self.0.gak, seal.header(), seal.ticket()?, plain)
    }

    fn open(&self, seal: Seal, body: &[u8]) -> Option<Vec<u8>> {
        apdu::unprotect(&self.0.guek, &self.0.gak, seal.header(), seal.counter, body)
    }

    fn decrypt_unverified(&self, seal: Seal, body: &[u8]) -> Option<Vec<u8>> {
        let control = SecurityControl(seal.control);
        let end =
            if control.is_authenticated() { body.len().saturating_sub(apdu::TAG_SIZE) } else { body.len() };
        let text = body.get(..end)?;
        if !control.is_encrypted() {
            return Some(text.to_vec());
        }
        apdu::danger_decrypt_unverified(&self.0.guek, seal.title, seal.counter, text)
    }

    fn is_gmac(&self, seal: Seal, challenge: &[u8], tag: &[u8]) -> bool {
        apdu::gmac_verifies(&self.0.guek, &self.0.gak, seal.header(), seal.counter, challenge, tag)
    }

    fn check_value(&self) -> [u8; 4] {
        super::super::session::check_value(&self.0.guek)
    }

    fn performer(&self, honest: Honest<'_>) -> Result<Performer> {
        let Honest { lab, side, settings, counter, mut rng } = honest;
        // Keys are not copied: the file is asked once more.
        let ring = lab.key_ring::<N>(side)?;
        let mut crypto = LocalCrypto::new(settings, ring, counter.into());
        Ok(Box::new(move |handle, operation| {
            let mut ports = Ports { counters: &mut VolatileCounters, rng: rng.as_mut() };
            crypto.perform(handle, operation, &mut ports)
        }))
    }
}
