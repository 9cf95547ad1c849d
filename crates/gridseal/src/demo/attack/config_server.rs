//! Who poses as the config server, has taken it over, sits before it, or reads its queue.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use gridseal_trust::{
    enrol::{
        device::DeviceRecord,
        session::{Envelope, Step},
    },
    root::{DeviceRoot, RootReply, RootRequest},
};
use gridseal_types::Code;

use super::{
    Verdict,
    chip::response_code,
    forge::{flipped, guessed, guessed_challenge, is_step},
    hostile::{Act, Seen},
    stage::{MANAGER, Stage, Victim, search_for},
};
use crate::files::read;

/// A3: the pinned TLS key was stolen, the owner secret was not.
pub(super) fn rogue(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    stage.config.on_question(|question| match guessed_challenge(question) {
        Ok(challenge) if is_step(question, Step::HELLO) => Act::Answer(challenge),
        _ => Act::Silence,
    });
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::Grant)?;
    stage.switch_off(&victim);
    Ok(Verdict::refused(heard).and(stage.is_untouched(&victim)?, "the TPM is untouched"))
}

/// What a relay sees of a session: pseudonym, sizes, and how many messages.
fn metadata(seen: &[Seen]) -> Vec<String> {
    let kids: BTreeSet<String> = seen
        .iter()
        .filter_map(|seen| match Envelope::decode(&seen.question) {
            Ok(Envelope::Hello { kid, .. }) => Some(kid.to_string()),
            _ => None,
        })
        .collect();
    let sizes: Vec<usize> = seen.iter().map(|seen| seen.question.len()).collect();
    vec![
        format!("pseudonyms {}", kids.into_iter().collect::<Vec<_>>().join(" ")),
        format!("{} messages with their times and sizes {sizes:?}", sizes.len()),
        "address of the meter".into(),
    ]
}

/// Everything that was on the wire.
fn bytes_of(seen: &[Seen]) -> Vec<&[u8]> {
    seen.iter()
        .flat_map(|seen| {
            [Some(&seen.question), seen.forwarded.as_ref(), seen.answer.as_ref(), seen.returned.as_ref()]
        })
        .flatten()
        .map(Vec::as_slice)
        .collect()
}

/// Whether anything in clear about a victim is in these bytes; what is searched for are its names, keys and certificate.
fn in_clear(
    stage: &Stage<'_>,
    victim: &Victim,
    bytes: &[&[u8]],
    place: Option<(&str, &str)>,
) -> Result<Vec<String>> {
    let record = DeviceRecord::decode(&read(&victim.made.dir.join("device.cbor"))?)?;
    let keys = record.keys.context("no keys")?;
    let installed = record.installed.context("nothing installed")?;
    let leaf = installed.ldevid_chain.first().context("no certificate")?;
    // Its signature: the names in it are in other certificates too.
    let certificate = leaf.0.get(leaf.0.len().saturating_sub(32)..).context("certificate is short")?;
    let last = |public: &[u8]| public.get(public.len().saturating_sub(32)..).unwrap_or_default().to_vec();
    let (attestation, storage, tls) =
        (last(&keys.attestation.public), last(&keys.storage.public), last(&keys.tls.public));
    let object = installed.keys.first().map(|key| last(&key.blob.public)).unwrap_or_default();
    let search = search_for(&[
        ("ek_name", &victim.name.0[..]),
        ("serial number", victim.made.serial.as_bytes()),
        ("certificate", certificate),
        ("attestation key", &attestation[..]),
        ("storage key", &storage[..]),
        ("TLS key", &tls[..]),
        ("delivered object", &object[..]),
    ])?;
    stage.found(&search, bytes, place.map(|(dir, _)| dir), place.map(|(_, process)| process))
}

