//! Meters with real cryptography and the quirks of their vendors.

use std::collections::BTreeMap;

use gridseal_crypto::{
    Curve, CurvePublic, CurveSigner, InvocationCounter, Key, WRAP_OVERHEAD, apdu,
    role::{Gak, Guek, Kek, Role},
};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::carrier::{Carrier as Form, CipheredApdu, Signing},
    assoc::{AssociationHandle, CryptoFault, Done, Operation, PeerChallenge, Protection},
    suite::{
        agreement::{Parties, Side, read_key_data},
        local::{CounterStore, CounterStoreError, KeyRing, KeySet, LocalCrypto, LocalSettings, Ports},
    },
    wire::Writer,
};
use gridseal_keys::{Core, lease::CounterLayout};
use gridseal_types::{SystemTitle, service::keys::Carrier};

use super::disk::{KeyHash, hash_of};
use crate::{HashRng, works};

/// How long a meter is locked, seconds; and after which time failures are forgotten.
const LOCKED_S: u64 = 3_600;
const FORGOTTEN_S: u64 = 24 * 3_600;
/// The one association.
const HANDLE: AssociationHandle = AssociationHandle(1);
/// Start of ACTION normal on a method, before class, instance and method.
const ACTION: [u8; 2] = [0xC3, 0x01];
/// Result codes: success, and a refusal of any kind.
const SUCCESS: u8 = 0;
const REFUSED: u8 = 3;
/// Number of the master key in class 64.
const MASTER: u8 = 3;

/// What differs between vendors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quirks {
    /// Keys of one transfer are taken one by one, not all or none.
    pub(super) one_by_one: bool,
    /// The answer to a transfer is already under the new keys.
    pub(super) answers_under_new: bool,
    /// The sending counter goes on with a new key instead of beginning at 0.
    pub(super) goes_on_counting: bool,
    pub(super) layout: CounterLayout,
    pub(super) carrier: Carrier,
    /// Largest step of a counter that is accepted.
    pub(super) jump_max: Option<u32>,
    /// Failures after which it is locked.
    pub(super) lockout: u16,
}

/// What goes wrong in the meter while it takes a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    None,
    /// It refuses the key at this place.
    Refuses(usize),
    /// It takes the keys, and says that it does not.
    SaysNo,
    /// Its power fails before the key at this place; no answer.
    PowerFails(usize),
}

/// A key's bytes, 16 or 32 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyBytes {
    bytes: [u8; 32],
    size: usize,
}

impl From<[u8; 16]> for KeyBytes {
    fn from(bytes: [u8; 16]) -> Self {
        Self::new(&bytes)
    }
}

impl KeyBytes {
    pub(super) fn new(from: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes[..from.len()].copy_from_slice(from);
        Self { bytes, size: from.len() }
    }

    pub(super) fn of<R: Role, const N: usize>(key: &Key<R, N>) -> Self {
        Self::new(&unhex(&key.danger_reveal_hex()))
    }

    fn hex(&self) -> String {
        hex(&self.bytes[..self.size])
    }

