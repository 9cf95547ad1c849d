//! The ownership voucher: a header by the manufacturer, then one entry per owner, each signed by the one before.
//!
//! A voucher must still be verifiable when P-256 is not: an element names its signer's second, post-quantum key, and the
//! voucher then carries that key's signature too. Who the second key of an owner is says the entry that makes it the owner,
//! so that nobody can leave it out or put another in its place (ADR 20).
//!
//! # Source
//! Onboarding specification, sections 7.5 and 18.3; decision D12.

use alloc::vec::Vec;

use gridseal_crypto::{
    KeyError, PublicKey, SECOND_KEY_SIZE, SECOND_SIGNATURE_SIZE, SecondKey, SecondSigner, Signer, role::Role,
};
use gridseal_types::{Code, Digest, Epoch};

use super::{
    cose::{Sign1, SignedType, key_id, sign},
    document::{Delegation, Entry, EntryKind, Header, Use},
    wire::{Read, Reader, encode},
};
use crate::root::OwnerPin;

/// Most entries of a voucher.
pub const ENTRIES_MAX: usize = 32;

/// A manufacturer's voucher key, as a verifier trusts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoucherKey {
    /// P-256 key.
    pub key: PublicKey,
    /// SHA-256 of its ML-DSA-65 key: header and first entry must then name it and carry its signature.
    pub second: Option<Digest>,
    /// The manufacturer's recovery key, when it has one: signs entries in place of an owner who has vanished. Who trusts
    /// several of them names the voucher key once for each.
    pub recovery: Option<RecoveryKey>,
}

/// A manufacturer's recovery key, as a verifier trusts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryKey {
    /// P-256 key.
    pub key: PublicKey,
    /// SHA-256 of its ML-DSA-65 key: a recovery entry must then name it and carry its signature.
    pub second: Option<Digest>,
}

impl From<PublicKey> for VoucherKey {
    /// A key without a second one, and without a recovery key.
    fn from(key: PublicKey) -> Self {
        Self { key, second: None, recovery: None }
    }
}

/// A voucher as it travels: signed elements, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    /// Encoded COSE_Sign1 of the header.
    pub header: Vec<u8>,
    /// Encoded COSE_Sign1 of each entry.
    pub entries: Vec<Vec<u8>>,
    /// Second signatures, header first, then each entry: public key and signature, or the signature alone when the same
    /// key signed the element before; empty for an element that names no second key. No list when none does.
    pub second: Vec<Vec<u8>>,
}

/// Largest signed element of a voucher in bytes.
const ELEMENT_SIZE_MAX: usize = 1_024;
/// Largest item of the list of second signatures in bytes.
pub(super) const SECOND_SIZE_MAX: usize = SECOND_KEY_SIZE + SECOND_SIGNATURE_SIZE;

impl Voucher {
    /// A voucher without an owner: the header, signed by the manufacturer. The header names `second`.
    ///
    /// # Errors
    /// As given by the signers.
    pub fn issue<S: Signer<Error = KeyError>, R: Role>(
        mut header: Header,
        signer: &S,
        second: Option<&SecondSigner<R>>,
    ) -> Result<Self, KeyError> {
        header.second_key = second.map(named);
        let payload = header.encode();
        let mut voucher = Self {
            header: sign(signer, SignedType::Voucher, &payload)?,
            entries: Vec::new(),
            second: Vec::new(),
        };
        voucher.push_second(SignedType::Voucher, &payload, None, second)?;
        Ok(voucher)
    }

    /// Adds an entry, signed by the owner before it, by the manufacturer as the first, or by a recovery key. Index and link are set here, and
    /// the entry names `second`.
    ///
    /// # Errors
    /// As given by the signers; [`KeyError::Scalar`] when the element before does not decode.
    pub fn extend<S: Signer<Error = KeyError>, R: Role>(
        &mut self,
        mut entry: Entry,
        signer: &S,
        second: Option<&SecondSigner<R>>,
    ) -> Result<(), KeyError> {
        let (previous, second_before) = self.last().ok_or(KeyError::Scalar)?;
        entry.index = u32::try_from(self.entries.len().saturating_add(1)).unwrap_or(u32::MAX);
        entry.previous = previous;
        entry.second_key = second.map(named);
        let payload = entry.encode();
        self.entries.push(sign(signer, SignedType::Entry, &payload)?);
        self.push_second(SignedType::Entry, &payload, second_before, second)
    }

