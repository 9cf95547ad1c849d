//! Performs the operations of an association with keys that are here: on a meter and in tools.
//!
//! Counters are durable before they are used, in both directions: sending counters come out of reserved blocks, an
//! accepted counter is stored before the plain APDU is handed out. A counter is compared before the tag is verified,
//! which is cheap, and stored after it, so that a forged high one locks nobody out.
//!
//! Keys that are fresh for one APDU (general-ciphering, wrapped or agreed upon) have no counter that could tell a
//! repeated APDU: the transaction-ids do. Those of requests are numbers of 8 bytes that rise from one to the next, on the
//! side that draws them and on the side that judges them; they belong to the two parties and outlive every key.

mod data;
mod general;
mod open;
mod transaction;

use alloc::{collections::BTreeMap, vec::Vec};

use gridseal_crypto::{
    CounterError, Curve, CurveAgreement, CurvePublic, CurveSigner, InvocationCounter, Key, Reservation, Rng,
    Ticket, apdu,
    hls::Secret,
    role::{DedicatedKey, Gak, Gbek, Guek, Kek},
};
use gridseal_types::SystemTitle;

use crate::{
    acse::Mechanism,
    apdu::{
        carrier::{Carrier, Signing, carry},
        ciphered::{Protected, SecurityControl},
    },
    assoc::{AssociationHandle, CryptoFault, CryptoResult, Done, Operation, PeerChallenge, Protection},
};
pub use data::{DataKey, DataLayer, DataProtection};
use transaction::{TransactionId, Transactions};

/// Farthest that a hint of the peer may move the own sending counter at once: a false hint must not use up the key.
pub const HINT_JUMP_MAX: u64 = 1 << 20;
/// Counter values that are reserved at once.
const RESERVE: u32 = 256;
/// Peers whose counters are remembered for one key.
const PEERS_MAX: usize = 64;
/// Associations that may be open at once.
const ASSOCIATIONS_MAX: usize = 64;
/// Size of our challenges in bytes, for every mechanism that has any.
pub const CHALLENGE_SIZE: usize = 32;

/// Which keys a counter belongs to. Closed: unicast and broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeySet {
    /// Global unicast key.
    Unicast,
    /// Global broadcast key.
    Broadcast,
}

/// The counters could not be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("counters could not be stored")]
pub struct CounterStoreError;

/// Makes counters durable. Each call returns after what it says is on disk (rule S2).
pub trait CounterStore {
    /// No sending counter below `end` is used again.
    ///
    /// # Errors
    /// [`CounterStoreError`]; the counters are then not used.
    fn reserve(&mut self, set: KeySet, end: u64) -> Result<(), CounterStoreError>;

    /// `counter` of `peer` was accepted: it and everything below is not accepted again.
    ///
    /// # Errors
    /// [`CounterStoreError`]; the APDU is then not handed out.
    fn accepted(&mut self, set: KeySet, peer: SystemTitle, counter: u32) -> Result<(), CounterStoreError>;

    /// No own transaction-id below `end` is used again, whatever becomes of the keys.
    ///
    /// # Errors
    /// [`CounterStoreError`]; the ids are then not used.
    fn reserve_transactions(&mut self, end: u64) -> Result<(), CounterStoreError>;

    /// Transaction `id` of `peer` was accepted: it and everything below is not accepted again, whatever becomes of the
    /// keys.
    ///
    /// # Errors
    /// [`CounterStoreError`]; the APDU is then not handed out.
    fn accepted_transaction(&mut self, peer: SystemTitle, id: u64) -> Result<(), CounterStoreError>;
}

/// For tests and one-shot tools, whose counters are kept elsewhere: forgets at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct VolatileCounters;

impl CounterStore for VolatileCounters {
    fn reserve(&mut self, _: KeySet, _: u64) -> Result<(), CounterStoreError> {
        Ok(())
    }

    fn accepted(&mut self, _: KeySet, _: SystemTitle, _: u32) -> Result<(), CounterStoreError> {
        Ok(())
    }

