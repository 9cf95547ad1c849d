//! One eviction in a group of any size.

use std::{collections::BTreeSet, time::Duration};

use gridseal_crypto::{
    Key, PublicKey, Rng, SigningKey,
    group::Master,
    role::{GroupKey, GroupSigning},
};
use gridseal_group::{
    Receive, Rekey, RekeyError, Scheme,
    flat::FlatSender,
    header::{self, Facts, GroupId, Header},
    lkh::LkhSender,
    sd::{self, SdBody, SdMember, SdSender, TreeId},
    tree::Height,
};
use gridseal_types::UtcTime;

use super::{Coalition, Evidence};
use crate::random::{HashRng, Schedule};

/// Which members are evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere.
    Random,
    /// Neighbours.
    Adjacent,
    /// Every second seat.
    Alternating,
}

/// What to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FleetPlan {
    /// Members.
    pub members: u32,
    /// Members evicted.
    pub evict: u32,
    /// Which.
    pub pattern: Pattern,
    /// Scheme.
    pub scheme: Scheme,
    /// Seed of all choices and keys.
    pub seed: u64,
    /// Planted fault: seats that nobody has do not count as revoked.
    pub danger_forget_unassigned: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetReport {
    /// Bytes of the signed header.
    pub header_bytes: usize,
    /// Subsets or wraps in it.
    pub blocks: usize,
    /// Time to make it, signature included.
    pub build: Duration,
    /// Most AES blocks that a member needed.
    pub member_aes_blocks_max: u32,
    /// Bytes of keys that a member keeps.
    pub member_storage_bytes: usize,
    /// Remaining members that got the key.
    pub recovered: u32,
    /// Evicted members that got it.
    pub evicted_recovered: u32,
    /// Whether all evicted together got it.
    pub coalition_recovered: bool,
    /// Whether a newcomer, seated afterwards, opens it.
    pub newcomer_recovered: bool,
}

/// A plan that cannot be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// No members, or more than a tree holds.
    #[error("a group has 1 to 1048576 members, not {0}")]
    Members(u32),
    /// More evicted than members.
    #[error("{evict} of {members} members cannot be evicted")]
    Evict {
        /// Wanted.
        evict: u32,
        /// Members.
        members: u32,
    },
    /// The sender failed.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
    /// The header does not open by its own sender's key: a fault of ours.
    #[error("header does not open")]
    Header,
}

const ID: TreeId = TreeId { tree: 1, tree_epoch: 1 };
const KEY_EPOCH: u32 = 1;

fn chosen(plan: &FleetPlan) -> Vec<u32> {
    let (members, evict) = (plan.members, plan.evict);
    let mut schedule = Schedule::new(plan.seed);
    match plan.pattern {
        Pattern::Adjacent => {
            let room = u64::from(members - evict) + 1;
            let first = u32::try_from(schedule.below(room)).unwrap_or(0);
            (first..first + evict).collect()
        }
        // Every second seat; when there are more to evict, the seats between them too.
        Pattern::Alternating => {
            let mut seats: Vec<u32> = (0..members).step_by(2).chain((1..members).step_by(2)).collect();
            seats.truncate(usize::try_from(evict).unwrap_or(usize::MAX));
            seats.sort_unstable();
            seats
        }
        Pattern::Random => {
            // Floyd's choice: each set of this size is as likely as any other.
            let mut seats = BTreeSet::new();
            for last in members - evict..members {
                let seat = u32::try_from(schedule.below(u64::from(last) + 1)).unwrap_or(last);
                if !seats.insert(seat) {
                    seats.insert(last);
                }
            }
            seats.into_iter().collect()
        }
    }
}

struct Made {
    header: Vec<u8>,
    key: Key<GroupKey, 16>,
    sender: PublicKey,
    build: Duration,
}

