//! Hostile meters: copied, emulated, opened, running other software.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use anyhow::{Context, Result};
use gridseal_crypto::{Signer, SigningKey, role::ServiceTls};
use gridseal_trust::{
    enrol::{
        device::Event,
        session::{HelloBody, Step, sid_of},
        wire::encode,
    },
    root::{DeviceRoot, KeyBlob, RootError, RootReply, RootRequest},
    tpm,
};
use gridseal_types::Code;

use super::{
    Verdict,
    chip::Chip,
    forge::{changed_hello, fresh, guessed, hello, is_step, m_of_redirect, nonce, opened_hello},
    puppet::Puppet,
    stage::{Heard, MANAGER, Party, RELAY, Stage},
};

/// What a root said when it refused, as the device machine has it on record.
fn root_refusal(puppet: &Puppet) -> Option<RootError> {
    puppet.events.iter().rev().find_map(|event| match event {
        Event::RootFailed(error) => Some(*error),
        _ => None,
    })
}

/// The response code of a TPM as a record has it.
fn rc(error: RootError) -> String {
    match error {
        RootError::Refused { rc, .. } => format!("TPM_RC 0x{rc:x}"),
        other => other.to_string(),
    }
}

/// Keeps what left the puppet changed.
fn keep_forged(stage: &mut Stage<'_>, puppet: &Puppet) -> Result<()> {
    for wire in &puppet.forged {
        stage.sent("from-meter", wire)?;
    }
    Ok(())
}

/// Runs a puppet until the endpoint manager has refused it with this code.
fn refused_by_manager(stage: &mut Stage<'_>, mut puppet: Puppet, code: Code) -> Result<(Heard, Puppet)> {
    puppet.start()?;
    // The answer is the uniform error, which says nothing.
    puppet.run_until("an answer is missing", |puppet| puppet.events.contains(&Event::Unanswered))?;
    let heard = stage.refusal(&MANAGER, code)?;
    keep_forged(stage, &puppet)?;
    if let Some(last) = puppet.sent.last() {
        stage.sent("last-from-meter", last)?;
    }
    Ok((heard, puppet))
}

/// A6: the flash of an operating meter is put beside another TPM.
pub(super) fn clone(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (original, other) = (stage.victim()?, stage.victim()?);
    let mut real = stage.puppet(&original)?;
    real.onboard()?;
    let (mut flash, public) = (real.record()?, real.chip.description()?.ek_public);
    drop(real);
    let mut copy = stage.puppet(&other)?;
    // The keys of the flash do not load under another storage root key.
    let tls = flash.keys.clone().context("no keys")?.tls;
    let load = copy.chip.perform(RootRequest::Sign { tls, message: b"copied".to_vec() });
    let loads = load.is_ok();
    stage.keep("tpm.txt", load.err().map(rc).unwrap_or_default().as_bytes())?;
    // So it begins anew, in the name of the original; its own TPM gives another owner secret.
    flash.installed = None;
    copy.write_flash(&flash);
    copy.on_root(move |request, chip| {
        let is_description = matches!(request, RootRequest::Describe);
        let mut reply = chip.perform(request)?;
        if let (true, RootReply::Described(description)) = (is_description, &mut reply) {
            description.ek_public.clone_from(&public);
        }
        Ok(reply)
    });
    let (heard, _) = refused_by_manager(stage, copy, Code::Unknown)?;
    Ok(Verdict::refused(heard).and(!loads, "keys of the copied flash do not load in another TPM"))
}

