//! Walks `tests/vectors/dlms`: every file is decoded as its `kind` says and must give what it expects.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use gridseal_crypto::{
    InvocationCounter, Key, Ticket, apdu,
    role::{Gak, Guek, Role},
};
use gridseal_dlms::{
    acse::{Aare, Aarq, InitiateRequest, InitiateResponse},
    apdu::{
        access::AccessRequest,
        ciphered::{GeneralGlo, Protected},
        notification::{DataNotification, Leniency},
    },
    frame::{hdlc::HdlcDecoder, wrapper::WrapperDecoder},
    suite::protect::{open_general_glo, open_protected, seal_general_glo},
    wire::{Data, DateTime, DeviationSign, Reader},
};
use gridseal_types::SystemTitle;

/// Limit of the wrapper decoder that the vectors assume, bytes.
const APDU_SIZE_MAX: usize = 1_024;

struct Vector(toml::Table);

impl Vector {
    fn text(&self, field: &str) -> &str {
        self.0.get(field).and_then(|value| value.as_str()).unwrap_or_else(|| panic!("no {field}"))
    }

    fn bytes(&self, field: &str) -> Vec<u8> {
        hex::decode(self.text(field)).unwrap()
    }

    fn number(&self, field: &str) -> u32 {
        self.0[field].as_integer().unwrap().try_into().unwrap()
    }

    fn header(&self) -> apdu::Header {
        let security_control = self.number("security_control").try_into().unwrap();
        apdu::Header { originator: self.originator(), security_control }
    }

    fn key<R: Role, const N: usize>(&self, field: &str) -> Key<R, N> {
        Key::take_slice(&mut self.bytes(field)).unwrap()
    }

    fn originator(&self) -> SystemTitle {
        SystemTitle::from_slice(&self.bytes("originator")).unwrap()
    }
}

fn ticket(value: u32) -> Ticket {
    let mut counter = InvocationCounter::resume(value.into());
    counter.extend(counter.reserve(1).unwrap());
    counter.take().unwrap()
}

/// What the vector's input decodes to, as text, or the text of the error.
fn outcome(vector: &Vector) -> Result<String, String> {
    let input = vector.bytes("input");
    match vector.text("kind") {
        "general_glo" => general_glo(vector, &input),
        "glo" => glo(vector, &input),
        "data" => {
            let data = Data::from_bytes(&input).map_err(|error| error.to_string())?;
            assert_eq!(data.to_bytes(), input);
            Ok(format!("{data:?}"))
        }
        "notification" => {
            let apdu =
                DataNotification::from_bytes(&input, Leniency::Strict).map_err(|error| error.to_string())?;
            assert_eq!(apdu.to_bytes(), input);
            Ok(format!("{apdu:?}"))
        }
        "date_time" => {
            let at = DateTime::from_bytes(&input).map_err(|error| error.to_string())?;
            assert_eq!(at.to_bytes().as_slice(), input);
            Ok(at.to_utc(DeviationSign::Standard).map_err(|error| error.to_string())?.to_string())
        }
        "acse" => acse(&input),
        "seal" if vector.bytes("guek").len() == 32 => seal::<32>(vector, &input),
        "seal" => seal::<16>(vector, &input),
        "gmac" => gmac(vector, &input),
        "access" => {
            let apdu = AccessRequest::from_bytes(&input).map_err(|error| error.to_string())?;
            assert_eq!(apdu.to_bytes(), input);
            Ok(apdu.specifications.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" "))
        }
        "hdlc" => {
            let mut decoder = HdlcDecoder::new();
            decoder.push(&input);
            let frame = decoder.poll().ok_or_else(|| match decoder.last_error() {
                Some(error) => error.to_string(),
                None => "no frame".to_owned(),
            })?;
            assert_eq!(frame.to_bytes().as_ref(), Some(&input));
            Ok(format!("{:?} {}", frame.control, hex::encode(frame.information)))
        }
        "wrapper" => {
            let mut decoder = WrapperDecoder::new(APDU_SIZE_MAX);
            decoder.push(&input).map_err(|error| error.to_string())?;
            let apdus: Vec<_> =
                core::iter::from_fn(|| decoder.poll()).map(|frame| hex::encode(frame.apdu())).collect();
            Ok(apdus.join(" "))
        }
        kind => panic!("unknown kind {kind}"),
    }
}

