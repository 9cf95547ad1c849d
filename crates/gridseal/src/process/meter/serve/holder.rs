//! The keys of the meter: performs the operations of its associations, and takes over keys that clients bring.

use anyhow::{Result, bail};
use gridseal_crypto::{
    CurvePublic, Key,
    hls::Secret,
    role::{Kek, Role},
};
use gridseal_dlms::{
    assoc::{AssociationHandle, CryptoResult, Operation},
    suite::local::{KeySet, LocalCrypto, NewKeys, Ports},
};
use gridseal_io::rng::OsRng;
use gridseal_meter::cosem::{KeyId, KeyRefusal, Keyholder};
use gridseal_types::SystemTitle;

use super::counters::{Counters, Transfer};
use crate::lab::{Lab, Side};

/// Label under which the hash of a key names its counters.
const COUNTERS_LABEL: &[u8] = b"gridseal counters of a dlms key";

/// A master key of a suite.
pub trait MasterKey<const N: usize> {
    /// Opens a wrapped key.
    fn open<R: Role>(&self, wrapped: &[u8]) -> Result<Key<R, N>, KeyRefusal>;
    /// Opens a wrapped secret.
    fn open_secret(&self, wrapped: &[u8]) -> Result<Secret, KeyRefusal>;
}

impl<const N: usize> MasterKey<N> for Key<Kek, N> {
    fn open<R: Role>(&self, wrapped: &[u8]) -> Result<Key<R, N>, KeyRefusal> {
        self.unwrap_transferred(wrapped).ok_or(KeyRefusal::Wrapped)
    }

    fn open_secret(&self, wrapped: &[u8]) -> Result<Secret, KeyRefusal> {
        Secret::unwrap_transferred(self, wrapped).ok_or(KeyRefusal::Wrapped)
    }
}

/// What is used once the present answer has left.
#[derive(Default)]
struct Staged<const N: usize> {
    keys: NewKeys<N>,
    /// Hashes of the new keys: unicast, broadcast.
    hashes: [Option<String>; 2],
}

/// The keys.
pub struct Holder<const N: usize> {
    crypto: LocalCrypto<N>,
    counters: Counters,
    staged: Option<Staged<N>>,
    /// Verifies images.
    image_key: Option<CurvePublic>,
}

fn hash<R: Role, const N: usize>(key: &Key<R, N>) -> String {
    let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = key.hashed(COUNTERS_LABEL);
    hex::encode(first)
}

