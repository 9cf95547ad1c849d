//! What operators do with sites: kills and restarts, copies, promotion, fencing, restore, joining after a split.

use std::collections::BTreeMap;

use gridseal_keys::{
    record::{CHANGES, ChangeEntry, DEVICES, DeviceEntry, VERSIONS, VersionEntry},
    site::Standby,
};
use gridseal_types::{
    EkName, UtcTime,
    records::{Records, Write},
    service::keys::{
        Approval, ChangePhase, Denial, ExchangeReply, ExportedRow, KeyKind, KeyReply, KeyRequest, SiteMode,
        SiteRequest, VersionState,
    },
};

use super::{
    headend::{Intent, denial},
    watch::site_name,
    world::{Step, World, contract},
};

/// Rows of the other site that are brought in at once.
const RECONCILE_ROWS: usize = 1_000;

/// Two persons.
pub(super) fn approvals() -> Vec<Approval> {
    vec![Approval("first".into()), Approval("second".into())]
}

/// Rows of whole devices, so many that one request takes them.
fn parts(rows: Vec<ExportedRow>) -> Vec<Vec<ExportedRow>> {
    let mut devices: BTreeMap<Vec<u8>, Vec<ExportedRow>> = BTreeMap::new();
    for row in rows {
        let device = match row.table {
            0 => row.key.0[..EkName::SIZE].to_vec(),
            // By system title.
            2 => row.key.0.clone(),
            _ => {
                let change: ChangeEntry = minicbor::decode(&row.value.0).expect("own record");
                change.device.as_bytes().to_vec()
            }
        };
        devices.entry(device).or_default().push(row);
    }
    let mut parts = vec![Vec::new()];
    for mut rows in devices.into_values() {
        match parts.last_mut().filter(|part| part.len() + rows.len() <= RECONCILE_ROWS) {
            Some(part) => part.append(&mut rows),
            None => parts.push(rows),
        }
    }
    parts
}

/// How far an agreement has come.
fn count_agreement(
    coverage: &mut super::coverage::Coverage,
    before: Option<&ChangeEntry>,
    after: &ChangeEntry,
) {
    let Some(agreement) = &after.agreement else { return };
    let answers = |change: &ChangeEntry| change.agreement.as_ref().map_or(0, |known| known.answers.len());
    let (attempts, known) = before.map_or((0, 0), |before| (before.attempts, answers(before)));
    if after.attempts > attempts {
        coverage.count(if attempts == 0 { "agreement/offered" } else { "agreement/offered-again" });
    }
    if agreement.answers.len() > known {
        coverage.count(if known == 0 { "agreement/answered" } else { "agreement/answered-twice" });
    }
}

