//! The receiving half: what is checked, and in which order, before a plain APDU is handed out.

use alloc::vec::Vec;

use gridseal_crypto::{Key, apdu, role::DedicatedKey};
use gridseal_types::SystemTitle;

use super::{Dedicated, KeySet, LocalCrypto, PEERS_MAX, Ports, transaction::TransactionId};
use crate::{
    acse::{InitiateRequest, Mechanism},
    apdu::{
        carrier::{Carrier, CipheredApdu, Signing},
        ciphered::{Protected, SecurityControl},
        tag,
    },
    assoc::{AssociationHandle, CryptoFault, CryptoResult, Done, PeerChallenge, Protection},
};

/// Reply of mechanism 5: security control, counter, tag.
const GMAC_REPLY_SIZE: usize = 17;

/// An APDU that may be handed out once what it used up is remembered.
pub(super) struct Judged {
    pub(super) plain: Vec<u8>,
    pub(super) security_control: SecurityControl,
    pub(super) carrier: Carrier,
    pub(super) signing: Signing,
    pub(super) counter: Counter,
    pub(super) transaction: Option<(SystemTitle, TransactionId)>,
    /// Whether a tag or a signature covers the transaction-id.
    pub(super) is_id_covered: bool,
}

/// Which counter an APDU used up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Counter {
    Global(KeySet, SystemTitle, u32),
    Dedicated(u32),
    /// None: its key was its own.
    Fresh,
}

impl<const N: usize> LocalCrypto<N> {
    /// Everything that can be said of a control octet without a key.
    pub(super) fn check_control(&self, control: SecurityControl, set: KeySet) -> Result<(), CryptoFault> {
        //= DLMS 5.2: control octets of other suites and of weaker protection are refused
        let refused = Err(CryptoFault::SecurityControl(control));
        if control.suite() != self.settings.suite || control.is_compressed() {
            return refused;
        }
        match Protection::of(control) {
            Protection::None => return refused,
            Protection::Encrypted if !self.settings.danger_unauthenticated => return refused,
            _ => {}
        }
        //= DLMS 5.2: the key-set bit must say which key is meant
        if control.is_broadcast() != (set == KeySet::Broadcast) {
            return Err(CryptoFault::KeySet(control));
        }
        Ok(())
    }

    /// Whose APDU it is: the association's peer, or the one that is named where there is none.
    pub(super) fn title(
        &self,
        named: Option<SystemTitle>,
        peer: Option<SystemTitle>,
    ) -> Result<SystemTitle, CryptoFault> {
        let title = peer.or(named).ok_or(CryptoFault::Title)?;
        let is_other = named.is_some_and(|found| found != title);
        // An APDU under our own title is our own, sent back.
        if is_other || title == self.settings.own_title {
            return Err(CryptoFault::Title);
        }
        Ok(title)
    }

    /// Judges every layer, then remembers counter and transaction, then hands the plain APDU out.
    #[expect(clippy::too_many_arguments, reason = "one APDU and everything it is judged by")]
    pub(super) fn open(
        &mut self,
        handle: AssociationHandle,
        bytes: &[u8],
        peer: Option<SystemTitle>,
        set: KeySet,
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        let Judged { plain, security_control, carrier, signing, counter, transaction, is_id_covered } =
            match set {
                KeySet::Unicast => self.judge_layers(handle, bytes, peer)?,
                KeySet::Broadcast => self.judge_carried(handle, bytes, peer, set)?,
            };
        self.remember(handle, counter, transaction.filter(|_| is_id_covered), ports)?;
        if let Some((_, id)) = transaction.filter(|_| !is_id_covered) {
            // The response names it; kept it would let anybody raise the lowest one that is accepted.
            self.secrets(handle).transaction = self.settings.is_server.then_some(id);
        }
        Ok(Done::Opened { plain, security_control, carrier, signing })
    }

