//! The owner's secrets in an onboarding session: what the endpoint manager asks for and never sees.
//!
//! # Source
//! Onboarding specification, sections 6 and 7.

use alloc::vec::Vec;

use gridseal_crypto::{
    Key, PublicKey, random,
    role::{ActivationSecret, AuthValue, Gak, Guek, Kek, OwnerSecret, Role, SessionSecret, TpmSeed},
    tpm::{
        AuthInForce, ChangeAuth, EndorsementKey, SecretLabel, SessionNonces, TpmSessionKey,
        change_auth_command, change_auth_confirmed, duplicate, make_credential, share_secret,
    },
};
use gridseal_trust::{
    enrol::{
        cose::SignedType,
        delivery::{Release, open_delivery, open_handed_over},
        document::Redirect,
        secrets::{ActivationSecretExt, OwnerSecretExt, SessionSecretExt},
        session::{
            ChallengeBody, ChallengePayload, Config, Configuration, DeliveredObject, Envelope,
            FinishedPayload, OwnPayload, Step, Transcript, config_digest, open, seal_challenge, seal_message,
            sid_of,
        },
        voucher::Voucher,
        wire::encode,
    },
    root::OwnerPin,
    tpm,
};
use gridseal_types::{
    Code, DeviceState, Digest, EkName, N16, Nonce, Sid, SystemTitle, UtcTime,
    records::Records,
    service::keys::{Bytes, Carrier, Challenge, ClaimState, KeyKind, KeyReply, Provision, TpmSession},
};

use crate::{
    core::{Stop, Work},
    device::Device,
    lease::CounterLayout,
    phase::claim_after,
    probe::LOCKOUT_DEFAULT,
    record::{
        DEVICES, DeviceEntry, PSEUDONYMS, ProbeBudget, SESSIONS, SessionEntry, TITLES, TunnelEntry,
        VersionEntry, context, opened, stored,
    },
};

type Done = Result<KeyReply, Stop>;

pub(crate) const HIERARCHIES: [u32; 2] = [0x4000_0001, 0x4000_000a];
/// Renewals that a recovery looks for.
const RECOVERY_TRIES: u32 = 16;
/// Bits of TPM_PT_PERMANENT: ownerAuthSet, lockoutAuthSet.
pub(crate) const AUTH_SET: [u32; 2] = [1, 1 << 2];

/// Places of C2, C4, C6, C8 in [`SessionEntry::sealed`].
const C2: usize = 0;
const C4: usize = 1;
const C6: usize = 2;
const C8: usize = 3;

