//! The report: as JSON, and as text for people.

use std::fmt::Write as _;

use gridseal_types::UtcTime;
use serde_json::{Map, Value, json};

use super::{
    super::item::dotted,
    assay::{Assay, Finding, Level, Verdict},
    catalogue::{CATALOGUE, Severity},
    diagnose::Diagnosis,
    talk::{Exchange, Setup},
};
use crate::observe::printable;

/// Version of the form.
const FORM: u32 = 1;

/// Grade of what was found: A nothing, B low, C medium, D one high, E several high, F critical.
pub fn grade(findings: &[Finding]) -> char {
    let count = |severity| findings.iter().filter(|finding| finding.known.severity == severity).count();
    match (count(Severity::Critical), count(Severity::High)) {
        (1.., _) => 'F',
        (0, 2..) => 'E',
        (0, 1) => 'D',
        _ if count(Severity::Medium) > 0 => 'C',
        _ if count(Severity::Low) > 0 => 'B',
        _ => 'A',
    }
}

/// Everything that a report says, without the evidence of things in order.
pub struct Report<'a> {
    /// What was found out.
    pub assay: &'a Assay<'a>,
    /// When it began.
    pub at: UtcTime,
}

impl Report<'_> {
    /// The grade; none when the lab file's client could not be associated and nothing worse is known.
    pub fn grade(&self) -> Option<char> {
        let grade = grade(&self.assay.findings);
        (self.assay.is_associated || grade == 'F').then_some(grade)
    }

    /// One JSON object; `docs/probe.md` lists its fields.
    pub fn json(&self) -> Value {
        let assay = self.assay;
        json!({
            "gridseal_probe": FORM,
            "version": env!("CARGO_PKG_VERSION"),
            "at": self.at.to_string(),
            "address": assay.prober.address(),
            "transport": if assay.prober.is_hdlc() { "hdlc-tcp" } else { "wrapper" },
            "associated": assay.is_associated,
            "grade": self.grade().map(String::from),
            "setup": setup(&assay.setup),
            "associations": assay.levels.iter().map(level).collect::<Vec<_>>(),
            "diagnosis": assay.diagnosis.as_ref().map(diagnosis),
            "findings": assay.findings.iter().map(finding).collect::<Vec<_>>(),
            "checks": CATALOGUE.iter().map(|known| check(known.id, assay.verdicts.get(known.id))).collect::<Vec<_>>(),
        })
    }

    /// For people; with `is_coloured` severities stand out.
    pub fn text(&self, is_coloured: bool) -> String {
        let assay = self.assay;
        let mut out = String::new();
        let transport = if assay.prober.is_hdlc() { "HDLC over TCP" } else { "TCP wrapper" };
        let grade = self.grade().map_or("not graded".into(), |grade| format!("grade {grade}"));
        let _ = writeln!(out, "{} ({transport}), {}: {grade}", assay.prober.address(), self.at);
        let _ = writeln!(out, "\nAssociations");
        for level in &assay.levels {
            let _ = writeln!(out, "  {}", level_text(level));
        }
        if let Some(diagnosis) = &assay.diagnosis {
            diagnosis_text(&mut out, diagnosis);
        }
        for finding in &assay.findings {
            finding_text(&mut out, finding, is_coloured);
        }
        let clean: Vec<&str> = self.ids(|verdict| matches!(verdict, Verdict::Clean(_)));
        if !clean.is_empty() {
            let _ = writeln!(out, "\nIn order\n  {}", clean.join(", "));
        }
        let untried = CATALOGUE.iter().filter_map(|known| match assay.verdicts.get(known.id) {
            Some(Verdict::Untried(why)) => Some((known.id, why)),
            _ => None,
        });
        for (index, (id, why)) in untried.enumerate() {
            if index == 0 {
                let _ = writeln!(out, "\nNot tried");
            }
            let _ = writeln!(out, "  {id}: {}", printable(why));
        }
        out
    }

    fn ids(&self, wanted: fn(&Verdict) -> bool) -> Vec<&'static str> {
        let of = |id: &str| self.assay.verdicts.get(id).is_some_and(wanted);
        CATALOGUE.iter().map(|known| known.id).filter(|id| of(id)).collect()
    }
}

/// The name of a protection, as lab files have it.
pub const fn protection_name(bits: u8) -> &'static str {
    match bits {
        0x00 => "none",
        0x10 => "auth",
        0x20 => "enc",
        _ => "auth+enc",
    }
}

fn setup(setup: &Setup) -> Value {
    json!({
        "client_sap": setup.client_sap,
        "server_sap": setup.server_sap,
        "suite": setup.suite,
        "mechanism": setup.mechanism.number(),
        "protection": protection_name(setup.protection.bits()),
        "client_title": hex::encode_upper(setup.client_title.as_bytes()),
        "server_title": hex::encode_upper(setup.server_title.as_bytes()),
    })
}