/// A7: an emulated TPM in place of a device whose owner secret is known. The init server tells it nothing. Then, as if it
/// had learnt otherwise where the owner is: first under its own endorsement key, then under the device's, whose private
/// half it has not.
pub(super) fn emulated(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (device, emulator) = (stage.victim()?, stage.victim()?);
    let secret = stage.owner_secret(&device)?;
    let chip = RefCell::new(Chip::power_on(&device.made.dir)?);
    let claimed = chip.borrow_mut().description()?;
    let mut puppet = stage.puppet(&emulator)?;
    let key = puppet.chip.description()?.ek_public;
    let knows_owner = Rc::new(Cell::new(false));
    let is_let_in = Rc::clone(&knows_owner);
    puppet.on_root(move |request, emulated| match request {
        RootRequest::OwnerSecret(_) => chip.borrow_mut().perform(request),
        RootRequest::ActivateIdentity { .. } if is_let_in.get() => chip.borrow_mut().perform(request),
        request => {
            let mut reply = emulated.perform(request)?;
            if let RootReply::Described(description) = &mut reply {
                description.ek_public.clone_from(&claimed.ek_public);
                description.iak_public.clone_from(&claimed.iak_public);
            }
            Ok(reply)
        }
    });
    puppet.start()?;
    puppet.run_until("its TPM opens no challenge", |puppet| root_refusal(puppet).is_some())?;
    let is_told = puppet.heard.iter().any(|answer| m_of_redirect(answer).is_some());
    knows_owner.set(true);
    puppet.events.clear();
    puppet.on_wire(move |wire| {
        Some(if is_step(wire, Step::HELLO) {
            changed_hello(&secret, wire, |body| body.ek_pub.clone_from(&key))
        } else {
            wire.to_vec()
        })
    });
    let (heard, mut puppet) = refused_by_manager(stage, puppet, Code::Endorsement)?;
    // Under the real public key: the credential in C2 does not open.
    puppet.on_wire(|wire| Some(wire.to_vec()));
    puppet.events.clear();
    puppet.start()?;
    puppet.run_until("its TPM gives no credential", |puppet| root_refusal(puppet).is_some())?;
    let c1 = puppet.sent.iter().rfind(|wire| is_step(wire, Step::HELLO)).context("no C1")?.clone();
    stage.ask_config("c3-without-credential", &guessed(Step::EVIDENCE, &sid_of(&c1))?, None)?;
    stage.refusal(&MANAGER, Code::Act)?;
    Ok(Verdict::refused(heard)
        .and(!is_told, "the init server tells nothing to a TPM that does not open its challenge")
        .obtained(vec!["names and public keys in C1 and C2 of this device".into()]))
}

/// A11: attestation key of TPM B, endorsement key of TPM A.
pub(super) fn foreign_attestation_key(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (device, other) = (stage.victim()?, stage.victim()?);
    let mut elsewhere = Chip::power_on(&other.made.dir)?;
    let mut puppet = stage.puppet(&device)?;
    puppet.on_root(move |request, chip| match request {
        RootRequest::CreateKeys => elsewhere.perform(RootRequest::CreateKeys),
        request => chip.perform(request),
    });
    puppet.start()?;
    puppet.run_until("the TPM refuses", |puppet| root_refusal(puppet).is_some())?;
    let error = root_refusal(&puppet).context("no refusal")?;
    stage.keep("tpm.txt", rc(error).as_bytes())?;
    if let Some(response) = puppet.chip.bus().iter().rfind(|bytes| {
        super::chip::response_code(bytes) == Some(0x1df) && bytes.first_chunk() == Some(&[0x80, 0x01])
    }) {
        stage.keep("tpm-response.bin", response)?;
    }
    if let Some(c1) = puppet.sent.iter().find(|wire| is_step(wire, Step::HELLO)) {
        stage.sent("c1-with-a-foreign-key", c1)?;
    }
    let no_evidence = !puppet.sent.iter().any(|wire| is_step(wire, Step::EVIDENCE));
    Ok(Verdict::refused(Heard { by: "tpm".into(), code: rc(error) })
        .and(no_evidence, "there is no evidence without the credential"))
}

/// A12: a TLS key that was made in software is passed off as one of the TPM.
pub(super) fn software_key(stage: &mut Stage<'_>) -> Result<Verdict> {
    let device = stage.victim()?;
    let software: SigningKey<ServiceTls> = fresh()?;
    let public = tpm::with_point(&tpm::TLS_TEMPLATE, &software.public());
    let mut real = None;
    let mut puppet = stage.puppet(&device)?;
    puppet.on_root(move |request, chip| match request {
        RootRequest::CreateKeys => {
            let mut reply = chip.perform(RootRequest::CreateKeys)?;
            if let RootReply::Keys(keys) = &mut reply {
                let software = KeyBlob { public: public.clone(), private: keys.tls.private.clone() };
                real = Some(std::mem::replace(&mut keys.tls, software));
            }
            Ok(reply)
        }
        // The TPM certifies the one that it has.
        RootRequest::Attest(mut request) => {
            if let Some(real) = &real {
                request.keys.tls = real.clone();
            }
            chip.perform(RootRequest::Attest(request))
        }
        RootRequest::Sign { message, .. } => {
            software.sign(&message).map(RootReply::Signature).map_err(|_| RootError::Rng)
        }
        request => chip.perform(request),
    });
    let (heard, _) = refused_by_manager(stage, puppet, Code::Certify)?;
    Ok(Verdict::refused(heard))
}