    /// The voucher with one more entry as its signer gave it away, unchecked; `second` is its second signature, empty when
    /// it names no second key.
    #[must_use]
    pub fn continued(&self, entry: &[u8], second: &[u8]) -> Self {
        let mut longer = self.clone();
        longer.entries.push(entry.to_vec());
        if !longer.second.is_empty() || !second.is_empty() {
            longer.second.resize(longer.entries.len(), Vec::new());
            longer.second.push(second.to_vec());
        }
        longer
    }

    /// Key id that the header names as its signer's, unchecked.
    #[must_use]
    pub fn signer(&self) -> Option<Digest> {
        Sign1::decode(&self.header).ok().map(|header| header.key_id)
    }

    /// Hash of each element, header first, unchecked; `None` when one does not decode.
    #[must_use]
    pub fn element_hashes(&self) -> Option<Vec<Digest>> {
        let header = SignedType::Voucher.hash(Sign1::decode(&self.header).ok()?.payload);
        let entries =
            self.entries.iter().map(|e| Some(SignedType::Entry.hash(Sign1::decode(e).ok()?.payload)));
        core::iter::once(Some(header)).chain(entries).collect()
    }

    /// Hash of the last element, and the second key that it names.
    fn last(&self) -> Option<(Digest, Option<Digest>)> {
        let (element, kind) = match self.entries.last() {
            Some(entry) => (entry, SignedType::Entry),
            None => (&self.header, SignedType::Voucher),
        };
        let payload = Sign1::decode(element).ok()?.payload;
        let second = match kind {
            SignedType::Entry => Entry::decode(payload).ok()?.second_key,
            _ => Header::decode(payload).ok()?.second_key,
        };
        Some((kind.hash(payload), second))
    }

    fn push_second<R: Role>(
        &mut self,
        kind: SignedType,
        payload: &[u8],
        before: Option<Digest>,
        signer: Option<&SecondSigner<R>>,
    ) -> Result<(), KeyError> {
        let Some(signer) = signer else {
            if !self.second.is_empty() {
                self.second.push(Vec::new());
            }
            return Ok(());
        };
        // Elements before this one that name no second key.
        self.second.resize(self.entries.len(), Vec::new());
        let mut item =
            if before == Some(named(signer)) { Vec::new() } else { signer.public().as_bytes().to_vec() };
        item.extend(signer.sign(&[kind.text().as_bytes(), payload])?);
        self.second.push(item);
        Ok(())
    }

    /// Encoded form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(2 + usize::from(!self.second.is_empty()));
            w.bytes(&self.header).list(&self.entries, |w, entry| {
                w.bytes(entry);
            });
            if !self.second.is_empty() {
                w.list(&self.second, |w, item| {
                    w.bytes(item);
                });
            }
        })
    }

    /// Decodes a voucher.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.array(2..=3, |r, count| {
                let header = r.bytes(1..=ELEMENT_SIZE_MAX)?.to_vec();
                let entries = r.list(0..=ENTRIES_MAX, |r| Ok(r.bytes(1..=ELEMENT_SIZE_MAX)?.to_vec()))?;
                let second = match count {
                    3 => r.list(1..=ENTRIES_MAX + 1, |r| Ok(r.bytes(0..=SECOND_SIZE_MAX)?.to_vec()))?,
                    _ => Vec::new(),
                };
                if count == 3 && second.len() != entries.len().saturating_add(1) {
                    return r.fail("one second signature per element");
                }
                Ok(Self { header, entries, second })
            })
        })
    }

    /// Checks the whole chain.
    ///
    /// `voucher_keys` are the manufacturer's keys that the verifier trusts. That a recovery entry is there says
    /// [`VerifiedVoucher::recovered`]: a device takes one only with its button held.
    ///
    /// # Errors
    /// [`Code::Voucher`].
    pub fn verify(&self, voucher_keys: &[VoucherKey]) -> Result<VerifiedVoucher, Code> {
        let header = Sign1::decode(&self.header).map_err(|_| Code::Voucher)?;
        let vendor =
            voucher_keys.iter().find(|trusted| key_id(&trusted.key) == header.key_id).ok_or(Code::Voucher)?;
        if !header.verify(SignedType::Voucher, &vendor.key) {
            return Err(Code::Voucher);
        }
        let parsed = Header::decode(header.payload).map_err(|_| Code::Voucher)?;
        let mut second = SecondSignatures { items: &self.second, last: None };
        second.check(0, SignedType::Voucher, header.payload, parsed.second_key, vendor.second)?;
        let recoveries = voucher_keys.iter().filter(|trusted| trusted.key == vendor.key);
        let signers =
            Signers { vendor, recovery: recoveries.filter_map(|trusted| trusted.recovery).collect() };
        let mut chain = VerifiedVoucher {
            header: parsed,
            owner: None,
            epoch: 0,
            recovered: None,
            hashes: alloc::vec![SignedType::Voucher.hash(header.payload)],
        };
        for entry in &self.entries {
            chain.append(&Sign1::decode(entry).map_err(|_| Code::Voucher)?, &signers, &mut second)?;
        }
        Ok(chain)
    }
}

