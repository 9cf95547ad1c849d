//! Security setup: the policy, and keys that arrive wrapped. The keys themselves are held elsewhere ([`Keyholder`]).
//! Agreement and certificates have files of their own.

use std::collections::BTreeMap;

use gridseal_dlms::{
    acse::Mechanism,
    apdu::result::DataAccessResult,
    assoc::{AccessContext, Protection},
    wire::Data,
};
use gridseal_trust::party::Purpose;
use gridseal_types::ObisCode;

use super::{
    Device, KeyId, KeyRefusal, Keyholder, Note,
    object::{Object, items, number},
    profile,
};

/// The security setup whose policy holds.
pub(super) const SECURITY_SETUP: ObisCode = ObisCode::new([0, 0, 43, 0, 0, 255]);

/// Protection that bits 2 to 4 (requests) or 5 to 7 (responses) of the policy of version 1 demand.
const fn of_bits(bits: u8) -> Protection {
    match bits & 3 {
        0 => Protection::None,
        1 => Protection::Authenticated,
        2 => Protection::Encrypted,
        _ => Protection::AuthenticatedEncrypted,
    }
}

/// The policy as version 1 writes it.
pub(super) const fn to_bits(protection: Protection) -> u8 {
    let two = protection.bits() >> 4;
    (two << 2) | (two << 5)
}

/// What requests and responses must be protected with.
pub(super) fn policy(objects: &BTreeMap<ObisCode, Object>) -> (Protection, Protection) {
    let Some(object) = objects.get(&SECURITY_SETUP).filter(|object| object.class.id == 64) else {
        return (Protection::None, Protection::None);
    };
    let policy = u8::try_from(object.number(2)).unwrap_or(0);
    match object.class.version {
        0 => (of_bits(policy), of_bits(policy)),
        _ => (of_bits(policy >> 2), of_bits(policy >> 5)),
    }
}

/// Whether requests and responses must be signed: bits 4 and 7 of the policy of version 1.
pub(super) fn signatures(objects: &BTreeMap<ObisCode, Object>) -> (bool, bool) {
    let Some(object) = objects.get(&SECURITY_SETUP).filter(|object| object.class.id == 64) else {
        return (false, false);
    };
    let policy = if object.class.version == 0 { 0 } else { object.number(2) };
    (policy & REQUEST_SIGNED != 0, policy & RESPONSE_SIGNED != 0)
}

/// Bits of the policy of version 1 that need signing keys.
const REQUEST_SIGNED: i64 = 0b0001_0000;
const RESPONSE_SIGNED: i64 = 0b1000_0000;

/// Whether a client has proven who it is: high level security with a fresh challenge and a key, in a request with a tag.
pub(super) const fn is_proven(context: &AccessContext) -> bool {
    matches!(context.mechanism, Mechanism::Gmac | Mechanism::Sha256 | Mechanism::Ecdsa)
        && context.protection.covers(Protection::Authenticated)
        && !context.is_broadcast
}

impl Device {
    /// security_activate: the policy may only become stronger.
    pub(super) fn raise_policy(
        &mut self,
        obis: ObisCode,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let can_sign = self.curve().is_some() && keys.pairs(Purpose::Signature).current.is_some();
        let client = context.client_title;
        let can_verify =
            client.is_some_and(|client| !self.keys_of(Purpose::Signature, client, keys).is_empty());
        let object = self.objects.get_mut(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        let wanted = number(value).and_then(|policy| u8::try_from(policy).ok()).unwrap_or(0);
        let present = u8::try_from(object.number(2)).unwrap_or(0);
        let signed = if object.class.version == 0 { 0 } else { i64::from(wanted) };
        // Bits 0 and 1 mean nothing. Nobody could fulfil a demand for signatures without keys.
        let is_unknown = signed & 0b11 != 0;
        let is_unfulfillable = (signed & RESPONSE_SIGNED != 0 && !can_sign)
            || (signed & REQUEST_SIGNED != 0 && !(can_sign && can_verify));
        if is_unknown || is_unfulfillable {
            return Err(DataAccessResult::OtherReason);
        }
        if wanted & present != present {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        object.keep(2, &Data::Enum(wanted));
        if self.keep_setup(keys).is_err() {
            if let Some(object) = self.objects.get_mut(&obis) {
                object.keep(2, &Data::Enum(present));
            }
            return Err(DataAccessResult::HardwareFault);
        }
        self.note(Note::PolicyRaised(wanted));
        Ok(())
    }

    /// key_transfer: all keys or none.
    pub(super) fn transfer_keys(
        &mut self,
        value: &Data<'_>,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let mut list: BTreeMap<KeyId, &[u8]> = BTreeMap::new();
        for entry in items(value) {
            let [id, Data::OctetString(wrapped)] = items(entry) else {
                return Err(DataAccessResult::TypeUnmatched);
            };
            let id = number(id).and_then(KeyId::from_number).ok_or(DataAccessResult::TypeUnmatched)?;
            if list.insert(id, wrapped).is_some() {
                list.clear();
                break;
            }
        }
        let list: Vec<_> = list.into_iter().collect();
        let taken = if list.is_empty() { Err(KeyRefusal::List) } else { keys.transfer(&list) };
        match taken {
            Ok(()) => {
                self.note(Note::KeysReplaced { count: list.len() });
                self.log_event(profile::EVENT_KEYS_CHANGED);
                Ok(())
            }
            Err(refusal) => {
                self.note(Note::KeysRefused(refusal));
                Err(DataAccessResult::OtherReason)
            }
        }
    }

    /// change_HLS_secret of an association. The secret comes wrapped under the master key \[check\].
    pub(super) fn change_secret(
        &mut self,
        obis: ObisCode,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let Data::OctetString(wrapped) = value else { return Err(DataAccessResult::TypeUnmatched) };
        let grant = self.association_of(obis, context.client_sap).ok_or(DataAccessResult::ObjectUndefined)?;
        if !matches!(grant.mechanism, Mechanism::Md5 | Mechanism::Sha1 | Mechanism::Sha256) {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        let client_sap = grant.client_sap;
        self.secret_changed(client_sap, keys.change_secret(wrapped))
    }

    /// What a new secret or password came to, for the log and for the client.
    pub(super) fn secret_changed(
        &mut self,
        client_sap: u16,
        outcome: Result<(), KeyRefusal>,
    ) -> Result<(), DataAccessResult> {
        self.note(match outcome {
            Ok(()) => Note::SecretChanged { client_sap },
            Err(refusal) => Note::KeysRefused(refusal),
        });
        outcome.map_err(|_| DataAccessResult::OtherReason)
    }
}