    fn reserve_transactions(&mut self, _: u64) -> Result<(), CounterStoreError> {
        Ok(())
    }

    fn accepted_transaction(&mut self, _: SystemTitle, _: u64) -> Result<(), CounterStoreError> {
        Ok(())
    }
}

/// What the performer must not do itself.
#[allow(missing_debug_implementations, reason = "two ports")]
pub struct Ports<'p> {
    /// Makes counters durable.
    pub counters: &'p mut dyn CounterStore,
    /// Draws challenges and dedicated keys.
    pub rng: &'p mut dyn Rng,
}

/// The keys of one security setup. `N` is 16 in suites 0 and 1, 32 in suite 2.
#[derive(Debug)]
pub struct KeyRing<const N: usize = 16> {
    /// Global unicast encryption key.
    pub guek: Key<Guek, N>,
    /// Authentication key.
    pub gak: Key<Gak, N>,
    /// Global broadcast encryption key.
    pub gbek: Option<Key<Gbek, N>>,
    /// Secret of mechanisms 3, 4 and 6, and password of mechanism 1 where that has none of its own.
    pub secret: Option<Secret>,
    /// Password of mechanism 1.
    pub password: Option<Secret>,
    /// Keys of mechanism 7, general-signing and one-pass key agreement.
    pub signing: Option<SigningKeys>,
    /// Static keys of key agreement.
    pub agreement: Option<AgreementKeys>,
    /// Master key: wraps the keys of general-ciphering.
    pub kek: Option<Key<Kek, N>>,
}

impl<const N: usize> KeyRing<N> {
    /// The two keys that every suite needs, and none of the others.
    #[must_use]
    pub const fn new(guek: Key<Guek, N>, gak: Key<Gak, N>) -> Self {
        Self {
            guek,
            gak,
            gbek: None,
            secret: None,
            password: None,
            signing: None,
            agreement: None,
            kek: None,
        }
    }
}

/// Keys and secrets that take the place of present ones; `None` leaves one as it is.
#[derive(Debug, Default)]
pub struct NewKeys<const N: usize = 16> {
    /// Global unicast encryption key, with its counters.
    pub guek: Option<(Key<Guek, N>, KeyCounters)>,
    /// Global broadcast encryption key, with its counters.
    pub gbek: Option<(Key<Gbek, N>, KeyCounters)>,
    /// Authentication key. It is associated data: counters do not depend on it.
    pub gak: Option<Key<Gak, N>>,
    /// Secret of mechanisms 3, 4 and 6; the password of mechanism 1 stays what it was.
    pub secret: Option<Secret>,
    /// Password of mechanism 1; the secret of the others stays what it was.
    pub password: Option<Secret>,
    /// Own signing key and those of the peers.
    pub signing: Option<SigningKeys>,
    /// Own key of key agreement and those of the peers.
    pub agreement: Option<AgreementKeys>,
    /// Master key.
    pub kek: Option<Key<Kek, N>>,
}

/// Where the counters of a key stand: zero and none for one that was never used, else what is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyCounters {
    /// Durable end of the last reservation of sending counters.
    pub sending_end: u64,
    /// Highest accepted counter of each peer.
    pub received: BTreeMap<SystemTitle, u32>,
}

/// Signing keys on the curve of the suite: the own one, and those of the peers that are believed.
#[derive(Debug)]
pub struct SigningKeys {
    /// Own private key.
    pub own: CurveSigner,
    /// Public keys of peers by their title. A certificate inside an AARQ or AARE adds none.
    pub peers: BTreeMap<SystemTitle, CurvePublic>,
}

/// Static keys of key agreement on the curve of the suite: the own one, and those of the peers that are believed.
#[derive(Debug)]
pub struct AgreementKeys {
    /// Own private key.
    pub own: CurveAgreement,
    /// Public keys of peers by their title.
    pub peers: BTreeMap<SystemTitle, CurvePublic>,
}

