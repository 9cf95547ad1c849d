//! Layers of protected data (class 30): what general-ciphering and general-signing do with APDUs, done with values.
//!
//! Protected data of a cipher layer is `security control || counter || body`, of a signature layer `data || r || s`; the tag
//! and the signature cover the five fields in front, as on the wire of the general forms. The fact sheet gives the parameters
//! only, so this is our reading \[check\].
//!
//! Whoever opens data judges the transaction-id against replay: every tag and signature here covers it.

use alloc::vec::Vec;

use gridseal_crypto::{Key, Ticket, apdu, apdu::CipherRole, role::Gak};
use gridseal_types::SystemTitle;

use super::{
    KeySet, LocalCrypto, Ports,
    general::{ONE_PASS, only_ticket},
    ticket,
};
use crate::{
    apdu::{
        ciphered::SecurityControl,
        general::{GeneralHeader, GeneralSigning, KeyInfo},
    },
    assoc::{CryptoFault, Protection},
    wire::Writer,
};

/// Bytes in front of a body: security control and counter.
const HEADER_SIZE: usize = 5;

/// What a layer does. Closed: the enumeration of the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataProtection {
    /// A tag, encryption, or both.
    Cipher(Protection),
    /// A signature.
    Signature,
}

/// Which key a cipher layer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataKey {
    /// The global unicast (0) or broadcast key (1).
    Identified(u8),
    /// A fresh key, wrapped under the master key (0).
    Wrapped {
        /// Which key-encryption key.
        kek_id: u8,
        /// Wrapped key; empty in what is asked for.
        wrapped: Vec<u8>,
    },
    /// An agreed key.
    Agreed {
        /// One-pass (1) or static (2).
        parameters: Vec<u8>,
        /// Ephemeral key and signature; empty in what is asked for.
        data: Vec<u8>,
    },
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataLayer {
    /// What it does.
    pub protection: DataProtection,
    /// Names the exchange.
    pub transaction_id: Vec<u8>,
    /// Who protected it; the own title is put in where none is.
    pub originator: Option<SystemTitle>,
    /// Whom it is for.
    pub recipient: Option<SystemTitle>,
    /// Anything else, covered.
    pub other_information: Vec<u8>,
    /// Which key; of no meaning for a signature.
    pub key: DataKey,
}

impl DataLayer {
    /// The five fields as they are on the wire, without date-time.
    fn wire(&self) -> Vec<u8> {
        let title = |title: &Option<SystemTitle>| title.map_or(Vec::new(), |title| title.as_bytes().to_vec());
        let mut writer = Writer::with_capacity(40);
        for field in [
            &self.transaction_id,
            &title(&self.originator),
            &title(&self.recipient),
            &Vec::new(),
            &self.other_information,
        ] {
            writer.prefixed(field);
        }
        writer.into_bytes()
    }
}

