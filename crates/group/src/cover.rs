//! The cover: subsets that hold everybody but the revoked, each member in exactly one.
//!
//! The revoked are taken from left to right; what is decided leaves the stack at once. So the stack is never deeper than
//! the tree, and a small meter finds its subset's place in the header without the list in memory.

use alloc::vec::Vec;

use crate::tree::{HEIGHT_MAX, Height, Node, Subset};

/// Entries of the stack: one for each level, and the one in hand.
const STACK_SIZE: usize = HEIGHT_MAX as usize + 2;

/// The subtree of everything revoked so far that has not met its neighbour yet.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Stands for everything revoked below it.
    node: Node,
    /// Where it meets the entry before.
    meets: Node,
}

/// Calls `emit` with each subset of the cover, in canonical order. `revoked` are nodes from left to right, none below
/// another; without any the cover is empty and the header has the one block for all.
///
/// At most 2r - 1 subsets for r revoked nodes; O(r) steps.
///
/// # Source
/// Naor, Naor and Lotspiech 2001, subset difference; the streaming order is ours.
pub fn cover(revoked: impl Iterator<Item = Node>, mut emit: impl FnMut(Subset)) {
    let mut stack: Vec<Entry> = Vec::with_capacity(STACK_SIZE);
    for node in revoked {
        let meets = stack.last().map_or(Node::ROOT, |top| top.node.common(node));
        // Whatever meets below this place has seen everything revoked under it.
        while let [.., left, right] = stack.as_slice()
            && right.meets.depth() > meets.depth()
        {
            let merged = Entry { node: right.meets, meets: left.meets };
            merge(left.node, right.node, right.meets, &mut emit);
            stack.truncate(stack.len() - 2);
            stack.push(merged);
        }
        stack.push(Entry { node, meets });
    }
    while let [.., left, right] = stack.as_slice() {
        let merged = Entry { node: right.meets, meets: left.meets };
        merge(left.node, right.node, right.meets, &mut emit);
        stack.truncate(stack.len() - 2);
        stack.push(merged);
    }
    if let Some(last) = stack.first()
        && last.node != Node::ROOT
    {
        emit(Subset { root: Node::ROOT, except: last.node });
    }
}

fn merge(left: Node, right: Node, parent: Node, emit: &mut impl FnMut(Subset)) {
    for (side, except) in [(Node(parent.0 << 1), left), (Node(parent.0 << 1 | 1), right)] {
        if side != except {
            emit(Subset { root: side, except });
        }
    }
}

/// The revoked of a tree from left to right: seats that were evicted, then the seats that nobody has, as few nodes.
///
/// Seats that nobody has count as revoked: a newcomer who gets one later must not open what was sent before.
pub fn revoked_nodes(
    height: Height,
    assigned: u32,
    evicted: impl Iterator<Item = u32>,
) -> impl Iterator<Item = Node> {
    evicted.map(move |seat| height.leaf(seat)).chain(tail(height, assigned))
}

/// The largest subtrees that make up the seats from `assigned` on.
fn tail(height: Height, assigned: u32) -> impl Iterator<Item = Node> {
    let mut seat = assigned;
    core::iter::from_fn(move || {
        if seat >= height.seat_count() {
            return None;
        }
        let levels = seat.trailing_zeros().min(u32::from(height.value()));
        let node = Node(height.leaf(seat).0 >> levels);
        seat += 1 << levels;
        Some(node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_set, prelude::*};

    fn covered(height: Height, assigned: u32, evicted: &[u32]) -> Vec<Subset> {
        let mut subsets = Vec::new();
        cover(revoked_nodes(height, assigned, evicted.iter().copied()), |subset| subsets.push(subset));
        subsets
    }

    fn is_partition(height: Height, assigned: u32, evicted: &[u32]) {
        let subsets = covered(height, assigned, evicted);
        let revoked = evicted.len() + tail(height, assigned).count();
        assert!(revoked == 0 || subsets.len() < 2 * revoked, "{} subsets for {revoked}", subsets.len());
        for seat in 0..height.seat_count() {
            let holders = subsets.iter().filter(|subset| subset.has(height.leaf(seat))).count();
            let is_revoked = seat >= assigned || evicted.contains(&seat);
            let wanted = usize::from(revoked > 0 && !is_revoked);
            assert_eq!(holders, wanted, "seat {seat}, {evicted:?}");
        }
        assert!(
            subsets.iter().all(|subset| subset.root != subset.except && subset.root.holds(subset.except))
        );
    }

    #[test]
    fn every_choice_in_a_small_tree_is_covered_once() {
        let height = Height::new(3).unwrap();
        for assigned in 0..=8u32 {
            for choice in 0..1u32 << assigned {
                let evicted: Vec<u32> = (0..assigned).filter(|seat| choice >> seat & 1 == 1).collect();
                is_partition(height, assigned, &evicted);
            }
        }
    }

    proptest! {
        #[test]
        fn any_choice_is_covered_once(
            evicted in btree_set(0u32..700, 0..90),
            assigned in 700u32..=1_024,
        ) {
            let evicted: Vec<u32> = evicted.into_iter().collect();
            is_partition(Height::new(10).unwrap(), assigned, &evicted);
        }
    }

    #[test]
    fn a_thousand_neighbours_cost_a_few_subsets() {
        let height = Height::new(20).unwrap();
        let evicted: Vec<u32> = (300_000..301_000).collect();
        assert!(covered(height, 1 << 20, &evicted).len() <= 8);
    }
}
