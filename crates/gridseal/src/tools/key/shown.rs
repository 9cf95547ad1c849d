//! How keys of a meter and its key change are shown, to a person and to a program.

use gridseal_types::{
    UtcTime,
    service::keys::{ChangePhase, ChangeStatus, DeviceKeyStatus, VersionStatus, kinds_name},
};
use serde_json::{Value, json};

use super::Blocked;

pub(super) fn time(at: Option<UtcTime>) -> Value {
    at.map_or(Value::Null, |at| at.to_string().into())
}

pub(super) fn status_json(status: &DeviceKeyStatus) -> Value {
    let version = |version: &VersionStatus| {
        json!({
            "kind": version.kind.name(), "version": version.version, "state": version.state.name(),
            "origin": format!("{:?}", version.origin).to_lowercase(), "sent": version.sent,
            "created_at": version.created_at.to_string(), "proven_at": time(version.proven_at),
            "deactivated_at": time(version.deactivated_at), "wrapped_by": version.wrapped_by,
            "change": version.change.map(|id| id.to_string()), "next_counter": version.next_counter,
            "received": version.received, "rotation_due": version.rotation_due, "suite": version.suite,
        })
    };
    json!({
        "meter": status.system_title.to_string(), "serial": status.serial, "state": status.state.name(),
        "claim": status.claim.name(), "suite": status.suite, "attested": status.attested,
        "attested_at": time(status.attested.then_some(status.attested_at)), "regressed": status.regressed,
        "versions": status.versions.iter().map(version).collect::<Vec<_>>(),
        "change": status.change.as_ref().map(|change| change_status_json(change, Blocked::of(status))),
    })
}

pub(super) fn change_status_json(change: &ChangeStatus, blocked: Option<Blocked>) -> Value {
    let blocked = blocked.filter(|_| !change.phase.is_resolved());
    json!({
        "next": next_step(change, blocked), "blocked": blocked.map(|blocked| blocked.to_string()),
        "change": change.change.to_string(), "keys": kinds_name(&change.items), "phase": change.phase.name(),
        "attempts": change.attempts, "begun_at": change.begun_at.to_string(),
        "changed_at": change.changed_at.to_string(),
    })
}

/// What has to happen, and by whom.
pub(super) fn next_step(change: &ChangeStatus, blocked: Option<Blocked>) -> String {
    if let Some(blocked) = blocked.filter(|_| !change.phase.is_resolved()) {
        return blocked.to_string();
    }
    let next = match change.phase {
        ChangePhase::Created | ChangePhase::Prepared => "the meter's head-end sends it over the meter's link",
        ChangePhase::Sent => {
            "the head-end delivers the transfer and reports the answer; an APDU under the new keys confirms"
        }
        ChangePhase::Unknown => "the head-end probes which keys the meter has",
        ChangePhase::NotInstalled => "the meter has the old keys: the head-end delivers the transfer again",
        ChangePhase::Confirmed | ChangePhase::Activated => "none: the new keys are in use",
        ChangePhase::Refused => "none: the meter has refused it, and the old keys are in use",
        _ => "none: given up; what was sent stays known",
    };
    next.to_owned()
}

pub(super) fn change_line(prefix: &str, change: &ChangeStatus) -> String {
    format!(
        "{prefix}change {} of {}: {} since {}, sent {} times",
        change.change,
        kinds_name(&change.items),
        change.phase.name(),
        change.changed_at,
        change.attempts
    )
}

pub(super) fn status_lines(status: &DeviceKeyStatus) -> Vec<String> {
    let attested = if !status.attested {
        "has no root of trust".to_owned()
    } else if status.attested_at == UtcTime(0) {
        "never attested".to_owned()
    } else {
        format!("attested {}", status.attested_at)
    };
    let mut lines = vec![format!(
        "{} {} {} {}, {attested}",
        status.system_title,
        status.serial,
        status.state.name(),
        status.claim.name()
    )];
    for version in &status.versions {
        let mut line = format!(
            "  {:<4} {:>5} {:<12} made {}",
            version.kind.name(),
            version.version,
            version.state.name(),
            version.created_at
        );
        let mut add = |what: Option<String>| line.extend(what.map(|what| format!(", {what}")));
        add((!version.sent).then(|| "never sent".to_owned()));
        add(version.proven_at.map(|at| format!("proven {at}")));
        add(version.wrapped_by.map(|kek| format!("wrapped by kek {kek}")));
        add(version.next_counter.map(|counter| format!("next counter {counter}")));
        add(version.received.map(|counter| format!("received {counter}")));
        add((version.suite > 0).then(|| format!("suite {}", version.suite)));
        add(version.rotation_due.then(|| "ROTATION DUE".to_owned()));
        lines.push(line);
    }
    if let Some(change) = &status.change {
        lines.push(change_line("  ", change));
        lines.push(format!("    next: {}", next_step(change, Blocked::of(status))));
    }
    if status.regressed {
        lines.push("  LAST HEARD UNDER FORMER KEYS".to_owned());
    }
    lines
}
