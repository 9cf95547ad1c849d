//! Opens recorded APDUs with the keys of a lab file.

use anyhow::Result;
use gridseal_crypto::{
    CurvePublic, Key, KeyAlgorithm,
    apdu::{self, CipherRole, Header},
    role::{DedicatedKey, Gak, TransactionKey},
};
use gridseal_dlms::{
    acse::InitiateRequest,
    apdu::{
        carrier::CipheredApdu,
        ciphered::{Protected, SecurityControl},
        general::{GeneralCiphering, GeneralHeader, GeneralSigning, KeyInfo},
        tag,
    },
    assoc::{CryptoFault, Protection},
    suite::local::{AgreementKeys, KeyRing, PeerQuirks},
    tree::{Carried, Opened, Opener},
};
use gridseal_types::SystemTitle;

use crate::lab::{Lab, Side};

/// Size of the tag behind a protected body in bytes.
const TAG_SIZE: usize = 12;

/// Keys and titles of both sides. It keeps no counters: a recording may be decoded as often as one likes.
pub struct LabOpener<const N: usize> {
    ring: KeyRing<N>,
    has_guek: bool,
    has_gak: bool,
    /// Keys of key agreement of both sides, with their titles.
    agreement: Vec<(SystemTitle, AgreementKeys)>,
    /// Keys that initiate requests delivered, the last one first: associations may overlap in a recording.
    dedicated: Vec<Key<DedicatedKey, N>>,
    /// Titles of client and server: of the file, and as last claimed.
    titles: [[Option<SystemTitle>; 2]; 2],
    /// Signing keys of both, by title.
    signers: Vec<(SystemTitle, CurvePublic)>,
    suite: u8,
    quirks: PeerQuirks,
    unverified: bool,
    /// Whether encryption without a tag is what the file expects, or everything is to be shown.
    encrypted_only: bool,
}