/// A13: an attestation key that is not restricted would sign whatever it is given.
pub(super) fn unrestricted_key(stage: &mut Stage<'_>) -> Result<Verdict> {
    let device = stage.victim()?;
    let secret = stage.owner_secret(&device)?;
    let mut puppet = stage.puppet(&device)?;
    let mut tries = 0;
    puppet.on_wire(move |wire| {
        if !is_step(wire, Step::HELLO) {
            return Some(wire.to_vec());
        }
        tries += 1;
        // Byte 5 of the public area: restricted is bit 16 of the attributes, decrypt bit 17.
        let attributes = if tries == 1 { 0x04 } else { 0x07 };
        Some(changed_hello(&secret, wire, |body| {
            if let Some(byte) = body.ak_pub.get_mut(5) {
                *byte = attributes;
            }
        }))
    });
    let (heard, _) = refused_by_manager(stage, puppet, Code::AkAttr)?;
    Ok(Verdict::refused(heard))
}

/// A log that tells of one event in PCR 0: header of a crypto-agile log with SHA-256 digests, and the event.
fn told_event(digest: [u8; 32]) -> Vec<u8> {
    let algorithms: &[u8] = &[1, 0, 0, 0, 0x0b, 0, 32, 0, 0];
    let spec_id = [&b"Spec ID Event03\0"[..], &[0; 8], algorithms].concat();
    let size = u32::try_from(spec_id.len()).unwrap_or(0).to_le_bytes();
    let header = [&[0; 4][..], &[3, 0, 0, 0], &[0; 20], &size, &spec_id].concat();
    [&header[..], &[0; 4], &[1, 0, 0, 0], &[1, 0, 0, 0, 0x0b, 0], &digest, &[0; 4]].concat()
}

/// A14: other software was booted, and measured; another meter also hands over a log that tells of something else.
pub(super) fn modified_software(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (device, liar) = (stage.victim()?, stage.victim()?);
    let mut puppet = stage.puppet(&device)?;
    puppet.chip.measure([0x66; 32])?;
    let (heard, mut puppet) = refused_by_manager(stage, puppet, Code::Policy)?;
    let unowned = puppet.chip.description()?.permanent & 5 == 0;
    let no_commands = !puppet.heard.iter().any(|wire| is_step(wire, Step::COMMANDS));
    drop(puppet);
    let mut puppet = stage.puppet(&liar)?;
    puppet.chip.measure([0x66; 32])?;
    puppet.on_root(|request, chip| {
        let mut reply = chip.perform(request)?;
        if let RootReply::Attested(attested) = &mut reply {
            attested.logs.event_log = told_event([0x11; 32]);
        }
        Ok(reply)
    });
    let (_, mut puppet) = refused_by_manager(stage, puppet, Code::Quote)?;
    let liar_unowned = puppet.chip.description()?.permanent & 5 == 0;
    Ok(Verdict::refused(heard).and(unowned && liar_unowned && no_commands, "no C4, the TPM has no owner"))
}

/// A31: between C3 and the ownership commands the power is cut and other software is booted.
pub(super) fn reboot(stage: &mut Stage<'_>) -> Result<Verdict> {
    let device = stage.victim()?;
    let mut puppet = stage.puppet(&device)?;
    let died = Rc::new(RefCell::new(false));
    let cut = Rc::clone(&died);
    puppet.on_root(move |request, chip| {
        if matches!(request, RootRequest::Execute(_)) && !cut.replace(true) {
            chip.power_cycle().map_err(|_| RootError::Transport)?;
            chip.measure([0x66; 32]).map_err(|_| RootError::Transport)?;
        }
        chip.perform(request)
    });
    let (heard, mut puppet) = refused_by_manager(stage, puppet, Code::Tpm)?;
    // What it runs now has to prove itself anew, and cannot.
    puppet.events.clear();
    puppet.start()?;
    puppet.run_until("evidence of the other software", |puppet| {
        puppet.events.contains(&Event::Sent(Step::EVIDENCE)) && puppet.events.contains(&Event::Unanswered)
    })?;
    stage.refusal(&MANAGER, Code::Policy)?;
    let c3 = puppet.sent.iter().rfind(|wire| is_step(wire, Step::EVIDENCE)).context("no C3")?;
    stage.sent("c3-of-other-software", c3)?;
    let unowned = puppet.chip.description()?.permanent & 5 == 0;
    Ok(Verdict::refused(heard).and(unowned, "the TPM has no owner"))
}

