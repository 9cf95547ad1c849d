//! The certificates of a meter that is claimed in suites 1 and 2: the owner's come in, the factory's go, and the meter's own
//! list of them, read under keys that are proven, says which step comes next.
//!
//! Nothing is remembered of a step but that it was asked for: after each the list is read again, so a claim goes on
//! wherever it was, whoever died. Every step may be done twice.
//!
//! # Source
//! Key service specification, section 6; DLMS fact sheet, section 7 (security setup, attribute 6 and methods 4 to 8).

use alloc::vec::Vec;

use gridseal_crypto::Curve;
use gridseal_dlms::{
    apdu::{
        action::{ActionOutcome, ActionRequest, ActionResponse},
        get::{GetRequest, GetResponse},
        reference::{AttributeId, InvokeId, MethodId},
        result::ActionResult,
    },
    wire::Data,
};
use gridseal_trust::party::{Certificate, parse_csr};
use gridseal_types::{
    ObisCode, SystemTitle,
    records::{Records, Table},
    service::keys::{Bytes, CertifyRequest, ClaimState, ClaimStep, Denial, ExchangeReply, KeyOrigin, Sealed},
};

use crate::{
    Arrival,
    core::{Stop, Work},
    device::Device,
    parties::PartyEntry,
};

/// How far the certificates of a claim are, by system title.
const SETUPS: Table = "key_setups";
/// The security setup.
const SETUP: (u16, ObisCode) = (64, ObisCode::new([0, 0, 43, 0, 0, 255]));
/// Its certificates.
const LIST: i8 = 6;
/// Most certificates of others that are told from one list.
const FOREIGN_MAX: usize = 32;
/// Labels what the owner's authority is asked to certify.
pub const CERTIFY_LABEL: &[u8] = b"gs-party-request-v1";

/// What was asked of the meter last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
enum Asked {
    /// Its list of certificates.
    #[n(0)]
    List,
    /// To take a certificate in.
    #[n(1)]
    Import,
    /// To make a key pair.
    #[n(2)]
    Pair,
    /// A certificate request.
    #[n(3)]
    Request,
    /// To forget a certificate.
    #[n(4)]
    Remove,
}

/// One certificate, by what the list has of it.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
struct Listed {
    #[n(0)]
    serial: Bytes,
    #[n(1)]
    issuer: Bytes,
}

/// What the list says.
#[derive(Debug, Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
struct Seen {
    /// The owner's authority is in.
    #[n(0)]
    anchor: bool,
    /// So is our own certificate.
    #[n(1)]
    client: bool,
    /// So is the meter's, of the owner's authority.
    #[n(2)]
    own: bool,
    /// Whatever else is.
    #[n(3)]
    foreign: Vec<Listed>,
}

/// One claim's certificates.
#[derive(Debug, Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
struct SetupEntry {
    /// The list as it is since the last step; none while that is not known.
    #[n(0)]
    seen: Option<Seen>,
    #[n(1)]
    asked: Option<Asked>,
    /// The meter has made a pair.
    #[n(2)]
    has_pair: bool,
    /// Its certificate request.
    #[n(3)]
    request: Option<Bytes>,
}

fn method(number: i8, parameters: &Data<'_>) -> Vec<u8> {
    let parameters = parameters.to_bytes();
    let invoke_id = InvokeId::confirmed(1);
    let method = MethodId::new(SETUP.0, SETUP.1, number);
    ActionRequest::Normal { invoke_id, method, parameters: Some(&parameters) }.to_bytes()
}

fn list_request() -> Vec<u8> {
    let attribute = AttributeId::new(SETUP.0, SETUP.1, LIST);
    GetRequest::Normal { invoke_id: InvokeId::confirmed(1), attribute, selection: None }.to_bytes()
}

/// Entries of attribute 6.
fn listed(plain: &[u8]) -> Option<Vec<Listed>> {
    let GetResponse::Normal { result: Ok(value), .. } = GetResponse::from_bytes(plain).ok()? else {
        return None;
    };
    let Data::Array(entries) = Data::from_bytes(value).ok()? else { return None };
    let entry = |entry: &Data<'_>| match entry {
        Data::Structure(fields) => match fields.as_slice() {
            [_, _, Data::OctetString(serial), Data::OctetString(issuer), ..] => {
                Some(Listed { serial: Bytes(serial.to_vec()), issuer: Bytes(issuer.to_vec()) })
            }
            _ => None,
        },
        _ => None,
    };
    entries.iter().take(FOREIGN_MAX).map(entry).collect()
}

