//! Everything that evicted members and later joiners know, pooled.

use std::collections::BTreeMap;

use gridseal_crypto::{Key, group::Master, role::GroupKey};
use gridseal_group::{
    header::Header,
    lkh::{LkhBody, LkhMember},
    sd::{SdBody, TreeId},
    tree::{Height, Node, Subset},
};

/// The pooled labels of a tree. A seat holds the label of a node under a root above it when the node hangs off its path;
/// so the pool has a label when it has a seat beside the node. What can be derived from a label is the label of a node
/// below, for the same root: that closure is what [`Coalition::opens`] searches.
#[derive(Debug)]
pub struct Coalition<'m> {
    master: &'m Master,
    id: TreeId,
    height: Height,
    /// Ascending.
    seats: Vec<u32>,
    /// These seats and all behind them belong to later joiners, who are in it too.
    joiners_from: u32,
}

impl<'m> Coalition<'m> {
    /// Those who sit in `seats`, ascending, and everybody who gets a seat from `joiners_from` on.
    #[must_use]
    pub const fn new(
        master: &'m Master,
        id: TreeId,
        height: Height,
        seats: Vec<u32>,
        joiners_from: u32,
    ) -> Self {
        Self { master, id, height, seats, joiners_from }
    }

    /// Whether one of them sits under a node.
    fn is_under(&self, node: Node) -> bool {
        let levels = u32::from(self.height.value()).saturating_sub(node.depth());
        let first = (node.0 << levels) - self.height.seat_count();
        let end = first + (1 << levels);
        let place = self.seats.partition_point(|seat| *seat < first);
        end > self.joiners_from.max(first) || self.seats.get(place).is_some_and(|seat| *seat < end)
    }

    /// Whether the pool has the label of `off` under `root`.
    #[must_use]
    pub fn has_label(&self, root: Node, off: Node) -> bool {
        root != off && root.holds(off) && self.is_under(Node(off.0 ^ 1))
    }

    /// Whether the pool has the label that is for everybody.
    fn has_everybody(&self) -> bool {
        self.is_under(Node::ROOT)
    }

    /// A label from which the subset's key can be derived.
    fn reaches(&self, subset: Subset) -> Option<Node> {
        let depths = subset.root.depth() + 1..=subset.except.depth();
        depths.map(|depth| subset.except.at_depth(depth)).find(|off| self.has_label(subset.root, *off))
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
            let start = self.reaches(*subset)?;
            let label = self.master.member_label(tree, tree_epoch, subset.root.0, subset.root.path_to(start));
            let key = label.open(start.path_to(subset.except), &nonce, block);
            header.is_key(&key).then_some(key)
        });
        // The block for everybody, if the header is of that kind.
        derived.or_else(|| {
            let block = body.blocks().first().filter(|_| subsets.is_empty() && self.has_everybody())?;
            let label = self.master.member_label(tree, tree_epoch, 0, std::iter::empty());
            let key = label.open(std::iter::empty(), &nonce, block);
            header.is_key(&key).then_some(key)
        })
    }
}

