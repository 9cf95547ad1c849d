//! Where attacks are played: victims, hostile networks before the real servers, what has been stolen, and the records of
//! those who refuse.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use gridseal_crypto::{
    Key, PublicKey, SecondSigner, Signer, SigningKey,
    role::{
        ConfigSigning, InitSigning, OwnerSecond, OwnerSecret, OwnerSigning, Role, ServiceTls, VoucherSecond,
        VoucherSigning,
    },
    sha256,
};
use gridseal_io::{
    clock::tick_now,
    tls::{Alpn, Identity, TlsKey, dateless, pinned, spki_hash},
};
use gridseal_trust::{
    enrol::{
        shipment::{Papers, Shipment},
        voucher::VoucherKey,
    },
    root::{DeviceRoot, RootReply, RootRequest},
};
use gridseal_types::{Code, EkName, UtcTime};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    chip::Chip,
    hostile::{Hostile, Real},
    puppet::Puppet,
};
use crate::{
    config,
    demo::{
        fleet::Fleet,
        scan::{Found, Inventory, Search},
    },
    files::{Zone, read, read_certificates, write_atomic},
    observe::journal,
    process::meter::root::SharedRoot,
    setup::{factory::Made, sale::VoucherSigner},
};

/// How long a refusal may take to be on record.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device that is attacked, or with which one attacks.
#[derive(Debug, Clone)]
pub(super) struct Victim {
    pub(super) made: Made,
    pub(super) papers: Papers,
    pub(super) name: EkName,
}

/// Who keeps a record of what it refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    Meter(PathBuf),
    InitServer,
    /// A process of the owner, by the name of its directory.
    Owner(&'static str),
}

/// The endpoint manager.
pub(super) const MANAGER: Party = Party::Owner("endpoint-manager");
/// The config server.
pub(super) const RELAY: Party = Party::Owner("config-server");

/// One line of a record.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    /// Who.
    pub(super) by: String,
    /// Why.
    pub(super) code: String,
}

/// Everything.
pub(super) struct Stage<'f> {
    pub(super) fleet: &'f mut Fleet,
    pub(super) runtime: Runtime,
    /// Before the init server.
    pub(super) init: Hostile,
    /// Before the config server.
    pub(super) config: Hostile,
    pub(super) real_init: Real,
    pub(super) real_config: Real,
    victims: VecDeque<Victim>,
    /// Evidence of the row that is played.
    to: PathBuf,
    marks: BTreeMap<Party, u64>,
    sent: usize,
}

impl<'f> Stage<'f> {
    /// Sets the scene: hostile networks, and victims whose way leads through them.
    pub(super) fn set(fleet: &'f mut Fleet, to: &Path, victims: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (owner, factory) = (fleet.dir.join("owner"), fleet.dir.join("factory"));
        let init_chain = read_certificates(&factory.join("init-server/identity.pem"))?;
        let real_init = Real {
            address: fleet.address("init-server", "field")?,
            tls: dateless(&init_chain, UtcTime(0), None, Alpn::Http1)?,
            path: "/gso/v1/init",
        };
        let config_chain = read_certificates(&owner.join("config-server/field.pem"))?;
        let pin = spki_hash(config_chain.first().context("config server has no certificate")?)?;
        let real_config = Real {
            address: fleet.address("config-server", "field")?,
            tls: pinned(vec![pin], Alpn::Http1)?,
            path: "/gso/v1/config",
        };
        let init = Hostile::start(
            &runtime,
            &stolen_identity(&factory.join("init-server"), "identity", init_chain)?,
            &real_init,
        )?;
        let config = Hostile::start(
            &runtime,
            &stolen_identity(&owner.join("config-server"), "field", config_chain)?,
            &real_config,
        )?;
        let mut stage = Self {
            fleet,
            runtime,
            init,
            config,
            real_init,
            real_config,
            victims: VecDeque::new(),
            to: to.to_path_buf(),
            marks: BTreeMap::new(),
            sent: 0,
        };
        stage.make_victims(victims)?;
        Ok(stage)
    }