impl<const N: usize> Holder<N>
where
    Key<Kek, N>: MasterKey<N>,
{
    /// The keys of a lab file, and what clients brought since.
    pub fn new(lab: &Lab, side: Side, mut counters: Counters) -> Result<Self> {
        let ring = lab.key_ring::<N>(side)?;
        counters.unicast = hash(&ring.guek);
        counters.broadcast = ring.gbek.as_ref().map(hash).unwrap_or_default();
        let first = u64::from(lab.party(side).invocation_counter);
        let unicast = counters.of(&counters.unicast, first);
        let broadcast = counters.of(&counters.broadcast, 0);
        let mut crypto = LocalCrypto::new(lab.local_settings(side), ring, unicast.sending_end);
        crypto.resume_broadcast(broadcast.sending_end);
        for (set, list) in [(KeySet::Unicast, unicast.received), (KeySet::Broadcast, broadcast.received)] {
            list.into_iter().for_each(|(peer, counter)| crypto.resume_received(set, peer, counter));
        }
        crypto.resume_transactions(counters.transactions_end());
        for (peer, id) in counters.transactions_received() {
            crypto.resume_transaction_of(peer, id);
        }
        let image_key = lab.client_signing_public();
        let mut holder = Self { crypto, counters, staged: None, image_key };
        for transfer in holder.counters.transfers() {
            let staged = holder.open(&transfer);
            let Ok(staged) = staged else {
                bail!("the keys that were brought do not follow from this lab file")
            };
            holder.staged = Some(staged);
            holder.apply();
        }
        Ok(holder)
    }

    /// Performs an operation of an association.
    pub fn perform(&mut self, handle: AssociationHandle, operation: &Operation) -> CryptoResult {
        let mut ports = Ports { counters: &mut self.counters, rng: &mut OsRng };
        self.crypto.perform(handle, operation, &mut ports)
    }

    /// The answer has left: new keys are used from now on.
    pub fn apply(&mut self) {
        let Some(staged) = self.staged.take() else { return };
        let [unicast, broadcast] = staged.hashes;
        if let Some(hash) = unicast {
            self.counters.unicast = hash;
        }
        if let Some(hash) = broadcast {
            self.counters.broadcast = hash;
        }
        self.crypto.replace(staged.keys);
    }

    fn master(&self) -> Result<&Key<Kek, N>, KeyRefusal> {
        self.crypto.kek().ok_or(KeyRefusal::NoMaster)
    }

    /// Opens what a client brought.
    fn open(&self, transfer: &Transfer) -> Result<Staged<N>, KeyRefusal> {
        let bytes = |text: &String| hex::decode(text).map_err(|_| KeyRefusal::Wrapped);
        let mut staged = Staged::default();
        match transfer {
            Transfer::Secret(wrapped) => {
                staged.keys.secret = Some(self.master()?.open_secret(&bytes(wrapped)?)?);
            }
            Transfer::Password(password) => staged.keys.secret = Some(Secret::take(&mut bytes(password)?)),
            Transfer::Keys(list) => {
                for (id, wrapped) in list {
                    let (master, wrapped) = (self.master()?, bytes(wrapped)?);
                    let [unicast, broadcast] = &mut staged.hashes;
                    match id {
                        0 => {
                            let key = master.open(&wrapped)?;
                            let name = hash(&key);
                            // The present key once more: its counters go on.
                            if name != self.counters.unicast {
                                staged.keys.guek = Some((key, self.counters.of(&name, 0)));
                                *unicast = Some(name);
                            }
                        }
                        1 => {
                            let key = master.open(&wrapped)?;
                            let name = hash(&key);
                            if name != self.counters.broadcast {
                                staged.keys.gbek = Some((key, self.counters.of(&name, 0)));
                                *broadcast = Some(name);
                            }
                        }
                        2 => staged.keys.gak = Some(master.open(&wrapped)?),
                        _ => staged.keys.kek = Some(master.open(&wrapped)?),
                    }
                }
            }
        }
        Ok(staged)
    }

    fn take(&mut self, transfer: Transfer) -> Result<(), KeyRefusal> {
        // One answer has one change.
        if self.staged.is_some() {
            return Err(KeyRefusal::List);
        }
        let staged = self.open(&transfer)?;
        self.counters.keep(transfer).map_err(|_| KeyRefusal::Store)?;
        self.staged = Some(staged);
        Ok(())
    }
}

impl<const N: usize> Keyholder for Holder<N>
where
    Key<Kek, N>: MasterKey<N>,
{
    fn transfer(&mut self, keys: &[(KeyId, &[u8])]) -> Result<(), KeyRefusal> {
        let list = keys.iter().map(|(id, wrapped)| (id.number(), hex::encode(wrapped))).collect();
        self.take(Transfer::Keys(list))
    }

    fn change_secret(&mut self, wrapped: &[u8]) -> Result<(), KeyRefusal> {
        self.take(Transfer::Secret(hex::encode(wrapped)))
    }

    fn change_password(&mut self, password: &[u8]) -> Result<(), KeyRefusal> {
        self.take(Transfer::Password(hex::encode(password)))
    }

    fn last_received(&self, set: KeySet, client: SystemTitle) -> Option<u32> {
        self.crypto.last_received(set, client)
    }

    /// An image ends with the signature of the client's signing key over identifier and contents (r, s).
    fn is_image_signed(&self, identifier: &[u8], image: &[u8]) -> bool {
        let Some(key) = &self.image_key else { return false };
        let Some(size) = image.len().checked_sub(key.curve().point_size()) else { return false };
        let (contents, signature) = image.split_at(size);
        key.verifies(&[identifier, contents].concat(), signature)
    }
}
