//! The file as it is written, and what is checked of it.

use gridseal_crypto::{Curve, CurvePublic};
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

/// Service access point of everybody.
const ALL_STATIONS: u16 = 0x7F;
/// Octets before the proof of a client in the request that brings it.
const REPLY_HEAD: usize = 15;
/// Octets that a request has room for, or a response in blocks.
const REQUEST_SIZE: usize = 32;

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
    #[serde(default)]
    legacy: bool,
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

    /// The name of the field whose value is there, if it stands on that line.
    fn field_at(&self, at: usize) -> Option<&str> {
        let (name, _) = self.0.get(..at)?.rsplit('\n').next()?.rsplit_once('=')?;
        let name = name.trim_end().rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next()?;
        (!name.is_empty()).then_some(name)
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
        let own = keys.own_publics(curve);
        let [signing, agreement] = own.each_ref().map(|public| public.as_ref().map(CurvePublic::point));
        let is_point = |bytes: &Bytes| CurvePublic::from_point(curve, &bytes.0).is_some();
        let (signing_public, agreement_public) =
            (keys.signing_public.as_ref(), keys.agreement_public.as_ref());
        for (field, value, is_on) in [
            ("signing_key", &side.signing_key, signing.is_some()),
            ("agreement_key", &side.agreement_key, agreement.is_some()),
            ("signing_public", &side.signing_public, signing_public.is_some_and(is_point)),
            ("agreement_public", &side.agreement_public, agreement_public.is_some_and(is_point)),
        ] {
            if let Some(value) = value.as_ref().filter(|_| !is_on) {
                let message = format!("{name}.{field} is not on the curve of the suite");
                return Err(self.at(value, "lab-value", message));
            }
        }
        for (field, value, own, given) in [
            ("signing", &side.signing_public, signing, signing_public),
            ("agreement", &side.agreement_public, agreement, agreement_public),
        ] {
            if let (Some(value), Some(own), Some(given)) = (value, own, given)
                && own != given.0
            {
                let message = format!("{name}.{field}_public is not that of {name}.{field}_key");
                return Err(self.at(value, "lab-conflict", message));
            }
        }
        Ok((Party { system_title, invocation_counter: side.invocation_counter }, keys))
    }

    fn mechanism(
        &self,
        value: Option<&Spanned<u8>>,
        default: Mechanism,
        legacy: Legacy,
    ) -> Result<Mechanism, LabError> {
        let Some(value) = value else { return Ok(default) };
        match Mechanism::from_number(*value.get_ref()) {
            Some(Mechanism::Manufacturer) => {
                Err(self.at(value, "lab-value", "mechanism 2 belongs to manufacturers and is not spoken"))
            }
            Some(Mechanism::Md5 | Mechanism::Sha1) if !legacy.is_allowed => {
                Err(self.at(value, "lab-conflict", "mechanisms 3 and 4 are broken: they need legacy = true"))
            }
            Some(Mechanism::Md5 | Mechanism::Sha1) if legacy.suite != 0 => {
                Err(self.at(value, "lab-conflict", "mechanisms 3 and 4 are of suite 0 only"))
            }
            Some(mechanism) => Ok(mechanism),
            None => Err(self.at(value, "lab-value", "mechanism is none of 0, 1, 3, 4, 5, 6, 7")),
        }
    }

    fn association(
        &self,
        entry: &Spanned<AssociationFields>,
        default: Mechanism,
        legacy: Legacy,
    ) -> Result<Association, LabError> {
        let AssociationFields { sap, role, mechanism, rights } = entry.get_ref();
        let is_open = matches!(role, Role::Public | Role::Broadcast);
        let default = if is_open { Mechanism::None } else { default };
        let found = self.mechanism(mechanism.as_ref(), default, legacy)?;
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
            ("lab-unknown-field", message.to_owned())
        } else if message.starts_with("missing field") {
            ("lab-missing-field", message.to_owned())
        } else if message.starts_with("invalid") || message.starts_with("unknown variant") {
            // What was found stands before, what would fit behind.
            let fits = message.rsplit_once("expected ").map_or("", |(_, fits)| fits);
            let field = self.field_at(at).unwrap_or("the value");
            ("lab-value", format!("{field} is not one that fits: expected {fits}"))
        } else {
            ("lab-syntax", "not TOML".to_owned())
        };
        self.error(at, code, message)
    }
}

