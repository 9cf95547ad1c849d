//! The receipt of an ended ownership: what a stranger needs to check that a TPM has executed Clear for its owner's order.
//!
//! Two proofs of different strength are in it. The owner's key service has verified the HMAC of the TPM's response, which
//! nobody else can check, and signs that it has: [`Proof::Owner`]. Where the device gave it, the TPM's own identity key has
//! signed that Clear was executed in a session, bound to the very order; the manufacturer's manifest says that this key lies
//! in this TPM: [`Proof::Tpm`], which no owner can forge.
//!
//! # Source
//! Onboarding specification, section 11; the file and the second proof are ours (ADR 26).
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::{string::String, vec::Vec};

use gridseal_crypto::{
    PublicKey, sha256,
    tpm::{ClearAuth, clear_audit_digest, is_clear_response},
};
use gridseal_types::{Digest, EkName, Epoch, UtcTime};

use super::{
    cose::{Sign1, SignedType, key_id},
    document::{Manifest, Use, read_digest, read_name},
    order::{AUDIT_PURPOSE, Order, Task, order_digest},
    session::{
        body::{read_attest, write_attest},
        qualifying,
    },
    voucher::{VerifiedVoucher, Voucher, VoucherKey},
    wire::{Read, Reader, encode},
};
use crate::{root::Attest, tpm};

/// Largest receipt file in bytes.
pub const RECEIPT_SIZE_MAX: usize = 256 * 1024;
/// Longest time between a Clear and the TPM's statement about it: the TPM's clock begins anew with the Clear.
const STATEMENT_WITHIN_MS: u64 = 600_000;
const FILE: u64 = 50;
const PART_SIZE_MAX: usize = 65_536;
const VOUCHER_SIZE_MAX: usize = 200_000;

/// What the owner's key service signs (payload ReceiptP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Device.
    pub ek_name: EkName,
    /// Epoch that ended.
    pub epoch: Epoch,
    /// [`order_digest`] of the order that ended it.
    pub order: Digest,
    /// [`order_digest`] of the order that had the Clear.
    pub commands: Digest,
    /// SHA-256 of the TPM's response.
    pub response: Digest,
    /// When the response was verified.
    pub at: UtcTime,
}

impl Receipt {
    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(6).key(1).bytes(self.ek_name.as_bytes()).key(2).uint(self.epoch);
            w.key(3).bytes(self.order.as_bytes()).key(4).bytes(self.commands.as_bytes());
            w.key(5).bytes(self.response.as_bytes()).key(6).uint(self.at.0);
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut ek_name, mut epoch, mut order) = (None, None, None);
        let (mut commands, mut response, mut at) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => ek_name = Some(read_name(r)?),
                    2 => epoch = Some(r.uint32()?),
                    3 => order = Some(read_digest(r)?),
                    4 => commands = Some(read_digest(r)?),
                    5 => response = Some(read_digest(r)?),
                    6 => at = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                ek_name: r.required(ek_name)?,
                epoch: r.required(epoch)?,
                order: r.required(order)?,
                commands: r.required(commands)?,
                response: r.required(response)?,
                at: r.required(at)?,
            })
        })
    }
}

/// The TPM's own statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// TPMT_PUBLIC of the identity key.
    pub identity_public: Vec<u8>,
    /// What the session of the Clear has audited, signed by it.
    pub audit: Attest,
}

/// A receipt file: `[1, 50, {receipt, delegation, voucher, order, commands, response, manifest, ? statement}]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptFile {
    /// Encoded COSE_Sign1 of a [`Receipt`].
    pub receipt: Vec<u8>,
    /// Encoded COSE_Sign1 of the delegation of its signer.
    pub delegation: Vec<u8>,
    /// Encoded voucher, up to the entry of the owner who gives the device up.
    pub voucher: Vec<u8>,
    /// Encoded COSE_Sign1 of the order that ended the ownership.
    pub order: Vec<u8>,
    /// Encoded COSE_Sign1 of the order that had the Clear.
    pub commands: Vec<u8>,
    /// The TPM's response to it.
    pub response: Vec<u8>,
    /// Encoded COSE_Sign1 of the manufacturer's manifest; empty where it is not known any more.
    pub manifest: Vec<u8>,
    /// The TPM's own statement, where the device gave one.
    pub statement: Option<Statement>,
}