    /// One of the four carriers: changes nothing.
    pub(super) fn judge_carried(
        &self,
        handle: AssociationHandle,
        bytes: &[u8],
        peer: Option<SystemTitle>,
        set: KeySet,
    ) -> Result<Judged, CryptoFault> {
        let apdu = CipheredApdu::from_bytes(bytes).map_err(|_| CryptoFault::Form)?;
        let security_control = apdu.protected.security_control;
        self.check_control(security_control, set)?;
        let title = self.title(apdu.system_title, peer)?;
        let Protected { invocation_counter: counter, body, .. } = apdu.protected;
        let header = apdu::Header { originator: title, security_control: security_control.0 };
        let gak = &self.keys.gak;
        let (plain, remembered) = if apdu.carrier.is_dedicated() {
            let secrets = self.associations.get(&handle).ok_or(CryptoFault::NoKey)?;
            let dedicated = secrets.dedicated.as_ref().ok_or(CryptoFault::NoKey)?;
            above(counter, dedicated.received)?;
            (apdu::unprotect(&dedicated.key, gak, header, counter, body), Counter::Dedicated(counter))
        } else {
            //= DLMS 12.5: an equal or lower counter is refused, before any cryptography
            above(counter, self.received.get(&(set, title)).copied())?;
            //= DLMS 12.1: the tag is compared, whatever bit is flipped
            let plain = match set {
                KeySet::Unicast => apdu::unprotect(&self.keys.guek, gak, header, counter, body),
                KeySet::Broadcast => {
                    let gbek = self.keys.gbek.as_ref().ok_or(CryptoFault::NoKey)?;
                    apdu::unprotect(gbek, gak, header, counter, body)
                }
            };
            (plain, Counter::Global(set, title, counter))
        };
        let plain = plain.ok_or(CryptoFault::Tag)?;
        check_inner(&apdu, &plain)?;
        Ok(Judged {
            plain,
            security_control,
            carrier: apdu.carrier,
            signing: Signing::None,
            counter: remembered,
            transaction: None,
            is_id_covered: true,
        })
    }

    fn remember(
        &mut self,
        handle: AssociationHandle,
        counter: Counter,
        transaction: Option<(SystemTitle, TransactionId)>,
        ports: &mut Ports<'_>,
    ) -> Result<(), CryptoFault> {
        match counter {
            Counter::Global(set, title, counter) => {
                let last = self.received.get(&(set, title)).copied();
                self.accept(set, title, counter, ports)?;
                if set == KeySet::Unicast {
                    self.secrets(handle).last_accepted = Some((last, counter));
                }
            }
            Counter::Dedicated(counter) => {
                if let Some(dedicated) = self.secrets(handle).dedicated.as_mut() {
                    dedicated.received = Some(counter);
                }
            }
            Counter::Fresh => self.secrets(handle).last_accepted = None,
        }
        if let Some((title, id)) = transaction {
            self.remember_transaction(handle, title, id, ports)?;
        }
        Ok(())
    }

    /// Remembers a counter whose tag was verified.
    fn accept(
        &mut self,
        set: KeySet,
        title: SystemTitle,
        counter: u32,
        ports: &mut Ports<'_>,
    ) -> Result<(), CryptoFault> {
        //= DLMS 5.9: a counter is stored only after its tag was verified
        // Only holders of the key get here; forgetting one of them would let its APDUs be repeated.
        // Each key set has room of its own: who holds the broadcast key takes no client's.
        let count = self.received.keys().filter(|(of, _)| *of == set).count();
        if !self.received.contains_key(&(set, title)) && count >= PEERS_MAX {
            return Err(CryptoFault::Unavailable);
        }
        ports.counters.accepted(set, title, counter).map_err(|_| CryptoFault::Unavailable)?;
        self.received.insert((set, title), counter);
        Ok(())
    }

    pub(super) fn open_initiate(
        &mut self,
        handle: AssociationHandle,
        bytes: &[u8],
        peer: SystemTitle,
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        let opened = self.open(handle, bytes, Some(peer), KeySet::Unicast, ports)?;
        let Done::Opened { mut plain, security_control, carrier, signing } = opened else {
            return Err(CryptoFault::Form);
        };
        if !matches!(carrier, Carrier::Glo | Carrier::GeneralGlo)
            || plain.first() != Some(&tag::INITIATE_REQUEST)
        {
            return Err(CryptoFault::Form);
        }
        let size = InitiateRequest::from_bytes(&plain)
            .map_err(|_| CryptoFault::Form)?
            .dedicated_key
            .map(|key| key.0.len());
        self.secrets(handle).dedicated = None;
        if let Some(size) = size {
            //= DLMS 5.4: a dedicated key has the size of the suite's keys
            // `01 01 length key rest` becomes `01 00 rest`; taking the key over wipes it in the APDU.
            let field = plain.get_mut(3..size.saturating_add(3)).unwrap_or_default();
            let key: Key<DedicatedKey, N> = Key::take_slice(field).ok_or(CryptoFault::Form)?;
            plain.drain(2..size.saturating_add(3));
            if let Some(octet) = plain.get_mut(1) {
                *octet = 0;
            }
            self.secrets(handle).dedicated = Some(Dedicated::new(key));
        }
        Ok(Done::Opened { plain, security_control, carrier: Carrier::Glo, signing })
    }