impl World<'_> {
    /// Which transitions a decision makes, from the rows before and after it.
    pub(super) fn count_transitions(&mut self, site: usize, writes: &[Write]) {
        if self.watch.lives {
            self.count_lives(site, writes);
        }
        let rows = &self.sites[site].disk.view.rows;
        let coverage = &mut self.watch.coverage;
        for write in writes {
            let Some(value) = write.value.as_deref() else { continue };
            let before = || rows.get(write.table, &write.key).expect("memory");
            if write.table == DEVICES {
                let before = before().map(|row| minicbor::decode::<DeviceEntry>(&row).expect("own record"));
                let after: DeviceEntry = minicbor::decode(value).expect("own record");
                if let Some(before) = before.filter(|before| before.suite < after.suite) {
                    coverage.count(match (before.suite, after.suite) {
                        (0, 1) => "suite/0/1",
                        (0, _) => "suite/0/2",
                        _ => "suite/1/2",
                    });
                }
            } else if write.table == VERSIONS {
                let before = before().map(|row| minicbor::decode::<VersionEntry>(&row).expect("own record"));
                let after: VersionEntry = minicbor::decode(value).expect("own record");
                coverage.version(before.map(|entry| entry.state), after.state);
            } else if write.table == CHANGES {
                let before = before().map(|row| minicbor::decode::<ChangeEntry>(&row).expect("own record"));
                let after: ChangeEntry = minicbor::decode(value).expect("own record");
                let is_moved = before.as_ref().is_none_or(|before| {
                    (before.phase, before.changed_at) != (after.phase, after.changed_at)
                });
                if is_moved {
                    coverage.change(before.as_ref().map(|entry| entry.phase), after.phase);
                }
                count_agreement(coverage, before.as_ref(), &after);
                if after.items.contains(&KeyKind::Kek) && is_moved && after.phase == ChangePhase::Activated {
                    coverage.count("proof/new-key");
                }
                let was_under_old = before
                    .and_then(|before| before.proof)
                    .is_some_and(|proof| after.agreement.is_none() && proof.wrapped_by != after.version);
                if was_under_old && after.proof.is_none() && after.phase == ChangePhase::NotInstalled {
                    coverage.count("proof/old-key");
                }
            }
        }
    }

    /// Which steps of devices' states and of their credentials a decision makes.
    fn count_lives(&mut self, site: usize, writes: &[Write]) {
        let rows = &self.sites[site].disk.view.rows;
        let coverage = &mut self.watch.coverage;
        let of_device = |name: &[u8]| -> Option<DeviceEntry> {
            let written = writes.iter().find(|write| write.table == DEVICES && write.key == name);
            let row = match written {
                Some(write) => write.value.clone(),
                None => rows.get(DEVICES, name).expect("memory"),
            };
            row.map(|row| minicbor::decode(&row).expect("own record"))
        };
        for write in writes {
            let Some(value) = write.value.as_deref() else { continue };
            let before = rows.get(write.table, &write.key).expect("memory");
            if write.table == DEVICES {
                let after: DeviceEntry = minicbor::decode(value).expect("own record");
                let before = before.map(|row| minicbor::decode::<DeviceEntry>(&row).expect("own record"));
                let state = before.as_ref().map_or("made", |before| before.state.name());
                if state != after.state.name() {
                    coverage.life("device", state, after.state.name());
                }
                let claim = before.as_ref().map_or("announced", |before| before.claim.name());
                if claim != after.claim.name() {
                    coverage.life("claim", claim, after.claim.name());
                }
            } else if write.table == VERSIONS {
                let after: VersionEntry = minicbor::decode(value).expect("own record");
                let before = before.map(|row| minicbor::decode::<VersionEntry>(&row).expect("own record"));
                let from = before.map_or(VersionState::PreActive, |before| before.state);
                let device = write.key.get(..EkName::SIZE).and_then(of_device);
                if let Some(device) = device.filter(|_| from != after.state) {
                    let what = format!("{}: version", device.state.name());
                    coverage.life(&what, from.name(), after.state.name());
                }
            }
        }
    }

    /// An order of an operator: its answer when it was committed and the answer came.
    pub(super) fn order(
        &mut self,
        site: usize,
        request: KeyRequest,
    ) -> Result<Option<KeyReply>, super::watch::Broken> {
        self.flush(site)?;
        let Some(before) = self.sites[site].mode() else { return Ok(None) };
        let act = match &request {
            KeyRequest::Site(SiteRequest::Promote { .. }) => "promote",
            KeyRequest::Site(SiteRequest::Fence { .. }) => "fence",
            KeyRequest::Site(SiteRequest::Restore { .. }) => "restore",
            _ => "",
        };
        self.decide(site, vec![(Intent::Operator, request)])?;
        let reply = self.sites[site]
            .queue
            .back()
            .and_then(|last| last.replies.last())
            .map(|(_, reply)| reply.clone());
        if !self.heals && self.schedule.happens(60_000) {
            self.kill(site);
            return Ok(None);
        }
        let flushed = self.sites[site].service.is_some();
        self.flush(site)?;
        let refused = reply.as_ref().and_then(denial).is_some();
        if flushed && !refused && !act.is_empty() {
            self.watch.coverage.site(before, act);
            let epoch = self.sites[site].epoch();
            self.watch.event(act, || format!("\"site\":\"{}\",\"epoch\":{epoch}", site_name(site)));
        }
        if refused && act == "promote" && before == SiteMode::Outdated {
            self.watch.coverage.count("site/outdated/promote-refused");
        }
        if refused && act == "restore" && before == SiteMode::Active {
            self.watch.coverage.count("site/active/restore-refused");
        }
        Ok(reply)
    }

    pub(super) fn kill(&mut self, site: usize) {
        let killed = self.sites[site].kill(&mut self.schedule);
        self.watch.coverage.count("fault/kill");
        if killed.lost > 0 {
            self.watch.coverage.count("fault/kill-loses-commits");
        }
        if killed.only_marker {
            self.watch.coverage.count("fault/kill-between-marker-and-commit");
        }
        self.watch.event("kill", || format!("\"site\":\"{}\",\"lost\":{}", site_name(site), killed.lost));
        if self.sites.len() > 1 {
            self.sites[site].behind.extend(killed.kept);
        }
        self.tell_database(site);
    }

    /// Starts a site, killing it first if it runs.
    pub(super) fn restart(&mut self, site: usize) -> Step {
        if self.sites[site].service.is_some() {
            self.kill(site);
        }
        let plant = self.plant;
        self.sites[site].start(plant).map_err(contract)?;
        let (mode, epoch) =
            (self.sites[site].mode().map_or("none", SiteMode::name), self.sites[site].epoch());
        self.watch.event("start", || {
            format!("\"site\":\"{}\",\"mode\":\"{mode}\",\"epoch\":{epoch}", site_name(site))
        });
        self.count_serving();
        Ok(())
    }

    /// Two sites that serve at the same time count probes each for itself.
    fn count_serving(&mut self) {
        if self.serving().len() > 1 {
            self.budgets_hold = false;
            self.watch.coverage.count("fault/two-active");
        }
    }

    /// Brings up to `count` commits to the copy; whether it has all of them then.
    pub(super) fn replicate(&mut self, site: usize, count: usize) -> bool {
        let other = 1 - site;
        if !self.linked || self.sites.len() < 2 || !self.sites[other].follows {
            return false;
        }
        for _ in 0..count {
            let Some(commit) = self.sites[site].behind.pop_front() else { break };
            let disk = &mut self.sites[other].disk;
            disk.durable.apply(&commit);
            disk.view.apply(&commit);
            self.tell_leased(other, &commit.leased);
            if !commit.keys.is_empty() {
                self.tell_holdings(other);
            }
        }
        self.sites[site].behind.is_empty()
    }

    /// A copy, or a site that was fenced, takes over; or the one that serves takes another epoch.
    pub(super) fn promote(&mut self, site: usize) -> Step {
        self.restart(site)?;
        let other = 1 - site;
        let above = match self.sites.get(other) {
            Some(other) if self.linked || self.heals => other.epoch(),
            _ => 0,
        };
        let is_behind = self.sites.get(other).is_some_and(|other| !other.behind.is_empty());
        // From here on it takes no commits of the other site.
        let followed = std::mem::take(&mut self.sites[site].follows);
        // A copy that has lost its marker does not know its own former epochs.
        let asks_witness = self.heals || self.sites[site].marker.is_none();
        let above = above.max(if asks_witness { self.witness } else { 0 });
        let request = SiteRequest::Promote { above, approvals: approvals() };
        self.order(site, KeyRequest::Site(request))?;
        if self.sites[site].mode() == Some(SiteMode::Active) {
            if followed && is_behind {
                self.budgets_hold = false;
                self.watch.coverage.count("fault/promoted-from-behind");
            }
            self.stands_alone(site);
        }
        Ok(())
    }

    /// It serves and nobody follows it, unless the other one still does.
    fn stands_alone(&mut self, site: usize) {
        self.witness = self.witness.max(self.sites[site].epoch());
        let Some(other) = self.sites.get(1 - site) else { return };
        if !other.follows {
            self.set_standby(site, Standby::Lost);
        }
        self.count_serving();
    }

    pub(super) fn set_standby(&mut self, site: usize, standby: Standby) {
        let site = &mut self.sites[site];
        site.standby = standby;
        if let Some(service) = site.service.as_mut() {
            service.set_standby(standby);
        }
    }

    /// An old database is put back, and the marker beside it raised, as whoever notices that does.
    pub(super) fn put_back(&mut self, site: usize) -> Step {
        let count = self.sites[site].backups.len() as u64;
        if count == 0 || self.sites[site].follows {
            return Ok(());
        }
        let backup = self.schedule.below(count) as usize;
        self.kill(site);
        let loses_marker = self.schedule.happens(300_000);
        let of = &mut self.sites[site];
        of.disk.durable = of.backups[backup].clone();
        of.marker = of.marker.filter(|_| !loses_marker).map(|marker| marker + 1);
        of.behind.clear();
        if let Some(other) = self.sites.get_mut(1 - site) {
            other.follows = false;
            self.sites[site].standby = Standby::Lost;
        }
        self.budgets_hold = false;
        self.watch.coverage.count("fault/put-back");
        self.watch.event("put-back", || format!("\"site\":\"{}\"", site_name(site)));
        self.tell_database(site);
        self.restart(site)?;
        self.must_not_serve(site)
    }

    /// The marker beside the database is gone.
    pub(super) fn lose_marker(&mut self, site: usize) -> Step {
        self.kill(site);
        self.sites[site].marker = None;
        self.watch.coverage.count("fault/marker-lost");
        self.restart(site)?;
        self.must_not_serve(site)
    }

    fn must_not_serve(&self, site: usize) -> Step {
        match self.sites[site].mode() {
            Some(SiteMode::Active) => Err(contract(format!(
                "{} serves in epoch {} from a database that may be an old one",
                site_name(site),
                self.sites[site].epoch()
            ))),
            _ => Ok(()),
        }
    }

    /// Serves again from whatever database is there. The witness has seen every epoch.
    pub(super) fn restore(&mut self, site: usize) -> Step {
        self.restart(site)?;
        self.sites[site].follows = false;
        let changed_since = self.meters.iter().map(|meter| meter.title).collect();
        let needed = self.heals || self.sites[site].marker.is_none() || self.schedule.happens(500_000);
        let witness = needed.then_some(self.witness);
        let request = SiteRequest::Restore { witness, changed_since, approvals: approvals() };
        self.order(site, KeyRequest::Site(request))?;
        if self.sites[site].mode() == Some(SiteMode::Active) {
            self.stands_alone(site);
        }
        Ok(())
    }

    pub(super) fn approve_degraded(&mut self, site: usize) -> Step {
        let until = UtcTime(self.now.0 + 3_600);
        let request = SiteRequest::ApproveDegraded { until, approvals: approvals() };
        self.order(site, KeyRequest::Site(request)).map(|_| ())
    }

    /// The site that serves in the lower epoch stops, its keys are brought in, and it follows from here on.
    pub(super) fn join(&mut self) -> Step {
        let Some(leader) = self.serving().into_iter().max_by_key(|site| self.sites[*site].epoch()) else {
            return Ok(());
        };
        let other = 1 - leader;
        if self.sites.len() < 2 || !self.linked || self.sites[other].service.is_none() {
            return Ok(());
        }
        if self.sites[other].follows {
            if self.replicate(leader, usize::MAX) {
                self.set_standby(leader, Standby::Reachable);
            }
            return Ok(());
        }
        let epoch = self.sites[leader].epoch();
        self.order(other, KeyRequest::Site(SiteRequest::Fence { epoch }))?;
        if matches!(self.sites[other].mode(), None | Some(SiteMode::Active)) {
            return Ok(());
        }
        let Some(rows) = self.export(other)? else { return Ok(()) };
        self.approve_degraded(leader)?;
        for rows in parts(rows) {
            let reconcile = KeyRequest::Site(SiteRequest::Reconcile { rows });
            let reply = self.order(leader, reconcile)?;
            let Some(KeyReply::Exchange(ExchangeReply::Reconciled { .. })) = reply else {
                return match reply.as_ref().and_then(denial) {
                    None | Some(Denial::NoStandby | Denial::Fenced { .. }) => Ok(()),
                    // It knows keys of an epoch above the leader's: the leader has to be promoted first.
                    Some(Denial::ForeignRow) if epoch < self.witness => Ok(()),
                    Some(denial) => {
                        Err(contract(format!("rows of the other site are refused: {}", denial.name())))
                    }
                };
            };
        }
        if self.sites[leader].mode() != Some(SiteMode::Active) {
            return Ok(());
        }
        self.seed(leader, other)
    }

    /// All rows of a site that does not serve.
    fn export(&mut self, site: usize) -> Result<Option<Vec<ExportedRow>>, super::watch::Broken> {
        let mut rows: Vec<ExportedRow> = Vec::new();
        loop {
            let after = rows.last().cloned();
            match self.order(site, KeyRequest::Site(SiteRequest::Export { after }))? {
                Some(KeyReply::Exchange(ExchangeReply::Rows(step))) if step.is_empty() => {
                    return Ok(Some(rows));
                }
                Some(KeyReply::Exchange(ExchangeReply::Rows(step))) => rows.extend(step),
                _ => return Ok(None),
            }
        }
    }

    /// The other site becomes a copy of the leader.
    fn seed(&mut self, leader: usize, other: usize) -> Step {
        self.flush(leader)?;
        self.kill(other);
        self.sites[leader].behind.clear();
        let copy = self.sites[leader].disk.durable.clone();
        let follower = &mut self.sites[other];
        follower.disk.durable = copy;
        follower.behind.clear();
        follower.backups.clear();
        follower.follows = true;
        self.tell_database(other);
        self.restart(other)?;
        self.set_standby(leader, Standby::Reachable);
        self.watch.event("join", || format!("\"leader\":\"{}\"", site_name(leader)));
        Ok(())
    }
}