impl ReceiptFile {
    /// Encoded file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(3).uint(1u8).uint(FILE).map(if self.statement.is_some() { 8 } else { 7 });
            w.key(1).bytes(&self.receipt).key(2).bytes(&self.delegation).key(3).bytes(&self.voucher);
            w.key(4).bytes(&self.order).key(5).bytes(&self.commands).key(6).bytes(&self.response);
            w.key(7).bytes(&self.manifest);
            if let Some(Statement { identity_public, audit }) = &self.statement {
                write_attest(w.key(8).array(2).bytes(identity_public), audit);
            }
        })
    }

    /// Decodes a file.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut receipt, mut delegation, mut voucher) = (None, None, None);
        let (mut order, mut commands, mut response) = (None, None, None);
        let (mut manifest, mut statement) = (None, None);
        let part = |r: &mut Reader<'_>| Ok(r.bytes(1..=PART_SIZE_MAX)?.to_vec());
        Reader::whole(bytes, |r| {
            r.array(3..=3, |r, _| {
                r.constant(1)?;
                r.constant(FILE)?;
                r.map(|r, key| {
                    match key {
                        1 => receipt = Some(part(r)?),
                        2 => delegation = Some(part(r)?),
                        3 => voucher = Some(r.bytes(1..=VOUCHER_SIZE_MAX)?.to_vec()),
                        4 => order = Some(part(r)?),
                        5 => commands = Some(part(r)?),
                        6 => response = Some(part(r)?),
                        7 => manifest = Some(r.bytes(0..=PART_SIZE_MAX)?.to_vec()),
                        8 => {
                            statement = Some(r.array(2..=2, |r, _| {
                                let identity_public = r.bytes(10..=600)?.to_vec();
                                Ok(Statement { identity_public, audit: read_attest(r)? })
                            })?);
                        }
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(Self {
                    receipt: r.required(receipt)?,
                    delegation: r.required(delegation)?,
                    voucher: r.required(voucher)?,
                    order: r.required(order)?,
                    commands: r.required(commands)?,
                    response: r.required(response)?,
                    manifest: r.required(manifest)?,
                    statement,
                })
            })
        })
    }

    /// Checks everything that is in the file, without a clock, a network or a secret.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self, voucher_keys: &[VoucherKey]) -> Result<Ended, ReceiptFault> {
        let voucher = Voucher::decode(&self.voucher).map_err(|_| ReceiptFault::Voucher)?;
        let chain = voucher.verify(voucher_keys).map_err(|_| ReceiptFault::Voucher)?;
        let delegation =
            chain.delegate(&self.delegation, Use::Config).map_err(|_| ReceiptFault::Delegation)?;
        let receipt = signed(&self.receipt, SignedType::Receipt, &delegation.key)?;
        let receipt = Receipt::decode(receipt).map_err(|_| ReceiptFault::Format)?;
        let (order, order_payload) = self.order_of(&self.order, &chain, &delegation.key)?;
        let (commands, commands_payload) = self.order_of(&self.commands, &chain, &delegation.key)?;
        let is_one = receipt.ek_name == chain.header.ek_name
            && receipt.epoch == chain.epoch
            && receipt.order == order_digest(order_payload)
            && receipt.commands == order_digest(commands_payload)
            && receipt.response == Digest(sha256(&[&self.response]))
            && order.seq < commands.seq;
        if !is_one {
            return Err(ReceiptFault::Spliced);
        }
        match &commands.task {
            Task::Commands(list) if list.len() == 1 && list.iter().all(|c| ClearAuth::parse(c).is_some()) => {
            }
            _ => return Err(ReceiptFault::NoClear),
        }
        if !is_clear_response(&self.response) {
            return Err(ReceiptFault::NoClear);
        }
        let next = match &order.task {
            Task::Decommission => None,
            Task::Release { entry, second } => {
                let continued = voucher.continued(entry, second).verify(voucher_keys);
                let continued = continued.map_err(|_| ReceiptFault::NextOwner)?;
                let owner = continued.owner().filter(|_| continued.epoch > chain.epoch);
                Some(NextOwner {
                    key: key_id(&owner.ok_or(ReceiptFault::NextOwner)?),
                    entry: continued.head(),
                })
            }
            _ => return Err(ReceiptFault::NoClear),
        };
        Ok(Ended {
            device: chain.header.ek_name,
            serial: chain.header.serial.clone(),
            epoch: chain.epoch,
            next,
            at: receipt.at,
            proof: self.proof(&chain, &receipt.commands, voucher_keys)?,
        })
    }

    fn order_of<'b>(
        &self,
        bytes: &'b [u8],
        chain: &VerifiedVoucher,
        signer: &PublicKey,
    ) -> Result<(Order, &'b [u8]), ReceiptFault> {
        let payload = signed(bytes, SignedType::Order, signer)?;
        let order = Order::decode(payload).map_err(|_| ReceiptFault::Format)?;
        let is_ours = order.ek_name == chain.header.ek_name && order.epoch == chain.epoch;
        if is_ours { Ok((order, payload)) } else { Err(ReceiptFault::Spliced) }
    }

    /// The TPM's statement, when there is one: then it must hold.
    fn proof(
        &self,
        chain: &VerifiedVoucher,
        commands: &Digest,
        voucher_keys: &[VoucherKey],
    ) -> Result<Proof, ReceiptFault> {
        let Some(Statement { identity_public, audit }) = &self.statement else { return Ok(Proof::Owner) };
        let manifest = Manifest::open(&self.manifest, voucher_keys).ok();
        let manifest = manifest.filter(|manifest| manifest.ek_name == chain.header.ek_name);
        let named = manifest.ok_or(ReceiptFault::Manifest)?.identity;
        if named != Some(tpm::name(identity_public)) {
            return Err(ReceiptFault::IdentityKey);
        }
        let identity = tpm::identity_key(identity_public).map_err(|_| ReceiptFault::IdentityKey)?;
        let audited = tpm::attest::verify_session_audit(
            audit,
            &identity,
            &qualifying(AUDIT_PURPOSE, commands),
            &clear_audit_digest(),
        )
        .map_err(|_| ReceiptFault::Statement)?;
        // Clear sets the TPM's clock and its count of resets to zero.
        if audited.reset_count != 0 || audited.clock_ms > STATEMENT_WITHIN_MS {
            return Err(ReceiptFault::Statement);
        }
        Ok(Proof::Tpm { after_ms: audited.clock_ms })
    }
}

