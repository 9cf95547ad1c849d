//! Everything there is: sites, meters, network, clock. What happens next comes out of the seed.

use gridseal_crypto::{Curve, random};
use gridseal_keys::{Core, Import, danger_faults::Fault, imported_name, lease::CounterLayout};
use gridseal_types::{
    EkName, N16, SystemTitle, UtcTime,
    service::keys::{Carrier, DeviceKeyStatus, ExchangeReply, KeyReply, KeyRequest, SiteMode, SiteRequest},
};

use super::{
    disk::{Line, Vault},
    headend::Message,
    meter::{KeyBytes, Meter, MeterKeys, Mishap, Quirks},
    report::{Rule, Violation},
    site::Site,
    watch::{Broken, Watch, hex, hex_list, site_name},
};
use crate::{
    HashRng, Schedule,
    works::{meter_certificate, owner},
};

/// Steps of a schedule before everything is healed.
const STEPS_MIN: u64 = 40;
const STEPS_MAX: u64 = 140;
/// Of a hundred meters, those of suite 1, then those of suite 2.
const SUITE_1: u64 = 8;
const SUITE_2: u64 = 11;
/// When schedules begin.
const START: UtcTime = UtcTime(1_800_000_000);

/// Result of what may break a rule.
pub(crate) type Step = Result<(), Broken>;

/// What the head-ends know of a meter.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The change that was begun last.
    pub(super) change: Option<N16>,
    /// An idempotency key that was used, and for what.
    pub(super) sealed: Option<(N16, u8)>,
    /// What the key service said last.
    pub(super) status: Option<DeviceKeyStatus>,
    /// It was asked since the healing began, and has given a reading when it was asked last.
    pub(super) asked: bool,
    pub(super) read: bool,
    /// Probes that have failed since it answered last, and whether anything else has.
    pub(super) probes_failed: Vec<Vec<u8>>,
    pub(super) others_failed: bool,
    /// An old copy of its flash came back.
    pub(super) rolled_back: bool,
    /// It is gone for good, or stolen: nothing is expected of it.
    pub(super) gone: bool,
}

pub(crate) struct World<'e> {
    pub(super) schedule: Schedule,
    pub(super) plant: Option<Fault>,
    pub(super) core: &'static Core,
    /// Time of the sites' clocks, which jumps.
    pub(super) now: UtcTime,
    /// Seconds that really went by.
    pub(super) tick: u64,
    pub(super) sites: Vec<Site>,
    pub(super) meters: Vec<Meter>,
    pub(super) devices: Vec<EkName>,
    pub(super) known: Vec<Known>,
    pub(super) net: Vec<Message>,
    pub(super) recorded: Vec<Message>,
    pub(super) vault: Vault,
    pub(super) watch: Watch<'e>,
    pub(super) heals: bool,
    /// What the next meter does with a transfer once everything heals.
    pub(super) mishap: Mishap,
    /// Highest epoch in which a site ever served: somebody outside has noted it.
    pub(super) witness: u32,
    /// Whether the sites hear each other.
    pub(super) linked: bool,
    /// Probes are counted once, by one site with a true clock: the lock-out is its fault.
    pub(super) budgets_hold: bool,
    /// Keys or holdings changed since they were compared.
    pub(super) stir: bool,
    pub(super) unreachable: u64,
    numbers: u64,
}

/// Leases as fields of an event: the highest counter of each key.
fn leases(site: usize, leased: impl IntoIterator<Item = (Line, u32)>) -> String {
    let highest: Vec<String> =
        leased.into_iter().map(|((_, key), highest)| format!("\"{}\":{highest}", hex(&key))).collect();
    format!("\"site\":\"{}\",\"highest\":{{{}}}", site_name(site), highest.join(","))
}

/// Title of a site's head-ends.
const fn client(site: u8, same_title: bool) -> SystemTitle {
    SystemTitle([b'G', b'S', b'L', 0, 0, 0, 0, if same_title { 0 } else { site }])
}

fn quirks(schedule: &mut Schedule) -> Quirks {
    let layouts =
        [CounterLayout::Epoch24, CounterLayout::Epoch24, CounterLayout::Epoch22, CounterLayout::Plain];
    let layout = schedule.pick(&layouts).unwrap_or_default();
    Quirks {
        one_by_one: schedule.happens(500_000),
        answers_under_new: schedule.happens(500_000),
        goes_on_counting: schedule.happens(300_000),
        layout,
        carrier: if schedule.happens(500_000) { Carrier::GeneralGlo } else { Carrier::GloService },
        jump_max: (layout == CounterLayout::Plain).then_some(100_000),
        lockout: u16::try_from(4 + schedule.below(8)).unwrap_or(10),
    }
}

