//! Attacks on the running demo, one for each row of the protocol's table: forged bytes from a hostile peer's side against
//! real processes. What became of them is read from the record of whoever refused, not from the wire.

mod chip;
mod forge;
mod hostile;
mod puppet;
mod stage;

mod config_server;
mod init_server;
mod installer;
mod label;
mod manager;
mod manufacturer;
mod meter;
mod owner;
mod thief;

use std::{fs, path::Path};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{fleet::Fleet, view::View};
use crate::files::write_atomic;
use stage::{Heard, Stage};

/// What came of an attack.
#[derive(Debug, Default)]
struct Verdict {
    /// Whether it failed, and whoever stopped it has it on record, or what it did not reach was looked at.
    refused: bool,
    /// Who stopped it.
    by: String,
    /// With which code; empty where nothing had to be refused.
    code: String,
    /// What the attacker got all the same.
    obtained: Vec<String>,
    /// What is not built, or not as expected.
    missing: Option<String>,
}

impl Verdict {
    /// Somebody has the refusal on record.
    fn refused(heard: Heard) -> Self {
        Self { refused: true, by: heard.by, code: heard.code, ..Self::default() }
    }

    /// Nothing had to be refused: there was nothing to be had.
    fn held(by: &str) -> Self {
        Self { refused: true, by: by.into(), ..Self::default() }
    }

    /// A defence does not exist.
    fn missing(what: &str) -> Self {
        Self { missing: Some(what.into()), ..Self::default() }
    }

    /// As before, but only if this holds too.
    fn and(mut self, holds: bool, what: &str) -> Self {
        if !holds {
            self.refused = false;
            self.missing = Some(format!("does not hold: {what}"));
        }
        self
    }

    /// What the attacker got; secrets among it mean that he won.
    fn obtained(mut self, things: Vec<String>) -> Self {
        self.obtained.extend(things);
        self
    }
}

/// One row.
struct Row {
    id: &'static str,
    name: &'static str,
    /// How many devices it needs.
    victims: u32,
    play: fn(&mut Stage<'_>) -> Result<Verdict>,
}

const fn row(
    id: &'static str,
    name: &'static str,
    victims: u32,
    play: fn(&mut Stage<'_>) -> Result<Verdict>,
) -> Row {
    Row { id, name, victims, play }
}

/// All rows of the protocol's table of attacks.
const ROWS: [Row; 40] = [
    row("A1", "rogue-init-server", 1, init_server::rogue),
    row("A2", "init-server-taken-over", 2, init_server::taken_over),
    row("A3", "rogue-config-server", 1, config_server::rogue),
    row("A4", "stolen-label-a", 1, label::label_a),
    row("A5", "stolen-owner-secret", 1, label::owner_secret),
    row("A6", "cloned-meter", 2, meter::clone),
    row("A7", "emulated-tpm", 2, meter::emulated),
    row("A8", "config-server-taken-over", 1, config_server::taken_over),
    row("A9", "replayed-session", 2, config_server::replayed),
    row("A10", "man-in-the-middle", 1, config_server::man_in_the_middle),
    row("A11", "attestation-key-of-another-tpm", 2, meter::foreign_attestation_key),
    row("A12", "software-key-as-tpm-key", 1, meter::software_key),
    row("A13", "unrestricted-attestation-key", 1, meter::unrestricted_key),
    row("A14", "modified-software", 2, meter::modified_software),
    row("A15", "old-owner-reclaims", 2, owner::old_owner),
    row("A16", "tpm-reset-by-thief", 1, thief::reset),
    row("A17", "lock-out-by-power-cuts", 1, thief::power_cuts),
    row("A18", "bus-sniffing", 1, thief::bus),
    row("A19", "suite-stripping", 1, label::suites),
    row("A20", "onboarding-flood", 1, label::flood),
    row("A21", "endpoint-manager-database-read", 0, manager::database),
    row("A22", "insider-forks-voucher", 2, manufacturer::fork),
    row("A23", "short-owner-secret", 1, manufacturer::short_secret),
    row("A24", "session-squatting", 1, label::squatting),
    row("A25", "config-server-queue-read", 1, config_server::queue),
    row("A26", "old-owner-sells-twice", 1, owner::sells_twice),
    row("A27", "replaced-config-key", 1, owner::replaced_key),
    row("A28", "endpoint-manager-sends-commands", 1, manager::commands),
    row("A29", "tpm-of-another-owner", 1, owner::uncleared),
    row("A30", "lost-ownership-answer", 1, thief::lost_answer),
    row("A31", "reboot-into-other-software", 1, meter::reboot),
    row("A32", "statement-for-another-purpose", 2, meter::other_purpose),
    row("A33", "replayed-order", 2, manager::order),
    row("A34", "forged-clear-receipt", 3, owner::receipt),
    row("A35", "init-server-as-oracle", 1, init_server::oracle),
    row("A36", "encodings", 1, meter::encodings),
    row("A37", "flash-rollback", 1, thief::rollback),
    row("A38", "meters-swapped", 2, installer::swapped),
    row("A39", "clock-set-back", 1, thief::clock),
    row("A40", "hostile-installer", 2, installer::laptop),
];

/// Which rows to play: `all`, or ids and names with commas between.
#[derive(Debug, Clone)]
pub(super) struct Choice(Vec<usize>);

impl std::str::FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "all" {
            return Ok(Self((0..ROWS.len()).collect()));
        }
        let mut chosen = Vec::new();
        for wanted in text.split(',') {
            let found = ROWS.iter().position(|row| row.id == wanted || row.name == wanted);
            let Some(at) = found else {
                let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
                bail!("no attack {wanted:?}; there are all, A1 to A40, and {}", names.join(", "));
            };
            if !chosen.contains(&at) {
                chosen.push(at);
            }
        }
        Ok(Self(chosen))
    }
}