/// Where implementations differ from the normative reading, which is the default. Neither form could be checked against
/// the text of the standard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerQuirks {
    /// The tag of general-ciphering does not cover the header. What is neither signed nor counted, an unsigned APDU under
    /// a wrapped or a one-pass key, is refused then: anybody could send it again under another transaction-id.
    pub short_aad: bool,
    /// The signature of general-signing does not cover the length of the content.
    pub unsized_content: bool,
}

/// How keys are used.
#[derive(Debug, Clone, Copy)]
pub struct LocalSettings {
    /// Security suite, 0 to 2; it must go with the size of the keys.
    pub suite: u8,
    /// Own system title.
    pub own_title: SystemTitle,
    /// Whether mechanisms 3 and 4 are spoken: MD5 and SHA-1.
    pub legacy_mechanisms: bool,
    /// Whether encryption without authentication is accepted and made.
    pub danger_unauthenticated: bool,
    /// Whether requests are opened and responses sealed, instead of the other way round.
    pub is_server: bool,
    /// What the peers do differently.
    pub quirks: PeerQuirks,
}

impl LocalSettings {
    /// A client of a suite, as the standard has it.
    #[must_use]
    pub const fn client(suite: u8, own_title: SystemTitle) -> Self {
        let quirks = PeerQuirks { short_aad: false, unsized_content: false };
        Self {
            suite,
            own_title,
            legacy_mechanisms: false,
            danger_unauthenticated: false,
            is_server: false,
            quirks,
        }
    }

    /// A server of a suite, as the standard has it.
    #[must_use]
    pub const fn server(suite: u8, own_title: SystemTitle) -> Self {
        Self { is_server: true, ..Self::client(suite, own_title) }
    }

    /// The curve of its asymmetric keys.
    #[must_use]
    pub const fn curve(&self) -> Curve {
        Curve::of_suite(self.suite)
    }
}

/// What an APDU is sealed with.
#[derive(Debug, Clone, Copy)]
struct Layers {
    carrier: Carrier,
    protection: Protection,
    signing: Signing,
    /// Whom it is for.
    peer: Option<SystemTitle>,
}

#[derive(Debug)]
struct Dedicated<const N: usize> {
    key: Key<DedicatedKey, N>,
    sending: InvocationCounter,
    received: Option<u32>,
}

/// What belongs to one association.
#[derive(Debug)]
struct Secrets<const N: usize> {
    /// Waits for the peer's reply.
    challenge: Option<Vec<u8>>,
    /// Was answered rightly; only our own reply may still use it.
    spent: Option<Vec<u8>>,
    dedicated: Option<Dedicated<N>>,
    /// The last counter accepted under the global key in this association, and the one before it.
    last_accepted: Option<(Option<u32>, u32)>,
    /// Client: the transaction of the request that is not yet answered. Server: that of the request to be answered.
    transaction: Option<TransactionId>,
}

impl<const N: usize> Default for Secrets<N> {
    fn default() -> Self {
        Self { challenge: None, spent: None, dedicated: None, last_accepted: None, transaction: None }
    }
}

/// Performs [`Operation`]s with the keys of one security setup. Associations that share the setup share its counters.
#[derive(Debug)]
pub struct LocalCrypto<const N: usize = 16> {
    settings: LocalSettings,
    keys: KeyRing<N>,
    sending: InvocationCounter,
    broadcast_sending: InvocationCounter,
    received: BTreeMap<(KeySet, SystemTitle), u32>,
    transactions: Transactions,
    associations: BTreeMap<AssociationHandle, Secrets<N>>,
}

impl<const N: usize> LocalCrypto<N> {
    /// A performer whose sending counter goes on at `sending_end`: the durable end of the last reservation, for a new
    /// key 0.
    #[must_use]
    pub const fn new(settings: LocalSettings, keys: KeyRing<N>, sending_end: u64) -> Self {
        Self {
            settings,
            keys,
            sending: InvocationCounter::resume(sending_end),
            broadcast_sending: InvocationCounter::resume(0),
            received: BTreeMap::new(),
            transactions: Transactions::new(),
            associations: BTreeMap::new(),
        }
    }

    /// Goes on with a broadcast sending counter.
    pub const fn resume_broadcast(&mut self, sending_end: u64) {
        self.broadcast_sending = InvocationCounter::resume(sending_end);
    }

