//! Everybody tries to get the key.

use std::collections::BTreeMap;

use gridseal_crypto::{Key, group::Master, role::GroupKey};
use gridseal_group::{
    Receive, Scheme,
    header::Header,
    lkh::LkhMember,
    sd::{self, SdBody, SdMember},
    tree::{Height, Node, Subset},
};

use super::{FleetError, FleetPlan, FleetReport, ID, KEY_EPOCH, Made};
use crate::group::coalition::{Coalition, hierarchy_opens};

/// How often progress is told: once for so many members.
const TOLD_EACH: u32 = 8_192;
/// Members that read the whole header, beside those that open the block of their subset; fewer where it is long.
const WHOLE_MAX: usize = 256;
const WHOLE_MIN: usize = 8;
/// Blocks and seats that all of these together walk over.
const WALK_MAX: usize = 1 << 25;

fn open(made: &Made) -> Result<Header<'_>, FleetError> {
    Header::open(&made.header, &made.sender).map_err(|_| FleetError::Header)
}

const fn empty(made: &Made, blocks: usize) -> FleetReport {
    FleetReport {
        header_bytes: made.header.len(),
        blocks,
        build: made.build,
        signer_start: made.signer_start,
        member_aes_blocks_max: 0,
        member_storage_bytes: 0,
        recovered: 0,
        evicted_recovered: 0,
        coalition_recovered: false,
        newcomer_recovered: false,
    }
}

/// Every member, evicted or not, reads the whole header by itself.
pub(super) fn each<M: Receive>(
    plan: &FleetPlan,
    evicted: &[u32],
    made: &Made,
    told: &mut dyn FnMut(u32, u32),
    member: impl Fn(u32) -> M,
) -> Result<FleetReport, FleetError> {
    let header = open(made)?;
    let wrap_size = if header.facts.scheme == Scheme::Flat { 20 } else { 24 };
    let mut report = empty(made, header.body.len() / wrap_size);
    for seat in 0..plan.members {
        let mut member = member(seat);
        let key = member.receive(KEY_EPOCH, header.body).filter(|key| header.is_key(key));
        match (key.is_some(), evicted.binary_search(&seat).is_ok()) {
            (true, true) => report.evicted_recovered += 1,
            (true, false) => report.recovered += 1,
            _ => {}
        }
        report.member_aes_blocks_max = report.member_aes_blocks_max.max(member.block_count());
        report.member_storage_bytes = report.member_storage_bytes.max(member.storage_size());
        if seat % TOLD_EACH == 0 {
            told(seat, plan.members);
        }
    }
    Ok(report)
}

/// Whether the evicted members of a key hierarchy get the key together.
pub(super) fn hierarchy_pooled(
    made: &Made,
    members: impl Iterator<Item = LkhMember>,
) -> Result<bool, FleetError> {
    Ok(hierarchy_opens(&open(made)?, members).is_some())
}

/// A header of subset difference with everybody in front of it.
struct Trial<'t> {
    plan: &'t FleetPlan,
    master: &'t Master,
    height: Height,
    evicted: &'t [u32],
    header: Header<'t>,
    body: SdBody<'t>,
    nonce: [u8; 16],
    subsets: Vec<Subset>,
}

/// Each remaining member opens the block of its subset with the one label that it holds for it, and each evicted one tries
/// all its labels on every block of a subset above its seat. A sample of both reads the whole header as a meter does.
pub(super) fn subsets(
    plan: &FleetPlan,
    (master, height): (&Master, Height),
    evicted: &[u32],
    made: &Made,
    told: &mut dyn FnMut(u32, u32),
) -> Result<FleetReport, FleetError> {
    let header = open(made)?;
    let body = SdBody::decode(header.body).map_err(|_| FleetError::Header)?;
    let nonce = body.nonce(ID.tree_epoch, KEY_EPOCH);
    let mut subsets = Vec::with_capacity(body.blocks().len());
    body.subsets(|subset| subsets.push(subset));
    let trial = Trial { plan, master, height, evicted, header, body, nonce, subsets };
    let mut report = empty(made, trial.body.blocks().len());
    report.member_storage_bytes = sd::label_count(height) * 16;
    trial.remaining(&mut report, told);
    trial.evicted(&mut report, told);
    trial.whole(&mut report)?;
    let free = plan.members..height.seat_count();
    report.newcomer_recovered = free.clone().next().is_some_and(|seat| trial.reads(seat).is_some());
    let pooled = Coalition::new(master, ID, height, evicted.to_vec(), free.start);
    report.coalition_recovered = pooled.opens(&trial.header).is_some();
    Ok(report)
}

