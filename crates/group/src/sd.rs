//! Subset difference: a member's labels never change, and any one header is enough to catch up.

use alloc::vec::Vec;

use gridseal_crypto::{
    Key, Rng,
    group::{BLOCK_SIZE, Block, Master, MemberLabel},
    random,
    role::GroupKey,
};

use crate::{
    bytes::{Reader, Short},
    cover::{cover, revoked_nodes},
    revoked::{RevokedError, RevokedList},
    scheme::{Receive, Rekey, RekeyError, Scheme},
    tree::{Height, Node, Subset},
};

/// Node whose label is for everybody, used while nobody is revoked and every seat is taken.
const EVERYBODY: Node = Node(0);

/// Bytes of a body before the list: height, assigned seats, salt.
const FIXED_SIZE: usize = 1 + 4 + 8;

/// Names a tree: labels of one are of no use in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeId {
    /// Number of the tree.
    pub tree: u64,
    /// Raised when the members are seated anew, with fresh labels.
    pub tree_epoch: u32,
}

/// Where a member finds the label for a subset: depth of the subset's root, depth of the node off its own path.
fn label_index(height: Height, root_depth: u32, off_depth: u32) -> usize {
    let height = u32::from(height.value());
    let before: u32 = (0..root_depth).map(|depth| height - depth).sum();
    usize::try_from(before + off_depth - root_depth - 1).unwrap_or(usize::MAX)
}

/// Number of labels of a member: h (h + 1) / 2, and the one for everybody.
#[must_use]
pub const fn label_count(height: Height) -> usize {
    let height = height.value() as usize;
    height * (height + 1) / 2 + 1
}

/// The labels of one seat, in the order of a member's storage. To be sealed for that member at once.
#[must_use]
pub fn labels(master: &Master, id: TreeId, height: Height, seat: u32) -> Vec<MemberLabel> {
    (0..label_count(height)).filter_map(|index| label_at(master, id, height, seat, index)).collect()
}

/// One label of a seat, by its place in the member's storage; `None` beyond the end.
#[must_use]
pub fn label_at(master: &Master, id: TreeId, height: Height, seat: u32, index: usize) -> Option<MemberLabel> {
    let (root, off) = label_nodes(height, seat, index)?;
    Some(master.member_label(id.tree, id.tree_epoch, root.0, root.path_to(off)))
}

/// Root and node off the path to which the label at this place belongs; both are node 0 for the one for everybody.
#[must_use]
pub fn label_nodes(height: Height, seat: u32, index: usize) -> Option<(Node, Node)> {
    let leaf = height.leaf(seat);
    let depth_max = u32::from(height.value());
    let mut first = 0;
    for root_depth in 0..depth_max {
        let count = usize::try_from(depth_max - root_depth).ok()?;
        if let Some(place) = index.checked_sub(first).filter(|place| *place < count) {
            let depth = root_depth + 1 + u32::try_from(place).ok()?;
            return Some((leaf.at_depth(root_depth), Node(leaf.at_depth(depth).0 ^ 1)));
        }
        first += count;
    }
    (index == first).then_some((EVERYBODY, EVERYBODY))
}

/// The sender.
#[derive(Debug)]
pub struct SdSender<'m> {
    master: &'m Master,
    id: TreeId,
    height: Height,
    assigned: u32,
    /// Ascending.
    evicted: Vec<u32>,
}

impl<'m> SdSender<'m> {
    /// A sender of a tree with its first `assigned` seats given out, and the seats evicted so far, ascending.
    #[must_use]
    pub const fn new(
        master: &'m Master,
        id: TreeId,
        height: Height,
        assigned: u32,
        evicted: Vec<u32>,
    ) -> Self {
        Self { master, id, height, assigned, evicted }
    }

    /// Evicted seats, ascending.
    #[must_use]
    pub fn evicted(&self) -> &[u32] {
        &self.evicted
    }