/// A8: the whole config server. It forges, alters and repeats in both directions, then relays: what it had and saw is
/// what the attacker obtained.
pub(super) fn taken_over(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let answered: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let kept = Arc::clone(&answered);
    let (forged, altered, repeated) =
        (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    stage.config.on_question(move |question| {
        let is_hello = is_step(question, Step::HELLO);
        if is_hello && !altered.swap(true, Ordering::Relaxed) {
            return Act::Forward(flipped(question.to_vec()));
        }
        if is_step(question, Step::EVIDENCE)
            && let Ok(Envelope::Message { sid, .. }) = Envelope::decode(question)
            && !forged.swap(true, Ordering::Relaxed)
            && let Ok(guess) = guessed(Step::EVIDENCE, &sid)
        {
            return Act::Forward(guess);
        }
        Act::Pass
    });
    stage.config.on_answer(move |question, answer| {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        // In place of C4 it gives the C2 of the same session once more, then the right one.
        if is_step(question, Step::EVIDENCE)
            && is_step(&answer, Step::COMMANDS)
            && !repeated.swap(true, Ordering::Relaxed)
            && let Some(earlier) = kept.iter().find(|kept| is_step(kept, Step::CHALLENGE))
        {
            return earlier.clone();
        }
        kept.push(answer.clone());
        answer
    });
    let meter = stage.switch_on(&victim)?;
    stage.told(&victim, "operating", 1)?;
    let altered = stage.refusal(&MANAGER, Code::Grant)?;
    stage.refusal(&MANAGER, Code::Act)?;
    stage.on_record(&meter, "event", "refused")?;
    stage.switch_off(&victim);
    drop(answered);
    let seen = stage.config.seen();
    let bytes = bytes_of(&seen);
    let secrets = stage.secrets_in(&bytes, Some("owner/config-server"), Some("config-server"))?;
    let clear = in_clear(stage, &victim, &bytes, None)?;
    Ok(Verdict::refused(altered)
        .and(secrets.is_empty(), "no secret in its memory, files and messages")
        .and(clear.is_empty(), "nothing of the device in clear")
        .obtained([metadata(&seen), secrets, clear].concat()))
}

/// A10: TLS is ended on the way; one bit of every message is changed in both directions, then it may pass.
pub(super) fn man_in_the_middle(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let touched: Arc<Mutex<BTreeSet<Vec<u8>>>> = Arc::default();
    let asked = Arc::clone(&touched);
    stage.config.on_question(move |question| {
        let first = asked.lock().unwrap_or_else(PoisonError::into_inner).insert(question.to_vec());
        // Only the first of each kind, so that the session goes on: a C1 that is given up begins another.
        if first && !is_step(question, Step::HELLO) {
            Act::Forward(flipped(question.to_vec()))
        } else {
            Act::Pass
        }
    });
    stage.config.on_answer(move |_, answer| {
        let is_message = Envelope::decode(&answer).is_ok_and(|envelope| envelope.step().is_some());
        let first = touched.lock().unwrap_or_else(PoisonError::into_inner).insert(answer.clone());
        if is_message && first { flipped(answer) } else { answer }
    });
    let meter = stage.switch_on(&victim)?;
    stage.told(&victim, "operating", 1)?;
    let heard = stage.refusal(&meter, Code::Grant)?;
    stage.on_record(&MANAGER, "event", "refused")?;
    stage.switch_off(&victim);
    let seen = stage.config.seen();
    let clear = in_clear(stage, &victim, &bytes_of(&seen), None)?;
    Ok(Verdict::refused(heard)
        .and(clear.is_empty(), "nothing of the device in clear")
        .obtained([metadata(&seen), clear].concat()))
}

/// A9: a whole session was recorded; its parts come back to the endpoint manager, to a meter, and to the TPM itself.
pub(super) fn replayed(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (recorded, victim) = (stage.victim()?, stage.victim()?);
    let commands: std::rc::Rc<std::cell::RefCell<Vec<Vec<u8>>>> = std::rc::Rc::default();
    let mut puppet = stage.puppet(&recorded)?;
    let tapped = std::rc::Rc::clone(&commands);
    puppet.on_root(move |request, chip| {
        if let RootRequest::Execute(commands) = &request {
            tapped.borrow_mut().clone_from(commands);
        }
        chip.perform(request)
    });
    puppet.onboard()?;
    let evidence = puppet.sent.iter().find(|wire| is_step(wire, Step::EVIDENCE)).context("no C3")?.clone();
    let challenge = puppet.heard.iter().find(|wire| is_step(wire, Step::CHALLENGE)).context("no C2")?.clone();
    // To the owner: the very bytes that were the answer then, and nothing else happens.
    let commands_sealed = puppet.heard.iter().find(|wire| is_step(wire, Step::COMMANDS)).context("no C4")?;
    let (_, again) = stage.ask_config("recorded-c3", &evidence, None)?;
    let same = again == *commands_sealed;
    stage.keep("answer-then.cbor", commands_sealed)?;
    stage.keep("answer-again.cbor", &again)?;
    // To the TPM: its nonces have moved on.
    let replay = commands.borrow().clone();
    let (refused, response) = match puppet.chip.perform(RootRequest::Execute(replay.clone())) {
        Ok(RootReply::Responses(responses)) => {
            let last = responses.last().cloned().unwrap_or_default();
            (response_code(&last).is_some_and(|code| code != 0), last)
        }
        _ => (true, Vec::new()),
    };
    for command in &replay {
        stage.sent("recorded-tpm-command", command)?;
    }
    stage.keep("tpm-response.bin", &response)?;
    drop(puppet);
    // To another meter, and under its own name to the same one.
    stage.config.on_question(move |question| {
        if is_step(question, Step::HELLO) { Act::Answer(challenge.clone()) } else { Act::Silence }
    });
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::Nonce)?;
    stage.switch_off(&victim);
    Ok(Verdict::refused(heard)
        .and(same, "a message that was answered gets the same answer")
        .and(refused, "the TPM refuses commands of an earlier session")
        .and(stage.is_untouched(&victim)?, "the other meter's TPM is untouched"))
}

/// A25: memory and files of the running config server are searched for anything in clear, and for what must be found
/// there if the search works: a sealed answer.
pub(super) fn queue(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    stage.switch_on(&victim)?;
    stage.told(&victim, "operating", 1)?;
    stage.switch_off(&victim);
    let seen = stage.config.seen();
    let clear = in_clear(stage, &victim, &[], Some(("owner/config-server", "config-server")))?;
    let sealed = seen
        .iter()
        .filter_map(|seen| seen.answer.as_ref())
        .rfind(|answer| Envelope::decode(answer).is_ok_and(|envelope| envelope.step().is_some()))
        .context("no sealed answer")?;
    let tail = sealed.get(sealed.len().saturating_sub(32)..).context("answer is short")?;
    let control = stage.found(&search_for(&[("sealed answer", tail)])?, &[], None, Some("config-server"))?;
    stage.keep(
        "search.json",
        &serde_json::to_vec_pretty(&serde_json::json!({"clear": clear, "control": control}))?,
    )?;
    Ok(Verdict::held("config-server")
        .and(!control.is_empty(), "the search finds a sealed answer in its memory")
        .and(clear.is_empty(), "nothing in clear")
        .obtained([metadata(&seen), clear].concat()))
}
