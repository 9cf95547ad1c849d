//! Who can reach whom (design section 2; the boundary test at the end of onboarding section 9).

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use crate::{
    machine::{processes_of, unique},
    site::{Plan, SERVERS, Site},
};

/// What a process holds of the network.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sockets {
    /// Addresses on which it accepts connections.
    listening: BTreeSet<SocketAddr>,
    /// All sockets, of whatever kind.
    count: usize,
    /// Sockets of the internet families: TCP, UDP, raw.
    internet: usize,
}

/// Address of a line in /proc/net/tcp: hexadecimal, little-endian on this machine.
fn address(text: &str) -> SocketAddr {
    let (host, port) = text.split_once(':').unwrap();
    let host = u32::from_str_radix(host, 16).unwrap().to_ne_bytes();
    (Ipv4Addr::from(host), u16::from_str_radix(port, 16).unwrap()).into()
}

fn sockets(process: u32) -> Sockets {
    let links = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().filter_map(Result::ok);
    let links = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let mut sockets = Sockets { count: inodes.len(), ..Sockets::default() };
    for family in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        let table = std::fs::read_to_string(format!("/proc/{process}/net/{family}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            // Number, local, remote, state, queues, timer, retransmits, user, timeout, inode.
            let fields: Vec<&str> = line.split_whitespace().collect();
            if !fields.get(9).is_some_and(|inode| inodes.contains(*inode)) {
                continue;
            }
            sockets.internet += 1;
            // TCP_LISTEN; a bound UDP or raw socket would accept too and is none of ours.
            if family == "tcp" && fields[3] == "0A" {
                sockets.listening.insert(address(fields[1]));
            } else {
                assert_eq!(family, "tcp", "{process} holds a socket of family {family}: {line}");
            }
        }
    }
    sockets
}

#[test]
fn design_2_each_process_listens_where_it_must_and_nowhere_else() {
    let mut site = Site::new("sockets", Plan::default());
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    let at = site.addresses;
    let listens = |name: &str| match name {
        "init-server" => BTreeSet::from([at.init]),
        "config-server" => BTreeSet::from([at.config, at.config_inner]),
        "keys" => BTreeSet::from([at.keys]),
        "pki" => BTreeSet::from([at.pki]),
        "headend" => BTreeSet::from([at.headend, at.headend_inner]),
        // The endpoint manager and meters dial out only.
        _ => BTreeSet::new(),
    };
    for name in SERVERS {
        assert_eq!(sockets(site.id(name)).listening, listens(name), "{name}");
    }
    assert!(sockets(site.id("endpoint-manager")).internet > 0, "its outgoing links are seen");
    let meter = sockets(site.id(&format!("meter {serial}")));
    assert_eq!((meter.listening.len(), meter.internet > 0), (0, true));
    // Whoever holds a key leaves no core file, and what it starts gets no more rights.
    for name in SERVERS.iter().map(|name| (*name).to_owned()).chain([format!("meter {serial}")]) {
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", site.id(&name))).unwrap();
        assert!(read("status").contains("NoNewPrivs:\t1"), "{name}");
        let limits = read("limits");
        let core_files = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert!(core_files.split_whitespace().skip(4).take(2).eq(["0", "0"]), "{name}: {core_files}");
    }
    // The core speaks through its pipes: no network, no other socket, and nothing inherited.
    assert_eq!(sockets(site.core_id()), Sockets::default(), "keys-core");
    // It gave up what it does not need before its first key was opened: dumps, new privileges, most system calls.
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.core_id())).unwrap();
    for given_up in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t2"] {
        assert!(status.contains(given_up), "{given_up} missing in {status}");
    }
    // No process leaves its memory in a core file: the limit that it cannot raise again is zero.
    let meter = format!("meter {serial}");
    let processes = SERVERS.iter().copied().chain([meter.as_str()]).map(|name| (name, site.id(name)));
    for (name, id) in processes.chain([("keys-core", site.core_id())]) {
        let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
        let core_files = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let words: Vec<&str> = core_files.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{name}: {core_files}");
    }
}

