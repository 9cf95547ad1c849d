//! The signed header: which group and epoch, the scheme's body, a check of the key, a signature over everything.
//!
//! Layout, integers big-endian: "GSG1" (4) ++ scheme (1) ++ group (16) ++ tree (8) ++ tree epoch (4) ++ key epoch (4) ++
//! deadline (8, UTC seconds: nothing under an older epoch counts after it) ++ key check value (8) ++ body length (4) ++
//! body ++ ES256 signature (64) over all before it, prefixed by "gridseal group header v1".

use alloc::vec::Vec;

use gridseal_crypto::{Key, PublicKey, Signer, group::key_check_value, role::GroupKey, sha256};
use gridseal_types::UtcTime;

use crate::{
    bytes::{Reader, Short, put_count},
    scheme::{RekeyError, Scheme},
    sd::TreeId,
};

const MAGIC: [u8; 4] = *b"GSG1";
const SIGNED_AS: &[u8] = b"gridseal group header v1";
const SIGNATURE_SIZE: usize = 64;
/// Bytes of a header beside its body.
pub const OVERHEAD: usize = 4 + 1 + 16 + 8 + 4 + 4 + 8 + 8 + 4 + SIGNATURE_SIZE;
/// Largest body, bytes.
pub const BODY_SIZE_MAX: usize = 1 << 25;

/// Names a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

/// What a header says beside its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Scheme of the body.
    pub scheme: Scheme,
    /// Group.
    pub group: GroupId,
    /// Tree.
    pub tree: TreeId,
    /// Epoch of the key, strictly increasing within a tree epoch.
    pub key_epoch: u32,
    /// When the epoch before ends.
    pub deadline: UtcTime,
}

/// A header whose signature was verified.
#[derive(Debug, Clone)]
pub struct Header<'h> {
    /// What it says.
    pub facts: Facts,
    /// The scheme's body.
    pub body: &'h [u8],
    key_check_value: [u8; 8],
    fields_hash: [u8; 32],
}

/// A header that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Ends too early, or bytes follow.
    #[error("header is not whole, at offset {offset}")]
    Truncated {
        /// Where.
        offset: usize,
    },
    /// Another format or version.
    #[error("not a group header of version 1")]
    Format,
    /// Longer than allowed.
    #[error("body of {found} bytes is above the limit")]
    TooLong {
        /// Length announced.
        found: usize,
    },
    /// Not signed by the sender of this group.
    #[error("signature does not verify")]
    Signature,
}

impl From<Short> for HeaderError {
    fn from(short: Short) -> Self {
        Self::Truncated { offset: short.offset }
    }
}

fn fields(facts: &Facts) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&MAGIC);
    out.push(facts.scheme.number());
    out.extend_from_slice(&facts.group.0);
    out.extend_from_slice(&facts.tree.tree.to_be_bytes());
    out.extend_from_slice(&facts.tree.tree_epoch.to_be_bytes());
    out.extend_from_slice(&facts.key_epoch.to_be_bytes());
    out.extend_from_slice(&facts.deadline.0.to_be_bytes());
    out
}

/// Signs a header.
///
/// # Errors
/// [`RekeyError::Sign`].
pub fn seal<S: Signer>(
    facts: &Facts,
    body: &[u8],
    key: &Key<GroupKey, 16>,
    signer: &S,
) -> Result<Vec<u8>, RekeyError> {
    let mut out = fields(facts);
    let check = key_check_value(key, &sha256(&[&out]));
    out.reserve(check.len() + 4 + body.len() + SIGNATURE_SIZE);
    out.extend_from_slice(&check);
    put_count(&mut out, body.len());
    out.extend_from_slice(body);
    let mut signed = SIGNED_AS.to_vec();
    signed.extend_from_slice(&sha256(&[&out]));
    out.extend_from_slice(&signer.sign(&signed).map_err(|_| RekeyError::Sign)?);
    Ok(out)
}

impl<'h> Header<'h> {
    /// Parses a header and verifies its signature. Nothing of the body is looked at before.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn open(bytes: &'h [u8], sender: &PublicKey) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(HeaderError::Format);
        }
        let facts = Facts {
            scheme: Scheme::of(reader.u8()?).ok_or(HeaderError::Format)?,
            group: GroupId(reader.array()?),
            tree: TreeId { tree: reader.u64()?, tree_epoch: reader.u32()? },
            key_epoch: reader.u32()?,
            deadline: UtcTime(reader.u64()?),
        };
        let check = reader.array()?;
        let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if length > BODY_SIZE_MAX {
            return Err(HeaderError::TooLong { found: length });
        }
        let body = reader.bytes(length)?;
        let end = reader.offset();
        let signature = reader.array()?;
        if reader.left() > 0 {
            return Err(HeaderError::Truncated { offset: reader.offset() });
        }
        let covered = bytes.get(..end).unwrap_or_default();
        let mut signed = SIGNED_AS.to_vec();
        signed.extend_from_slice(&sha256(&[covered]));
        if !sender.verifies(&signed, &signature) {
            return Err(HeaderError::Signature);
        }
        let fields_hash = sha256(&[&fields(&facts)]);
        Ok(Self { facts, body, key_check_value: check, fields_hash })
    }

    /// Whether this is the key that the sender meant.
    #[must_use]
    pub fn is_key(&self, key: &Key<GroupKey, 16>) -> bool {
        gridseal_crypto::ct_eq(&key_check_value(key, &self.fields_hash), &self.key_check_value)
    }
}