impl Trial<'_> {
    fn is_evicted(&self, seat: u32) -> bool {
        self.evicted.binary_search(&seat).is_ok()
    }

    fn opens(&self, seat: u32, index: usize, way: impl Iterator<Item = bool>, block: &[u8; 16]) -> bool {
        let label = sd::label_at(self.master, ID, self.height, seat, index);
        label.is_some_and(|label| self.header.is_key(&label.open(way, &self.nonce, block)))
    }

    fn remaining(&self, report: &mut FleetReport, told: &mut dyn FnMut(u32, u32)) {
        let (members, height) = (self.plan.members, self.height);
        let mut tried = 0;
        let mut count = |seat: u32, has_key: bool| {
            report.recovered += u32::from(has_key && !self.is_evicted(seat));
            tried += 1;
            if tried % TOLD_EACH == 0 {
                told(tried, members);
            }
        };
        // With nobody revoked and every seat taken there is one block for all.
        if let (true, Some(block)) = (self.subsets.is_empty(), self.body.blocks().first()) {
            let last = sd::label_count(height) - 1;
            (0..members).for_each(|seat| count(seat, self.opens(seat, last, std::iter::empty(), block)));
            report.member_aes_blocks_max = 2;
        }
        let mut blocks_max = report.member_aes_blocks_max;
        for (subset, block) in self.subsets.iter().zip(self.body.blocks()) {
            let levels = u32::from(height.value()) - subset.root.depth();
            let first = (subset.root.0 << levels) - height.seat_count();
            for seat in (first..first + (1 << levels)).filter(|seat| *seat < members) {
                if subset.has(height.leaf(seat)) {
                    let (index, start) = sd::label_for(height, seat, *subset);
                    count(seat, self.opens(seat, index, start.path_to(subset.except), block));
                    blocks_max = blocks_max.max(subset.except.depth() - start.depth() + 2);
                }
            }
        }
        report.member_aes_blocks_max = blocks_max;
    }

    fn evicted(&self, report: &mut FleetReport, told: &mut dyn FnMut(u32, u32)) {
        let by_root: BTreeMap<Node, (Node, &[u8; 16])> = self
            .subsets
            .iter()
            .zip(self.body.blocks())
            .map(|(subset, block)| (subset.root, (subset.except, block)))
            .collect();
        for (tried, seat) in (0u32..).zip(self.evicted) {
            let nodes = (0..).map_while(|index| sd::label_nodes(self.height, *seat, index));
            let has_key = nodes.enumerate().any(|(index, (root, off))| {
                if root == Node(0) {
                    return self.body.blocks().first().is_some_and(|block| {
                        self.subsets.is_empty() && self.opens(*seat, index, std::iter::empty(), block)
                    });
                }
                by_root.get(&root).is_some_and(|(except, block)| {
                    // Down to what is left out where the label leads there; as it is where it does not.
                    let end = if off.holds(*except) { *except } else { off };
                    self.opens(*seat, index, off.path_to(end), block)
                })
            });
            report.evicted_recovered += u32::from(has_key);
            if tried % TOLD_EACH == 0 {
                told(
                    self.plan.members - u32::try_from(self.evicted.len()).unwrap_or(0) + tried,
                    self.plan.members,
                );
            }
        }
    }

    /// The key as a meter finds it: from all its labels and the header's bytes.
    fn reads(&self, seat: u32) -> Option<Key<GroupKey, 16>> {
        let labels = sd::labels(self.master, ID, self.height, seat);
        let mut member = SdMember::new(ID, self.height, seat, labels)?;
        member.receive(KEY_EPOCH, self.header.body).filter(|key| self.header.is_key(key))
    }

    fn whole(&self, report: &mut FleetReport) -> Result<(), FleetError> {
        let walk = self.subsets.len() + self.evicted.len() + 1;
        let sample = (WALK_MAX / walk).clamp(WHOLE_MIN, WHOLE_MAX);
        let members = usize::try_from(self.plan.members).unwrap_or(usize::MAX);
        let spread = (0..self.plan.members).step_by((members / sample).max(1));
        for seat in spread.filter(|seat| !self.is_evicted(*seat)) {
            if self.reads(seat).is_none() {
                return Err(FleetError::Member(seat));
            }
        }
        let found = self.evicted.iter().step_by((self.evicted.len() / sample).max(1));
        let found = found.filter(|seat| self.reads(**seat).is_some()).count();
        report.evicted_recovered = report.evicted_recovered.max(u32::try_from(found).unwrap_or(u32::MAX));
        Ok(())
    }
}