#[test]
fn design_2_without_the_config_server_nothing_leads_inside() {
    let mut site = Site::new("inbound", Plan::default());
    let manager = site.id("endpoint-manager");
    site.kill("config-server");
    // Two rounds of its attempts: it goes on asking, and offers nothing.
    for _ in 0..2 {
        site.expect("an attempt", |told| told.is("endpoint-manager", "config-server-unreachable"));
        assert_eq!(sockets(manager).listening, BTreeSet::new());
    }
    assert!(site.is_running("endpoint-manager"));
    site.start("config-server");
    site.await_ready("config-server");
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    assert_eq!(site.id("endpoint-manager"), manager);
}

/// A network namespace that stands for the internet, joined to this one by a pair of virtual interfaces.
struct Internet {
    namespace: String,
    /// Our end: the field side's address.
    field: Ipv4Addr,
}

impl Internet {
    /// The namespace, or why there is none.
    fn new() -> Result<Self, String> {
        let number = (std::process::id() ^ (unique() << 8)) & 0xfff;
        let namespace = format!("gs-e2e-{number}");
        let [ours, theirs] = ["a", "b"].map(|end| format!("gs{number}{end}"));
        // A network of four addresses out of those that are set aside for tests of devices.
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (number << 2);
        let (field, far) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        ip(&["netns", "add", &namespace])?;
        let internet = Self { namespace, field };
        let namespace = internet.namespace.as_str();
        ip(&["link", "add", &ours, "type", "veth", "peer", "name", &theirs, "netns", namespace])?;
        ip(&["addr", "add", &format!("{field}/30"), "dev", &ours])?;
        ip(&["link", "set", &ours, "up"])?;
        ip(&["-n", namespace, "addr", "add", &format!("{far}/30"), "dev", &theirs])?;
        ip(&["-n", namespace, "link", "set", &theirs, "up"])?;
        ip(&["-n", namespace, "route", "add", "default", "via", &field.to_string()])?;
        Ok(internet)
    }

    /// Whether a connection from there is taken.
    fn reaches(&self, to: SocketAddr) -> bool {
        let script = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
        let output = Command::new("ip")
            .args(["netns", "exec", &self.namespace, "timeout", "2", "bash", "-c", &script])
            .output()
            .unwrap();
        output.status.success()
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        // The pair of interfaces goes with the namespace.
        let _ = ip(&["netns", "delete", &self.namespace]);
    }
}

fn ip(arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

#[test]
fn design_2_from_outside_only_init_server_config_server_and_headend_answer() {
    let internet = match Internet::new() {
        Ok(internet) => internet,
        Err(why) => {
            // What each process holds is checked in any case: `each_process_listens_where_it_must`.
            println!("NOT PROVEN from another network: no namespace here ({why})");
            return;
        }
    };
    let mut site = Site::new("outside", Plan { field: Some(internet.field), ..Plan::default() });
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    let at = site.addresses;
    for (name, address) in [("init-server", at.init), ("config-server", at.config), ("headend", at.headend)] {
        assert!(internet.reaches(address), "{name} is for the internet, at {address}");
    }
    let inner = [
        ("config-server, inner side", at.config_inner),
        ("keys", at.keys),
        ("pki", at.pki),
        ("headend, inner side", at.headend_inner),
    ];
    for (name, address) in inner {
        assert!(!internet.reaches(address), "{name} answers the internet at {address}");
        // Nor at the address that the internet knows, under the same port.
        let known = SocketAddr::new(internet.field.into(), address.port());
        assert!(!internet.reaches(known), "{name} answers the internet at {known}");
    }
    // No port of the field address beyond the three: whatever any process of the installation listens on.
    let listening: BTreeSet<SocketAddr> =
        processes_of(site.scratch.path()).into_iter().flat_map(|(id, _)| sockets(id).listening).collect();
    let outside: BTreeSet<_> = listening.into_iter().filter(|address| internet.reaches(*address)).collect();
    assert_eq!(outside, BTreeSet::from([at.init, at.config, at.headend]));

    // With the config server gone, two are left, and no way to the endpoint manager.
    site.kill("config-server");
    assert!(!internet.reaches(at.config));
    assert!(site.wait(Duration::from_secs(10), |told| told.event == "config-server-unreachable").is_some());
    assert!(Path::new(&format!("/proc/{}", site.id("endpoint-manager"))).exists());
    assert_eq!(sockets(site.id("endpoint-manager")).listening, BTreeSet::new());
}
