//! The ownership voucher: a header by the manufacturer, then one entry per owner, each signed by the one before.
//!
//! # Source
//! Onboarding specification, sections 7.5 and 18.3.

use alloc::vec::Vec;

use gridseal_crypto::PublicKey;
use gridseal_types::{Code, Digest, Epoch};

use super::{
    cose::{Sign1, SignedType, key_id},
    document::{Delegation, Entry, EntryKind, Header, Use},
    wire::{Read, Reader, encode},
};
use crate::root::OwnerPin;

/// Most entries of a voucher.
pub const ENTRIES_MAX: usize = 32;

/// A voucher as it travels: signed elements, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    /// Encoded COSE_Sign1 of the header.
    pub header: Vec<u8>,
    /// Encoded COSE_Sign1 of each entry.
    pub entries: Vec<Vec<u8>>,
}

/// Largest signed element of a voucher in bytes.
const ELEMENT_SIZE_MAX: usize = 1_024;

impl Voucher {
    /// Encoded form. The list of second signatures is left out: no element of ours names a second key yet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(2).bytes(&self.header).list(&self.entries, |w, entry| {
                w.bytes(entry);
            });
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
                if count == 3 {
                    // Second signatures: bound in size here; a named second key is refused in `verify`.
                    r.list(1..=ENTRIES_MAX + 1, |r| r.bytes(0..=8_192).map(drop))?;
                }
                Ok(Self { header, entries })
            })
        })
    }

    /// Checks the whole chain.
    ///
    /// `voucher_keys` are the manufacturer's keys that the verifier trusts. Recovery entries are refused: they need
    /// recovery keys and physical presence, which this version has not.
    ///
    /// # Errors
    /// [`Code::Voucher`].
    pub fn verify(&self, voucher_keys: &[PublicKey]) -> Result<VerifiedVoucher, Code> {
        let header = Sign1::decode(&self.header).map_err(|_| Code::Voucher)?;
        let vendor = voucher_keys.iter().find(|key| key_id(key) == header.key_id).ok_or(Code::Voucher)?;
        if !header.verify(SignedType::Voucher, vendor) {
            return Err(Code::Voucher);
        }
        let parsed = Header::decode(header.payload).map_err(|_| Code::Voucher)?;
        if parsed.second_key.is_some() {
            // A verifier refuses a named second key without its signature (decision D12): this one cannot check any.
            return Err(Code::Voucher);
        }
        let mut chain = VerifiedVoucher {
            header: parsed,
            owner: None,
            epoch: 0,
            hashes: alloc::vec![SignedType::Voucher.hash(header.payload)],
        };
        for entry in &self.entries {
            chain.append(&Sign1::decode(entry).map_err(|_| Code::Voucher)?, vendor)?;
        }
        Ok(chain)
    }
}

/// A voucher whose every signature and link was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedVoucher {
    /// Header.
    pub header: Header,
    /// Owner key and owner encryption key of the last entry, `None` while unsold.
    owner: Option<(PublicKey, PublicKey)>,
    /// Epoch of the last entry.
    pub epoch: Epoch,
    /// Hash of each element, header first.
    hashes: Vec<Digest>,
}

impl VerifiedVoucher {
    fn append(&mut self, signed: &Sign1<'_>, vendor: &PublicKey) -> Result<(), Code> {
        let entry = Entry::decode(signed.payload).map_err(|_| Code::Voucher)?;
        let signer = self.owner.map_or(*vendor, |(owner, _)| owner);
        let epoch = match (entry.kind, self.owner) {
            (EntryKind::Transfer, _) => self.epoch.checked_add(1).ok_or(Code::Voucher)?,
            (EntryKind::Rekey, Some(_)) => self.epoch,
            (EntryKind::Rekey, None) | (EntryKind::Recovery, _) => return Err(Code::Voucher),
        };
        let links = entry.index == self.index().saturating_add(1)
            && entry.epoch == epoch
            && entry.previous == self.head()
            && entry.second_key.is_none();
        if !links || !signed.verify(SignedType::Entry, &signer) {
            return Err(Code::Voucher);
        }
        self.hashes.push(SignedType::Entry.hash(signed.payload));
        self.epoch = epoch;
        self.owner = Some((entry.owner, entry.encryption));
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

    /// The current owner key, `None` while unsold.
    #[must_use]
    pub fn owner(&self) -> Option<PublicKey> {
        self.owner.map(|(owner, _)| owner)
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