/// A key with which a layer was opened or is made.
enum LayerKey<'k, const N: usize> {
    Unicast(&'k Key<gridseal_crypto::role::Guek, N>),
    Broadcast(&'k Key<gridseal_crypto::role::Gbek, N>),
    Fresh(Key<gridseal_crypto::role::TransactionKey, N>),
}

impl<const N: usize> LocalCrypto<N> {
    /// Puts layers on, the first one first. Gives the layers with titles and keys filled in, and the protected data.
    ///
    /// # Errors
    /// [`CryptoFault`]. Static agreed keys are refused: the transaction-id would be the asking side's, and one that came
    /// twice would give the same key and counter twice.
    pub fn protect_data(
        &mut self,
        layers: &[DataLayer],
        plain: &[u8],
        ports: &mut Ports<'_>,
    ) -> Result<(Vec<DataLayer>, Vec<u8>), CryptoFault> {
        let mut data = plain.to_vec();
        let mut done = Vec::with_capacity(layers.len());
        for layer in layers {
            let (layer, protected) = self.put_layer(layer, &data, ports)?;
            done.push(layer);
            data = protected;
        }
        Ok((done, data))
    }

    /// Takes layers off that were put on in this order. Changes nothing.
    ///
    /// # Errors
    /// [`CryptoFault`].
    pub fn unprotect_data(&self, layers: &[DataLayer], data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
        let mut data = data.to_vec();
        for layer in layers.iter().rev() {
            data = self.take_layer(layer, &data)?;
        }
        Ok(data)
    }

    fn put_layer(
        &mut self,
        layer: &DataLayer,
        plain: &[u8],
        ports: &mut Ports<'_>,
    ) -> Result<(DataLayer, Vec<u8>), CryptoFault> {
        let own = self.settings.own_title;
        if layer.originator.is_some_and(|title| title != own) {
            return Err(CryptoFault::Title);
        }
        let recipient = layer.recipient.ok_or(CryptoFault::Title)?;
        let mut layer = DataLayer { originator: Some(own), ..layer.clone() };
        let wire = layer.wire();
        let protection = match layer.protection {
            DataProtection::Signature => {
                let keys = self.keys.signing.as_ref().ok_or(CryptoFault::NoKey)?;
                let signature = keys.own.sign(&signed(&wire, plain)?).ok_or(CryptoFault::Unavailable)?;
                return Ok((layer, [plain, &signature].concat()));
            }
            DataProtection::Cipher(protection) => protection,
        };
        let control = self.control(protection)?;
        let (ticket, key) = match &mut layer.key {
            DataKey::Identified(0) => {
                let ticket = ticket(&mut self.sending, KeySet::Unicast, ports)?;
                (ticket, LayerKey::Unicast(&self.keys.guek))
            }
            DataKey::Wrapped { kek_id: 0, wrapped } => {
                let fresh = self.wrapped_key(ports)?;
                *wrapped = fresh.data;
                (only_ticket()?, LayerKey::Fresh(fresh.key))
            }
            DataKey::Agreed { parameters, data } if parameters.as_slice() == ONE_PASS => {
                let fresh = self.one_pass_to(recipient, ports)?;
                *data = fresh.data;
                (only_ticket()?, LayerKey::Fresh(fresh.key))
            }
            _ => return Err(CryptoFault::KeyInfo),
        };
        let counter = ticket.value();
        let header = apdu::Header { originator: own, security_control: control };
        let gak = &self.keys.gak;
        let body = match &key {
            LayerKey::Unicast(key) => sealed(*key, gak, (header, ticket), (&wire, plain)),
            LayerKey::Broadcast(key) => sealed(*key, gak, (header, ticket), (&wire, plain)),
            LayerKey::Fresh(key) => sealed(key, gak, (header, ticket), (&wire, plain)),
        };
        let body = body.ok_or(CryptoFault::Unavailable)?;
        Ok((layer, [&[control][..], &counter.to_be_bytes(), &body].concat()))
    }

    fn take_layer(&self, layer: &DataLayer, data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
        let title = layer.originator.ok_or(CryptoFault::Title)?;
        if layer.recipient != Some(self.settings.own_title) || title == self.settings.own_title {
            return Err(CryptoFault::Title);
        }
        let wire = layer.wire();
        let protection = match layer.protection {
            DataProtection::Signature => {
                let size = data.len().checked_sub(self.settings.curve().point_size());
                let (content, signature) =
                    size.and_then(|size| data.split_at_checked(size)).ok_or(CryptoFault::Form)?;
                let keys = self.keys.signing.as_ref().ok_or(CryptoFault::NoKey)?;
                let signer = keys.peers.get(&title).ok_or(CryptoFault::NoKey)?;
                let is_good = signer.verifies(&signed(&wire, content)?, signature);
                return if is_good { Ok(content.to_vec()) } else { Err(CryptoFault::Signature) };
            }
            DataProtection::Cipher(protection) => protection,
        };
        let ([control, a, b, c, d], body) =
            data.split_first_chunk::<HEADER_SIZE>().ok_or(CryptoFault::Form)?;
        let security_control = SecurityControl(*control);
        let set = if layer.key == DataKey::Identified(1) { KeySet::Broadcast } else { KeySet::Unicast };
        self.check_control(security_control, set)?;
        if Protection::of(security_control) != protection {
            return Err(CryptoFault::SecurityControl(security_control));
        }
        let counter = u32::from_be_bytes([*a, *b, *c, *d]);
        let key = match &layer.key {
            DataKey::Identified(0) => LayerKey::Unicast(&self.keys.guek),
            DataKey::Identified(1) => LayerKey::Broadcast(self.keys.gbek.as_ref().ok_or(CryptoFault::NoKey)?),
            DataKey::Identified(_) => return Err(CryptoFault::KeyInfo),
            DataKey::Wrapped { kek_id, wrapped } => LayerKey::Fresh(self.fresh_from(
                title,
                &KeyInfo::Wrapped { kek_id: *kek_id, wrapped },
                &[],
            )?),
            DataKey::Agreed { parameters, data } => {
                let info = KeyInfo::Agreed { parameters, data };
                LayerKey::Fresh(self.fresh_from(title, &info, &layer.transaction_id)?)
            }
        };
        let header = apdu::Header { originator: title, security_control: *control };
        let (gak, covered) = (&self.keys.gak, (wire.as_slice(), body));
        let plain = match &key {
            LayerKey::Unicast(key) => apdu::unprotect_covering(*key, gak, header, counter, covered),
            LayerKey::Broadcast(key) => apdu::unprotect_covering(*key, gak, header, counter, covered),
            LayerKey::Fresh(key) => apdu::unprotect_covering(key, gak, header, counter, covered),
        };
        plain.ok_or(CryptoFault::Tag)
    }
}

fn sealed<R: CipherRole, const N: usize>(
    key: &Key<R, N>,
    gak: &Key<Gak, N>,
    (header, ticket): (apdu::Header, Ticket),
    covered: (&[u8], &[u8]),
) -> Option<Vec<u8>> {
    apdu::protect_covering(key, gak, header, ticket, covered)
}

/// What a signature is over: the five fields, and the data with its length.
fn signed(wire: &[u8], content: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    let header = GeneralHeader::from_wire(wire).map_err(|_| CryptoFault::Form)?;
    Ok(GeneralSigning { header, content, signature: &[] }.signed(true))
}