    pub(super) fn hls_verify(
        &mut self,
        handle: AssociationHandle,
        peer: &PeerChallenge,
        reply: &[u8],
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        //= DLMS 4: each challenge is used once, right or wrong
        let own = self.secrets(handle).challenge.take().ok_or(CryptoFault::Authentication)?;
        self.spoken(peer.mechanism)?;
        if own == peer.challenge {
            return Err(CryptoFault::Authentication);
        }
        let own_title = self.settings.own_title;
        let expected = match peer.mechanism {
            Mechanism::Md5 => self.secret()?.md5_reply(&own),
            Mechanism::Sha1 => self.secret()?.sha1_reply(&own),
            Mechanism::Sha256 => {
                let title = peer.title.filter(|title| *title != own_title).ok_or(CryptoFault::Title)?;
                let parts: [&[u8]; 4] = [title.as_bytes(), own_title.as_bytes(), &own, &peer.challenge];
                self.secret()?.sha256_reply(parts)
            }
            Mechanism::Ecdsa => {
                let title = peer.title.filter(|title| *title != own_title).ok_or(CryptoFault::Title)?;
                let keys = self.keys.signing.as_ref().ok_or(CryptoFault::NoKey)?;
                let key = keys.peers.get(&title).ok_or(CryptoFault::NoKey)?;
                let parts: [&[u8]; 4] = [title.as_bytes(), own_title.as_bytes(), &own, &peer.challenge];
                //= DLMS 4: mechanism 7 signs titles and challenges, r and s as they are
                if !key.verifies(&parts.concat(), reply) {
                    return Err(CryptoFault::Authentication);
                }
                self.secrets(handle).spent = Some(own);
                return Ok(Done::Verified);
            }
            Mechanism::Gmac => return self.verify_gmac(handle, peer, &own, reply, ports),
            other => return Err(CryptoFault::Mechanism(other)),
        };
        if !gridseal_crypto::ct_eq(&expected, reply) {
            return Err(CryptoFault::Authentication);
        }
        // Our own reply, in pass 4, needs the challenge once more.
        if peer.mechanism == Mechanism::Sha256 {
            self.secrets(handle).spent = Some(own);
        }
        Ok(Done::Verified)
    }

    #[expect(clippy::too_many_arguments, reason = "one APDU and everything it is judged by")]
    fn verify_gmac(
        &mut self,
        handle: AssociationHandle,
        peer: &PeerChallenge,
        own: &[u8],
        reply: &[u8],
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        let title = peer.title.filter(|title| *title != self.settings.own_title).ok_or(CryptoFault::Title)?;
        let [control, a, b, c, d, found @ ..] = reply else { return Err(CryptoFault::Authentication) };
        //= DLMS 4: the control octet of mechanism 5 says authentication only
        if reply.len() != GMAC_REPLY_SIZE || *control != self.gmac_control() {
            return Err(CryptoFault::Authentication);
        }
        let counter = u32::from_be_bytes([*a, *b, *c, *d]);
        let current = self.received.get(&(KeySet::Unicast, title)).copied();
        //= DLMS 5.9: the counter of a GMAC reply is judged like every other
        // The APDU that carries the reply has the later counter and was accepted first.
        let floor = match self.secrets(handle).last_accepted {
            Some((before, accepted)) if current == Some(accepted) && counter != accepted => before,
            _ => current,
        };
        above(counter, floor)?;
        let header = apdu::Header { originator: title, security_control: *control };
        let (guek, gak) = (&self.keys.guek, &self.keys.gak);
        if !apdu::gmac_verifies(guek, gak, header, counter, own, found) {
            return Err(CryptoFault::Authentication);
        }
        if current.is_none_or(|current| counter > current) {
            self.accept(KeySet::Unicast, title, counter, ports)?;
        }
        Ok(Done::Verified)
    }
}

/// Comes before the counter is remembered: a changed outer tag must not use up the counter of the true APDU.
fn check_inner(apdu: &CipheredApdu<'_>, plain: &[u8]) -> Result<(), CryptoFault> {
    //= DLMS 5.4: the tag inside must be the one that the carrier names
    if apdu.inner_tag.is_some_and(|expected| plain.first() != Some(&expected)) {
        return Err(CryptoFault::Form);
    }
    Ok(())
}

pub(super) fn above(found: u32, last: Option<u32>) -> Result<(), CryptoFault> {
    match last {
        Some(last) if found <= last => Err(CryptoFault::Counter { found, lowest: last.saturating_add(1) }),
        _ => Ok(()),
    }
}
