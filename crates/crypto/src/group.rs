//! The keys of a group (subset difference): a master from which labels are derived, the labels that a member holds, and
//! the group key of an epoch with what follows from it.
//!
//! A label is used for one thing: to derive its two children and the key of its subset, each under a constant of its own.

use aes::{
    Aes128, Aes256,
    cipher::{Array, BlockCipherEncrypt, KeyInit},
};
use zeroize::Zeroizing;

use crate::{
    EnvelopeContext, EnvelopeError, Key, Rng,
    role::{Dek, Gak, Gbek, GroupKey, GroupMaster},
};

/// Size of labels, subset keys, group keys and blocks, bytes.
pub const BLOCK_SIZE: usize = 16;

/// A block of bytes on its way into or out of a header.
pub type Block = [u8; BLOCK_SIZE];

const LEFT: Block = [0; BLOCK_SIZE];
const RIGHT: Block = [1; BLOCK_SIZE];
const SUBSET: Block = [2; BLOCK_SIZE];

fn encrypt(cipher: &impl BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16>, block: &Block) -> Block {
    let mut array = Array(*block);
    cipher.encrypt_block(&mut array);
    array.0
}

/// G(label, constant) along a path: `true` goes right. Returns the label reached.
fn descend(start: &Block, path: impl Iterator<Item = bool>) -> Zeroizing<Block> {
    path.fold(Zeroizing::new(*start), |label, right| {
        let cipher = Aes128::new(&Array(*label));
        Zeroizing::new(encrypt(&cipher, if right { &RIGHT } else { &LEFT }))
    })
}

/// AES of the header's nonce under the subset's key: what hides the group key in the subset's block.
fn mask(label: &Block, nonce: &Block) -> Block {
    let subset_key = Zeroizing::new(encrypt(&Aes128::new(&Array(*label)), &SUBSET));
    encrypt(&Aes128::new(&Array(*subset_key)), nonce)
}

fn xor(mut one: Block, two: &Block) -> Block {
    one.iter_mut().zip(two).for_each(|(one, two)| *one ^= two);
    one
}

/// The sender's master, with its key schedule.
pub struct Master {
    cipher: Aes256,
}

impl core::fmt::Debug for Master {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("GroupMaster[32 bytes]")
    }
}

impl Master {
    /// Prepares a master key.
    #[must_use]
    pub fn new(key: &Key<GroupMaster, 32>) -> Self {
        Self { cipher: Aes256::new(&Array(*key.bytes())) }
    }

    /// Label of a node as the root of its own tree: AES-256 of tree (8 bytes), tree epoch (4) and node (4), big-endian.
    fn label(&self, tree: u64, tree_epoch: u32, node: u32) -> Zeroizing<Block> {
        let input = u128::from(tree) << 64 | u128::from(tree_epoch) << 32 | u128::from(node);
        Zeroizing::new(encrypt(&self.cipher, &input.to_be_bytes()))
    }

    /// The label of `node` after a path, as a member gets it: to be sealed for that member at once.
    #[must_use]
    pub fn member_label(
        &self,
        tree: u64,
        tree_epoch: u32,
        node: u32,
        path: impl Iterator<Item = bool>,
    ) -> MemberLabel {
        MemberLabel(descend(&self.label(tree, tree_epoch, node), path))
    }

    /// The block of a subset: group key xor AES of the nonce.
    #[must_use]
    pub fn seal(
        &self,
        (tree, tree_epoch, node): (u64, u32, u32),
        path: impl Iterator<Item = bool>,
        nonce: &Block,
        group_key: &Key<GroupKey, 16>,
    ) -> Block {
        xor(mask(&descend(&self.label(tree, tree_epoch, node), path), nonce), group_key.bytes())
    }
}

/// One label of a member. Wiped on drop.
pub struct MemberLabel(Zeroizing<Block>);

impl core::fmt::Debug for MemberLabel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("GroupLabel[16 bytes]")
    }
}

impl MemberLabel {
    /// Takes label bytes over and wipes the source.
    #[must_use]
    pub fn take(source: &mut Block) -> Self {
        let label = Zeroizing::new(*source);
        zeroize::Zeroize::zeroize(source);
        Self(label)
    }

    /// The group key in a subset's block, by the label reached over `path` from this one.
    #[must_use]
    pub fn open(&self, path: impl Iterator<Item = bool>, nonce: &Block, block: &Block) -> Key<GroupKey, 16> {
        Key::take(&mut xor(mask(&descend(&self.0, path), nonce), block))
    }

