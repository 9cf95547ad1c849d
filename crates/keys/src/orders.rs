//! Orders to devices that have an owner: made, signed, sealed and remembered here, so that the endpoint manager sees
//! neither N_e nor an authorisation nor the key of a TPM session.
//!
//! An order is sealed once, under a fresh R, and repeated byte for byte (rule S1); its sequence number, drawn from one
//! counter for all devices, is on record before it leaves (rule S2).
//!
//! # Source
//! Onboarding specification, sections 6.5, 11 and 18.6.

use alloc::vec::Vec;

use gridseal_crypto::{
    Key, PublicKey, random,
    role::{AuthValue, OwnerSecret, TpmSeed},
    sha256,
    tpm::{
        AuthInForce, ChangeAuth, Clear, EndorsementKey, SecretLabel, SessionNonces, TpmSessionKey,
        change_auth_command, change_auth_confirmed, clear_command, clear_confirmed,
    },
};
use gridseal_trust::{
    enrol::{
        cose::{Sign1, SignedType, key_id},
        document::Entry,
        order::{
            Answer, Envelope, Kind, Order, OrderBody, PollBody, ResultBody, Task, order_digest, seal_order,
        },
        receipt::Receipt,
        secrets::OwnerSecretExt,
        session::{Config, config_digest},
    },
    root::OwnerPin,
    tpm,
};
use gridseal_types::{
    Code, DeviceState, Digest, EkName, N16, Nonce, OrderSeq,
    records::{Records, RecordsError},
    service::keys::{
        Bytes, ClaimState, Denial, KeyReply, OrderAct, OrderRequest, ProvisionOrder, SealedOrder, TpmSession,
        TunnelPurpose, Tunnelled, VersionState,
    },
};

use crate::{
    core::{Stop, Work},
    device::Device,
    onboard::{AUTH_SET, HIERARCHIES},
    phase::claim_after,
    record::{DeviceEntry, ORDER_SEQ, ORDERS, OrderEntry, PSEUDONYMS, TunnelEntry},
    version::{self, VersionEvent},
};

type Done = Result<KeyReply, Stop>;

/// Orders of a device that are remembered: a result of an older one is not opened.
const REMEMBERED_MAX: usize = 4;
/// How far a device may be ahead of the counter: more is no lost backup but nonsense.
const SEQ_AHEAD_MAX: u64 = 1 << 32;
/// TPM_PT_PERMANENT: somebody has disabled Clear.
const DISABLE_CLEAR: u32 = 1 << 8;
/// Place of the lockout hierarchy in [`DeviceEntry::auth`].
const LOCKOUT: usize = 1;

/// Whether a device in this state is given such an order: the table of design section 3.
const fn may_order(state: DeviceState, act: &OrderAct) -> bool {
    if state.may_exchange() {
        return true;
    }
    state.may_probe() && !matches!(act, OrderAct::Provision(_) | OrderAct::Renew { .. })
}

