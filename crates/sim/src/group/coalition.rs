//! Everything that evicted members know, pooled.

use std::collections::BTreeSet;

use gridseal_crypto::{Key, group::Master, role::GroupKey};
use gridseal_group::{
    header::Header,
    sd::{self, SdBody, TreeId},
    tree::{Height, Node, Subset},
};

/// Labels of several seats by the nodes that they belong to. What can be derived from them is a label of a node below, for
/// the same root: that closure is what [`Coalition::opens`] searches.
#[derive(Debug)]
pub struct Coalition<'m> {
    master: &'m Master,
    id: TreeId,
    height: Height,
    labels: BTreeSet<(Node, Node)>,
}

impl<'m> Coalition<'m> {
    /// The labels of these seats.
    #[must_use]
    pub fn new(master: &'m Master, id: TreeId, height: Height, seats: impl Iterator<Item = u32>) -> Self {
        let labels = seats
            .flat_map(|seat| {
                (0..sd::label_count(height)).filter_map(move |at| sd::label_nodes(height, seat, at))
            })
            .collect();
        Self { master, id, height, labels }
    }

    /// A label from which the subset's key can be derived.
    fn reaches(&self, subset: Subset) -> Option<(Node, Node)> {
        let depths = subset.root.depth() + 1..=subset.except.depth();
        depths
            .map(|depth| (subset.root, subset.except.at_depth(depth)))
            .find(|label| self.labels.contains(label))
    }

    /// The group key of a header, if the pooled labels lead to it: derived and checked, not only argued.
    #[must_use]
    pub fn opens(&self, header: &Header<'_>) -> Option<Key<GroupKey, 16>> {
        let body = SdBody::decode(header.body).ok()?;
        let TreeId { tree, tree_epoch } = self.id;
        let nonce = body.nonce(tree_epoch, header.facts.key_epoch);
        let mut subsets = Vec::with_capacity(body.blocks().len());
        body.subsets(|subset| subsets.push(subset));
        let derived = subsets.iter().zip(body.blocks()).find_map(|(subset, block)| {
            let (root, start) = self.reaches(*subset)?;
            let label = self.master.member_label(tree, tree_epoch, root.0, root.path_to(start));
            let key = label.open(start.path_to(subset.except), &nonce, block);
            header.is_key(&key).then_some(key)
        });
        // The block for everybody, if the header is of that kind.
        derived.or_else(|| {
            let everybody = (Node(0), Node(0));
            let block =
                body.blocks().first().filter(|_| subsets.is_empty() && self.labels.contains(&everybody))?;
            let label = self.master.member_label(tree, tree_epoch, 0, std::iter::empty());
            let key = label.open(std::iter::empty(), &nonce, block);
            header.is_key(&key).then_some(key)
        })
    }

    /// Height of the tree.
    #[must_use]
    pub const fn height(&self) -> Height {
        self.height
    }
}