fn named<R: Role>(signer: &SecondSigner<R>) -> Digest {
    Digest(signer.public().id())
}

/// Whom a verifier trusts beside the owners that a voucher names.
struct Signers<'k> {
    vendor: &'k VoucherKey,
    recovery: Vec<RecoveryKey>,
}

/// The second signatures of a voucher, checked in order.
struct SecondSignatures<'v> {
    items: &'v [Vec<u8>],
    /// Second key of the element before.
    last: Option<SecondKey>,
}

impl SecondSignatures<'_> {
    /// Checks the second signature of the element at `index`, which names `named`, while its signer is known to have
    /// `known`.
    #[expect(clippy::too_many_arguments, reason = "an element, what it names, what is known of its signer")]
    fn check(
        &mut self,
        index: usize,
        kind: SignedType,
        payload: &[u8],
        named: Option<Digest>,
        known: Option<Digest>,
    ) -> Result<(), Code> {
        if known.is_some() && named != known {
            return Err(Code::Voucher);
        }
        let item = self.items.get(index).map_or(&[][..], Vec::as_slice);
        let Some(named) = named else {
            self.last = None;
            return if item.is_empty() { Ok(()) } else { Err(Code::Voucher) };
        };
        let carried = item.len().checked_sub(SECOND_SIGNATURE_SIZE).ok_or(Code::Voucher)?;
        let (key, signature) = item.split_at(carried);
        let is_named = |key: &SecondKey| key.id() == *named.as_bytes();
        let before = self.last.take().filter(is_named);
        // A key travels once: with the first of the elements in a row that it signed.
        let key = match (before, carried) {
            (Some(before), 0) => before,
            (None, _) => SecondKey::from_bytes(key).filter(is_named).ok_or(Code::Voucher)?,
            (Some(_), _) => return Err(Code::Voucher),
        };
        if !key.verifies(&[kind.text().as_bytes(), payload], signature) {
            return Err(Code::Voucher);
        }
        self.last = Some(key);
        Ok(())
    }
}

/// A voucher whose every signature and link was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedVoucher {
    /// Header.
    pub header: Header,
    /// Keys of the last entry's owner, `None` while unsold.
    owner: Option<Owner>,
    /// Epoch of the last entry.
    pub epoch: Epoch,
    /// Epoch of the last recovery entry.
    recovered: Option<Epoch>,
    /// Hash of each element, header first.
    hashes: Vec<Digest>,
}

/// Who an entry makes the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    key: PublicKey,
    encryption: PublicKey,
    second: Option<Digest>,
}

