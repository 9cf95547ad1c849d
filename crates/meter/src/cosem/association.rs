//! Associations as objects: who may be associated, and what each may do with which object.

use gridseal_dlms::{
    acse::Mechanism,
    wire::{BitString, Data},
};
use gridseal_types::ObisCode;

use super::{
    Device, Grant,
    access::{ASSOCIATION, Rights, SECRET},
    object::Object,
    profile::PROFILE,
    security::SECURITY_SETUP,
};

/// Object identifiers of contexts and mechanisms begin so: 2.16.756.5.8.
const ARC: [u8; 5] = [0x60, 0x85, 0x74, 0x05, 0x08];
/// xDLMS version.
const DLMS_VERSION: u8 = 6;

/// Logical name of association `index`: 0 is the one of whoever asks.
pub(super) const fn association(index: u8) -> ObisCode {
    ObisCode::new([0, 0, 40, 0, index, 255])
}

impl Device {
    /// What a client is offered.
    pub(super) fn grant(&self, client_sap: u16) -> Option<Grant> {
        self.config.grants.iter().find(|grant| grant.client_sap == client_sap).copied()
    }

    /// The client that an association object stands for.
    pub(super) fn association_of(&self, obis: ObisCode, client_sap: u16) -> Option<Grant> {
        match *obis.groups() {
            [0, 0, 40, 0, 0, 255] => self.grant(client_sap),
            [0, 0, 40, 0, index, 255] => self.config.grants.get(usize::from(index).checked_sub(1)?).copied(),
            _ => None,
        }
    }

    /// Whether the secret of an association is a password, which is written; others come wrapped.
    pub(super) fn takes_password(&self, obis: ObisCode, client_sap: u16) -> bool {
        self.association_of(obis, client_sap).is_some_and(|grant| grant.mechanism == Mechanism::LowLevel)
    }

    /// Attributes 2 to 8.
    pub(super) fn association_attribute(
        &self,
        object: &Object,
        attribute: i8,
        client_sap: u16,
    ) -> Option<Vec<u8>> {
        let grant = self.association_of(object.obis, client_sap)?;
        let identifier = |branch: u8, last: u8| {
            let [a, b, c, d, e] = ARC;
            Data::OctetString(&[a, b, c, d, e, branch, last]).to_bytes()
        };
        let conformance = self.config.conformance.to_bytes();
        Some(match attribute {
            2 => self.object_list(&grant),
            3 => Data::Structure(vec![
                Data::Integer(i8::try_from(grant.client_sap).unwrap_or(i8::MAX)),
                Data::LongUnsigned(self.config.sap),
            ])
            .to_bytes(),
            4 => identifier(1, if grant.is_ciphered { 3 } else { 1 }),
            5 => Data::Structure(vec![
                BitString::new(24, &conformance).map_or(Data::Null, Data::BitString),
                Data::LongUnsigned(self.config.max_pdu),
                Data::LongUnsigned(self.config.max_pdu),
                Data::Unsigned(DLMS_VERSION),
                Data::Integer(0),
                Data::OctetString(&[]),
            ])
            .to_bytes(),
            6 => identifier(2, grant.mechanism.number()),
            8 => {
                let is_own = grant.client_sap == client_sap;
                let count = self.associated.get(&grant.client_sap).copied().unwrap_or(0);
                Data::Enum(if is_own || count > 0 { 2 } else { 0 }).to_bytes()
            }
            _ => return None,
        })
    }

    /// Attribute 2: every object that the client sees, with what it may do.
    fn object_list(&self, grant: &Grant) -> Vec<u8> {
        let is_seen = |object: &&Object| object.is_public || grant.rights != Rights::NONE;
        let takes_password = |object: &Object| self.takes_password(object.obis, grant.client_sap);
        let entries = self.objects.values().filter(is_seen);
        let entries = entries.map(|object| entry(object, grant.rights, takes_password(object))).collect();
        Data::Array(entries).to_bytes()
    }
}

/// `{class, version, name, {{attribute, mode, selectors}.., {method, mode}..}}`.
fn entry(object: &Object, rights: Rights, takes_password: bool) -> Data<'_> {
    let attributes = object.class.all_attributes().map(|attribute| {
        let is_secret = (object.class.id, attribute.id) == (ASSOCIATION, SECRET);
        let is_writable = object.is_writable(attribute.id, rights) && (!is_secret || takes_password);
        let mode = match (object.is_readable(attribute.id, rights), is_writable) {
            (false, false) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (true, true) => 3,
        };
        let has_selectors = (object.class.id, attribute.id) == (PROFILE, 2);
        let selectors =
            if has_selectors { Data::Array(vec![Data::Integer(1), Data::Integer(2)]) } else { Data::Null };
        Data::Structure(vec![Data::Integer(attribute.id), Data::Enum(mode), selectors])
    });
    let methods = object.class.methods.iter().map(|method| {
        let mode = u8::from(object.is_invocable(rights) && runs(object, method.id));
        Data::Structure(vec![Data::Integer(method.id), Data::Enum(mode)])
    });
    Data::Structure(vec![
        Data::LongUnsigned(object.class.id),
        Data::Unsigned(object.class.version),
        Data::OctetString(object.obis.groups()),
        Data::Structure(vec![Data::Array(attributes.collect()), Data::Array(methods.collect())]),
    ])
}

/// Whether a method does anything here, for somebody with the right to it.
fn runs(object: &Object, method: i8) -> bool {
    match (object.class.id, method) {
        (3 | 4, 1) => object.kept(2).is_some(),
        (15, 3..=6) | (40, 2) | (PROFILE, 3..=6) => false,
        (17 | 42 | 72 | 111 | 112 | 113 | 115, _) => false,
        _ => true,
    }
}

/// Whether an association of this kind refers to the security setup.
pub(super) fn security_setup_of(grant: &Grant) -> &'static [u8] {
    const NAME: [u8; 6] = *SECURITY_SETUP.groups();
    if grant.is_ciphered || grant.mechanism == Mechanism::Gmac { &NAME } else { &[] }
}
