//! All processes of a demo: set up, started in order, looked at, stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{Signer, SigningKey, role::OwnerSigning};
use gridseal_headend::ReadingFilter;
use gridseal_io::clock::tick_now;
use gridseal_store::{Access, SqliteReadings, SqliteRecords};
use gridseal_types::{DeviceType, Digest, Reading, ReadingKey, SystemTitle, UtcTime};

use super::{
    Outcome, evidence,
    process::{Line, Process},
    view::View,
};
use crate::{
    config::Endorsement,
    setup::{
        configure::{self, Choices, Inner, Manufacturer},
        factory::{self, Anchor, Made, Order, Vendor},
        owner::{self, OwnerKeys},
        sale,
    },
    tools,
};

/// Who looks at readings here, and why.
const ACCESS: Access<'_> = Access { at: None, who: "demo", purpose: "show" };
/// How long a server may take to listen.
const START_WAIT: Duration = Duration::from_secs(20);
/// How far behind the newest reading shown a late one may start and still be shown.
const LOOK_BACK_S: u64 = 60;
/// Before the names of a second owner's processes.
pub(super) const BUYER: &str = "buyer ";
/// Model of the demo's meters.
const MODEL: &str = "GS-1";

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many meters.
    pub meters: u32,
    /// Their root of trust.
    pub anchor: Anchor,
    /// Length of a load-profile interval, seconds.
    pub interval_s: u32,
    /// Have the key service write an inventory of its keys.
    pub with_inventory: bool,
}

/// Every process of a run.
pub struct Fleet {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    lines: Receiver<Line>,
    sender: Sender<Line>,
    pub(super) log: Vec<Line>,
    /// Where in the log the attacks began.
    pub(super) attacked_from: Option<usize>,
    processes: Vec<Process>,
    manufacturer: Option<Manufacturer>,
    /// Where the manufacturer has made meters last: his log goes on from there.
    made_at: PathBuf,
    meters: Vec<Made>,
    readings: Option<SqliteReadings>,
    shown: BTreeSet<ReadingKey>,
    /// Counter under which a meter sealed the row that starts then.
    counters: BTreeMap<(String, String), u32>,
    /// Sealed APDUs as the head-end got them, by meter and counter.
    frames: BTreeMap<(String, u32), String>,
    /// Sealed frame and reading, as shown.
    pub(super) pairs: Vec<(String, Reading)>,
    stopping: bool,
}

/// What was found at the end.
#[derive(Debug, Default)]
pub struct Checks {
    /// Readings in the store.
    pub readings: usize,
    /// Readings by meter.
    pub readings_by_meter: BTreeMap<SystemTitle, usize>,
    /// Entries of all audit logs.
    pub audit_entries: usize,
    /// Result of the search for keys in the head-end, when asked for.
    pub key_search: Option<serde_json::Value>,
    /// What is not as it must be.
    pub problems: Vec<String>,
}

