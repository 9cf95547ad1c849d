//! The two keys of a meter's APDUs together, in the form in which a key service holds millions of them.
//!
//! A [`SealedPair`] is one envelope of GUEK and GAK under a [`PairSeal`], a key that one process draws for itself and
//! forgets when it ends. It is opened per APDU into an [`ApduKeys`] on the stack, which wipes itself. Keys have 16 bytes
//! (suites 0 and 1) or 32 (suite 2); a pair of the longer ones lies in a box, so that the many shorter ones stay small.

use alloc::boxed::Box;

use aes::{Aes128, Aes256};
use aes_gcm::{
    AesGcm, KeyInit,
    aead::{AeadInOut, consts::U12},
};
use gridseal_types::SystemTitle;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Key, Ticket,
    apdu::{TAG_SIZE, nonce},
    backend::{Active, Backend},
    rng::{Rng, RngError},
    role::{Gak, Guek, PairSealing},
};

type Aes128Gcm12 = AesGcm<Aes128, U12, U12>;
type Aes256Gcm12 = AesGcm<Aes256, U12, U12>;

const PAIR_TAG_SIZE: usize = 16;
/// Sealed sizes of a pair of 16-byte and of one of 32-byte keys.
const SHORT: usize = 2 * 16 + PAIR_TAG_SIZE;
const LONG: usize = 2 * 32 + PAIR_TAG_SIZE;

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

/// GUEK and GAK, sealed. 64 bytes, and 80 elsewhere for keys of 32 bytes.
#[derive(Clone)]
pub struct SealedPair {
    number: u64,
    sealed: Sealed,
}

/// Two keys and a tag. Closed: the sizes of the suites.
#[derive(Clone)]
enum Sealed {
    Short([u8; SHORT]),
    Long(Box<[u8; LONG]>),
}

impl Sealed {
    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => bytes.as_mut_slice(),
        }
    }
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

    /// Seals a pair of keys of 16 or of 32 bytes; `None` for another size.
    pub fn seal<const N: usize>(
        &mut self,
        guek: &Key<Guek, N>,
        gak: &Key<Gak, N>,
        context: &PairContext,
    ) -> Option<SealedPair> {
        let mut sealed = match N {
            16 => Sealed::Short([0; SHORT]),
            32 => Sealed::Long(Box::new([0; LONG])),
            _ => return None,
        };
        let number = self.next;
        self.next += 1;
        let (body, tag) = sealed.bytes().split_at_mut(2 * N);
        body[..N].copy_from_slice(guek.bytes());
        body[N..].copy_from_slice(gak.bytes());
        tag.copy_from_slice(&Active::gcm_seal_in_place(&self.key, &pair_nonce(number), &context.aad(), body));
        Some(SealedPair { number, sealed })
    }

    /// Opens a pair; `None` when it belongs elsewhere or was changed.
    #[must_use]
    pub fn open(&self, pair: &SealedPair, context: &PairContext) -> Option<ApduKeys> {
        let mut keys = ApduKeys { sealed: pair.sealed.clone() };
        Active::gcm_open_in_place(&self.key, &pair_nonce(pair.number), &context.aad(), keys.sealed.bytes())
            .then_some(keys)
    }
}

/// GUEK and GAK, opened for one APDU; wiped on drop.
pub struct ApduKeys {
    /// GUEK, GAK, and what is left of the tag.
    sealed: Sealed,
}

impl core::fmt::Debug for ApduKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ApduKeys[2 keys]")
    }
}

impl Drop for ApduKeys {
    fn drop(&mut self) {
        self.sealed.bytes().zeroize();
    }
}

fn key_of<const N: usize>(bytes: &[u8]) -> Zeroizing<[u8; N]> {
    let mut key = Zeroizing::new([0; N]);
    key.copy_from_slice(&bytes[..N]);
    key
}

/// What does not fit the mode, or a tag that does not verify.
struct Failed;

impl ApduKeys {
    fn gak(&self) -> &[u8] {
        match &self.sealed {
            Sealed::Short(bytes) => &bytes[16..32],
            Sealed::Long(bytes) => &bytes[32..64],
        }
    }

    /// security control || GAK || `more`.
    fn aad(&self, security_control: u8, more: &[u8]) -> Zeroizing<alloc::vec::Vec<u8>> {
        let gak = self.gak();
        let mut aad = Zeroizing::new(alloc::vec::Vec::with_capacity(1 + gak.len() + more.len()));
        aad.push(security_control);
        aad.extend_from_slice(gak);
        aad.extend_from_slice(more);
        aad
    }

    /// Runs `act` with security control || GAK, which is on the stack: this is the hot path.
    fn with_aad<T>(&self, security_control: u8, act: impl FnOnce(&[u8]) -> T) -> T {
        let gak = self.gak();
        let mut aad = Zeroizing::new([security_control; 33]);
        aad[1..=gak.len()].copy_from_slice(gak);
        act(&aad[..=gak.len()])
    }

    /// Encrypts in place and gives the tag.
    fn encrypt(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_SIZE], Failed> {
        let tag =
            match &self.sealed {
                Sealed::Short(bytes) => Aes128Gcm12::new((&*key_of::<16>(bytes)).into())
                    .encrypt_inout_detached(nonce.into(), aad, text.into()),
                Sealed::Long(bytes) => Aes256Gcm12::new((&*key_of::<32>(bytes.as_slice())).into())
                    .encrypt_inout_detached(nonce.into(), aad, text.into()),
            };
        tag.map(Into::into).map_err(|_| Failed)
    }

    fn decrypt(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_SIZE],
    ) -> Result<(), Failed> {
        let done =
            match &self.sealed {
                Sealed::Short(bytes) => Aes128Gcm12::new((&*key_of::<16>(bytes)).into())
                    .decrypt_inout_detached(nonce.into(), aad, text.into(), tag.into()),
                Sealed::Long(bytes) => Aes256Gcm12::new((&*key_of::<32>(bytes.as_slice())).into())
                    .decrypt_inout_detached(nonce.into(), aad, text.into(), tag.into()),
            };
        done.map_err(|_| Failed)
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
        let nonce = nonce(originator, invocation_counter);
        self.with_aad(security_control, |aad| self.decrypt(&nonce, aad, text, tag)).ok()?;
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
        let nonce = nonce(originator, ticket.value());
        self.with_aad(security_control, |aad| self.encrypt(&nonce, aad, apdu)).ok()
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
        let all = self.aad(security_control, challenge);
        let nonce = nonce(originator, invocation_counter);
        self.encrypt(&nonce, &all, &mut []).ok()
    }
}
