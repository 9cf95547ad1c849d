//! What an outside program needs to check a run without believing this one.

use std::{collections::BTreeSet, fmt::Write};

use gridseal_crypto::{Key, PublicKey, group::Master, role::GroupKey};
use gridseal_group::{
    sd::{self, TreeId},
    tree::Height,
};

use super::FleetPlan;
use crate::random::Schedule;

/// Remaining members whose labels are kept.
const SAMPLE: u32 = 1_000;

/// Where evidence goes.
pub trait Evidence {
    /// The header as it was sent, and group key, the sender's public key and the plan as JSON.
    fn header(&mut self, header: &[u8], facts: &str);

    /// One JSON object in a line: a seat, who sits there (`member`, `evicted` or `newcomer`), its labels in storage order,
    /// in hex. Every evicted member, 1,000 remaining ones (all, if there are not more) and the next newcomer.
    fn labels(&mut self, line: &str);
}

/// What is written down.
pub(super) struct Witness<'r> {
    pub(super) plan: &'r FleetPlan,
    pub(super) master: &'r Master,
    pub(super) id: TreeId,
    pub(super) height: Height,
    pub(super) evicted: &'r [u32],
    pub(super) header: &'r [u8],
    pub(super) key: &'r Key<GroupKey, 16>,
    pub(super) sender: &'r PublicKey,
}

impl Witness<'_> {
    pub(super) fn record(&self, evidence: &mut dyn Evidence) {
        let Self { plan, id, height, evicted, .. } = *self;
        let point: String = self.sender.point().iter().map(|byte| format!("{byte:02x}")).collect();
        let facts = format!(
            "{{\"members\":{},\"evicted\":{},\"seed\":{},\"height\":{},\"tree\":{},\"tree_epoch\":{},\
             \"group_key\":\"{}\",\"sender\":\"{point}\"}}\n",
            plan.members,
            evicted.len(),
            plan.seed,
            height.value(),
            id.tree,
            id.tree_epoch,
            self.key.danger_reveal_hex(),
        );
        evidence.header(self.header, &facts);
        for seat in evicted {
            evidence.labels(&self.line(*seat, "evicted"));
        }
        for seat in self.sample() {
            evidence.labels(&self.line(seat, "member"));
        }
        if plan.members < height.seat_count() {
            evidence.labels(&self.line(plan.members, "newcomer"));
        }
    }

    /// Different remaining members, each set as likely as any other (Floyd's choice).
    fn sample(&self) -> Vec<u32> {
        let members = self.plan.members;
        let remaining = members - u32::try_from(self.evicted.len()).unwrap_or(members);
        let mut schedule = Schedule::new(self.plan.seed ^ 0x5EED);
        let mut places = BTreeSet::new();
        for last in remaining - SAMPLE.min(remaining)..remaining {
            let place = u32::try_from(schedule.below(u64::from(last) + 1)).unwrap_or(last);
            if !places.insert(place) {
                places.insert(last);
            }
        }
        let seats = (0..members).filter(|seat| self.evicted.binary_search(seat).is_err());
        (0u32..).zip(seats).filter(|(place, _)| places.contains(place)).map(|(_, seat)| seat).collect()
    }

    fn line(&self, seat: u32, role: &str) -> String {
        let mut line = format!("{{\"seat\":{seat},\"role\":\"{role}\",\"labels\":[");
        for (at, label) in sd::labels(self.master, self.id, self.height, seat).iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // Writing into a string does not fail.
            let _ = write!(line, "{comma}\"{}\"", label.danger_reveal_hex());
        }
        line.push_str("]}\n");
        line
    }
}
