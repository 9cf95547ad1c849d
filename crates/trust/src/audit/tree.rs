//! Merkle tree of RFC 6962: one hash stands for a list, short proofs show that an entry is in it, and that a longer list
//! only continues a shorter one.
//!
//! Functions over the leaves' hashes; a [`Root`] takes them one by one in logarithmic memory.

use alloc::vec::Vec;

use gridseal_crypto::sha256;
use gridseal_types::Digest;

/// Hash of a leaf: SHA-256(0x00 ++ data).
///
/// # Source
/// RFC 6962, section 2.1.
#[must_use]
pub fn leaf_hash(data: &[u8]) -> Digest {
    Digest(sha256(&[&[0], data]))
}

/// Hash of an inner node: SHA-256(0x01 ++ left ++ right).
///
/// # Source
/// RFC 6962, section 2.1.
#[must_use]
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest(sha256(&[&[1], left.as_bytes(), right.as_bytes()]))
}

/// The root of a growing list of leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    /// Roots of the full subtrees from left to right; their sizes are the bits of `size`, highest first.
    subtrees: Vec<Digest>,
    size: u64,
}

impl Root {
    /// No leaf yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { subtrees: Vec::new(), size: 0 }
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its [`leaf_hash`]; one node hash on average.
    pub fn push(&mut self, leaf: Digest) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            // There is a subtree for each bit that is set.
            let Some(left) = self.subtrees.pop() else { break };
            node = node_hash(&left, &node);
        }
        self.subtrees.push(node);
        self.size = self.size.saturating_add(1);
    }

    /// The root; that of an empty list is SHA-256 of nothing.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut subtrees = self.subtrees.iter().rev();
        let Some(last) = subtrees.next() else { return Digest(sha256(&[])) };
        subtrees.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Root of a list of leaf hashes.
#[must_use]
pub fn root(leaves: &[Digest]) -> Digest {
    let mut root = Root::new();
    leaves.iter().for_each(|leaf| root.push(*leaf));
    root.digest()
}

/// The largest power of two below `size`, which is at least 2: where RFC 6962 cuts a list in two.
const fn split(size: usize) -> usize {
    size.next_power_of_two() / 2
}

/// The proof that the leaf at `index` is in the list: siblings from the leaf to the root. `None` beyond the list.
///
/// Reads all leaves: about as many hashes as [`root`].
///
/// # Source
/// RFC 6962, section 2.1.1.
#[must_use]
pub fn inclusion_proof(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    let (mut list, mut index) = (leaves, index);
    let mut proof = Vec::new();
    if index >= list.len() {
        return None;
    }
    while list.len() > 1 {
        let (left, right) = list.split_at(split(list.len()));
        if let Some(beyond) = index.checked_sub(left.len()) {
            proof.push(root(left));
            (list, index) = (right, beyond);
        } else {
            proof.push(root(right));
            list = left;
        }
    }
    proof.reverse();
    Some(proof)
}

/// Proofs of many leaves of one list: every node is hashed once.
#[derive(Debug)]
pub struct Proofs {
    /// Nodes by level, leaves first; a last node without a sibling moves up unchanged.
    levels: Vec<Vec<Digest>>,
}

impl Proofs {
    /// Hashes the whole tree.
    #[must_use]
    pub fn new(leaves: Vec<Digest>) -> Self {
        let mut levels = alloc::vec![leaves];
        while let Some(last) = levels.last().filter(|last| last.len() > 1) {
            let above = last.chunks(2).map(|pair| match pair {
                [left, right] => node_hash(left, right),
                _ => pair.first().copied().unwrap_or(Digest([0; 32])),
            });
            levels.push(above.collect());
        }
        Self { levels }
    }

    /// As [`inclusion_proof`].
    #[must_use]
    pub fn inclusion(&self, index: usize) -> Option<Vec<Digest>> {
        self.levels.first().filter(|leaves| index < leaves.len())?;
        let siblings = self.levels.iter().enumerate().map(|(level, nodes)| nodes.get((index >> level) ^ 1));
        Some(siblings.flatten().copied().collect())
    }
}

