//! The endpoint manager, its database, and whoever has taken it over.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, anyhow};
use gridseal_api::client::Client;
use gridseal_io::clock::utc_now;
use gridseal_trust::enrol::{
    cose::{SignedType, sign},
    device::DeviceRecord,
    order::{self, Order, Task},
    secrets::SessionSecretExt,
    session::{Envelope, EvidenceBody, OwnPayload, Step, open, seal_message},
    wire::encode,
};
use gridseal_types::{
    Code,
    service::{
        Batch,
        keys::{KeyReply, KeyRequest},
    },
};

use super::{
    Verdict,
    forge::{self, Authority, Led, is_step},
    hostile::Act,
    stage::{Party, Stage, search_for},
};
use crate::{
    files::{Zone, read, write_atomic},
    process::inner_client,
};

/// A21: every file of the endpoint manager is read.
pub(super) fn database(stage: &mut Stage<'_>) -> Result<Verdict> {
    let secrets = stage.secrets_in(&[], Some("owner/endpoint-manager"), None)?;
    // The search has to find what is there: the Name of an endorsement key.
    let device = stage.fleet.any_device()?;
    let control = stage.found(
        &search_for(&[("ek_name", &device.0[..])])?,
        &[],
        Some("owner/endpoint-manager"),
        None,
    )?;
    stage.keep(
        "search.json",
        &serde_json::to_vec_pretty(&serde_json::json!({"secrets": secrets, "control": control}))?,
    )?;
    Ok(Verdict::held("keys")
        .and(!control.is_empty(), "the search finds a device's Name")
        .and(secrets.is_empty(), "only wrapped secrets")
        .obtained(
            [vec!["device register: names, serial numbers, public keys, states".into()], secrets].concat(),
        ))
}

/// A28: the endpoint manager was taken over and wants the TPM to do something else. `keys` has no request for that, so
/// the attacker here also has N_1 and K_config, and leads the session himself.
pub(super) fn commands(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    let secret = stage.owner_secret(&victim)?;
    let (config, delegation) = stage.config_key()?;
    let mut led: Option<Led> = None;
    let mut turn = 0;
    stage.config.on_question(move |question| {
        if is_step(question, Step::HELLO) {
            let authority = Authority { secret: &secret, config: &config, delegation: &delegation };
            led = Led::begin(&authority, question, |_| ()).ok();
            return led.as_ref().map_or(Act::Silence, |led| Act::Answer(led.challenge.clone()));
        }
        let (Some(led), true) = (&led, is_step(question, Step::EVIDENCE)) else { return Act::Silence };
        let session = led.session(&secret);
        // With the session that the TPM opened for us: nothing but the command itself is wrong.
        let opened = Envelope::decode(question).ok().and_then(|envelope| {
            let body = open(&session.device_to_owner(), &envelope).ok()?;
            Some(EvidenceBody::decode(&body).ok()?.sessions[1].handle)
        });
        let Some(opened) = opened else { return Act::Silence };
        let command = forbidden(turn, opened);
        turn += 1;
        let payload =
            OwnPayload { th3: led.th2.after(Step::EVIDENCE, question).value(), commands: vec![command] };
        let sealed = sign(&config, SignedType::C4, &payload.encode()).ok().and_then(|signed| {
            let body = encode(|w| {
                w.bytes(&signed);
            });
            seal_message(&session.owner_to_device(), Step::COMMANDS, &led.sid, &body).ok()
        });
        sealed.map_or(Act::Silence, Act::Answer)
    });
    let meter = stage.switch_on(&victim)?;
    let heard = stage.refusal(&meter, Code::Command)?;
    stage.switch_off(&victim);
    let forbidden = asks_keys(stage)?;
    let owned = super::chip::Chip::power_on(&victim.made.dir)?.description()?.permanent & 5 != 0;
    Ok(Verdict::refused(heard)
        .and(!owned, "the TPM has no owner")
        .and(forbidden, "keys refuses requests that are not the endpoint manager's"))
}

/// With the endpoint manager's identity: a request of the head-end's.
fn asks_keys(stage: &mut Stage<'_>) -> Result<bool> {
    let zone = Zone::open(&stage.fleet.dir.join("owner/endpoint-manager"))?;
    let address = stage.fleet.address("keys", "inner")?;
    let client = Client::new(address.to_string(), inner_client(&zone)?, "keys");
    let batch = Batch(vec![KeyRequest::OpenApdu { apdu: vec![0xdb; 32] }]);
    let call = client.call::<KeyRequest, KeyReply>(crate::process::keys::PATH, &batch);
    let reply = stage.runtime.block_on(call).map_err(|error| anyhow!("{error}"))?;
    stage.on_record(&Party::Owner("keys"), "event", "forbidden")?;
    Ok(matches!(reply.0.as_slice(), [KeyReply::Refused { .. }]))
}