/// A32: a statement that was made for one purpose is shown for another.
pub(super) fn other_purpose(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (first, second) = (stage.victim()?, stage.victim()?);
    let mut puppet = stage.puppet(&first)?;
    puppet.on_root(|request, chip| {
        let mut reply = chip.perform(request)?;
        if let RootReply::Attested(attested) = &mut reply {
            // The storage key's certificate for the TLS key.
            attested.certify[1] = attested.certify[0].clone();
        }
        Ok(reply)
    });
    let (heard, _) = refused_by_manager(stage, puppet, Code::Certify)?;
    let mut puppet = stage.puppet(&second)?;
    puppet.on_root(|request, chip| {
        let mut reply = chip.perform(request)?;
        if let RootReply::Attested(attested) = &mut reply {
            attested.quote = attested.certify[1].clone();
        }
        Ok(reply)
    });
    refused_by_manager(stage, puppet, Code::Quote)?;
    Ok(Verdict::refused(heard))
}

/// A36: every form of a message that is not the one form there is.
pub(super) fn encodings(stage: &mut Stage<'_>) -> Result<Verdict> {
    let device = stage.victim()?;
    let secret = stage.owner_secret(&device)?;
    let mut puppet = stage.puppet(&device)?;
    puppet.onboard()?;
    let c1 = puppet.sent.iter().find(|wire| is_step(wire, Step::HELLO)).context("no C1")?.clone();
    drop(puppet);
    // Envelopes: tagged, of indefinite length, not the shortest head, with a trailing byte, cut short.
    let tail = c1.get(1..).unwrap_or_default();
    let envelopes: [(&str, Vec<u8>); 5] = [
        ("tag", [&[0xd2], &c1[..]].concat()),
        ("indefinite-length", [&[0x9f], tail, &[0xff]].concat()),
        ("long-head", [&[0x98, 0x05], tail].concat()),
        ("trailing-byte", [&c1[..], &[0]].concat()),
        ("cut-short", c1.get(..c1.len().saturating_sub(1)).unwrap_or_default().to_vec()),
    ];
    for (name, wire) in &envelopes {
        stage.ask_config(name, wire, None)?;
    }
    let heard = stage.refusal(&RELAY, Code::Format)?;
    // Inside the seal, where only the endpoint manager sees it: key 0, a key twice, keys out of order, null.
    let (_, body) = opened_hello(&secret, &c1)?;
    for (name, body) in bodies(&body) {
        stage.ask_config(name, &hello(&secret, &nonce()?, &body)?, None)?;
    }
    stage.refusal(&MANAGER, Code::Format)?;
    // Signed objects at the init server: tag 18, a header more, a DER signature.
    for (name, wire) in registrations(stage, &device.papers.voucher)? {
        stage.ask_init(name, &wire)?;
    }
    stage.refusal(&Party::InitServer, Code::Format)?;
    Ok(Verdict::refused(heard))
}

/// C1 bodies that say the same in a form that is not allowed.
fn bodies(body: &HelloBody) -> Vec<(&'static str, Vec<u8>)> {
    let whole = body.encode();
    let inner = whole.get(1..).unwrap_or_default();
    let head = whole.first().copied().unwrap_or(0);
    vec![
        ("key-zero", [&[head + 1, 0x00, 0x01], inner].concat()),
        ("key-twice", [&[head + 1, 0x01, 0x81, 0x01], inner].concat()),
        ("critical-key-unknown", [&[head + 1], inner, &[0x18, 0x40, 0x01]].concat()),
        ("null-member", [&[head + 1], inner, &[0x17, 0xf6]].concat()),
        ("trailing", [&whole[..], &[0]].concat()),
    ]
}

/// Registrations at the init server with COSE objects that are not allowed, or not at all what they should be.
fn registrations(stage: &Stage<'_>, voucher: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let redirect = super::forge::redirect(&stage.owner_key()?, gridseal_types::EkName([0; 34]), 1)?;
    let registration = |redirect: &[u8]| {
        encode(|w| {
            w.array(3).uint(1u8).uint(30u8).map(2).key(1).bytes(redirect).key(3).bytes(voucher);
        })
    };
    let key_zero = encode(|w| {
        w.array(3).uint(1u8).uint(30u8).map(3).key(0).uint(1u8).key(1).bytes(&redirect).key(3).bytes(voucher);
    });
    let tagged = registration(&[&[0xd2], &redirect[..]].concat());
    let cut = registration(redirect.get(..redirect.len().saturating_sub(64)).unwrap_or_default());
    Ok(vec![("registration-key-zero", key_zero), ("sign1-tag-18", tagged), ("sign1-cut", cut)])
}
