//! The meter's keys: as delivered, as changed since, and which counters of clients they have seen.
//!
//! What lies on flash of a changed key is that key wrapped under the delivered master key, which the root holds. So a
//! record without its root is worth nothing, and a key that a client brings is never written in clear.

use gridseal_crypto::{
    Key, WRAPPED_SIZE,
    role::{Gak, Guek, Kek, Role},
};
use gridseal_dlms::{
    apdu::ciphered::GeneralGlo,
    suite::protect::{OpenError, open_general_glo},
};
use gridseal_types::SystemTitle;

use super::RecordError;

/// Clients whose counters are kept under one encryption key: two sites and a successor of each. A further one is refused
/// until the key changes.
const CLIENTS_MAX: usize = 4;

/// The keys under which the meter seals and opens, as its owner delivered them.
#[derive(Debug)]
pub struct PushKeys {
    /// Global unicast encryption key.
    pub guek: Key<Guek, 16>,
    /// Authentication key.
    pub gak: Key<Gak, 16>,
    /// Master key: wraps what replaces the others, and what replaces itself.
    pub kek: Key<Kek, 16>,
}

/// Why a request was not opened: for the log alone, the peer learns nothing (rule S11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestRefusal {
    /// It names no originator, or the meter itself.
    #[error("request names no client")]
    Title,
    /// It does not open under the keys in use.
    #[error(transparent)]
    Crypto(#[from] OpenError),
    /// Its counter is not above the last one of this client.
    #[error("counter {0} of the client is not above the last one")]
    Counter(u32),
    /// Too many clients use this key.
    #[error("too many clients")]
    Clients,
    /// A request before it waits for its answer.
    #[error("a request before it is not answered yet")]
    Busy,
    /// It is addressed to another client or logical device than the management ones.
    #[error("service access points")]
    Address,
}

/// Keys that replace others, once their acknowledgement is sealed.
#[derive(Debug, Default)]
pub(super) struct Change {
    guek: Option<Key<Guek, 16>>,
    gak: Option<Key<Gak, 16>>,
    kek: Option<Key<Kek, 16>>,
}

/// What of the keys is in the record.
#[derive(Debug, Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
pub(super) struct KeptKeys {
    /// Key changes since the delivery.
    #[n(0)]
    changes: u32,
    /// GUEK, GAK and KEK in use, each wrapped under the delivered KEK; empty before the first change.
    #[cbor(n(1), with = "minicbor::bytes")]
    wrapped: Vec<u8>,
    /// Highest counter accepted of each client under the GUEK in use.
    #[n(2)]
    received: Vec<(SystemTitle, u32)>,
}

/// The keys in use.
#[derive(Debug)]
pub(super) struct KeyRing {
    delivered_kek: Key<Kek, 16>,
    /// The master key in use, when it is not the delivered one.
    kek: Option<Key<Kek, 16>>,
    pub(super) guek: Key<Guek, 16>,
    pub(super) gak: Key<Gak, 16>,
    changes: u32,
    received: Vec<(SystemTitle, u32)>,
}

impl KeyRing {
    /// The keys as delivered.
    pub(super) fn delivered(keys: PushKeys) -> Self {
        let PushKeys { guek, gak, kek } = keys;
        Self { delivered_kek: kek, kek: None, guek, gak, changes: 0, received: Vec::new() }
    }

    /// The keys as they are since the last durable record.
    pub(super) fn resume(keys: PushKeys, kept: &KeptKeys) -> Result<Self, RecordError> {
        let mut ring = Self::delivered(keys);
        ring.received.clone_from(&kept.received);
        ring.changes = kept.changes;
        if !kept.wrapped.is_empty() {
            let (parts, rest) = kept.wrapped.as_chunks::<WRAPPED_SIZE>();
            let [guek, gak, kek] = parts else { return Err(RecordError::Keys) };
            let root = &ring.delivered_kek;
            let opened = (
                root.unwrap_transferred(guek),
                root.unwrap_transferred(gak),
                root.unwrap_transferred::<Kek>(kek),
            );
            let (Some(guek), Some(gak), Some(kek)) = opened else { return Err(RecordError::Keys) };
            if !rest.is_empty() {
                return Err(RecordError::Keys);
            }
            (ring.guek, ring.gak, ring.kek) = (guek, gak, Some(kek));
        }
        Ok(ring)
    }

    pub(super) fn kept(&self) -> KeptKeys {
        let root = &self.delivered_kek;
        let wrapped = if self.changes == 0 {
            Vec::new()
        } else {
            let parts = [
                root.wrap_for_meter(&self.guek),
                root.wrap_for_meter(&self.gak),
                root.wrap_for_meter(self.kek()),
            ];
            parts.concat()
        };
        KeptKeys { changes: self.changes, wrapped, received: self.received.clone() }
    }

    fn kek(&self) -> &Key<Kek, 16> {
        self.kek.as_ref().unwrap_or(&self.delivered_kek)
    }

    /// Key changes since the delivery.
    pub(super) const fn changes(&self) -> u32 {
        self.changes
    }

    /// Opens a client's request, and counts its counter as used.
    pub(super) fn open(
        &mut self,
        own: SystemTitle,
        apdu: &GeneralGlo<'_>,
    ) -> Result<Vec<u8>, RequestRefusal> {
        let client = apdu.system_title.filter(|title| *title != own).ok_or(RequestRefusal::Title)?;
        let counter = apdu.invocation_counter;
        let place = self.received.iter().position(|(title, _)| *title == client);
        //= DLMS 5.9: a counter is accepted when it is above the last one, and stored only after the tag verified
        match place.and_then(|place| self.received.get(place)) {
            Some((_, last)) if counter <= *last => return Err(RequestRefusal::Counter(counter)),
            None if self.received.len() >= CLIENTS_MAX => return Err(RequestRefusal::Clients),
            _ => {}
        }
        let plain = open_general_glo(&self.guek, &self.gak, client, apdu)?;
        match place.and_then(|place| self.received.get_mut(place)) {
            Some((_, last)) => *last = counter,
            None => self.received.push((client, counter)),
        }
        Ok(plain)
    }

    /// Opens what a key_transfer brings, under the master key in use: all of it or nothing.
    pub(super) fn transferred(&self, items: &[(u8, &[u8])]) -> Option<Change> {
        let mut change = Change::default();
        for (id, wrapped) in items {
            let wrapped: &[u8; WRAPPED_SIZE] = (*wrapped).try_into().ok()?;
            let is_first = match id {
                0 => change.guek.replace(self.opened(wrapped)?).is_none(),
                2 => change.gak.replace(self.opened(wrapped)?).is_none(),
                3 => change.kek.replace(self.opened(wrapped)?).is_none(),
                _ => false,
            };
            if !is_first {
                return None;
            }
        }
        (!items.is_empty()).then_some(change)
    }

    fn opened<R: Role>(&self, wrapped: &[u8; WRAPPED_SIZE]) -> Option<Key<R, 16>> {
        self.kek().unwrap_transferred(wrapped)
    }

    /// Takes the new keys into use. Counters of clients begin again with another encryption key, and with no other.
    pub(super) fn apply(&mut self, change: Change) {
        let Change { guek, gak, kek } = change;
        if let Some(guek) = guek
            && !bool::from(guek.ct_eq(&self.guek))
        {
            self.guek = guek;
            self.received.clear();
        }
        if let Some(gak) = gak {
            self.gak = gak;
        }
        if kek.is_some() {
            self.kek = kek;
        }
        self.changes = self.changes.saturating_add(1);
    }
}
