//! The meter behind its connections: one device, one set of keys, one association machine for each client of each
//! connection.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gridseal_crypto::{Key, role::Kek};
use gridseal_dlms::{
    acse::{Conformance, Mechanism},
    apdu::carrier::Signing,
    assoc::{
        AssociationHandle, CryptoFault, Operation, Protection,
        server::{Event, Input, Output, Server, ServerSettings},
    },
};
use gridseal_io::clock::{tick_now, utc_now};
use gridseal_meter::cosem::{
    Device, DeviceConfig, Grant, ImageConfig, ObjectChange, ObjectError, RestoreError, Rights,
};
use gridseal_types::SystemTitle;

use super::{
    holder::{Holder, MasterKey},
    log::{Log, Peer},
};
use crate::lab::{self, Lab, Role};

/// A meter.
pub struct Meter<const N: usize> {
    core: Mutex<Core<N>>,
    settings: Vec<(Role, ServerSettings)>,
    own: ServerSettings,
    /// Whose keys these are.
    client_title: SystemTitle,
    /// Server's service access point.
    pub sap: u16,
    pub log: Log,
    handles: AtomicU64,
}

struct Core<const N: usize> {
    device: Device,
    keys: Holder<N>,
    /// A client whose answer has blocks yet to come: new keys wait for the last of them.
    answered: Option<AssociationHandle>,
}

impl<const N: usize> Core<N>
where
    Key<Kek, N>: MasterKey<N>,
{
    /// Time passes: a certificate that has ended by now counts no more for what comes next.
    fn pass_time(&mut self) {
        self.device.tick(utc_now(), &mut self.keys);
        if self.answered.is_none() {
            self.keys.apply();
        }
    }
}

/// A meter cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An object of the lab file.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// What was kept cannot be read.
    #[error("{0:#}")]
    Read(anyhow::Error),
    /// What was kept is damaged.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// One client of one connection.
pub struct Client {
    server: Server,
    handle: AssociationHandle,
    peer: Peer,
    client_sap: u16,
    is_open: bool,
    /// Whether an association of its shows that somebody has a key.
    needs_key: bool,
    /// Refusals outside of an association since they were last taken.
    refusals: u32,
}

const fn rights(rights: lab::Rights) -> Rights {
    Rights { read: rights.read, write: rights.write, invoke: rights.invoke }
}