    /// Goes on with the highest counter that was accepted from a peer. It never lowers one.
    pub fn resume_received(&mut self, set: KeySet, peer: SystemTitle, counter: u32) {
        let entry = self.received.entry((set, peer)).or_insert(counter);
        *entry = (*entry).max(counter);
    }

    /// Uses other keys from now on. Associations that are open stay so; what they send under an old key does not open
    /// any more. The caller knows the counters of each new key: a key that comes back goes on where it stood (rule S1).
    pub fn replace(&mut self, new: NewKeys<N>) {
        //= DLMS 6.2: the counters of a changed key begin again, those of a known key go on
        let mut taken: Vec<(KeySet, KeyCounters)> = Vec::new();
        if let Some((key, counters)) = new.guek {
            self.keys.guek = key;
            self.sending = InvocationCounter::resume(counters.sending_end);
            taken.push((KeySet::Unicast, counters));
        }
        if let Some((key, counters)) = new.gbek {
            self.keys.gbek = Some(key);
            self.broadcast_sending = InvocationCounter::resume(counters.sending_end);
            taken.push((KeySet::Broadcast, counters));
        }
        for (set, counters) in taken {
            self.received.retain(|(other, _), _| *other != set);
            self.received.extend(counters.received.into_iter().map(|(peer, counter)| ((set, peer), counter)));
        }
        if let Some(key) = new.gak {
            self.keys.gak = key;
        }
        let KeyRing { secret, password, signing, agreement, kek, .. } = &mut self.keys;
        // A password is sent in clear, and changed without the master key: neither takes the place of the other.
        *password = new.password.or(password.take());
        if new.secret.is_some() && password.is_none() {
            *password = secret.take();
        }
        *secret = new.secret.or(secret.take());
        *signing = new.signing.or(signing.take());
        *agreement = new.agreement.or(agreement.take());
        *kek = new.kek.or(kek.take());
    }

    /// Goes on with the transaction-ids: own ones from `sending_end`, the durable end of the last reservation.
    pub const fn resume_transactions(&mut self, sending_end: u64) {
        self.transactions.resume(sending_end);
    }

    /// Goes on with the highest transaction-id that was accepted from a peer. It never lowers one.
    pub fn resume_transaction_of(&mut self, peer: SystemTitle, id: u64) {
        self.transactions.resume_of(peer, id);
    }

    /// The master key.
    #[must_use]
    pub const fn kek(&self) -> Option<&Key<Kek, N>> {
        self.keys.kek.as_ref()
    }

    /// Goes on above a counter that the server says it has seen of us, read without protection by a public client. It
    /// is a hint of anybody: it never lowers the counter, and moves it by at most [`HINT_JUMP_MAX`].
    ///
    /// # Errors
    /// [`CryptoFault::Counter`] for a hint too far away; [`CryptoFault::Unavailable`] when the new counter could not
    /// be made durable. Nothing changed.
    ///
    /// # Source
    /// DLMS fact sheet, section 5.9.
    pub fn follow_hint(&mut self, seen: u32, ports: &mut Ports<'_>) -> Result<(), CryptoFault> {
        //= DLMS 12.17: a hint never lowers the own counter and never moves it far
        let next = u64::from(seen).saturating_add(1);
        let own = self.sending.reserve(0).map_err(|_| CryptoFault::Exhausted)?.end();
        if next <= own {
            return Ok(());
        }
        if next.saturating_sub(own) > HINT_JUMP_MAX {
            let lowest = u32::try_from(own).unwrap_or(u32::MAX);
            return Err(CryptoFault::Counter { found: seen, lowest });
        }
        ports.counters.reserve(KeySet::Unicast, next).map_err(|_| CryptoFault::Unavailable)?;
        self.sending = InvocationCounter::resume(next);
        Ok(())
    }

    /// Highest counter that was accepted from a peer.
    #[must_use]
    pub fn last_received(&self, set: KeySet, peer: SystemTitle) -> Option<u32> {
        self.received.get(&(set, peer)).copied()
    }

