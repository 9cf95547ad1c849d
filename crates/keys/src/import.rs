//! Devices that do not onboard by a root of trust: their keys come from their manufacturer, over an import tool on the same
//! machine. Key values pass this border as [`Key`]s, never as bytes in a request.

use alloc::{string::String, vec};

use gridseal_crypto::{
    Rng,
    role::{Gak, Guek, Kek},
    sha256,
};
use gridseal_types::{
    DeviceState, Digest, EkName, Kid, SystemTitle, UtcTime,
    records::Records,
    service::keys::{
        Bytes, Carrier, ClaimState, Denial, ExchangeReply, KeyKind, KeyOrigin, KeyReply, VersionState,
    },
};

use crate::{
    Core, Decision, KeysError, MeterKey, Service,
    core::{Stop, Work, decide_by},
    device::Device,
    lease::{CounterLayout, Lease},
    probe::LOCKOUT_DEFAULT,
    record::{DeviceEntry, ProbeBudget, TITLES},
};

/// A device with the keys that it was delivered with.
#[derive(Debug)]
pub struct Import {
    /// System title.
    pub system_title: SystemTitle,
    /// Serial number.
    pub serial: String,
    /// Encryption key.
    pub guek: MeterKey<Guek>,
    /// Authentication key.
    pub gak: MeterKey<Gak>,
    /// Master key.
    pub kek: MeterKey<Kek>,
    /// Security suite that the keys are of.
    pub suite: u8,
    /// Where they come from.
    pub origin: KeyOrigin,
    /// State to begin in.
    pub state: DeviceState,
    /// State of its credentials.
    pub claim: ClaimState,
    /// How counters for it are made.
    pub layout: CounterLayout,
    /// How probes and transfers to it are carried.
    pub carrier: Carrier,
    /// Failed authentications after which it locks out.
    pub lockout: u16,
    /// First counter that was not used towards it.
    pub next_counter: u32,
    /// Certificate of its signing key, DER: what an agreement in suites 1 and 2 needs. Its authority must be configured.
    pub certificate: Option<alloc::vec::Vec<u8>>,
}

impl Import {
    /// A device of the operator's that is in use, in suite 0: keys known to nobody else, no counter used.
    #[must_use]
    pub fn operating(
        system_title: SystemTitle,
        guek: impl Into<MeterKey<Guek>>,
        gak: impl Into<MeterKey<Gak>>,
        kek: impl Into<MeterKey<Kek>>,
    ) -> Self {
        Self {
            system_title,
            serial: String::new(),
            guek: guek.into(),
            gak: gak.into(),
            kek: kek.into(),
            suite: 0,
            origin: KeyOrigin::Operator,
            state: DeviceState::Operating,
            claim: ClaimState::Claimed,
            layout: CounterLayout::Epoch24,
            carrier: Carrier::GeneralGlo,
            lockout: LOCKOUT_DEFAULT,
            next_counter: 0,
            certificate: None,
        }
    }
}

/// The name of a device without an endorsement key.
#[must_use]
pub fn imported_name(system_title: SystemTitle) -> EkName {
    let mut name = [0; EkName::SIZE];
    let digest = sha256(&[b"gridseal imported device", system_title.as_bytes()]);
    name.iter_mut().zip([0, 0x0B].into_iter().chain(digest)).for_each(|(to, from)| *to = from);
    EkName(name)
}

impl<C: core::borrow::Borrow<Core>> Service<C> {
    /// Takes a device in. To be committed like a decision; its one reply is [`ExchangeReply::Status`], or a denial: the
    /// title is taken, or a counter does not fit the layout.
    ///
    /// # Errors
    /// As [`Service::decide`].
    pub fn import<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        rng: &mut dyn Rng,
        import: &Import,
    ) -> Result<Decision, KeysError> {
        self.decide_as(|parts| {
            decide_by(parts, records, now, rng, |work| {
                let reply = match work.import(import) {
                    Ok(reply) => reply,
                    Err(Stop::Failed(error)) => return Err(error),
                    Err(Stop::Denied(denial)) => ExchangeReply::Denied(denial),
                    Err(Stop::Refused(_)) => ExchangeReply::Denied(Denial::Malformed),
                };
                Ok(vec![KeyReply::Exchange(reply)])
            })
        })
    }
}

