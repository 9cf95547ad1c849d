//! An insider at the manufacturer: with the voucher key, with the records of a delivery.

use anyhow::Result;
use gridseal_crypto::{Signer, SigningKey, role::OwnerSigning};
use gridseal_io::clock::utc_now;
use gridseal_trust::{
    enrol::{
        document::{Entry, EntryKind},
        init::{SignedRedirect, encode_registration},
        voucher::Voucher,
    },
    root::{OwnerPin, RootRequest},
};
use gridseal_types::{Code, Digest};

use super::{
    Verdict,
    forge::{fresh, redirect, redirect_answer},
    stage::{Party, Stage, Victim},
};

/// Another entry 1 for a device that is sold already: to the insider himself.
fn forked(stage: &Stage<'_>, victim: &Victim) -> Result<(SignedRedirect, OwnerPin)> {
    let mut voucher = Voucher::decode(&victim.papers.voucher)?;
    let (trusted, key, second) = stage.voucher_keys()?;
    let verified = voucher.verify(&[trusted]).map_err(|code| anyhow::anyhow!("{code}"))?;
    let pin = OwnerPin { index: verified.index(), generation: 0, entry: verified.head() };
    let insider: SigningKey<OwnerSigning> = fresh()?;
    let entry = Entry {
        index: 1,
        epoch: 1,
        kind: EntryKind::Transfer,
        previous: Digest([0; 32]),
        owner: insider.public(),
        encryption: fresh::<OwnerSigning>()?.public(),
        issued: utc_now(),
        second_key: None,
        owner_second: None,
    };
    voucher.entries.clear();
    voucher.second.truncate(1);
    voucher.extend(entry, &key, Some(&second))?;
    let redirect = redirect(&insider, victim.name, 1)?;
    Ok((SignedRedirect { redirect, delegation: None, voucher: voucher.encode() }, pin))
}

/// A22: a second entry 1, at the init server and, with that taken over too, at a meter that knows its owner.
pub(super) fn fork(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (registered, pinned) = (stage.victim()?, stage.victim()?);
    let (signed, _) = forked(stage, &registered)?;
    stage.ask_init("registration-of-a-fork", &encode_registration(&signed))?;
    let heard = stage.refusal(&Party::InitServer, Code::Fork)?;
    let (signed, pin) = forked(stage, &pinned)?;
    stage.prepare(&pinned, vec![RootRequest::WritePin(pin)])?;
    let (init, key) = (stage.init_public()?, stage.init_key()?);
    stage.init.on_answer(move |_, answer| {
        redirect_answer(answer, &init, &key, |payload| payload.signed = signed.clone())
    });
    let meter = stage.switch_on(&pinned)?;
    stage.refusal(&meter, Code::Pin)?;
    stage.switch_off(&pinned);
    let secrets = stage.secrets_in(&[], Some("factory/vendor"), None)?;
    Ok(Verdict::refused(heard)
        .and(secrets.is_empty(), "no secret of a device in the manufacturer's files")
        .obtained(
            [vec!["any device that no owner has registered or that was never switched on".into()], secrets]
                .concat(),
        ))
}

/// The check value of a label: CRC-32.
fn check_value(text: &[u8]) -> u32 {
    !text.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// A23: labels B with well-formed check values and secrets that somebody could try out.
pub(super) fn short_secret(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim = stage.victim()?;
    // Base32: 80 random-looking bits, and 256 bits that a person made up.
    let secrets = ["K5QX3ZB7RM2WYD4H".to_owned(), "AAAQ".repeat(13)];
    let mut answers = String::new();
    for secret in secrets {
        let covered = format!("GSO1:B:{}:{secret}", victim.made.serial);
        let text = format!("{covered}:{:08X}", check_value(covered.as_bytes()));
        stage.sent("label-b", text.as_bytes())?;
        stage.keep("insert.txt", text.as_bytes())?;
        let (said, is_done) = stage.register_by_labels(&victim, &stage.kept("insert.txt"))?;
        if is_done || !said.contains("E_LABEL") || !said.contains("less than 128 bits") {
            return Ok(Verdict::missing(&format!("label B is taken, or refused for another reason: {said}")));
        }
        answers += &said;
    }
    stage.keep("register.txt", answers.as_bytes())?;
    Ok(Verdict { code: Code::Label.name().into(), ..Verdict::held("device register") })
}