impl<'e> World<'e> {
    pub(super) fn new(seed: u64, plant: Option<Fault>, watch: Watch<'e>) -> Result<Self, Broken> {
        let mut schedule = Schedule::new(seed);
        let count: u8 = if schedule.happens(850_000) { 2 } else { 1 };
        let same_title = schedule.happens(600_000);
        let core = &owner(0).keys;
        let mut world = Self::empty(core, schedule, plant, watch);
        world.sites = (0..count)
            .map(|index| Site::new(core, seed, (index, count), client(index, same_title)))
            .collect();
        world.start_first()?;
        let meters = 1 + world.schedule.below(3);
        (0..meters).try_for_each(|number| world.mount(seed, number))?;
        world.start_second()?;
        Ok(world)
    }

    /// Two sites without a meter, and head-ends that lose and forge nothing: for a simulation that brings its own meters.
    pub(crate) fn founded(
        core: &'static Core,
        seed: u64,
        plant: Option<Fault>,
        watch: Watch<'e>,
    ) -> Result<Self, Broken> {
        let mut world = Self::empty(core, Schedule::new(seed), plant, watch);
        world.heals = true;
        world.sites = (0..2).map(|index| Site::new(core, seed, (index, 2), client(index, true))).collect();
        world.start_first()?;
        world.watch.event("begin", String::new);
        // The second site copies a database that exists.
        world.order(0, KeyRequest::Site(SiteRequest::Status))?;
        world.sites[0].behind.clear();
        world.start_second()?;
        Ok(world)
    }

    fn empty(core: &'static Core, schedule: Schedule, plant: Option<Fault>, watch: Watch<'e>) -> Self {
        Self {
            schedule,
            plant,
            core,
            now: START,
            tick: START.0,
            sites: Vec::new(),
            meters: Vec::new(),
            devices: Vec::new(),
            known: Vec::new(),
            net: Vec::new(),
            recorded: Vec::new(),
            vault: Vault::new(core),
            watch,
            heals: false,
            mishap: Mishap::None,
            witness: 0,
            linked: true,
            budgets_hold: true,
            stir: true,
            unreachable: 0,
            numbers: 0,
        }
    }

    fn start_first(&mut self) -> Step {
        self.sites[0].start(self.plant).map_err(contract)?;
        self.watch.coverage.count("site/none/found");
        Ok(())
    }

    /// A meter whose keys are imported.
    fn mount(&mut self, seed: u64, number: u64) -> Step {
        let mut rng = HashRng::new(seed, "meter", number);
        // Public-key work is dear: most meters are of suite 0, as most are in the field.
        let suite = match self.schedule.below(100) {
            0..SUITE_1 => 1,
            SUITE_1..SUITE_2 => 2,
            _ => 0,
        };
        let mut draw = || -> Result<KeyBytes, Broken> {
            let bytes: [u8; 32] = random(&mut rng).map_err(|error| contract(error.to_string()))?;
            Ok(KeyBytes::new(if suite == 2 { &bytes } else { &bytes[..16] }))
        };
        let (guek, gak, kek) = (draw()?, draw()?, draw()?);
        let keys = MeterKeys { suite, kek_suite: suite, ..MeterKeys::of_suite_0(guek, gak, kek) };
        let last = u8::try_from(number + 1).unwrap_or_default();
        let title = SystemTitle([b'M', b'T', b'R', 0, 0, 0, 0, last]);
        let quirks = quirks(&mut self.schedule);
        let name = imported_name(title);
        let meter = self.add(name, Meter::new(title, quirks, keys, self.core, rng));
        self.import(meter)
    }

    /// A meter takes the next place; its place in the key service's tables is the same.
    pub(crate) fn add(&mut self, device: EkName, meter: Meter) -> usize {
        self.devices.push(device);
        self.known.push(Known::default());
        self.meters.push(meter);
        self.meters.len() - 1
    }

    /// The copy that follows the first site.
    fn start_second(&mut self) -> Step {
        if let [first, second] = self.sites.as_mut_slice() {
            second.disk.durable = first.disk.durable.clone();
            second.follows = true;
            second.start(self.plant).map_err(contract)?;
        }
        (0..self.meters.len()).for_each(|meter| self.tell_keys(meter));
        (0..self.sites.len()).for_each(|site| self.tell_database(site));
        Ok(())
    }

    fn import(&mut self, meter: usize) -> Step {
        let Meter { title, quirks, flash, .. } = &self.meters[meter];
        let MeterKeys { guek, gak, kek, suite, .. } = flash.keys;
        let operating = if suite == 2 {
            Import::operating(*title, guek.key::<_, 32>(), gak.key::<_, 32>(), kek.key::<_, 32>())
        } else {
            Import::operating(*title, guek.key::<_, 16>(), gak.key::<_, 16>(), kek.key::<_, 16>())
        };
        let import = Import {
            layout: quirks.layout,
            carrier: quirks.carrier,
            lockout: quirks.lockout,
            suite,
            certificate: (suite > 0).then(|| meter_certificate(*title, Curve::of_suite(suite))),
            ..operating
        };
        let now = self.now;
        let Some((service, disk, rng)) = self.sites[0].parts() else { return Ok(()) };
        let decision = service
            .import(&disk.view.rows, now, rng, &import)
            .map_err(|error| contract(error.to_string()))?;
        let [KeyReply::Exchange(ExchangeReply::Status(_))] = decision.replies.as_slice() else {
            return Err(contract(format!("an import is answered by {:?}", decision.replies)));
        };
        let commit = disk.stage(decision.writes, decision.durability, &mut self.vault, &self.devices);
        disk.view.apply(&commit);
        disk.durable.apply(&commit);
        self.sites[0].marker = decision.marker.or(self.sites[0].marker);
        Ok(())
    }