fn make(
    plan: &FleetPlan,
    rekey: &mut dyn Rekey,
    evicted: &[u32],
    clock: &mut dyn FnMut() -> Duration,
) -> Result<Made, FleetError> {
    let mut rng = HashRng::new(plan.seed, "group-keys", 0);
    let scalar = Key::<GroupSigning, 32>::generate_scalar(&mut rng).map_err(|_| RekeyError::Sign)?;
    let signer = SigningKey::new(&scalar).map_err(|_| RekeyError::Sign)?;
    let key = Key::generate(&mut rng).map_err(RekeyError::from)?;
    let facts = Facts {
        scheme: rekey.scheme(),
        group: GroupId([7; 16]),
        tree: ID,
        key_epoch: KEY_EPOCH,
        deadline: UtcTime(0),
    };
    let start = clock();
    let body = rekey.rekey(KEY_EPOCH, evicted, &key, &mut rng as &mut dyn Rng)?;
    let header = header::seal(&facts, &body, &key, &signer)?;
    let build = clock().saturating_sub(start);
    Ok(Made { header, key, sender: gridseal_crypto::Signer::public(&signer), build })
}

/// Runs a plan. `clock` tells the time since any start; `told` is told of progress, members tried of all.
///
/// # Errors
/// [`FleetError`].
pub fn run_fleet(
    plan: &FleetPlan,
    clock: &mut dyn FnMut() -> Duration,
    told: &mut dyn FnMut(u32, u32),
    evidence: Option<&mut Evidence>,
) -> Result<FleetReport, FleetError> {
    let FleetPlan { members, evict, .. } = *plan;
    let height = Height::for_seats(members).filter(|_| members > 0).ok_or(FleetError::Members(members))?;
    if evict > members {
        return Err(FleetError::Evict { evict, members });
    }
    let evicted = chosen(plan);
    let master_key =
        Key::generate(&mut HashRng::new(plan.seed, "group-master", 0)).map_err(RekeyError::from)?;
    let master = Master::new(&master_key);
    match plan.scheme {
        Scheme::SubsetDifference => {
            let assigned = if plan.danger_forget_unassigned { height.seat_count() } else { members };
            let mut sender = SdSender::new(&master, ID, height, assigned, Vec::new());
            let made = make(plan, &mut sender, &evicted, clock)?;
            let report = try_subsets(plan, &master, height, &evicted, &made, told)?;
            if let Some(evidence) = evidence {
                evidence.record(
                    plan,
                    &master,
                    (ID, height),
                    &evicted,
                    (&made.header, &made.key, &made.sender),
                );
            }
            Ok(report)
        }
        Scheme::KeyHierarchy => {
            let mut sender = LkhSender::new(&master, 1, members);
            let before = LkhSender::new(&master, 1, members);
            let made = make(plan, &mut sender, &evicted, clock)?;
            try_each(plan, &evicted, &made, told, |seat| before.member(seat))
        }
        Scheme::Flat => {
            let mut sender = FlatSender::new(&master, 1, members);
            let before = FlatSender::new(&master, 1, members);
            let made = make(plan, &mut sender, &evicted, clock)?;
            try_each(plan, &evicted, &made, told, |seat| before.member(seat))
        }
    }
}

/// Every member, evicted or not, reads the whole header by itself.
fn try_each<M: Receive>(
    plan: &FleetPlan,
    evicted: &[u32],
    made: &Made,
    told: &mut dyn FnMut(u32, u32),
    member: impl Fn(u32) -> M,
) -> Result<FleetReport, FleetError> {
    let header = Header::open(&made.header, &made.sender).map_err(|_| FleetError::Header)?;
    let mut report = empty(made, 0);
    for seat in 0..plan.members {
        let mut member = member(seat);
        let key = member.receive(KEY_EPOCH, header.body).filter(|key| header.is_key(key));
        count(&mut report, key.is_some(), evicted.binary_search(&seat).is_ok());
        report.member_aes_blocks_max = report.member_aes_blocks_max.max(member.block_count());
        report.member_storage_bytes = report.member_storage_bytes.max(member.storage_size());
        if seat % 1_024 == 0 {
            told(seat, plan.members);
        }
    }
    report.blocks = match header.facts.scheme {
        Scheme::Flat => header.body.len() / 20,
        _ => header.body.len() / 24,
    };
    // In these schemes a coalition holds the union of its members' keys, and each of them was tried.
    report.coalition_recovered = report.evicted_recovered > 0;
    Ok(report)
}

