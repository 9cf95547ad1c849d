//! The COSEM objects of a residential meter: what its DLMS server serves.
//!
//! [`Device`] is the logical device: every object with its values, its clock, its profiles, its breaker, its image.
//! It reads no clock and holds no key. [`Device::tick`] tells it what time it is; [`Device::session`] lends it to one
//! input of an association machine, with the holder of the keys ([`Keyholder`]).
//!
//! | module | what is in it |
//! |---|---|
//! | `access` | who may do what with which attribute and method |
//! | `object` | one object: class, values, what of it can be written |
//! | `residential` | the built-in set |
//! | `measure` | simulated quantities, functions of time |
//! | `get`, `set`, `action` | one match each over classes |
//! | `clock`, `profile`, `image`, `calendar`, `control`, `association` | what those classes do |
//! | `security`, `agreement`, `certificates` | the security setup: policy and keys, agreement, certificates |
//! | `protection` | attributes and methods through layers of their own |
//! | `keyholder`, `durable` | the port to the keys, and what survives a power cut |
//!
//! # What no remote client can do
//!
//! Energy registers and their units have no write path (rule S15): neither SET nor `reset`. An image becomes active only
//! with both signatures of its manifest (rule S6); it never touches the metrological part. A broadcast can
//! bring image blocks and nothing else. Payment classes keep their attributes; their methods are refused.

#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]

mod access;
mod action;
mod agreement;
mod association;
mod calendar;
mod certificates;
mod clock;
mod control;
mod durable;
mod fuzz;
mod get;
mod image;
mod keyholder;
mod measure;
mod note;
mod object;
mod profile;
mod protection;
mod residential;
mod security;
mod set;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use gridseal_dlms::{acse::Conformance, assoc::Protection, suite::local::KeySet, wire::Data};
use gridseal_types::{ObisCode, SystemTitle, UtcTime};

pub use access::{Grant, Rights, Session};
pub use certificates::CertificateRefusal;
pub use durable::{RestoreError, Saved};
#[doc(hidden)]
pub use fuzz::fuzz_entry;
pub use image::{ImageConfig, ImageRefusal};
pub use keyholder::{KeyId, KeyRefusal, Keyholder, Pairs, Part, StoreError};
pub use note::Note;
pub use object::{ObjectChange, ObjectError};
pub(crate) use residential::logical_device_name;

use calendar::Calendar;
use certificates::{Certificates, NO_FLOOR};
use control::Watch;
use image::{Active, Image};
use object::Object;
use profile::Buffer;

/// The TCP-UDP setup of the port that is served.
const TCP_UDP_SETUP: ObisCode = ObisCode::new([0, 0, 25, 0, 0, 255]);
/// The guard on that port.
const PORT_PROTECTION: ObisCode = ObisCode::new([0, 0, 44, 2, 0, 255]);
/// Notes that are kept until they are taken.
const NOTES_MAX: usize = 256;

/// What a device is, whatever its objects say.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// System title of the server.
    pub title: SystemTitle,
    /// Title of the client for which the keys are.
    pub client_title: SystemTitle,
    /// Server's service access point.
    pub sap: u16,
    /// Security suite, 0 to 2.
    pub suite: u8,
    /// What requests must be protected with at first; the policy of the security setup begins here.
    pub policy: Protection,
    /// Services on offer.
    pub conformance: Conformance,
    /// Largest APDU that is taken, bytes; 0 = no limit.
    pub max_pdu: u16,
    /// What each client is offered, by its service access point.
    pub grants: Vec<Grant>,
    /// Whether the clock that it is told at the start may be relied on; a client that has proven who it is makes it so.
    pub is_clock_trusted: bool,
    /// Whose images it takes; without it none.
    pub image: Option<ImageConfig>,
}

/// A logical device with its objects.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    objects: BTreeMap<ObisCode, Object>,
    /// Clock of the meter minus the time it is told, seconds.
    offset_s: i64,
    /// The last instant it was told.
    told: UtcTime,
    /// Clock of the meter when schedules were looked at last.
    looked_at: UtcTime,
    profiles: BTreeMap<ObisCode, Buffer>,
    /// Start of the running period of a demand register.
    demand_since: BTreeMap<ObisCode, UtcTime>,
    image: Image,
    /// What runs, if it came as an image.
    active: Option<Active>,
    certificates: Certificates,
    is_clock_trusted: bool,
    /// The latest time that was trusted.
    floor: UtcTime,
    /// Highest transaction-id of protected data from each client.
    transactions: BTreeMap<SystemTitle, u64>,
    watch: Watch,
    calendar: Calendar,
    /// A time to be set later, and from when until when it may be.
    preset: Option<clock::Preset>,
    /// Open associations by client.
    associated: BTreeMap<u16, usize>,
    /// Notifications that a push asked for, encoded.
    pushes: VecDeque<Vec<u8>>,
    /// Id of the next one.
    push_id: u32,
    notes: Vec<Note>,
}