impl<R: Records> Work<'_, R> {
    /// The next free place in the traffic table.
    pub(crate) fn next_slot(&mut self) -> Result<u32, Stop> {
        let slot = self.site.row.slots;
        self.site.row.slots = slot.checked_add(1).ok_or(Denial::Busy)?;
        self.save_site();
        Ok(slot)
    }

    fn import(&mut self, import: &Import) -> Result<ExchangeReply, Stop> {
        let title = import.system_title;
        if self.site.mode != gridseal_types::service::keys::SiteMode::Active {
            return Err(Denial::Fenced { epoch: self.site.row.highest }.into());
        }
        if self.records.get(TITLES, title.as_bytes())?.is_some() {
            return Err(Denial::IllegalTransition.into());
        }
        let fits =
            (import.guek.fits(import.suite), import.gak.fits(import.suite), import.kek.fits(import.suite));
        if fits != (true, true, true) {
            return Err(Denial::Malformed.into());
        }
        if u64::from(import.next_counter) >= import.layout.range() {
            return Err(Denial::CounterExhausted.into());
        }
        if let Some(der) = &import.certificate {
            // Nothing is changed by an import that is refused.
            let (_, origin) = self.certified(title, der)?;
            if origin != KeyOrigin::Operator && import.claim == ClaimState::Claimed {
                return Err(Denial::BadCertificate.into());
            }
        }
        let entry = DeviceEntry {
            device: imported_name(title),
            epoch: 0,
            kid: Kid([0; 16]),
            secret: Bytes(vec![]),
            system_title: title,
            serial: import.serial.clone(),
            state: import.state,
            attested_at: UtcTime(0),
            auth: [None, None],
            auth_confirmed: false,
            channel_version: 0,
            n_commit: Digest([0; 32]),
            active_version: 0,
            slot: self.next_slot()?,
            claim: import.claim,
            attested: false,
            layout: import.layout,
            carrier: import.carrier,
            versions: vec![],
            change: None,
            acts: 0,
            heard: None,
            probe: ProbeBudget::default(),
            lockout: import.lockout,
            history: 0,
            doubt: false,
            transfers_failed: 0,
            order_seq: 0,
            orders: alloc::vec::Vec::new(),
            closing: None,
            auth_next: [None, None],
            auth_doubt: false,
            auth_number: 0,
            is_recovering: false,
            is_rekeyed_by_order: false,
            owner_key: None,
            suite: import.suite,
            offered: (0, 0),
        };
        let before = Device { entry, versions: vec![], change: None };
        let mut device = before.clone();
        let version = self.next_version(&device)?;
        device.entry.channel_version = version;
        device.entry.active_version = version;
        let order = device.next_act();
        for kind in KeyKind::ALL {
            let mut blank = self.blank(kind, version, None);
            blank.state = VersionState::Active;
            blank.origin = import.origin;
            blank.suite = import.suite;
            blank.sent = true;
            blank.proven_order = order;
            let made = match kind {
                KeyKind::Gak => self.new_version(&device, &import.gak, blank)?,
                KeyKind::Kek => self.new_version(&device, &import.kek, blank)?,
                _ => self.new_version(&device, &import.guek, blank)?,
            };
            device.add(made);
        }
        self.records.put(TITLES, title.as_bytes(), device.entry.device.as_bytes().to_vec());
        self.note(&mut device.entry, "device.imported", &import.claim.name())?;
        if let Some(der) = &import.certificate {
            self.take_certificate(&mut device, der)?;
        }
        self.save(&before, &device)?;
        if import.next_counter > 0 {
            let (epoch, end) = (self.site.row.epoch, u64::from(import.next_counter));
            let slot = device.entry.slot;
            if let Some(slot) = self.traffic.slot_mut(slot) {
                slot.counters_of(version).lease = Lease { epoch, next: end, end };
            }
            self.traffic.log.leased(slot, version, epoch, end);
            self.traffic.touch(slot);
        }
        self.key_status(title)
    }
}
