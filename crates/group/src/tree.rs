//! A binary tree of seats: root 1, children 2i and 2i + 1, seat x at node 2^height + x.

/// Highest tree: 2^20 seats. A larger group has several trees.
pub const HEIGHT_MAX: u8 = 20;

/// Height of a tree, 1 to [`HEIGHT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Height(u8);

impl Height {
    /// A height; `None` out of its range.
    #[must_use]
    pub const fn new(height: u8) -> Option<Self> {
        if height >= 1 && height <= HEIGHT_MAX { Some(Self(height)) } else { None }
    }

    /// The lowest tree with so many seats; `None` above 2^20 of them.
    #[must_use]
    pub fn for_seats(count: u32) -> Option<Self> {
        (1..=HEIGHT_MAX).map(Self).find(|height| height.seat_count() >= count)
    }

    /// The height.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }

    /// Number of seats.
    #[must_use]
    pub const fn seat_count(self) -> u32 {
        1 << self.0
    }

    /// The node of a seat.
    #[must_use]
    pub const fn leaf(self, seat: u32) -> Node {
        Node(self.seat_count() | seat)
    }
}

/// A node by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u32);

impl Node {
    /// The root.
    pub const ROOT: Self = Self(1);

    /// Distance from the root.
    #[must_use]
    pub const fn depth(self) -> u32 {
        31u32.saturating_sub(self.0.leading_zeros())
    }

    /// The ancestor at a depth, or the node itself when it is not deeper.
    #[must_use]
    pub const fn at_depth(self, depth: u32) -> Self {
        Self(self.0 >> self.depth().saturating_sub(depth))
    }

    /// Whether `other` lies at or below this node.
    #[must_use]
    pub const fn holds(self, other: Self) -> bool {
        other.depth() >= self.depth() && other.at_depth(self.depth()).0 == self.0
    }

    /// The lowest node that holds both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        let depth = if self.depth() < other.depth() { self.depth() } else { other.depth() };
        let (one, two) = (self.at_depth(depth).0, other.at_depth(depth).0);
        Self(one >> (32 - (one ^ two).leading_zeros()))
    }

    /// The turns on the way down from this node to a node below: `true` goes right.
    pub fn path_to(self, below: Self) -> impl Iterator<Item = bool> {
        let steps = below.depth().saturating_sub(self.depth());
        (0..steps).rev().map(move |bit| below.0 >> bit & 1 == 1)
    }
}

/// Everybody under `root` but not under `except`; with `except` below `root`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subset {
    /// Root of the subset.
    pub root: Node,
    /// What is left out.
    pub except: Node,
}

impl Subset {
    /// Whether a leaf belongs to it.
    #[must_use]
    pub const fn has(&self, leaf: Node) -> bool {
        self.root.holds(leaf) && !self.except.holds(leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_relate_as_in_a_binary_heap() {
        let height = Height::new(3).unwrap();
        let leaf = |seat| height.leaf(seat);
        assert_eq!(leaf(0), Node(8));
        assert_eq!(leaf(2).common(leaf(3)), Node(5));
        assert_eq!(leaf(1).common(leaf(6)), Node::ROOT);
        assert_eq!(leaf(1).common(leaf(1)), leaf(1));
        assert_eq!(Node(2).common(leaf(1)), Node(2));
        assert!(Node(2).holds(leaf(3)) && !Node(2).holds(leaf(4)) && Node(5).holds(Node(5)));
        assert!(Node::ROOT.path_to(leaf(5)).eq([true, false, true]));
        assert!(leaf(5).path_to(leaf(5)).eq([]));
        assert_eq!(Height::for_seats(9), Height::new(4));
        assert_eq!(Height::for_seats(1), Height::new(1));
        assert_eq!(Height::for_seats((1 << 20) + 1), None);
    }
}
