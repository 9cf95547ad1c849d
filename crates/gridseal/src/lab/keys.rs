//! Keys of a lab file: kept as bytes, given out as keys of a role.

use anyhow::{Context, Result};
use gridseal_crypto::{Curve, CurveAgreement, CurvePublic, CurveSigner, Key, hls::Secret, role::Role};
use gridseal_dlms::suite::local::{AgreementKeys, KeyRing, LocalSettings, SigningKeys};

use gridseal_trust::party::Purpose;
use gridseal_types::SystemTitle;

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
    /// Public signing key, as given or from the private one.
    pub fn signing_public(&self, curve: Curve) -> Option<CurvePublic> {
        match &self.signing_public {
            Some(bytes) => CurvePublic::from_point(curve, &bytes.0),
            None => Some(self.signer(curve)?.public()),
        }
    }

    /// Public key of key agreement, as given or from the private one.
    fn agreement_public(&self, curve: Curve) -> Option<CurvePublic> {
        match &self.agreement_public {
            Some(bytes) => CurvePublic::from_point(curve, &bytes.0),
            None => Some(self.agreement(curve)?.public()),
        }
    }

    /// The public keys of the private ones, for signing and for key agreement, where one is given and is of the curve.
    pub(super) fn own_publics(&self, curve: Curve) -> [Option<CurvePublic>; 2] {
        [self.signer(curve).map(|own| own.public()), self.agreement(curve).map(|own| own.public())]
    }

    /// Own signing key.
    pub fn signer(&self, curve: Curve) -> Option<CurveSigner> {
        CurveSigner::take(curve, &mut self.signing.as_ref()?.0.clone())
    }

    /// Own key of key agreement.
    pub fn agreement(&self, curve: Curve) -> Option<CurveAgreement> {
        CurveAgreement::take(curve, &mut self.agreement.as_ref()?.0.clone())
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
            is_server: side == Side::Server,
            quirks: self.quirks,
        }
    }

    /// The curve of the suite.
    pub const fn curve(&self) -> Curve {
        Curve::of_suite(self.suite)
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
        let curve = self.curve();
        let signing = own.signer(curve).map(|own| SigningKeys {
            own,
            peers: peer.signing_public(curve).map(|key| (peer_title, key)).into_iter().collect(),
        });
        let agreement = own.agreement(curve).map(|own| AgreementKeys {
            own,
            peers: peer.agreement_public(curve).map(|key| (peer_title, key)).into_iter().collect(),
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
            password: None,
            signing,
            agreement,
            kek: keys.kek.as_ref().map(|bytes| bytes.key().with_context(size)).transpose()?,
        })
    }

    /// Public signing keys of both, by title, as far as the file has them.
    pub fn signers(&self) -> Vec<(SystemTitle, CurvePublic)> {
        let sides = [(&self.client, &self.keys.client), (&self.server, &self.keys.server)];
        let keys =
            sides.iter().map(|(party, keys)| Some((party.system_title, keys.signing_public(self.curve())?)));
        keys.flatten().collect()
    }

    /// The server's own key pair of a purpose, if the file has one, for proofs of its possession.
    pub fn server_pair(&self, purpose: Purpose) -> Option<CurveSigner> {
        let keys = &self.keys.server;
        let bytes = match purpose {
            Purpose::Signature => &keys.signing,
            Purpose::Agreement => &keys.agreement,
            Purpose::Tls => &None,
        };
        CurveSigner::take(self.curve(), &mut bytes.as_ref()?.0.clone())
    }

    /// The client's public key of a purpose, if the file has one.
    pub fn client_public(&self, purpose: Purpose) -> Option<CurvePublic> {
        match purpose {
            Purpose::Signature => self.keys.client.signing_public(self.curve()),
            Purpose::Agreement => self.keys.client.agreement_public(self.curve()),
            Purpose::Tls => None,
        }
    }
}
