//! Each weakness is found where it is, and nowhere else; each cause of a failed association is named; no peer hangs it.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use gridseal_types::UtcTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    assay::{Assay, Dangers, Verdict},
    catalogue::CATALOGUE,
    html, raw,
    report::{Report, grade},
    talk::{Prober, Target},
};
use crate::{
    lab::{Lab, Side},
    tools::sim::weak_meter::{self, WeakMeter, Weakness},
};

const GUEK: &str = "8A1F00C3D4427E9155B06D2E93F7A81C";
const GAK: &str = "5B3E91A7C0D2446F8817E3509ABD62F1";
const SECRET: &str = "v3ry-l0ng-and-random";
const LAB: &str = r#"danger_test_keys = true
client_sap = 25
max_pdu = 512
[client]
system_title = "4D4D4D0000000001"
invocation_counter = 100
[server]
system_title = "4D4D4D0000BC614E"
invocation_counter = 5000
[keys]
guek = "8A1F00C3D4427E9155B06D2E93F7A81C"
gak = "5B3E91A7C0D2446F8817E3509ABD62F1"
secret = "v3ry-l0ng-and-random"
"#;
const ALL_DANGERS: Dangers = Dangers { write: true, malformed: true, no_passwords: false };

fn lab(text: &str) -> Lab {
    Lab::parse(text).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn weak(text: &str, weak: &[Weakness]) -> String {
    let meter = WeakMeter::new(lab(text), weak.iter().copied().collect()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(weak_meter::serve(listener, Arc::new(meter)));
    address
}

async fn probed<'l>(lab: &'l Lab, address: String, dangers: Dangers, timeout_ms: u64) -> Assay<'l> {
    let timeout = Duration::from_millis(timeout_ms);
    let target = Target { address, is_hdlc: false, timeout, limit: Duration::from_secs(120) };
    let raw = raw::load(lab, Side::Client).unwrap();
    let prober = Prober::new(lab, raw, &target, (lab.client.invocation_counter, Box::new(|_| {})));
    let mut assay = Assay::new(prober, dangers);
    assay.run().await;
    assay
}