/// Plays the chosen rows; each is one object of the demo's `attacks`.
pub(super) fn play(fleet: &mut Fleet, choice: &Choice, to: &Path, view: &View) -> Result<Vec<Value>> {
    let rows: Vec<&Row> = choice.0.iter().filter_map(|at| ROWS.get(*at)).collect();
    let victims = rows.iter().map(|row| row.victims).sum();
    view.step(&format!("{} attacks: making {victims} devices to attack and to attack with", rows.len()));
    let mut stage = Stage::set(fleet, &to.join("none"), victims)?;
    let mut all = Vec::new();
    for row in rows {
        stage.begin(row.id)?;
        // A row that cannot be played to its end is no proof of anything.
        let verdict = (row.play)(&mut stage).unwrap_or_else(|error| Verdict {
            missing: Some(format!("not as expected: {error:#}")),
            ..Verdict::default()
        });
        stage.end()?;
        view.attack(row.id, row.name, verdict.refused, &told(&verdict));
        let mut object = json!({
            "id": row.id, "name": row.name, "refused": verdict.refused, "by": verdict.by, "code": verdict.code,
            "obtained": verdict.obtained,
        });
        if let Some(missing) = verdict.missing {
            object["missing"] = missing.into();
        }
        write_atomic(&to.join(row.id).join("verdict.json"), &serde_json::to_vec_pretty(&object)?)?;
        all.push(object);
    }
    stage.leave_records(&to.join("records"))?;
    let _ = fs::remove_dir(to.join("none"));
    Ok(all)
}

fn told(verdict: &Verdict) -> String {
    let mut text = match &verdict.missing {
        Some(missing) => format!("NOT REFUSED: {missing}"),
        None if verdict.code.is_empty() => format!("held by {}", verdict.by),
        None => format!("refused by {}: {}", verdict.by, verdict.code),
    };
    if !verdict.obtained.is_empty() {
        text += &format!("; obtained {}", verdict.obtained.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_table_and_are_found_by_id_and_name() {
        for (number, row) in ROWS.iter().enumerate() {
            assert_eq!(row.id, format!("A{}", number + 1));
            let by_both: Choice = format!("{},{}", row.id, row.name).parse().unwrap();
            assert_eq!(by_both.0, [number]);
        }
        assert_eq!("all".parse::<Choice>().unwrap().0.len(), 40);
        assert!("A41".parse::<Choice>().is_err());
    }
}