/// How many objects an association sees, can read, write and invoke.
pub fn counts(level: &Level) -> Option<[usize; 4]> {
    let objects = level.objects.as_ref()?;
    Some([
        objects.len(),
        objects.iter().filter(|object| !object.readable.is_empty()).count(),
        objects.iter().filter(|object| !object.writable.is_empty()).count(),
        objects.iter().filter(|object| !object.invocable.is_empty()).count(),
    ])
}

fn level(level: &Level) -> Value {
    let objects = level.objects.as_ref().map(|objects| {
        let object = |object: &super::service::Listed| {
            json!({
                "class": object.class, "version": object.version, "obis": dotted(object.obis),
                "readable": object.readable, "writable": object.writable, "invocable": object.invocable,
            })
        };
        objects.iter().map(object).collect::<Vec<_>>()
    });
    json!({
        "client_sap": level.setup.client_sap,
        "mechanism": level.setup.mechanism.number(),
        "ciphered": level.setup.is_ciphered(),
        "accepted": level.outcome.is_ok(),
        "refusal": level.outcome.as_ref().err(),
        "objects": objects,
    })
}

/// One association in one line.
pub fn level_text(level: &Level) -> String {
    let Setup { client_sap, mechanism, .. } = level.setup;
    let ciphered = if level.setup.is_ciphered() { "ciphered" } else { "plain" };
    let outcome = match (&level.outcome, counts(level)) {
        (Err(why), _) => printable(why),
        (Ok(()), None) => "accepted".into(),
        (Ok(()), Some([all, read, write, invoke])) => {
            format!("accepted, {all} objects: {read} readable, {write} writable, {invoke} invocable")
        }
    };
    format!("client {client_sap}, mechanism {}, {ciphered}: {outcome}", mechanism.number())
}

fn evidence(exchange: &Exchange) -> Value {
    json!({"what": exchange.what, "request": exchange.request, "reply": exchange.reply})
}

fn finding(finding: &Finding) -> Value {
    let known = finding.known;
    json!({
        "id": known.id, "severity": known.severity.name(), "title": known.title,
        "tried": finding.tried, "seen": finding.seen, "why": known.why, "mend": known.mend,
        "evidence": finding.evidence.iter().map(evidence).collect::<Vec<_>>(),
    })
}

fn diagnosis(diagnosis: &Diagnosis) -> Value {
    json!({
        "cause": diagnosis.cause, "shown": diagnosis.is_shown, "failure": diagnosis.failure,
        "text": diagnosis.text, "ruled_out": diagnosis.ruled_out,
        "evidence": diagnosis.evidence.iter().map(evidence).collect::<Vec<_>>(),
    })
}

fn check(id: &str, verdict: Option<&Verdict>) -> Value {
    let (name, note) = match verdict {
        Some(Verdict::Found) => ("found", None),
        Some(Verdict::Clean(note)) => ("clean", Some(note)),
        Some(Verdict::Untried(why)) => ("untried", Some(why)),
        None => ("untried", None),
    };
    let mut object = Map::new();
    object.insert("id".into(), json!(id));
    object.insert("verdict".into(), json!(name));
    object.insert("note".into(), json!(note));
    Value::Object(object)
}

fn evidence_text(out: &mut String, evidence: &[Exchange]) {
    for Exchange { what, request, reply } in evidence {
        let _ = writeln!(out, "    {}", printable(what));
        let _ = writeln!(out, "      > {}\n      < {}", printable(request), printable(reply));
    }
}

fn diagnosis_text(out: &mut String, diagnosis: &Diagnosis) {
    let sure = if diagnosis.is_shown { "shown" } else { "most likely" };
    let _ = writeln!(out, "\nWhy the lab file's association fails: {} ({sure})", diagnosis.cause);
    let _ = writeln!(out, "  {}\n  seen: {}", printable(&diagnosis.text), printable(&diagnosis.failure));
    if !diagnosis.ruled_out.is_empty() {
        let _ = writeln!(out, "  not it: {}", printable(&diagnosis.ruled_out.join("; ")));
    }
    evidence_text(out, &diagnosis.evidence);
}

fn finding_text(out: &mut String, finding: &Finding, is_coloured: bool) {
    let known = finding.known;
    let name = known.severity.name();
    let colour = match known.severity {
        Severity::Critical => "1;31",
        Severity::High => "31",
        Severity::Medium => "33",
        Severity::Low => "36",
    };
    let name = if is_coloured { format!("\u{1b}[{colour}m{name}\u{1b}[0m") } else { name.to_owned() };
    let _ = writeln!(out, "\n{name}  {}: {}", known.id, known.title);
    let _ = writeln!(out, "  tried: {}\n  seen:  {}", printable(&finding.tried), printable(&finding.seen));
    let _ = writeln!(out, "  why:   {}\n  mend:  {}", known.why, known.mend);
    evidence_text(out, &finding.evidence);
}