    /// Performs one operation of the association `handle`.
    ///
    /// # Errors
    /// [`CryptoFault`], for the log. A refused APDU changes no counter.
    pub fn perform(
        &mut self,
        handle: AssociationHandle,
        operation: &Operation,
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        if let Operation::End = operation {
            self.associations.remove(&handle);
            return Ok(Done::Verified);
        }
        if !self.associations.contains_key(&handle) {
            if self.associations.len() >= ASSOCIATIONS_MAX {
                return Err(CryptoFault::Unavailable);
            }
            self.associations.insert(handle, Secrets::default());
        }
        match operation {
            Operation::Challenge(mechanism) => self.challenge(handle, *mechanism, ports),
            Operation::Password => Ok(Done::Bytes(self.password()?.danger_password())),
            Operation::CheckPassword(password) => match self.password()?.is_password(password) {
                true => Ok(Done::Verified),
                false => Err(CryptoFault::Authentication),
            },
            Operation::SealInitiate { apdu, dedicated } => {
                self.seal_initiate(handle, apdu, *dedicated, ports)
            }
            Operation::OpenInitiate { apdu, peer } => self.open_initiate(handle, apdu, *peer, ports),
            Operation::Seal { carrier, protection, signing, peer, apdu } => {
                let layers =
                    Layers { carrier: *carrier, protection: *protection, signing: *signing, peer: *peer };
                self.seal(handle, layers, apdu, ports)
            }
            Operation::Open { apdu, peer, is_broadcast } => {
                let set = if *is_broadcast { KeySet::Broadcast } else { KeySet::Unicast };
                self.open(handle, apdu, *peer, set, ports)
            }
            Operation::HlsReply(peer) => self.hls_reply(handle, peer, ports),
            Operation::HlsVerify { peer, reply } => self.hls_verify(handle, peer, reply, ports),
            Operation::End => Ok(Done::Verified),
        }
    }

    /// Seals an APDU for everybody who has the broadcast key, with authentication and encryption: general-glo.
    ///
    /// # Errors
    /// [`CryptoFault::NoKey`] without a broadcast key.
    pub fn seal_broadcast(&mut self, carrier: Carrier, apdu: &[u8], ports: &mut Ports<'_>) -> CryptoResult {
        let ticket = ticket(&mut self.broadcast_sending, KeySet::Broadcast, ports)?;
        let gbek = self.keys.gbek.as_ref().ok_or(CryptoFault::NoKey)?;
        let control = 0x40 | Protection::AuthenticatedEncrypted.bits() | self.settings.suite;
        let header = apdu::Header { originator: self.settings.own_title, security_control: control };
        let invocation_counter = ticket.value();
        let body =
            apdu::protect(gbek, &self.keys.gak, header, ticket, apdu).ok_or(CryptoFault::Unavailable)?;
        self.carried(carrier, control, invocation_counter, apdu.first().copied(), &body).map(Done::Bytes)
    }

    fn secret(&self) -> Result<&Secret, CryptoFault> {
        self.keys.secret.as_ref().ok_or(CryptoFault::NoKey)
    }

    fn password(&self) -> Result<&Secret, CryptoFault> {
        self.keys.password.as_ref().or(self.keys.secret.as_ref()).ok_or(CryptoFault::NoKey)
    }

    fn secrets(&mut self, handle: AssociationHandle) -> &mut Secrets<N> {
        self.associations.entry(handle).or_default()
    }

    /// Mechanisms that are spoken; each is refused by name otherwise.
    fn spoken(&self, mechanism: Mechanism) -> Result<(), CryptoFault> {
        let is_spoken = match mechanism {
            Mechanism::None | Mechanism::LowLevel | Mechanism::Gmac | Mechanism::Sha256 => true,
            Mechanism::Md5 | Mechanism::Sha1 => self.settings.legacy_mechanisms,
            //= DLMS 4: mechanism 2 is recognised and refused
            Mechanism::Manufacturer => false,
            Mechanism::Ecdsa => self.keys.signing.is_some(),
        };
        if is_spoken { Ok(()) } else { Err(CryptoFault::Mechanism(mechanism)) }
    }

