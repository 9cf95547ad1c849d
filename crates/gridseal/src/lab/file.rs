//! The file as it is written, and what is checked of it.

use gridseal_crypto::Curve;
use gridseal_dlms::{
    acse::Mechanism,
    apdu::carrier::{Carrier as Spoken, KeyKind, Signing},
    assoc::Protection,
    suite::local::PeerQuirks,
};
use gridseal_trust::firmware::FirmwareTrust;
use gridseal_types::SystemTitle;
use serde::Deserialize;
use toml::Spanned;

use super::{
    Association, Carrier, Image, KeyInfo, Lab, LabError, Party, Reading, Rights, Role, SigningOrder,
    keys::{Bytes, Keys, PartyKeys},
    object,
};
use crate::files::parse_voucher_key;

/// Smallest PDU size that an association may agree upon, bytes.
const MAX_PDU_MIN: u16 = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    danger_test_keys: Option<Spanned<bool>>,
    #[serde(default)]
    suite: Option<Spanned<u8>>,
    mechanism: Option<Spanned<u8>>,
    protection: Option<Spanned<Protected>>,
    #[serde(default = "glo")]
    carrier: Carrier,
    #[serde(default = "identified")]
    key_info: KeyInfo,
    signing: Option<Spanned<bool>>,
    #[serde(default)]
    signing_order: SigningOrder,
    listen_sap: Option<Spanned<u16>>,
    client_sap: Option<Spanned<u16>>,
    max_pdu: Option<Spanned<u16>>,
    client: Spanned<Side>,
    server: Spanned<Side>,
    #[serde(default)]
    keys: Option<Spanned<KeyFields>>,
    #[serde(default)]
    peer_quirks: Quirks,
    #[serde(default)]
    association: Vec<Spanned<AssociationFields>>,
    #[serde(default)]
    object: Vec<Spanned<object::Fields>>,
    #[serde(default)]
    trusted_clock: bool,
    image: Option<Spanned<ImageFields>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageFields {
    model: String,
    key: String,
    #[serde(default)]
    version: u32,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
enum Protected {
    #[serde(rename = "none")]
    None,
    #[serde(rename = "auth")]
    Authenticated,
    #[serde(rename = "enc")]
    Encrypted,
    #[serde(rename = "auth+enc")]
    Both,
}

const fn glo() -> Carrier {
    Carrier::Glo
}

const fn identified() -> KeyInfo {
    KeyInfo::Identified
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Side {
    system_title: Spanned<String>,
    #[serde(default)]
    invocation_counter: u32,
    signing_key: Option<Spanned<String>>,
    agreement_key: Option<Spanned<String>>,
    signing_public: Option<Spanned<String>>,
    agreement_public: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct KeyFields {
    guek: Option<Spanned<String>>,
    gak: Option<Spanned<String>>,
    gbek: Option<Spanned<String>>,
    kek: Option<Spanned<String>>,
    secret: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Quirks {
    #[serde(default)]
    aad: Reading,
    #[serde(default)]
    signed: Reading,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssociationFields {
    sap: u16,
    role: Role,
    mechanism: Option<Spanned<u8>>,
    rights: Option<Spanned<String>>,
}

/// Makes errors: knows where the lines end.
pub(super) struct Place<'t>(&'t str);

impl Place<'_> {
    pub(super) fn error(&self, at: usize, code: &'static str, message: impl Into<String>) -> LabError {
        let line = self.0.get(..at).unwrap_or_default().matches('\n').count() + 1;
        LabError { code, line, message: message.into() }
    }

    fn at<T>(&self, value: &Spanned<T>, code: &'static str, message: impl Into<String>) -> LabError {
        self.error(value.span().start, code, message)
    }

    /// Bytes in hex, of one size.
    fn bytes(&self, name: &str, value: &Spanned<String>, size: usize) -> Result<Bytes, LabError> {
        let bytes = hex::decode(value.get_ref().trim());
        let bytes = bytes.map_err(|_| self.at(value, "lab-hex", format!("{name} is not hex")))?;
        if bytes.len() != size {
            let found = bytes.len();
            let message = format!("{name} has {found} bytes, {size} are needed ({} hex digits)", 2 * size);
            return Err(self.at(value, "lab-length", message));
        }
        Ok(Bytes(bytes))
    }

    fn optional(
        &self,
        name: &str,
        value: Option<&Spanned<String>>,
        size: usize,
    ) -> Result<Option<Bytes>, LabError> {
        value.map(|value| self.bytes(name, value, size)).transpose()
    }

    fn party(&self, name: &str, side: &Side, curve: Curve) -> Result<(Party, PartyKeys), LabError> {
        let title = self.bytes(&format!("{name}.system_title"), &side.system_title, SystemTitle::SIZE)?;
        let system_title = SystemTitle::from_slice(&title.0)
            .ok_or_else(|| self.at(&side.system_title, "lab-length", "system_title is not 8 bytes"))?;
        let part = |field: &str, value: &Option<Spanned<String>>, size| {
            self.optional(&format!("{name}.{field}"), value.as_ref(), size)
        };
        let keys = PartyKeys {
            signing: part("signing_key", &side.signing_key, curve.coordinate_size())?,
            agreement: part("agreement_key", &side.agreement_key, curve.coordinate_size())?,
            signing_public: part("signing_public", &side.signing_public, curve.point_size())?,
            agreement_public: part("agreement_public", &side.agreement_public, curve.point_size())?,
        };
        if !keys.are_on(curve) {
            let message = format!("a key of {name} is not on the curve of the suite");
            return Err(self.at(&side.system_title, "lab-value", message));
        }
        Ok((Party { system_title, invocation_counter: side.invocation_counter }, keys))
    }

    fn mechanism(&self, value: Option<&Spanned<u8>>, default: Mechanism) -> Result<Mechanism, LabError> {
        let Some(value) = value else { return Ok(default) };
        match Mechanism::from_number(*value.get_ref()) {
            Some(Mechanism::Manufacturer) => {
                Err(self.at(value, "lab-value", "mechanism 2 belongs to manufacturers and is not spoken"))
            }
            Some(mechanism) => Ok(mechanism),
            None => Err(self.at(value, "lab-value", "mechanism is none of 0, 1, 3, 4, 5, 6, 7")),
        }
    }

    fn association(
        &self,
        entry: &Spanned<AssociationFields>,
        default: Mechanism,
    ) -> Result<Association, LabError> {
        let AssociationFields { sap, role, mechanism, rights } = entry.get_ref();
        let is_open = matches!(role, Role::Public | Role::Broadcast);
        let default = if is_open { Mechanism::None } else { default };
        let found = self.mechanism(mechanism.as_ref(), default)?;
        if is_open && found != Mechanism::None {
            return Err(self.at(entry, "lab-conflict", "roles public and broadcast have mechanism 0"));
        }
        let rights = match rights {
            None => Rights::of(*role),
            Some(text) => Rights::parse(text.get_ref())
                .ok_or_else(|| self.at(text, "lab-value", "rights are letters of r, w and x, or -"))?,
        };
        Ok(Association { sap: *sap, role: *role, mechanism: found, rights })
    }

    /// A mistake that the parser of TOML found. It quotes values, which may be keys, and so is not repeated.
    fn syntax(&self, error: &toml::de::Error) -> LabError {
        let at = error.span().map_or(0, |span| span.start);
        let message = error.message();
        let (code, message) = if message.starts_with("unknown field") {
            ("lab-unknown-field", message)
        } else if message.starts_with("missing field") {
            ("lab-missing-field", message)
        } else if message.starts_with("invalid") || message.starts_with("unknown variant") {
            ("lab-value", "the value is not one that this field takes")
        } else {
            ("lab-syntax", "not TOML")
        };
        self.error(at, code, message)
    }
}

/// A value or its default, if it is in the range.
fn ranged<T: Copy>(
    place: &Place<'_>,
    value: Option<&Spanned<T>>,
    default: T,
    (fits, message): (impl Fn(T) -> bool, &str),
) -> Result<T, LabError> {
    match value {
        None => Ok(default),
        Some(value) if fits(*value.get_ref()) => Ok(*value.get_ref()),
        Some(value) => Err(place.at(value, "lab-value", message)),
    }
}

/// Reads and checks.
pub(super) fn parse(text: &str) -> Result<Lab, LabError> {
    let place = Place(text);
    let file: File = toml::from_str(text).map_err(|error| place.syntax(&error))?;
    match &file.danger_test_keys {
        Some(value) if *value.get_ref() => {}
        found => {
            let at = found.as_ref().map_or(0, |value| value.span().start);
            let message = "danger_test_keys must be true: a lab file holds keys in clear, for tests alone";
            return Err(place.error(at, "lab-danger-test-keys", message));
        }
    }
    let suite = ranged(&place, file.suite.as_ref(), 0, (|suite| suite <= 2, "suite is none of 0, 1, 2"))?;
    let (size, curve) = (if suite == 2 { 32 } else { 16 }, Curve::of_suite(suite));
    let mechanism = place.mechanism(file.mechanism.as_ref(), Mechanism::Gmac)?;
    let protection = match file.protection.as_ref().map_or(Protected::Both, |value| *value.get_ref()) {
        Protected::None => Protection::None,
        Protected::Authenticated => Protection::Authenticated,
        Protected::Encrypted => Protection::Encrypted,
        Protected::Both => Protection::AuthenticatedEncrypted,
    };
    let is_pdu = |size| size == 0 || size >= MAX_PDU_MIN;
    let max_pdu = ranged(&place, file.max_pdu.as_ref(), 1_024, (is_pdu, "max_pdu is below 64 and not 0"))?;
    let is_sap = (|sap| sap != 0, "service access point 0 is nobody's");
    let listen_sap = ranged(&place, file.listen_sap.as_ref(), 1, is_sap)?;
    let client_sap = ranged(&place, file.client_sap.as_ref(), 16, is_sap)?;
    let (client, client_keys) = place.party("client", file.client.get_ref(), curve)?;
    let (server, server_keys) = place.party("server", file.server.get_ref(), curve)?;
    if client.system_title == server.system_title {
        return Err(place.at(&file.server, "lab-conflict", "client and server have the same system title"));
    }
    let none = KeyFields::default();
    let fields = file.keys.as_ref().map_or(&none, |keys| keys.get_ref());
    let keys = all_keys(&place, fields, size, [client_keys, server_keys])?;
    let default = Association::of(client_sap, mechanism);
    let associations = all_associations(&place, &file.association, default)?;
    let end = text.trim_end().len();
    let at = file.keys.as_ref().map_or(end, |keys| keys.span().start);
    let carrier = file.carrier.with(file.key_info);
    let signing = signing(&place, file.signing.as_ref(), file.signing_order, protection)?;
    let missing = check_keys(&keys, protection, &associations).and_then(|()| {
        if protection == Protection::None { Ok(()) } else { check_layers(&keys, carrier, signing) }
    });
    missing.map_err(|name| {
        let message = format!("{name} is missing, which mechanism, protection, carrier or signing need");
        place.error(at, "lab-missing-key", message)
    })?;
    let objects =
        file.object.iter().map(|entry| object::read(&place, entry)).collect::<Result<Vec<_>, _>>()?;
    Ok(Lab {
        suite,
        mechanism,
        protection,
        carrier,
        signing,
        listen_sap,
        client_sap,
        max_pdu,
        client,
        server,
        keys,
        quirks: PeerQuirks {
            short_aad: file.peer_quirks.aad == Reading::Short,
            unsized_content: file.peer_quirks.signed == Reading::Short,
        },
        associations,
        objects,
        trusted_clock: file.trusted_clock,
        image: file.image.as_ref().map(|image| image_of(&place, image)).transpose()?,
    })
}

/// The keys of the file; those of the suite have `size` bytes.
fn all_keys(
    place: &Place<'_>,
    fields: &KeyFields,
    size: usize,
    [client, server]: [PartyKeys; 2],
) -> Result<Keys, LabError> {
    Ok(Keys {
        guek: place.optional("keys.guek", fields.guek.as_ref(), size)?,
        gak: place.optional("keys.gak", fields.gak.as_ref(), size)?,
        gbek: place.optional("keys.gbek", fields.gbek.as_ref(), size)?,
        kek: place.optional("keys.kek", fields.kek.as_ref(), size)?,
        secret: fields.secret.as_ref().map(|text| secret(place, text)).transpose()?,
        client,
        server,
    })
}

/// Whose images are taken: both keys must be named.
fn image_of(place: &Place<'_>, fields: &Spanned<ImageFields>) -> Result<Image, LabError> {
    let ImageFields { model, key, version } = fields.get_ref();
    let key = parse_voucher_key(key).ok().and_then(|key| Some((key.key, key.second?)));
    let Some((key, second)) = key else {
        let message = "image.key is not KEY:HASH as `gridseal factory image` prints it";
        return Err(place.at(fields, "lab-value", message));
    };
    if model.is_empty() || model.len() > 64 {
        return Err(place.at(fields, "lab-length", "image.model has not 1 to 64 bytes"));
    }
    Ok(Image { trust: FirmwareTrust { key, second, model: model.clone() }, version: *version })
}

/// Whether and where is signed.
fn signing(
    place: &Place<'_>,
    asked: Option<&Spanned<bool>>,
    order: SigningOrder,
    protection: Protection,
) -> Result<Signing, LabError> {
    match (asked, order) {
        (Some(asked), _) if *asked.get_ref() && protection == Protection::None => {
            Err(place.at(asked, "lab-conflict", "what is not protected is not signed"))
        }
        (Some(asked), SigningOrder::SignThenCipher) if *asked.get_ref() => Ok(Signing::Inside),
        (Some(asked), SigningOrder::CipherThenSign) if *asked.get_ref() => Ok(Signing::Outside),
        _ => Ok(Signing::None),
    }
}

/// Those of the file, and the default one unless one of them has its access point.
fn all_associations(
    place: &Place<'_>,
    entries: &[Spanned<AssociationFields>],
    default: Association,
) -> Result<Vec<Association>, LabError> {
    let mut associations: Vec<Association> = Vec::new();
    for entry in entries {
        let association = place.association(entry, default.mechanism)?;
        if associations.iter().any(|other| other.sap == association.sap) {
            return Err(place.at(entry, "lab-conflict", "two associations have the same sap"));
        }
        associations.push(association);
    }
    if associations.iter().all(|association| association.sap != default.sap) {
        associations.push(default);
    }
    Ok(associations)
}

/// Text, or hex after 0x.
fn secret(place: &Place<'_>, text: &Spanned<String>) -> Result<Bytes, LabError> {
    let bytes = match text.get_ref().strip_prefix("0x") {
        Some(digits) => {
            hex::decode(digits).map_err(|_| place.at(text, "lab-hex", "keys.secret is not hex"))?
        }
        None => text.get_ref().as_bytes().to_vec(),
    };
    if bytes.is_empty() || bytes.len() > 64 {
        return Err(place.at(text, "lab-length", "keys.secret has not 1 to 64 bytes"));
    }
    Ok(Bytes(bytes))
}

/// The name of a key that is needed and not there.
fn check_keys(keys: &Keys, protection: Protection, associations: &[Association]) -> Result<(), &'static str> {
    let any = |wanted: fn(&Association) -> bool| associations.iter().any(wanted);
    let is_ciphered = protection != Protection::None && any(|a| a.role != Role::Public);
    if is_ciphered || any(|a| a.mechanism == Mechanism::Gmac) {
        keys.guek.as_ref().ok_or("keys.guek")?;
        keys.gak.as_ref().ok_or("keys.gak")?;
    }
    if any(|a| a.role == Role::Broadcast) {
        keys.gbek.as_ref().ok_or("keys.gbek")?;
    }
    use Mechanism::{LowLevel, Md5, Sha1, Sha256};
    if any(|a| matches!(a.mechanism, LowLevel | Md5 | Sha1 | Sha256)) {
        keys.secret.as_ref().ok_or("keys.secret")?;
    }
    if any(|a| a.mechanism == Mechanism::Ecdsa) {
        check_signing(keys)?;
    }
    Ok(())
}

/// Signing keys of both sides, private or public.
fn check_signing(keys: &Keys) -> Result<(), &'static str> {
    for (party, name) in [(&keys.client, "client.signing_key"), (&keys.server, "server.signing_key")] {
        party.signing.as_ref().or(party.signing_public.as_ref()).ok_or(name)?;
    }
    Ok(())
}

/// The name of a key that carrier or signing need and that is not there.
fn check_layers(keys: &Keys, carrier: Spoken, signing: Signing) -> Result<(), &'static str> {
    let kind = match carrier {
        Spoken::GeneralCiphering(kind) => Some(kind),
        _ => None,
    };
    if kind == Some(KeyKind::Wrapped) {
        keys.kek.as_ref().ok_or("keys.kek")?;
    }
    if signing != Signing::None || kind == Some(KeyKind::AgreedOnePass) {
        check_signing(keys)?;
    }
    if matches!(kind, Some(KeyKind::AgreedOnePass | KeyKind::AgreedStatic)) {
        for (party, name) in [(&keys.client, "client.agreement_key"), (&keys.server, "server.agreement_key")]
        {
            party.agreement.as_ref().or(party.agreement_public.as_ref()).ok_or(name)?;
        }
    }
    Ok(())
}
