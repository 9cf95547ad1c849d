//! A real PostgreSQL server for tests: started by them, and gone with their process however it ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use gridseal_store::{PostgresRecords, PostgresSettings};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Runs a server until its input ends, then stops it and removes its folder. The server also ends with this shell.
const SUPERVISE: &str = r#"
    exec 3<&0
    "$@" </dev/null & server=$!
    cat <&3 >/dev/null
    kill -QUIT "$server" 2>/dev/null
    wait "$server"
    rm -rf "$0"
"#;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    supervisor: Child,
    lines: Mutex<Receiver<String>>,
}

impl Server {
    /// A server of its own for one test.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = new_folder();
        let data = folder.join("data");
        // Flushing what is thrown away anyhow would only take time; the server itself does flush.
        run(user(&program("initdb"))
            .args(["--auth=trust", "--username=gridseal", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data));
        Self::launch(folder, settings)
    }

    /// A server that speaks TLS on a port of the loopback; its certificate, issued by `folder/ca.pem`, is for `db.example`.
    pub(crate) fn start_with_tls(folder: &Path) -> (Self, u16) {
        let openssl = |line: &str| {
            run(Command::new("openssl").args(line.split_whitespace()).current_dir(folder));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"));
        openssl(&format!("req {key} -keyout db.key -out db.csr -subj /CN=db"));
        fs::write(folder.join("names"), "subjectAltName=DNS:db.example\nbasicConstraints=CA:FALSE\n")
            .unwrap();
        openssl(
            "x509 -req -in db.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out db.pem",
        );
        // The server insists that its key is its own, and may not reach this folder.
        let own = new_folder();
        for name in ["db.key", "db.pem"] {
            fs::copy(folder.join(name), own.join(name)).unwrap();
            fs::set_permissions(own.join(name), fs::Permissions::from_mode(0o600)).unwrap();
            give_to_server(&own.join(name));
        }
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let setting = |name: &str, value: String| format!("{name}={value}");
        let own_path = |name: &str| own.join(name).display().to_string();
        let settings = [
            setting("listen_addresses", "127.0.0.1".into()),
            setting("port", port.to_string()),
            setting("ssl", "on".into()),
            setting("ssl_cert_file", own_path("db.pem")),
            setting("ssl_key_file", own_path("db.key")),
        ];
        let server = Self::start(&settings.each_ref().map(String::as_str));
        fs::remove_dir_all(&own).unwrap();
        (server, port)
    }

    /// A standby that follows this server.
    pub(crate) fn standby(&self) -> Self {
        let folder = new_folder();
        run(user(&program("pg_basebackup"))
            .args([
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                "--wal-method=stream",
                "--host",
            ])
            .arg(&self.folder)
            .args(["--username=gridseal", "--pgdata"])
            .arg(folder.join("data")));
        Self::launch(folder, &[])
    }

    fn launch(folder: PathBuf, settings: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISE]).arg(&folder);
        command.args(["setpriv", "--pdeathsig", "QUIT", "--"]).args(as_user());
        command.arg(program("postgres")).arg("-D").arg(folder.join("data")).arg("-k").arg(&folder);
        // No port is taken: the socket lies in the folder.
        for setting in
            ["listen_addresses=", "shared_buffers=16MB", "max_connections=20"].iter().chain(settings)
        {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut supervisor = command.spawn().unwrap();
        let errors = BufReader::new(supervisor.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let server = Self { folder, supervisor, lines: Mutex::new(lines) };
        server.wait_for("database system is ready to accept");
        server
    }

    /// Waits until the server logs a line with these words.
    pub(crate) fn wait_for(&self, words: &str) {
        let mut log = Vec::new();
        loop {
            match self.lines.lock().unwrap().recv_timeout(START_TIMEOUT) {
                Ok(line) if line.contains(words) => return,
                Ok(line) => log.push(line),
                Err(error) => panic!("`{words}` not seen: {error}\n{}", log.join("\n")),
            }
        }
    }

    /// As libpq takes it.
    pub(crate) fn connection(&self) -> String {
        format!("host={} user=gridseal dbname=postgres", self.folder.display())
    }

    pub(crate) fn settings(&self, schema: &str) -> PostgresSettings {
        PostgresSettings::new(&self.connection(), schema)
    }

    /// Records in a schema of their own.
    pub(crate) fn records(&self, schema: &str) -> PostgresRecords {
        PostgresRecords::connect(self.settings(schema)).unwrap()
    }

    /// Runs statements, and returns what they print.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let output = Command::new(program("psql"))
            .args([
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                "--set=ON_ERROR_STOP=1",
                "--username=gridseal",
            ])
            .arg("--host")
            .arg(&self.folder)
            .args(["--dbname=postgres", "--command", statements])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until a query says yes.
    pub(crate) fn wait_until(&self, query: &str) {
        let deadline = format!(
            "DO $$ BEGIN FOR step IN 1..600 LOOP
                 IF ({query}) THEN RETURN; END IF;
                 PERFORM pg_sleep(0.05), pg_stat_clear_snapshot();
             END LOOP; RAISE EXCEPTION 'in vain'; END $$"
        );
        self.sql(&deadline);
    }

    /// Folder of the server's socket.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// The server that the tests of this process share; it ends with the process.
pub(crate) fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&[]))
}

/// Sends a signal to a process that a test started.
pub(crate) fn signal(name: &str, process_id: &str) {
    run(Command::new("kill").args(["-s", name, process_id]));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether there is a server to start; the tests need one, a bench goes on without.
#[allow(dead_code, reason = "the bench asks")]
pub(crate) fn is_installed() -> bool {
    Command::new(program("initdb")).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The newest installation, or what the search path has.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, folder)| folder.join("bin/postgres").is_file())
        .collect();
    versions.sort();
    let installed = versions.pop().map(|(_, folder)| folder.join("bin").join(name));
    installed.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
}

/// The server refuses to run as root: then somebody else has to.
fn as_user() -> Vec<String> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return vec!["env".into()];
    }
    let (user, group) = server_user();
    ["setpriv", "--pdeathsig", "QUIT", "--clear-groups", "--reuid"]
        .map(str::to_owned)
        .into_iter()
        .chain([user.to_string(), "--regid".into(), group.to_string(), "--".into()])
        .collect()
}

/// User and group from the system's list: the server's own, or nobody.
fn server_user() -> (u32, u32) {
    let list = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = list.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map_while(|field| field.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    find("postgres").or_else(|| find("nobody")).unwrap()
}

fn user(program: &Path) -> Command {
    let words = as_user();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(program).current_dir("/").env("LC_ALL", "C");
    command
}

/// A folder of the server's user, at a short path: the name of a socket has at most 107 bytes.
fn new_folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    const NAME: &str = "gridseal-pg-";
    // What a test left that was killed before its server ran.
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name();
        let process =
            name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = std::env::temp_dir().join(format!("{NAME}{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    give_to_server(&folder);
    folder
}

fn give_to_server(path: &Path) {
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        let (user, group) = server_user();
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}