impl<R: Records> Work<'_, R> {
    pub(crate) fn wrap<K: Role, const N: usize>(
        &mut self,
        key: &Key<K, N>,
        device: &EkName,
        version: u32,
    ) -> Result<Bytes, Stop> {
        let context = context(&self.core.keystore.tenant, device, version);
        Ok(stored(key.wrap(&self.core.keystore.dek, &context, self.rng)?))
    }

    pub(crate) fn unwrap<K: Role, const N: usize>(
        &self,
        bytes: &Bytes,
        device: &EkName,
        version: u32,
    ) -> Result<Key<K, N>, Stop> {
        Ok(opened(&self.core.keystore.dek, &context(&self.core.keystore.tenant, device, version), bytes)?)
    }

    /// The time that a device is told, signed: it never lets its floor fall again within an epoch, so a clock that is fast
    /// here or at the endpoint manager would keep its owner out for as long. No later than either clock says, and nothing at
    /// all once the delegation under which it is signed has ended.
    pub(crate) fn signed_time(&self, entry: &DeviceEntry, told: UtcTime) -> Result<UtcTime, Stop> {
        if self.now > self.core.keystore.delegation(entry.owner_key.as_ref()).not_after {
            return Err(Code::Time.into());
        }
        Ok(told.min(self.now))
    }

    fn session(&self, sid: &Sid) -> Result<SessionEntry, Stop> {
        self.records.load(SESSIONS, sid.as_bytes())?.ok_or(Stop::Refused(Code::Nonce))
    }

    fn save_session(&mut self, session: &SessionEntry) {
        self.records.save(SESSIONS, session.sid.as_bytes(), session);
    }

    pub(crate) fn deliver(&mut self, record: &[u8], system_title: SystemTitle) -> Done {
        let keystore = &self.core.keystore;
        let (release, secret) = open_delivery(record, &keystore.encryption, &keystore.voucher_keys)?;
        self.take_in(release, &secret, system_title)
    }

    /// A secret that a person typed: the voucher's manufacturer vouches for it by its commitment.
    pub(crate) fn deliver_label(&mut self, record: &[u8], voucher: &[u8], system_title: SystemTitle) -> Done {
        let keystore = &self.core.keystore;
        let header = Voucher::decode(voucher)?.verify(&keystore.voucher_keys)?.header;
        let (release, secret) = open_handed_over(record, &keystore.encryption, &header)?;
        self.take_in(release, &secret, system_title)
    }

    fn take_in(
        &mut self,
        release: Release,
        secret: &Key<OwnerSecret, 32>,
        system_title: SystemTitle,
    ) -> Done {
        let device = release.ek_name;
        let (kid, n_commit) = (secret.kid(), secret.commitment());
        let title_owner = self.records.get(TITLES, system_title.as_bytes())?;
        if title_owner.is_some_and(|owner| owner != device.as_bytes()) {
            return Err(Code::Label.into());
        }
        let known: Option<DeviceEntry> = self.records.load(DEVICES, device.as_bytes())?;
        let reply = KeyReply::Delivered {
            device,
            epoch: release.epoch,
            kid,
            n_commit,
            serial: release.serial.clone(),
        };
        let entry = match known {
            Some(known) if known.epoch == release.epoch && known.kid == kid => return Ok(reply),
            // It came back from another owner, to whom it was released.
            Some(known) if known.state.is_final() && known.epoch < release.epoch => {
                self.returned(known, &release, secret, system_title)?
            }
            // Another secret for an epoch that has one, or an older epoch: never silently replaced.
            Some(_) => return Err(Code::EpochMismatch.into()),
            None => {
                let slot = self.next_slot()?;
                DeviceEntry { slot, ..self.fresh(release, secret, system_title)? }
            }
        };
        self.traffic.admit(entry.slot, system_title)?;
        self.audit("owner-secret.imported", &device, &entry.epoch)?;
        self.save_device(&entry);
        self.records.put(PSEUDONYMS, kid.as_bytes(), device.as_bytes().to_vec());
        self.records.put(TITLES, system_title.as_bytes(), device.as_bytes().to_vec());
        Ok(reply)
    }

    /// A device that nothing is known of, without a place in the traffic table.
    fn fresh(
        &mut self,
        release: Release,
        secret: &Key<OwnerSecret, 32>,
        system_title: SystemTitle,
    ) -> Result<DeviceEntry, Stop> {
        Ok(DeviceEntry {
            device: release.ek_name,
            epoch: release.epoch,
            kid: secret.kid(),
            secret: self.wrap(secret, &release.ek_name, release.epoch)?,
            system_title,
            serial: release.serial,
            state: DeviceState::Registered,
            attested_at: UtcTime(0),
            auth: [None, None],
            auth_confirmed: false,
            channel_version: 0,
            n_commit: secret.commitment(),
            active_version: 0,
            slot: 0,
            claim: ClaimState::InStock,
            attested: true,
            layout: CounterLayout::Epoch24,
            carrier: Carrier::GeneralGlo,
            versions: Vec::new(),
            change: None,
            acts: 0,
            heard: None,
            probe: ProbeBudget::default(),
            lockout: LOCKOUT_DEFAULT,
            history: 0,
            doubt: false,
            transfers_failed: 0,
            order_seq: 0,
            orders: Vec::new(),
            closing: None,
            auth_next: [None, None],
            auth_doubt: false,
            auth_number: 0,
            is_recovering: false,
            is_rekeyed_by_order: false,
            owner_key: None,
            suite: 0,
            offered: (0, 0),
        })
    }

    /// A device of a later epoch that was ours before: it keeps its place, its history and the numbers of its keys, which
    /// open nothing more.
    fn returned(
        &mut self,
        mut known: DeviceEntry,
        release: &Release,
        secret: &Key<OwnerSecret, 32>,
        system_title: SystemTitle,
    ) -> Result<DeviceEntry, Stop> {
        if known.system_title != system_title {
            return Err(Code::Label.into());
        }
        self.forget_keys(&mut known)?;
        self.records.delete(PSEUDONYMS, known.kid.as_bytes());
        let entry = self.fresh(release.clone(), secret, system_title)?;
        Ok(DeviceEntry {
            channel_version: known.channel_version,
            slot: known.slot,
            layout: known.layout,
            versions: known.versions,
            acts: known.acts,
            history: known.history,
            order_seq: known.order_seq,
            ..entry
        })
    }

    pub(crate) fn sign_redirect(&mut self, payload: &[u8]) -> Done {
        let redirect = Redirect::decode(payload)?;
        let entry = self.device(&redirect.ek_name)?;
        if entry.epoch != redirect.epoch {
            return Err(Code::EpochMismatch.into());
        }
        let sign1 = self.core.keystore.sign(SignedType::Redirect, payload)?;
        self.audit("redirect.signed", &redirect.ek_name, &redirect.seq)?;
        let delegation = self.core.keystore.delegation(entry.owner_key.as_ref()).signed.clone();
        Ok(KeyReply::Signed { sign1, delegation })
    }

    fn by_pseudonym(&self, wire: &[u8]) -> Result<(DeviceEntry, Nonce), Stop> {
        let Envelope::Hello { kid, m, .. } = Envelope::decode(wire)? else { return Err(Code::Format.into()) };
        let name = self.records.get(PSEUDONYMS, kid.as_bytes())?.ok_or(Code::Unknown)?;
        let name = EkName::from_slice(&name).ok_or(gridseal_types::records::RecordsError::Damaged)?;
        Ok((self.device(&name)?, m))
    }

    pub(crate) fn open_hello(&mut self, wire: &[u8]) -> Done {
        let (entry, m) = self.by_pseudonym(wire)?;
        let body = open(&self.owner_secret(&entry)?.seal_c1(&m), &Envelope::decode(wire)?)?;
        Ok(KeyReply::Hello { device: entry.device, epoch: entry.epoch, body })
    }

    pub(crate) fn challenge(&mut self, challenge: &Challenge) -> Done {
        let sid = sid_of(&challenge.c1);
        if let Some(session) = self.records.load::<SessionEntry>(SESSIONS, sid.as_bytes())? {
            return sealed_before(&session, C2).ok_or(Stop::Refused(Code::State));
        }
        let (entry, m) = self.by_pseudonym(&challenge.c1)?;
        let owner_secret = self.owner_secret(&entry)?;
        let endorsement = EndorsementKey::from_bytes(&challenge.endorsement).ok_or(Code::Endorsement)?;
        // The key is the caller's word; the Name is the register's, bound to the secret: a credential goes to that TPM.
        if tpm::name(&tpm::endorsement_public(&endorsement)) != entry.device {
            return Err(Code::Endorsement.into());
        }
        let activation = Key::<ActivationSecret, 32>::generate(self.rng)?;
        let (seed, secret) = endorsement.share_secret(SecretLabel::Identity, self.rng)?;
        let credential = make_credential(&seed, challenge.ak_name.as_bytes(), &activation);
        let (owner_salt, owner_encrypted) = endorsement.share_secret(SecretLabel::Secret, self.rng)?;
        let (lockout_salt, lockout_encrypted) = endorsement.share_secret(SecretLabel::Secret, self.rng)?;
        let nonce_callers = [N16(random(self.rng)?), N16(random(self.rng)?)];
        let m_em = Nonce(random(self.rng)?);
        let th1 = Transcript::new().after(Step::HELLO, &challenge.c1);
        let payload = ChallengePayload {
            th1: th1.value(),
            ek_name: entry.device,
            epoch: entry.epoch,
            suites: challenge.suites.clone(),
            suite: challenge.suites.first().copied().ok_or(Code::Suite)?,
            credential,
            secret,
            salts: [owner_encrypted, lockout_encrypted],
            nonce_callers,
            pcr_selection: challenge.pcr_selection.clone(),
            ima_next: challenge.ima_next,
            voucher_head: challenge.voucher_head,
            m,
            m_em,
        }
        .encode();
        let body = ChallengeBody {
            signed: self.core.keystore.sign(SignedType::C2, &payload)?,
            grant: owner_secret.grant(&th1.value(), &payload),
            delegation: self.core.keystore.delegation(entry.owner_key.as_ref()).signed.clone(),
        };
        let wire = seal_challenge(&owner_secret.seal_c2(&m, &m_em), &sid, &m_em, &body.encode())?;
        let device = entry.device;
        let session = SessionEntry {
            sid,
            device,
            m_em,
            th2: th1.after(Step::CHALLENGE, &wire).value(),
            activation: self.wrap(&activation, &device, entry.epoch)?,
            salts: [
                self.wrap(&owner_salt, &device, entry.epoch)?,
                self.wrap(&lockout_salt, &device, entry.epoch)?,
            ],
            nonce_callers,
            commands: None,
            owned: false,
            sealed: [Some(Bytes(wire.clone())), None, None, None],
            objects: Vec::new(),
            configuration: Digest([0; 32]),
        };
        self.save_session(&session);
        Ok(KeyReply::Sealed { wire })
    }

    /// K_s and K_act of a session.
    fn secrets(&self, session: &SessionEntry) -> Result<Secrets, Stop> {
        let entry = self.device(&session.device)?;
        let activation = self.unwrap(&session.activation, &session.device, entry.epoch)?;
        let root = self.owner_secret(&entry)?.session(&session.th2, &activation);
        Ok(Secrets { entry, activation, root })
    }

    pub(crate) fn open_message(&mut self, sid: &Sid, wire: &[u8]) -> Done {
        let session = self.session(sid)?;
        let envelope = Envelope::decode(wire)?;
        let Envelope::Message { step, sid: named, .. } = envelope else { return Err(Code::Format.into()) };
        if named != session.sid {
            return Err(Code::Nonce.into());
        }
        let secrets = self.secrets(&session)?;
        // A C3 that opens proves that the TPM recovered K_act: its failure has a code of its own.
        let failed = if step == Step::EVIDENCE { Code::Act } else { Code::Transcript };
        let body = open(&secrets.root.device_to_owner(), &envelope).map_err(|_| failed)?;
        Ok(KeyReply::Opened { body })
    }

    /// The authorisation of a hierarchy: drawn once per device and epoch, re-used in every retry. A second draw while
    /// the first is unconfirmed would lose the TPM.
    fn auth_value(&mut self, entry: &mut DeviceEntry, place: usize) -> Result<Key<AuthValue, 32>, Stop> {
        let slot = entry.auth.get(place).cloned().flatten();
        if let Some(known) = slot {
            return self.unwrap(&known, &entry.device, entry.epoch);
        }
        let drawn = self.authorisation(entry, place, entry.auth_number)?;
        let wrapped = self.wrap(&drawn, &entry.device, entry.epoch)?;
        if let Some(slot) = entry.auth.get_mut(place) {
            *slot = Some(wrapped);
        }
        Ok(drawn)
    }

    /// The authorisation of a hierarchy with this number, derived; drawn where the keystore has nothing to derive it from.
    /// The TPM drops trailing zero bytes of an authorisation in its HMAC keys, so none ends with one.
    pub(crate) fn authorisation(
        &mut self,
        entry: &DeviceEntry,
        place: usize,
        number: u32,
    ) -> Result<Key<AuthValue, 32>, Stop> {
        let hierarchy = HIERARCHIES.get(place).ok_or(Code::State)?.to_be_bytes();
        let (epoch, number) = (entry.epoch.to_be_bytes(), number.to_be_bytes());
        for attempt in 0..=u8::MAX {
            let value: Key<AuthValue, 32> = match &self.core.keystore.auth_root {
                Some(root) => root.derive(&[
                    b"gs-auth-v1",
                    entry.device.as_bytes(),
                    &epoch,
                    &hierarchy,
                    &number,
                    &[attempt],
                ]),
                None => Key::generate(self.rng)?,
            };
            if !value.ends_with_zero() {
                return Ok(value);
            }
        }
        Err(Code::Busy.into())
    }

    /// Lets the authorisations of a device whose TPM we own be derived again, after the database was lost. They are tried at
    /// the owner hierarchy first, which counts no failures; only when it takes one is the lockout hierarchy tried.
    pub(crate) fn recover(&mut self, device: &EkName) -> Done {
        let mut entry = self.device(device)?;
        let has_none = entry.auth.iter().all(Option::is_none);
        if entry.state != DeviceState::Registered || !has_none || self.core.keystore.auth_root.is_none() {
            return Err(Code::State.into());
        }
        entry.is_recovering = true;
        entry.auth_number = 0;
        self.audit("ownership.recovering", device, &entry.epoch)?;
        self.save_device(&entry);
        Ok(KeyReply::Done)
    }

    /// The TPM did not take the derived values: the next time the next ones are tried, up to a bound.
    fn recovery_failed(&mut self, mut entry: DeviceEntry) -> Done {
        entry.auth = [None, None];
        entry.auth_number = entry.auth_number.saturating_add(1);
        entry.is_recovering = entry.auth_number < RECOVERY_TRIES;
        self.audit("ownership.not-recovered", &entry.device, &entry.auth_number)?;
        self.save_device(&entry);
        Ok(KeyReply::Refused { code: Code::Tpm })
    }

    #[expect(clippy::too_many_arguments, reason = "the members of the request")]
    pub(crate) fn own(
        &mut self,
        sid: &Sid,
        act: &Digest,
        th3: Digest,
        sessions: &[TpmSession; 2],
        permanent: u32,
    ) -> Done {
        let mut session = self.session(sid)?;
        if let Some(before) = sealed_before(&session, C4) {
            return Ok(before);
        }
        let Secrets { mut entry, activation, root } = self.secrets(&session)?;
        if is_held_back(entry.state) {
            return Err(Code::State.into());
        }
        if !activation.act_verifies(&session.th2, act) {
            return Err(Code::Act.into());
        }
        let mut commands = Vec::with_capacity(2);
        let mut tunnels = Vec::with_capacity(2);
        for place in 0..2 {
            let (Some(&hierarchy), Some(bit), Some(opened_at), Some(salt), Some(nonce_caller)) = (
                HIERARCHIES.get(place),
                AUTH_SET.get(place),
                sessions.get(place),
                session.salts.get(place),
                session.nonce_callers.get(place),
            ) else {
                return Err(Code::State.into());
            };
            let salt: Key<TpmSeed, 32> = self.unwrap(salt, &session.device, entry.epoch)?;
            let nonces = SessionNonces { caller: nonce_caller.0, tpm: opened_at.nonce_tpm.0 };
            let key = nonces.session_key(&salt);
            let is_set = permanent & bit != 0;
            if is_set && entry.auth.get(place).is_none_or(Option::is_none) && !entry.is_recovering {
                // Somebody owns this TPM and it is not us: no guess, one wrong lockout value locks the hierarchy.
                return Err(Code::Owned.into());
            }
            let new = self.auth_value(&mut entry, place)?;
            let nonce_caller = N16(random(self.rng)?);
            commands.push(change_auth_command(&ChangeAuth {
                hierarchy,
                session_handle: opened_at.handle,
                session: &key,
                in_force: if is_set { AuthInForce::Value(&new) } else { AuthInForce::Empty },
                new: &new,
                nonce_tpm: opened_at.nonce_tpm.0,
                nonce_caller: nonce_caller.0,
                keep_session: false,
            }));
            tunnels.push(TunnelEntry {
                session_key: self.wrap(&key, &session.device, entry.epoch)?,
                nonce_caller,
            });
        }
        let payload = OwnPayload { th3, commands }.encode();
        let wire = self.seal_signed(&root, Step::COMMANDS, sid, SignedType::C4, &payload)?;
        session.commands = tunnels.try_into().ok();
        if entry.state == DeviceState::Registered {
            entry.state = DeviceState::Installing;
        }
        self.audit("ownership.commanded", &session.device, &"owner and lockout")?;
        self.save_device(&entry);
        self.store_sealed(session, C4, wire)
    }

    #[expect(clippy::too_many_arguments, reason = "what a sealed message is made of")]
    fn seal_signed(
        &mut self,
        root: &Key<SessionSecret, 32>,
        step: Step,
        sid: &Sid,
        kind: SignedType,
        payload: &[u8],
    ) -> Result<Vec<u8>, Stop> {
        let signed = self.core.keystore.sign(kind, payload)?;
        let body = encode(|w| {
            w.bytes(&signed);
        });
        Ok(seal_message(&root.owner_to_device(), step, sid, &body)?)
    }

    fn store_sealed(&mut self, mut session: SessionEntry, place: usize, wire: Vec<u8>) -> Done {
        if let Some(slot) = session.sealed.get_mut(place) {
            *slot = Some(Bytes(wire.clone()));
        }
        self.save_session(&session);
        Ok(KeyReply::Sealed { wire })
    }

    pub(crate) fn confirm_ownership(&mut self, sid: &Sid, responses: &[Bytes]) -> Done {
        let mut session = self.session(sid)?;
        if session.owned {
            return Ok(KeyReply::Done);
        }
        let mut entry = self.device(&session.device)?;
        let tunnels = session.commands.as_ref().ok_or(Code::State)?;
        if responses.len() != tunnels.len() {
            // The first refusal ends the list.
            if !entry.is_recovering {
                return Err(Code::Tpm.into());
            }
            // Once for a session, however often its device repeats itself.
            session.commands = None;
            self.save_session(&session);
            return self.recovery_failed(entry);
        }
        for ((tunnel, response), auth) in tunnels.iter().zip(responses).zip(&entry.auth) {
            let key: TpmSessionKey = self.unwrap(&tunnel.session_key, &session.device, entry.epoch)?;
            let auth: Key<AuthValue, 32> =
                self.unwrap(auth.as_ref().ok_or(Code::State)?, &session.device, entry.epoch)?;
            if !change_auth_confirmed(&key, &auth, &tunnel.nonce_caller.0, &response.0) {
                return Err(Code::Tpm.into());
            }
        }
        entry.auth_confirmed = true;
        entry.is_recovering = false;
        session.owned = true;
        self.audit("ownership.confirmed", &session.device, &entry.epoch)?;
        self.save_device(&entry);
        self.save_session(&session);
        Ok(KeyReply::Done)
    }

    /// New channel keys, wrapped to the device's storage key and, in the same commit, at rest here (rule S3).
    pub(crate) fn new_channel(
        &mut self,
        device: &mut Device,
        storage: &PublicKey,
    ) -> Result<Vec<DeliveredObject>, Stop> {
        let version = self.next_version(device)?;
        device.entry.channel_version = version;
        let guek = Key::<Guek, 16>::generate(self.rng)?;
        let gak = Key::<Gak, 16>::generate(self.rng)?;
        let kek = Key::<Kek, 16>::generate(self.rng)?;
        // One seed for the three: the cipher key of each depends on its Name, which is unique.
        let (seed, in_sym_seed) = share_secret(SecretLabel::Duplicate, storage, self.rng)?;
        let made = [
            (DeliveredObject::GUEK, duplicate(&seed, &guek, self.rng)?),
            (DeliveredObject::GAK, duplicate(&seed, &gak, self.rng)?),
            (DeliveredObject::KEK, duplicate(&seed, &kek, self.rng)?),
        ];
        let (guek, gak, kek) = (guek.into(), gak.into(), kek.into());
        let order = device.next_act();
        for kind in KeyKind::ALL {
            let blank = VersionEntry {
                sent: true,
                sent_order: order,
                bundled: true,
                ..self.blank(kind, version, None)
            };
            let made = match kind {
                KeyKind::Gak => self.new_version(device, &gak, blank)?,
                KeyKind::Kek => self.new_version(device, &kek, blank)?,
                _ => self.new_version(device, &guek, blank)?,
            };
            device.add(made);
        }
        self.note(&mut device.entry, "channel-keys.sent", &version)?;
        Ok(made
            .map(|(id, made)| DeliveredObject {
                id,
                public: made.public,
                duplicate: made.duplicate,
                in_sym_seed: in_sym_seed.clone(),
            })
            .into())
    }

    pub(crate) fn provision(&mut self, request: Provision) -> Done {
        let mut session = self.session(&request.sid)?;
        if let Some(KeyReply::Sealed { wire }) = sealed_before(&session, C6) {
            let (objects, configuration) = (session.objects, session.configuration);
            return Ok(KeyReply::Provisioned { wire, objects, configuration });
        }
        if !session.owned {
            return Err(Code::State.into());
        }
        let Secrets { entry, root, .. } = self.secrets(&session)?;
        let storage = PublicKey::from_point(&request.storage_point).ok_or(Code::Certify)?;
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        let objects =
            if request.channel_keys { self.new_channel(&mut device, &storage)? } else { Vec::new() };
        let entry = &device.entry;
        session.objects = objects.iter().map(|object| tpm::name(&object.public)).collect();
        let plain = |list: Vec<Bytes>| list.into_iter().map(|der| der.0).collect();
        let config = Config {
            ldevid_chain: plain(request.ldevid_chain),
            ca_bundle: plain(request.ca_bundle),
            terminus_urls: request.terminus,
            terminus_pins: Vec::new(),
            objects,
            policy_version: request.policy_version,
            previous: request.previous,
            epoch: entry.epoch,
            pin: OwnerPin {
                index: request.entry_index,
                generation: self.core.keystore.delegation(entry.owner_key.as_ref()).generation,
                entry: request.entry,
            },
            now: self.signed_time(entry, request.now)?,
        };
        let payload = Configuration { th5: request.th5, config }.encode();
        session.configuration = config_digest(&payload);
        let wire = self.seal_signed(&root, Step::PROVISION, &request.sid, SignedType::C6, &payload)?;
        self.save(&before, &device)?;
        let (objects, configuration) = (session.objects.clone(), session.configuration);
        self.store_sealed(session, C6, wire.clone())?;
        Ok(KeyReply::Provisioned { wire, objects, configuration })
    }

    #[expect(clippy::too_many_arguments, reason = "the members of the request")]
    pub(crate) fn finish(
        &mut self,
        sid: &Sid,
        receipt: &Digest,
        th6: &Digest,
        th7: Digest,
        now: UtcTime,
        attested_at: UtcTime,
    ) -> Done {
        let session = self.session(sid)?;
        if let Some(before) = sealed_before(&session, C8) {
            return Ok(before);
        }
        if session.sealed.get(C6).is_none_or(Option::is_none) {
            return Err(Code::State.into());
        }
        let Secrets { mut entry, activation, root } = self.secrets(&session)?;
        if is_held_back(entry.state) {
            // A receipt does not lift that.
            return Err(Code::State.into());
        }
        if !activation.receipt_verifies(th6, receipt) {
            return Err(Code::Act.into());
        }
        let payload = FinishedPayload { th7, now: self.signed_time(&entry, now)? }.encode();
        let wire = self.seal_signed(&root, Step::DONE, sid, SignedType::C8, &payload)?;
        entry.state = DeviceState::Operating;
        // Not the later of both: what is on record may come from a clock that was fast (rule S14).
        entry.attested_at = attested_at;
        entry.claim = claim_after(entry.claim, ClaimState::Claimed).unwrap_or(entry.claim);
        self.audit("device.state", &session.device, &entry.state.name())?;
        let before = self.load_device(entry)?;
        self.save(&before, &before)?;
        self.store_sealed(session, C8, wire)
    }
}

/// Whether a person has to decide first.
///
/// A device that operates here may still be installing for the endpoint manager, which died between our C8 and its own
/// commit: another session has to be possible then. It goes on operating here, for the endpoint manager may also have
/// dropped that other session, and would not tell.
const fn is_held_back(state: DeviceState) -> bool {
    matches!(state, DeviceState::Suspended | DeviceState::Quarantined)
}

struct Secrets {
    entry: DeviceEntry,
    activation: Key<ActivationSecret, 32>,
    root: Key<SessionSecret, 32>,
}

fn sealed_before(session: &SessionEntry, place: usize) -> Option<KeyReply> {
    let sealed = session.sealed.get(place)?.as_ref()?;
    Some(KeyReply::Sealed { wire: sealed.0.clone() })
}
