//! Onboarding end to end: real processes, real TLS, durable storage, meters with software roots on the same cores.
//!
//! Prints onboardings per second, round trips and bytes of one, and the CPU of all server processes per onboarding
//! divided by the CPU of its public-key operations, measured in the same run. TLS handshakes count on both sides of the
//! ratio. `-- METERS CONCURRENCY` changes the size.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures and prints"
)]

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use gridseal_crypto::{
    AgreementKey, Key, Signer, SigningKey,
    role::{Ephemeral, ServiceTls},
    tpm::{SecretLabel, share_secret},
};
use gridseal_io::rng::OsRng;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gridseal");

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(name: &str, config: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args([name, "--config", config.to_str().unwrap(), "--with-parent"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        assert!(first.contains("listening") || first.contains("started"), "{name}: {first}");
        std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(drop));
        Self(child)
    }

    /// CPU of the process and its children, seconds.
    fn cpu_s(&self) -> f64 {
        cpu::seconds(self.0.id())
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn gridseal(arguments: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A fleet's directories and running servers.
struct Bench {
    dir: PathBuf,
    servers: Vec<(&'static str, Server)>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.servers.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bench {
    fn set_up(meters: u32) -> Self {
        let name: [u8; 6] = gridseal_crypto::random(&mut OsRng).unwrap();
        let dir = std::env::temp_dir().join(format!("gridseal-bench-{}", hex::encode(name)));
        std::fs::create_dir_all(&dir).unwrap();
        let mut bench = Self { dir, servers: Vec::new() };
        let (owner, factory) = (bench.path("owner"), bench.path("factory"));
        let [init, config, config_inner, keys, pki, headend, headend_inner] = [(); 7].map(|()| free_port());
        gridseal(&["ceremony", "owner", "--out", &owner, "--config-listen", &config.to_string()]);
        let made = [
            "factory",
            "make",
            "--vendor",
            "ACME",
            "--model",
            "GS-1",
            "--count",
            &meters.to_string(),
            "--anchor",
            "software",
            "--owner",
            &bench.path("owner/owner.toml"),
            "--init-listen",
            &init.to_string(),
            "--out",
            &factory,
            // What is measured is not how long devices wait after power came.
            "--backoff-ms",
            "100",
        ];
        gridseal(&made);
        let hosts = [init, config, config_inner, keys, pki, headend, headend_inner].map(|a| a.to_string());
        let [init, config, config_inner, keys, pki, headend, headend_inner] = &hosts;
        let owner_args = [
            "ceremony",
            "configure",
            "--out",
            &owner,
            "--factory",
            &factory,
            "--config-listen",
            config,
            "--config-listen-inner",
            config_inner,
            "--keys-listen",
            keys,
            "--pki-listen",
            pki,
            "--headend-listen",
            headend,
            "--headend-listen-inner",
            headend_inner,
            "--init-server",
            init,
            "--danger-accept-software-roots",
        ];
        gridseal(&owner_args);
        // All meters of a bench come from one address.
        for config in ["factory/init-server/config.toml", "owner/config-server/config.toml"] {
            let text = std::fs::read_to_string(bench.path(config)).unwrap();
            let unlimited = text.replace("source_per_hour = 72000", "source_per_hour = 4000000000");
            std::fs::write(bench.path(config), unlimited).unwrap();
        }
        bench.start("init-server", "factory/init-server");
        for name in ["pki", "keys", "config-server", "headend"] {
            bench.start(name, &format!("owner/{name}"));
        }
        let manager = bench.path("owner/endpoint-manager/config.toml");
        gridseal(&["device", "register", "--config", &manager, &bench.path("factory/shipment.cbor")]);
        bench.start("endpoint-manager", "owner/endpoint-manager");
        bench
    }

    fn path(&self, path: &str) -> String {
        self.dir.join(path).to_str().unwrap().to_owned()
    }

    fn start(&mut self, name: &'static str, dir: &str) {
        let server = Server::start(name, &self.dir.join(dir).join("config.toml"));
        self.servers.push((name, server));
    }

    fn wait_for_redirects(&self, meters: u32) {
        let until = Instant::now() + std::time::Duration::from_secs(120);
        loop {
            let pending = gridseal(&[
                "device",
                "show",
                "--json",
                "--config",
                &self.path("owner/endpoint-manager/config.toml"),
            ]);
            let told = pending.lines().filter(|line| line.contains("\"redirect_registered\":true")).count();
            if told == meters as usize {
                return;
            }
            assert!(Instant::now() < until, "{told} of {meters} redirects registered");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}

/// CPU of the calling thread, seconds.
fn thread_cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn cost_of(count: u32, mut operation: impl FnMut()) -> f64 {
    let before = thread_cpu_s();
    (0..count).for_each(|_| operation());
    (thread_cpu_s() - before) / f64::from(count)
}

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/handshake.rs"]
mod handshake;

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u32>().ok());
    let (meters, concurrency) = (numbers.next().unwrap_or(600), numbers.next().unwrap_or(32));
    let bench = Bench::set_up(meters);
    bench.wait_for_redirects(meters);

    let before: Vec<f64> = bench.servers.iter().map(|(_, server)| server.cpu_s()).collect();
    let report = gridseal(&[
        "meter",
        "fleet",
        "--dir",
        &bench.path("factory"),
        "--concurrency",
        &concurrency.to_string(),
    ]);
    let used: Vec<f64> =
        bench.servers.iter().zip(before).map(|((_, server), before)| server.cpu_s() - before).collect();
    let report: serde_json::Value = serde_json::from_str(report.lines().last().unwrap()).unwrap();
    let onboarded = report["onboarded"].as_u64().unwrap();
    assert_eq!(
        (onboarded, report["failed"].as_u64()),
        (u64::from(meters), Some(0)),
        "every meter is onboarded"
    );

    // The raw price of what one onboarding needs of the servers.
    let signing = SigningKey::<ServiceTls>::new(&Key::generate_scalar(&mut OsRng).unwrap()).unwrap();
    let signature = signing.sign(b"message").unwrap();
    let public = signing.public();
    let peer =
        AgreementKey::new(&Key::<Ephemeral, 32>::generate_scalar(&mut OsRng).unwrap()).unwrap().public();
    let sign = cost_of(2_000, || assert!(signing.sign(b"message").is_ok()));
    let verify = cost_of(2_000, || assert!(public.verifies(b"message", &signature)));
    let agree = cost_of(2_000, || drop(share_secret(SecretLabel::Identity, &peer, &mut OsRng)));
    let tls = handshake::measure();

    let per = f64::from(meters);
    println!("onboarding, {meters} meters with software roots, {concurrency} at a time, all on this machine");
    println!("  onboardings per second      {:8.1}", per / report["seconds"].as_f64().unwrap());
    println!("  round trips each            {:8.1}", report["round_trips_each"].as_f64().unwrap());
    println!("  bytes of messages each      {:8.0}", report["bytes_each"].as_f64().unwrap());
    println!("  CPU of the meters each      {:8.0} us", report["cpu_s"].as_f64().unwrap() / per * 1e6);
    println!("server CPU per onboarding, microseconds");
    for ((name, _), used) in bench.servers.iter().zip(&used) {
        println!("  {name:<27} {:8.0}", used / per * 1e6);
    }
    let total = used.iter().sum::<f64>() / per;
    println!("  sum                         {:8.0}", total * 1e6);
    // I2, C2, C4, C6, C8, certificate; three attests, quote, request at two places; credential, two salts, objects.
    let (signs, verifies, agreements) = (6.0, 6.0, 4.0);
    let operations = signs * sign + verifies * verify + agreements * agree;
    let handshakes = 2.0 * tls.server + tls.mutual;
    println!("public-key operations of the same, microseconds");
    println!("  {signs} signatures                {:8.0}  ({:.1} each)", signs * sign * 1e6, sign * 1e6);
    println!(
        "  {verifies} verifications             {:8.0}  ({:.1} each)",
        verifies * verify * 1e6,
        verify * 1e6
    );
    println!(
        "  {agreements} key pairs with agreement  {:8.0}  ({:.1} each)",
        agreements * agree * 1e6,
        agree * 1e6
    );
    println!(
        "  3 TLS handshakes, server side{:7.0}  ({:.1} without, {:.1} with client certificate)",
        handshakes * 1e6,
        tls.server * 1e6,
        tls.mutual * 1e6
    );
    println!("  sum                         {:8.0}", (operations + handshakes) * 1e6);
    println!(
        "ratio                         {:8.2}  (target: at most 1.5)",
        total / (operations + handshakes)
    );
}
