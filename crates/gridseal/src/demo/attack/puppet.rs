//! A meter in an attacker's hands: the real device machine, over a root and a wire that lie where they are told to.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use gridseal_api::client::{Answer, FieldClient};
use gridseal_io::{
    clock::tick_now,
    rng::OsRng,
    tls::{Alpn, pinned},
};
use gridseal_trust::{
    enrol::device::{Device, DeviceRecord, Event, Firmware, Input, Output, Peer},
    root::{DeviceRoot, RootError, RootReply, RootRequest},
};
use gridseal_types::Digest;
use tokio::runtime::Handle;

use super::{chip::Chip, hostile::Real};
use crate::{
    config,
    process::{endpoint_manager::host_of, meter::onboard},
};

/// How long a puppet may take for what it is asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for one answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

type OnRoot = Box<dyn FnMut(RootRequest, &mut Chip) -> Result<RootReply, RootError>>;
type OnWire = Box<dyn FnMut(&[u8]) -> Option<Vec<u8>>>;

/// The meter.
pub(super) struct Puppet {
    /// Its root of trust.
    pub(super) chip: Chip,
    /// What its machine told.
    pub(super) events: Vec<Event>,
    /// Messages as they left.
    pub(super) sent: Vec<Vec<u8>>,
    /// Messages that were changed on their way out.
    pub(super) forged: Vec<Vec<u8>>,
    /// Answers as they came.
    pub(super) heard: Vec<Vec<u8>>,
    runtime: Handle,
    machine: Device,
    firmware: Firmware,
    flash: Vec<u8>,
    init: FieldClient,
    config: Option<FieldClient>,
    on_root: Option<OnRoot>,
    on_wire: Option<OnWire>,
}

impl Puppet {
    /// Takes a device over: its root, its firmware, its flash.
    pub(super) fn take(runtime: &Handle, dir: &Path, init: &Real) -> Result<Self> {
        let (firmware, _): (config::Firmware, _) = config::load(&dir.join("firmware.toml"))?;
        let firmware = onboard::firmware(&firmware, None)?;
        let flash = DeviceRecord::default();
        Ok(Self {
            chip: Chip::power_on(dir)?,
            events: Vec::new(),
            sent: Vec::new(),
            forged: Vec::new(),
            heard: Vec::new(),
            runtime: runtime.clone(),
            machine: Device::new(firmware.clone(), flash.clone()),
            firmware,
            flash: flash.encode(),
            init: init.client(),
            config: None,
            on_root: None,
            on_wire: None,
        })
    }

    /// Answers for the root from now on.
    pub(super) fn on_root(
        &mut self,
        act: impl FnMut(RootRequest, &mut Chip) -> Result<RootReply, RootError> + 'static,
    ) {
        self.on_root = Some(Box::new(act));
    }

    /// Changes or loses what leaves from now on; what comes back the same is no forgery.
    pub(super) fn on_wire(&mut self, act: impl FnMut(&[u8]) -> Option<Vec<u8>> + 'static) {
        self.on_wire = Some(Box::new(act));
    }

    /// Behaves from now on.
    pub(super) fn behave(&mut self) {
        (self.on_root, self.on_wire) = (None, None);
    }

    /// What is on flash.
    pub(super) fn record(&self) -> Result<DeviceRecord> {
        Ok(DeviceRecord::decode(&self.flash)?)
    }

    /// Puts something else on flash; counts from the next start.
    pub(super) fn write_flash(&mut self, record: &DeviceRecord) {
        self.flash = record.encode();
    }

    /// Switches it on, anew if it was on: memory is lost, flash and root stay.
    pub(super) fn start(&mut self) -> Result<()> {
        self.machine = Device::new(self.firmware.clone(), self.record()?);
        self.config = None;
        Ok(self.machine.handle(tick_now(), Input::Start)?)
    }

