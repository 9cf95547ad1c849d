//! The report as one page: no script, nothing from elsewhere, fit for paper.

use std::fmt::Write as _;

use super::{
    assay::{Finding, Verdict},
    catalogue::CATALOGUE,
    diagnose::Diagnosis,
    report::{Report, counts, protection_name},
    talk::Exchange,
};
use crate::observe::printable;

/// Everything that the page looks like. The policy allows this style sheet and nothing else.
const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}h3{font-size:1rem;margin:0}\
.grade{float:right;font-size:3rem;line-height:1;font-weight:700;border:4px solid;border-radius:.5rem;padding:.5rem 1rem}\
.g-A,.g-B{color:#0a6b2d}.g-C{color:#8a6100}.g-D,.g-E,.g-F{color:#b00020}.g-none{color:#555;font-size:1rem}\
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.3rem .5rem;text-align:left;\
vertical-align:top}\
article{border:1px solid #ccc;border-left:.5rem solid;border-radius:.3rem;padding:.8rem 1rem;margin:1rem 0;\
break-inside:avoid}\
.critical,.high{border-left-color:#b00020}.medium{border-left-color:#8a6100}.low{border-left-color:#0b5394}\
dl{display:grid;grid-template-columns:4rem 1fr;gap:.2rem .8rem;margin:.5rem 0}dt{color:#555}dd{margin:0}\
code{font:.8rem ui-monospace,monospace;overflow-wrap:anywhere}details{margin-top:.5rem}summary{cursor:pointer}\
footer{margin-top:2rem;color:#555;font-size:.85rem}\
@media print{body{margin:0;max-width:none}details{display:block}}";

/// Text as text, whatever it holds.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The whole page.
pub fn page(report: &Report<'_>) -> String {
    let assay = report.assay;
    let mut out = String::new();
    let address = escaped(assay.prober.address());
    let (class, grade) = match report.grade() {
        Some(grade) => (format!("g-{grade}"), grade.to_string()),
        None => ("g-none".into(), "not graded".into()),
    };
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>DLMS probe of {address}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<div class=\"grade {class}\" title=\"grade\">{grade}</div>\n\
         <h1>DLMS probe of {address}</h1>\n"
    );
    let setup = &assay.setup;
    let transport = if assay.prober.is_hdlc() { "HDLC over TCP" } else { "TCP wrapper" };
    let _ = writeln!(
        out,
        "<p>{}, {transport}. Client {} to logical device {}, suite {}, mechanism {}, protection {}.<br>\
         Client title {}, meter title {}.</p>",
        report.at,
        setup.client_sap,
        setup.server_sap,
        setup.suite,
        setup.mechanism.number(),
        protection_name(setup.protection.bits()),
        hex::encode_upper(setup.client_title.as_bytes()),
        hex::encode_upper(setup.server_title.as_bytes()),
    );
    if let Some(why) = &assay.diagnosis {
        diagnosis(&mut out, why);
    }
    let _ = writeln!(out, "<h2>Findings</h2>");
    if assay.findings.is_empty() {
        let _ = writeln!(out, "<p>None.</p>");
    }
    assay.findings.iter().for_each(|item| finding(&mut out, item));
    associations(&mut out, report);
    checks(&mut out, report);
    let _ = writeln!(
        out,
        "<footer>gridseal {} dlms probe. Grades: A nothing found, B low, C medium, D one high, E several high, F critical. \
         What was not tried is not known to be in order.</footer>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn exchanges(out: &mut String, evidence: &[Exchange]) {
    if evidence.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<details open><summary>Evidence</summary><table><tr><th>what</th><th>request, reply</th></tr>"
    );
    for Exchange { what, request, reply } in evidence {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td><code>&gt; {}</code><br><code>&lt; {}</code></td></tr>",
            escaped(what),
            escaped(request),
            escaped(reply)
        );
    }
    let _ = writeln!(out, "</table></details>");
}

fn diagnosis(out: &mut String, diagnosis: &Diagnosis) {
    let sure = if diagnosis.is_shown { "shown" } else { "most likely" };
    let _ = writeln!(
        out,
        "<h2>Why the lab file's association fails</h2>\n<article class=\"high\"><h3>{} ({sure})</h3><dl>\
         <dt>what</dt><dd>{}</dd><dt>seen</dt><dd>{}</dd>",
        diagnosis.cause,
        escaped(&diagnosis.text),
        escaped(&diagnosis.failure)
    );
    if !diagnosis.ruled_out.is_empty() {
        let _ = writeln!(out, "<dt>not it</dt><dd>{}</dd>", escaped(&diagnosis.ruled_out.join("; ")));
    }
    let _ = writeln!(out, "</dl>");
    exchanges(out, &diagnosis.evidence);
    let _ = writeln!(out, "</article>");
}

fn finding(out: &mut String, finding: &Finding) {
    let known = finding.known;
    let name = known.severity.name();
    let _ = writeln!(
        out,
        "<article class=\"{name}\" id=\"{0}\"><h3>{name}: {1}</h3><dl><dt>id</dt><dd>{0}</dd><dt>tried</dt><dd>{2}</dd>\
         <dt>seen</dt><dd>{3}</dd><dt>why</dt><dd>{4}</dd><dt>mend</dt><dd>{5}</dd></dl>",
        known.id,
        escaped(known.title),
        escaped(&finding.tried),
        escaped(&finding.seen),
        escaped(known.why),
        escaped(known.mend),
    );
    exchanges(out, &finding.evidence);
    let _ = writeln!(out, "</article>");
}

fn associations(out: &mut String, report: &Report<'_>) {
    let _ = writeln!(
        out,
        "<h2>Associations</h2><table><tr><th>client</th><th>mechanism</th><th>context</th><th>outcome</th>\
         <th>objects</th><th>read</th><th>write</th><th>invoke</th></tr>"
    );
    for level in &report.assay.levels {
        let outcome = level.outcome.as_ref().map_or_else(|why| escaped(why), |()| "accepted".into());
        let cell = |at: usize| counts(level).and_then(|counts| counts.get(at).copied());
        let cell = |at: usize| cell(at).map_or(String::new(), |count| count.to_string());
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{outcome}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            level.setup.client_sap,
            level.setup.mechanism.number(),
            if level.setup.is_ciphered() { "ciphered" } else { "plain" },
            cell(0),
            cell(1),
            cell(2),
            cell(3),
        );
    }
    let _ = writeln!(out, "</table>");
}

fn checks(out: &mut String, report: &Report<'_>) {
    let _ = writeln!(
        out,
        "<h2>Checks</h2><table><tr><th>check</th><th>verdict</th><th>seen, or why not tried</th></tr>"
    );
    for known in CATALOGUE {
        let (verdict, note) = match report.assay.verdicts.get(known.id) {
            Some(Verdict::Found) => ("found", ""),
            Some(Verdict::Clean(note)) => ("in order", note.as_str()),
            Some(Verdict::Untried(why)) => ("not tried", why.as_str()),
            None => ("not tried", ""),
        };
        let _ = writeln!(out, "<tr><td>{}</td><td>{verdict}</td><td>{}</td></tr>", known.id, escaped(note));
    }
    let _ = writeln!(out, "</table>");
}
