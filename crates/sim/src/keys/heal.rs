//! The faults stop: operators bring one site to serve and the other to follow, and every meter is asked for a reading.

use gridseal_keys::site::Standby;
use gridseal_types::{
    DeviceState,
    service::keys::{
        ChangeOutcome, ChangePhase, KeyAct, KeyKind, KeyRef, KeyRequest, SiteMode, SiteRequest, VersionState,
    },
};

use super::{
    headend::To,
    operator::approvals,
    report::Rule,
    watch::counter_of,
    world::{Step, World},
};

/// Contacts after which a meter must have been reached.
const CONTACTS: u32 = 24;
/// Seconds from one contact to the next: longer than any lock-out and back-off.
const CONTACT_S: u64 = 3 * 24 * 3_600;

impl World<'_> {
    /// Heals everything; every meter must give a reading and every change come to its end.
    pub(super) fn heal(&mut self) -> Step {
        (self.heals, self.linked) = (true, true);
        self.watch.event("heal", String::new);
        self.net.clear();
        let Some(leader) = self.healed_sites()? else {
            let modes: Vec<String> = self
                .sites
                .iter()
                .map(|site| format!("{:?} {} {:?}", site.mode(), site.epoch(), site.standby))
                .collect();
            return Err((Rule::Reachable, format!("no site can be brought to serve: {}", modes.join(", "))));
        };
        for meter in 0..self.meters.len() {
            let outcome = self.release_meter(leader, meter);
            self.healed(outcome)?;
        }
        for _ in 0..CONTACTS {
            for meter in 0..self.meters.len() {
                let outcome = self.contact(leader, meter);
                self.healed(outcome)?;
            }
            self.now.0 += CONTACT_S;
            self.tick += CONTACT_S;
            if !(0..self.meters.len()).all(|meter| self.is_well(meter)) {
                continue;
            }
            // A master key that only the meter knows: the next key change agrees on another.
            let alone = (0..self.meters.len()).find(|meter| self.agreed_alone(*meter));
            let Some(meter) = alone else { return Ok(()) };
            self.watch.coverage.count("agreement/renewed");
            self.begin_change(leader, meter, vec![KeyKind::Kek])?;
            let outcome = self.settle();
            self.healed(outcome)?;
            self.status(leader, meter)?;
        }
        let meter = (0..self.meters.len()).find(|meter| !self.is_well(*meter)).unwrap_or_default();
        self.unreachable += 1;
        let status = self.known[meter].status.as_ref();
        let change = status.and_then(|status| status.change.as_ref()).map(|change| change.phase.name());
        let read = self.known[meter].read;
        let versions: Vec<String> = status
            .map(|status| status.versions.iter())
            .into_iter()
            .flatten()
            .map(|version| format!("{}/{} {}", version.kind.name(), version.version, version.state.name()))
            .collect();
        let (change, versions) = (change.unwrap_or("none"), versions.join(", "));
        Err((Rule::Reachable, format!("meter {meter}: reading {read}, change {change}, {versions}")))
    }

    /// Brings all sites up; the one that serves, with the other as its copy.
    fn healed_sites(&mut self) -> Result<Option<usize>, super::watch::Broken> {
        for _ in 0..4 {
            for site in 0..self.sites.len() {
                if self.sites[site].service.is_none() {
                    let outcome = self.restart(site);
                    self.healed(outcome)?;
                }
                let outcome = self.flush(site);
                self.healed(outcome)?;
            }
            if self.serving().is_empty() {
                let all = || 0..self.sites.len();
                let outdated = all().find(|site| self.sites[*site].mode() == Some(SiteMode::Outdated));
                let outcome = match outdated {
                    Some(site) => self.restore(site),
                    // The one that served last has the newest database.
                    None => self.promote(all().find(|site| !self.sites[*site].follows).unwrap_or_default()),
                };
                self.healed(outcome)?;
            }
            // What serves has to be above everything that ever served, or meters refuse its counters.
            let newest = self.serving().into_iter().max_by_key(|site| self.sites[*site].epoch());
            if let Some(site) = newest.filter(|site| self.sites[*site].epoch() < self.witness) {
                let outcome = self.promote(site);
                self.healed(outcome)?;
            }
            let outcome = self.join();
            self.healed(outcome)?;
            if let [leader] = self.serving().as_slice()
                && self.sites[*leader].standby != Standby::Lost
            {
                return Ok(Some(*leader));
            }
        }
        Ok(None)
    }

    /// A person releases a meter that is held back, and its keys.
    fn release_meter(&mut self, leader: usize, meter: usize) -> Step {
        if self.known[meter].gone {
            return Ok(());
        }
        let device = self.devices[meter];
        let (state, attested_at) = (DeviceState::Operating, gridseal_types::UtcTime(0));
        self.order(leader, KeyRequest::SetState { device, state, attested_at })?;
        self.status(leader, meter)?;
        let Some(status) = self.known[meter].status.clone() else { return Ok(()) };
        for version in status.versions.iter().filter(|version| version.state == VersionState::Suspended) {
            let system_title = status.system_title;
            let key = KeyRef { system_title, kind: version.kind, version: version.version };
            let reason = "healing".into();
            self.order(
                leader,
                KeyRequest::KeyAct { key, act: KeyAct::Resume, approvals: approvals(), reason },
            )?;
        }
        if self.is_in_doubt(leader, meter) {
            let at_least = self.certainly_unused(leader, meter);
            let raise = SiteRequest::RaiseCounter {
                system_title: status.system_title,
                at_least,
                approvals: approvals(),
            };
            self.order(leader, KeyRequest::Site(raise))?;
        }
        Ok(())
    }

    /// The operator reads what the network carried, and what the key service released although it never arrived there: a
    /// head-end that was killed has lost it, the witness of the key service's audit log has not.
    fn certainly_unused(&self, leader: usize, meter: usize) -> u32 {
        let sent = self.recorded.iter().filter(|sent| sent.meter == meter && sent.to == To::Meter);
        let sent = sent.map(|sent| counter_of(&sent.bytes)).max().unwrap_or_default() + 64;
        let view = &self.sites[leader].disk.view;
        let Some(entry) = view.device(&self.devices[meter]) else { return sent };
        // Of a database that was put back the leases are forgotten, too.
        let gueks = entry.versions.iter().filter(|(kind, _)| *kind == KeyKind::Guek);
        let keys = gueks.filter_map(|(kind, number)| view.key(&self.devices[meter], *kind, *number));
        keys.map(|key| self.watch.unused_from(key)).max().unwrap_or_default().max(sent)
    }

    fn is_in_doubt(&self, leader: usize, meter: usize) -> bool {
        self.sites[leader].disk.view.device(&self.devices[meter]).is_some_and(|entry| entry.doubt)
    }

    pub(super) fn is_well(&self, meter: usize) -> bool {
        let Some(status) = &self.known[meter].status else { return self.known[meter].gone };
        self.known[meter].gone || self.known[meter].read && status.change.is_none()
    }

    /// Delivers until nothing is on its way.
    pub(super) fn settle(&mut self) -> Step {
        for _ in 0..1_000 {
            if self.net.is_empty() {
                break;
            }
            let message = self.net.remove(0);
            self.recorded.push(message.clone());
            self.deliver(message)?;
        }
        Ok(())
    }

    /// One contact with a meter, as a head-end makes it: first it finds out which keys the meter has, for whatever fails
    /// brings the meter nearer to its lock-out.
    pub(super) fn contact(&mut self, leader: usize, meter: usize) -> Step {
        if self.is_well(meter) {
            return Ok(());
        }
        self.status(leader, meter)?;
        let Some(status) = self.known[meter].status.clone() else { return Ok(()) };
        self.known[meter].change = status.change.as_ref().map(|change| change.change);
        if status.change.is_some() || self.known[meter].asked {
            self.probe(leader, meter)?;
            self.settle()?;
        }
        self.status(leader, meter)?;
        let Some(status) = self.known[meter].status.clone() else { return Ok(()) };
        let lacks = |kind| {
            let mut versions = status.versions.iter().filter(|version| version.kind == kind);
            !versions.any(|version| version.state == VersionState::Active)
        };
        if status.change.is_some() || lacks(KeyKind::Guek) || lacks(KeyKind::Gak) {
            self.begin_change(leader, meter, vec![KeyKind::Guek, KeyKind::Gak])?;
            self.settle()?;
        }
        (self.known[meter].read, self.known[meter].asked) = (false, true);
        self.get(leader, meter, false)?;
        self.settle()?;
        self.status(leader, meter)?;
        let change = self.known[meter].status.as_ref().and_then(|status| status.change.as_ref());
        if change.is_some_and(|change| change.phase == ChangePhase::Sent) {
            self.report(leader, meter, ChangeOutcome::NoReply)?;
            self.settle()?;
        }
        self.status(leader, meter)
    }
}