fn ids(assay: &Assay<'_>) -> BTreeSet<&'static str> {
    assay.findings.iter().map(|finding| finding.known.id).collect()
}

fn finds(weakness: Weakness, id: &str, others: &[&str]) {
    let lab = lab(LAB);
    let malformed = weakness == Weakness::MalformedKills;
    let dangers = Dangers { write: true, malformed, no_passwords: false };
    let assay = block_on(async { probed(&lab, weak(LAB, &[weakness]).await, dangers, 20_000).await });
    let expected: BTreeSet<&str> = others.iter().copied().chain([id]).collect();
    assert_eq!(ids(&assay), expected);
    assert!(assay.is_associated);
    for finding in &assay.findings {
        assert!(!finding.evidence.is_empty(), "{id} has no evidence");
    }
}

macro_rules! weaknesses {
    ($($name:ident $weakness:ident $id:literal $(and $other:literal)*;)*) => {
        $(#[test] fn $name() { finds(Weakness::$weakness, $id, &[$($other),*]); })*

        /// The off side of every test above: the same meter without weaknesses, and each check was really made.
        #[test]
        fn without_a_weakness_nothing_is_found_and_everything_was_looked_for() {
            let lab = lab(LAB);
            let assay = block_on(async { probed(&lab, weak(LAB, &[]).await, ALL_DANGERS, 20_000).await });
            assert_eq!(ids(&assay), BTreeSet::new());
            for id in [$($id),*] {
                let verdict = &assay.verdicts[id];
                assert!(matches!(verdict, Verdict::Clean(_)), "{id}: {verdict:?}");
            }
            assert_eq!(grade(&assay.findings), 'A');
            assert!(assay.diagnosis.is_none());
        }

        #[test]
        fn every_weakness_has_a_test() {
            use clap::ValueEnum;
            assert_eq!(Weakness::value_variants(), [$(Weakness::$weakness),*]);
        }
    };
}

weaknesses! {
    values_that_anybody_reads PlainRead "plain-read";
    attributes_that_anybody_writes PlainWrite "plain-write";
    a_context_without_ciphering ContextPlain "context-plain";
    mechanism_0 MechanismLowest "mechanism-lowest";
    mechanism_1 MechanismLow "mechanism-low";
    mechanism_2 MechanismManufacturer "mechanism-manufacturer";
    mechanism_3 MechanismMd5 "mechanism-md5";
    mechanism_4 MechanismSha1 "mechanism-sha1";
    challenges_that_repeat ChallengeFixed "challenge-fixed";
    challenges_of_4_bytes ChallengeShort "challenge-short";
    challenges_that_come_back ChallengeReflected "challenge-reflected";
    services_before_pass_3 HlsServicesEarly "hls-services-early";
    a_wrong_proof_that_is_accepted HlsWrongAccepted "hls-wrong-accepted" and "attempts-uncounted";
    a_meter_that_proves_nothing HlsUnproven "hls-unproven";
    plain_requests_in_a_ciphered_association PlainRequest "plain-request";
    plain_answers_in_a_ciphered_association PlainAnswer "plain-answer";
    tags_that_nobody_compares TagUnchecked "tag-unchecked";
    requests_served_twice ReplayAccepted "replay-accepted";
    lower_counters CounterLowered "counter-lowered";
    counters_forgotten_with_the_association CounterForgotten "counter-forgotten";
    own_counters_that_begin_again ServerCounterReset "server-counter-reset";
    a_policy_that_nobody_enforces PolicyNotEnforced "policy-not-enforced";
    a_policy_that_demands_too_little PolicyWeak "policy-weak";
    any_title_under_the_keys TitleUnchecked "title-unchecked";
    one_key_for_all_clients KeySharedClients "key-shared-clients";
    a_default_password PasswordDefault "password-default";
    attempts_that_nobody_counts AttemptsUncounted "attempts-uncounted";
    no_event_log NoSecurityLog "no-security-log";
    apdus_above_the_agreed_size PduOverlong "pdu-overlong";
    malformed_messages_that_kill MalformedKills "malformed-kills";
    images_without_a_signature ImageUnsigned "image-unsigned";
}

#[test]
fn a_password_mechanism_that_was_asked_without_the_password_is_not_in_order() {
    let lab = lab(&LAB.replace("secret = \"v3ry-l0ng-and-random\"\n", ""));
    let weaknesses = &[Weakness::MechanismLow];
    let assay = block_on(async { probed(&lab, weak(LAB, weaknesses).await, ALL_DANGERS, 20_000).await });
    assert!(matches!(assay.verdicts["mechanism-low"], Verdict::Untried(_) | Verdict::Found));
}

#[test]
fn published_and_shared_keys_are_found_in_the_lab_file() {
    let text = LAB
        .replace(GUEK, "000102030405060708090A0B0C0D0E0F")
        .replace(GAK, "000102030405060708090A0B0C0D0E0F");
    let weak_lab = lab(&text);
    let assay =
        block_on(async { probed(&weak_lab, weak(&text, &[]).await, Dangers::default(), 20_000).await });
    assert_eq!(ids(&assay), BTreeSet::from(["key-published", "key-shared"]));
    assert_eq!(grade(&assay.findings), 'F');
}

#[test]
fn what_is_dangerous_is_not_sent_unasked_and_is_named() {
    let lab = lab(LAB);
    let assay = block_on(async { probed(&lab, weak(LAB, &[]).await, Dangers::default(), 20_000).await });
    for id in ["image-unsigned", "malformed-kills"] {
        assert!(matches!(&assay.verdicts[id], Verdict::Untried(why) if why.contains("--danger-")), "{id}");
    }
    let sent = assay.prober.evidence(0, usize::MAX);
    // Plain SETs (C1) and ciphered ones (C9) alike.
    assert!(
        sent.iter()
            .all(|exchange| !exchange.request.starts_with("c1") && !exchange.request.starts_with("c9"))
    );
}

#[test]
fn a_meter_with_every_weakness_is_graded_f_and_no_key_is_printed() {
    use clap::ValueEnum;
    let lab = lab(LAB);
    let all = Weakness::value_variants();
    let assay = block_on(async { probed(&lab, weak(LAB, all).await, ALL_DANGERS, 20_000).await });
    let found = ids(&assay);
    for known in CATALOGUE {
        // One challenge for ever, of 4 bytes, leaves nothing to reflect.
        let is_other = matches!(known.id, "key-published" | "key-shared" | "challenge-reflected");
        assert!(is_other || found.contains(known.id), "{} is missing", known.id);
    }
    let report = Report { assay: &assay, at: UtcTime(1_795_000_000) };
    assert_eq!(report.grade(), Some('F'));
    let json = report.json();
    assert_eq!(json["findings"].as_array().unwrap().len(), found.len());
    assert_eq!(json["checks"].as_array().unwrap().len(), CATALOGUE.len());
    let page = html::page(&report);
    for text in [json.to_string(), report.text(true), page.clone()] {
        let text = text.to_lowercase();
        for hidden in [GUEK, GAK, SECRET, &hex::encode(SECRET), &hex::encode("12345678")] {
            assert!(!text.contains(&hidden.to_lowercase()), "{hidden}");
        }
    }
    assert!(page.contains("default-src 'none'"));
    for outside in ["<script", "src=", "href=", "http:", "https:", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(!report.text(false).contains('\u{1b}') && report.text(true).contains('\u{1b}'));
}

/// The cause that a probe names when its lab file is changed; whether it showed it; whether it went on.
fn diagnosed(
    meter: &str,
    client: &str,
    weakness: &[Weakness],
    timeout_ms: u64,
) -> (&'static str, bool, bool) {
    let lab = lab(client);
    let assay =
        block_on(async { probed(&lab, weak(meter, weakness).await, Dangers::default(), timeout_ms).await });
    let diagnosis = assay.diagnosis.as_ref().expect("the association fails");
    assert!(!diagnosis.text.is_empty() && !diagnosis.evidence.is_empty());
    (diagnosis.cause, diagnosis.is_shown, assay.is_associated)
}

#[test]
fn why_an_association_fails_is_shown_by_changing_one_thing() {
    let with = |from: &str, to: &str| LAB.replace(from, to);
    let mechanism = with("max_pdu", "mechanism = 6\nmax_pdu");
    for (cause, client) in [
        ("system-title", with("4D4D4D0000BC614E", "4D4D4D0000BC614F")),
        ("mechanism", mechanism),
        ("suite", with("max_pdu", "suite = 1\nmax_pdu")),
        ("context", with("max_pdu", "protection = \"none\"\nmax_pdu")),
    ] {
        assert_eq!(diagnosed(LAB, &client, &[], 20_000), (cause, true, true));
    }
    let meter = with("client_sap = 25", "client_sap = 48");
    assert_eq!(diagnosed(&meter, LAB, &[], 20_000), ("client-sap", true, true));
    let client = with("4D4D4D0000000001", "4D4D4D0000000002");
    let told = diagnosed(LAB, &client, &[Weakness::PlainRead], 20_000);
    assert_eq!(told, ("system-title", true, true), "where anybody may read the title");
    let client = with("max_pdu", "listen_sap = 17\nmax_pdu");
    assert_eq!(diagnosed(LAB, &client, &[], 20_000), ("server-sap", true, true));
}

#[test]
fn a_counter_that_was_used_before_is_named_and_passed() {
    let lab = lab(LAB);
    let diagnosis = block_on(async {
        let address = weak(LAB, &[]).await;
        let _ = probed(&lab, address.clone(), Dangers::default(), 20_000).await;
        let assay = probed(&lab, address, Dangers::default(), 20_000).await;
        assert!(assay.is_associated);
        assay.diagnosis.unwrap()
    });
    assert_eq!((diagnosis.cause, diagnosis.is_shown), ("counter", true));
}

#[test]
fn a_counter_that_is_behind_is_named_beside_what_else_is_wrong() {
    let (first, second) = (lab(LAB), lab(&LAB.replace("max_pdu", "mechanism = 6\nmax_pdu")));
    let diagnosis = block_on(async {
        let address = weak(LAB, &[]).await;
        let _ = probed(&first, address.clone(), Dangers::default(), 20_000).await;
        probed(&second, address, Dangers::default(), 20_000).await.diagnosis.unwrap()
    });
    assert_eq!((diagnosis.cause, diagnosis.is_shown), ("mechanism", true));
    assert!(diagnosis.text.contains("besides, the meter has accepted counters up to"), "{}", diagnosis.text);
}

#[test]
fn a_hint_lowers_no_counter_and_moves_it_not_far() {
    let lab = lab(LAB);
    let reserved = std::rc::Rc::new(std::cell::Cell::new(0));
    let told = std::rc::Rc::clone(&reserved);
    let target =
        Target { address: String::new(), is_hdlc: false, timeout: Duration::ZERO, limit: Duration::ZERO };
    let raw = raw::load(&lab, Side::Client).unwrap();
    let mut prober = Prober::new(&lab, raw, &target, (100, Box::new(move |end| told.set(end))));
    assert!(prober.follow(99).is_err() && prober.follow(0xFFFF_FFF0).is_err());
    assert_eq!(prober.next_counter(), 100);
    assert!(reserved.get() > 100, "durable before it is used");
    assert!(prober.follow(5_000).is_ok());
    assert_eq!(prober.next_counter(), 5_001);
    assert!(reserved.get() > 5_001);
}

#[test]
fn what_cannot_be_shown_is_concluded() {
    let client = LAB.replace(GAK, "00112233445566778899AABBCCDDEE00");
    assert_eq!(diagnosed(LAB, &client, &[], 20_000), ("key", false, false));
    let meter = LAB.replace("max_pdu", "mechanism = 6\nmax_pdu");
    let client = meter.replace(SECRET, "another long secret");
    assert_eq!(diagnosed(&meter, &client, &[], 20_000), ("secret", false, false));
}

/// What a peer does that is no meter.
#[derive(Clone, Copy)]
enum Odd {
    Silent,
    Closes,
    Garbage,
    Drips,
    Floods,
}

async fn odd(odd: Odd) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut piece = [0; 1_024];
                let _ = stream.read(&mut piece).await;
                match odd {
                    Odd::Closes => {}
                    Odd::Silent => std::future::pending().await,
                    Odd::Garbage => {
                        let _ = stream.write_all(&[0x7E; 4_096]).await;
                        std::future::pending::<()>().await;
                    }
                    // A unit that says it is long, one byte at a time, for ever.
                    Odd::Drips => {
                        let _ = stream.write_all(&[0, 1, 0, 1, 0, 25, 0xFF, 0xFF]).await;
                        while stream.write_all(&[0]).await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    Odd::Floods => {
                        let unit = [0, 1, 0, 1, 0, 25, 0, 7, 0x0F, 0, 0, 0, 1, 0, 0];
                        while stream.write_all(&unit).await.is_ok() {}
                    }
                }
            });
        }
    });
    address
}

