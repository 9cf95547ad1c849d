//! general-ciphering and general-signing: the layers of an APDU, put on and taken off.

use alloc::vec::Vec;

use gridseal_crypto::{
    CurveAgreement, CurvePublic, InvocationCounter, Key, KeyAlgorithm, Ticket, apdu, apdu::CipherRole,
    role::TransactionKey,
};
use gridseal_types::SystemTitle;

use super::{
    KeySet, Layers, LocalCrypto, Ports,
    open::{Counter, Judged, above},
    ticket,
    transaction::TransactionId,
};
use crate::{
    apdu::{
        carrier::{Carrier, KeyKind, Signing},
        ciphered::{Protected, SecurityControl},
        general::{GeneralCiphering, GeneralHeader, GeneralSigning, KeyInfo, header_wire},
        tag,
    },
    assoc::{AssociationHandle, CryptoFault, CryptoResult, Done},
};

/// key-parameters of one-pass Diffie-Hellman.
pub(super) const ONE_PASS: &[u8] = &[1];
/// key-parameters of the static unified model.
const STATIC: &[u8] = &[2];

/// Both ends of an APDU.
#[derive(Debug, Clone, Copy)]
struct Ends {
    originator: SystemTitle,
    recipient: SystemTitle,
}

/// A key of one APDU, and what tells the recipient of it.
pub(super) struct FreshKey<const N: usize> {
    pub(super) key: Key<TransactionKey, N>,
    /// Wrapped key, or ephemeral key and signature, or nothing.
    pub(super) data: Vec<u8>,
}

/// The one ticket of a key that protects one APDU.
pub(super) fn only_ticket() -> Result<Ticket, CryptoFault> {
    //= DLMS 5.5: the counter of a fresh key begins at 0
    let mut counter = InvocationCounter::resume(0);
    let one = counter.reserve(1).map_err(|_| CryptoFault::Exhausted)?;
    counter.extend(one);
    counter.take().map_err(|_| CryptoFault::Exhausted)
}

impl<const N: usize> LocalCrypto<N> {
    /// Puts the layers on: signature, cipher, signature.
    pub(super) fn seal(
        &mut self,
        handle: AssociationHandle,
        layers: Layers,
        plain: &[u8],
        ports: &mut Ports<'_>,
    ) -> CryptoResult {
        let Layers { carrier, protection, signing, peer } = layers;
        let control = self.control(protection)?;
        if signing == Signing::None && !matches!(carrier, Carrier::GeneralCiphering(_)) {
            return self.ciphered(handle, carrier, protection, plain, ports).map(Done::Bytes);
        }
        let recipient = peer.ok_or(CryptoFault::Title)?;
        let ends = Ends { originator: self.settings.own_title, recipient };
        let id = self.own_transaction(handle, carrier, ports)?;
        let wire = header_wire(&id.to_bytes(), ends.originator, ends.recipient);
        //= DLMS 5.6: sign first, then cipher, unless it is asked for otherwise
        let signed = if signing == Signing::Inside { Some(self.signed(&wire, plain)?) } else { None };
        let plain = signed.as_deref().unwrap_or(plain);
        let sealed = match carrier {
            Carrier::GeneralCiphering(kind) => self.general(kind, ends, (control, &wire), plain, ports)?,
            // What is signed has a tag in the general forms only.
            _ if signed.is_some() => self.ciphered(handle, carrier.general(), protection, plain, ports)?,
            _ => self.ciphered(handle, carrier, protection, plain, ports)?,
        };
        let sealed = if signing == Signing::Outside { self.signed(&wire, &sealed)? } else { sealed };
        if !self.settings.is_server {
            self.secrets(handle).transaction = Some(id);
        }
        Ok(Done::Bytes(sealed))
    }