/// Well-formed commands that no owner may send: ClearControl, Clear, and a new authorisation for the platform.
fn forbidden(turn: usize, session: u32) -> Vec<u8> {
    let new_auth = [&[0, 32][..], &[0x5a; 32]].concat();
    let (code, handle, parameters): (u32, u32, Vec<u8>) = match turn % 3 {
        0 => (0x127, 0x4000_000a, vec![1]),
        1 => (0x126, 0x4000_000a, Vec::new()),
        _ => (0x129, 0x4000_000c, new_auth),
    };
    // One authorisation: session, nonceCaller, attributes, HMAC.
    let mut area = session.to_be_bytes().to_vec();
    area.extend_from_slice(&[0, 16]);
    area.extend_from_slice(&[0x11; 16]);
    area.extend_from_slice(&[0x20, 0, 32]);
    area.extend_from_slice(&[0x22; 32]);
    let mut rest = handle.to_be_bytes().to_vec();
    rest.extend_from_slice(&u32::try_from(area.len()).unwrap_or(0).to_be_bytes());
    rest.extend_from_slice(&area);
    rest.extend_from_slice(&parameters);
    let size = u32::try_from(rest.len().saturating_add(10)).unwrap_or(0);
    [&[0x80, 0x02][..], &size.to_be_bytes(), &code.to_be_bytes(), &rest].concat()
}

/// A33: an order that was carried out is sent again, and orders that are not for this meter, this epoch or this number.
/// Who sends them sits at the config server, and has everything of the owner's besides.
pub(super) fn order(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (victim, other) = (stage.victim()?, stage.victim()?);
    let (secret, other_secret) = (stage.owner_secret(&victim)?, stage.owner_secret(&other)?);
    let (config, delegation) = stage.config_key()?;
    let meter = stage.switch_on(&victim)?;
    stage.told(&victim, "operating", 1)?;
    stage.switch_off(&victim);
    cut_off_from_head_end(&victim.made.dir)?;
    // The owner orders two things: a suspension and its end, which begins with an attestation.
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&recorded);
    stage.config.on_answer(move |_, answer| {
        if let Ok(order::Envelope::Order { seq, .. }) = order::Envelope::decode(&answer) {
            record.lock().unwrap_or_else(PoisonError::into_inner).push((seq, answer.clone()));
        }
        answer
    });
    stage.ordered("suspend", &victim)?;
    stage.switch_on(&victim)?;
    stage.told(&victim, "order-answered", 1)?;
    stage.ordered("resume", &victim)?;
    stage.told(&victim, "order-answered", 3)?;
    let recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (_, first) = recorded.first().cloned().context("no order went by")?;
    let last = recorded.iter().map(|(seq, _)| *seq).max().unwrap_or(0);
    let suspension = |ek_name, epoch, seq| Order { ek_name, epoch, seq, task: Task::Suspend, now: utc_now() };
    let ours = Authority { secret: &secret, config: &config, delegation: &delegation };
    let theirs = Authority { secret: &other_secret, config: &config, delegation: &delegation };
    let orders = [
        first,
        forge::order(&ours, &suspension(other.name, 1, last + 1))?,
        forge::order(&ours, &suspension(victim.name, 2, last + 1))?,
        forge::order(&ours, &suspension(victim.name, 1, last))?,
        forge::order(&theirs, &suspension(other.name, 1, last + 1))?,
    ];
    // Every other question goes on to the owner: a meter that hears nothing but forgeries asks less and less.
    let mut left: VecDeque<Vec<u8>> = orders.into();
    let mut is_forged = false;
    stage.config.on_question(move |question| match order::Envelope::decode(question) {
        Ok(order::Envelope::Poll { .. }) => {
            is_forged = !is_forged;
            let forged = if is_forged { left.pop_front() } else { None };
            forged.map_or(Act::Pass, Act::Answer)
        }
        _ => Act::Pass,
    });
    let heard = stage.on_record_times(&meter, "code", Code::Rollback.name(), 4)?;
    stage.refusal(&meter, Code::Grant)?;
    stage.switch_off(&victim);
    let record = DeviceRecord::decode(&read(&victim.made.dir.join("device.cbor"))?)?;
    Ok(Verdict::refused(heard)
        .and(!record.orders.is_suspended, "no forged suspension was carried out")
        .and(record.order_seq() == last, "no number was counted for it"))
}

/// A meter that reaches its owner through the config server alone: its head-end is somewhere where nobody listens.
fn cut_off_from_head_end(dir: &Path) -> Result<()> {
    let path = dir.join("device.cbor");
    let mut record = DeviceRecord::decode(&read(&path)?)?;
    if let Some(installed) = &mut record.installed {
        installed.terminus_urls = vec!["tls://127.0.0.1:1".into()];
    }
    write_atomic(&path, &record.encode())
}
