//! A device with its root, its flash and the real machine of its firmware, without a network: whoever answers is asked at
//! once, and power fails where the schedule says.

use std::cell::RefCell;

use gridseal_crypto::{Rng, role::Guek, sha256};
use gridseal_pki::Certificate;
use gridseal_trust::{
    csr::subject_public_key_info,
    enrol::device::{DeliveredKey, Device as Machine, DeviceRecord, Event, Firmware, Input, Output, Peer},
    root::{DeviceRoot, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{Digest, EkName, SystemTitle, Tick, UtcTime};

use super::fleet::{Broken, broken};
use super::report::Rule;
use crate::{
    HashRng,
    keys::{MeterKeys, bytes_of},
    works::{Made, measured_boot_of},
};

/// Acts of one visit: a session takes some sixty.
const ACTS_MAX: usize = 4_000;

/// Answers what a device sends: nothing when nothing comes, an empty answer when it was only taken.
pub(super) type Exchange<'x> = dyn FnMut(Tick, Peer, Vec<u8>) -> Result<Option<Vec<u8>>, Broken> + 'x;

/// A device.
pub(super) struct Device {
    pub(super) title: SystemTitle,
    pub(super) name: EkName,
    pub(super) root: SoftwareRoot,
    firmware: Firmware,
    /// Record of the machine: what a power cut leaves.
    flash: Vec<u8>,
    machine: Machine,
    /// Its certificates, parsed when they change.
    parsed: RefCell<Vec<Certificate>>,
    rng: HashRng,
    seed: u64,
    starts: u64,
    /// What the application keeps for the present owner is gone.
    pub(super) is_wiped: bool,
    /// It boots the next release.
    pub(super) is_updated: bool,
    /// Nothing is left to do for it.
    pub(super) is_decommissioned: bool,
}

impl Device {
    pub(super) fn new(seed: u64, made: Made) -> Self {
        let Made { title, name, root, firmware, .. } = made;
        let flash = DeviceRecord::default().encode();
        let machine = Machine::new(firmware.clone(), DeviceRecord::default());
        let rng = HashRng::new(seed, "device", 0);
        Self {
            title,
            name,
            root,
            firmware,
            flash,
            machine,
            parsed: RefCell::default(),
            rng,
            seed,
            starts: 0,
            is_wiped: false,
            is_updated: false,
            is_decommissioned: false,
        }
    }

    /// What is on flash.
    pub(super) fn record(&self) -> DeviceRecord {
        DeviceRecord::decode(&self.flash).expect("own record")
    }

    /// Power fails and comes back.
    pub(super) fn boot(&mut self, now: Tick) -> Result<(), Broken> {
        self.root.power_cut();
        measured_boot_of(&mut self.root, self.is_updated);
        self.starts += 1;
        let number = u64::from_be_bytes(self.title.0) << 16 | self.starts;
        self.rng = HashRng::new(self.seed, "device", number);
        self.machine = Machine::new(self.firmware.clone(), self.record());
        self.feed(now, Input::Start)
    }

    pub(super) fn feed(&mut self, now: Tick, input: Input<'_>) -> Result<(), Broken> {
        let name = self.machine.state_name();
        self.machine
            .handle(now, input)
            .map_err(|_| broken(Rule::Contract, format!("device {} in {name} refuses an input", self.title)))
    }

    /// Lets the machine run until it operates and has nothing to do, or waits past `until`. Says when that was.
    pub(super) fn run(
        &mut self,
        mut now: Tick,
        until: Tick,
        exchange: &mut Exchange<'_>,
    ) -> Result<Tick, Broken> {
        for _ in 0..ACTS_MAX {
            let Some(output) = self.machine.poll() else {
                match self.machine.deadline() {
                    Some(deadline) if deadline <= until => {
                        now = now.max(deadline);
                        self.feed(now, Input::Timeout)?;
                        continue;
                    }
                    _ => return Ok(now),
                }
            };
            match output {
                Output::Root(request) => {
                    let reply = self.root.perform(request);
                    self.feed(now, Input::Root(reply))?;
                }
                Output::Random(length) => {
                    let mut bytes = vec![0; length];
                    self.rng.fill(&mut bytes).expect("a hash does not fail");
                    self.feed(now, Input::Random(&bytes))?;
                }
                Output::Persist => {
                    self.flash = self.machine.record().encode();
                    self.feed(now, Input::Persisted)?;
                }
                Output::Transmit(peer, wire) => match exchange(now, peer, wire)? {
                    Some(reply) if reply.is_empty() => self.feed(now, Input::Taken)?,
                    Some(reply) => self.feed(now, Input::Received(&reply))?,
                    None => self.feed(now, Input::NoReply)?,
                },
                Output::Wipe => {
                    self.is_wiped = true;
                    self.feed(now, Input::Wiped)?;
                }
                Output::Event(event) => self.is_decommissioned |= event == Event::Decommissioned,
                other => return Err(broken(Rule::Contract, format!("unknown output {other:?}"))),
            }
        }
        Err(broken(Rule::Reachable, format!("device {} comes to no end: {:?}", self.title, self.machine)))
    }

    /// Something is measured that no policy knows.
    pub(super) fn measure(&mut self, pcr: u8, what: &Digest) -> Result<(), Broken> {
        self.root.extend_pcr(pcr, what).map_err(|error| broken(Rule::Contract, error.to_string()))
    }

    /// Asks the owner for orders, and carries them out.
    pub(super) fn fetch(
        &mut self,
        now: Tick,
        until: Tick,
        exchange: &mut Exchange<'_>,
    ) -> Result<Tick, Broken> {
        self.feed(now, Input::FetchOrders)?;
        self.run(now, until, exchange)
    }

    /// Whether it works for its owner.
    pub(super) const fn is_at_work(&self) -> bool {
        self.machine.is_at_work()
    }

    /// The imported objects of its DLMS keys.
    pub(super) fn delivered(&self) -> Vec<DeliveredKey> {
        self.machine.record().installed.as_ref().map(|installed| installed.keys.clone()).unwrap_or_default()
    }

    pub(super) fn is_operating(&self) -> bool {
        self.machine.state_name() == "operating"
            && self.machine.record().installed.as_ref().is_some_and(|installed| installed.confirmed)
    }

    /// Whether its owner has not confirmed what it has installed: it asks his head-end.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.machine.state_name() == "operating" && !self.is_operating()
    }

    /// The DLMS keys that were delivered, out of the root.
    pub(super) fn delivered_keys(&mut self) -> Option<MeterKeys> {
        let record = self.machine.record();
        let (installed, storage) = (record.installed.clone()?, record.keys.as_ref()?.storage.clone());
        let mut unseal = |id| {
            let request =
                RootRequest::Unseal { storage: storage.clone(), object: installed.key(id)?.clone() };
            match self.root.perform(request) {
                // Which of the three it is does not matter to its bytes.
                Ok(RootReply::Unsealed(secret)) => Some(bytes_of(&secret.into_key::<Guek, 16>()?)),
                _ => None,
            }
        };
        Some(MeterKeys::of_suite_0(unseal(1)?, unseal(2)?, unseal(3)?))
    }

    /// Hash of the key that it proves in TLS.
    pub(super) fn tls_key(&self) -> Option<Digest> {
        let key = tpm::tls_key(&self.machine.record().keys.as_ref()?.tls.public).ok()?;
        Some(Digest(sha256(&[&subject_public_key_info(&key)])))
    }

    /// Its certificate, leaf first, as it shows it in TLS.
    pub(super) fn certificates(&self) -> Vec<Certificate> {
        let installed = self.machine.record().installed.as_ref();
        let chain = installed.map(|installed| installed.ldevid_chain.as_slice()).unwrap_or_default();
        let mut parsed = self.parsed.borrow_mut();
        if !parsed.iter().map(Certificate::der).eq(chain.iter().map(|der| der.0.as_slice())) {
            *parsed = chain.iter().filter_map(|der| Certificate::parse(&der.0)).collect();
        }
        parsed.clone()
    }

    /// From when until when its certificate is good.
    pub(super) fn validity(&self) -> Option<(UtcTime, UtcTime)> {
        self.certificates().first().map(|leaf| (leaf.not_before(), leaf.not_after()))
    }
}