    /// As a key of its size; one of the other size is a mistake of the caller's.
    pub(super) fn key<R: Role, const N: usize>(&self) -> Key<R, N> {
        Key::take_slice(&mut self.bytes[..self.size].to_vec()).expect("of this size")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MeterKeys {
    pub(crate) guek: KeyBytes,
    pub(crate) gak: KeyBytes,
    pub(crate) kek: KeyBytes,
    /// Suite of encryption and authentication key, and of the master key: that is what comes under it.
    pub(crate) suite: u8,
    pub(crate) kek_suite: u8,
    /// It has agreed upon the master key: until an answer arrived nobody else knows it, and nobody needs it.
    pub(crate) kek_agreed: bool,
}

/// What a meter signs with.
fn signer(title: SystemTitle, curve: Curve) -> CurveSigner {
    works::meter_signer(title, curve)
}
/// What a meter keeps, and what an old copy of its flash brings back.
#[derive(Debug, Clone)]
pub(super) struct Flash {
    pub(super) keys: MeterKeys,
    received: BTreeMap<SystemTitle, u32>,
}

/// What came of an APDU.
#[derive(Debug, Default)]
pub(super) struct Handled {
    /// The answer, the key it is under, and what it says.
    pub(super) answer: Option<Sent>,
    /// What was said was not authentic under the keys of the meter.
    pub(super) failed: bool,
    /// The meter has locked itself up just now.
    pub(super) locked: bool,
    /// Its keys changed.
    pub(super) changed: bool,
}

/// One protected APDU that a meter has sent, with the tag of an authentication inside it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) plain: Vec<u8>,
    pub(super) key: KeyHash,
    /// Counter and tag of a proof of authentication.
    pub(super) proof: Option<(u32, [u8; 12])>,
}

#[derive(Debug)]
pub(crate) struct Meter {
    pub(super) title: SystemTitle,
    pub(super) quirks: Quirks,
    pub(super) flash: Flash,
    /// Whose signing key it believes.
    owner: &'static Core,
    /// Copies of the flash that may come back.
    pub(super) copies: Vec<Flash>,
    /// Ends of reserved sending counters by encryption key: in a store that never goes back.
    sending: BTreeMap<KeyBytes, u64>,
    crypto: Crypto,
    rng: HashRng,
    peer: Option<PeerChallenge>,
    failures: u16,
    failed_at: u64,
    locked_until: u64,
    readings: u32,
    /// Encryption key and counter used last.
    last: Option<(KeyBytes, u32)>,
}

/// Of suites 0 and 1, or of suite 2.
#[derive(Debug)]
enum Crypto {
    Short(LocalCrypto<16>),
    Long(LocalCrypto<32>),
}

struct Store<'m> {
    guek: KeyBytes,
    sending: &'m mut BTreeMap<KeyBytes, u64>,
    received: &'m mut BTreeMap<SystemTitle, u32>,
}

impl CounterStore for Store<'_> {
    fn reserve(&mut self, _: KeySet, end: u64) -> Result<(), CounterStoreError> {
        self.sending.insert(self.guek, end);
        Ok(())
    }

    fn accepted(&mut self, _: KeySet, peer: SystemTitle, counter: u32) -> Result<(), CounterStoreError> {
        self.received.insert(peer, counter);
        Ok(())
    }

    // Nobody speaks general-ciphering to it.
    fn reserve_transactions(&mut self, _: u64) -> Result<(), CounterStoreError> {
        Err(CounterStoreError)
    }

    fn accepted_transaction(&mut self, _: SystemTitle, _: u64) -> Result<(), CounterStoreError> {
        Err(CounterStoreError)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex");
    (0..hex.len() / 2).map(byte).collect()
}

fn crypto(title: SystemTitle, flash: &Flash, sending: &BTreeMap<KeyBytes, u64>) -> Crypto {
    if flash.keys.suite == 2 {
        Crypto::Long(crypto_of(title, flash, sending))
    } else {
        Crypto::Short(crypto_of(title, flash, sending))
    }
}

fn crypto_of<const N: usize>(
    title: SystemTitle,
    flash: &Flash,
    sending: &BTreeMap<KeyBytes, u64>,
) -> LocalCrypto<N> {
    let MeterKeys { guek, gak, suite, .. } = flash.keys;
    let settings = LocalSettings::server(suite, title);
    let end = sending.get(&guek).copied().unwrap_or_default();
    let mut crypto = LocalCrypto::new(settings, KeyRing::new(guek.key(), gak.key()), end);
    for (peer, counter) in &flash.received {
        crypto.resume_received(KeySet::Unicast, *peer, *counter);
    }
    crypto
}

fn of_guek<const N: usize>(key: &Key<Guek, N>) -> KeyBytes {
    KeyBytes::of(key)
}

impl MeterKeys {
    /// As a meter of suite 0 is delivered.
    pub(crate) const fn of_suite_0(guek: KeyBytes, gak: KeyBytes, kek: KeyBytes) -> Self {
        Self { guek, gak, kek, suite: 0, kek_suite: 0, kek_agreed: false }
    }

    /// Hashes of encryption, authentication and master key.
    pub(super) fn hashes(&self) -> [KeyHash; 3] {
        [self.guek, self.gak, self.kek].map(|key| hash_of(&key.hex()))
    }

    /// Keys without which the meter is out of reach: a master key that was agreed upon is none of them.
    pub(super) fn needed(&self) -> Vec<KeyHash> {
        let count = if self.kek_agreed { 2 } else { 3 };
        self.hashes().into_iter().take(count).collect()
    }
}