/// Dedicated keys that are remembered.
const DEDICATED_MAX: usize = 8;

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl<const N: usize> LabOpener<N> {
    /// The keys of a file. `unverified` also opens what has no right tag.
    pub fn new(lab: &Lab, unverified: bool) -> Result<Self> {
        let (client, server) = (lab.client.system_title, lab.server.system_title);
        let ring = lab.key_ring::<N>(Side::Client)?;
        let mut agreement = Vec::new();
        for (side, title) in [(Side::Client, client), (Side::Server, server)] {
            agreement.extend(lab.key_ring::<N>(side)?.agreement.map(|keys| (title, keys)));
        }
        Ok(Self {
            ring,
            has_guek: lab.keys.has_guek(),
            has_gak: lab.keys.has_gak(),
            agreement,
            dedicated: Vec::new(),
            titles: [[None, Some(client)], [None, Some(server)]],
            signers: lab.signers(),
            suite: lab.suite,
            quirks: lab.quirks,
            unverified,
            encrypted_only: unverified || lab.protection == Protection::Encrypted,
        })
    }

    /// Whose titles the nonce may have: the one named, or all that are known, the likelier side first.
    fn titles(&self, named: Option<SystemTitle>, likelier: usize) -> Vec<SystemTitle> {
        if let Some(title) = named {
            return vec![title];
        }
        let mut titles: Vec<SystemTitle> = Vec::new();
        for side in [likelier, 1 - likelier] {
            for title in self.titles.get(side).into_iter().flatten().flatten() {
                if !titles.contains(title) {
                    titles.push(*title);
                }
            }
        }
        titles
    }

    fn check(&self, control: SecurityControl) -> Result<(), CryptoFault> {
        // Encryption alone is what a forger makes of the other two by clearing a bit.
        let is_allowed = control.is_authenticated() || (control.is_encrypted() && self.encrypted_only);
        if control.suite() != self.suite || control.is_compressed() || !is_allowed {
            return Err(CryptoFault::SecurityControl(control));
        }
        Ok(())
    }

    fn ciphered(&mut self, carried: &CipheredApdu<'_>) -> Result<Opened, CryptoFault> {
        let control = carried.protected.security_control;
        self.check(control)?;
        let is_request = matches!(
            carried.inner_tag,
            Some(tag::INITIATE_REQUEST | tag::GET_REQUEST | tag::SET_REQUEST | tag::ACTION_REQUEST)
        );
        let likelier = if is_request { CLIENT } else { SERVER };
        let titles = self.titles(carried.system_title, likelier);
        let found = Found {
            protected: &carried.protected,
            titles: &titles,
            covered: &[],
            inner_tag: carried.inner_tag,
        };
        let opened = match (carried.carrier.is_dedicated(), control.is_broadcast()) {
            (true, true) => Err(CryptoFault::KeySet(control)),
            (true, false) => {
                let mut outcome = Err(CryptoFault::NoKey);
                for key in &self.dedicated {
                    outcome = self.try_titles(key, &found, "dedicated key");
                    if outcome.as_ref().is_ok_and(|opened| opened.is_verified) {
                        break;
                    }
                }
                outcome
            }
            (false, true) => match &self.ring.gbek {
                Some(key) => self.try_titles(key, &found, "global broadcast key"),
                None => Err(CryptoFault::NoKey),
            },
            (false, false) if !self.has_guek => Err(CryptoFault::NoKey),
            (false, false) => self.try_titles(&self.ring.guek, &found, "global unicast key"),
        }?;
        self.learn(&opened);
        Ok(opened)
    }

    fn general(&mut self, carried: &GeneralCiphering<'_>) -> Result<Opened, CryptoFault> {
        let control = carried.protected.security_control;
        self.check(control)?;
        //= DLMS 5.2: the key-set bit must say which key is meant
        if control.is_broadcast() {
            return Err(CryptoFault::KeySet(control));
        }
        let title = SystemTitle::from_slice(carried.header.originator).ok_or(CryptoFault::Title)?;
        let covered = if self.quirks.short_aad { &[] } else { carried.header.wire };
        let found = Found { protected: &carried.protected, titles: &[title], covered, inner_tag: None };
        let opened = match carried.key_info {
            None | Some(KeyInfo::Identified(0)) if self.has_guek => {
                self.try_titles(&self.ring.guek, &found, "global unicast key")
            }
            Some(KeyInfo::Identified(1)) => match &self.ring.gbek {
                Some(key) => self.try_titles(key, &found, "global broadcast key"),
                None => Err(CryptoFault::NoKey),
            },
            Some(KeyInfo::Wrapped { kek_id: 0, wrapped }) => {
                let kek = self.ring.kek.as_ref().ok_or(CryptoFault::NoKey)?;
                let key: Key<TransactionKey, N> =
                    kek.unwrap_transferred(wrapped).ok_or(CryptoFault::KeyInfo)?;
                self.try_titles(&key, &found, "key wrapped under the master key")
            }
            Some(KeyInfo::Agreed { parameters, data }) => {
                let key = self.agreed(title, &carried.header, (parameters, data))?;
                self.try_titles(&key, &found, if parameters == [1] { "one-pass key" } else { "static key" })
            }
            _ => Err(CryptoFault::NoKey),
        }?;
        self.learn(&opened);
        Ok(opened)
    }

    /// The key that originator and recipient agreed upon, with the private key of either of them.
    fn agreed(
        &self,
        originator: SystemTitle,
        header: &GeneralHeader<'_>,
        (parameters, data): (&[u8], &[u8]),
    ) -> Result<Key<TransactionKey, N>, CryptoFault> {
        let recipient = SystemTitle::from_slice(header.recipient).ok_or(CryptoFault::Title)?;
        let keys_of = |title| self.agreement.iter().find(|(owner, _)| *owner == title).map(|(_, keys)| keys);
        let (shared, party_u) = match parameters {
            [1] => {
                let own = &keys_of(recipient).ok_or(CryptoFault::NoKey)?.own;
                let curve = own.public().curve();
                let (point, signature) =
                    data.split_at_checked(curve.point_size()).ok_or(CryptoFault::KeyInfo)?;
                let signer = self.signers.iter().find(|(title, _)| *title == originator);
                if !signer.is_some_and(|(_, signer)| signer.verifies(point, signature)) {
                    return Err(CryptoFault::Signature);
                }
                let ephemeral = CurvePublic::from_point(curve, point).ok_or(CryptoFault::KeyInfo)?;
                (own.agree(&ephemeral), originator.as_bytes().to_vec())
            }
            [2] if data.is_empty() => {
                let (keys, other) = match keys_of(recipient) {
                    Some(keys) => (keys, originator),
                    None => (keys_of(originator).ok_or(CryptoFault::NoKey)?, recipient),
                };
                let peer = keys.peers.get(&other).ok_or(CryptoFault::NoKey)?;
                let id = header.transaction_id;
                let size = u8::try_from(id.len()).map_err(|_| CryptoFault::Transaction)?;
                (keys.own.agree(peer), [originator.as_bytes().as_slice(), &[size], id].concat())
            }
            _ => return Err(CryptoFault::KeyInfo),
        };
        let shared = shared.ok_or(CryptoFault::KeyInfo)?;
        shared.derive(KeyAlgorithm::Gcm, &party_u, recipient.as_bytes()).ok_or(CryptoFault::KeyInfo)
    }

    fn try_titles<R: CipherRole>(
        &self,
        key: &Key<R, N>,
        found: &Found<'_>,
        name: &str,
    ) -> Result<Opened, CryptoFault> {
        let Protected { security_control, invocation_counter: counter, body } = *found.protected;
        let is_authenticated = security_control.is_authenticated();
        if is_authenticated && !self.has_gak && !self.unverified {
            return Err(CryptoFault::NoKey);
        }
        let gak: &Key<Gak, N> = &self.ring.gak;
        let how = |title: &SystemTitle| format!("{name}, title {}", hex::encode(title.as_bytes()));
        for title in found.titles.iter().filter(|_| self.has_gak || !is_authenticated) {
            let header = Header { originator: *title, security_control: security_control.0 };
            if let Some(plain) = apdu::unprotect_covering(key, gak, header, counter, (found.covered, body)) {
                return Ok(Opened { plain, is_verified: is_authenticated, how: how(title) });
            }
        }
        if found.titles.is_empty() {
            return Err(CryptoFault::Title);
        }
        if !self.unverified || !security_control.is_encrypted() {
            return Err(CryptoFault::Tag);
        }
        //= DLMS 12.15: without the authentication key there is a mode that verifies nothing, and says so
        let size = body.len().saturating_sub(if is_authenticated { TAG_SIZE } else { 0 });
        let ciphertext = body.get(..size).unwrap_or_default();
        let decrypted = found.titles.iter().filter_map(|title| {
            let plain = apdu::danger_decrypt_unverified(key, *title, counter, ciphertext)?;
            Some(Opened { plain, is_verified: false, how: how(title) })
        });
        // Nothing tells which title is right but what comes out.
        let fits = |opened: &Opened| found.inner_tag.is_none_or(|tag| opened.plain.first() == Some(&tag));
        let mut decrypted: Vec<Opened> = decrypted.collect();
        let best = decrypted.iter().position(fits).unwrap_or_default();
        if best < decrypted.len() { Ok(decrypted.swap_remove(best)) } else { Err(CryptoFault::Form) }
    }

    /// Keeps the dedicated key of an initiate that was opened.
    fn learn(&mut self, opened: &Opened) {
        if !opened.is_verified || opened.plain.first() != Some(&tag::INITIATE_REQUEST) {
            return;
        }
        let Ok(InitiateRequest { dedicated_key: Some(key), .. }) = InitiateRequest::from_bytes(&opened.plain)
        else {
            return;
        };
        if let Some(key) = Key::take_slice(&mut key.0.to_vec()) {
            self.dedicated.insert(0, key);
            self.dedicated.truncate(DEDICATED_MAX);
        }
    }
}

