//! Strangers in the field: with a label, with a secret that was photographed, with nothing but a connection.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use gridseal_crypto::{Key, Signer, role::OwnerSecret};
use gridseal_io::rng::OsRng;
use gridseal_trust::enrol::session::{Step, sid_of};
use gridseal_types::Code;

use super::{
    Verdict,
    forge::{
        Authority, Led, changed_hello, delegation, fresh, guessed, hello, init_question, is_step,
        m_of_redirect, nonce, opened_hello, posing_as_owner,
    },
    hostile::Act,
    stage::{MANAGER, RELAY, Stage},
};

/// Another address of this host: a stranger is not behind the meter's own connection.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A C1 of somebody who has no owner secret: everything in it is made up.
fn invented() -> Result<Vec<u8>> {
    let secret = Key::<OwnerSecret, 32>::generate(&mut OsRng)?;
    hello(&secret, &nonce()?, &[0xa0])
}

/// A4: label A was read by somebody who passed by.
pub(super) fn label_a(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    stage.keep("label-a.txt", victim.made.label.as_bytes())?;
    stage.ask_config("invented-c1", &invented()?, Some(ELSEWHERE))?;
    let heard = stage.refusal(&MANAGER, Code::Unknown)?;
    let (_, answer) = stage.ask_init("question-of-a-passer-by", &init_question(&victim.name)?)?;
    stage.keep("answer.cbor", &answer)?;
    // The real meter is not held up.
    stage.switch_on(&victim)?;
    stage.told(&victim, "operating", 1)?;
    stage.switch_off(&victim);
    let learned = m_of_redirect(&answer).is_some();
    let things = if learned { vec!["signed redirect and voucher of the device".into()] } else { Vec::new() };
    Ok(Verdict::refused(heard)
        .and(!learned, "the init server asks for proof of the endorsement key before it answers")
        .obtained(things))
}

/// A5: the owner secret was photographed; the thief poses as config server and seals and grants as the owner would.
pub(super) fn owner_secret(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let secret = stage.owner_secret(&victim)?;
    let (thief, config) = (fresh()?, fresh()?);
    let delegation = delegation(&thief, config.public())?;
    stage.config.on_question(posing_as_owner(secret, config, delegation));
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::ConfigChain)?;
    stage.switch_off(&victim);
    Ok(Verdict::refused(heard)
        .and(stage.is_untouched(&victim)?, "the TPM is untouched")
        .obtained(vec!["names and public keys in C1 and C2 of this device".into()]))
}

/// A19: with the owner secret the list of suites is changed on the way, and, with K_config too, in the answer.
pub(super) fn suites(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let secret = stage.owner_secret(&victim)?;
    let (config, delegation) = stage.config_key()?;
    let mut asked = 0;
    stage.config.on_question(move |question| {
        if !is_step(question, Step::HELLO) {
            return Act::Silence;
        }
        asked += 1;
        if asked == 1 {
            return Act::Forward(changed_hello(&secret, question, |body| body.suites = vec![4]));
        }
        let authority = Authority { secret: &secret, config: &config, delegation: &delegation };
        match Led::begin(&authority, question, |payload| payload.suites = vec![4]) {
            Ok(led) => Act::Answer(led.challenge),
            Err(_) => Act::Silence,
        }
    });
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::Suite)?;
    stage.refusal(&MANAGER, Code::Suite)?;
    stage.switch_off(&victim);
    Ok(Verdict::refused(heard).and(stage.is_untouched(&victim)?, "the TPM is untouched"))
}

/// Invented messages in a flood.
const FLOOD: usize = 100;

/// A20: a flood of invented pseudonyms, and of junk under a pseudonym that exists.
pub(super) fn flood(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let secret = stage.owner_secret(&victim)?;
    for _ in 0..FLOOD {
        stage.ask_config("unknown-pseudonym", &invented()?, Some(ELSEWHERE))?;
    }
    let unknown = stage.refusal(&MANAGER, Code::Unknown)?;
    for _ in 0..FLOOD {
        let mut junk = hello(&secret, &nonce()?, &[0xa0])?;
        if let Some(last) = junk.last_mut() {
            *last ^= 1;
        }
        stage.ask_config("known-pseudonym", &junk, Some(ELSEWHERE))?;
    }
    stage.refusal(&MANAGER, Code::Grant)?;
    stage.refusal(&RELAY, Code::Busy)?;
    // No session was begun for any of them, and the meter whose pseudonym it was is not held up.
    let began = stage.fleet.told_about("endpoint-manager", "accepted", &victim.made.serial);
    stage.switch_on(&victim)?;
    stage.told(&victim, "operating", 1)?;
    stage.switch_off(&victim);
    Ok(Verdict::refused(unknown).and(!began, "nothing was computed for a message without a seal"))
}

/// Sessions that a squatter opens.
const SESSIONS: usize = 20;

/// A24: with the owner secret somebody opens session after session in the meter's name.
pub(super) fn squatting(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let secret = stage.owner_secret(&victim)?;
    // What a C1 of this device says is known to whoever has its owner secret: the first one is caught and swallowed.
    let caught: std::sync::Arc<std::sync::Mutex<Option<Vec<u8>>>> = std::sync::Arc::default();
    let kept = std::sync::Arc::clone(&caught);
    stage.config.on_question(move |question| {
        if is_step(question, Step::HELLO)
            && let Ok(mut kept) = kept.lock()
        {
            *kept = Some(question.to_vec());
        }
        Act::Silence
    });
    stage.switch_on(&victim)?;
    stage.told(&victim, "unanswered", 1)?;
    stage.switch_off(&victim);
    let c1 = caught.lock().ok().and_then(|mut caught| caught.take()).context("no C1 was caught")?;
    let (_, body) = opened_hello(&secret, &c1)?;
    let mut first = None;
    for _ in 0..SESSIONS {
        let squat = hello(&secret, &nonce()?, &body.encode())?;
        first.get_or_insert(sid_of(&squat));
        stage.ask_config("squatting-c1", &squat, Some(ELSEWHERE))?;
    }
    let heard = stage.refusal(&MANAGER, Code::Busy)?;
    // The oldest has been dropped.
    let oldest = first.context("no session")?;
    stage.ask_config("c3-of-a-dropped-session", &guessed(Step::EVIDENCE, &oldest)?, Some(ELSEWHERE))?;
    stage.refusal(&MANAGER, Code::Nonce)?;
    stage.config.rest();
    stage.switch_on(&victim)?;
    stage.told(&victim, "operating", 1)?;
    stage.switch_off(&victim);
    Ok(Verdict::refused(heard))
}
