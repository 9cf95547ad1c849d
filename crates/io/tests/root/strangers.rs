//! Programs that others wrote, on the same TPM: tpm2-tools extend and quote, make and take credentials; swtpm_setup issues
//! the certificate of an endorsement key. Without them these tests say so and pass.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use gridseal_crypto::{
    Key,
    role::ActivationSecret,
    tpm::{SecretLabel, make_credential},
};
use gridseal_io::{
    rng::OsRng,
    tpm::{Swtpm, TpmSocket},
};
use gridseal_trust::{
    endorsement::{Fault, Issuers},
    enrol::{
        cose::SignedType,
        document::{OutOfDate, Policy},
    },
    measured::{Appraisal, Logs, Measurements, PolicySet, Reason, Verdict},
    root::{Attest, DeviceRoot, EndorsementKind, RootReply, RootRequest, tpm2::Tpm2Root},
    tpm::{self, PublicArea},
};
use gridseal_types::{Digest, UtcTime};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        eprintln!("{program} is not installed: this test did not run");
    }
    found.is_ok()
}

fn scratch(test: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// An emulator on two neighbouring ports, to which one after the other may connect.
struct Shared {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "an emulator that starts says so on its port alone")]
    fn start(test: &str) -> Self {
        let dir = scratch(test);
        for _ in 0..20 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let address = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
            let mut child = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "swtpm", "socket", "--tpm2"])
                .args(["--server", &address(port), "--ctrl", &address(port + 1)])
                .args(["--flags", "not-need-init,startup-clear", "--tpmstate"])
                .arg(format!("dir={}", dir.display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            for _ in 0..100 {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                let output = tool_at(port, &dir, "tpm2_getrandom", &["--hex", "1"]);
                if output.is_ok() {
                    return Self { child, port, dir };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("no two neighbouring ports");
    }

    /// Runs one of the tools; its files are in the scratch folder.
    fn tool(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let run = |program, arguments| tool_at(self.port, &self.dir, program, arguments);
        let output = run(program, arguments).unwrap_or_else(|error| panic!("{program}: {error}"));
        // The tools leave their objects loaded, and there is room for three; what they go on with is in files.
        run("tpm2_flushcontext", &["-t"]).unwrap();
        output
    }

    fn root(&self) -> Tpm2Root<TpmSocket> {
        let data = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        Tpm2Root::new(TpmSocket::connect(data).unwrap(), Box::new(OsRng))
            .with_endorsement(EndorsementKind::Rsa2048)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.join(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.join(name), bytes).unwrap();
    }
}

fn tool_at(port: u16, dir: &Path, program: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("TPM2TOOLS_TCTI", format!("swtpm:host=127.0.0.1,port={port}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn field(parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    [&u32::try_from(contents.len()).unwrap().to_le_bytes()[..], &contents].concat()
}

/// A boot whose two logs we write, while somebody else extends the PCRs.
#[derive(Default)]
struct Boot {
    logs: Logs,
}

impl Boot {
    fn new() -> Self {
        let spec = [&b"Spec ID Event03\0"[..], &[0, 0, 0, 0, 0, 2, 0, 2], &[1, 0, 0, 0, 11, 0, 32, 0], &[0]];
        let header = [&[0u8; 4][..], &[3, 0, 0, 0], &[0; 20], &field(&spec)].concat();
        Self { logs: Logs { event_log: header, ..Logs::default() } }
    }

    fn event(&mut self, tpm: &Shared, pcr: u32, digest: [u8; 32]) {
        let head = [pcr, 8, 1].map(u32::to_le_bytes).concat();
        self.logs.event_log.extend([&head[..], &[11, 0], &digest, &field(&[b"event"])].concat());
        tpm.tool("tpm2_pcrextend", &[&format!("{pcr}:sha256={}", hex(&digest))]);
    }

    fn file(&mut self, tpm: &Shared, path: &str, digest: [u8; 32]) {
        let data = [field(&[b"sha256:\0", &digest]), field(&[path.as_bytes(), &[0]])].concat();
        let hash = gridseal_crypto::sha256(&[&data]);
        let entry = [&[10u8, 0, 0, 0][..], &hash[..20], &field(&[b"ima-ng"]), &field(&[&data])].concat();
        self.logs.ima_log.extend(entry);
        tpm.tool("tpm2_pcrextend", &[&format!("10:sha256={}", hex(&hash))]);
    }
}

/// PCR values of one and two measurements.
fn extended(measured: &[[u8; 32]]) -> Digest {
    Digest(measured.iter().fold([0; 32], |value, one| gridseal_crypto::sha256(&[&value, one])))
}

#[test]
fn what_tpm2_tools_extended_and_quoted_is_what_our_logs_lead_to() {
    if !is_installed("swtpm") || !is_installed("tpm2_quote") {
        return;
    }
    let tpm = Shared::start("stranger-quotes");
    tpm.tool("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-c", "srk.ctx", "-Q"]);
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    let create = ["-C", "srk.ctx", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes];
    tpm.tool("tpm2_create", &[&create[..], &["-u", "key.pub", "-r", "key.priv", "-Q"]].concat());
    tpm.tool("tpm2_load", &["-C", "srk.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx", "-Q"]);
    // TPM2B_PUBLIC: the area of an attestation key, as ours would be.
    let public = tpm.read("key.pub")[2..].to_vec();
    let key = tpm::attestation_key(&public).unwrap();

    let mut boot = Boot::new();
    boot.event(&tpm, 0, [1; 32]);
    boot.event(&tpm, 0, [2; 32]);
    boot.event(&tpm, 4, [3; 32]);
    boot.file(&tpm, "/bin/meter", [4; 32]);
    let policy = Policy {
        model: "M".into(),
        release: "1".into(),
        pcrs: vec![(0, vec![extended(&[[1; 32], [2; 32]])]), (4, vec![extended(&[[3; 32]])])],
        ima_keys: Vec::new(),
        ima_paths: vec![("/bin/meter".into(), Digest([4; 32]))],
        version: 1,
        out_of_date: OutOfDate::Fail,
        logs_may_be_empty: false,
        issued: UtcTime(0),
    };
    let mut policies = PolicySet::default();
    policies.add(SignedType::Policy.hash(&policy.encode()), policy).unwrap();
    let judge = |logs: &Logs, qualifying: Digest| -> Result<Appraisal, Reason> {
        let quote = ["-c", "key.ctx", "-l", "sha256:0,4,10", "-q"];
        let files = ["-m", "quote.msg", "-s", "quote.sig", "-Q"];
        tpm.tool("tpm2_quote", &[&quote[..], &[&hex(qualifying.as_bytes())], &files].concat());
        let quote = Attest { attest: tpm.read("quote.msg"), signature: tpm.read("quote.sig") };
        let selection = policies.pcr_selection("M").unwrap();
        let quoted = tpm::attest::verify_quote(&quote, &key, &qualifying, &selection, None).unwrap();
        let attestation_key = tpm::name(&public);
        let device = Measurements { logs, ima_next: 0, quoted: &quoted, attestation_key, before: None };
        policies.appraise("M", &device)
    };
    let pass = judge(&boot.logs, Digest([9; 32])).unwrap();
    assert_eq!((pass.verdict, pass.progress.map(|progress| progress.next)), (Verdict::Pass, Some(1)));
    boot.file(&tpm, "/bin/evil", [5; 32]);
    assert_eq!(judge(&boot.logs, Digest([8; 32])), Err(Reason::ImaFile(1)));
    tpm.tool("tpm2_pcrextend", &[&format!("4:sha256={}", hex(&[7; 32]))]);
    assert_eq!(judge(&boot.logs, Digest([7; 32])), Err(Reason::QuoteMismatch), "extended, not logged");
    assert_eq!(PublicArea::parse(&public).unwrap().point, Some(key));
}

/// Head of a credential file of tpm2-tools; two TPM2Bs follow.
const CREDENTIAL_HEAD: [u8; 8] = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];

#[test]
fn tpm2_tools_take_our_credential_to_an_rsa_key_and_we_take_theirs() {
    if !is_installed("swtpm") || !is_installed("tpm2_activatecredential") {
        return;
    }
    let tpm = Shared::start("stranger-credentials");
    let mut root = tpm.root();
    root.boot().unwrap();
    let made = root.perform(RootRequest::Manufacture(super::contract::n_root())).unwrap();
    let RootReply::Described(description) = made else { panic!("{made:?}") };
    root.boot().unwrap();
    drop(root);

    // Ours, taken by them: a credential for a key of theirs, to the endorsement key that we made persistent.
    tpm.tool(
        "tpm2_createak",
        &[
            "-C",
            "0x81010001",
            "-c",
            "key.ctx",
            "-G",
            "ecc",
            "-g",
            "sha256",
            "-s",
            "ecdsa",
            "-n",
            "key.name",
            "-Q",
        ],
    );
    let secret: Key<ActivationSecret, 32> = Key::take(&mut [0x5a; 32]);
    let endorsement = tpm::endorsement_key(&description.ek_public).unwrap();
    let (seed, encrypted) = endorsement.share_secret(SecretLabel::Identity, &mut OsRng).unwrap();
    let name: [u8; 34] = tpm.read("key.name").try_into().unwrap();
    let blob = make_credential(&seed, &name, &secret);
    tpm.write("ours", &[&CREDENTIAL_HEAD[..], &blob, &encrypted].concat());
    tpm.tool("tpm2_startauthsession", &["--policy-session", "-S", "policy.ctx"]);
    tpm.tool("tpm2_policysecret", &["-S", "policy.ctx", "-c", "e", "-Q"]);
    tpm.tool(
        "tpm2_activatecredential",
        &["-c", "key.ctx", "-C", "0x81010001", "-i", "ours", "-o", "taken", "-P", "session:policy.ctx", "-Q"],
    );
    tpm.tool("tpm2_flushcontext", &["policy.ctx"]);
    assert_eq!(tpm.read("taken"), [0x5a; 32]);

    // Theirs, taken by us: bound to our identity key.
    tpm.tool("tpm2_readpublic", &["-c", "0x81010001", "-o", "endorsement.pub", "-Q"]);
    tpm.write("secret", &[0x77; 32]);
    let identity = tpm::name(&description.iak_public);
    let make =
        ["-u", "endorsement.pub", "-s", "secret", "-n", &hex(identity.as_bytes()), "-o", "theirs", "-Q"];
    tpm.tool("tpm2_makecredential", &make);
    let file = tpm.read("theirs");
    let body = file.strip_prefix(&CREDENTIAL_HEAD).unwrap();
    let size = usize::from(u16::from_be_bytes([body[0], body[1]])) + 2;
    let (credential, secret) = (body[..size].to_vec(), body[size..].to_vec());
    let mut root = tpm.root();
    root.boot().unwrap();
    let taken = root.perform(RootRequest::ActivateIdentity { credential, secret }).unwrap();
    let RootReply::Activated(taken) = taken else { panic!("{taken:?}") };
    assert!(bool::from(taken.ct_eq(&Key::take(&mut [0x77; 32]))));
    assert_eq!(root.loaded().unwrap(), (0, 0));
}

fn certificates(path: &Path) -> Vec<u8> {
    x509_cert::der::pem::decode_vec(&std::fs::read(path).unwrap()).unwrap().1
}

#[test]
fn a_certificate_that_swtpm_setup_left_in_the_tpm_is_found_and_believed() {
    if !is_installed("swtpm") || !is_installed("swtpm_setup") {
        return;
    }
    let dir = scratch("stranger-certificate");
    let (state, authority) = (dir.join("state"), dir.join("authority"));
    std::fs::create_dir_all(&state).unwrap();
    std::fs::create_dir_all(&authority).unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    write(
        "setup.conf",
        format!(
            "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
            at("localca.conf"),
            at("localca.options")
        ),
    );
    write(
        "localca.conf",
        format!(
            "statedir = {0}\nsigningkey = {0}/signkey.pem\nissuercert = {0}/issuercert.pem\ncertserial = {0}/certserial\n",
            authority.display()
        ),
    );
    write(
        "localca.options",
        "--platform-manufacturer Test\n--platform-version 1\n--platform-model M\n".into(),
    );
    let done = Command::new("swtpm_setup")
        .args(["--tpm2", "--create-ek-cert", "--tpmstate", &at("state"), "--config", &at("setup.conf")])
        .output()
        .unwrap();
    if !done.status.success() {
        eprintln!("swtpm_setup does not work here: {}", String::from_utf8_lossy(&done.stdout));
        let _ = std::fs::remove_dir_all(&dir);
        return;
    }
    let mut root = Tpm2Root::new(Swtpm::start(&state).unwrap(), Box::new(OsRng))
        .with_endorsement(EndorsementKind::Rsa2048);
    root.boot().unwrap();
    let made = root.perform(RootRequest::Manufacture(super::contract::n_root())).unwrap();
    let RootReply::Described(description) = made else { panic!("{made:?}") };
    assert!(!description.ek_certificate.is_empty());
    let endorsement = tpm::endorsement_key(&description.ek_public).unwrap();
    let mut issuers = Issuers::default();
    issuers.anchor(&certificates(&authority.join("swtpm-localca-rootca-cert.pem"))).unwrap();
    let chain = [description.ek_certificate];
    let now = gridseal_io::clock::utc_now();
    assert_eq!(issuers.judge(&endorsement, &chain, now), Err(Fault::NoPath));
    assert!(issuers.intermediate(&certificates(&authority.join("issuercert.pem"))));
    let assured = issuers.judge(&endorsement, &chain, now).unwrap();
    assert_eq!((assured.tpm.manufacturer.as_str(), assured.path.len()), ("id:00001014", 3));
    let mut other = issuers.clone();
    other.manufacturer("id:53544D20");
    assert_eq!(other.judge(&endorsement, &chain, now), Err(Fault::Manufacturer));
    root.transport_mut().power_cut();
    let _ = std::fs::remove_dir_all(&dir);
}
