//! The keys of the meter: performs the operations of its associations, and takes over keys that clients bring.

use anyhow::{Result, bail};
use std::sync::Arc;

use gridseal_crypto::{
    CurvePublic, CurveSigner, EnvelopeContext, Key, WrappedKey,
    hls::Secret,
    role::{Dek, Gak, Gbek, Guek, Kek, Role},
};
use gridseal_dlms::{
    assoc::{AssociationHandle, CryptoResult, Operation},
    suite::{
        agreement::{self, Parties},
        local::{AgreementKeys, DataLayer, KeySet, LocalCrypto, NewKeys, Ports, SigningKeys},
    },
};
use gridseal_io::rng::OsRng;
use gridseal_meter::cosem::{KeyId, KeyRefusal, Keyholder, Pairs, Part, StoreError};
use gridseal_trust::party::Purpose;
use gridseal_types::SystemTitle;

use super::{
    counters::{Counters, Transfer},
    flash::Flash,
    pairs::{PairStore, Usable},
};
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

/// Opens keys as a transfer brought them.
enum Opener<'k, const N: usize> {
    /// Wrapped under the master key.
    Master(&'k Key<Kek, N>),
    /// Sealed here.
    Sealed(&'k Key<Dek, 32>),
}

impl<const N: usize> Opener<'_, N>
where
    Key<Kek, N>: MasterKey<N>,
{
    fn open<R: Role>(&self, bytes: &[u8]) -> Result<Key<R, N>, KeyRefusal> {
        match self {
            Self::Master(master) => master.open(bytes),
            Self::Sealed(dek) => {
                Key::unwrap_key(*dek, &AGREED, &WrappedKey(bytes.to_vec())).map_err(|_| KeyRefusal::Wrapped)
            }
        }
    }
}

/// What sealed keys belong to: the meter of the directory.
const AGREED: EnvelopeContext = EnvelopeContext::new([0; 16], *b"agreed upon\0\0\0\0\0", 1);

/// What is kept beside the counters.
pub struct Kept {
    pub counters: Counters,
    pub flash: Flash,
    pub pairs: PairStore,
}

/// The keys.
pub struct Holder<const N: usize> {
    lab: Arc<Lab>,
    crypto: LocalCrypto<N>,
    counters: Counters,
    flash: Flash,
    pairs: PairStore,
    staged: Option<Staged<N>>,
    /// Certified keys of peers.
    believed: Vec<(Purpose, SystemTitle, CurvePublic)>,
    /// Peers whose keys in the lab file count no more.
    certified: Vec<(Purpose, SystemTitle)>,
    /// Own key pair or peers have changed since they were put to use.
    is_stale: bool,
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
    pub fn new(lab: Arc<Lab>, kept: Kept) -> Result<Self> {
        let (side, Kept { mut counters, flash, pairs }) = (Side::Server, kept);
        let ring = lab.key_ring::<N>(side)?;
        counters.unicast = hash(&ring.guek);
        counters.broadcast = ring.gbek.as_ref().map(hash).unwrap_or_default();
        let first = u64::from(lab.party(side).invocation_counter);
        let unicast = counters.of(&counters.unicast, first);
        let broadcast = counters.of(&counters.broadcast, 0);
        let mut crypto = LocalCrypto::new(lab.local_settings(side), ring, unicast.sending_end);
        crypto.resume_broadcast(broadcast.sending_end);
        // What the file gives as the client's first counter is the least that it may send.
        if let Some(before) = lab.client.invocation_counter.checked_sub(1) {
            crypto.resume_received(KeySet::Unicast, lab.client.system_title, before);
        }
        for (set, list) in [(KeySet::Unicast, unicast.received), (KeySet::Broadcast, broadcast.received)] {
            list.into_iter().for_each(|(peer, counter)| crypto.resume_received(set, peer, counter));
        }
        crypto.resume_transactions(counters.transactions_end());
        for (peer, id) in counters.transactions_received() {
            crypto.resume_transaction_of(peer, id);
        }
        let (staged, believed, certified) = (None, Vec::new(), Vec::new());
        let mut holder =
            Self { lab, crypto, counters, flash, pairs, staged, believed, certified, is_stale: true };
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
        if core::mem::take(&mut self.is_stale) {
            self.use_certified();
        }
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

    /// Whether keys wait for their answer to have left.
    pub const fn is_staged(&self) -> bool {
        self.staged.is_some() || self.is_stale
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
            Transfer::Password(password) => staged.keys.password = Some(Secret::take(&mut bytes(password)?)),
            Transfer::Keys(list) => self.open_keys(&Opener::Master(self.master()?), list, &mut staged)?,
            Transfer::Agreed(list) => self.open_keys(&Opener::Sealed(self.pairs.dek()), list, &mut staged)?,
        }
        Ok(staged)
    }

    fn open_keys(
        &self,
        opener: &Opener<'_, N>,
        list: &[(u8, String)],
        staged: &mut Staged<N>,
    ) -> Result<(), KeyRefusal> {
        let Staged { keys, hashes: [unicast, broadcast] } = staged;
        for (id, bytes) in list {
            let bytes = hex::decode(bytes).map_err(|_| KeyRefusal::Wrapped)?;
            match id {
                0 => {
                    let key = opener.open(&bytes)?;
                    let name = hash(&key);
                    // The present key once more: its counters go on.
                    if name != self.counters.unicast {
                        keys.guek = Some((key, self.counters.of(&name, 0)));
                        *unicast = Some(name);
                    }
                }
                1 => {
                    let key = opener.open(&bytes)?;
                    let name = hash(&key);
                    if name != self.counters.broadcast {
                        keys.gbek = Some((key, self.counters.of(&name, 0)));
                        *broadcast = Some(name);
                    }
                }
                2 => keys.gak = Some(opener.open(&bytes)?),
                _ => keys.kek = Some(opener.open(&bytes)?),
            }
        }
        Ok(())
    }

    /// Own signing key: the certified pair, or the lab file's.
    fn own_signer(&self) -> Option<CurveSigner> {
        match self.pairs.current(Purpose::Signature) {
            Some(Usable::Signer(signer)) => Some(signer),
            _ => self.lab.server_pair(Purpose::Signature),
        }
    }

    /// Own pairs and peers' keys as certificates have them now, over those of the lab file.
    fn use_certified(&mut self) {
        let Ok(ring) = self.lab.key_ring::<N>(Side::Server) else { return };
        let (mut signers, mut partners) = (
            ring.signing.map(|keys| keys.peers).unwrap_or_default(),
            ring.agreement.as_ref().map(|keys| keys.peers.clone()).unwrap_or_default(),
        );
        // Whoever has had a certificate does not come back to the file's key when it ends.
        for (purpose, title) in &self.certified {
            match purpose {
                Purpose::Signature => signers.remove(title),
                Purpose::Agreement => partners.remove(title),
                Purpose::Tls => None,
            };
        }
        // The newest is first: it stays.
        for (purpose, title, key) in self.believed.iter().rev() {
            match purpose {
                Purpose::Signature => signers.insert(*title, key.clone()),
                Purpose::Agreement => partners.insert(*title, key.clone()),
                Purpose::Tls => None,
            };
        }
        let own = match self.pairs.current(Purpose::Agreement) {
            Some(Usable::Agreement(own)) => Some(own),
            _ => ring.agreement.map(|keys| keys.own),
        };
        self.crypto.replace(NewKeys {
            signing: self.own_signer().map(|own| SigningKeys { own, peers: signers }),
            agreement: own.map(|own| AgreementKeys { own, peers: partners }),
            ..NewKeys::default()
        });
    }

    /// Agrees on one key; gives own key data, and the key sealed.
    fn agree_one(
        &self,
        (id, point): &(KeyId, CurvePublic),
        signer: &CurveSigner,
        parties: Parties,
    ) -> Result<(Vec<u8>, WrappedKey), KeyRefusal> {
        let root = |_| KeyRefusal::Root;
        let side = agreement::Side::new(id.number(), point.curve(), &mut OsRng).map_err(root)?;
        let key_data = side.key_data(signer).map_err(root)?;
        let sealed = match id {
            KeyId::Unicast => self.sealed::<Guek>(&side, point, parties)?,
            KeyId::Broadcast => self.sealed::<Gbek>(&side, point, parties)?,
            KeyId::Authentication => self.sealed::<Gak>(&side, point, parties)?,
            KeyId::Master => self.sealed::<Kek>(&side, point, parties)?,
        };
        Ok((key_data, sealed))
    }

    fn sealed<R: Role>(
        &self,
        side: &agreement::Side,
        point: &CurvePublic,
        parties: Parties,
    ) -> Result<WrappedKey, KeyRefusal> {
        let key: Key<R, N> = side.key(point, parties).map_err(|_| KeyRefusal::Root)?;
        key.wrap(self.pairs.dek(), &AGREED, &mut OsRng).map_err(|_| KeyRefusal::Root)
    }

    /// What was kept by the run before.
    pub fn saved(&self) -> Result<gridseal_meter::cosem::Saved> {
        self.flash.saved()
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

    fn agree(
        &mut self,
        client: SystemTitle,
        keys: &[(KeyId, CurvePublic)],
    ) -> Result<Vec<Vec<u8>>, KeyRefusal> {
        let signer = self.own_signer().ok_or(KeyRefusal::NoPair)?;
        let parties = Parties { client, server: self.lab.server.system_title };
        let mut answers = Vec::new();
        let mut sealed = Vec::new();
        for key in keys {
            let (key_data, wrapped) = self.agree_one(key, &signer, parties)?;
            answers.push(key_data);
            sealed.push((key.0.number(), hex::encode(wrapped.0)));
        }
        self.take(Transfer::Agreed(sealed))?;
        Ok(answers)
    }

    fn make_pair(&mut self, purpose: Purpose) -> Result<&'static str, KeyRefusal> {
        self.pairs.make(purpose)
    }

    fn pairs(&self, purpose: Purpose) -> Pairs {
        let pairs = self.pairs.public(purpose);
        let of_file = || self.lab.server_pair(purpose).map(|signer| signer.public());
        Pairs { current: pairs.current.or_else(of_file), waiting: pairs.waiting }
    }

    fn sign_request(
        &mut self,
        purpose: Purpose,
        key: &CurvePublic,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyRefusal> {
        match self.lab.server_pair(purpose).filter(|signer| signer.public() == *key) {
            Some(signer) => signer.sign(message).ok_or(KeyRefusal::Root),
            None => self.pairs.sign(purpose, key, message),
        }
    }

    fn use_pair(&mut self, purpose: Purpose, key: &CurvePublic) -> Result<(), KeyRefusal> {
        // A pair of the lab file is in use until another one has a certificate.
        if self.pairs(purpose).current.as_ref() != Some(key) {
            self.pairs.adopt(purpose, key)?;
            self.is_stale = true;
        }
        Ok(())
    }

    fn configured_key(&self, purpose: Purpose, title: SystemTitle) -> Option<CurvePublic> {
        self.lab.client_public(purpose).filter(|_| title == self.lab.client.system_title)
    }

    fn believe(
        &mut self,
        peers: &[(Purpose, SystemTitle, CurvePublic)],
        certified: &[(Purpose, SystemTitle)],
    ) {
        if self.believed != peers || self.certified != certified {
            (self.believed, self.certified) = (peers.to_vec(), certified.to_vec());
            self.is_stale = true;
        }
    }

    fn protect_data(
        &mut self,
        layers: &[DataLayer],
        plain: &[u8],
    ) -> Result<(Vec<DataLayer>, Vec<u8>), KeyRefusal> {
        let mut ports = Ports { counters: &mut self.counters, rng: &mut OsRng };
        self.crypto.protect_data(layers, plain, &mut ports).map_err(KeyRefusal::Data)
    }

    fn unprotect_data(&self, layers: &[DataLayer], data: &[u8]) -> Result<Vec<u8>, KeyRefusal> {
        self.crypto.unprotect_data(layers, data).map_err(KeyRefusal::Data)
    }

    fn keep(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.flash.keep(part, bytes)
    }

    fn append(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.flash.append(part, bytes)
    }
}