    /// The body for these evicted seats and this key.
    fn body(&self, evicted: &[u32], epoch: u32, key: &Key<GroupKey, 16>, salt: [u8; 8]) -> Vec<u8> {
        let nonce = nonce(self.id.tree_epoch, epoch, salt);
        let list = RevokedList::new(evicted);
        let mut out = Vec::with_capacity(64 + evicted.len() * 22);
        out.push(self.height.value());
        out.extend_from_slice(&self.assigned.to_be_bytes());
        out.extend_from_slice(&salt);
        list.encode(&mut out);
        let TreeId { tree, tree_epoch } = self.id;
        let mut count = 0u32;
        let nodes = revoked_nodes(self.height, self.assigned, evicted.iter().copied());
        cover(nodes, |Subset { root, except }| {
            let place = (tree, tree_epoch, root.0);
            out.extend_from_slice(&self.master.seal(place, root.path_to(except), &nonce, key));
            count += 1;
        });
        let nobody = evicted.is_empty() && self.assigned == self.height.seat_count();
        if count == 0 && nobody {
            let place = (tree, tree_epoch, EVERYBODY.0);
            out.extend_from_slice(&self.master.seal(place, core::iter::empty(), &nonce, key));
        }
        out
    }
}

/// Blocks and bytes of the body for these evicted seats, ascending: what a header costs before it is made.
#[must_use]
pub fn body_size(height: Height, assigned: u32, evicted: &[u32]) -> (usize, usize) {
    let mut blocks = 0usize;
    cover(revoked_nodes(height, assigned, evicted.iter().copied()), |_| blocks += 1);
    let for_everybody = evicted.is_empty() && assigned == height.seat_count();
    blocks += usize::from(for_everybody);
    (blocks, FIXED_SIZE + RevokedList::new(evicted).size() + blocks * BLOCK_SIZE)
}

/// Unique for each header of a tree: no two group keys are ever hidden by one mask.
fn nonce(tree_epoch: u32, epoch: u32, salt: [u8; 8]) -> Block {
    let fields = u64::from(tree_epoch) << 32 | u64::from(epoch);
    (u128::from(fields) << 64 | u128::from(u64::from_be_bytes(salt))).to_be_bytes()
}

impl Rekey for SdSender<'_> {
    fn scheme(&self) -> Scheme {
        Scheme::SubsetDifference
    }

    fn rekey(
        &mut self,
        epoch: u32,
        evicted: &[u32],
        key: &Key<GroupKey, 16>,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, RekeyError> {
        if let Some(seat) = evicted.iter().find(|seat| **seat >= self.assigned) {
            return Err(RekeyError::Seat(*seat));
        }
        let salt = random::<8>(rng)?;
        let mut all = self.evicted.clone();
        all.extend_from_slice(evicted);
        all.sort_unstable();
        all.dedup();
        let body = self.body(&all, epoch, key, salt);
        self.evicted = all;
        Ok(body)
    }
}

/// A body, parsed: what a member reads before it opens anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdBody<'b> {
    /// Height of the tree.
    pub height: Height,
    /// Seats given out; those from here on count as revoked.
    pub assigned: u32,
    salt: [u8; 8],
    /// Evicted seats.
    pub evicted: RevokedList,
    blocks: &'b [Block],
}

/// A body that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SdError {
    /// Ends too early.
    #[error("body ends early")]
    Truncated,
    /// A field out of range.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// The list of the evicted.
    #[error(transparent)]
    Revoked(#[from] RevokedError),
    /// Not as many blocks as the list needs.
    #[error("{found} blocks for {needed} subsets")]
    Blocks {
        /// Blocks found.
        found: usize,
        /// Subsets of the list.
        needed: usize,
    },
}

impl From<Short> for SdError {
    fn from(_: Short) -> Self {
        Self::Truncated
    }
}

impl<'b> SdBody<'b> {
    /// Parses a body and counts its subsets.
    ///
    /// # Errors
    /// [`SdError`]; work and memory are bounded by the body's size.
    pub fn decode(bytes: &'b [u8]) -> Result<Self, SdError> {
        let mut reader = Reader::new(bytes);
        let height = Height::new(reader.u8()?).ok_or(SdError::Range("height"))?;
        let assigned = reader.u32()?;
        if assigned > height.seat_count() {
            return Err(SdError::Range("assigned seats"));
        }
        let salt = reader.array()?;
        let evicted = RevokedList::decode(&mut reader, assigned)?;
        let (blocks, rest) = reader.bytes(reader.left())?.as_chunks::<BLOCK_SIZE>();
        if !rest.is_empty() {
            return Err(SdError::Truncated);
        }
        let body = Self { height, assigned, salt, evicted, blocks };
        let mut needed = 0;
        body.subsets(|_| needed += 1);
        if needed == 0 && body.is_for_everybody() {
            needed = 1;
        }
        if needed != blocks.len() {
            return Err(SdError::Blocks { found: blocks.len(), needed });
        }
        Ok(body)
    }

    fn is_for_everybody(&self) -> bool {
        self.assigned == self.height.seat_count() && self.evicted.seats().next().is_none()
    }