    /// Runs until a condition holds.
    pub(super) fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let until = tick_now() + PATIENCE;
        while !condition(self) {
            if tick_now() > until {
                bail!("a meter in our hands never came to this: {what}; {:?}", self.events);
            }
            self.step()?;
        }
        Ok(())
    }

    /// Asks its owner for orders once.
    pub(super) fn fetch_orders(&mut self) -> Result<()> {
        Ok(self.machine.handle(tick_now(), Input::FetchOrders)?)
    }

    /// Whether it would ask for orders.
    pub(super) const fn is_operating(&self) -> bool {
        self.machine.is_operating()
    }

    /// Runs and asks for orders until a condition holds.
    pub(super) fn obey_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let until = tick_now() + PATIENCE;
        while !condition(self) {
            if tick_now() > until {
                bail!("a meter in our hands never came to this: {what}; {:?}", self.events);
            }
            if self.is_operating() {
                self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
                self.fetch_orders()?;
            }
            self.step()?;
        }
        Ok(())
    }

    /// Runs until it operates for its owner.
    pub(super) fn onboard(&mut self) -> Result<()> {
        self.start()?;
        self.run_until("it operates", |puppet| {
            matches!(puppet.events.last(), Some(Event::Operating { confirmed: true }))
        })
    }

    fn step(&mut self) -> Result<()> {
        let Some(output) = self.machine.poll() else {
            let deadline = self.machine.deadline().context("the machine waits for nothing")?;
            let wait = deadline.since(tick_now()).max(Duration::from_millis(1));
            self.runtime.block_on(async { tokio::time::sleep(wait).await });
            self.machine.handle(tick_now().max(deadline), Input::Timeout)?;
            return Ok(());
        };
        match output {
            Output::Root(request) => {
                let reply = match &mut self.on_root {
                    Some(act) => act(request, &mut self.chip),
                    None => self.chip.perform(request),
                };
                self.machine.handle(tick_now(), Input::Root(reply))?;
            }
            Output::Random(length) => {
                let mut bytes = vec![0; length];
                gridseal_crypto::Rng::fill(&mut OsRng, &mut bytes)?;
                self.machine.handle(tick_now(), Input::Random(&bytes))?;
            }
            Output::Persist => {
                self.flash = self.machine.record().encode();
                self.machine.handle(tick_now(), Input::Persisted)?;
            }
            Output::Transmit(peer, wire) => match self.exchange(peer, wire)? {
                Some(answer) if answer.status == 200 => {
                    self.heard.push(answer.body.clone());
                    self.machine.handle(tick_now(), Input::Received(&answer.body))?;
                }
                Some(answer) if answer.status == 204 => self.machine.handle(tick_now(), Input::Taken)?,
                _ => self.machine.handle(tick_now(), Input::NoReply)?,
            },
            Output::Wipe => self.machine.handle(tick_now(), Input::Wiped)?,
            Output::Event(event) => self.events.push(event),
            _ => {}
        }
        Ok(())
    }

    fn exchange(&mut self, peer: Peer, wire: Vec<u8>) -> Result<Option<Answer>> {
        let wire = match &mut self.on_wire {
            Some(act) => match act(&wire) {
                None => return Ok(None),
                Some(other) => {
                    if other != wire {
                        self.forged.push(other.clone());
                    }
                    other
                }
            },
            None => wire,
        };
        self.sent.push(wire.clone());
        let answer = match peer {
            Peer::InitServer => self.runtime.block_on(self.init.post("/gso/v1/init", wire)),
            Peer::ConfigServer => {
                let client = match self.config.take() {
                    Some(client) => client,
                    None => self.config_client()?,
                };
                let client = self.config.insert(client);
                self.runtime.block_on(client.post("/gso/v1/config", wire))
            }
            Peer::FormerOwner => {
                let (urls, pins) = self.machine.former_owner().context("no owner before")?;
                let mut client = client_of(&urls, pins)?;
                self.runtime.block_on(client.post("/gso/v1/config", wire))
            }
            // It has no way to its owner but the config server's.
            Peer::HeadEnd => return Ok(None),
        };
        Ok(answer.ok())
    }

    fn config_client(&self) -> Result<FieldClient> {
        let (urls, pins) = self.machine.config_servers().context("no redirect")?;
        client_of(&urls, pins)
    }
}

fn client_of(urls: &[String], pins: Vec<Digest>) -> Result<FieldClient> {
    let address = urls.first().context("no config server")?.trim_start_matches("https://").to_owned();
    let client = FieldClient::new(address.clone(), pinned(pins, Alpn::Http1)?, host_of(&address));
    Ok(client.with_limits(CALL_TIMEOUT, 64 * 1024))
}