#[test]
fn no_peer_hangs_a_probe_or_fills_its_memory() {
    let lab = lab(LAB);
    for (peer, cause) in [
        (Odd::Silent, "transport"),
        (Odd::Closes, "transport"),
        (Odd::Garbage, "transport"),
        (Odd::Drips, "transport"),
        (Odd::Floods, "transport"),
    ] {
        let assay = block_on(async { probed(&lab, odd(peer).await, ALL_DANGERS, 100).await });
        assert!(!assay.is_associated);
        assert_eq!(assay.diagnosis.as_ref().unwrap().cause, cause);
        let is_clean = |verdict: &&Verdict| matches!(verdict, Verdict::Clean(_));
        assert_eq!(assay.verdicts.values().filter(is_clean).count(), 2, "the keys of the lab file alone");
        let report = Report { assay: &assay, at: UtcTime(0) };
        assert_eq!(report.grade(), None);
        assert!(!report.text(false).is_empty() && !html::page(&report).is_empty());
    }
    let assay = block_on(async { probed(&lab, "127.0.0.1:1".into(), ALL_DANGERS, 100).await });
    assert_eq!(assay.diagnosis.as_ref().unwrap().cause, "connection");
}

#[test]
fn a_hostile_name_stays_text_in_the_page() {
    let lab = lab(LAB);
    let mut assay = block_on(async { probed(&lab, "127.0.0.1:1".into(), Dangers::default(), 100).await });
    assay.found("no-security-log", "<script>alert(1)</script>", "\u{1b}[31m\"'&", 0);
    let report = Report { assay: &assay, at: UtcTime(0) };
    let page = html::page(&report);
    assert!(
        !page.contains("<script") && page.contains("&lt;script&gt;") && page.contains("&quot;&#39;&amp;")
    );
    assert!(!page.contains('\u{1b}') && !report.text(false).contains('\u{1b}'));
}

#[test]
fn docs_list_every_finding() {
    let docs = include_str!("../../../../../../docs/probe.md");
    for known in CATALOGUE {
        let row = format!("| `{}` | {} | {} |", known.id, known.severity.name(), known.title);
        assert!(docs.contains(&row), "docs/probe.md lacks: {row}");
    }
}
