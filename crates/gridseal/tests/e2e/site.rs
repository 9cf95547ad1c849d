//! A whole installation at one loopback address: set up with the public subcommands, every process started here, its
//! events read as they come. Processes end with their site, in whatever way a test ends.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::machine::{GRIDSEAL, Scratch, children_of, eventually, gridseal_ok, is_alive, signal, unique};

/// How long a process may take to start.
pub(crate) const START_WITHIN: Duration = Duration::from_secs(30);

/// The owner's and the manufacturer's processes in the order of their start.
pub(crate) const SERVERS: [&str; 6] =
    ["init-server", "pki", "keys", "config-server", "headend", "endpoint-manager"];

/// One event that a process told. An end of output is the event `ended`.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) process: String,
    pub(crate) event: String,
    pub(crate) json: Value,
    /// Process id of who told it.
    pub(crate) id: u32,
    pub(crate) at: Instant,
}

impl Told {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    /// Whether a process of this name told this event.
    pub(crate) fn is(&self, process: &str, event: &str) -> bool {
        self.process == process && self.event == event
    }
}

/// What to set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) meters: usize,
    pub(crate) anchor: &'static str,
    /// Endorsement keys of TPMs.
    pub(crate) endorsement: &'static str,
    /// Let config server and init server tell every message in hex.
    pub(crate) log_frames: bool,
    /// Let the key service write down its keys.
    pub(crate) inventory: bool,
    /// Address of the field side; a loopback address of its own when absent.
    pub(crate) field: Option<Ipv4Addr>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            meters: 1,
            anchor: "software",
            endorsement: "p256",
            log_frames: false,
            inventory: false,
            field: None,
        }
    }
}

/// Where the processes listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) init: SocketAddr,
    pub(crate) config: SocketAddr,
    pub(crate) config_inner: SocketAddr,
    pub(crate) keys: SocketAddr,
    pub(crate) pki: SocketAddr,
    pub(crate) headend: SocketAddr,
    pub(crate) headend_inner: SocketAddr,
}

impl Addresses {
    /// Ports that the system chooses, at addresses that nobody else on this machine uses: a port stays free while its
    /// process is dead, because outgoing connections of others come from 127.0.0.1.
    fn choose(field: Option<Ipv4Addr>) -> Self {
        let id = std::process::id() ^ (unique() << 16);
        let [_, a, b, c] = id.to_be_bytes();
        let inner = Ipv4Addr::new(127, 64 | (a & 63), b, c.clamp(1, 254));
        let field = field.unwrap_or(inner);
        // All held at once, so that all differ.
        let held: Vec<TcpListener> = [field, field, inner, inner, inner, field, inner]
            .iter()
            .map(|address| TcpListener::bind((*address, 0)).unwrap())
            .collect();
        let at = |number: usize| held[number].local_addr().unwrap();
        Self {
            init: at(0),
            config: at(1),
            config_inner: at(2),
            keys: at(3),
            pki: at(4),
            headend: at(5),
            headend_inner: at(6),
        }
    }
}

/// A running process of ours.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) scratch: Scratch,
    pub(crate) addresses: Addresses,
    /// Serial numbers.
    pub(crate) meters: Vec<String>,
    pub(crate) log: Vec<Told>,
    /// What processes that start from now on find in their environment besides ours.
    pub(crate) environment: Vec<(&'static str, std::ffi::OsString)>,
    running: BTreeMap<String, Running>,
    lines: Receiver<Told>,
    sender: Sender<Told>,
    /// Whether the memory of its processes is to be searched.
    searched: bool,
}

impl Site {
    /// Sets up everything, starts the servers and registers the meters; no meter is switched on.
    pub(crate) fn new(what: &str, plan: Plan) -> Self {
        let mut site = Self::shipped(what, plan);
        site.register_shipment();
        site.start("endpoint-manager");
        site.await_ready("endpoint-manager");
        site
    }

    /// The same before the meters are registered, without an endpoint manager.
    pub(crate) fn shipped(what: &str, plan: Plan) -> Self {
        let (sender, lines) = channel();
        let mut site = Self {
            scratch: Scratch::new(what),
            addresses: Addresses::choose(plan.field),
            meters: Vec::new(),
            log: Vec::new(),
            environment: Vec::new(),
            running: BTreeMap::new(),
            lines,
            sender,
            searched: plan.inventory,
        };
        site.set_up(plan);
        for name in ["init-server", "pki", "keys", "config-server", "headend"] {
            site.start(name);
        }
        for name in ["init-server", "pki", "keys", "config-server", "headend"] {
            site.await_ready(name);
        }
        site
    }