impl Meter {
    pub(super) fn new(
        title: SystemTitle,
        quirks: Quirks,
        keys: MeterKeys,
        owner: &'static Core,
        rng: HashRng,
    ) -> Self {
        let flash = Flash { keys, received: BTreeMap::new() };
        let sending = BTreeMap::new();
        let crypto = crypto(title, &flash, &sending);
        Self {
            title,
            quirks,
            flash,
            owner,
            copies: Vec::new(),
            sending,
            crypto,
            rng,
            peer: None,
            failures: 0,
            failed_at: 0,
            locked_until: 0,
            readings: 0,
            last: None,
        }
    }

    fn guek(&self) -> KeyHash {
        hash_of(&self.flash.keys.guek.hex())
    }

    /// It starts again with what its flash says.
    pub(super) fn restart(&mut self) {
        self.crypto = crypto(self.title, &self.flash, &self.sending);
        self.peer = None;
    }

    fn perform(&mut self, operation: &Operation) -> Result<Done, CryptoFault> {
        let Self { crypto, flash, sending, rng, .. } = self;
        let mut counters = Store { guek: flash.keys.guek, sending, received: &mut flash.received };
        let mut ports = Ports { counters: &mut counters, rng };
        match crypto {
            Crypto::Short(crypto) => crypto.perform(HANDLE, operation, &mut ports),
            Crypto::Long(crypto) => crypto.perform(HANDLE, operation, &mut ports),
        }
    }

    /// Protects an APDU of its own.
    fn seal(&mut self, plain: Vec<u8>) -> Sent {
        let form = match self.quirks.carrier {
            Carrier::GeneralGlo => Form::GeneralGlo,
            _ if plain.first() == Some(&0x0F) => Form::GeneralGlo,
            _ => Form::Glo,
        };
        let protection = Protection::AuthenticatedEncrypted;
        let (signing, peer, apdu) = (Signing::None, None, plain.clone());
        let done = self.perform(&Operation::Seal { carrier: form, protection, signing, peer, apdu });
        let Ok(Done::Bytes(bytes)) = done else { unreachable!("a meter has its keys: {done:?}") };
        self.last = Some((self.flash.keys.guek, super::watch::counter_of(&bytes)));
        Sent { bytes, plain, key: self.guek(), proof: None }
    }

    fn reading(&mut self) -> [u8; 8] {
        self.readings += 1;
        (u64::from(self.readings) << 8 | u64::from(self.title.0[7])).to_be_bytes()
    }

    /// A reading that nobody asked for.
    pub(super) fn push(&mut self) -> Sent {
        let reading = self.reading();
        self.seal([&[0x0F, 0, 0, 0, 1, 0, 9, 8][..], &reading].concat())
    }

    /// Somebody with a copy of its keys says something under a counter that the meter has used.
    pub(super) fn clone_says(&mut self) -> Option<Sent> {
        let (_, counter) = self.last.filter(|(guek, _)| *guek == self.flash.keys.guek)?;
        let plain = [&[0x0F, 0, 0, 0, 1, 0, 9, 8][..], &[0xFF; 8]].concat();
        let mut used = InvocationCounter::resume(u64::from(counter));
        let one = used.reserve(1).ok()?;
        used.extend(one);
        let ticket = used.take().ok()?;
        let MeterKeys { guek, gak, suite, .. } = self.flash.keys;
        let header = apdu::Header { originator: self.title, security_control: 0x30 | suite };
        let counter = ticket.value();
        let body = if suite == 2 {
            apdu::protect(&guek.key::<Guek, 32>(), &gak.key::<Gak, 32>(), header, ticket, &plain)?
        } else {
            apdu::protect(&guek.key::<Guek, 16>(), &gak.key::<Gak, 16>(), header, ticket, &plain)?
        };
        let mut writer = Writer::with_capacity(64);
        writer.bytes(&[0xDB]);
        writer.prefixed(self.title.as_bytes());
        writer.prefixed(&[&[header.security_control][..], &counter.to_be_bytes(), &body].concat());
        let bytes = writer.into_bytes();
        Some(Sent { bytes, plain, key: self.guek(), proof: None })
    }

    /// Everything that it had is gone, and nobody can reach it.
    pub(super) fn wipe(&mut self) {
        let gone = KeyBytes::from([0; 16]);
        self.take(MeterKeys::of_suite_0(gone, gone, gone));
        self.copies.clear();
        self.locked_until = u64::MAX;
    }

