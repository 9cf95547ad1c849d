//! The installer, his phone, and his mistakes.

use anyhow::{Context, Result};
use gridseal_io::clock::utc_now;
use gridseal_trust::enrol::{installation::InstallRequest, label::LabelA};
use gridseal_types::Code;

use super::{
    Verdict,
    stage::{MANAGER, Stage, Victim},
};

/// What an installer leaves for a device: what he scanned, and where he says it hangs.
fn request(victim: &Victim, point: &str) -> Result<InstallRequest> {
    let label = LabelA::parse(&victim.made.label).ok().context("label A does not parse")?;
    Ok(InstallRequest { label, point: point.into(), at: utc_now() })
}

/// A38: two meters are swapped in a stairwell: each says where it hangs, and is bound where the other does.
pub(super) fn swapped(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (one, two) = (stage.victim()?, stage.victim()?);
    let before = stage.count_of_manager("installed");
    for (victim, place, point) in [(&one, "A38-LEFT", "A38-RIGHT"), (&two, "A38-RIGHT", "A38-LEFT")] {
        stage.mount(victim, place)?;
        stage.leave_request(&format!("request-{point}"), &request(victim, point)?.encode())?;
    }
    stage.manager_told("installed", before.saturating_add(2))?;
    stage.switch_on(&one)?;
    stage.told(&one, "unanswered", 1)?;
    let heard = stage.refusal(&MANAGER, Code::Label)?;
    let operates = stage.count_told(&one, "operating") > 0;
    stage.switch_off(&one);
    // The other is held too, before it said anything.
    stage.switch_on(&two)?;
    stage.told(&two, "unanswered", 1)?;
    stage.refusal_of(&MANAGER, Code::State, &two.made.serial)?;
    let other_operates = stage.count_told(&two, "operating") > 0;
    stage.switch_off(&two);
    Ok(Verdict::refused(heard).and(!operates && !other_operates, "neither of the two delivers a reading"))
}

/// A40: the installer's phone is hostile: it asks for whatever a request can say.
pub(super) fn laptop(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (one, two) = (stage.victim()?, stage.victim()?);
    let before = stage.count_of_manager("installed");
    stage.mount(&one, "A40-LEFT")?;
    for (victim, point) in [(&one, "A40-LEFT"), (&two, "A40-RIGHT")] {
        stage.leave_request(&format!("request-{point}"), &request(victim, point)?.encode())?;
    }
    stage.manager_told("installed", before.saturating_add(2))?;
    let mut stranger = request(&one, "A40-FREE")?;
    if let Some(last) = stranger.label.device.0.last_mut() {
        *last ^= 1;
    }
    let mut mislabelled = request(&one, "A40-FREE")?;
    mislabelled.label.serial.clone_from(&two.made.serial);
    let rows = [
        ("stranger", stranger.encode(), Code::Unknown),
        ("another-serial-number", mislabelled.encode(), Code::Label),
        ("junk", b"no request".to_vec(), Code::Format),
        ("moved", request(&one, "A40-FREE")?.encode(), Code::State),
        ("point-that-is-taken", request(&two, "A40-LEFT")?.encode(), Code::State),
    ];
    let mut states = 0usize;
    for (what, wire, code) in rows {
        stage.leave_request(what, &wire)?;
        states = states.saturating_add(usize::from(code == Code::State));
        stage.on_record_times(&MANAGER, "code", code.name(), states.max(1))?;
    }
    let heard = stage.refusal(&MANAGER, Code::State)?;
    // What was bound first stands.
    stage.switch_on(&one)?;
    stage.told(&one, "operating", 1)?;
    stage.switch_off(&one);
    Ok(Verdict::refused(heard)
        .obtained(vec!["names, models and serial numbers on the labels that it scanned".into()]))
}
