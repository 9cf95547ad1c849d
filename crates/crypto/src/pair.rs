//! The two keys of a meter's APDUs together, in the form in which a key service holds millions of them.
//!
//! A [`SealedPair`] is one envelope of GUEK and GAK under a [`PairSeal`], a key that one process draws for itself and
//! forgets when it ends. It is opened per APDU into an [`ApduKeys`] on the stack, which wipes itself.

use aes::Aes128;
use aes_gcm::{
    AesGcm, KeyInit,
    aead::{AeadInOut, consts::U12},
};
use gridseal_types::SystemTitle;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Key, Ticket,
    apdu::{TAG_SIZE, aad, nonce},
    backend::{Active, Backend},
    rng::{Rng, RngError},
    role::{Gak, Guek, PairSealing},
};

type Aes128Gcm12 = AesGcm<Aes128, U12, U12>;

const PAIR_SIZE: usize = 32;
const PAIR_TAG_SIZE: usize = 16;
const SEALED_SIZE: usize = PAIR_SIZE + PAIR_TAG_SIZE;

/// What a pair belongs to: it opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairContext {
    /// Meter.
    pub system_title: SystemTitle,
    /// Version of the encryption key.
    pub guek_version: u32,
    /// Version of the authentication key.
    pub gak_version: u32,
}

impl PairContext {
    fn aad(&self) -> [u8; 16] {
        let mut aad = [0; 16];
        aad[..8].copy_from_slice(self.system_title.as_bytes());
        aad[8..12].copy_from_slice(&self.guek_version.to_be_bytes());
        aad[12..].copy_from_slice(&self.gak_version.to_be_bytes());
        aad
    }
}

/// GUEK and GAK, sealed. 56 bytes.
#[derive(Clone, Copy)]
pub struct SealedPair {
    number: u64,
    sealed: [u8; SEALED_SIZE],
}

impl core::fmt::Debug for SealedPair {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SealedPair[{}]", self.number)
    }
}

/// Seals pairs in the memory of one process. Its nonces are a count, so its own life is the life of the key.
pub struct PairSeal {
    key: <Active as Backend>::GcmKey,
    next: u64,
}

impl core::fmt::Debug for PairSeal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PairSeal[{} sealed]", self.next)
    }
}

const fn pair_nonce(number: u64) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

impl PairSeal {
    /// Draws the key.
    ///
    /// # Errors
    /// [`RngError`] as given by the source.
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, RngError> {
        let key = Key::<PairSealing, 32>::generate(rng)?;
        Ok(Self { key: Active::gcm_key(key.bytes()), next: 0 })
    }

    /// Seals a pair.
    pub fn seal(&mut self, guek: &Key<Guek, 16>, gak: &Key<Gak, 16>, context: &PairContext) -> SealedPair {
        let number = self.next;
        self.next += 1;
        let mut sealed = [0; SEALED_SIZE];
        sealed[..16].copy_from_slice(guek.bytes());
        sealed[16..32].copy_from_slice(gak.bytes());
        let (body, tag) = sealed.split_at_mut(PAIR_SIZE);
        tag.copy_from_slice(&Active::gcm_seal_in_place(&self.key, &pair_nonce(number), &context.aad(), body));
        SealedPair { number, sealed }
    }

    /// Opens a pair; `None` when it belongs elsewhere or was changed.
    #[must_use]
    pub fn open(&self, pair: &SealedPair, context: &PairContext) -> Option<ApduKeys> {
        let mut keys = ApduKeys { sealed: pair.sealed };
        Active::gcm_open_in_place(&self.key, &pair_nonce(pair.number), &context.aad(), &mut keys.sealed)
            .then_some(keys)
    }
}

/// GUEK and GAK, opened for one APDU; wiped on drop.
pub struct ApduKeys {
    /// GUEK, GAK, and what is left of the tag.
    sealed: [u8; SEALED_SIZE],
}

impl core::fmt::Debug for ApduKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ApduKeys[2 keys]")
    }
}

impl Drop for ApduKeys {
    fn drop(&mut self) {
        self.sealed.zeroize();
    }
}

impl ApduKeys {
    fn cipher(&self) -> Aes128Gcm12 {
        let mut guek = Zeroizing::new([0; 16]);
        guek.copy_from_slice(&self.sealed[..16]);
        Aes128Gcm12::new((&*guek).into())
    }

    fn aad(&self, security_control: u8) -> Zeroizing<[u8; 17]> {
        let mut gak = Zeroizing::new([0; 16]);
        gak.copy_from_slice(&self.sealed[16..32]);
        aad(security_control, &gak)
    }

    /// Opens ciphertext || tag in place and returns the length of the plaintext; `None` when the tag does not verify:
    /// then the bytes are wiped or as they were.
    #[must_use]
    pub fn open_in_place(
        &self,
        originator: SystemTitle,
        security_control: u8,
        invocation_counter: u32,
        body: &mut [u8],
    ) -> Option<usize> {
        let size = body.len().checked_sub(TAG_SIZE)?;
        let (text, tag) = body.split_at_mut(size);
        let tag: &[u8; TAG_SIZE] = (&*tag).try_into().ok()?;
        let aad = self.aad(security_control);
        let nonce = nonce(originator, invocation_counter);
        self.cipher()
            .decrypt_inout_detached((&nonce).into(), aad.as_slice(), text.into(), tag.into())
            .ok()?;
        Some(size)
    }

    /// Seals an APDU in place and returns the tag. Consumes the counter ticket, so no (key, nonce) pair is used twice.
    /// `None` only for an APDU beyond the limits of the mode.
    #[must_use]
    pub fn seal_in_place(
        &self,
        originator: SystemTitle,
        security_control: u8,
        ticket: &Ticket,
        apdu: &mut [u8],
    ) -> Option<[u8; TAG_SIZE]> {
        let aad = self.aad(security_control);
        let nonce = nonce(originator, ticket.value());
        let tag = self.cipher().encrypt_inout_detached((&nonce).into(), aad.as_slice(), apdu.into()).ok()?;
        Some(tag.into())
    }

    /// The tag over associated data alone: security control || GAK || `challenge`, as in the authentication of an
    /// association by GMAC.
    ///
    /// # Source
    /// DLMS fact sheet, section 4 (mechanism 5).
    #[must_use]
    pub fn gmac(
        &self,
        originator: SystemTitle,
        security_control: u8,
        invocation_counter: u32,
        challenge: &[u8],
    ) -> Option<[u8; TAG_SIZE]> {
        let head = self.aad(security_control);
        let mut all = Zeroizing::new(alloc::vec::Vec::with_capacity(head.len() + challenge.len()));
        all.extend_from_slice(head.as_slice());
        all.extend_from_slice(challenge);
        let nonce = nonce(originator, invocation_counter);
        let nothing: &mut [u8] = &mut [];
        let tag = self.cipher().encrypt_inout_detached((&nonce).into(), &all, nothing.into()).ok()?;
        Some(tag.into())
    }
}