fn seal<const N: usize>(vector: &Vector, input: &[u8]) -> Result<String, String> {
    let (guek, gak): (Key<Guek, N>, Key<Gak, N>) = (vector.key("guek"), vector.key("gak"));
    let (header, counter) = (vector.header(), vector.number("counter"));
    let body = apdu::protect(&guek, &gak, header, ticket(counter), input)
        .ok_or_else(|| "nothing to protect with".to_owned())?;
    let plain = apdu::unprotect(&guek, &gak, header, counter, &body);
    assert_eq!(plain.as_deref(), Some(input), "opening is the inverse");
    let is_authenticated = header.security_control & 0x10 != 0;
    for bit in 0..8 * body.len() {
        let mut forged = body.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let opened = apdu::unprotect(&guek, &gak, header, counter, &forged);
        assert_eq!(opened.is_none(), is_authenticated, "without a tag every change opens: bit {bit}");
    }
    Ok(hex::encode(body))
}

fn gmac(vector: &Vector, input: &[u8]) -> Result<String, String> {
    let (guek, gak): (Key<Guek, 16>, Key<Gak, 16>) = (vector.key("guek"), vector.key("gak"));
    let (header, counter) = (vector.header(), vector.number("counter"));
    let tag = apdu::gmac(&guek, &gak, header, ticket(counter), input).unwrap();
    assert!(apdu::gmac_verifies(&guek, &gak, header, counter, input, &tag));
    assert!(!apdu::gmac_verifies(&guek, &gak, header, counter + 1, input, &tag));
    Ok(hex::encode(tag))
}

fn acse(input: &[u8]) -> Result<String, String> {
    if input.first() == Some(&0x61) {
        let aare = Aare::from_bytes(input).map_err(|error| error.to_string())?;
        assert_eq!(aare.to_bytes(), input);
        let initiate = InitiateResponse::from_bytes(aare.user_information.unwrap()).unwrap();
        assert_eq!(initiate.to_bytes(), aare.user_information.unwrap());
        return Ok(format!("{:?} {:?} {:?} {initiate:?}", aare.result, aare.diagnostic, aare.mechanism));
    }
    let aarq = Aarq::from_bytes(input).map_err(|error| error.to_string())?;
    assert_eq!(aarq.to_bytes(), input);
    let initiate = InitiateRequest::from_bytes(aarq.user_information).unwrap();
    assert_eq!(initiate.to_bytes(), aarq.user_information);
    Ok(format!("{:?} {:?} {:?}", aarq.context, aarq.mechanism, initiate.conformance.to_bytes()))
}

//= DLMS 5.3: the nonce is system title and counter, the associated data control octet and authentication key
//= DLMS 5.2: control octets of other suites and of weaker protection are refused
fn general_glo(vector: &Vector, input: &[u8]) -> Result<String, String> {
    let (guek, gak, originator) = (vector.key("guek"), vector.key("gak"), vector.originator());
    let apdu = GeneralGlo::from_bytes(input).map_err(|error| error.to_string())?;
    assert_eq!(apdu.to_bytes(), input);
    let plain = open_general_glo(&guek, &gak, originator, &apdu).map_err(|error| error.to_string())?;
    let sealed = seal_general_glo(&guek, &gak, originator, ticket(apdu.invocation_counter), &plain);
    assert_eq!(sealed.as_deref(), Ok(input), "sealing is the inverse");
    Ok(hex::encode(plain))
}

fn glo(vector: &Vector, input: &[u8]) -> Result<String, String> {
    let mut reader = Reader::new(input);
    reader.u8("tag").unwrap();
    let protected = Protected::from_bytes(reader.prefixed("content").unwrap()).unwrap();
    reader.finish("apdu").unwrap();
    open_protected(&vector.key("guek"), &vector.key("gak"), vector.originator(), &protected)
        .map(hex::encode)
        .map_err(|error| error.to_string())
}

#[test]
fn every_vector_gives_what_it_expects_and_one_in_three_is_negative() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/dlms");
    let (mut positive, mut negative) = (0, 0);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let vector = Vector(std::fs::read_to_string(&path).unwrap().parse().unwrap());
        for field in ["source", "clause", "made_by"] {
            assert!(!vector.text(field).is_empty(), "{name}: {field}");
        }
        if vector.0.contains_key("error") {
            negative += 1;
            assert_eq!(outcome(&vector), Err(vector.text("error").to_owned()), "{name}");
        } else {
            positive += 1;
            assert_eq!(outcome(&vector), Ok(vector.text("expect").to_owned()), "{name}");
        }
    }
    assert!(positive >= 5 && negative * 2 >= positive, "{positive} positive, {negative} negative");
}