    /// All labels of a member as one sealed blob, for storage or for the member.
    ///
    /// # Errors
    /// [`EnvelopeError::Rng`].
    pub fn seal_all(
        labels: &[Self],
        dek: &Key<Dek, 32>,
        context: &EnvelopeContext,
        rng: &mut dyn Rng,
    ) -> Result<alloc::vec::Vec<u8>, EnvelopeError> {
        let mut plain = Zeroizing::new(alloc::vec::Vec::with_capacity(labels.len() * BLOCK_SIZE));
        labels.iter().for_each(|label| plain.extend_from_slice(label.0.as_slice()));
        crate::seal_bytes(dek, context, &plain, rng)
    }

    /// Opens what [`Self::seal_all`] made.
    ///
    /// # Errors
    /// [`EnvelopeError::Rejected`].
    pub fn open_all(
        dek: &Key<Dek, 32>,
        context: &EnvelopeContext,
        sealed: &[u8],
    ) -> Result<alloc::vec::Vec<Self>, EnvelopeError> {
        let plain = Zeroizing::new(crate::open_bytes(dek, context, sealed)?);
        let (labels, rest) = plain.as_chunks::<BLOCK_SIZE>();
        if !rest.is_empty() {
            return Err(EnvelopeError::Rejected);
        }
        Ok(labels.iter().map(|label| Self(Zeroizing::new(*label))).collect())
    }

    /// The bytes in hex, for evidence of a simulation with throw-away keys.
    #[cfg(feature = "danger-inventory")]
    #[must_use]
    pub fn danger_reveal_hex(&self) -> alloc::string::String {
        self.0.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
    }
}

fn derived<R: crate::role::Role>(key: &Key<GroupKey, 16>, label: &[u8], context: &[&[u8]]) -> Key<R, 16> {
    let mut parts = alloc::vec![label];
    parts.extend_from_slice(context);
    let mut mac = Zeroizing::new(key.mac(&parts));
    let (first, _) = mac.split_at_mut(16);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(first);
    Key::take(&mut bytes)
}

/// Key check value: the first 8 bytes of HMAC(group key, "gsg-kcv" || hash). It tells a wrong key before it is used.
#[must_use]
pub fn key_check_value(key: &Key<GroupKey, 16>, hash: &[u8; 32]) -> [u8; 8] {
    let mac = key.mac(&[b"gsg-kcv", hash]);
    let mut value = [0; 8];
    value.copy_from_slice(&mac[..8]);
    value
}

/// The broadcast encryption key of an epoch.
#[must_use]
pub fn broadcast_key(key: &Key<GroupKey, 16>, context: &[&[u8]]) -> Key<Gbek, 16> {
    derived(key, b"gsg-dlms-gbek", context)
}

/// The authentication key that goes with it: a broadcast authenticates with it, so no unicast one is ever shared.
#[must_use]
pub fn broadcast_authentication_key(key: &Key<GroupKey, 16>, context: &[&[u8]]) -> Key<Gak, 16> {
    derived(key, b"gsg-dlms-gak", context)
}

/// A key for content of a named purpose, for example firmware blocks.
#[must_use]
pub fn content_key(key: &Key<GroupKey, 16>, purpose: &str, context: &[&[u8]]) -> Key<Gbek, 16> {
    let length = u8::try_from(purpose.len()).unwrap_or(u8::MAX);
    let mut parts = alloc::vec![core::slice::from_ref(&length), purpose.as_bytes()];
    parts.extend_from_slice(context);
    derived(key, b"gsg-content", &parts)
}

/// Wraps a key under a member's or a node's own key for a stateful scheme: AES of a counter block, xored. Each wrapping
/// key and block number is used once.
#[must_use]
pub fn wrap_once(under: &Key<GroupKey, 16>, number: &Block, key: &Key<GroupKey, 16>) -> Block {
    xor(encrypt(&Aes128::new(&Array(*under.bytes())), number), key.bytes())
}

/// Opens what [`wrap_once`] made.
#[must_use]
pub fn unwrap_once(under: &Key<GroupKey, 16>, number: &Block, wrapped: &Block) -> Key<GroupKey, 16> {
    Key::take(&mut xor(encrypt(&Aes128::new(&Array(*under.bytes())), number), wrapped))
}
