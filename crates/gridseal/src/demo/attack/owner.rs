//! Owners before, owners who sell twice, owners who never let go.

use std::{cell::RefCell, rc::Rc};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{Signer, SigningKey, role::OwnerSigning};
use gridseal_io::clock::utc_now;
use gridseal_trust::{
    enrol::{
        device::Event,
        document::{Entry, EntryKind},
        init::{SignedRedirect, encode_registration},
        order::Kind,
        session::Step,
        voucher::Voucher,
    },
    root::{DeviceRoot, OwnerPin, RootReply, RootRequest},
};
use gridseal_types::{Code, Digest};

use crate::files::{read, write_atomic};

use super::{
    Verdict,
    chip::with_empty_password,
    forge::{fresh, is_step, posing_as_owner, redirect},
    stage::{MANAGER, Party, Stage, Victim},
};

/// The voucher of a victim, checked, and as it travels.
fn voucher(
    stage: &Stage<'_>,
    victim: &Victim,
) -> Result<(Voucher, gridseal_trust::enrol::voucher::VerifiedVoucher)> {
    let voucher = Voucher::decode(&victim.papers.voucher)?;
    let verified = voucher.verify(&[stage.voucher_keys()?.0]);
    Ok((voucher, verified.map_err(|code| anyhow::anyhow!("{code}"))?))
}

/// A15: the old owner uses his redirect, voucher and config key after the device has gone to somebody else.
pub(super) fn old_owner(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (raised, pinned) = (stage.victim()?, stage.victim()?);
    // What a release leaves in the TPM: the counter at the next epoch, the pin at the next entry.
    stage.prepare(&raised, vec![RootRequest::RaiseEpoch, RootRequest::RaiseEpoch])?;
    let pin = OwnerPin { index: 2, generation: 0, entry: Digest([0x22; 32]) };
    stage.prepare(&pinned, vec![RootRequest::WritePin(pin)])?;
    let meter = stage.switch_on(&pinned)?;
    stage.refusal(&meter, Code::Pin)?;
    stage.switch_off(&pinned);
    let meter = stage.switch_on(&raised)?;
    let heard = stage.refusal(&meter, Code::EpochMismatch)?;
    stage.switch_off(&raised);
    Ok(Verdict::refused(heard))
}

/// A26: the owner sells one device to two buyers: two entries with the same predecessor.
pub(super) fn sells_twice(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let seller = stage.owner_key()?;
    for buyer in ["first", "second"] {
        let key: SigningKey<OwnerSigning> = fresh()?;
        let (mut voucher, verified) = voucher(stage, &victim)?;
        let entry = Entry {
            index: 2,
            epoch: 2,
            kind: EntryKind::Transfer,
            previous: verified.head(),
            owner: key.public(),
            encryption: fresh::<OwnerSigning>()?.public(),
            issued: utc_now(),
            second_key: None,
            owner_second: None,
        };
        voucher.extend(entry, &seller, Some(&stage.owner_second()?))?;
        let signed = SignedRedirect {
            redirect: redirect(&key, victim.name, 2)?,
            delegation: None,
            voucher: voucher.encode(),
        };
        stage.ask_init(&format!("registration-of-the-{buyer}-buyer"), &encode_registration(&signed))?;
    }
    let heard = stage.refusal(&Party::InitServer, Code::Fork)?;
    Ok(Verdict::refused(heard))
}

/// A27: K_config and the owner secret were stolen, after the owner had delegated to another key.
pub(super) fn replaced_key(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let secret = stage.owner_secret(&victim)?;
    let (config, delegation) = stage.config_key()?;
    let (_, verified) = voucher(stage, &victim)?;
    // The meter has accepted something under generation 2.
    let pin = OwnerPin { index: verified.index(), generation: 2, entry: verified.head() };
    stage.prepare(&victim, vec![RootRequest::WritePin(pin)])?;
    stage.config.on_question(posing_as_owner(secret, config, delegation));
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::ConfigChain)?;
    stage.switch_off(&victim);
    Ok(Verdict::refused(heard))
}

/// A29: a device whose TPM somebody else owns: nobody here knows the authorisation, and nobody guesses it.
pub(super) fn uncleared(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let mut puppet = stage.puppet(&victim)?;
    // HierarchyChangeAuth of the owner hierarchy, by whoever had the device before.
    let mut auth = vec![0, 32];
    auth.extend_from_slice(&[0x5a; 32]);
    if puppet.chip.raw(&with_empty_password(0x129, 0x4000_0001, &auth))?.is_none() {
        // No TPM: its root says so instead.
        puppet.on_root(|request, chip| {
            let mut reply = chip.perform(request)?;
            if let RootReply::Described(description) = &mut reply {
                description.permanent |= 1;
            }
            Ok(reply)
        });
    }
    puppet.start()?;
    puppet.run_until("an answer is missing", |puppet| {
        puppet.events.contains(&Event::Sent(Step::EVIDENCE)) && puppet.events.contains(&Event::Unanswered)
    })?;
    let heard = stage.refusal(&MANAGER, Code::Owned)?;
    let c3 = puppet.sent.iter().rfind(|wire| is_step(wire, Step::EVIDENCE)).context("no C3")?;
    stage.sent("c3-of-an-owned-tpm", c3)?;
    let no_commands = !puppet.heard.iter().any(|wire| is_step(wire, Step::COMMANDS));
    let counted = puppet.chip.lockout_counter()?.unwrap_or(0);
    Ok(Verdict::refused(heard)
        .and(no_commands, "no command was sent to the TPM")
        .and(counted == 0, "no authorisation was guessed"))
}