/// The same for a hierarchy of keys: every wrap is tried with every key that anybody has for its child, or that came out of
/// a wrap before.
#[must_use]
pub fn hierarchy_opens(
    header: &Header<'_>,
    members: impl Iterator<Item = LkhMember>,
) -> Option<Key<GroupKey, 16>> {
    let body = LkhBody::decode(header.body)?;
    let epoch = header.facts.key_epoch;
    let mut owners = BTreeMap::new();
    for member in members {
        let nodes: Vec<u32> = member.keys().map(|(node, _)| node).collect();
        let member = std::rc::Rc::new(member);
        for node in nodes {
            owners.entry(node).or_insert_with(|| std::rc::Rc::clone(&member));
        }
    }
    let held = |node: u32| {
        owners.get(&node).and_then(|member| member.keys().find(|(at, _)| *at == node)).map(|(_, key)| key)
    };
    let mut derived: BTreeMap<u32, Vec<Key<GroupKey, 16>>> = BTreeMap::new();
    for wrap in body.wraps() {
        let from = derived.get(&wrap.child).into_iter().flatten().chain(held(wrap.child));
        let mut found: Vec<_> = from.map(|key| wrap.open(epoch, key)).collect();
        derived.entry(wrap.node).or_default().append(&mut found);
    }
    let roots = derived.get(&0).into_iter().flatten().chain(held(0));
    roots.map(|root| body.open(epoch, root)).find(|key| header.is_key(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gridseal_crypto::{Signer, SigningKey, group::MemberLabel, role::GroupSigning};
    use gridseal_group::{
        Rekey, Scheme,
        header::{Facts, GroupId, seal},
        sd::{self, SdSender},
    };
    use gridseal_types::UtcTime;

    use super::*;
    use crate::random::{HashRng, Schedule};

    const ID: TreeId = TreeId { tree: 1, tree_epoch: 1 };
    const EPOCH: u32 = 1;

    fn chosen(schedule: &mut Schedule, below: u32) -> Vec<u32> {
        (0..below).filter(|_| schedule.happens(300_000)).collect()
    }

    #[test]
    fn the_pool_has_exactly_the_labels_that_its_seats_hold() {
        let master = Master::new(&Key::take(&mut [1; 32]));
        let height = Height::new(4).expect("a height");
        for seed in 0..200 {
            let mut schedule = Schedule::new(seed);
            let assigned = u32::try_from(schedule.below(17)).expect("small");
            let seats = chosen(&mut schedule, assigned);
            let pooled = Coalition::new(&master, ID, height, seats.clone(), assigned);
            let held: BTreeSet<(Node, Node)> = seats
                .into_iter()
                .chain(assigned..16)
                .flat_map(|seat| (0..).map_while(move |at| sd::label_nodes(height, seat, at)))
                .collect();
            for (root, off) in (0..32).flat_map(|root| (0..32).map(move |off| (Node(root), Node(off)))) {
                let has = match (root.0, off.0) {
                    (0, 0) => pooled.has_everybody(),
                    (0, _) | (_, 0) => false,
                    _ => pooled.has_label(root, off),
                };
                assert_eq!(has, held.contains(&(root, off)), "seed {seed}, {root:?} {off:?}");
            }
        }
    }

    /// Every key that follows from the labels of these seats, tried on every block: no thought of subsets.
    fn by_brute_force(
        master: &Master,
        height: Height,
        seats: impl Iterator<Item = u32>,
        header: &Header<'_>,
    ) -> bool {
        let body = SdBody::decode(header.body).expect("a body of ours");
        let nonce = body.nonce(ID.tree_epoch, EPOCH);
        let mut labels: BTreeMap<(Node, Node), MemberLabel> = BTreeMap::new();
        for seat in seats {
            let nodes = (0..).map_while(|at| sd::label_nodes(height, seat, at));
            labels.extend(nodes.zip(sd::labels(master, ID, height, seat)));
        }
        let all = height.seat_count() * 2;
        labels.iter().any(|((_, off), label)| {
            (off.0..all).map(Node).filter(|node| *node == *off || off.0 > 0 && off.holds(*node)).any(|node| {
                let open = |block| label.open(off.path_to(node), &nonce, block);
                body.blocks().iter().any(|block| header.is_key(&open(block)))
            })
        })
    }

    #[test]
    fn the_closure_over_all_labels_derives_nothing_and_finds_each_rule_that_is_broken() {
        let mut rng = HashRng::new(1, "coalition", 0);
        let master = Master::new(&Key::generate(&mut rng).expect("a key"));
        let scalar = Key::<GroupSigning, 32>::generate_scalar(&mut rng).expect("a key");
        let signer = SigningKey::new(&scalar).expect("a key");
        let height = Height::new(4).expect("a height");
        for seed in 0..40 {
            let mut schedule = Schedule::new(seed);
            let assigned = 1 + u32::try_from(schedule.below(15)).expect("small");
            let evicted = chosen(&mut schedule, assigned);
            let key = Key::generate(&mut rng).expect("a key");
            let mut header = |assigned: u32, evicted: &[u32]| {
                let mut sender = SdSender::new(&master, ID, height, assigned, Vec::new());
                let body = sender.rekey(EPOCH, evicted, &key, &mut rng).expect("a body");
                let scheme = Scheme::SubsetDifference;
                let group = GroupId([1; 16]);
                let facts = Facts { scheme, group, tree: ID, key_epoch: EPOCH, deadline: UtcTime(0) };
                seal(&facts, &body, &key, &signer).expect("a header")
            };
            let good = header(assigned, &evicted);
            let no_free_seat_revoked = header(16, &evicted);
            let all_but_last = evicted.split_last().map(|(_, rest)| header(assigned, rest));
            let is_open = |bytes: &[u8]| {
                let header = Header::open(bytes, &signer.public()).expect("a header of ours");
                let pooled = Coalition::new(&master, ID, height, evicted.clone(), assigned);
                let told = pooled.opens(&header).is_some();
                let seats = evicted.iter().copied().chain(assigned..16);
                let forced = by_brute_force(&master, height, seats, &header);
                assert_eq!(told, forced, "seed {seed}: the closure says what brute force finds");
                told
            };
            assert!(!is_open(&good), "seed {seed}");
            assert!(is_open(&no_free_seat_revoked), "seed {seed}: free seats that are not revoked");
            if let Some(broken) = all_but_last {
                assert!(is_open(&broken), "seed {seed}: an evicted seat that is not revoked");
            }
        }
    }
}