    /// A client draws an id; a server repeats that of the request, once.
    fn own_transaction(
        &mut self,
        handle: AssociationHandle,
        carrier: Carrier,
        ports: &mut Ports<'_>,
    ) -> Result<TransactionId, CryptoFault> {
        let asked = if self.settings.is_server { self.secrets(handle).transaction.take() } else { None };
        match (asked, carrier) {
            (Some(id), _) => Ok(id),
            // With a static key a second response would be under the same key and counter.
            (None, Carrier::GeneralCiphering(_)) if self.settings.is_server => Err(CryptoFault::Transaction),
            (None, _) => self.draw_transaction(ports),
        }
    }

    fn signed(&self, wire: &[u8], content: &[u8]) -> Result<Vec<u8>, CryptoFault> {
        let keys = self.keys.signing.as_ref().ok_or(CryptoFault::NoKey)?;
        let header = GeneralHeader::from_wire(wire).map_err(|_| CryptoFault::Form)?;
        let apdu = GeneralSigning { header, content, signature: &[] };
        let message = apdu.signed(!self.settings.quirks.unsized_content);
        let signature = keys.own.sign(&message).ok_or(CryptoFault::Unavailable)?;
        Ok(GeneralSigning { signature: &signature, ..apdu }.to_bytes())
    }

    #[expect(clippy::too_many_arguments, reason = "one APDU and everything that goes into it")]
    fn general(
        &mut self,
        kind: KeyKind,
        ends: Ends,
        (control, wire): (u8, &[u8]),
        plain: &[u8],
        ports: &mut Ports<'_>,
    ) -> Result<Vec<u8>, CryptoFault> {
        let header = GeneralHeader::from_wire(wire).map_err(|_| CryptoFault::Form)?;
        let made = match kind {
            KeyKind::Identified => {
                let ticket = ticket(&mut self.sending, KeySet::Unicast, ports)?;
                let counter = ticket.value();
                let body = self.covered(&self.keys.guek, ticket, (control, wire), plain)?;
                return Ok(general_bytes(header, KeyInfo::Identified(0), (control, counter, &body)));
            }
            KeyKind::Wrapped => self.wrapped_key(ports)?,
            KeyKind::AgreedOnePass => self.one_pass_key(ends, ports)?,
            KeyKind::AgreedStatic => {
                let key = self.static_key(ends, ends.recipient, header.transaction_id)?;
                FreshKey { key, data: Vec::new() }
            }
        };
        let body = self.covered(&made.key, only_ticket()?, (control, wire), plain)?;
        let data = &made.data;
        let info = match kind {
            KeyKind::Wrapped => KeyInfo::Wrapped { kek_id: 0, wrapped: data },
            KeyKind::AgreedOnePass => KeyInfo::Agreed { parameters: ONE_PASS, data },
            _ => KeyInfo::Agreed { parameters: STATIC, data },
        };
        Ok(general_bytes(header, info, (control, 0, &body)))
    }

    fn covered<R: CipherRole>(
        &self,
        key: &Key<R, N>,
        ticket: Ticket,
        (control, wire): (u8, &[u8]),
        plain: &[u8],
    ) -> Result<Vec<u8>, CryptoFault> {
        let header = apdu::Header { originator: self.settings.own_title, security_control: control };
        apdu::protect_covering(key, &self.keys.gak, header, ticket, (self.covers(wire), plain))
            .ok_or(CryptoFault::Unavailable)
    }

