//! Logs that are made here, replayed by a second, plainer implementation of the same rules, and changed in one way each.

use gridseal_crypto::{Key, Rng, RngError, Signer, SigningKey, role::CaSigning, sha256};
use gridseal_types::{Code, Digest, EkName, UtcTime};

use gridseal_trust::{
    csr::{signature_to_der, subject_public_key_info},
    enrol::{
        cose::SignedType,
        document::{OutOfDate, Policy},
    },
    measured::{event_log::replay, ima::entries, *},
    tpm::{attest::Quoted, pcr_digest},
};

const MODEL: &str = "Lab 1";
const KEY_NAME: EkName = EkName([5; 34]);

fn event(pcr: u32, kind: u32, digest: &[u8; 32], data: &[u8]) -> Vec<u8> {
    let mut bytes = [pcr, kind, 2].map(u32::to_le_bytes).concat();
    bytes.extend_from_slice(&[4, 0]);
    bytes.extend_from_slice(&[0x11; 20]);
    bytes.extend_from_slice(&[11, 0]);
    bytes.extend_from_slice(digest);
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend_from_slice(&[0, 0, 0, 0, 0, 2, 0, 2]);
    spec.extend_from_slice(&u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (algorithm, size) in algorithms {
        spec.extend_from_slice(&algorithm.to_le_bytes());
        spec.extend_from_slice(&size.to_le_bytes());
    }
    spec.push(0);
    let mut bytes = [0u32, 3].map(u32::to_le_bytes).concat();
    bytes.extend_from_slice(&[0; 20]);
    bytes.extend_from_slice(&u32::try_from(spec.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&spec);
    bytes
}

const BOTH: [(u16, u16); 2] = [(4, 20), (11, 32)];

/// Locality 3; firmware in PCR 0, loader in PCR 4.
fn event_log(firmware: u8) -> Vec<u8> {
    [
        header(&BOTH),
        event(0, 3, &[0; 32], b"StartupLocality\0\x03"),
        event(0, 8, &[firmware; 32], b"firmware"),
        event(0, 1, &[2; 32], b"more of it"),
        event(4, 0x8000_0003, &[4; 32], b"loader"),
    ]
    .concat()
}

fn extend(before: [u8; 32], measured: [u8; 32]) -> [u8; 32] {
    sha256(&[&before, &measured])
}

/// PCR 0 and PCR 4 after [`event_log`].
fn booted(firmware: u8) -> [Digest; 2] {
    let mut start = [0; 32];
    start[31] = 3;
    [extend(extend(start, [firmware; 32]), [2; 32]), extend([0; 32], [4; 32])].map(Digest)
}

#[test]
fn an_event_log_leads_to_the_values_that_its_digests_give() {
    let replayed = replay(&event_log(1)).unwrap();
    let [pcr0, pcr4] = booted(1);
    assert_eq!((replayed.value(0), replayed.value(4)), (Some(pcr0), Some(pcr4)));
    assert_eq!((replayed.value(7), replayed.events), (None, 4));
}

#[test]
fn a_hostile_event_log_is_refused_where_its_flaw_is() {
    let flaw = |log: &[u8]| replay(log).map(|_| ()).map_err(|error| error.flaw);
    let log = event_log(1);
    for length in 0..log.len() {
        if let Ok(shorter) = replay(&log[..length]) {
            assert!(shorter.events < 4, "cut between two events at {length}");
        }
    }
    assert_eq!(flaw(&log[..log.len() - 1]), Err(LogFlaw::Length), "cut inside an event");
    assert_eq!(flaw(&[&log[..], &[0]].concat()), Err(LogFlaw::Truncated), "a byte behind");
    assert_eq!(flaw(&header(&[(4, 20)])), Err(LogFlaw::NoSha256));
    assert_eq!(flaw(&header(&[(11, 20)])), Err(LogFlaw::Value), "SHA-256 of 20 bytes");
    assert_eq!(flaw(&header(&[(11, 32), (11, 32)])), Err(LogFlaw::Value), "an algorithm twice");
    assert_eq!(flaw(&header(&[])), Err(LogFlaw::Length));
    let mut many = header(&[(11, 32)]);
    many[32 + 24..32 + 28].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(flaw(&many), Err(LogFlaw::Length), "four billion algorithms");
    let mut old = header(&BOTH);
    old[4] = 8;
    assert_eq!(flaw(&old), Err(LogFlaw::Value), "SHA-1 format");
    let lying = |at: usize| {
        let mut one = [header(&BOTH), event(0, 8, &[1; 32], b"x")].concat();
        let start = header(&BOTH).len() + at;
        one[start..start + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        flaw(&one)
    };
    assert_eq!(lying(0), Err(LogFlaw::Value), "PCR");
    assert_eq!(lying(8), Err(LogFlaw::Length), "count of digests");
    assert_eq!(lying(12), Err(LogFlaw::Value), "algorithm");
    assert_eq!(lying(68), Err(LogFlaw::Length), "size of the event");
    let with = |events: &[Vec<u8>]| flaw(&[header(&BOTH), events.concat()].concat());
    assert_eq!(with(&[event(17, 8, &[1; 32], b"")]), Err(LogFlaw::Value), "PCR of a dynamic launch");
    let locality = |value: u8| event(0, 3, &[0; 32], &[&b"StartupLocality\0"[..], &[value]].concat());
    assert_eq!(with(&[locality(1)]), Err(LogFlaw::Value));
    assert_eq!(with(&[locality(3), locality(3)]), Err(LogFlaw::Value), "twice");
    assert_eq!(with(&[event(0, 8, &[1; 32], b""), locality(3)]), Err(LogFlaw::Value), "too late");
    assert_eq!(flaw(&vec![0; LOG_SIZE_MAX + 1]), Err(LogFlaw::Size));
    assert_eq!(flaw(&vec![0xff; LOG_SIZE_MAX]), Err(LogFlaw::Value), "256 KiB of nothing");
}

fn field(parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    [&u32::try_from(contents.len()).unwrap().to_le_bytes()[..], &contents].concat()
}

/// One entry: what is hashed, and its two forms.
struct Made {
    data: Vec<u8>,
    binary: Vec<u8>,
    text: Vec<u8>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entry(path: &str, digest: [u8; 32], signature: Option<&[u8]>, is_violation: bool) -> Made {
    let mut data = [field(&[b"sha256:\0", &digest]), field(&[path.as_bytes(), &[0]])].concat();
    let name = if signature.is_some() { "ima-sig" } else { "ima-ng" };
    if let Some(signature) = signature {
        data.extend(field(&[signature]));
    }
    let hash = if is_violation { [0; 32] } else { sha256(&[&data]) };
    let binary =
        [&10u32.to_le_bytes()[..], &hash[..20], &field(&[name.as_bytes()]), &field(&[&data])].concat();
    let mut text = format!("10 {} {name} sha256:{} {path}", hex(&hash[..20]), hex(&digest));
    if let Some(signature) = signature {
        text = format!("{text} {}", hex(signature));
    }
    Made { data, binary, text: format!("{text}\n").into_bytes() }
}

fn list(made: &[Made]) -> Vec<u8> {
    made.iter().flat_map(|made| made.binary.clone()).collect()
}

/// PCR 10 after entries.
fn measured(made: &[Made]) -> Digest {
    Digest(made.iter().fold([0; 32], |value, made| extend(value, sha256(&[&made.data]))))
}

#[test]
fn binary_and_text_lists_are_the_same_entries() {
    let signature = [3, 2, 4, 1, 2, 3, 4, 0, 2, 9, 9];
    let made = [
        entry("boot_aggregate", [1; 32], Some(&[]), false),
        entry("/usr/bin/my meter", [2; 32], Some(&signature), false),
        entry("/etc/with 03", [3; 32], Some(&[]), false),
    ];
    let binary = entries(&list(&made)).unwrap();
    let text: Vec<u8> = made.iter().flat_map(|made| made.text.clone()).collect();
    assert_eq!(entries(&text).unwrap(), binary);
    assert_eq!(binary[1].path, b"/usr/bin/my meter");
    assert_eq!(binary[1].signature, signature);
    assert_eq!(binary[2].path, b"/etc/with 03");
    for (entry, made) in binary.iter().zip(&made) {
        assert_eq!(entry.measured.0, sha256(&[&made.data]));
    }
    let violation = entry("/var/log/x", [0; 32], None, true);
    assert_eq!(entries(&violation.binary).unwrap()[0].measured, Digest([0xff; 32]));
    assert!(entries(&violation.text).unwrap()[0].is_violation);
    // From an entry on, in both forms; a list with fewer is given whole.
    for log in [&list(&made), &text] {
        let (first, rest) = ima::from(log, 2).unwrap();
        assert_eq!((first, entries(rest).unwrap().len()), (2, 1));
        assert_eq!(ima::from(log, 3).unwrap(), (3, &[][..]));
        assert_eq!(ima::from(log, 4).unwrap(), (0, &log[..]));
    }
}

#[test]
fn a_hostile_ima_list_is_refused_where_its_flaw_is() {
    let flaw = |log: &[u8]| entries(log).map(|_| ()).map_err(|error| error.flaw);
    let good = entry("/bin/a", [1; 32], None, false).binary;
    assert_eq!(flaw(&good), Ok(()));
    for length in 1..good.len() {
        assert!(flaw(&good[..length]).is_err(), "cut at {length}");
    }
    let changed = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        flaw(&bytes)
    };
    assert_eq!(changed(0, 11), Err(LogFlaw::Value), "PCR 11");
    assert_eq!(changed(24, u32::MAX), Err(LogFlaw::Length), "template name");
    assert_eq!(changed(34, u32::MAX), Err(LogFlaw::Length), "template data");
    assert_eq!(changed(38, u32::MAX), Err(LogFlaw::Length), "digest");
    assert_eq!(changed(38, 39), Err(LogFlaw::Length), "digest one shorter");
    assert!(flaw(b"10 00 ima-ng sha256:00 /x\n").is_err(), "short template hash");
    assert!(flaw(b"10 \xff\xff\xff\xff\n").is_err());
    assert_eq!(flaw(&vec![b'1'; LOG_SIZE_MAX + 1]), Err(LogFlaw::Size));
    assert_eq!(flaw(&vec![b'1'; LOG_SIZE_MAX]), Err(LogFlaw::Value));
    assert_eq!(flaw(&[10, 0, 0, 0].repeat(LOG_SIZE_MAX / 4)), Err(LogFlaw::Value));
    assert!(flaw(&b"\n".repeat(LOG_SIZE_MAX)).is_err());
}

fn policy(version: u64, firmware: u8) -> Policy {
    let [pcr0, pcr4] = booted(firmware);
    Policy {
        model: MODEL.into(),
        release: format!("{version}"),
        pcrs: vec![(0, vec![pcr0]), (4, vec![pcr4])],
        ima_keys: Vec::new(),
        ima_paths: vec![("/bin/a".into(), Digest([1; 32])), ("/bin/b".into(), Digest([2; 32]))],
        version,
        out_of_date: OutOfDate::Grace,
        logs_may_be_empty: false,
        issued: UtcTime(0),
    }
}

fn set(policies: &[Policy]) -> PolicySet {
    let mut set = PolicySet::default();
    for policy in policies {
        set.add(SignedType::Policy.hash(&policy.encode()), policy.clone()).unwrap();
    }
    set
}

fn quoted(pcrs: &[Digest]) -> Quoted {
    Quoted { pcr_digest: pcr_digest(pcrs), safe: true, reset_count: 7, restart_count: 1, firmware_version: 0 }
}

fn made() -> Vec<Made> {
    vec![entry("/bin/a", [1; 32], None, false), entry("/bin/b", [2; 32], None, false)]
}

/// A device that booted firmware `booted_with` and hands over these logs.
fn judge(
    policies: &PolicySet,
    logs: &Logs,
    quoted: &Quoted,
    before: Option<&Progress>,
) -> Result<Appraisal, Reason> {
    policies.appraise(
        MODEL,
        &Measurements {
            logs,
            ima_next: policies.ima_next(MODEL, &KEY_NAME, before),
            quoted,
            attestation_key: KEY_NAME,
            before,
        },
    )
}

fn quote_of(firmware: u8, made: &[Made]) -> Quoted {
    let [pcr0, pcr4] = booted(firmware);
    quoted(&[pcr0, pcr4, measured(made)])
}

fn logs(firmware: u8, made: &[Made]) -> Logs {
    Logs { event_log: event_log(firmware), ima_first: 0, ima_log: list(made) }
}

#[test]
fn the_current_release_passes_an_older_one_has_grace_or_fails_and_an_unknown_one_fails() {
    let made = made();
    let (current, old) = (policy(2, 2), policy(1, 1));
    let both = set(&[old.clone(), current.clone()]);
    let pass = judge(&both, &logs(2, &made), &quote_of(2, &made), None).unwrap();
    assert_eq!((pass.verdict, pass.policy), (Verdict::Pass, SignedType::Policy.hash(&current.encode())));
    let grace = judge(&both, &logs(1, &made), &quote_of(1, &made), None).unwrap();
    assert_eq!((grace.verdict, grace.policy), (Verdict::Grace, SignedType::Policy.hash(&old.encode())));
    let strict = set(&[Policy { out_of_date: OutOfDate::Fail, ..old }, current]);
    assert_eq!(judge(&strict, &logs(1, &made), &quote_of(1, &made), None), Err(Reason::NotCurrent));
    assert_eq!(judge(&both, &logs(3, &made), &quote_of(3, &made), None), Err(Reason::PcrValue(Some(0))));
    assert_eq!(
        both.appraise(
            "Other",
            &Measurements {
                logs: &logs(1, &made),
                ima_next: 0,
                quoted: &quote_of(1, &made),
                attestation_key: KEY_NAME,
                before: None,
            }
        ),
        Err(Reason::NoPolicy)
    );
    assert_eq!(Reason::NotCurrent.code(), Code::Policy);
    assert_eq!(Reason::QuoteMismatch.code(), Code::Quote);
}

#[test]
fn logs_count_only_when_they_lead_to_what_was_quoted() {
    let made = made();
    let policies = set(&[policy(1, 1)]);
    let quote = quote_of(1, &made);
    assert!(judge(&policies, &logs(1, &made), &quote, None).is_ok());
    // A log of the allowed firmware from a device that booted another.
    assert_eq!(judge(&policies, &logs(1, &made), &quote_of(9, &made), None), Err(Reason::QuoteMismatch));
    // An entry left out, changed, or moved.
    assert_eq!(judge(&policies, &logs(1, &made[..1]), &quote, None), Err(Reason::QuoteMismatch));
    let reversed = [entry("/bin/b", [2; 32], None, false), entry("/bin/a", [1; 32], None, false)];
    assert_eq!(judge(&policies, &logs(1, &reversed), &quote, None), Err(Reason::QuoteMismatch));
    // Without a log where one is wanted.
    let none = Logs::default();
    assert_eq!(judge(&policies, &none, &quote, None), Err(Reason::LogMissing));
    let no_list = Logs { ima_log: Vec::new(), ..logs(1, &made) };
    assert_eq!(judge(&policies, &no_list, &quote, None), Err(Reason::LogMissing));
    let no_events = Logs { event_log: Vec::new(), ..logs(1, &made) };
    assert_eq!(judge(&policies, &no_events, &quote, None), Err(Reason::LogMissing));
    // Entries that came after the quote are not judged yet.
    let mut more = self::made();
    more.push(entry("/tmp/evil", [6; 32], None, false));
    let appraisal = judge(&policies, &logs(1, &more), &quote, None).unwrap();
    assert_eq!(appraisal.progress.unwrap().next, 2);
    assert_eq!(judge(&policies, &logs(1, &more), &quote_of(1, &more), None), Err(Reason::ImaFile(2)));
}

#[test]
fn a_policy_that_allows_it_is_met_without_logs_as_before() {
    let free = Policy { logs_may_be_empty: true, ima_paths: Vec::new(), ..policy(1, 1) };
    let [pcr0, pcr4] = booted(1);
    let policies = set(&[free]);
    let pass = judge(&policies, &Logs::default(), &quoted(&[pcr0, pcr4]), None).unwrap();
    assert_eq!((pass.verdict, pass.progress), (Verdict::Pass, None));
    let other = judge(&policies, &Logs::default(), &quoted(&[pcr4, pcr4]), None);
    assert_eq!(other, Err(Reason::PcrValue(None)));
    assert_eq!(Reason::PcrValue(None).code(), Code::Policy);
    let unwanted = Logs { ima_log: list(&made()), ..Logs::default() };
    assert_eq!(judge(&policies, &unwanted, &quoted(&[pcr0, pcr4]), None), Err(Reason::ImaUnexpected));
    // With its log it is met as well, and a wrong log is worse than none.
    let with = Logs { event_log: event_log(1), ..Logs::default() };
    assert!(judge(&policies, &with, &quoted(&[pcr0, pcr4]), None).is_ok());
    let wrong = Logs { event_log: event_log(2), ..Logs::default() };
    assert_eq!(judge(&policies, &wrong, &quoted(&[pcr0, pcr4]), None), Err(Reason::QuoteMismatch));
}

#[test]
fn each_entry_is_allowed_by_a_rule_a_signature_or_the_boot() {
    let judge_entries = |policy: &Policy, entries: &[Made]| {
        judge(&set(core::slice::from_ref(policy)), &logs(1, entries), &quote_of(1, entries), None)
    };
    let known = policy(1, 1);
    let changed = [entry("/bin/a", [9; 32], None, false)];
    assert_eq!(judge_entries(&known, &changed), Err(Reason::ImaFile(0)));
    let unknown = [entry("/bin/a", [1; 32], None, false), entry("/bin/z", [1; 32], None, false)];
    assert_eq!(judge_entries(&known, &unknown), Err(Reason::ImaFile(1)));
    let late = [entry("/bin/a", [1; 32], None, false), entry("boot_aggregate", [1; 32], None, false)];
    assert_eq!(judge_entries(&known, &late), Err(Reason::ImaFile(1)), "an aggregate comes first");
    assert_eq!(
        judge_entries(&known, &[entry("boot_aggregate", [1; 32], None, false)]),
        Err(Reason::ImaBootAggregate)
    );
    // A violation extends all ones.
    let violation = [entry("/bin/a", [1; 32], None, true)];
    let [pcr0, pcr4] = booted(1);
    let quote = quoted(&[pcr0, pcr4, Digest(extend([0; 32], [0xff; 32]))]);
    assert_eq!(
        judge(&set(core::slice::from_ref(&known)), &logs(1, &violation), &quote, None),
        Err(Reason::ImaViolation(0))
    );
    // All of PCR 0 to 7 covered: the aggregate is theirs.
    let zero = Digest([0; 32]);
    let eight = [pcr0, zero, zero, zero, pcr4, zero, zero, zero];
    let covered =
        Policy { pcrs: (0u8..).zip(eight).map(|(pcr, value)| (pcr, vec![value])).collect(), ..known };
    let aggregate = [entry("boot_aggregate", pcr_digest(&eight).0, None, false)];
    let values = [&eight[..], &[measured(&aggregate)]].concat();
    let found = judge(&set(&[covered]), &logs(1, &aggregate), &quoted(&values), None);
    assert_eq!(found.map(|appraisal| appraisal.verdict), Ok(Verdict::Pass));
}

struct Fixed;
impl Rng for Fixed {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.fill(0x42);
        Ok(())
    }
}

#[test]
fn a_file_signed_by_an_allowed_key_needs_no_rule() {
    let signer: SigningKey<CaSigning> = SigningKey::new(&Key::generate_scalar(&mut Fixed).unwrap()).unwrap();
    let content = b"an update";
    let digest = sha256(&[content]);
    // ECDSA over SHA-256 of the content is what a signature of the file's digest is.
    let signature = signature_to_der(&signer.sign(content).unwrap());
    let header = |hash: u8, size: usize| {
        [&[3, 2, hash, 1, 2, 3, 4][..], &u16::try_from(size).unwrap().to_be_bytes()].concat()
    };
    let xattr = [header(4, signature.len()), signature.clone()].concat();
    let mut keys = ImaKeys::default();
    let id = keys.add(&subject_public_key_info(&signer.public())).unwrap();
    assert_eq!(keys.add(b"no key"), None);
    let run = |allowed: &[Digest], xattr: &[u8]| {
        let policy = Policy { ima_keys: allowed.to_vec(), ..policy(1, 1) };
        let mut set = PolicySet::new(keys.clone());
        set.add(Digest([1; 32]), policy).unwrap();
        let made = [entry("/opt/new", digest, Some(xattr), false)];
        judge(&set, &logs(1, &made), &quote_of(1, &made), None).map(|appraisal| appraisal.verdict)
    };
    assert_eq!(run(&[id], &xattr), Ok(Verdict::Pass));
    assert_eq!(run(&[], &xattr), Err(Reason::ImaFile(0)), "no key allowed");
    assert_eq!(run(&[Digest([8; 32])], &xattr), Err(Reason::ImaFile(0)), "another key allowed");
    let mut forged = xattr.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(run(&[id], &forged), Err(Reason::ImaFile(0)), "forged");
    let other_hash = [header(6, signature.len()), signature.clone()].concat();
    assert_eq!(run(&[id], &other_hash), Err(Reason::ImaFile(0)), "says SHA-512");
    let lying = [header(4, signature.len() + 1), signature].concat();
    assert_eq!(run(&[id], &lying), Err(Reason::ImaFile(0)), "lying size");
}

#[test]
fn only_new_entries_are_asked_for_while_key_boot_and_policy_stay() {
    let policies = set(&[policy(1, 1)]);
    let first = made();
    let before = judge(&policies, &logs(1, &first), &quote_of(1, &first), None).unwrap().progress.unwrap();
    assert_eq!((before.next, before.value), (2, measured(&first)));
    assert_eq!(policies.ima_next(MODEL, &KEY_NAME, Some(&before)), 2);
    let mut all = made();
    all.push(entry("/bin/a", [1; 32], None, false));
    let quote = quote_of(1, &all);
    let rest = Logs { ima_first: 2, ima_log: list(&all[2..]), ..logs(1, &[]) };
    let after = judge(&policies, &rest, &quote, Some(&before)).unwrap().progress.unwrap();
    assert_eq!((after.next, after.value), (3, measured(&all)));
    // Nothing new is an answer too.
    let nothing = Logs { ima_first: 2, ima_log: Vec::new(), ..logs(1, &[]) };
    assert_eq!(
        judge(&policies, &nothing, &quote_of(1, &first), Some(&before)).unwrap().progress,
        Some(before)
    );
    // A bad file among the new entries is found.
    let mut bad = made();
    bad.push(entry("/bin/a", [9; 32], None, false));
    let part = Logs { ima_log: list(&bad[2..]), ..rest.clone() };
    assert_eq!(judge(&policies, &part, &quote_of(1, &bad), Some(&before)), Err(Reason::ImaFile(2)));
    // Another boot, or nothing on record: no verdict, the whole list is asked for.
    let reset = Quoted { reset_count: 8, ..quote };
    assert_eq!(judge(&policies, &rest, &reset, Some(&before)), Err(Reason::ImaDiscontinuous));
    let other = [entry("/bin/b", [2; 32], None, false)];
    assert_eq!(judge(&policies, &rest, &quote_of(1, &other), Some(&before)), Err(Reason::ImaDiscontinuous));
    let forgotten =
        Measurements { logs: &rest, ima_next: 2, quoted: &quote, attestation_key: KEY_NAME, before: None };
    assert_eq!(policies.appraise(MODEL, &forgotten), Err(Reason::ImaDiscontinuous));
    // The whole list is always good; a part that nobody asked for never.
    assert!(judge(&policies, &logs(1, &all), &quote, Some(&before)).is_ok());
    let unasked = Logs { ima_first: 1, ..rest };
    assert_eq!(judge(&policies, &unasked, &quote, Some(&before)), Err(Reason::ImaFirst));
    // Another key, or a policy that is no longer known: from the start.
    assert_eq!(policies.ima_next(MODEL, &EkName([6; 34]), Some(&before)), 0);
    assert_eq!(set(&[policy(2, 1)]).ima_next(MODEL, &KEY_NAME, Some(&before)), 0);
}

#[test]
fn policies_of_one_model_must_fit_together() {
    let mut set = PolicySet::default();
    let mut add = |policy: Policy| set.add(SignedType::Policy.hash(&policy.encode()), policy);
    let base = policy(1, 1);
    assert_eq!(add(base.clone()), Ok(()));
    assert_eq!(add(base.clone()), Err(Grounds::SameVersion));
    let fewer = Policy { pcrs: vec![base.pcrs[0].clone()], ..policy(2, 1) };
    assert_eq!(add(fewer), Err(Grounds::Coverage));
    assert_eq!(add(Policy { ima_paths: Vec::new(), ..policy(2, 1) }), Err(Grounds::Coverage));
    let fixed = Policy { pcrs: vec![(10, vec![Digest([0; 32])])], ..policy(2, 1) };
    assert_eq!(add(fixed), Err(Grounds::FixedIma));
    let nothing = Policy { pcrs: Vec::new(), ima_paths: Vec::new(), ..policy(2, 1) };
    assert_eq!(add(nothing), Err(Grounds::Nothing));
    let twice = Policy { pcrs: [base.pcrs.clone(), base.pcrs.clone()].concat(), ..policy(2, 1) };
    assert_eq!(add(twice), Err(Grounds::Order));
    let many =
        Policy { pcrs: vec![(0, vec![Digest([0; 32]); 64]), (4, vec![Digest([0; 32]); 5])], ..policy(2, 1) };
    assert_eq!(add(many), Err(Grounds::Combinations));
    for version in 2..=8 {
        assert_eq!(add(policy(version, 1)), Ok(()));
    }
    assert_eq!(add(policy(9, 1)), Err(Grounds::TooMany));
}

/// The largest hostile inputs end in well under a second: five thousand entries, eight policies, nothing that fits.
#[test]
fn the_largest_logs_are_judged_with_bounded_work() {
    let policies: Vec<Policy> = (1..=8u64)
        .map(|version| Policy {
            pcrs: vec![(0, vec![Digest([7; 32]); 16]), (4, vec![Digest([8; 32]); 16])],
            logs_may_be_empty: true,
            ..policy(version, 1)
        })
        .collect();
    let one = entry("/bin/a", [1; 32], None, false).binary;
    let logs = Logs { ima_log: one.repeat(LOG_SIZE_MAX / one.len()), ..Logs::default() };
    let quote = quoted(&[Digest([3; 32])]);
    assert_eq!(judge(&set(&policies), &logs, &quote, None), Err(Reason::QuoteMismatch));
}