impl<R: Records> Work<'_, R> {
    fn order_entry(&self, seq: OrderSeq) -> Result<OrderEntry, Stop> {
        self.records.load(ORDERS, &seq.to_be_bytes())?.ok_or(Stop::Refused(Code::Unknown))
    }

    fn save_order(&mut self, order: &OrderEntry) {
        self.records.save(ORDERS, &order.seq.to_be_bytes(), order);
    }

    /// Above every number that was drawn, and above the one that the device knows. It also rises with the clock, so that a
    /// restored backup does not go back; nothing rests on that, for R is fresh.
    fn next_seq(&mut self, entry: &DeviceEntry) -> Result<OrderSeq, Stop> {
        let drawn: u64 = self.records.load(ORDER_SEQ, &[])?.unwrap_or(0);
        let next = drawn.max(entry.order_seq).saturating_add(1).max(self.now.0);
        if next > i64::MAX.unsigned_abs() {
            return Err(Denial::CounterExhausted.into());
        }
        self.records.save(ORDER_SEQ, &[], &next);
        Ok(next)
    }

    pub(crate) fn order(&mut self, request: OrderRequest) -> Done {
        let entry = self.device(&request.device)?;
        for seq in &entry.orders {
            let known = self.order_entry(*seq)?;
            if known.id == request.id {
                return Ok(KeyReply::Ordered(sealed(&known)));
            }
        }
        if entry.secret.0.is_empty() || !may_order(entry.state, &request.act) {
            return Err(Code::State.into());
        }
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        let mut order = OrderEntry {
            seq: self.next_seq(&device.entry)?,
            device: request.device,
            id: request.id,
            epoch: device.entry.epoch,
            kind: 0,
            r: Nonce(random(self.rng)?),
            digest: Digest([0; 32]),
            configuration: Digest([0; 32]),
            wire: Bytes(Vec::new()),
            signed: Bytes(Vec::new()),
            objects: Vec::new(),
            purpose: None,
            salts: Vec::new(),
            nonce_callers: Vec::new(),
            tunnels: Vec::new(),
            outcome: None,
        };
        let now = self.signed_time(&device.entry, self.now)?;
        let task = self.task(&mut device, &mut order, request.act)?;
        let kind = task.kind();
        order.kind = kind.number();
        let entry = &mut device.entry;
        let payload = Order { ek_name: entry.device, epoch: entry.epoch, seq: order.seq, task, now }.encode();
        let signed = self.core.keystore.sign(SignedType::Order, &payload)?;
        let key = self.owner_secret(entry)?.seal_order(order.seq, &order.r);
        let delegation = self.core.keystore.delegation(entry.owner_key.as_ref()).signed.clone();
        let body = OrderBody { signed: signed.clone(), delegation };
        order.wire = Bytes(seal_order(&key, order.seq, &order.r, &body)?);
        order.digest = order_digest(&payload);
        order.configuration = config_digest(&payload);
        order.signed = Bytes(signed);
        entry.order_seq = order.seq;
        entry.orders.push(order.seq);
        if kind.ends_ownership() {
            entry.closing = Some(order.seq);
        }
        let surplus = entry.orders.len().saturating_sub(REMEMBERED_MAX);
        // What ends the ownership is answered last.
        let old: Vec<OrderSeq> =
            entry.orders.iter().copied().filter(|seq| entry.closing != Some(*seq)).take(surplus).collect();
        entry.orders.retain(|seq| !old.contains(seq));
        for seq in old {
            self.records.delete(ORDERS, &seq.to_be_bytes());
        }
        self.note(&mut device.entry, "order.sealed", &alloc::format!("{} {}", kind.name(), order.seq))?;
        self.save_order(&order);
        self.save(&before, &device)?;
        Ok(KeyReply::Ordered(sealed(&order)))
    }

    /// What the device is told to do.
    fn task(&mut self, device: &mut Device, order: &mut OrderEntry, act: OrderAct) -> Result<Task, Stop> {
        Ok(match act {
            OrderAct::Provision(provision) => self.provision_task(device, order, provision)?,
            OrderAct::Attest { pcr_selection, ima_next } => Task::Attest { pcr_selection, ima_next },
            OrderAct::Sessions { endorsement, purpose } => {
                self.sessions_task(&device.entry, order, &endorsement, purpose)?
            }
            OrderAct::Commands { sessions_seq, sessions, permanent } => {
                self.replicate()?;
                self.commands_task(&mut device.entry, order, (sessions_seq, &sessions, permanent))?
            }
            OrderAct::Suspend => Task::Suspend,
            OrderAct::Resume => Task::Resume,
            OrderAct::Release { entry, second } => Task::Release { entry, second },
            OrderAct::Decommission => Task::Decommission,
            OrderAct::Renew { with_storage } => Task::Renew { with_storage },
            OrderAct::Rekey { entries, second } => {
                let plain = |list: Vec<Bytes>| list.into_iter().map(|item| item.0).collect();
                Task::Rekey { entries: plain(entries), second: plain(second) }
            }
            _ => return Err(Code::Format.into()),
        })
    }

    fn provision_task(
        &mut self,
        device: &mut Device,
        order: &mut OrderEntry,
        provision: ProvisionOrder,
    ) -> Result<Task, Stop> {
        let objects = match &provision.storage_point {
            Some(point) => {
                // A key that only this site knew would be lost with it, and the meter with the key.
                self.replicate()?;
                let point: &[u8; 64] = point.0.as_slice().try_into().map_err(|_| Code::Certify)?;
                let storage = PublicKey::from_point(point).ok_or(Code::Certify)?;
                self.new_channel(device, &storage)?
            }
            None => Vec::new(),
        };
        order.objects = objects.iter().map(|object| tpm::name(&object.public)).collect();
        let plain = |list: Vec<Bytes>| list.into_iter().map(|der| der.0).collect();
        Ok(Task::Provision(
            Config {
                ldevid_chain: plain(provision.ldevid_chain),
                ca_bundle: plain(provision.ca_bundle),
                terminus_urls: provision.terminus,
                terminus_pins: Vec::new(),
                objects,
                policy_version: provision.policy_version,
                previous: provision.previous,
                epoch: device.entry.epoch,
                pin: OwnerPin {
                    index: provision.entry_index,
                    generation: self.core.keystore.delegation(device.entry.owner_key.as_ref()).generation,
                    entry: provision.entry,
                },
                now: self.signed_time(&device.entry, self.now)?,
            }
            .into(),
        ))
    }

    /// Salts for the sessions of the commands that follow: two for authorisations, one for Clear.
    fn sessions_task(
        &mut self,
        entry: &DeviceEntry,
        order: &mut OrderEntry,
        endorsement: &[u8],
        purpose: TunnelPurpose,
    ) -> Result<Task, Stop> {
        let clears = purpose == TunnelPurpose::Clear;
        // Nobody clears a TPM whose owner has not ordered its end (attack A28).
        if clears != entry.closing.is_some() {
            return Err(Code::Command.into());
        }
        let endorsement = EndorsementKey::from_bytes(endorsement).ok_or(Code::Endorsement)?;
        if tpm::name(&tpm::endorsement_public(&endorsement)) != entry.device {
            return Err(Code::Endorsement.into());
        }
        let mut encrypted = Vec::new();
        for _ in 0..if clears { 1 } else { 2 } {
            let (salt, sealed) = endorsement.share_secret(SecretLabel::Secret, self.rng)?;
            order.salts.push(self.wrap(&salt, &entry.device, entry.epoch)?);
            order.nonce_callers.push(N16(random(self.rng)?));
            encrypted.push(sealed);
        }
        order.purpose = Some(purpose);
        Ok(Task::Sessions { salts: encrypted, nonce_callers: order.nonce_callers.clone() })
    }

    fn commands_task(
        &mut self,
        entry: &mut DeviceEntry,
        order: &mut OrderEntry,
        (sessions_seq, sessions, permanent): (OrderSeq, &[TpmSession], u32),
    ) -> Result<Task, Stop> {
        let asked = self.order_entry(sessions_seq)?;
        let purpose = asked.purpose.filter(|_| asked.tunnels.is_empty() && asked.device == entry.device);
        let purpose = purpose.ok_or(Code::State)?;
        if sessions.len() != asked.salts.len() || !entry.orders.contains(&sessions_seq) {
            return Err(Code::State.into());
        }
        if permanent & DISABLE_CLEAR != 0 {
            return Err(Code::Owned.into());
        }
        let mut opened = Vec::new();
        for ((session, salt), caller) in sessions.iter().zip(&asked.salts).zip(&asked.nonce_callers) {
            let salt: Key<TpmSeed, 32> = self.unwrap(salt, &entry.device, entry.epoch)?;
            let nonces = SessionNonces { caller: caller.0, tpm: session.nonce_tpm.0 };
            let key = nonces.session_key(&salt);
            let tunnel = TunnelEntry {
                session_key: self.wrap(&key, &entry.device, entry.epoch)?,
                nonce_caller: N16(random(self.rng)?),
            };
            opened.push((session, key, tunnel));
        }
        let commands = match purpose {
            TunnelPurpose::Clear => {
                let held = self.held(entry, LOCKOUT, permanent)?;
                let clear = |(session, key, tunnel): &(&TpmSession, TpmSessionKey, TunnelEntry)| {
                    clear_command(&Clear {
                        session_handle: session.handle,
                        session: key,
                        in_force: held.as_ref().map_or(AuthInForce::Empty, AuthInForce::Value),
                        nonce_tpm: session.nonce_tpm.0,
                        nonce_caller: tunnel.nonce_caller.0,
                    })
                };
                opened.iter().map(clear).collect()
            }
            _ => self.new_authorisations(entry, &opened, permanent)?,
        };
        order.tunnels = opened.into_iter().map(|(_, _, tunnel)| tunnel).collect();
        order.purpose = Some(purpose);
        // The sessions are used up.
        self.save_order(&OrderEntry { purpose: None, ..asked });
        Ok(Task::Commands(commands))
    }

    /// The authorisation in force of a hierarchy; `None` when it is empty. Never a guess.
    fn held(
        &self,
        entry: &DeviceEntry,
        place: usize,
        permanent: u32,
    ) -> Result<Option<Key<AuthValue, 32>>, Stop> {
        if AUTH_SET.get(place).is_none_or(|bit| permanent & bit == 0) {
            return Ok(None);
        }
        // New values that may have been set count, until the TPM says that it does not know them.
        let next = entry.auth_next.get(place).and_then(Option::as_ref).filter(|_| entry.auth_doubt);
        let known = next.or_else(|| entry.auth.get(place).and_then(Option::as_ref));
        Ok(Some(self.unwrap(known.ok_or(Code::Owned)?, &entry.device, entry.epoch)?))
    }

    /// Owner before lockout: the first that fails ends the list, so that a lockout authorisation is never tried when the
    /// owner's shows that nothing was changed.
    fn new_authorisations(
        &mut self,
        entry: &mut DeviceEntry,
        opened: &[(&TpmSession, TpmSessionKey, TunnelEntry)],
        permanent: u32,
    ) -> Result<Vec<Vec<u8>>, Stop> {
        let mut commands = Vec::new();
        for (place, (session, key, tunnel)) in opened.iter().enumerate() {
            let held = self.held(entry, place, permanent)?;
            let new = self.next_authorisation(entry, place)?;
            commands.push(change_auth_command(&ChangeAuth {
                hierarchy: *HIERARCHIES.get(place).ok_or(Code::State)?,
                session_handle: session.handle,
                session: key,
                in_force: held.as_ref().map_or(AuthInForce::Empty, AuthInForce::Value),
                new: &new,
                nonce_tpm: session.nonce_tpm.0,
                nonce_caller: tunnel.nonce_caller.0,
                keep_session: false,
            }));
        }
        entry.auth_doubt = true;
        Ok(commands)
    }

    /// Drawn once and re-used until the TPM has confirmed it: a second draw would lose the TPM.
    fn next_authorisation(
        &mut self,
        entry: &mut DeviceEntry,
        place: usize,
    ) -> Result<Key<AuthValue, 32>, Stop> {
        if let Some(drawn) = entry.auth_next.get(place).and_then(Option::as_ref) {
            return self.unwrap(drawn, &entry.device, entry.epoch);
        }
        let drawn = self.authorisation(entry, place, entry.auth_number.saturating_add(1))?;
        let wrapped = self.wrap(&drawn, &entry.device, entry.epoch)?;
        if let Some(slot) = entry.auth_next.get_mut(place) {
            *slot = Some(wrapped);
        }
        Ok(drawn)
    }

    pub(crate) fn confirm_commands(&mut self, device: &EkName, seq: OrderSeq, responses: &[Bytes]) -> Done {
        let mut order = self.order_entry(seq)?;
        if order.device != *device || order.tunnels.is_empty() {
            return Err(Code::State.into());
        }
        if let Some(outcome) = &order.outcome {
            return Ok(KeyReply::Tunnelled(outcome.clone()));
        }
        let before = self.load_device(self.device(device)?)?;
        let mut changed = before.clone();
        let outcome = match order.purpose {
            Some(TunnelPurpose::Clear) => self.cleared(&mut changed, &order, responses)?,
            _ => self.authorised(&mut changed.entry, &order, responses)?,
        };
        order.outcome = Some(outcome.clone());
        self.save_order(&order);
        self.save(&before, &changed)?;
        Ok(KeyReply::Tunnelled(outcome))
    }

    /// Whose response it is: each is verified under the value that its command has set.
    fn authorised(
        &mut self,
        entry: &mut DeviceEntry,
        order: &OrderEntry,
        responses: &[Bytes],
    ) -> Result<Tunnelled, Stop> {
        let mut are_set = [false; 2];
        for (place, (tunnel, response)) in order.tunnels.iter().zip(responses).enumerate() {
            let key: TpmSessionKey = self.unwrap(&tunnel.session_key, &entry.device, entry.epoch)?;
            let new = entry.auth_next.get(place).and_then(Option::as_ref).ok_or(Code::State)?;
            let new: Key<AuthValue, 32> = self.unwrap(new, &entry.device, entry.epoch)?;
            if let Some(is_set) = are_set.get_mut(place) {
                *is_set = change_auth_confirmed(&key, &new, &tunnel.nonce_caller.0, &response.0);
            }
        }
        // What was not refused either stays in doubt: the next try begins with the new value of the owner hierarchy.
        entry.auth_doubt = responses.is_empty();
        for (place, is_set) in are_set.into_iter().enumerate() {
            if let (true, Some(value), Some(next)) =
                (is_set, entry.auth.get_mut(place), entry.auth_next.get(place))
            {
                value.clone_from(next);
            }
        }
        if are_set == [true; 2] {
            entry.auth_next = [None, None];
            entry.auth_number = entry.auth_number.saturating_add(1);
            self.note(entry, "ownership.renewed", &"owner and lockout")?;
            return Ok(Tunnelled::Authorised);
        }
        self.note(entry, "ownership.unproven", &responses.len())?;
        Ok(Tunnelled::Again)
    }

    /// The end of an ownership: nothing is sealed or opened for the device any more.
    fn cleared(
        &mut self,
        device: &mut Device,
        order: &OrderEntry,
        responses: &[Bytes],
    ) -> Result<Tunnelled, Stop> {
        let entry = &mut device.entry;
        let closing = self.order_entry(entry.closing.ok_or(Code::State)?)?;
        let ([tunnel], [response]) = (order.tunnels.as_slice(), responses) else {
            return Ok(Tunnelled::Again);
        };
        let key: TpmSessionKey = self.unwrap(&tunnel.session_key, &entry.device, entry.epoch)?;
        if !clear_confirmed(&key, &tunnel.nonce_caller.0, &response.0) {
            self.note(entry, "clear.unproven", &order.seq)?;
            return Ok(Tunnelled::Again);
        }
        let receipt = Receipt {
            ek_name: entry.device,
            epoch: entry.epoch,
            order: closing.digest,
            commands: order.digest,
            response: Digest(sha256(&[&response.0])),
            at: self.now,
        };
        let receipt = self.core.keystore.sign(SignedType::Receipt, &receipt.encode())?;
        let released = closing.kind == Kind::Release.number();
        entry.state = if released { DeviceState::Released } else { DeviceState::Decommissioned };
        entry.claim = claim_after(entry.claim, ClaimState::Retired).unwrap_or(entry.claim);
        entry.auth = [None, None];
        entry.auth_next = [None, None];
        entry.auth_confirmed = false;
        let state = entry.state.name();
        self.note(entry, "clear.proven", &state)?;
        self.audit("device.state", &order.device, &state)?;
        Ok(Tunnelled::Cleared {
            receipt,
            delegation: self.core.keystore.delegation(entry.owner_key.as_ref()).signed.clone(),
            order: closing.signed.0,
            commands: order.signed.0.clone(),
        })
    }

    pub(crate) fn open_poll(&mut self, wire: &[u8]) -> Done {
        let envelope = Envelope::decode(wire)?;
        let Envelope::Poll { kid, r3, .. } = envelope else { return Err(Code::Format.into()) };
        let name = self.records.get(PSEUDONYMS, kid.as_bytes())?.ok_or(Code::Unknown)?;
        let name = EkName::from_slice(&name).ok_or(RecordsError::Damaged)?;
        let mut entry = self.device(&name)?;
        let body = envelope.open(&self.owner_secret(&entry)?.seal_poll(&r3))?;
        let PollBody { last_seq, .. } = PollBody::decode(&body)?;
        if last_seq > entry.order_seq {
            // An older backup was restored here: what the device has accepted is not numbered again.
            let drawn: u64 = self.records.load(ORDER_SEQ, &[])?.unwrap_or(0);
            if last_seq.saturating_sub(drawn.max(self.now.0)) > SEQ_AHEAD_MAX {
                return Err(Code::Rollback.into());
            }
            entry.order_seq = last_seq;
            self.audit("order.counter-raised", &name, &last_seq)?;
            self.save_device(&entry);
        }
        Ok(KeyReply::Polled { device: name, last_seq })
    }

    pub(crate) fn open_result(&mut self, wire: &[u8]) -> Done {
        let envelope = Envelope::decode(wire)?;
        let Envelope::Result { seq, r2, .. } = envelope else { return Err(Code::Format.into()) };
        let order = self.order_entry(seq)?;
        let entry = self.device(&order.device)?;
        if entry.epoch != order.epoch {
            return Err(Code::EpochMismatch.into());
        }
        let secret: Key<OwnerSecret, 32> = self.owner_secret(&entry)?;
        let body = envelope.open(&secret.seal_result(seq, &order.r, &r2))?;
        if order.kind == Kind::Rekey.number() {
            self.rekeyed(entry, &order, &body)?;
        }
        Ok(KeyReply::Answered { device: order.device, seq, body })
    }

    /// From here on the device believes the owner's new key, and what that one has delegated.
    fn rekeyed(&mut self, mut entry: DeviceEntry, order: &OrderEntry, body: &[u8]) -> Result<(), Stop> {
        let answered = ResultBody::decode(body, Kind::Rekey)?;
        let task = Order::decode(Sign1::decode(&order.signed.0)?.payload)?.task;
        let (Ok(Answer::Rekeyed(_)), Task::Rekey { entries, .. }) = (answered.outcome, task) else {
            return Ok(());
        };
        let last = entries.last().ok_or(Code::Voucher)?;
        let owner = key_id(&Entry::decode(Sign1::decode(last)?.payload)?.owner);
        if answered.order == order.digest && entry.owner_key != Some(owner) {
            entry.owner_key = Some(owner);
            self.note(&mut entry, "owner-key.known", &owner)?;
            self.save_device(&entry);
        }
        Ok(())
    }

    /// What is left of a device's keys when its ownership ended and it comes back in a later epoch: none opens anything.
    pub(crate) fn forget_keys(&mut self, entry: &mut DeviceEntry) -> Result<(), Stop> {
        let before = self.load_device(entry.clone())?;
        let mut device = before.clone();
        for version in &mut device.versions {
            for event in [VersionEvent::Deactivate, VersionEvent::Destroy] {
                if let Ok(state) = version::after(version.state, event) {
                    version.state = state;
                }
            }
            if version.state == VersionState::Destroyed {
                version.envelope = Bytes(Vec::new());
            }
            version.closed = true;
        }
        for seq in core::mem::take(&mut device.entry.orders) {
            self.records.delete(ORDERS, &seq.to_be_bytes());
        }
        device.change = None;
        device.entry.change = None;
        self.save(&before, &device)?;
        *entry = device.entry;
        Ok(())
    }
}

fn sealed(order: &OrderEntry) -> SealedOrder {
    SealedOrder {
        seq: order.seq,
        digest: order.digest,
        wire: order.wire.0.clone(),
        objects: order.objects.clone(),
        configuration: order.configuration,
        kind: order.kind,
    }
}