    /// The endpoint manager, started anew, asks meters to come back at once.
    pub(crate) fn hurry(&mut self) {
        let path = self.owner("endpoint-manager/config.toml");
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, old.replace("poll_s = 900", "poll_s = 1")).unwrap();
        self.kill("endpoint-manager");
        self.start("endpoint-manager");
        self.await_ready("endpoint-manager");
    }

    /// Enters the meters in the owner's register.
    pub(crate) fn register_shipment(&self) {
        let (manager, shipment) = (self.owner("endpoint-manager/config.toml"), self.factory("shipment.cbor"));
        gridseal_ok(&[
            "device".as_ref(),
            "register".as_ref(),
            "--config".as_ref(),
            manager.as_os_str(),
            shipment.as_os_str(),
        ]);
    }

    pub(crate) fn owner(&self, path: &str) -> PathBuf {
        self.scratch.path().join("owner").join(path)
    }

    pub(crate) fn factory(&self, path: &str) -> PathBuf {
        self.scratch.path().join("factory").join(path)
    }

    fn set_up(&mut self, plan: Plan) {
        let Addresses { init, config, config_inner, keys, pki, headend, headend_inner } = self.addresses;
        let (owner, factory) = (text(&self.owner("")), text(&self.factory("")));
        gridseal_ok(&["ceremony", "owner", "--out", &owner, "--config-listen", &config.to_string()]);
        let (count, owner_file) = (plan.meters.to_string(), text(&self.owner("owner.toml")));
        gridseal_ok(&[
            &["factory", "make", "--vendor", "ACME", "--model", "GS-1", "--count", &count, "--anchor"][..],
            &[plan.anchor, "--owner", &owner_file, "--init-listen", &init.to_string(), "--out", &factory],
            &["--interval-s", "1", "--endorsement", plan.endorsement],
        ]
        .concat());
        let test_mode: &[&str] =
            if plan.anchor == "software" { &["--danger-accept-software-roots"] } else { &[] };
        gridseal_ok(
            &[
                &["ceremony", "configure", "--out", &owner, "--factory", &factory, "--interval-s", "1"][..],
                &["--config-listen", &config.to_string(), "--config-listen-inner", &config_inner.to_string()],
                &["--keys-listen", &keys.to_string(), "--pki-listen", &pki.to_string()],
                &["--headend-listen", &headend.to_string(), "--headend-listen-inner"],
                &[&headend_inner.to_string(), "--init-server", &init.to_string()],
                test_mode,
            ]
            .concat(),
        );
        for entry in std::fs::read_dir(self.factory("")).unwrap() {
            let dir = entry.unwrap().path();
            if dir.join("firmware.toml").is_file() {
                // Meters of a test come back at once: their back-off is in the firmware.
                set(&dir.join("firmware.toml"), "backoff_ms", "100");
                set(&dir.join("firmware.toml"), "simulated_w", "9000");
                self.meters.push(dir.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        self.meters.sort();
        assert_eq!(self.meters.len(), plan.meters);
        // Key changes go as fast as they can.
        set(&self.owner("headend/config.toml"), "key_change_pace_ms", "100");
        if plan.log_frames {
            set(&self.owner("config-server/config.toml"), "log_frames", "true");
            set(&self.factory("init-server/config.toml"), "log_frames", "true");
        }
        if plan.inventory {
            set(&self.owner("keys/config.toml"), "danger_inventory", "\"inventory.json\"");
        }
    }

    /// Starts a server by its name, one of a second owner, `buyer NAME`, or a meter: `meter SERIAL`.
    pub(crate) fn start(&mut self, name: &str) {
        self.start_with(name, &[]);
    }

    /// The same, with more arguments.
    pub(crate) fn start_with(&mut self, name: &str, more: &[&str]) {
        let mut arguments: Vec<String> = Vec::new();
        if let Some(serial) = name.strip_prefix("meter ") {
            arguments.extend(["meter".into(), "run".into(), "--dir".into(), text(&self.factory(serial))]);
        } else if let Some(name) = name.strip_prefix("buyer ") {
            let dir = self.scratch.path().join("buyer").join(name);
            arguments.extend([name.into(), "--config".into(), text(&dir.join("config.toml"))]);
        } else {
            let dir = if name == "init-server" { self.factory(name) } else { self.owner(name) };
            arguments.extend([name.into(), "--config".into(), text(&dir.join("config.toml"))]);
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let errors = self.errors_of(name);
        let mut child = Command::new(GRIDSEAL)
            .args(&arguments)
            // Should this test be killed, its end of the pipe closes and the process ends too.
            .arg("--with-parent")
            .env("GRIDSEAL_DANGER_CLOCK", self.clock_of(name))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // A site with an inventory is one whose memory is searched, maybe by a user who is not root.
            .args(self.searched.then_some("--danger-dumpable"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(errors).unwrap())
            .spawn()
            .unwrap();
        let (id, output) = (child.id(), child.stdout.take().unwrap());
        let (process, lines) = (name.to_owned(), self.sender.clone());
        std::thread::spawn(move || {
            let tell = |event: String, json: Value| {
                lines.send(Told { process: process.clone(), event, json, id, at: Instant::now() }).is_ok()
            };
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(json) = serde_json::from_str::<Value>(&line) else { continue };
                if !tell(json["event"].as_str().unwrap_or_default().to_owned(), json) {
                    return;
                }
            }
            tell("ended".into(), Value::Null);
        });
        let before = self.running.insert(name.to_owned(), Running(child));
        assert!(before.is_none(), "{name} runs already");
    }

    /// Waits until a server listens (or, as the endpoint manager does not, has started).
    pub(crate) fn await_ready(&mut self, name: &str) {
        let id = self.id(name);
        let sides: &[&str] = match name.strip_prefix("buyer ").unwrap_or(name) {
            "config-server" | "headend" => &["field", "inner"],
            "init-server" => &["field"],
            "endpoint-manager" => &[],
            _ => &["inner"],
        };
        let is_ready = |log: &[Told]| {
            let of = |told: &&Told| told.id == id;
            let listens = |side: &&str| {
                log.iter().filter(of).any(|told| told.event == "listening" && told.field("side") == *side)
            };
            if sides.is_empty() {
                log.iter().filter(of).any(|told| told.event == "started")
            } else {
                sides.iter().all(listens)
            }
        };
        let until = Instant::now() + START_WITHIN;
        while !is_ready(&self.log) {
            let told =
                self.next(until).unwrap_or_else(|| panic!("{name} does not start: {}", self.report(40)));
            assert!(told.id != id || told.event != "ended", "{name} ended: {}", self.report(40));
        }
    }

    /// Process id of a running process.
    pub(crate) fn id(&self, name: &str) -> u32 {
        self.running.get(name).unwrap_or_else(|| panic!("{name} does not run")).0.id()
    }

    /// Process id of the key service's core.
    pub(crate) fn core_id(&self) -> u32 {
        let children = children_of(self.id("keys"));
        *children.first().expect("keys has a core")
    }

    /// kill -9, and nothing is left of the process or of what it had started. `keys-core` may be named too: its parent
    /// ends with it.
    pub(crate) fn kill(&mut self, name: &str) {
        if name == "keys-core" {
            signal("KILL", &self.core_id().to_string());
            let until = Instant::now() + Duration::from_secs(10);
            let id = self.id("keys");
            while !self.log.iter().any(|told| told.id == id && told.event == "ended") {
                self.next(until).expect("keys ends with its core");
            }
            self.running.remove("keys");
            return;
        }
        let mut running = self.running.remove(name).unwrap_or_else(|| panic!("{name} does not run"));
        let started = children_of(running.0.id());
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        // Core and TPM emulator end by themselves when their parent is gone.
        let all_ended = eventually(Duration::from_secs(10), || !started.iter().any(|id| is_alive(*id)));
        assert!(all_ended, "{name} was killed, what it had started lives on");
    }

    /// Forgets a process that has ended by itself; its exit status.
    pub(crate) fn reap(&mut self, name: &str) -> std::process::ExitStatus {
        let mut ended = self.running.remove(name).unwrap_or_else(|| panic!("{name} does not run"));
        ended.0.wait().unwrap()
    }

    /// What a process has written to its standard error since it first started.
    pub(crate) fn errors(&self, name: &str) -> String {
        std::fs::read_to_string(self.errors_of(name)).unwrap_or_default()
    }

    /// Makes the calendar clock of a process wrong by so many seconds, from now on and when it starts anew.
    pub(crate) fn shift_clock(&self, name: &str, seconds: i64) {
        let path = self.clock_of(name);
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, seconds.to_string()).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn clock_of(&self, name: &str) -> PathBuf {
        self.scratch.path().join(format!("{}.clock", name.replace(' ', "-")))
    }

    fn errors_of(&self, name: &str) -> PathBuf {
        self.scratch.path().join(format!("{}.err", name.replace(' ', "-")))
    }

    pub(crate) fn is_running(&mut self, name: &str) -> bool {
        self.running.get_mut(name).is_some_and(|running| matches!(running.0.try_wait(), Ok(None)))
    }

    /// The next event, until a point in time.
    pub(crate) fn next(&mut self, until: Instant) -> Option<Told> {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(told) => {
                self.log.push(told.clone());
                Some(told)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is kept here"),
        }
    }

    /// Takes what has been told meanwhile.
    pub(crate) fn settle(&mut self) {
        while self.next(Instant::now()).is_some() {}
    }

    /// Waits for an event that is told from now on.
    pub(crate) fn wait(&mut self, within: Duration, is_it: impl Fn(&Told) -> bool) -> Option<Told> {
        let until = Instant::now() + within;
        loop {
            let told = self.next(until)?;
            if is_it(&told) {
                return Some(told);
            }
        }
    }

    /// As [`Site::wait`], for what must come.
    #[track_caller]
    pub(crate) fn expect(&mut self, what: &str, is_it: impl Fn(&Told) -> bool) -> Told {
        match self.wait(START_WITHIN, is_it) {
            Some(told) => told,
            None => panic!("{what} never came: {}", self.report(60)),
        }
    }

    /// Switches a meter on and waits until its owner's database has its first reading.
    pub(crate) fn onboard(&mut self, serial: &str) {
        let name = format!("meter {serial}");
        self.start(&name);
        self.expect("a confirmed reading", |told| told.is(&name, "confirmed"));
    }

    /// The last events and errors, for the reader of a failure.
    pub(crate) fn report(&self, count: usize) -> String {
        let mut text = String::new();
        let from = self.log.len().saturating_sub(count);
        let began = self.log.get(from).map(|told| told.at);
        for told in &self.log[from..] {
            let after = began.map_or(0.0, |began| told.at.duration_since(began).as_secs_f64());
            let json: String = told.json.to_string().chars().take(200).collect();
            text += &format!("\n  {after:7.3} {:<22} {json}", format!("{} {}", told.process, told.event));
        }
        for entry in std::fs::read_dir(self.scratch.path()).unwrap().filter_map(Result::ok) {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "err") {
                let errors = std::fs::read_to_string(&path).unwrap_or_default();
                if !errors.trim().is_empty() {
                    text +=
                        &format!("\n  {}: {}", path.file_name().unwrap().to_string_lossy(), errors.trim());
                }
            }
        }
        text
    }

    /// The register's row of each device, by serial number.
    pub(crate) fn register(&self) -> BTreeMap<String, Value> {
        let config = text(&self.owner("endpoint-manager/config.toml"));
        let rows = gridseal_ok(&["device", "show", "--json", "--config", &config]);
        let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| (row["serial"].as_str().unwrap().to_owned(), row)).collect()
    }

    /// Stored readings.
    pub(crate) fn readings(&self) -> Vec<Value> {
        let dir = text(&self.owner("headend"));
        let rows = gridseal_ok(&["readings", "--json", "--limit", "1000000", "--dir", &dir]);
        rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The audit chains of all logs are whole.
    pub(crate) fn assert_audit(&self) {
        let logs = [self.owner("keys/keys.db"), self.owner("endpoint-manager/register.db")];
        for log in logs.into_iter().chain([self.factory("init-server/init.db")]) {
            gridseal_ok(&["audit", "--db", &text(&log)]);
        }
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Sets a value in a configuration file, at its place or in front of the first table.
pub(crate) fn set(path: &Path, name: &str, value: &str) {
    let old = std::fs::read_to_string(path).unwrap();
    let is_it = |line: &&str| line.split('=').next().is_some_and(|word| word.trim() == name);
    let rest: Vec<&str> = old.lines().filter(|line| !is_it(line)).collect();
    std::fs::write(path, format!("{name} = {value}\n{}\n", rest.join("\n"))).unwrap();
}