/// A34: a device that is to be decommissioned pretends that its TPM was cleared: with a response that it made up, and with
/// one that another device gave. And whoever has a true receipt changes it.
pub(super) fn receipt(stage: &mut Stage<'_>) -> Result<Verdict> {
    let honest = stage.victim()?;
    let config = stage.manager_config().to_string_lossy().into_owned();
    // An honest end first: the other device's response, and a receipt.
    let mut puppet = stage.puppet(&honest)?;
    puppet.onboard()?;
    let told = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&told);
    puppet.on_root(move |request, chip| {
        let is_clear = is_clear(&request);
        let reply = chip.perform(request)?;
        if let (RootReply::Responses(responses), true) = (&reply, is_clear) {
            heard.borrow_mut().extend(responses.last().cloned());
        }
        Ok(reply)
    });
    stage.ordered("decommission", &honest)?;
    puppet.obey_until("its end", |puppet| puppet.events.contains(&Event::Decommissioned))?;
    let foreign = told.borrow().last().cloned().context("the honest device was not cleared")?;
    stage.keep("tpm-response.bin", &foreign)?;

    let (mut open, mut receipts) = (0, 0);
    for lie in [forged_response(&foreign), foreign] {
        let liar = stage.victim()?;
        let mut puppet = stage.puppet(&liar)?;
        puppet.onboard()?;
        puppet.on_root(move |request, chip| {
            if is_clear(&request) {
                chip.perform(RootRequest::Flush)?;
                return Ok(RootReply::Responses(vec![lie.clone()]));
            }
            chip.perform(request)
        });
        stage.ordered("decommission", &liar)?;
        puppet.obey_until("its lie", |puppet| {
            let told = |event: &Event| {
                matches!(event, Event::OrderAnswered { kind: Kind::Commands, refused: None, .. })
            };
            puppet.events.iter().any(told)
        })?;
        // The answer leaves once it is on record.
        puppet.run_until("its lie is told", |puppet| {
            puppet.events.contains(&Event::OwnershipEnded(Kind::Decommission))
        })?;
        open += usize::from(puppet.chip.description()?.permanent & 5 != 0);
        let path = stage.kept("liar.receipt").to_string_lossy().into_owned();
        let serial = liar.made.serial.as_str();
        let export = ["receipt", "export", "--config", &config, serial, "--out", &path];
        receipts += usize::from(stage.operator(&export)?.1);
    }
    let heard = stage.on_record_times(&MANAGER, "code", Code::Tpm.name(), 2)?;
    let refused = forged_receipts(stage, &config, &honest)?;
    Ok(Verdict::refused(heard)
        .and(open == 2, "the liars' TPMs were not cleared")
        .and(receipts == 0, "there is no receipt for a liar")
        .and(refused, "a changed receipt does not verify, a true one does"))
}

fn is_clear(request: &RootRequest) -> bool {
    // TPM_CC_Clear.
    let is_it = |command: &Vec<u8>| command.get(6..10) == Some(&[0, 0, 1, 0x26][..]);
    matches!(request, RootRequest::Execute(commands) if commands.iter().any(is_it))
}

/// A response of the right shape whose HMAC is made up.
fn forged_response(model: &[u8]) -> Vec<u8> {
    let mut forged = model.to_vec();
    forged.iter_mut().rev().take(32).for_each(|byte| *byte ^= 0xa5);
    forged
}

/// A true receipt, and copies with one bit changed: none of them verifies.
fn forged_receipts(stage: &Stage<'_>, config: &str, honest: &Victim) -> Result<bool> {
    let path = stage.kept("honest.receipt");
    let name = path.to_string_lossy().into_owned();
    let serial = honest.made.serial.as_str();
    let (text, exported) =
        stage.operator(&["receipt", "export", "--config", config, serial, "--out", &name])?;
    if !exported {
        bail!("there is no receipt: {text}");
    }
    let verify = |path: &str| {
        Ok::<_, anyhow::Error>(stage.operator(&["receipt", "verify", path, "--config", config])?.1)
    };
    let is_true = verify(&name)?;
    let bytes = read(&path)?;
    let step = (bytes.len() / 24).max(1);
    let mut verified = Vec::new();
    for at in (0..bytes.len()).step_by(step) {
        let mut changed = bytes.clone();
        if let Some(byte) = changed.get_mut(at) {
            *byte ^= 1;
        }
        let forged = stage.kept("forged.receipt");
        write_atomic(&forged, &changed)?;
        if verify(&forged.to_string_lossy())? {
            verified.push(at);
        }
    }
    let result =
        serde_json::json!({"true_verifies": is_true, "tried": bytes.len() / step, "verified": verified});
    stage.keep("receipts.json", &serde_json::to_vec_pretty(&result)?)?;
    Ok(is_true && verified.is_empty())
}