/// Whether broken mechanisms are spoken.
#[derive(Debug, Clone, Copy)]
struct Legacy {
    is_allowed: bool,
    suite: u8,
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
    let legacy = Legacy { is_allowed: file.legacy, suite };
    let mechanism = place.mechanism(file.mechanism.as_ref(), Mechanism::Gmac, legacy)?;
    let protection = match file.protection.as_ref().map_or(Protected::Both, |value| *value.get_ref()) {
        Protected::None => Protection::None,
        Protected::Authenticated => Protection::Authenticated,
        Protected::Encrypted => Protection::Encrypted,
        Protected::Both => Protection::AuthenticatedEncrypted,
    };
    let is_pdu = |size| size == 0 || size >= MAX_PDU_MIN;
    let max_pdu = ranged(&place, file.max_pdu.as_ref(), 1_024, (is_pdu, "max_pdu is below 64 and not 0"))?;
    let is_sap = (|sap| sap != 0, "service access point 0 is nobody's");
    let client_sap = ranged(&place, file.client_sap.as_ref(), 16, is_sap)?;
    let is_device =
        (|sap| sap != 0 && sap != ALL_STATIONS, "listen_sap 0 is nobody's, and 127 is everybody's");
    let listen_sap = ranged(&place, file.listen_sap.as_ref(), 1, is_device)?;
    let (client, client_keys) = place.party("client", file.client.get_ref(), curve)?;
    let (server, server_keys) = place.party("server", file.server.get_ref(), curve)?;
    if client.system_title == server.system_title {
        return Err(place.at(&file.server, "lab-conflict", "client and server have the same system title"));
    }
    let none = KeyFields::default();
    let fields = file.keys.as_ref().map_or(&none, |keys| keys.get_ref());
    let keys = all_keys(&place, fields, size, [client_keys, server_keys])?;
    let default = Association::of(client_sap, mechanism);
    let associations = all_associations(&place, &file.association, default, legacy)?;
    let carrier = file.carrier.with(file.key_info);
    let signing = signing(&place, file.signing.as_ref(), file.signing_order, protection)?;
    let missing = check_keys(&keys, protection, &associations).and_then(|()| {
        if protection == Protection::None { Ok(()) } else { check_layers(&keys, carrier, signing) }
    });
    missing.map_err(|name| {
        let end = text.trim_end().len();
        let at = match name.split_once('.') {
            Some(("client", _)) => file.client.span().start,
            Some(("server", _)) => file.server.span().start,
            _ => file.keys.as_ref().map_or(end, |keys| keys.span().start),
        };
        let message = format!("{name} is missing, which mechanism, protection, carrier or signing need");
        place.error(at, "lab-missing-key", message)
    })?;
    let least = max_pdu_min(&associations, protection, carrier, signing, curve);
    if let Some(field) = file.max_pdu.as_ref().filter(|_| max_pdu != 0 && usize::from(max_pdu) < least) {
        let message = format!("max_pdu must be at least {least} for these mechanisms, carrier and signing");
        return Err(place.at(field, "lab-conflict", message));
    }
    let mut objects: Vec<object::LabObject> = Vec::new();
    for entry in &file.object {
        let object = object::read(&place, entry)?;
        if objects.iter().any(|other| (other.class, other.obis) == (object.class, object.obis)) {
            return Err(place.at(entry, "lab-conflict", "two objects have the same class and obis"));
        }
        objects.push(object);
    }
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

/// Smallest PDU size, bytes, in which every association that is opened can prove itself and be asked for something.
fn max_pdu_min(
    associations: &[Association],
    protection: Protection,
    carrier: Spoken,
    signing: Signing,
    curve: Curve,
) -> usize {
    let opened = associations.iter().filter(|a| !matches!(a.role, Role::Public | Role::Broadcast));
    let (own, largest) = match protection {
        Protection::None => (0, 0),
        _ => (carrier.overhead_max(), carrier.general().overhead_max()),
    };
    let layers = |carrier: usize| carrier.saturating_add(signing.overhead_max());
    opened.fold(usize::from(MAX_PDU_MIN), |least, association| {
        let proof = match association.mechanism {
            Mechanism::Gmac => 17,
            Mechanism::Sha256 => 32,
            Mechanism::Ecdsa => curve.point_size(),
            _ => 20,
        };
        let proof = layers(own).saturating_add(REPLY_HEAD).saturating_add(proof);
        least.max(proof).max(layers(largest).saturating_add(REQUEST_SIZE))
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
    legacy: Legacy,
) -> Result<Vec<Association>, LabError> {
    let mut associations: Vec<Association> = Vec::new();
    for entry in entries {
        let association = place.association(entry, default.mechanism, legacy)?;
        if association.sap == default.sap && association.mechanism != default.mechanism {
            let (own, other) = (default.mechanism.number(), association.mechanism.number());
            let message = format!(
                "sap {} is client_sap, whose mechanism is {own}, and here it has {other}: give client_sap another number",
                default.sap
            );
            return Err(place.at(entry, "lab-conflict", message));
        }
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
