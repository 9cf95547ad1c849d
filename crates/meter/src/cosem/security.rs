//! Security setup: the policy, and keys that arrive wrapped. The keys themselves are held elsewhere ([`Keyholder`]).

use std::collections::BTreeMap;

use gridseal_dlms::{
    acse::Mechanism,
    apdu::result::DataAccessResult,
    assoc::{AccessContext, Protection},
    suite::local::KeySet,
    wire::Data,
};
use gridseal_types::{ObisCode, SystemTitle};

use super::{
    Device, Note,
    object::{Object, items, number},
    profile,
};

/// The security setup whose policy holds.
pub(super) const SECURITY_SETUP: ObisCode = ObisCode::new([0, 0, 43, 0, 0, 255]);

/// Which key a transfer brings. Closed: the enumeration of the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyId {
    /// Global unicast encryption key.
    Unicast,
    /// Global broadcast encryption key.
    Broadcast,
    /// Authentication key.
    Authentication,
    /// Master key.
    Master,
}

impl KeyId {
    /// Its number in the class.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Unicast => 0,
            Self::Broadcast => 1,
            Self::Authentication => 2,
            Self::Master => 3,
        }
    }

    const fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            0 => Self::Unicast,
            1 => Self::Broadcast,
            2 => Self::Authentication,
            3 => Self::Master,
            _ => return None,
        })
    }
}

/// Why keys were not taken over: for the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefusal {
    /// There is no master key.
    #[error("there is no master key")]
    NoMaster,
    /// A wrapped key has the wrong size, or does not open under the master key.
    #[error("a wrapped key does not open under the master key")]
    Wrapped,
    /// One key twice in a transfer, or none.
    #[error("the transfer names a key twice, or none")]
    List,
    /// They could not be made durable.
    #[error("keys could not be stored")]
    Store,
    /// The suite cannot do this here.
    #[error("this suite cannot do this here")]
    Suite,
}

/// Holds the keys of a device. Whatever it takes over is durable when it returns, and is used once the answer has left.
pub trait Keyholder {
    /// Opens wrapped keys under the master key and takes all of them over, or none.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn transfer(&mut self, keys: &[(KeyId, &[u8])]) -> Result<(), KeyRefusal>;

    /// Takes a new secret of high level security over, wrapped under the master key.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn change_secret(&mut self, wrapped: &[u8]) -> Result<(), KeyRefusal>;

    /// Takes a new password of mechanism 1 over.
    ///
    /// # Errors
    /// [`KeyRefusal`]; nothing changed.
    fn change_password(&mut self, password: &[u8]) -> Result<(), KeyRefusal>;

    /// Highest counter accepted of a client under a key.
    fn last_received(&self, set: KeySet, client: SystemTitle) -> Option<u32>;

    /// Whether an image with this identifier carries a good signature.
    fn is_image_signed(&self, identifier: &[u8], image: &[u8]) -> bool;
}

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

impl Device {
    /// security_activate: the policy may only become stronger.
    pub(super) fn raise_policy(&mut self, obis: ObisCode, value: &Data<'_>) -> Result<(), DataAccessResult> {
        let object = self.objects.get_mut(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        let wanted = number(value).and_then(|policy| u8::try_from(policy).ok()).unwrap_or(0);
        let present = u8::try_from(object.number(2)).unwrap_or(0);
        // Bits 0 and 1 mean nothing; signatures need suite 1 or 2.
        let unknown = if object.class.version == 0 { 0 } else { 0b1001_0011 };
        if wanted & unknown != 0 {
            return Err(DataAccessResult::OtherReason);
        }
        if wanted & present != present {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        object.keep(2, &Data::Enum(wanted));
        self.note(Note::PolicyRaised(wanted));
        Ok(())
    }

    /// key_transfer: all keys or none.
    pub(super) fn transfer_keys(
        &mut self,
        value: &Data<'_>,
        keys: &mut dyn super::Keyholder,
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
        keys: &mut dyn super::Keyholder,
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