impl Device {
    /// A device with the built-in objects, switched on at `at`: its profiles hold what came before.
    #[must_use]
    pub fn new(config: DeviceConfig, at: UtcTime) -> Self {
        let objects = residential::objects(&config);
        let mut device = Self {
            config,
            objects,
            offset_s: 0,
            told: at,
            looked_at: at,
            profiles: BTreeMap::new(),
            demand_since: BTreeMap::new(),
            image: Image::default(),
            active: None,
            certificates: Certificates::default(),
            is_clock_trusted: false,
            floor: NO_FLOOR,
            transactions: BTreeMap::new(),
            watch: Watch::default(),
            calendar: Calendar::default(),
            preset: None,
            associated: BTreeMap::new(),
            pushes: VecDeque::new(),
            push_id: 0,
            notes: Vec::new(),
        };
        device.is_clock_trusted = device.config.is_clock_trusted;
        device.fill_profiles();
        device.log_event(profile::EVENT_POWER_UP);
        device
    }

    /// Changes or adds an object.
    ///
    /// # Errors
    /// [`ObjectError`]; nothing was changed.
    pub fn change(&mut self, change: &ObjectChange) -> Result<(), ObjectError> {
        object::change(&mut self.objects, change)?;
        self.profiles.remove(&change.obis);
        self.fill_profiles();
        Ok(())
    }

    /// Time passes: rows are captured, schedules run, limits are watched. Call it about once a second and before each
    /// input; `at` may not go backwards, an earlier one counts as the last one.
    pub fn tick(&mut self, at: UtcTime, keys: &mut dyn Keyholder) {
        let before = self.now();
        self.told = self.told.max(at);
        self.judge_anew(before, keys);
        self.advance_demand();
        self.capture_due();
        self.run_due(keys);
        self.watch_limiter(keys);
    }

    /// The objects as one input of an association machine sees them.
    pub const fn session<'d>(&'d mut self, keys: &'d mut dyn Keyholder) -> Session<'d> {
        Session { device: self, keys }
    }

    /// An association with this client was opened or, with `false`, ended.
    pub fn associated(&mut self, client_sap: u16, is_open: bool) {
        let count = self.associated.entry(client_sap).or_default();
        *count = if is_open { count.saturating_add(1) } else { count.saturating_sub(1) };
    }

    /// Somebody who is not associated was refused: the port's protection counts it. Nobody is locked out by it, because
    /// anybody could then lock out everybody.
    pub fn refused(&mut self) {
        if let Some(port) = self.objects.get_mut(&PORT_PROTECTION).filter(|object| object.class.id == 124) {
            for attribute in [9, 10] {
                let count = u32::try_from(port.number(attribute)).unwrap_or(u32::MAX).saturating_add(1);
                port.keep(attribute, &Data::DoubleLongUnsigned(count));
            }
        }
    }

    /// What requests must be protected with by the policy of the security setup, and responses.
    #[must_use]
    pub fn policy(&self) -> (Protection, Protection) {
        security::policy(&self.objects)
    }

    /// Whether requests and responses must be signed by the policy of the security setup.
    #[must_use]
    pub fn signatures(&self) -> (bool, bool) {
        security::signatures(&self.objects)
    }

    /// What each client is offered.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.config.grants
    }

    /// How long a connection may be silent, as the TCP-UDP setup says; at least 10 seconds.
    #[must_use]
    pub fn inactivity(&self) -> Duration {
        let setup = self.objects.get(&TCP_UDP_SETUP).filter(|object| object.class.id == 41);
        let seconds = setup.and_then(|object| u64::try_from(object.number(6)).ok()).unwrap_or(180);
        Duration::from_secs(if seconds == 0 { 180 } else { seconds.max(10) })
    }

    /// Clock of the meter.
    #[must_use]
    pub fn now(&self) -> UtcTime {
        clock::shifted(self.told, self.offset_s)
    }

    /// The next DataNotification that the client asked for with a push, encoded.
    pub fn take_push(&mut self) -> Option<Vec<u8>> {
        self.pushes.pop_front()
    }

    /// What happened since the last call, for the security log.
    pub fn take_notes(&mut self) -> Vec<Note> {
        core::mem::take(&mut self.notes)
    }

    fn note(&mut self, note: Note) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    /// The highest counter that was accepted of the client, under a key.
    fn received_counter(&self, set: KeySet, keys: &dyn Keyholder) -> u32 {
        keys.last_received(set, self.config.client_title).unwrap_or(0)
    }
}
