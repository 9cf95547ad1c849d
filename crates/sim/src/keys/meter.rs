//! Meters with real cryptography and the quirks of their vendors.

use std::collections::BTreeMap;

use gridseal_crypto::{
    InvocationCounter, Key, WRAPPED_SIZE,
    role::{Gak, Guek, Kek},
};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::carrier::{Carrier as Form, CipheredApdu, Signing},
    assoc::{AssociationHandle, CryptoFault, Done, Operation, PeerChallenge, Protection},
    suite::{
        local::{CounterStore, CounterStoreError, KeyRing, KeySet, LocalCrypto, LocalSettings, Ports},
        protect::seal_general_glo,
    },
};
use gridseal_keys::lease::CounterLayout;
use gridseal_types::{SystemTitle, service::keys::Carrier};

use super::disk::{KeyHash, hash_of};
use crate::HashRng;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MeterKeys {
    pub(crate) guek: [u8; 16],
    pub(crate) gak: [u8; 16],
    pub(crate) kek: [u8; 16],
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
    /// Copies of the flash that may come back.
    pub(super) copies: Vec<Flash>,
    /// Ends of reserved sending counters by encryption key: in a store that never goes back.
    sending: BTreeMap<[u8; 16], u64>,
    crypto: LocalCrypto,
    rng: HashRng,
    peer: Option<PeerChallenge>,
    failures: u16,
    failed_at: u64,
    locked_until: u64,
    readings: u32,
    /// Encryption key and counter used last.
    last: Option<([u8; 16], u32)>,
}

struct Store<'m> {
    guek: [u8; 16],
    sending: &'m mut BTreeMap<[u8; 16], u64>,
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

pub(super) fn unhex(hex: &str) -> [u8; 16] {
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
}

fn crypto(title: SystemTitle, flash: &Flash, sending: &BTreeMap<[u8; 16], u64>) -> LocalCrypto {
    let settings = LocalSettings::server(0, title);
    let MeterKeys { mut guek, mut gak, .. } = flash.keys;
    let end = sending.get(&guek).copied().unwrap_or_default();
    let keys = KeyRing::new(Key::take(&mut guek), Key::take(&mut gak));
    let mut crypto = LocalCrypto::new(settings, keys, end);
    for (peer, counter) in &flash.received {
        crypto.resume_received(KeySet::Unicast, *peer, *counter);
    }
    crypto
}

impl MeterKeys {
    /// Hashes of encryption, authentication and master key.
    pub(super) fn hashes(&self) -> [KeyHash; 3] {
        [self.guek, self.gak, self.kek].map(|key| hash_of(&hex(&key)))
    }
}

impl Meter {
    pub(super) fn new(title: SystemTitle, quirks: Quirks, keys: MeterKeys, rng: HashRng) -> Self {
        let flash = Flash { keys, received: BTreeMap::new() };
        let sending = BTreeMap::new();
        let crypto = crypto(title, &flash, &sending);
        Self {
            title,
            quirks,
            flash,
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
        hash_of(&hex(&self.flash.keys.guek))
    }

    /// It starts again with what its flash says.
    pub(super) fn restart(&mut self) {
        self.crypto = crypto(self.title, &self.flash, &self.sending);
        self.peer = None;
    }

    fn perform(&mut self, operation: &Operation) -> Result<Done, CryptoFault> {
        let Self { crypto, flash, sending, rng, .. } = self;
        let mut counters = Store { guek: flash.keys.guek, sending, received: &mut flash.received };
        crypto.perform(HANDLE, operation, &mut Ports { counters: &mut counters, rng })
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
        let MeterKeys { mut guek, mut gak, .. } = self.flash.keys;
        let (guek, gak) = (Key::<Guek, 16>::take(&mut guek), Key::<Gak, 16>::take(&mut gak));
        let bytes = seal_general_glo(&guek, &gak, self.title, ticket, &plain).ok()?;
        Some(Sent { bytes, plain, key: self.guek(), proof: None })
    }

    /// Everything that it had is gone, and nobody can reach it.
    pub(super) fn wipe(&mut self) {
        let gone = [0; 16];
        self.take(MeterKeys { guek: gone, gak: gone, kek: gone });
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
        let kek: Key<Kek, 16> = Key::take(&mut before.kek.clone());
        let (mut keys, mut result, mut answers) = (before, SUCCESS, true);
        let items = parameter[2..].as_chunks::<{ 6 + WRAPPED_SIZE }>().0;
        for (place, item) in items.iter().enumerate() {
            let [_, _, _, id, _, _, wrapped @ ..] = item;
            let stops = match mishap {
                Mishap::Refuses(at) | Mishap::PowerFails(at) => at == place,
                Mishap::None | Mishap::SaysNo => false,
            };
            let key: Option<Key<Guek, 16>> = kek.unwrap_transferred(wrapped);
            let Some(key) = key.filter(|_| !stops) else {
                if !self.quirks.one_by_one {
                    keys = before;
                }
                result = REFUSED;
                answers = !matches!(mishap, Mishap::PowerFails(_));
                break;
            };
            let key = unhex(&key.danger_reveal_hex());
            match id {
                0 => keys.guek = key,
                2 => keys.gak = key,
                _ => keys.kek = key,
            }
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