/// Result and returned octet-string of an action-response.
fn action(plain: &[u8]) -> Option<(bool, Option<Vec<u8>>)> {
    let ActionResponse::Normal { outcome, .. } = ActionResponse::from_bytes(plain).ok()? else { return None };
    let ActionOutcome { result, returned } = outcome;
    let octets = match returned {
        Some(Ok(value)) => match Data::from_bytes(value).ok()? {
            Data::OctetString(octets) => Some(octets.to_vec()),
            _ => None,
        },
        _ => None,
    };
    Some((result == ActionResult::Success, octets))
}

/// What a fuzzer drives.
pub(crate) fn look_at(plain: &[u8]) {
    let _ = (listed(plain), action(plain));
}

fn is(listed: &Listed, certificate: &Certificate) -> bool {
    listed.serial.0 == certificate.serial() && listed.issuer.0 == certificate.issuer()
}

/// The meter's certificate of the owner's on a curve.
fn owned(party: &PartyEntry, curve: Curve) -> Option<Certificate> {
    let of_owner = party.signing.iter().filter(|known| known.origin == KeyOrigin::Operator);
    let mut parsed = of_owner.filter_map(|known| Certificate::parse(&known.der.0).ok());
    parsed.find(|certificate| certificate.key().curve() == curve)
}