const fn empty(made: &Made, blocks: usize) -> FleetReport {
    FleetReport {
        header_bytes: made.header.len(),
        blocks,
        build: made.build,
        member_aes_blocks_max: 0,
        member_storage_bytes: 0,
        recovered: 0,
        evicted_recovered: 0,
        coalition_recovered: false,
        newcomer_recovered: false,
    }
}

const fn count(report: &mut FleetReport, has_key: bool, is_evicted: bool) {
    match (has_key, is_evicted) {
        (true, true) => report.evicted_recovered += 1,
        (true, false) => report.recovered += 1,
        _ => {}
    }
}

/// Members of each subset open its block with the one label that they hold for it; a sample, and every evicted one, reads
/// the header whole with all its labels.
#[expect(clippy::too_many_arguments, reason = "a whole run is tried")]
fn try_subsets(
    plan: &FleetPlan,
    master: &Master,
    height: Height,
    evicted: &[u32],
    made: &Made,
    told: &mut dyn FnMut(u32, u32),
) -> Result<FleetReport, FleetError> {
    let header = Header::open(&made.header, &made.sender).map_err(|_| FleetError::Header)?;
    let body = SdBody::decode(header.body).map_err(|_| FleetError::Header)?;
    let nonce = body.nonce(ID.tree_epoch, KEY_EPOCH);
    let mut report = empty(made, body.blocks().len());
    report.member_storage_bytes = sd::label_count(height) * 16;
    let mut subsets = Vec::with_capacity(body.blocks().len());
    body.subsets(|subset| subsets.push(subset));
    let mut tried = 0;
    for (subset, block) in subsets.iter().zip(body.blocks()) {
        let levels = u32::from(height.value()) - subset.root.depth();
        let first = (subset.root.0 << levels) - height.seat_count();
        for seat in (first..first + (1 << levels)).filter(|seat| *seat < plan.members) {
            if !subset.has(height.leaf(seat)) {
                continue;
            }
            let (index, start) = sd::label_for(height, seat, *subset);
            let label = sd::label_at(master, ID, height, seat, index);
            let key = label.map(|label| label.open(start.path_to(subset.except), &nonce, block));
            let has_key = key.is_some_and(|key| header.is_key(&key));
            count(&mut report, has_key, evicted.binary_search(&seat).is_ok());
            let blocks = subset.except.depth() - start.depth() + 2;
            report.member_aes_blocks_max = report.member_aes_blocks_max.max(blocks);
            tried += 1;
            if tried % 8_192 == 0 {
                told(tried, plan.members);
            }
        }
    }
    let mut whole = |seat: u32| {
        let labels = sd::labels(master, ID, height, seat);
        let mut member = SdMember::new(ID, height, seat, labels)?;
        let key = member.receive(KEY_EPOCH, header.body).filter(|key| header.is_key(key));
        report.member_aes_blocks_max = report.member_aes_blocks_max.max(member.block_count());
        key
    };
    // With nobody revoked and every seat taken there is one block for all, and no subset to walk.
    let everybody = if subsets.is_empty() { plan.members } else { 0 };
    let for_all = u32::try_from((0..everybody).filter(|seat| whole(*seat).is_some()).count()).unwrap_or(0);
    let evicted_whole = evicted.iter().filter(|seat| whole(**seat).is_some()).count();
    let newcomer = plan.members < height.seat_count() && whole(plan.members).is_some();
    report.recovered += for_all;
    report.evicted_recovered += u32::try_from(evicted_whole).unwrap_or(u32::MAX);
    report.newcomer_recovered = newcomer;
    let coalition = Coalition::new(master, ID, height, evicted.iter().copied());
    report.coalition_recovered = coalition.opens(&header).is_some();
    Ok(report)
}