impl<const N: usize> Meter<N>
where
    Key<Kek, N>: MasterKey<N>,
{
    /// A meter as a lab file describes it, which goes on where the run before ended.
    pub fn new(lab: &Lab, mut keys: Holder<N>, log: Log) -> Result<Self, StartError> {
        let is_ciphered =
            |role| role == Role::Broadcast || (role != Role::Public && lab.protection != Protection::None);
        let grants = lab.associations.iter().map(|association| Grant {
            client_sap: association.sap,
            mechanism: association.mechanism,
            is_ciphered: is_ciphered(association.role),
            rights: rights(association.rights),
        });
        let config = DeviceConfig {
            title: lab.server.system_title,
            client_title: lab.client.system_title,
            sap: lab.listen_sap,
            suite: lab.suite,
            policy: lab.protection,
            conformance: Conformance::SPOKEN,
            max_pdu: lab.max_pdu,
            grants: grants.collect(),
            is_clock_trusted: lab.trusted_clock,
            image: lab
                .image
                .as_ref()
                .map(|image| ImageConfig { trust: image.trust.clone(), version: image.version }),
        };
        let mut device = Device::new(config, utc_now());
        for object in &lab.objects {
            let change = ObjectChange {
                class: object.class,
                version: object.version,
                obis: object.obis,
                access: object.access.map(rights),
                attributes: object.attributes.clone(),
            };
            device.change(&change)?;
        }
        let saved = keys.saved().map_err(StartError::Read)?;
        device.restore(&saved, &mut keys)?;
        keys.apply();
        let base = |sap| ServerSettings {
            max_pdu: lab.max_pdu,
            // A connection ends with its association; strangers' clients release in clear.
            plain_release: true,
            short_challenge: true,
            broadcast_title: Some(lab.client.system_title),
            ..ServerSettings::public(sap, lab.server.system_title)
        };
        let settings = lab.associations.iter().map(|association| {
            let base = ServerSettings { mechanism: association.mechanism, ..base(association.sap) };
            let ciphered = is_ciphered(association.role);
            let protection = if ciphered { lab.protection } else { Protection::None };
            let is_signed = ciphered && lab.signing != Signing::None;
            let settings = ServerSettings {
                ciphered,
                required: protection,
                response: protection,
                requires_signature: is_signed,
                signs_responses: is_signed,
                ..base
            };
            (association.role, settings)
        });
        Ok(Self {
            settings: settings.collect(),
            own: base(0),
            client_title: lab.client.system_title,
            sap: lab.listen_sap,
            core: Mutex::new(Core { device, keys, answered: None }),
            log,
            handles: AtomicU64::new(1),
        })
    }

    fn core(&self) -> MutexGuard<'_, Core<N>> {
        // A panic in another connection left no half-done change that matters more than serving on.
        self.core.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Largest APDU that any client may send, bytes.
    pub fn apdu_size_max(&self) -> usize {
        ServerSettings { ciphered: true, ..self.own }.apdu_size_max().max(4_096)
    }

    /// How long a connection may be silent.
    pub fn inactivity(&self) -> Duration {
        self.core().device.inactivity()
    }

    /// The machine for a client. A client that is not offered anything is refused by a machine too: it cannot tell
    /// itself from one with the wrong key.
    pub fn client(&self, peer: Peer, client_sap: u16) -> Client {
        let known = self
            .settings
            .iter()
            .find(|(role, settings)| settings.client_sap == client_sap && *role != Role::Broadcast);
        let nobody = ServerSettings {
            client_sap,
            ciphered: true,
            mechanism: Mechanism::Manufacturer,
            required: Protection::AuthenticatedEncrypted,
            response: Protection::AuthenticatedEncrypted,
            ..self.own
        };
        let settings = known.map_or(nobody, |(_, settings)| *settings);
        self.machine(peer, self.under_policy(settings))
    }

    /// The machine for what is sent to all, if there is an association for it.
    pub fn broadcast(&self, peer: Peer, client_sap: u16) -> Option<Client> {
        let known = self
            .settings
            .iter()
            .find(|(role, settings)| settings.client_sap == client_sap && *role == Role::Broadcast);
        known.map(|(_, settings)| self.machine(peer, *settings))
    }

    /// The policy of the security setup may have become stronger than the lab file's.
    fn under_policy(&self, settings: ServerSettings) -> ServerSettings {
        if !settings.ciphered {
            return settings;
        }
        let core = self.core();
        let ((required, response), (must_sign, signs)) = (core.device.policy(), core.device.signatures());
        ServerSettings {
            required: settings.required.and(required),
            response: settings.response.and(response),
            requires_signature: settings.requires_signature || must_sign,
            signs_responses: settings.signs_responses || signs,
            ..settings
        }
    }

    fn machine(&self, peer: Peer, settings: ServerSettings) -> Client {
        let handle = AssociationHandle(self.handles.fetch_add(1, Ordering::Relaxed));
        let client_sap = settings.client_sap;
        let peer = Peer { client_sap: Some(client_sap), ..peer };
        let needs_key = settings.ciphered || settings.mechanism != Mechanism::None;
        let server = Server::new(settings, handle);
        Client { server, handle, peer, client_sap, is_open: false, needs_key, refusals: 0 }
    }

    /// Time passes for the device and the log.
    pub fn tick(&self) {
        self.log.tick();
        let mut core = self.core();
        core.pass_time();
        self.note(&mut core.device, None);
    }

    /// Feeds one input and gives the APDUs to be sent.
    pub fn handle(&self, client: &mut Client, input: Input<'_>) -> Vec<Vec<u8>> {
        let mut core = self.core();
        core.pass_time();
        // What time has brought about is nobody's doing.
        self.note(&mut core.device, None);
        let Core { device, keys, answered } = &mut *core;
        let mut answers = Vec::new();
        let fed = client.server.handle(tick_now(), input, &mut device.session(keys));
        if let Err(error) = fed {
            self.log.anybody("refused", client.peer, &error.to_string());
        }
        self.drain(client, device, keys, &mut answers);
        while let Some(push) = device.take_push() {
            let is_agreed = client.server.conformance().has(Conformance::DATA_NOTIFICATION);
            let input = Input::Notify(push);
            if !is_agreed || client.server.handle(tick_now(), input, &mut device.session(keys)).is_err() {
                self.log.anybody("push-dropped", client.peer, "notifications were not agreed upon");
            }
            self.drain(client, device, keys, &mut answers);
        }
        // The whole answer is sealed: keys that it confirms are used from now on.
        if client.server.is_answering() {
            *answered = answered.or(keys.is_staged().then_some(client.handle));
        } else if answered.is_none_or(|handle| handle == client.handle) {
            *answered = None;
            keys.apply();
        }
        self.note(device, Some(client));
        answers
    }

    fn drain(
        &self,
        client: &mut Client,
        device: &mut Device,
        keys: &mut Holder<N>,
        answers: &mut Vec<Vec<u8>>,
    ) {
        while let Some(output) = client.server.poll() {
            match output {
                Output::Transmit(apdu) => answers.push(apdu),
                Output::Crypto(handle, id, operation) => {
                    let result = match &operation {
                        // Counters are kept by title: under another one all that were ever accepted would begin again.
                        Operation::OpenInitiate { peer, .. } if *peer != self.client_title => {
                            Err(CryptoFault::Title)
                        }
                        Operation::HlsVerify { peer, .. }
                            if peer.title.is_some_and(|title| title != self.client_title) =>
                        {
                            Err(CryptoFault::Title)
                        }
                        _ => keys.perform(handle, &operation),
                    };
                    if operation != Operation::End {
                        let input = Input::CryptoDone(id, result);
                        let fed = client.server.handle(tick_now(), input, &mut device.session(keys));
                        debug_assert!(fed.is_ok(), "an operation that was asked for");
                    }
                }
                Output::Event(event) => self.event(client, device, event),
                _ => {}
            }
        }
    }

    fn event(&self, client: &mut Client, device: &mut Device, event: Event) {
        let is_open;
        let (event, cause) = match event {
            Event::Associated { mechanism, .. } => {
                is_open = true;
                ("associated", format!("mechanism {}", mechanism.number()))
            }
            Event::Refused(refusal) => {
                self.log.anybody("refused", client.peer, &refusal.to_string());
                if !client.is_open {
                    client.refusals = client.refusals.saturating_add(1);
                    device.refused();
                }
                return;
            }
            Event::Released => {
                is_open = false;
                ("released", "by the client".into())
            }
            Event::Lost => {
                is_open = false;
                ("lost", "link or challenge ended".into())
            }
            _ => return,
        };
        if client.needs_key && (client.is_open || is_open) {
            self.log.entry(event, Some(client.peer), &cause);
        } else {
            self.log.anybody(event, client.peer, &cause);
        }
        if is_open != core::mem::replace(&mut client.is_open, is_open) {
            device.associated(client.client_sap, is_open);
        }
    }

    fn note(&self, device: &mut Device, client: Option<&Client>) {
        for note in device.take_notes() {
            match client {
                Some(client) if !client.is_proven() && note.is_refusal() => {
                    self.log.anybody(note.name(), client.peer, &note.to_string());
                }
                _ => self.log.entry(note.name(), client.map(|client| client.peer), &note.to_string()),
            }
        }
    }
}

impl Client {
    /// Whether its association is open.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether its association is open and shows that it has a key.
    pub const fn is_proven(&self) -> bool {
        self.is_open && self.needs_key
    }

    /// How often it was refused, outside of an association, since this was last asked.
    pub const fn take_refusals(&mut self) -> u32 {
        core::mem::replace(&mut self.refusals, 0)
    }

    /// When the machine wants to be told that time has passed.
    pub fn deadline(&self) -> Option<gridseal_types::Tick> {
        self.server.deadline()
    }
}