    pub(super) fn is_locked(&self, tick: u64) -> bool {
        tick < self.locked_until
    }

    /// The start of an association: its challenge.
    pub(super) fn associate(
        &mut self,
        client: SystemTitle,
        challenge: Vec<u8>,
        tick: u64,
    ) -> Option<Vec<u8>> {
        if self.is_locked(tick) {
            return None;
        }
        let done = self.perform(&Operation::Challenge(Mechanism::Gmac));
        let Ok(Done::Bytes(own)) = done else { unreachable!("a meter draws challenges") };
        self.peer = Some(PeerChallenge { mechanism: Mechanism::Gmac, title: Some(client), challenge });
        Some(own)
    }

    /// A protected APDU has arrived.
    pub(super) fn handle(&mut self, client: SystemTitle, bytes: &[u8], mishap: Mishap, tick: u64) -> Handled {
        let mut handled = Handled::default();
        if self.is_locked(tick) || self.jumps(client, bytes) {
            return handled;
        }
        let open = Operation::Open { apdu: bytes.to_vec(), peer: Some(client), is_broadcast: false };
        let plain = match self.perform(&open) {
            Ok(Done::Opened { plain, .. }) => plain,
            Err(CryptoFault::Tag) => {
                handled.failed = true;
                handled.locked = self.count_failure(tick);
                return handled;
            }
            _ => return handled,
        };
        self.failures = 0;
        handled.answer = match plain.as_slice() {
            [0xC0, _, invoke, ..] => {
                let reading = self.reading();
                Some(self.seal([&[0xC4, 1, *invoke, 0, 9, 8][..], &reading].concat()))
            }
            [a, b, _, 0, 64, _, _, _, _, _, _, 3, ..] if [*a, *b] == ACTION => {
                self.agree(client, &plain[17..], mishap, &mut handled)
            }
            [a, b, _, 0, 64, ..] if [*a, *b] == ACTION => self.transfer(&plain[13..], mishap, &mut handled),
            [a, b, _, 0, 15, ..] if [*a, *b] == ACTION => self.authenticate(&plain[15..]),
            _ => None,
        };
        handled
    }

    fn jumps(&self, client: SystemTitle, bytes: &[u8]) -> bool {
        let Some(jump_max) = self.quirks.jump_max else { return false };
        let Ok(apdu) = CipheredApdu::from_bytes(bytes) else { return false };
        let last = self.flash.received.get(&client).copied().unwrap_or_default();
        apdu.protected.invocation_counter > last.saturating_add(jump_max)
    }

    fn count_failure(&mut self, tick: u64) -> bool {
        if tick - self.failed_at >= FORGOTTEN_S {
            self.failures = 0;
        }
        self.failed_at = tick;
        self.failures += 1;
        let locks = self.failures >= self.quirks.lockout;
        if locks {
            (self.failures, self.locked_until) = (0, tick + LOCKED_S);
        }
        locks
    }

    /// ACTION key_transfer: an array of {key_id, wrapped key}.
    fn transfer(&mut self, parameter: &[u8], mishap: Mishap, handled: &mut Handled) -> Option<Sent> {
        let before = self.flash.keys;
        let (mut keys, mut result, mut answers) = (before, SUCCESS, true);
        // What comes under a master key of another suite is of that one, and comes whole.
        let rises = before.kek_suite != before.suite;
        let items: Vec<&[u8]> = parameter[2..].chunks(6 + before.kek.size + WRAP_OVERHEAD).collect();
        for (place, item) in items.iter().enumerate() {
            let (id, wrapped) = (item[3], &item[6..]);
            let stops = match mishap {
                Mishap::Refuses(at) | Mishap::PowerFails(at) => at == place,
                Mishap::None | Mishap::SaysNo => false,
            };
            let key = match before.kek.size {
                32 => before.kek.key::<Kek, 32>().unwrap_transferred(wrapped).as_ref().map(of_guek),
                _ => before.kek.key::<Kek, 16>().unwrap_transferred(wrapped).as_ref().map(of_guek),
            };
            let Some(key) = key.filter(|_| !stops && (!rises || items.len() == 2)) else {
                if !self.quirks.one_by_one || rises {
                    keys = before;
                }
                result = REFUSED;
                answers = !matches!(mishap, Mishap::PowerFails(_));
                break;
            };
            match id {
                0 => keys.guek = key,
                2 => keys.gak = key,
                _ => (keys.kek, keys.kek_agreed) = (key, false),
            }
        }
        if rises && result == SUCCESS {
            keys.suite = keys.kek_suite;
        }
        if mishap == Mishap::SaysNo {
            result = REFUSED;
        }
        let plain = vec![0xC7, 1, 0xC1, result];
        if self.quirks.answers_under_new && mishap != Mishap::SaysNo {
            handled.changed = self.take(keys);
            return answers.then(|| self.seal(plain));
        }
        let answer = answers.then(|| self.seal(plain));
        handled.changed = self.take(keys);
        answer
    }