fn signed<'b>(bytes: &'b [u8], kind: SignedType, key: &PublicKey) -> Result<&'b [u8], ReceiptFault> {
    let signed = Sign1::decode(bytes).map_err(|_| ReceiptFault::Format)?;
    if signed.verify(kind, key) { Ok(signed.payload) } else { Err(ReceiptFault::Signature) }
}

/// What a verified receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Device.
    pub device: EkName,
    /// Serial number.
    pub serial: String,
    /// Epoch that ended.
    pub epoch: Epoch,
    /// Who comes next; `None` for a device at its end.
    pub next: Option<NextOwner>,
    /// When, by the clock of the owner's key service.
    pub at: UtcTime,
    /// What it rests on.
    pub proof: Proof,
}

/// Who a device was released to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextOwner {
    /// Key id of his owner key.
    pub key: Digest,
    /// Hash of his voucher entry.
    pub entry: Digest,
}

/// What a receipt rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The word of the owner who gives the device up, signed under the key that the voucher names.
    Owner,
    /// The TPM's own signature as well.
    Tpm {
        /// Age of the Clear when the TPM signed, milliseconds.
        after_ms: u64,
    },
}

impl Proof {
    /// Name as printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Tpm { .. } => "tpm",
        }
    }
}

/// Why a receipt is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptFault {
    /// A part is not in its form.
    #[error("malformed")]
    Format,
    /// The voucher does not lead to an owner from a manufacturer who is believed.
    #[error("voucher does not hold")]
    Voucher,
    /// The signer is no delegate of that owner.
    #[error("signer is not the owner's delegate")]
    Delegation,
    /// A signature is not the delegate's.
    #[error("signature does not verify")]
    Signature,
    /// The parts are of different devices, epochs or orders.
    #[error("parts do not belong together")]
    Spliced,
    /// No Clear was ordered, or none was executed.
    #[error("no clear")]
    NoClear,
    /// The order names no owner who may follow.
    #[error("next owner's entry does not hold")]
    NextOwner,
    /// The manifest is not of this device or not of a manufacturer who is believed.
    #[error("manifest does not hold")]
    Manifest,
    /// The identity key is not the one that the manifest names.
    #[error("identity key is not the manifest's")]
    IdentityKey,
    /// The TPM's statement is about something else.
    #[error("statement of the tpm does not hold")]
    Statement,
}

impl ReceiptFault {
    /// Stable code, as printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Format => "receipt.format",
            Self::Voucher => "receipt.voucher",
            Self::Delegation => "receipt.delegation",
            Self::Signature => "receipt.signature",
            Self::Spliced => "receipt.spliced",
            Self::NoClear => "receipt.no-clear",
            Self::NextOwner => "receipt.next-owner",
            Self::Manifest => "receipt.manifest",
            Self::IdentityKey => "receipt.identity-key",
            Self::Statement => "receipt.statement",
        }
    }
}