/// The proof that a list continues its first `size` leaves unchanged. `None` when there are fewer.
///
/// # Source
/// RFC 6962, section 2.1.2.
#[must_use]
pub fn consistency_proof(leaves: &[Digest], size: usize) -> Option<Vec<Digest>> {
    if size > leaves.len() {
        return None;
    }
    let mut proof = Vec::new();
    let (mut list, mut size, mut is_known) = (leaves, size, true);
    while size != list.len() && size != 0 {
        let (left, right) = list.split_at(split(list.len()));
        if size <= left.len() {
            proof.push(root(right));
            list = left;
        } else {
            proof.push(root(left));
            (list, size) = (right, size.saturating_sub(left.len()));
            is_known = false;
        }
    }
    if !is_known {
        proof.push(root(list));
    }
    proof.reverse();
    Some(proof)
}

/// A list by its size and root: what a proof is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Head {
    /// Number of leaves.
    #[n(0)]
    pub size: u64,
    /// Root over their hashes.
    #[n(1)]
    pub root: Digest,
}

/// Whether `proof` shows that the leaf with this hash is at `index` of the list.
///
/// # Source
/// RFC 9162, section 2.1.3.2.
#[must_use]
pub fn is_included(leaf: &Digest, index: u64, head: &Head, proof: &[Digest]) -> bool {
    if index >= head.size {
        return false;
    }
    let mut place = Place { node: index, last: head.size.saturating_sub(1) };
    let mut hash = *leaf;
    for sibling in proof {
        match place.up() {
            None => return false,
            Some(Side::Right) => hash = node_hash(sibling, &hash),
            Some(Side::Left) => hash = node_hash(&hash, sibling),
        }
    }
    place.last == 0 && hash == head.root
}

/// Whether `proof` shows that the `new` list continues the `old` one. An empty list is continued by any.
///
/// # Source
/// RFC 9162, section 2.1.4.2.
#[must_use]
pub fn is_consistent(old: &Head, new: &Head, proof: &[Digest]) -> bool {
    if old.size > new.size {
        return false;
    }
    if old.size == 0 {
        return proof.is_empty() && old.root == Root::new().digest();
    }
    if old.size == new.size {
        return proof.is_empty() && old.root == new.root;
    }
    let mut place = Place { node: old.size.saturating_sub(1), last: new.size.saturating_sub(1) };
    while place.node & 1 == 1 {
        place = Place { node: place.node >> 1, last: place.last >> 1 };
    }
    // The old list is one full subtree: its root is where both start.
    let (start, rest) = if old.size.is_power_of_two() {
        (old.root, proof)
    } else if let Some((first, rest)) = proof.split_first() {
        (*first, rest)
    } else {
        return false;
    };
    let (mut was, mut is) = (start, start);
    for sibling in rest {
        match place.up() {
            None => return false,
            Some(Side::Right) => {
                was = node_hash(sibling, &was);
                is = node_hash(sibling, &is);
            }
            Some(Side::Left) => is = node_hash(&is, sibling),
        }
    }
    place.last == 0 && was == old.root && is == new.root
}

/// Which child a node is.
enum Side {
    Left,
    Right,
}

/// A node on its level, and the last node of that level.
struct Place {
    node: u64,
    last: u64,
}

impl Place {
    /// Which child this node is of the next node that has a sibling, and on to its parent. `None` at the root.
    fn up(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let side = if self.node & 1 == 1 || self.node == self.last { Side::Right } else { Side::Left };
        // A last node without a sibling moves up unchanged.
        while self.node & 1 == 0 && self.node == self.last && self.node != 0 {
            (self.node, self.last) = (self.node >> 1, self.last >> 1);
        }
        (self.node, self.last) = (self.node >> 1, self.last >> 1);
        Some(side)
    }
}

#[cfg(test)]
mod tests;
