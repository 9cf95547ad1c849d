//! Keys of a lab file: kept as bytes, given out as keys of a role.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use gridseal_crypto::{
    Key, PublicKey, Signer, SigningKey,
    hls::Secret,
    role::{DlmsSigning, Kek, Role},
};
use gridseal_dlms::suite::local::{KeyRing, LocalSettings, SigningKeys};

use super::{Lab, Side};
use crate::tools::Usage;

/// Bytes of a test key: never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl Bytes {
    fn key<R: Role, const N: usize>(&self) -> Option<Key<R, N>> {
        Key::take_slice(&mut self.0.clone())
    }
}

/// Test keys of one set-up; lengths are those of the suite.
#[derive(Debug, Default)]
pub struct Keys {
    pub(super) guek: Option<Bytes>,
    pub(super) gak: Option<Bytes>,
    pub(super) gbek: Option<Bytes>,
    pub(super) kek: Option<Bytes>,
    pub(super) secret: Option<Bytes>,
    pub(super) client: PartyKeys,
    pub(super) server: PartyKeys,
}

impl Keys {
    /// Whether the file has the unicast key; [`Lab::key_ring`] puts a random one in its place.
    pub const fn has_guek(&self) -> bool {
        self.guek.is_some()
    }

    /// Whether the file has a password or secret.
    pub const fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// Whether the file has the authentication key; [`Lab::key_ring`] puts a random one in its place.
    pub const fn has_gak(&self) -> bool {
        self.gak.is_some()
    }
}

/// Keys of one side.
#[derive(Debug, Default)]
pub struct PartyKeys {
    pub(super) signing: Option<Bytes>,
    pub(super) agreement: Option<Bytes>,
    pub(super) signing_public: Option<Bytes>,
    pub(super) agreement_public: Option<Bytes>,
}

impl PartyKeys {
    /// Public signing key on P-256, as given or from the private one.
    fn signing_public(&self) -> Option<PublicKey> {
        let given = self
            .signing_public
            .as_ref()
            .map(|bytes| PublicKey::from_point(bytes.0.as_slice().try_into().ok()?));
        given.unwrap_or_else(|| Some(self.own()?.public()))
    }

    /// Whether every key that is given is one of P-256.
    pub(super) fn are_on_curve(&self) -> bool {
        let is_scalar = |bytes: &Option<Bytes>| {
            bytes.as_ref().is_none_or(|bytes| {
                bytes.key::<DlmsSigning, 32>().is_some_and(|key| SigningKey::new(&key).is_ok())
            })
        };
        let is_point = |bytes: &Option<Bytes>| {
            bytes.as_ref().is_none_or(|bytes| {
                bytes.0.as_slice().try_into().is_ok_and(|point| PublicKey::from_point(point).is_some())
            })
        };
        is_scalar(&self.signing)
            && is_scalar(&self.agreement)
            && is_point(&self.signing_public)
            && is_point(&self.agreement_public)
    }

    fn own(&self) -> Option<SigningKey<DlmsSigning>> {
        SigningKey::new(&self.signing.as_ref()?.key()?).ok()
    }
}

impl Lab {
    /// How the keys are used by one side. Mechanisms 3 and 4 are spoken when an association of the file has them.
    pub fn local_settings(&self, side: Side) -> LocalSettings {
        use gridseal_dlms::acse::Mechanism::{Md5, Sha1};
        let is_legacy = |association: &super::Association| matches!(association.mechanism, Md5 | Sha1);
        LocalSettings {
            suite: self.suite,
            own_title: self.party(side).system_title,
            legacy_mechanisms: self.associations.iter().any(is_legacy),
            danger_unauthenticated: self.protection == gridseal_dlms::assoc::Protection::Encrypted,
        }
    }

    /// The keys that one side works with; `N` is 16 in suites 0 and 1, 32 in suite 2. Without `guek` and `gak` nothing
    /// can be ciphered: fresh random keys stand in their place.
    pub fn key_ring<const N: usize>(&self, side: Side) -> Result<KeyRing<N>> {
        let mut rng = gridseal_io::rng::OsRng;
        let keys = &self.keys;
        let size = || Usage("lab-length: key has another size than the suite's".into());
        let (own, peer) = match side {
            Side::Client => (&keys.client, &keys.server),
            Side::Server => (&keys.server, &keys.client),
        };
        let peer_title = match side {
            Side::Client => self.server.system_title,
            Side::Server => self.client.system_title,
        };
        // Mechanism 7 is there on P-256 alone.
        let own = if self.suite < 2 { own.own() } else { None };
        let signing = own.map(|own| SigningKeys {
            own,
            peers: peer.signing_public().map(|key| (peer_title, key)).into_iter().collect::<BTreeMap<_, _>>(),
        });
        Ok(KeyRing {
            guek: match &keys.guek {
                Some(bytes) => bytes.key().with_context(size)?,
                None => Key::generate(&mut rng)?,
            },
            gak: match &keys.gak {
                Some(bytes) => bytes.key().with_context(size)?,
                None => Key::generate(&mut rng)?,
            },
            gbek: keys.gbek.as_ref().map(|bytes| bytes.key().with_context(size)).transpose()?,
            secret: keys.secret.as_ref().map(|bytes| Secret::take(&mut bytes.0.clone())),
            signing,
        })
    }

    /// The client's public signing key on P-256, if the file has one.
    pub fn client_signing_public(&self) -> Option<PublicKey> {
        if self.suite < 2 { self.keys.client.signing_public() } else { None }
    }

    /// The master key under which new keys are wrapped.
    pub fn kek<const N: usize>(&self) -> Option<Key<Kek, N>> {
        self.keys.kek.as_ref()?.key()
    }
}
