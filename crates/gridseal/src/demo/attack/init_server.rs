//! Who poses as the init server, has taken it over, or asks it what it should not tell.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use gridseal_crypto::{Signer, role::VoucherSigning};
use gridseal_trust::{
    enrol::init::{InitHello, InitRedirect, is_challenge},
    tpm,
};
use gridseal_types::Code;

use super::{
    Verdict,
    chip::Chip,
    forge::{fresh, init_question, init_question_with, m_of_redirect, redirect, redirect_answer},
    stage::Stage,
};

/// A1: a stolen web certificate and a hijacked name, but another key: its answer names the thief's config server.
pub(super) fn rogue(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let (init, rogue, thief) = (stage.init_public()?, fresh()?, fresh()?);
    let forged = redirect(&thief, victim.name, 1)?;
    stage.init.on_answer(move |_, answer| {
        redirect_answer(answer, &init, &rogue, |payload| {
            payload.signed.redirect.clone_from(&forged);
            payload.signed.delegation = None;
        })
    });
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::RedirectSig)?;
    stage.switch_off(&victim);
    Ok(Verdict::refused(heard).and(stage.is_untouched(&victim)?, "the TPM is untouched"))
}

/// A2: the whole init server with K_init. It lies in every way it can, then only keeps silent; what it had and heard is
/// what the attacker obtained.
pub(super) fn taken_over(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (victim, other) = (stage.victim()?, stage.victim()?);
    let (init, key, thief) = (stage.init_public()?, stage.init_key()?, fresh()?);
    let forged = redirect(&thief, victim.name, 1)?;
    let question = init_question(&other.name)?;
    let (_, others) = stage.ask_init("question-about-another", &question)?;
    let others = m_of_redirect(&others).and_then(|m| InitRedirect::open(&others, &[init], &m).ok());
    let turn = Arc::new(AtomicU32::new(0));
    let turns = Arc::clone(&turn);
    stage.init.on_answer(move |_, answer| {
        // Twice a thief's redirect, then, where it can be had, another device's.
        match turns.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => redirect_answer(answer, &init, &key, |payload| {
                payload.signed.redirect.clone_from(&forged);
                payload.signed.delegation = None;
            }),
            2 => redirect_answer(answer, &init, &key, |payload| {
                if let Some(others) = &others {
                    payload.signed = others.signed.clone();
                }
            }),
            _ => answer,
        }
    });
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::RedirectSig)?;
    // It tires of lying: nothing that it did has stayed.
    stage.told(&victim, "operating", 1)?;
    stage.switch_off(&victim);
    let seen = stage.init.seen();
    let hello = seen.iter().find_map(|seen| InitHello::decode(&seen.question).ok()).context("no question")?;
    let messages: Vec<&[u8]> = seen.iter().map(|seen| seen.question.as_slice()).collect();
    let secrets = stage.secrets_in(&messages, Some("factory/init-server"), Some("init-server"))?;
    Ok(Verdict::refused(heard)
        .and(secrets.is_empty(), "no secret in its memory, files and messages")
        .obtained(
            [
                vec![
                    format!("ek_name {}", hello.ek_name),
                    format!("epoch {}", hello.epoch),
                    "public keys of its TPM".into(),
                    "address of the meter".into(),
                    "signed redirect: addresses and pins of the config server".into(),
                    "voucher: owner's public keys".into(),
                ],
                secrets,
            ]
            .concat(),
        ))
}

/// A35: a stranger asks for the owners of devices: with the public keys of a device, which are no secrets, and with keys
/// that nobody has.
pub(super) fn oracle(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let device = Chip::power_on(&victim.made.dir)?.description()?;
    let made_up = tpm::with_point(&tpm::ENDORSEMENT_TEMPLATE, &fresh::<VoucherSigning>()?.public());
    let (known_status, known) = stage.ask_init(
        "question-about-a-known-device",
        &init_question_with(&device.ek_public, &device.iak_public)?,
    )?;
    let (status, stranger) =
        stage.ask_init("question-about-nobody", &init_question_with(&made_up, &device.iak_public)?)?;
    stage.keep("answer-known.cbor", &known)?;
    stage.keep("answer-unknown.cbor", &stranger)?;
    let tells = m_of_redirect(&known).is_some();
    let is_challenged = is_challenge(&known) && is_challenge(&stranger);
    if tells || !is_challenged || known_status != status || known.len() != stranger.len() {
        let mut verdict = Verdict::missing("the init server answers known and unknown devices differently");
        if tells {
            verdict = verdict.obtained(vec!["signed redirect and voucher of the device".into()]);
        }
        return Ok(verdict);
    }
    Ok(Verdict::held("init-server"))
}