/// A protected body, and what its nonce and tag may be made of.
struct Found<'a> {
    protected: &'a Protected<'a>,
    titles: &'a [SystemTitle],
    covered: &'a [u8],
    /// What the carrier says that it holds.
    inner_tag: Option<u8>,
}

impl<const N: usize> Opener for LabOpener<N> {
    fn open(&mut self, carried: Carried<'_>) -> Result<Option<Opened>, CryptoFault> {
        match carried {
            Carried::Ciphered(carried) => self.ciphered(carried).map(Some),
            Carried::General(carried) => self.general(carried).map(Some),
            _ => Ok(None),
        }
    }

    fn verifies(&mut self, signed: &GeneralSigning<'_>) -> Option<bool> {
        let title = SystemTitle::from_slice(signed.header.originator)?;
        let (_, key) = self.signers.iter().find(|(signer, _)| *signer == title)?;
        // Whether the length of the content is signed could not be checked against the standard: peers differ.
        Some([true, false].into_iter().any(|counts| key.verifies(&signed.signed(counts), signed.signature)))
    }

    fn claimed(&mut self, is_client: bool, title: SystemTitle) {
        if let Some([claimed, _]) = self.titles.get_mut(if is_client { CLIENT } else { SERVER }) {
            *claimed = Some(title);
        }
    }
}
