//! Owners before, owners who sell twice, owners who never let go.

use anyhow::{Context, Result};
use gridseal_crypto::{Signer, SigningKey, role::OwnerSigning};
use gridseal_io::clock::utc_now;
use gridseal_trust::{
    enrol::{
        device::Event,
        document::{Entry, EntryKind},
        init::{SignedRedirect, encode_registration},
        session::Step,
        voucher::Voucher,
    },
    root::{DeviceRoot, OwnerPin, RootReply, RootRequest},
};
use gridseal_types::{Code, Digest};

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

/// A34: a receipt of Clear.
pub(super) fn receipt(_: &mut Stage<'_>) -> Result<Verdict> {
    Ok(Verdict::missing("decommissioning is not built: no Clear, no receipt"))
}