    fn challenge(
        &mut self,
        handle: AssociationHandle,
        mechanism: Mechanism,
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        self.spoken(mechanism)?;
        //= DLMS 12.3: challenges come from the cryptographic generator
        let mut challenge = alloc::vec![0; CHALLENGE_SIZE];
        ports.rng.fill(&mut challenge).map_err(|_| CryptoFault::Unavailable)?;
        self.secrets(handle).challenge = Some(challenge.clone());
        Ok(Done::Bytes(challenge))
    }

    fn seal_initiate(
        &mut self,
        handle: AssociationHandle,
        plain: &[u8],
        dedicated: bool,
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        //= DLMS 3.4: the initiate is protected with the global key, also when it delivers a dedicated one
        if !dedicated {
            let body = self.ciphered(handle, Carrier::Glo, Protection::AuthenticatedEncrypted, plain, ports);
            return body.map(Done::Bytes);
        }
        let key: Key<DedicatedKey, N> = Key::generate(ports.rng).map_err(|_| CryptoFault::Unavailable)?;
        let ticket = ticket(&mut self.sending, KeySet::Unicast, ports)?;
        let invocation_counter = ticket.value();
        let control = Protection::AuthenticatedEncrypted.bits() | self.settings.suite;
        let header = apdu::Header { originator: self.settings.own_title, security_control: control };
        // `01 00 rest` becomes `01 01 length key rest`.
        let [first, 0, rest @ ..] = plain else { return Err(CryptoFault::Form) };
        let (guek, gak) = (&self.keys.guek, &self.keys.gak);
        let body = apdu::protect_with_key(guek, gak, header, ticket, &[*first, 1], &key, rest)
            .ok_or(CryptoFault::Unavailable)?;
        self.secrets(handle).dedicated = Some(Dedicated::new(key));
        self.carried(Carrier::Glo, control, invocation_counter, Some(*first), &body).map(Done::Bytes)
    }

    /// The control octet of a protection, if that one is made here.
    const fn control(&self, protection: Protection) -> Result<u8, CryptoFault> {
        let is_allowed = match protection {
            Protection::None => false,
            Protection::Encrypted => self.settings.danger_unauthenticated,
            Protection::Authenticated | Protection::AuthenticatedEncrypted => true,
        };
        //= DLMS 12.8: the control octet says what is done
        //= DLMS 12.9: the suite is in every control octet
        let control = protection.bits() | self.settings.suite;
        if is_allowed { Ok(control) } else { Err(CryptoFault::SecurityControl(SecurityControl(control))) }
    }

    /// One of the four carriers around an APDU.
    #[expect(clippy::too_many_arguments, reason = "one APDU and everything it is judged by")]
    fn ciphered(
        &mut self,
        handle: AssociationHandle,
        carrier: Carrier,
        protection: Protection,
        plain: &[u8],
        ports: &mut Ports<'_>,
    ) -> Result<Vec<u8>, CryptoFault> {
        let control = self.control(protection)?;
        let header = apdu::Header { originator: self.settings.own_title, security_control: control };
        let Self { keys, sending, associations, .. } = self;
        let (invocation_counter, body) = if carrier.is_dedicated() {
            let secrets = associations.get_mut(&handle).ok_or(CryptoFault::NoKey)?;
            let dedicated = secrets.dedicated.as_mut().ok_or(CryptoFault::NoKey)?;
            //= DLMS 12.11: a dedicated key has a counter of its own, from 0
            let ticket = dedicated.sending.take().map_err(|_| CryptoFault::Exhausted)?;
            (ticket.value(), apdu::protect(&dedicated.key, &keys.gak, header, ticket, plain))
        } else {
            let ticket = ticket(sending, KeySet::Unicast, ports)?;
            (ticket.value(), apdu::protect(&keys.guek, &keys.gak, header, ticket, plain))
        };
        let body = body.ok_or(CryptoFault::Unavailable)?;
        self.carried(carrier, control, invocation_counter, plain.first().copied(), &body)
    }