    /// What of a header the tag covers.
    const fn covers<'w>(&self, wire: &'w [u8]) -> &'w [u8] {
        //= DLMS 5.5: the tag covers the header as it is on the wire
        if self.settings.quirks.short_aad { &[] } else { wire }
    }

    pub(super) fn wrapped_key(&self, ports: &mut Ports<'_>) -> Result<FreshKey<N>, CryptoFault> {
        let kek = self.keys.kek.as_ref().ok_or(CryptoFault::NoKey)?;
        let key = Key::generate(ports.rng).map_err(|_| CryptoFault::Unavailable)?;
        let data = kek.wrap_for_meter(&key);
        Ok(FreshKey { key, data })
    }

    /// A one-pass key for a recipient.
    pub(super) fn one_pass_to(
        &self,
        recipient: SystemTitle,
        ports: &mut Ports<'_>,
    ) -> Result<FreshKey<N>, CryptoFault> {
        self.one_pass_key(Ends { originator: self.settings.own_title, recipient }, ports)
    }

    /// The key that `originator` wrapped or agreed upon for us.
    pub(super) fn fresh_from(
        &self,
        originator: SystemTitle,
        info: &KeyInfo<'_>,
        transaction: &[u8],
    ) -> Result<Key<TransactionKey, N>, CryptoFault> {
        let ends = Ends { originator, recipient: self.settings.own_title };
        self.fresh_key(ends, info, transaction).map(|(_, key)| key)
    }

    fn one_pass_key(&self, ends: Ends, ports: &mut Ports<'_>) -> Result<FreshKey<N>, CryptoFault> {
        let signing = self.keys.signing.as_ref().ok_or(CryptoFault::NoKey)?;
        let peer = self.peer_agreement(ends.recipient)?;
        let ephemeral = CurveAgreement::generate(self.settings.curve(), ports.rng);
        let ephemeral = ephemeral.map_err(|_| CryptoFault::Unavailable)?;
        let public = ephemeral.public();
        let signature = signing.own.sign(public.point()).ok_or(CryptoFault::Unavailable)?;
        let key = derived(&ephemeral, peer, ends.originator.as_bytes(), ends.recipient)?;
        Ok(FreshKey { key, data: [public.point(), &signature].concat() })
    }

    /// The key of both static keys and one transaction; `peer` is the other end.
    fn static_key(
        &self,
        ends: Ends,
        peer: SystemTitle,
        transaction: &[u8],
    ) -> Result<Key<TransactionKey, N>, CryptoFault> {
        let own = &self.keys.agreement.as_ref().ok_or(CryptoFault::NoKey)?.own;
        let size = u8::try_from(transaction.len()).map_err(|_| CryptoFault::Transaction)?;
        let party_u = [ends.originator.as_bytes().as_slice(), &[size], transaction].concat();
        derived(own, self.peer_agreement(peer)?, &party_u, ends.recipient)
    }

    fn peer_agreement(&self, peer: SystemTitle) -> Result<&CurvePublic, CryptoFault> {
        let keys = self.keys.agreement.as_ref().ok_or(CryptoFault::NoKey)?;
        keys.peers.get(&peer).ok_or(CryptoFault::NoKey)
    }

    /// Takes the layers off; changes nothing.
    pub(super) fn judge_layers(
        &self,
        handle: AssociationHandle,
        bytes: &[u8],
        peer: Option<SystemTitle>,
    ) -> Result<Judged, CryptoFault> {
        let outer = match bytes.first() {
            Some(&tag::GENERAL_SIGNING) => Some(self.judge_signed(handle, bytes, peer)?),
            _ => None,
        };
        let ciphered = outer.as_ref().map_or(bytes, |signed| signed.content);
        let mut judged = match ciphered.first() {
            Some(&tag::GENERAL_CIPHERING) => self.judge_general(handle, ciphered, peer)?,
            _ => self.judge_carried(handle, ciphered, peer, KeySet::Unicast)?,
        };
        let is_signed_inside = judged.plain.first() == Some(&tag::GENERAL_SIGNING);
        let plain = core::mem::take(&mut judged.plain);
        let signed = match outer {
            Some(_) if is_signed_inside => return Err(CryptoFault::Form),
            Some(signed) => {
                (judged.signing, judged.plain) = (Signing::Outside, plain);
                signed.transaction
            }
            None if is_signed_inside => {
                let signed = self.judge_signed(handle, &plain, peer)?;
                (judged.signing, judged.plain) = (Signing::Inside, signed.content.to_vec());
                signed.transaction
            }
            None => {
                judged.plain = plain;
                return self.without_signature(judged);
            }
        };
        //= DLMS 5.6: both layers of one exchange have one transaction-id
        if judged.transaction.is_some_and(|ciphered| ciphered != signed) {
            return Err(CryptoFault::Transaction);
        }
        judged.transaction = Some(signed);
        Ok(judged)
    }

    /// Where the tag leaves the header out and nobody has signed it, only a counter or a key that follows from the
    /// transaction-id tells an APDU from the same one under another id.
    fn without_signature(&self, mut judged: Judged) -> Result<Judged, CryptoFault> {
        match judged.carrier {
            Carrier::GeneralCiphering(kind) if self.settings.quirks.short_aad => match kind {
                KeyKind::Wrapped | KeyKind::AgreedOnePass => Err(CryptoFault::Transaction),
                KeyKind::Identified => {
                    judged.is_id_covered = false;
                    Ok(judged)
                }
                KeyKind::AgreedStatic => Ok(judged),
            },
            _ => Ok(judged),
        }
    }

    /// Who sent it, if it is for us.
    fn judge_header(
        &self,
        handle: AssociationHandle,
        header: &GeneralHeader<'_>,
        peer: Option<SystemTitle>,
    ) -> Result<(SystemTitle, TransactionId), CryptoFault> {
        //= DLMS 5.5: originator and recipient are the two ends of the association
        let named = SystemTitle::from_slice(header.originator).ok_or(CryptoFault::Title)?;
        if header.recipient != self.settings.own_title.as_bytes() {
            return Err(CryptoFault::Title);
        }
        let title = self.title(Some(named), peer)?;
        let id = self.judge_transaction(handle, title, header.transaction_id)?;
        Ok((title, id))
    }

    fn judge_signed<'a>(
        &self,
        handle: AssociationHandle,
        bytes: &'a [u8],
        peer: Option<SystemTitle>,
    ) -> Result<Signed<'a>, CryptoFault> {
        let apdu = GeneralSigning::from_bytes(bytes).map_err(|_| CryptoFault::Form)?;
        let transaction = self.judge_header(handle, &apdu.header, peer)?;
        let keys = self.keys.signing.as_ref().ok_or(CryptoFault::NoKey)?;
        let signer = keys.peers.get(&transaction.0).ok_or(CryptoFault::NoKey)?;
        //= DLMS 5.6: a signature is r and s as they are, by the originator's signing key
        if !signer.verifies(&apdu.signed(!self.settings.quirks.unsized_content), apdu.signature) {
            return Err(CryptoFault::Signature);
        }
        Ok(Signed { content: apdu.content, transaction })
    }

    /// In this order: form, control, ends, transaction, key, tag.
    fn judge_general(
        &self,
        handle: AssociationHandle,
        bytes: &[u8],
        peer: Option<SystemTitle>,
    ) -> Result<Judged, CryptoFault> {
        let apdu = GeneralCiphering::from_bytes(bytes).map_err(|_| CryptoFault::Form)?;
        let security_control = apdu.protected.security_control;
        self.check_control(security_control, KeySet::Unicast)?;
        let (title, id) = self.judge_header(handle, &apdu.header, peer)?;
        if !self.settings.is_server && !self.is_asking(handle) {
            return Err(CryptoFault::Transaction);
        }
        let ends = Ends { originator: title, recipient: self.settings.own_title };
        let Protected { invocation_counter: counter, .. } = apdu.protected;
        let (kind, used, plain) = match apdu.key_info {
            None | Some(KeyInfo::Identified(0)) => {
                above(counter, self.received.get(&(KeySet::Unicast, title)).copied())?;
                let plain = self.uncovered(&self.keys.guek, title, &apdu);
                (KeyKind::Identified, Counter::Global(KeySet::Unicast, title, counter), plain)
            }
            Some(KeyInfo::Identified(_)) => return Err(CryptoFault::KeySet(security_control)),
            Some(info) => {
                let (kind, key) = self.fresh_key(ends, &info, apdu.header.transaction_id)?;
                (kind, Counter::Fresh, self.uncovered(&key, title, &apdu))
            }
        };
        Ok(Judged {
            plain: plain.ok_or(CryptoFault::Tag)?,
            security_control,
            carrier: Carrier::GeneralCiphering(kind),
            signing: Signing::None,
            counter: used,
            transaction: Some((title, id)),
            is_id_covered: true,
        })
    }

    fn uncovered<R: CipherRole>(
        &self,
        key: &Key<R, N>,
        originator: SystemTitle,
        apdu: &GeneralCiphering<'_>,
    ) -> Option<Vec<u8>> {
        let Protected { security_control, invocation_counter, body } = apdu.protected;
        let header = apdu::Header { originator, security_control: security_control.0 };
        let covered = self.covers(apdu.header.wire);
        apdu::unprotect_covering(key, &self.keys.gak, header, invocation_counter, (covered, body))
    }

    /// The key that a peer wrapped or agreed upon.
    fn fresh_key(
        &self,
        ends: Ends,
        info: &KeyInfo<'_>,
        transaction: &[u8],
    ) -> Result<(KeyKind, Key<TransactionKey, N>), CryptoFault> {
        match *info {
            KeyInfo::Wrapped { kek_id: 0, wrapped } => {
                let kek = self.keys.kek.as_ref().ok_or(CryptoFault::NoKey)?;
                let key = kek.unwrap_transferred(wrapped).ok_or(CryptoFault::KeyInfo)?;
                Ok((KeyKind::Wrapped, key))
            }
            KeyInfo::Agreed { parameters: ONE_PASS, data } => {
                let own = &self.keys.agreement.as_ref().ok_or(CryptoFault::NoKey)?.own;
                let keys = self.keys.signing.as_ref().ok_or(CryptoFault::NoKey)?;
                let signer = keys.peers.get(&ends.originator).ok_or(CryptoFault::NoKey)?;
                let curve = self.settings.curve();
                let (point, signature) =
                    data.split_at_checked(curve.point_size()).ok_or(CryptoFault::KeyInfo)?;
                //= DLMS 12.12: the signature of an ephemeral key is verified before the key is used
                if !signer.verifies(point, signature) {
                    return Err(CryptoFault::Signature);
                }
                let ephemeral = CurvePublic::from_point(curve, point).ok_or(CryptoFault::KeyInfo)?;
                let key = derived(own, &ephemeral, ends.originator.as_bytes(), ends.recipient)?;
                Ok((KeyKind::AgreedOnePass, key))
            }
            KeyInfo::Agreed { parameters: STATIC, data: [] } => {
                Ok((KeyKind::AgreedStatic, self.static_key(ends, ends.originator, transaction)?))
            }
            _ => Err(CryptoFault::KeyInfo),
        }
    }
}

/// What was signed, and by whom in which transaction.
struct Signed<'a> {
    content: &'a [u8],
    transaction: (SystemTitle, TransactionId),
}

fn general_bytes(header: GeneralHeader<'_>, info: KeyInfo<'_>, protected: (u8, u32, &[u8])) -> Vec<u8> {
    let (control, invocation_counter, body) = protected;
    let protected = Protected { security_control: SecurityControl(control), invocation_counter, body };
    GeneralCiphering { header, key_info: Some(info), protected }.to_bytes()
}

/// The key of two agreement keys for authenticated encryption.
fn derived<const N: usize>(
    own: &CurveAgreement,
    peer: &CurvePublic,
    party_u: &[u8],
    party_v: SystemTitle,
) -> Result<Key<TransactionKey, N>, CryptoFault> {
    //= DLMS 6.1: keys are derived from the shared secret, the algorithm and both parties
    let shared = own.agree(peer).ok_or(CryptoFault::KeyInfo)?;
    shared.derive(KeyAlgorithm::Gcm, party_u, party_v.as_bytes()).ok_or(CryptoFault::KeyInfo)
}