/// `127.0.0.1` with a port that the system chooses.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl Fleet {
    /// Sets everything up and starts it.
    pub fn start(dir: &Path, options: &Options, view: &mut View) -> Result<Self> {
        let (sender, lines) = channel();
        let mut fleet = Self {
            dir: dir.to_path_buf(),
            options: options.clone(),
            lines,
            sender,
            log: Vec::new(),
            attacked_from: None,
            processes: Vec::new(),
            manufacturer: None,
            made_at: dir.join("factory"),
            meters: Vec::new(),
            readings: None,
            shown: BTreeSet::new(),
            counters: BTreeMap::new(),
            frames: BTreeMap::new(),
            pairs: Vec::new(),
            stopping: false,
        };
        fleet.set_up(view)?;
        Ok(fleet)
    }

    /// The meters.
    pub fn meters(&self) -> &[Made] {
        &self.meters
    }

    fn set_up(&mut self, view: &mut View) -> Result<()> {
        let (owner_dir, factory_dir) = (self.dir.join("owner"), self.dir.join("factory"));
        let founded = found_owner(&owner_dir)?;
        view.step("owner: keys made where they stay; the offline owner key delegated to the key service");

        let init_dir = factory_dir.join("init-server");
        let vendor = Vendor::open_or_found(&factory_dir.join("vendor"), &init_dir, "ACME", &ANY_PORT)?;
        tools::factory::write_init_config(&init_dir, &vendor, ANY_PORT, self.options.with_inventory)?;
        let choices = Choices {
            unlocked_memory: true,
            log_frames: self.options.with_inventory,
            inventory: self.options.with_inventory.then(|| "inventory.json".into()),
            plant: evidence::plant(self, &owner_dir.join("headend"))?,
            interval_s: self.options.interval_s,
        };
        self.daemon("", "init-server", &init_dir)?;
        let manufacturer = Manufacturer {
            voucher_key: vendor.voucher_key(),
            init_ca: vendor.init_ca().to_owned(),
            init_server: self.listening("init-server", "field", view)?,
        };
        let addresses = self.start_owner(&owner_dir, "", &manufacturer, &choices, view)?;
        self.make_meters(&vendor, founded.buyer, manufacturer.init_server, &factory_dir, view)?;
        let manager = configure::endpoint_manager(
            &owner_dir,
            &founded.key,
            &manufacturer,
            &addresses,
            MODEL,
            self.options.anchor,
        )?;
        self.register(&manager, &factory_dir.join("shipment.cbor"))?;
        view.step("owner: shipment registered; owner secrets went encrypted to the key service");
        self.daemon("", "endpoint-manager", &owner_dir.join("endpoint-manager"))?;
        self.manufacturer = Some(manufacturer);
        for made in self.meters.clone() {
            self.switch_on(&made)?;
        }
        Ok(())
    }

    /// Switches a meter on as a process of its own.
    pub(super) fn switch_on(&mut self, made: &Made) -> Result<()> {
        let dir = made.dir.to_string_lossy().into_owned();
        self.start_process(&format!("meter {}", made.serial), &["meter", "run", "--dir", &dir])
    }

    /// Configures and starts an owner's processes, but for the endpoint manager. `prefix` is put before their names.
    #[expect(clippy::too_many_arguments, reason = "everything that an owner's processes are told")]
    fn start_owner(
        &mut self,
        dir: &Path,
        prefix: &str,
        manufacturer: &Manufacturer,
        choices: &Choices,
        view: &mut View,
    ) -> Result<Inner> {
        configure::keys(dir, ANY_PORT, manufacturer, choices)?;
        configure::pki(dir, ANY_PORT, &ANY_PORT)?;
        configure::config_server(dir, ANY_PORT, ANY_PORT, choices)?;
        for name in ["pki", "keys", "config-server"] {
            self.daemon(prefix, name, &dir.join(name))?;
        }
        let named = |name: &str| format!("{prefix}{name}");
        let mut addresses = Inner {
            config: self.listening(&named("config-server"), "field", view)?,
            config_inner: self.listening(&named("config-server"), "inner", view)?,
            keys: self.listening(&named("keys"), "inner", view)?,
            pki: self.listening(&named("pki"), "inner", view)?,
            headend: ANY_PORT,
            headend_inner: ANY_PORT,
        };
        configure::headend(dir, &addresses, choices)?;
        configure::operator(dir, addresses.keys)?;
        self.daemon(prefix, "headend", &dir.join("headend"))?;
        addresses.headend = self.listening(&named("headend"), "field", view)?;
        addresses.headend_inner = self.listening(&named("headend"), "inner", view)?;
        Ok(addresses)
    }

    /// A second owner with all its processes, but for the endpoint manager, which is configured and not started.
    pub(super) fn start_buyer(&mut self, view: &mut View) -> Result<PathBuf> {
        let dir = self.dir.join("buyer");
        let founded = found_owner(&dir)?;
        let choices =
            Choices { unlocked_memory: true, interval_s: self.options.interval_s, ..Choices::default() };
        let manufacturer = self.manufacturer.clone().context("nothing is set up")?;
        let addresses = self.start_owner(&dir, BUYER, &manufacturer, &choices, view)?;
        let anchor = self.options.anchor;
        configure::endpoint_manager(&dir, &founded.key, &manufacturer, &addresses, MODEL, anchor)
    }

    /// Starts the buyer's endpoint manager.
    pub(super) fn start_buyers_manager(&mut self) -> Result<()> {
        self.daemon(BUYER, "endpoint-manager", &self.dir.join("buyer/endpoint-manager"))
    }

    /// More meters of the owner's, registered and not switched on.
    pub(super) fn make_more(&mut self, count: u32, name: &str) -> Result<Vec<Made>> {
        let init = self.address("init-server", "field")?;
        let config_server = self.address("config-server", "field")?;
        self.make_devices(count, name, init, config_server)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of the set-up")]
    fn make_meters(
        &mut self,
        vendor: &Vendor,
        buyer: OwnerKeys,
        init: SocketAddr,
        dir: &Path,
        view: &mut View,
    ) -> Result<()> {
        let order = Order { init_servers: vec![format!("https://{init}")], ..self.order(buyer) };
        let mut first = true;
        self.meters = factory::make(vendor, &order, dir, |made| {
            view.step(&format!("factory: made {} with a {} root of trust", made.serial, order.anchor.name()));
            if std::mem::take(&mut first) {
                view.label(&made.label);
            }
        })?;
        Ok(())
    }

    fn register(&self, config: &Path, shipment: &Path) -> Result<()> {
        let output = std::process::Command::new(std::env::current_exe()?)
            .args(["import", "shipment", "--config"])
            .arg(config)
            .arg(shipment)
            .output()?;
        if !output.status.success() {
            bail!("registration failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Where a process listens that has told so.
    pub(super) fn address(&self, process: &str, side: &str) -> Result<SocketAddr> {
        let found = self
            .log
            .iter()
            .rfind(|line| line.process == process && line.event == "listening" && line.field("side") == side);
        found
            .with_context(|| format!("{process} does not listen"))?
            .field("address")
            .parse()
            .context("address")
    }

    /// Makes devices that nobody has switched on, and registers them with the owner: they look for their init server and
    /// their config server at these addresses.
    pub(super) fn make_victims(
        &mut self,
        count: u32,
        init: SocketAddr,
        config_server: SocketAddr,
    ) -> Result<Vec<Made>> {
        self.make_devices(count, "victims", init, config_server)
    }

    fn make_devices(
        &mut self,
        count: u32,
        name: &str,
        init: SocketAddr,
        config_server: SocketAddr,
    ) -> Result<Vec<Made>> {
        let (owner_dir, factory_dir) = (self.dir.join("owner"), self.dir.join("factory"));
        let init_dir = factory_dir.join("init-server");
        let vendor = Vendor::open_or_found(&factory_dir.join("vendor"), &init_dir, "ACME", &ANY_PORT)?;
        let buyer = owner_keys(&owner_dir)?;
        let order = Order { count, init_servers: vec![format!("https://{init}")], ..self.order(buyer) };
        let out = self.dir.join(name);
        std::fs::create_dir_all(&out)?;
        // A manufacturer has one log: another one of the same size would be a fork.
        let before = std::mem::replace(&mut self.made_at, out.clone());
        std::fs::copy(before.join(sale::LOG_FILE), out.join(sale::LOG_FILE))?;
        let made = factory::make(&vendor, &order, &out, |_| ())?;
        let manager = owner_dir.join("endpoint-manager");
        let (mut config, _): (crate::config::EndpointManager, _) =
            crate::config::load(&manager.join("config.toml"))?;
        config.config_urls = vec![format!("https://{config_server}")];
        let path = manager.join(format!("{name}.toml"));
        crate::config::save(&path, &config)?;
        self.register(&path, &out.join("shipment.cbor"))?;
        Ok(made)
    }

    /// How many victims' redirects the init server has taken.
    pub(super) fn registered(&self) -> usize {
        let told = self.log.iter().filter(|line| line.event == "redirect-registered");
        let devices: BTreeSet<&str> = told.map(|line| line.field("device")).collect();
        devices.len().saturating_sub(self.meters.len())
    }

    /// The Name of any device's endorsement key.
    pub(super) fn any_device(&self) -> Result<gridseal_types::EkName> {
        let told = self.log.iter().find(|line| line.event == "redirect-registered");
        let name = hex::decode(told.context("no device is registered")?.field("device"))?;
        gridseal_types::EkName::from_slice(&name).context("no Name")
    }

    /// How often a process has told an event.
    pub(super) fn count_told(&self, process: &str, event: &str) -> usize {
        self.log.iter().filter(|line| line.process == process && line.event == event).count()
    }

    /// Whether a process has told an event about a device.
    pub(super) fn told_about(&self, process: &str, event: &str, serial: &str) -> bool {
        let of =
            |line: &Line| line.process == process && line.event == event && line.field("serial") == serial;
        self.log.iter().any(of)
    }

    /// Stops a process that was started beside the fleet.
    pub(super) fn stop_process(&mut self, name: &str) {
        self.processes.retain(|process| process.name() != name);
    }

    fn order(&self, buyer: OwnerKeys) -> Order {
        Order {
            model: MODEL.into(),
            count: self.options.meters,
            anchor: self.options.anchor,
            endorsement: Endorsement::P256,
            init_servers: Vec::new(),
            device_type: DeviceType::Meter,
            buyer: Some(buyer),
            inserts: false,
            interval_s: self.options.interval_s,
            backoff_ms: 200,
            // A busy household, so that something is to be seen after seconds.
            simulated_w: 9_000,
        }
    }

    fn daemon(&mut self, prefix: &str, name: &str, dir: &Path) -> Result<()> {
        let config = dir.join("config.toml").to_string_lossy().into_owned();
        self.start_process(&format!("{prefix}{name}"), &[name, "--config", &config])
    }

    pub(super) fn start_process(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let errors = self.dir.join(format!("{}.err", name.replace(' ', "-")));
        self.processes.push(Process::start(name, arguments, &errors, self.sender.clone())?);
        Ok(())
    }

    /// The address on which a process listens; waits for it.
    fn listening(&mut self, process: &str, side: &str, view: &mut View) -> Result<SocketAddr> {
        let until = tick_now() + START_WAIT;
        let is_it =
            |line: &Line| line.process == process && line.event == "listening" && line.field("side") == side;
        loop {
            if let Some(line) = self.log.iter().find(|line| is_it(line)) {
                return line.field("address").parse().context("address");
            }
            if tick_now() > until {
                bail!("{process} does not listen: {}", self.errors_of(process));
            }
            if let Some(line) = self.next_line(Duration::from_millis(50))? {
                if line.event == "ended" {
                    bail!("{process} ended: {}", self.errors_of(&line.process));
                }
                view.line(&line);
            }
        }
    }

    fn errors_of(&self, process: &str) -> String {
        let path = self.dir.join(format!("{}.err", process.replace(' ', "-")));
        std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    /// The next event of any process, within a time.
    pub fn next_line(&mut self, wait: Duration) -> Result<Option<Line>> {
        match self.lines.recv_timeout(wait) {
            Ok(mut line) => {
                if line.event == "ended" && !self.stopping {
                    let errors = self.errors_of(&line.process);
                    line.json["status"] = errors.into();
                }
                self.remember(&line);
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("all processes are gone"),
        }
    }

    /// Keeps a line, and what it says of sealed frames.
    fn remember(&mut self, line: &Line) {
        if line.process == "headend" && line.event == "frame" {
            let apdu = line.field("apdu");
            // DB, length 08, system title, length, security control, counter.
            let counter = apdu.get(24..32).and_then(|counter| u32::from_str_radix(counter, 16).ok());
            if let (Some(title), Some(counter)) = (apdu.get(4..20), counter) {
                self.frames.insert((title.to_owned(), counter), apdu.to_owned());
            }
        }
        if line.event == "sealed"
            && let Ok(counter) = line.field("counter").parse()
        {
            self.counters.insert((line.field("meter").to_owned(), line.field("start").to_owned()), counter);
        }
        self.log.push(line.clone());
    }

    /// The sealed frame in which a reading came.
    fn frame_of(&self, key: &ReadingKey) -> Option<String> {
        let meter = key.meter.to_string();
        let counter = *self.counters.get(&(meter.clone(), key.start.to_string()))?;
        self.frames.get(&(meter, counter)).cloned()
    }

    /// Readings that were not shown yet, each with its sealed frame.
    pub fn new_readings(&mut self) -> Result<Vec<(Reading, Option<String>)>> {
        if self.readings.is_none() {
            self.readings = Some(tools::readings::open(&self.dir.join("owner/headend"))?);
        }
        let Some(store) = &self.readings else { return Ok(Vec::new()) };
        // Meters deliver in any order: look back a little, not only past the last one shown.
        let newest = self.shown.last().map(|key| UtcTime(key.start.0.saturating_sub(LOOK_BACK_S)));
        let mut filter = ReadingFilter { from: newest, ..ReadingFilter::default() };
        let mut found = Vec::new();
        loop {
            let page = store.list_for(ACCESS, &filter)?;
            let Some(last) = page.last() else { break };
            filter.after = Some(last.key);
            found.extend(page);
        }
        let mut fresh = Vec::new();
        for reading in found {
            if self.shown.insert(reading.key) {
                let frame = self.frame_of(&reading.key);
                self.pairs.extend(frame.clone().map(|frame| (frame, reading)));
                fresh.push((reading, frame));
            }
        }
        Ok(fresh)
    }

    /// Whether a reading of every meter was shown.
    pub fn all_deliver(&self) -> bool {
        let meters: BTreeSet<SystemTitle> = self.shown.iter().map(|key| key.meter).collect();
        meters.len() >= self.meters.len()
    }

    /// Process id of a running process.
    pub(super) fn process_id(&self, name: &str) -> Option<u32> {
        self.processes.iter().find(|process| process.name() == name).map(Process::id)
    }

    /// Looks at everything, leaves evidence when asked to, and stops all processes.
    pub fn finish(&mut self, to: Option<&Path>, outcome: &Outcome, view: &mut View) -> Result<Checks> {
        self.stopping = true;
        let mut checks = Checks::default();
        if to.is_some() {
            view.step("searching memory and files of the head-end for every key of this run");
            evidence::search_headend(self, &mut checks)?;
        }
        self.stop();
        // What was stored since the last look.
        for (reading, frame) in self.new_readings()? {
            view.reading(&reading, frame.as_deref());
        }
        self.count_readings(&mut checks)?;
        self.check_audit(&mut checks)?;
        if let Some(to) = to {
            evidence::leave(self, to, &checks, outcome)?;
            view.step(&format!("evidence is in {}", to.display()));
        }
        Ok(checks)
    }

    fn stop(&mut self) {
        // Meters first, so that no link breaks under them.
        self.processes.iter_mut().rev().for_each(Process::ask_to_stop);
        self.processes.iter_mut().rev().for_each(Process::wait);
        while let Ok(line) = self.lines.try_recv() {
            self.remember(&line);
        }
    }

    fn count_readings(&mut self, checks: &mut Checks) -> Result<()> {
        self.readings = None;
        let store = tools::readings::open(&self.dir.join("owner/headend"))?;
        let mut filter = ReadingFilter::default();
        loop {
            let page = store.list_for(ACCESS, &filter)?;
            let Some(last) = page.last() else { return Ok(()) };
            filter.after = Some(last.key);
            checks.readings += page.len();
            for reading in &page {
                *checks.readings_by_meter.entry(reading.key.meter).or_default() += 1;
            }
        }
    }

    fn check_audit(&self, checks: &mut Checks) -> Result<()> {
        for (name, path) in audit_logs(&self.dir) {
            match tools::audit::checked(&SqliteRecords::open(&path)?)? {
                Ok(log) => checks.audit_entries += log.chain.len(),
                Err(broken) => checks.problems.push(format!("{name}: {broken}")),
            }
        }
        Ok(())
    }
}

/// What an owner has before anything runs.
struct Founded {
    key: SigningKey<OwnerSigning>,
    buyer: OwnerKeys,
}

/// Makes an owner's keys and authorities in a directory.
fn found_owner(dir: &Path) -> Result<Founded> {
    let ceremony = dir.join("ceremony");
    let keys = owner::keystore(&dir.join("keys"))?;
    let key = owner::owner_key(&ceremony)?;
    owner::delegate(&key, &keys, &dir.join("keys"), 1)?;
    owner::issuing_authority(&ceremony, &dir.join("pki"))?;
    owner::party_authorities(dir, gridseal_keys::Core::CLIENT_TITLE)?;
    owner::service_identities(&ceremony, dir)?;
    owner::config_server_certificate(&dir.join("config-server"), &ANY_PORT)?;
    Ok(Founded { key, buyer: owner_keys(dir)? })
}

/// The public keys of an owner, as a voucher names them.
pub(super) fn owner_keys(dir: &Path) -> Result<OwnerKeys> {
    let ceremony = dir.join("ceremony");
    Ok(OwnerKeys {
        owner: owner::owner_key(&ceremony)?.public(),
        encryption: owner::keystore(&dir.join("keys"))?.encryption,
        second: Some(Digest(owner::owner_second(&ceremony)?.public().id())),
    })
}

/// Databases with an audit log.
pub(super) fn audit_logs(dir: &Path) -> [(&'static str, PathBuf); 3] {
    [
        ("keys", dir.join("owner/keys/keys.db")),
        ("endpoint-manager", dir.join("owner/endpoint-manager/register.db")),
        ("init-server", dir.join("factory/init-server/init.db")),
    ]
}