    /// ACTION key_agreement of the master key: its point, and the signature over it. Never down.
    fn agree(
        &mut self,
        client: SystemTitle,
        parameter: &[u8],
        mishap: Mishap,
        handled: &mut Handled,
    ) -> Option<Sent> {
        // Type, number, type, and a length of two octets.
        let [_, MASTER, _, _, _, key_data @ ..] = parameter else { return None };
        let curve = if key_data.len() == 2 * Curve::P256.point_size() { Curve::P256 } else { Curve::P384 };
        let suite = if curve == Curve::P256 { 1 } else { 2 };
        let refused = vec![0xC7, 1, 0xC1, REFUSED];
        if matches!(mishap, Mishap::Refuses(_)) || suite < self.flash.keys.suite {
            return Some(self.seal(refused));
        }
        if mishap == Mishap::PowerFails(0) {
            return None;
        }
        let owner: CurvePublic = self.owner.keystore().signing_public(curve)?;
        let Ok(point) = read_key_data(curve, MASTER, key_data, &[owner]) else {
            return Some(self.seal(refused));
        };
        let side = Side::new(MASTER, curve, &mut self.rng).ok()?;
        let parties = Parties { client, server: self.title };
        let kek = match curve {
            Curve::P256 => KeyBytes::of(&side.key::<Kek, 16>(&point, parties).ok()?),
            Curve::P384 => KeyBytes::of(&side.key::<Kek, 32>(&point, parties).ok()?),
        };
        let own = side.key_data(&signer(self.title, curve)).ok()?;
        let mut writer = Writer::with_capacity(256);
        writer.bytes(&[0xC7, 1, 0xC1, SUCCESS, 1, 0, 1, 1, 2, 2, 0x16, MASTER, 9]);
        writer.prefixed(&own);
        let plain = if mishap == Mishap::SaysNo { refused } else { writer.into_bytes() };
        // The keys that seal the answer are the same before and after.
        let keys = MeterKeys { kek, kek_suite: suite, kek_agreed: true, ..self.flash.keys };
        handled.changed = self.take(keys);
        (mishap != Mishap::PowerFails(1)).then(|| self.seal(plain))
    }

    /// New keys, with counters of their own.
    pub(super) fn take(&mut self, keys: MeterKeys) -> bool {
        let before = self.flash.keys;
        if keys == before {
            return false;
        }
        self.copies.push(self.flash.clone());
        self.flash.keys = keys;
        if keys.guek != before.guek {
            self.flash.received.clear();
            if self.quirks.goes_on_counting {
                let end = self.sending.get(&before.guek).copied().unwrap_or_default();
                let known = self.sending.entry(keys.guek).or_default();
                *known = (*known).max(end);
            }
        }
        self.restart();
        true
    }

    /// The client's pass 3, and ours.
    fn authenticate(&mut self, reply: &[u8]) -> Option<Sent> {
        let peer = self.peer.take()?;
        self.perform(&Operation::HlsVerify { peer: peer.clone(), reply: reply.to_vec() }).ok()?;
        let Ok(Done::Bytes(own)) = self.perform(&Operation::HlsReply(peer)) else { return None };
        let counter = u32::from_be_bytes(*own[1..].first_chunk()?);
        let tag = *own[5..].first_chunk()?;
        let mut sent = self.seal([&[0xC7, 1, 0xC1, 0, 1, 0, 9, 17][..], &own].concat());
        sent.proof = Some((counter, tag));
        Some(sent)
    }

    /// An old copy of its flash comes back; what never goes back stays.
    pub(super) fn roll_back(&mut self, copy: usize) {
        self.flash = self.copies[copy].clone();
        self.restart();
    }
}