    /// Another number for an idempotency key.
    pub(super) fn number(&mut self) -> N16 {
        self.numbers += 1;
        let mut number = [0; 16];
        number[8..].copy_from_slice(&self.numbers.to_be_bytes());
        N16(number)
    }

    /// For the evidence: which keys a meter has.
    pub(super) fn tell_keys(&mut self, meter: usize) {
        self.stir = true;
        let Self { watch, meters, .. } = self;
        let keys = &meters[meter].flash.keys;
        let [guek, gak, kek] = keys.hashes().map(|key| hex(&key));
        let (suite, agreed) = (keys.suite, keys.kek_agreed);
        watch.event("meter-keys", || {
            format!(
                "\"meter\":{meter},\"suite\":{suite},\"guek\":\"{guek}\",\"gak\":\"{gak}\",\"kek\":\"{kek}\",\"agreed\":{agreed}"
            )
        });
    }

    /// For the evidence: which keys a site holds durably, and which of them are on record as sent.
    pub(super) fn tell_holdings(&mut self, site: usize) {
        self.stir = true;
        let Self { watch, sites, .. } = self;
        let durable = &sites[site].disk.durable;
        watch.event("holdings", || {
            let (keys, sent) = (hex_list(durable.keys.values().copied()), hex_list(durable.sent()));
            format!("\"site\":\"{}\",\"keys\":{keys},\"sent\":{sent}", site_name(site))
        });
    }

    /// For the evidence: up to which counter keys are leased durably at a site from now on.
    pub(super) fn tell_leased(&mut self, site: usize, leased: &[(Line, u32)]) {
        if !leased.is_empty() {
            self.watch.event("leased", || leases(site, leased.iter().copied()));
        }
    }

    /// For the evidence: everything about counters and keys that is durable at a site, where another database was put.
    pub(super) fn tell_database(&mut self, site: usize) {
        self.tell_holdings(site);
        let Self { watch, sites, .. } = self;
        let durable = &sites[site].disk.durable.leases;
        watch.event("leases", || leases(site, durable.iter().map(|(line, highest)| (*line, *highest))));
    }

    /// Sites that serve.
    pub(super) fn serving(&self) -> Vec<usize> {
        let serves = |site: &usize| self.sites[*site].mode() == Some(SiteMode::Active);
        (0..self.sites.len()).filter(serves).collect()
    }

    pub(super) fn any_meter(&mut self) -> usize {
        self.schedule.below(self.meters.len() as u64) as usize
    }

    fn holds(&self, key: &super::disk::KeyHash) -> bool {
        self.sites.iter().any(|site| site.disk.durable.holds(key))
    }

    /// Whether a meter has agreed upon a master key that no site knows: its answer got lost.
    pub(super) fn agreed_alone(&self, meter: usize) -> bool {
        !self.known[meter].gone && !self.meters[meter].flash.keys.hashes().iter().all(|key| self.holds(key))
    }

    /// Every key of every meter is held by some site, as far as it is durable there.
    pub(super) fn compare(&mut self) -> Step {
        if !std::mem::take(&mut self.stir) {
            return Ok(());
        }
        let held = |key: &super::disk::KeyHash| self.holds(key);
        let stranded: Vec<usize> = (0..self.meters.len())
            .filter(|meter| !self.known[*meter].gone)
            .filter(|meter| !self.meters[*meter].flash.keys.needed().iter().all(held))
            .collect();
        self.unreachable = stranded.len() as u64;
        match stranded.first() {
            Some(meter) => Err((Rule::S3, format!("no site holds the keys of meter {meter}"))),
            None => Ok(()),
        }
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        let steps = STEPS_MIN + self.schedule.below(STEPS_MAX - STEPS_MIN);
        let mut outcome = self.compare();
        for _ in 0..steps {
            self.watch.step += 1;
            outcome = outcome.and_then(|()| self.act()).and_then(|()| self.compare());
            if outcome.is_err() {
                break;
            }
        }
        let outcome = outcome.and_then(|()| self.heal());
        match &outcome {
            Ok(()) => self.watch.event("end", String::new),
            Err((rule, detail)) => self.watch.tell_violation(rule.name(), detail),
        }
        let (seed, step) = (self.watch.seed, self.watch.step);
        outcome.map_err(|(rule, detail)| Violation { seed, step, rule, detail })
    }

    /// One step while everything heals.
    pub(super) fn healed(&mut self, outcome: Step) -> Step {
        self.watch.step += 1;
        outcome?;
        self.compare()
    }
}

/// The service or its driver did not do what it has to.
pub(super) fn contract(detail: impl Into<String>) -> Broken {
    (Rule::Contract, detail.into())
}