    #[expect(clippy::too_many_arguments, reason = "one APDU and everything it is judged by")]
    fn carried(
        &self,
        carrier: Carrier,
        control: u8,
        invocation_counter: u32,
        tag: Option<u8>,
        body: &[u8],
    ) -> Result<Vec<u8>, CryptoFault> {
        let protected = Protected { security_control: SecurityControl(control), invocation_counter, body };
        let title = Some(self.settings.own_title);
        carry(carrier, tag.ok_or(CryptoFault::Form)?, title, &protected).ok_or(CryptoFault::Form)
    }

    /// Own challenge, title and peer's for mechanism 6: `[own title, peer title, peer challenge, own challenge]`.
    fn hls_reply(
        &mut self,
        handle: AssociationHandle,
        peer: &PeerChallenge,
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        self.spoken(peer.mechanism)?;
        let own = self.settings.own_title;
        let reply = match peer.mechanism {
            Mechanism::Md5 => self.secret()?.md5_reply(&peer.challenge),
            Mechanism::Sha1 => self.secret()?.sha1_reply(&peer.challenge),
            Mechanism::Sha256 | Mechanism::Ecdsa => {
                let peer_title = peer.title.ok_or(CryptoFault::Title)?;
                let secrets = self.secrets(handle);
                let challenge = secrets.challenge.as_ref().or(secrets.spent.as_ref()).cloned();
                let challenge = challenge.ok_or(CryptoFault::Authentication)?;
                let parts: [&[u8]; 4] = [own.as_bytes(), peer_title.as_bytes(), &peer.challenge, &challenge];
                if peer.mechanism == Mechanism::Sha256 {
                    self.secret()?.sha256_reply(parts)
                } else {
                    //= DLMS 4: mechanism 7 signs titles and challenges, r and s as they are
                    let keys = self.keys.signing.as_ref().ok_or(CryptoFault::NoKey)?;
                    keys.own.sign(&parts.concat()).ok_or(CryptoFault::Unavailable)?
                }
            }
            Mechanism::Gmac => {
                //= DLMS 4: the counter of mechanism 5 is drawn from the sequence of the global key
                let ticket = ticket(&mut self.sending, KeySet::Unicast, ports)?;
                let control = self.gmac_control();
                let header = apdu::Header { originator: own, security_control: control };
                let counter = ticket.value();
                let tag = apdu::gmac(&self.keys.guek, &self.keys.gak, header, ticket, &peer.challenge)
                    .ok_or(CryptoFault::Unavailable)?;
                [&[control][..], &counter.to_be_bytes(), &tag].concat()
            }
            other => return Err(CryptoFault::Mechanism(other)),
        };
        Ok(Done::Bytes(reply))
    }

    const fn gmac_control(&self) -> u8 {
        Protection::Authenticated.bits() | self.settings.suite
    }
}

impl<const N: usize> Dedicated<N> {
    fn new(key: Key<DedicatedKey, N>) -> Self {
        let mut sending = InvocationCounter::resume(0);
        // Key and counter end together, with the association: there is nothing to make durable.
        if let Ok(all) = sending.reserve(u32::MAX) {
            sending.extend(all);
        }
        Self { key, sending, received: None }
    }
}

/// The next sending counter; a new block is durable before its first value is used.
fn ticket(
    counter: &mut InvocationCounter,
    set: KeySet,
    ports: &mut Ports<'_>,
) -> Result<Ticket, CryptoFault> {
    //= DLMS 5.9: sending counters are durable before use and never go down
    match counter.take() {
        Ok(ticket) => return Ok(ticket),
        Err(CounterError::NothingReserved) => {}
        Err(_) => return Err(CryptoFault::Exhausted),
    }
    let block: Reservation = counter.reserve(RESERVE).map_err(|_| CryptoFault::Exhausted)?;
    ports.counters.reserve(set, block.end()).map_err(|_| CryptoFault::Unavailable)?;
    counter.extend(block);
    counter.take().map_err(|_| CryptoFault::Exhausted)
}
