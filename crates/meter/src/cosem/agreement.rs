//! Key agreement: the ephemeral unified model C(2e,0s), both points signed, for each key of the class.
//!
//! # Source
//! DLMS fact sheet, sections 6.1 and 6.2, vector 10.

use gridseal_crypto::CurvePublic;
use gridseal_dlms::{
    apdu::result::DataAccessResult,
    assoc::AccessContext,
    suite::agreement::{AgreementFault, read_key_data},
    wire::Data,
};
use gridseal_trust::party::Purpose;

use super::{
    Device, KeyId, KeyRefusal, Keyholder, Note,
    object::{items, number},
    profile,
    security::is_proven,
};

impl Device {
    /// key_agreement: all keys or none. Gives the meter's points and signatures, in the order of the request.
    pub(super) fn agree_keys(
        &mut self,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<Vec<u8>, DataAccessResult> {
        match self.agree(value, context, keys) {
            Ok(list) => {
                self.note(Note::KeysReplaced { count: list.len() });
                self.log_event(profile::EVENT_KEYS_CHANGED);
                let entries = list.iter().map(|(id, data)| {
                    Data::Structure(vec![Data::Enum(id.number()), Data::OctetString(data)])
                });
                Ok(Data::Array(entries.collect()).to_bytes())
            }
            Err(refusal) => {
                self.note(Note::KeysRefused(refusal));
                Err(DataAccessResult::OtherReason)
            }
        }
    }

    fn agree(
        &mut self,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<Vec<(KeyId, Vec<u8>)>, KeyRefusal> {
        let curve = self.curve().ok_or(KeyRefusal::Suite)?;
        let client = context.client_title.filter(|_| is_proven(context)).ok_or(KeyRefusal::Client)?;
        let signers = self.keys_of(Purpose::Signature, client, keys);
        if signers.is_empty() {
            return Err(KeyRefusal::NoCertificate);
        }
        let known = self.known_keys(client, keys);
        let mut list: Vec<(KeyId, CurvePublic)> = Vec::new();
        for entry in items(value) {
            let [id, Data::OctetString(data)] = items(entry) else { return Err(KeyRefusal::KeyData) };
            let id = number(id).and_then(KeyId::from_number).ok_or(KeyRefusal::List)?;
            let point = read_key_data(curve, id.number(), data, &signers).map_err(|fault| match fault {
                AgreementFault::Point => KeyRefusal::Point,
                AgreementFault::Signature => KeyRefusal::Signature,
                _ => KeyRefusal::KeyData,
            })?;
            if list.iter().any(|(other, _)| *other == id) {
                return Err(KeyRefusal::List);
            }
            if known.contains(&point) || list.iter().any(|(_, other)| *other == point) {
                return Err(KeyRefusal::Swapped);
            }
            list.push((id, point));
        }
        if list.is_empty() {
            return Err(KeyRefusal::List);
        }
        let agreed = keys.agree(client, &list)?;
        Ok(list.into_iter().map(|(id, _)| id).zip(agreed).collect())
    }

    /// Static keys that no ephemeral key may be.
    fn known_keys(&self, client: gridseal_types::SystemTitle, keys: &dyn Keyholder) -> Vec<CurvePublic> {
        let mut known = self.certificates.keys();
        for purpose in Purpose::ALL {
            let pairs = keys.pairs(purpose);
            known.extend(pairs.current.into_iter().chain(pairs.waiting));
            known.extend(keys.configured_key(purpose, client));
        }
        known
    }
}