    fn make_victims(&mut self, count: u32) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let made = self.fleet.make_victims(count, self.init.address, self.config.address)?;
        let shipment = Shipment::decode(&read(&self.fleet.dir.join("victims/shipment.cbor"))?)?;
        for (made, papers) in made.into_iter().zip(shipment.devices) {
            let signed = gridseal_trust::enrol::cose::Sign1::decode(&papers.manifest)?;
            let manifest = gridseal_trust::enrol::document::Manifest::decode(signed.payload)?;
            self.victims.push_back(Victim { made, papers, name: manifest.ek_name });
        }
        let until = tick_now() + PATIENCE;
        while self.fleet.registered() < usize::try_from(count)? {
            if tick_now() > until {
                bail!("the victims' redirects were not registered in time");
            }
            self.fleet.next_line(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Begins a row: its directory, and where each record stands.
    pub(super) fn begin(&mut self, id: &str) -> Result<()> {
        let to = self.to.parent().context("evidence has no directory")?.join(id);
        fs::create_dir_all(&to)?;
        self.to = to;
        self.sent = 0;
        self.init.rest();
        self.config.rest();
        self.marks.clear();
        for party in [MANAGER, RELAY, Party::InitServer, Party::Owner("keys"), Party::Owner("headend")] {
            let mark = self.record(&party)?.last().map_or(0, |(_, line)| number(line));
            self.marks.insert(party, mark);
        }
        Ok(())
    }

    /// Ends a row: what was forged on the way is evidence.
    pub(super) fn end(&mut self) -> Result<()> {
        let mut exchanges = String::new();
        for (path, hostile) in [("init", &self.init), ("config", &self.config)] {
            for seen in hostile.seen() {
                let [forwarded, answer, returned] =
                    [seen.forwarded, seen.answer, seen.returned].map(|wire| wire.map(hex::encode));
                let line = json!({
                    "path": path, "question": hex::encode(&seen.question), "forwarded": forwarded, "answer": answer,
                    "returned": returned,
                });
                exchanges += &format!("{line}\n");
            }
        }
        if !exchanges.is_empty() {
            self.keep("seen.jsonl", exchanges.as_bytes())?;
        }
        for (path, hostile) in [("init", &self.init), ("config", &self.config)] {
            for seen in hostile.seen() {
                if let Some(wire) = seen.forwarded.filter(|wire| *wire != seen.question) {
                    leave(&self.to, &mut self.sent, &format!("to-{path}-server"), &wire)?;
                }
                if let Some(wire) = seen.returned.filter(|wire| Some(wire) != seen.answer.as_ref()) {
                    leave(&self.to, &mut self.sent, &format!("to-meter-from-{path}"), &wire)?;
                }
            }
        }
        self.init.rest();
        self.config.rest();
        Ok(())
    }

    /// Keeps bytes that were sent.
    pub(super) fn sent(&mut self, what: &str, wire: &[u8]) -> Result<()> {
        leave(&self.to, &mut self.sent, what, wire)
    }

    /// Keeps something else that a script may look at.
    pub(super) fn keep(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomic(&self.to.join(name), bytes)
    }

    /// Where that is kept.
    pub(super) fn kept(&self, name: &str) -> PathBuf {
        self.to.join(name)
    }

    /// The next device that nobody has touched.
    pub(super) fn victim(&mut self) -> Result<Victim> {
        self.victims.pop_front().context("no victim is left")
    }

    /// Switches a victim on as a process of its own.
    pub(super) fn switch_on(&mut self, victim: &Victim) -> Result<Party> {
        let dir = victim.made.dir.to_string_lossy().into_owned();
        self.fleet.start_process(&name_of(victim), &["meter", "run", "--dir", &dir])?;
        Ok(Party::Meter(victim.made.dir.clone()))
    }

    /// Cuts its power.
    pub(super) fn switch_off(&mut self, victim: &Victim) {
        self.fleet.stop_process(&name_of(victim));
    }

    /// How often a victim has told an event.
    pub(super) fn count_told(&self, victim: &Victim, event: &str) -> usize {
        self.fleet.count_told(&name_of(victim), event)
    }

    /// Waits until a victim has told an event so often.
    pub(super) fn told(&mut self, victim: &Victim, event: &str, times: usize) -> Result<()> {
        self.process_told(&name_of(victim), event, times)
    }

    fn process_told(&mut self, process: &str, event: &str, times: usize) -> Result<()> {
        let until = tick_now() + PATIENCE;
        while self.fleet.count_told(process, event) < times {
            if tick_now() > until {
                bail!("{process} never told {event:?}");
            }
            self.fleet.next_line(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// A victim in our hands.
    pub(super) fn puppet(&self, victim: &Victim) -> Result<Puppet> {
        Puppet::take(self.runtime.handle(), &victim.made.dir, &self.real_init)
    }

    /// Does something with a victim's root before it is switched on.
    pub(super) fn prepare(&self, victim: &Victim, requests: Vec<RootRequest>) -> Result<()> {
        let (firmware, dir): (config::Firmware, _) = config::load(&victim.made.dir.join("firmware.toml"))?;
        let root = SharedRoot::power_on(&firmware.root, firmware.measurements.as_ref(), &dir)?;
        for request in requests {
            root.perform(request)?;
        }
        Ok(())
    }

    /// N_1 of a victim: what a photograph of label B, or an opened delivery, gives away.
    pub(super) fn owner_secret(&self, victim: &Victim) -> Result<Key<OwnerSecret, 32>> {
        match Chip::power_on(&victim.made.dir)?.perform(RootRequest::OwnerSecret(1))? {
            RootReply::OwnerSecret(secret) => Ok(secret),
            _ => bail!("no owner secret"),
        }
    }

    /// Whether a victim's TPM is as the factory left it: no pin, no epoch, no authorisation set.
    pub(super) fn is_untouched(&self, victim: &Victim) -> Result<bool> {
        let description = Chip::power_on(&victim.made.dir)?.description()?;
        self.keep(
            "root-after.json",
            &serde_json::to_vec_pretty(&json!({
                "pin": description.pin.is_some(), "epoch": description.epoch, "permanent": description.permanent,
            }))?,
        )?;
        Ok(description.pin.is_none() && description.epoch == 0 && description.permanent & 5 == 0)
    }

    /// Mounts a victim where a connection point has this name: it was typed at the device.
    pub(super) fn mount(&self, victim: &Victim, place: &str) -> Result<()> {
        write_atomic(&victim.made.dir.join("place.txt"), place.as_bytes())
    }

    /// Leaves an installer's request in the endpoint manager's inbox.
    pub(super) fn leave_request(&mut self, what: &str, wire: &[u8]) -> Result<()> {
        self.sent(what, wire)?;
        let inbox = self.directory(&MANAGER).join(crate::process::inbox::INBOX);
        write_atomic(&inbox.join(format!("{what}-{}.cbor", self.sent)), wire)
    }

    /// How often the endpoint manager has told an event.
    pub(super) fn count_of_manager(&self, event: &str) -> usize {
        self.fleet.count_told("endpoint-manager", event)
    }

    /// Waits until the endpoint manager has told an event so often.
    pub(super) fn manager_told(&mut self, event: &str, times: usize) -> Result<()> {
        self.process_told("endpoint-manager", event, times)
    }

    /// Runs `gridseal device register` for one victim with a file as its label B; what it printed as an error, and
    /// whether it ended well.
    pub(super) fn register_by_labels(&self, victim: &Victim, insert: &Path) -> Result<(String, bool)> {
        let output = std::process::Command::new(std::env::current_exe()?)
            .args(["device", "register", "--label", &victim.made.label, "--config"])
            .arg(self.directory(&MANAGER).join("config.toml"))
            .arg("--insert")
            .arg(insert)
            .arg(self.fleet.dir.join("victims/shipment.cbor"))
            .stdin(std::process::Stdio::null())
            .output()?;
        Ok((String::from_utf8_lossy(&output.stderr).into_owned(), output.status.success()))
    }

    /// Runs a command of the owner's operator about devices; what it printed, and whether it ended well.
    pub(super) fn operator(&self, arguments: &[&str]) -> Result<(String, bool)> {
        let output = std::process::Command::new(std::env::current_exe()?)
            .arg("device")
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((String::from_utf8_lossy(&text).into_owned(), output.status.success()))
    }

    /// An operator's order to a victim.
    pub(super) fn ordered(&self, what: &str, victim: &Victim) -> Result<()> {
        let config = self.directory(&MANAGER).join("config.toml").to_string_lossy().into_owned();
        let serial = victim.made.serial.as_str();
        match self.operator(&[what, "--config", &config, "--reason", "demo", serial])? {
            (_, true) => Ok(()),
            (text, false) => bail!("device {what} failed: {text}"),
        }
    }

    /// Where the endpoint manager is configured.
    pub(super) fn manager_config(&self) -> PathBuf {
        self.directory(&MANAGER).join("config.toml")
    }

    /// Asks the config server as anybody in the field may, from an address of one's choice.
    pub(super) fn ask_config(
        &mut self,
        what: &str,
        wire: &[u8],
        from: Option<IpAddr>,
    ) -> Result<(u16, Vec<u8>)> {
        self.sent(what, wire)?;
        let client = self.real_config.client();
        let mut client = match from {
            Some(from) => client.from_address(from),
            None => client,
        };
        let answer = self.runtime.block_on(client.post(self.real_config.path, wire.to_vec()))?;
        Ok((answer.status, answer.body))
    }

    /// Asks the init server.
    pub(super) fn ask_init(&mut self, what: &str, wire: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.sent(what, wire)?;
        let answer =
            self.runtime.block_on(self.real_init.client().post(self.real_init.path, wire.to_vec()))?;
        Ok((answer.status, answer.body))
    }

    /// The whole record of a party: each line as it is, and what it says.
    fn record(&self, party: &Party) -> Result<Vec<(String, Value)>> {
        let Ok(text) = fs::read_to_string(self.directory(party).join(journal::FILE)) else {
            return Ok(Vec::new());
        };
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| Ok((line.to_owned(), serde_json::from_str(line)?)))
            .collect()
    }

    fn directory(&self, party: &Party) -> PathBuf {
        match party {
            Party::Meter(dir) => dir.clone(),
            Party::InitServer => self.fleet.dir.join("factory/init-server"),
            Party::Owner(name) => self.fleet.dir.join("owner").join(name),
        }
    }

    /// Lines that a party wrote since the row began.
    fn news(&self, party: &Party) -> Result<Vec<(String, Value)>> {
        let mark = self.marks.get(party).copied().unwrap_or(0);
        Ok(self.record(party)?.into_iter().filter(|(_, line)| number(line) > mark).collect())
    }

    /// Waits until a party has a refusal with this code on record, and keeps what it wrote.
    pub(super) fn refusal(&mut self, party: &Party, code: Code) -> Result<Heard> {
        self.on_record(party, "code", code.name())
    }

    /// As before, of one device by its serial number.
    pub(super) fn refusal_of(&mut self, party: &Party, code: Code, serial: &str) -> Result<Heard> {
        let heard = self.refusal(party, code)?;
        let is_it = |(_, line): &(String, Value)| {
            line.get("code").and_then(Value::as_str) == Some(code.name())
                && line.get("serial").and_then(Value::as_str) == Some(serial)
        };
        if self.news(party)?.iter().any(is_it) {
            Ok(heard)
        } else {
            bail!("{} of another device", code.name())
        }
    }

    /// Waits for a line in which a field has a value, and keeps what the party wrote.
    pub(super) fn on_record(&mut self, party: &Party, field: &str, value: &str) -> Result<Heard> {
        self.on_record_times(party, field, value, 1)
    }

    /// As before, for so many lines.
    pub(super) fn on_record_times(
        &mut self,
        party: &Party,
        field: &str,
        value: &str,
        times: usize,
    ) -> Result<Heard> {
        let until = tick_now() + PATIENCE;
        loop {
            let news = self.news(party)?;
            let mut hits =
                news.iter().filter(|(_, line)| line.get(field).and_then(Value::as_str) == Some(value));
            let found = hits.nth(times.saturating_sub(1));
            if found.is_some() || tick_now() > until {
                let by = party_name(party);
                let text: String = news.iter().map(|(text, _)| text.as_str()).collect();
                let file = match party {
                    Party::Meter(dir) => dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    _ => by.clone(),
                };
                self.keep(&format!("record-{file}.jsonl"), text.as_bytes())?;
                let line = found.map(|(_, line)| line.clone());
                let line =
                    line.ok_or_else(|| anyhow!("{by} has no {field} {value} on record, but: {text}"))?;
                let code = line.get("code").and_then(Value::as_str).unwrap_or(value);
                self.keep_refused(&line)?;
                return Ok(Heard { by, code: code.to_owned() });
            }
            self.fleet.next_line(Duration::from_millis(50))?;
        }
    }

    /// Keeps the message that a line is about, if it went through our hands.
    fn keep_refused(&mut self, line: &Value) -> Result<()> {
        let Some(message) = line.get("message").and_then(Value::as_str) else { return Ok(()) };
        let seen = [self.init.seen(), self.config.seen()].concat();
        let wires = seen.iter().flat_map(|seen| {
            [Some(&seen.question), seen.forwarded.as_ref(), seen.returned.as_ref()].into_iter().flatten()
        });
        match wires.into_iter().find(|wire| digest(wire) == message) {
            Some(wire) => leave(&self.to, &mut self.sent, "refused", wire),
            None => Ok(()),
        }
    }

    /// Copies every record whole, so that the chains can be checked.
    pub(super) fn leave_records(&self, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        for party in [MANAGER, RELAY, Party::InitServer, Party::Owner("keys"), Party::Owner("headend")] {
            let from = self.directory(&party).join(journal::FILE);
            if from.is_file() {
                fs::copy(from, to.join(format!("{}.jsonl", party_name(&party))))?;
            }
        }
        Ok(())
    }

    /// A private key out of a directory of somebody who was taken over.
    pub(super) fn stolen<R: Role>(&self, dir: &str, name: &str) -> Result<SigningKey<R>> {
        stolen_key(&self.fleet.dir.join(dir), name)
    }

    /// K_init.
    pub(super) fn init_key(&self) -> Result<SigningKey<InitSigning>> {
        self.stolen("factory/init-server", "init")
    }

    /// The public half of K_init.
    pub(super) fn init_public(&self) -> Result<PublicKey> {
        Ok(self.init_key()?.public())
    }

    /// The manufacturer's voucher keys: as they are trusted, and both private halves.
    pub(super) fn voucher_keys(
        &self,
    ) -> Result<(VoucherKey, SigningKey<VoucherSigning>, SecondSigner<VoucherSecond>)> {
        let dir = self.fleet.dir.join("factory/vendor");
        let signer = VoucherSigner::open(&dir)?;
        let second = Zone::open(&dir)?.load_or_generate_seed::<VoucherSecond>("voucher-second")?;
        Ok((signer.trusted(), signer.key, SecondSigner::new(&second)?))
    }

    /// The owner's second key.
    pub(super) fn owner_second(&self) -> Result<SecondSigner<OwnerSecond>> {
        crate::setup::owner::owner_second(&self.fleet.dir.join("owner/ceremony"))
    }

    /// The owner key.
    pub(super) fn owner_key(&self) -> Result<SigningKey<OwnerSigning>> {
        self.stolen("owner/ceremony", "owner")
    }

    /// Every secret of the run by role.
    pub(super) fn inventory(&self) -> Result<Inventory> {
        Ok(serde_json::from_slice(&read(&self.fleet.dir.join("owner/keys/inventory.json"))?)?)
    }

    /// K_config, and the delegation to it.
    pub(super) fn config_key(&self) -> Result<(SigningKey<ConfigSigning>, Vec<u8>)> {
        let inventory = self.inventory()?;
        let key = inventory.get("ConfigSigning").and_then(|keys| keys.first()).context("no K_config")?;
        let key = Key::<ConfigSigning, 32>::take_slice(&mut hex::decode(key)?).context("no key")?;
        let delegation = read(&self.fleet.dir.join("owner/keys/delegation.cbor"))?;
        Ok((SigningKey::new(&key)?, delegation))
    }

    /// Searches bytes, the files of a directory and the memory of a process for every secret of the run.
    pub(super) fn secrets_in(
        &self,
        bytes: &[&[u8]],
        dir: Option<&str>,
        process: Option<&str>,
    ) -> Result<Vec<String>> {
        self.found(&Search::new(&self.inventory()?)?, bytes, dir, process)
    }

    /// Searches for things by their names.
    pub(super) fn found(
        &self,
        search: &Search,
        bytes: &[&[u8]],
        dir: Option<&str>,
        process: Option<&str>,
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for bytes in bytes {
            search.bytes("messages", bytes, &mut found);
        }
        if let Some(dir) = dir {
            search.files(&self.fleet.dir.join(dir), &mut found)?;
        }
        if let Some(process) = process {
            let id = self.fleet.process_id(process).context("process is not running")?;
            search.memory(id, &mut found)?;
        }
        let mut places: Vec<String> =
            found.into_iter().map(|Found { role, place, .. }| format!("{role} in {place}")).collect();
        places.sort();
        places.dedup();
        Ok(places)
    }
}

fn number(line: &Value) -> u64 {
    line.get("number").and_then(Value::as_u64).unwrap_or(0)
}

fn name_of(victim: &Victim) -> String {
    format!("meter {}", victim.made.serial)
}

fn party_name(party: &Party) -> String {
    match party {
        Party::Meter(_) => "meter".into(),
        Party::InitServer => "init-server".into(),
        Party::Owner(name) => (*name).into(),
    }
}

fn leave(to: &Path, count: &mut usize, what: &str, wire: &[u8]) -> Result<()> {
    *count = count.saturating_add(1);
    write_atomic(&to.join(format!("sent-{count:03}-{what}.cbor")), wire)
}

fn stolen_key<R: Role>(dir: &Path, name: &str) -> Result<SigningKey<R>> {
    Ok(SigningKey::new(&Zone::open(dir)?.load::<R>(name)?)?)
}

fn stolen_identity(dir: &Path, key: &str, chain: Vec<Vec<u8>>) -> Result<Identity> {
    Ok(Identity::new(chain, TlsKey::software(stolen_key::<ServiceTls>(dir, key)?))?)
}

/// Things to look for, by what they are.
pub(super) fn search_for(things: &[(&str, &[u8])]) -> Result<Search> {
    let mut inventory = Inventory::new();
    for (what, bytes) in things {
        inventory.entry((*what).to_owned()).or_default().push(hex::encode(bytes));
    }
    Search::new(&inventory)
}

/// SHA-256 in hex, as records name a message.
fn digest(wire: &[u8]) -> String {
    hex::encode(sha256(&[wire]))
}
