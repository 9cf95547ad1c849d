//! A process that the demo has started: its lines, and its end.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::Sender,
    time::Duration,
};

use anyhow::{Context, Result};
use gridseal_io::clock::tick_now;

/// One event that a process told.
#[derive(Debug, Clone)]
pub struct Line {
    /// Who.
    pub process: String,
    /// What.
    pub event: String,
    /// The whole line.
    pub json: serde_json::Value,
}

impl Line {
    /// A field of it, empty when absent.
    pub fn field(&self, name: &str) -> &str {
        self.json.get(name).and_then(serde_json::Value::as_str).unwrap_or_default()
    }
}

/// A running process. Closing its standard input makes it stop.
pub struct Process {
    name: String,
    child: Child,
}

/// How long a process may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(5);

impl Process {
    /// Starts `gridseal` with these arguments; its events go to `lines`.
    pub fn start(name: &str, arguments: &[&str], errors: &Path, lines: Sender<Line>) -> Result<Self> {
        let program = std::env::current_exe().context("own program not found")?;
        let errors = std::fs::File::create(errors)?;
        let mut child = Command::new(program)
            .args(arguments)
            // Its memory is searched for keys, by the same user.
            .args(["--with-parent", "--danger-dumpable"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Ctrl-C at the terminal is for the demo: it stops the others in order, and they end with it in any case.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let output = child.stdout.take().context("no output")?;
        let process = name.to_owned();
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
                // By the name under which it was started: several owners have processes of one kind.
                let process = process.clone();
                let event = json.get("event").and_then(|v| v.as_str()).unwrap_or_default().to_owned();
                if lines.send(Line { process, event, json }).is_err() {
                    return;
                }
            }
            let json = serde_json::json!({"process": process, "event": "ended", "status": "output closed"});
            let _ = lines.send(Line { process, event: "ended".into(), json });
        });
        Ok(Self { name: name.to_owned(), child })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the process to stop.
    pub fn ask_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the end, and ends it if it does not stop by itself.
    #[expect(
        clippy::disallowed_methods,
        reason = "the demo's thread has nothing to do but wait for a process"
    )]
    pub fn wait(&mut self) {
        let until = tick_now() + STOP_WAIT;
        while tick_now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ask_to_stop();
        self.wait();
    }
}
