//! Which transitions of the machines were taken: found in the rows, not told by the machines.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, OnceLock, PoisonError},
};

use gridseal_keys::{
    phase::{ChangeEvent, change_after},
    version::{VersionEvent, after},
};
use gridseal_types::service::keys::{ChangePhase, SiteMode, VersionState};

/// Acts on a site that are accepted, by the mode before; and verdicts of a window; and faults.
const OTHERS: [&str; 52] = [
    "site/none/found",
    "site/standby/promote",
    "site/active/promote",
    "site/fenced/promote",
    "site/active/fence",
    "site/fenced/fence",
    "site/outdated/fence",
    "site/standby/restore",
    "site/active/restore-refused",
    "site/fenced/restore",
    "site/outdated/restore",
    "site/outdated/promote-refused",
    "window/none/fresh",
    "window/seen/fresh",
    "window/seen/late",
    "window/seen/duplicate",
    "window/seen/replay-used",
    "window/seen/replay-below",
    "proof/new-key",
    "proof/old-key",
    "hls/verified",
    "hls/rejected",
    "seal/again",
    "fault/kill",
    "fault/kill-loses-commits",
    "fault/kill-between-marker-and-commit",
    "fault/put-back",
    "fault/marker-lost",
    "fault/standby-lost",
    "fault/promoted-from-behind",
    "fault/two-active",
    "fault/clock-jump",
    "fault/message-lost",
    "fault/message-repeated",
    "fault/message-replayed",
    "fault/message-forged",
    "fault/message-to-another-site",
    "fault/clone",
    "meter/rollback",
    "meter/power-cut",
    "meter/refused",
    "meter/says-no",
    "meter/locked",
    "meter/agreed",
    "agreement/offered",
    "agreement/offered-again",
    "agreement/answered",
    "agreement/answered-twice",
    "agreement/renewed",
    "suite/0/1",
    "suite/0/2",
    "suite/1/2",
];

/// Ways from a state to another: names of the transitions on it.
type Ways<S> = Vec<(S, S, Vec<&'static str>)>;

struct Names {
    change: Ways<ChangePhase>,
    version: Ways<VersionState>,
    all: Vec<&'static str>,
}

fn lower(event: &dyn std::fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{event:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// The shortest way from each state to each: what happened when a decision shows only its ends.
fn ways<S: Copy + PartialEq + Ord>(steps: &[(S, S, &'static str)]) -> Ways<S> {
    let mut ways = Vec::new();
    let states: std::collections::BTreeSet<S> = steps.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
    for from in states {
        let mut queue = VecDeque::from([(from, Vec::new())]);
        let mut found: Vec<S> = Vec::new();
        while let Some((at, path)) = queue.pop_front() {
            for (_, to, name) in steps.iter().filter(|(start, _, _)| *start == at) {
                if found.contains(to) {
                    continue;
                }
                found.push(*to);
                let mut path: Vec<&'static str> = path.clone();
                path.push(name);
                ways.push((from, *to, path.clone()));
                queue.push_back((*to, path));
            }
        }
    }
    ways
}

fn table() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut all: Vec<&'static str> = OTHERS.to_vec();
        let mut change = Vec::new();
        for from in ChangePhase::ALL {
            for event in ChangeEvent::ALL {
                let Ok(to) = change_after(from, event) else { continue };
                let name: &'static str = format!("change/{from}/{}", lower(&event)).leak();
                change.push((from, to, name));
            }
        }
        let mut version = Vec::new();
        for from in VersionState::ALL {
            for event in VersionEvent::ALL {
                let Ok(to) = after(from, event) else { continue };
                let name: &'static str = format!("version/{}/{}", from.name(), lower(&event)).leak();
                version.push((from, to, name));
            }
        }
        all.extend(change.iter().map(|(_, _, name)| *name));
        all.extend(version.iter().map(|(_, _, name)| *name));
        Names { change: ways(&change), version: ways(&version), all }
    })
}

/// The one copy of a name that is not in the table.
fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let name: &'static str = name.to_owned().leak();
    names.insert(name);
    name
}

/// Every name that is counted.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    table().all.iter().copied()
}

/// Counts of one schedule.
#[derive(Debug, Default)]
pub(super) struct Coverage(pub(super) BTreeMap<&'static str, u64>);

impl Coverage {
    pub(super) fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    /// A change went from one phase to another, or stayed in its phase by an event.
    pub(super) fn change(&mut self, from: Option<ChangePhase>, to: ChangePhase) {
        let ways = &table().change;
        self.way(ways, from.unwrap_or(ChangePhase::Created), to);
    }

    pub(super) fn version(&mut self, from: Option<VersionState>, to: VersionState) {
        let from = from.unwrap_or(VersionState::PreActive);
        if from != to {
            let ways = &table().version;
            self.way(ways, from, to);
        }
    }

    fn way<S: Copy + PartialEq>(&mut self, ways: &Ways<S>, from: S, to: S) {
        let way = ways.iter().find(|(start, end, _)| (*start, *end) == (from, to));
        for name in way.map_or([].as_slice(), |(_, _, path)| path.as_slice()) {
            self.count(name);
        }
    }

    /// A device, or its credentials, went from one state to another.
    pub(super) fn life(&mut self, what: &str, from: &str, to: &str) {
        self.count(interned(&format!("{what}/{from}/{to}")));
    }

    /// An act on a site was accepted.
    pub(super) fn site(&mut self, before: SiteMode, act: &str) {
        let name = format!("site/{}/{act}", before.name());
        if let Some(name) = OTHERS.iter().find(|other| **other == name) {
            self.count(name);
        }
    }
}