impl<R: Records> Work<'_, R> {
    fn setup(&self, title: SystemTitle) -> Result<SetupEntry, Stop> {
        Ok(self.records.load(SETUPS, title.as_bytes())?.unwrap_or_default())
    }

    /// Whether a meter of suite 1 or 2 has the owner's certificates, and none of anybody else.
    pub(crate) fn is_set_up(&self, device: &Device) -> Result<bool, Stop> {
        if device.entry.suite == 0 {
            return Ok(true);
        }
        let setup = self.setup(device.entry.system_title)?;
        Ok(setup.seen.is_some_and(|seen| seen.anchor && seen.client && seen.own && seen.foreign.is_empty()))
    }

    /// The next step with the certificates before the keys can be replaced (`before_keys`), or after; none when there is
    /// nothing to be done.
    pub(crate) fn setup_step(
        &mut self,
        device: &mut Device,
        before_keys: bool,
    ) -> Result<Option<ClaimStep>, Stop> {
        if device.entry.suite == 0 {
            return Ok(None);
        }
        let title = device.entry.system_title;
        let curve = Curve::of_suite(device.entry.suite);
        let setup = self.setup(title)?;
        let Some(seen) = setup.seen.clone() else {
            return self.ask(device, setup, Asked::List, list_request()).map(Some);
        };
        let (anchor, client) = self.core.parties.own(curve).ok_or(Denial::NoCertificate)?;
        let import = |certificate: &Certificate| method(6, &Data::OctetString(certificate.der()));
        if !seen.anchor {
            let apdu = import(anchor);
            return self.ask(device, setup, Asked::Import, apdu).map(Some);
        }
        if !seen.client {
            let apdu = import(client);
            return self.ask(device, setup, Asked::Import, apdu).map(Some);
        }
        if before_keys {
            return Ok(None);
        }
        if !seen.own {
            if let Some(own) = owned(&self.party(title)?, curve) {
                return self.ask(device, setup, Asked::Import, import(&own)).map(Some);
            }
            if let Some(Bytes(csr)) = setup.request.clone() {
                return Ok(Some(ClaimStep::Certify(self.vouched(device, csr)?)));
            }
            let signature = Data::Enum(0);
            if !setup.has_pair {
                return self.ask(device, setup, Asked::Pair, method(4, &signature)).map(Some);
            }
            return self.ask(device, setup, Asked::Request, method(5, &signature)).map(Some);
        }
        if let Some(Listed { serial, issuer }) = seen.foreign.first() {
            let named =
                Data::Structure(alloc::vec![Data::OctetString(&serial.0), Data::OctetString(&issuer.0),]);
            let apdu = method(8, &Data::Structure(alloc::vec![Data::Enum(1), named]));
            return self.ask(device, setup, Asked::Remove, apdu).map(Some);
        }
        Ok(None)
    }

    /// Seals a request. Whatever the list said before it is not known any more.
    fn ask(
        &mut self,
        device: &mut Device,
        mut setup: SetupEntry,
        asked: Asked,
        apdu: Vec<u8>,
    ) -> Result<ClaimStep, Stop> {
        let title = device.entry.system_title;
        let pair = device.transfer_pair().ok_or(Denial::StateForbids)?;
        let sealed: Sealed = self.seal_own(&device.entry, pair, apdu)?;
        setup.asked = Some(asked);
        setup.seen = None;
        self.records.save(SETUPS, title.as_bytes(), &setup);
        let detail = match asked {
            Asked::List => "list",
            Asked::Import => "import",
            Asked::Pair => "key-pair",
            Asked::Request => "request",
            Asked::Remove => "remove",
        };
        self.note(&mut device.entry, "claim.certificates", &detail)?;
        Ok(ClaimStep::Ask { sealed, what: detail.into() })
    }

    /// What the owner's authority is to certify, with our word that it is the meter's.
    fn vouched(&self, device: &Device, csr: Vec<u8>) -> Result<CertifyRequest, Stop> {
        let (name, title) = (device.entry.device, device.entry.system_title);
        let curve = Curve::of_suite(device.entry.suite);
        let signer = self.core.keystore.signer(curve).ok_or(Denial::NoCertificate)?;
        let signed = [CERTIFY_LABEL, name.as_bytes(), title.as_bytes(), &csr].concat();
        let signature = signer.sign(&signed).ok_or(Denial::NoCertificate)?;
        Ok(CertifyRequest { device: name, system_title: title, csr: Bytes(csr), signature: Bytes(signature) })
    }

    /// What the meter has answered to a step.
    pub(crate) fn report_claim(&mut self, title: SystemTitle, apdu: Vec<u8>) -> Result<ExchangeReply, Stop> {
        let opened = self.opened(Some(title), apdu).map_err(|stop| match stop {
            Stop::Refused(_) => Stop::Denied(Denial::Rejected),
            other => other,
        })?;
        if opened.title != title || !matches!(opened.arrival, Arrival::Fresh { .. }) {
            return Err(Denial::Rejected.into());
        }
        let before = self.load_device(self.titled(title)?)?;
        let mut device = before.clone();
        let mut setup = self.setup(title)?;
        let curve = Curve::of_suite(device.entry.suite);
        match (setup.asked.take(), action(&opened.plain)) {
            (Some(Asked::List), _) => {
                setup.seen = listed(&opened.plain).map(|list| self.judged(title, curve, list)).transpose()?;
            }
            (Some(Asked::Pair), Some((true, _))) => setup.has_pair = true,
            (Some(Asked::Request), Some((true, Some(csr)))) => {
                // The key in it must be one of the suite, and the meter has shown that it has it.
                let is_its = parse_csr(&csr).is_ok_and(|(of, key)| of == title && key.curve() == curve);
                setup.request = is_its.then_some(Bytes(csr));
                setup.has_pair = is_its;
            }
            (Some(Asked::Pair | Asked::Request), _) => setup.has_pair = false,
            _ => {}
        }
        self.records.save(SETUPS, title.as_bytes(), &setup);
        self.claim_progress(&mut device)?;
        self.save(&before, &device)?;
        self.claim(title)
    }

    fn judged(&self, title: SystemTitle, curve: Curve, list: Vec<Listed>) -> Result<Seen, Stop> {
        let (anchor, client) = self.core.parties.own(curve).ok_or(Denial::NoCertificate)?;
        let own = owned(&self.party(title)?, curve);
        let mut seen = Seen::default();
        for entry in list {
            if is(&entry, anchor) {
                seen.anchor = true;
            } else if is(&entry, client) {
                seen.client = true;
            } else if own.as_ref().is_some_and(|own| is(&entry, own)) {
                seen.own = true;
            } else {
                seen.foreign.push(entry);
            }
        }
        Ok(seen)
    }

    /// The certificate that the owner's authority has issued for the key of a claim.
    pub(crate) fn claim_certificate(
        &mut self,
        title: SystemTitle,
        der: &[u8],
    ) -> Result<ExchangeReply, Stop> {
        let before = self.load_device(self.titled(title)?)?;
        let mut device = before.clone();
        let setup = self.setup(title)?;
        let wanted = setup.request.as_ref().and_then(|csr| parse_csr(&csr.0).ok());
        let certificate = Certificate::parse(der).map_err(|_| Denial::BadCertificate)?;
        let is_claiming = matches!(device.entry.claim, ClaimState::Claiming | ClaimState::ClaimFailed);
        let is_its = wanted.is_some_and(|(_, key)| key == *certificate.key());
        if !is_claiming
            || !is_its
            || self.core.parties.origin(&certificate, self.now) != Some(KeyOrigin::Operator)
        {
            return Err(Denial::BadCertificate.into());
        }
        self.take_certificate(&mut device, der)?;
        self.save(&before, &device)?;
        self.claim(title)
    }
}