    /// Calls `emit` with each subset in the order of the blocks.
    pub fn subsets(&self, emit: impl FnMut(Subset)) {
        cover(revoked_nodes(self.height, self.assigned, self.evicted.seats()), emit);
    }

    /// The nonce that hides the key in this body.
    #[must_use]
    pub fn nonce(&self, tree_epoch: u32, epoch: u32) -> Block {
        nonce(tree_epoch, epoch, self.salt)
    }

    /// The blocks, one for each subset in order.
    #[must_use]
    pub const fn blocks(&self) -> &'b [Block] {
        self.blocks
    }

    /// The subset and the block for a seat: the subset is `None` for the block that is for everybody.
    fn for_seat(&self, seat: u32) -> Option<(Option<Subset>, &'b Block)> {
        let leaf = self.height.leaf(seat);
        if self.is_for_everybody() {
            return self.blocks.first().map(|block| (None, block));
        }
        let mut found = None;
        let mut place = 0usize;
        self.subsets(|subset| {
            if found.is_none() && subset.has(leaf) {
                found = Some((subset, place));
            }
            place += 1;
        });
        let (subset, place) = found?;
        Some((Some(subset), self.blocks.get(place)?))
    }
}

/// The member.
#[derive(Debug)]
pub struct SdMember {
    id: TreeId,
    height: Height,
    seat: u32,
    labels: Vec<MemberLabel>,
    block_count: u32,
}

impl SdMember {
    /// A member in its seat; `None` unless there are as many labels as the tree needs.
    #[must_use]
    pub fn new(id: TreeId, height: Height, seat: u32, labels: Vec<MemberLabel>) -> Option<Self> {
        let fits = labels.len() == label_count(height) && seat < height.seat_count();
        fits.then_some(Self { id, height, seat, labels, block_count: 0 })
    }

    /// The labels, in storage order.
    #[must_use]
    pub fn labels(&self) -> &[MemberLabel] {
        &self.labels
    }
}

/// Where a member of a subset finds its label for it, and the node from which the path leads down to `except`.
#[must_use]
pub fn label_for(height: Height, seat: u32, subset: Subset) -> (usize, Node) {
    let off_depth = height.leaf(seat).common(subset.except).depth() + 1;
    (label_index(height, subset.root.depth(), off_depth), subset.except.at_depth(off_depth))
}

impl Receive for SdMember {
    fn receive(&mut self, epoch: u32, body: &[u8]) -> Option<Key<GroupKey, 16>> {
        let body = SdBody::decode(body).ok()?;
        if body.height != self.height {
            return None;
        }
        let nonce = nonce(self.id.tree_epoch, epoch, body.salt);
        let (subset, block) = body.for_seat(self.seat)?;
        let Some(subset) = subset else {
            self.block_count = 2;
            return Some(self.labels.last()?.open(core::iter::empty(), &nonce, block));
        };
        let (index, start) = label_for(self.height, self.seat, subset);
        let key = self.labels.get(index)?.open(start.path_to(subset.except), &nonce, block);
        self.block_count = subset.except.depth() - start.depth() + 2;
        Some(key)
    }

    fn storage_size(&self) -> usize {
        self.labels.len() * BLOCK_SIZE
    }

    fn block_count(&self) -> u32 {
        self.block_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_crypto::{RngError, role::GroupMaster};

    struct Zeros;

    impl Rng for Zeros {
        fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
            buffer.fill(0);
            Ok(())
        }
    }

    #[test]
    fn what_a_body_costs_is_known_before_it_is_made() {
        let master = Master::new(&Key::<GroupMaster, 32>::take(&mut [1; 32]));
        let (id, height) = (TreeId { tree: 1, tree_epoch: 1 }, Height::new(8).unwrap());
        let key = Key::take(&mut [2; 16]);
        for assigned in [0, 1, 100, 255, 256] {
            for step in [1, 2, 3, 50, 1_000] {
                let evicted: Vec<u32> = (0..assigned).step_by(step).skip(1).collect();
                let mut sender = SdSender::new(&master, id, height, assigned, Vec::new());
                let body = sender.rekey(1, &evicted, &key, &mut Zeros).unwrap();
                let (blocks, size) = body_size(height, assigned, &evicted);
                assert_eq!(size, body.len(), "{assigned} seats, each {step}th evicted");
                assert_eq!(blocks, SdBody::decode(&body).unwrap().blocks().len());
            }
        }
    }
}