impl VerifiedVoucher {
    fn append(
        &mut self,
        signed: &Sign1<'_>,
        signers: &Signers<'_>,
        second: &mut SecondSignatures<'_>,
    ) -> Result<(), Code> {
        let entry = Entry::decode(signed.payload).map_err(|_| Code::Voucher)?;
        let next = self.epoch.checked_add(1).ok_or(Code::Voucher);
        let (epoch, signer, known) = match (entry.kind, &self.owner) {
            (EntryKind::Transfer, None) => (next?, signers.vendor.key, signers.vendor.second),
            (EntryKind::Transfer, Some(owner)) => (next?, owner.key, owner.second),
            (EntryKind::Rekey, Some(owner)) => (self.epoch, owner.key, owner.second),
            //= onboarding 7.5: a recovery entry is signed by a key of firmware's second, offline set
            (EntryKind::Recovery, Some(_)) => {
                let mut trusted = signers.recovery.iter();
                let key = trusted.find(|trusted| key_id(&trusted.key) == signed.key_id);
                let key = key.ok_or(Code::Voucher)?;
                (next?, key.key, key.second)
            }
            // Nobody is there to be recovered from: the manufacturer sells.
            (EntryKind::Rekey | EntryKind::Recovery, None) => return Err(Code::Voucher),
        };
        let links = entry.index == self.index().saturating_add(1)
            && entry.epoch == epoch
            && entry.previous == self.head();
        if !links || !signed.verify(SignedType::Entry, &signer) {
            return Err(Code::Voucher);
        }
        second.check(self.hashes.len(), SignedType::Entry, signed.payload, entry.second_key, known)?;
        self.hashes.push(SignedType::Entry.hash(signed.payload));
        self.epoch = epoch;
        if entry.kind == EntryKind::Recovery {
            self.recovered = Some(epoch);
        }
        self.owner =
            Some(Owner { key: entry.owner, encryption: entry.encryption, second: entry.owner_second });
        Ok(())
    }

    /// Index of the last entry, 0 without one.
    #[must_use]
    pub fn index(&self) -> u32 {
        u32::try_from(self.hashes.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Hash of the last element.
    #[must_use]
    pub fn head(&self) -> Digest {
        self.hashes.last().copied().unwrap_or(Digest([0; 32]))
    }

    /// Hash of each element, header first.
    #[must_use]
    pub fn hashes(&self) -> &[Digest] {
        &self.hashes
    }

    /// Epoch of the last recovery entry, `None` without one. A device whose counter is below it has not taken it yet.
    #[must_use]
    pub const fn recovered(&self) -> Option<Epoch> {
        self.recovered
    }

    /// Whether the last change of owner was a recovery: the owner before has released nothing.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.recovered == Some(self.epoch)
    }

    /// The current owner key, `None` while unsold.
    #[must_use]
    pub fn owner(&self) -> Option<PublicKey> {
        self.owner.as_ref().map(|owner| owner.key)
    }

    /// The current owner's encryption key, `None` while unsold.
    #[must_use]
    pub fn encryption(&self) -> Option<PublicKey> {
        self.owner.as_ref().map(|owner| owner.encryption)
    }

    /// Whether the voucher contains what the device has pinned.
    ///
    /// # Errors
    /// [`Code::Pin`].
    pub fn contains(&self, pin: &OwnerPin) -> Result<(), Code> {
        let at = usize::try_from(pin.index).map_err(|_| Code::Pin)?;
        if self.hashes.get(at) == Some(&pin.entry) { Ok(()) } else { Err(Code::Pin) }
    }

    /// Checks a delegation against the current owner key.
    ///
    /// # Errors
    /// [`Code::ConfigChain`].
    pub fn delegate(&self, delegation: &[u8], wanted: Use) -> Result<Delegation, Code> {
        let owner = self.owner().ok_or(Code::ConfigChain)?;
        let signed = Sign1::decode(delegation).map_err(|_| Code::ConfigChain)?;
        if !signed.verify(SignedType::Delegation, &owner) {
            return Err(Code::ConfigChain);
        }
        let parsed = Delegation::decode(signed.payload).map_err(|_| Code::ConfigChain)?;
        if parsed.owner_key != key_id(&owner) || !parsed.allows(wanted) {
            return Err(Code::ConfigChain);
        }
        Ok(parsed)
    }
}
