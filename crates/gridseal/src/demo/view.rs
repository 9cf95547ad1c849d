//! What a person sees of the demo.

use gridseal_io::clock::tick_now;
use gridseal_types::{Reading, Tick};

use super::process::Line;
use crate::setup::labels;

/// Shows steps as they happen; quiet when a machine reads.
pub struct View {
    quiet: bool,
    began: Tick,
}

impl View {
    /// A view that begins now.
    pub const fn new(quiet: bool, began: Tick) -> Self {
        Self { quiet, began }
    }

    fn print(&self, who: &str, what: &str) {
        if !self.quiet {
            crate::observe::show(&format!(
                "{:6.2} s  {who:<18} {what}",
                tick_now().since(self.began).as_secs_f64()
            ));
        }
    }

    /// A step of the demo itself.
    pub fn step(&self, what: &str) {
        self.print("demo", what);
    }

    /// What came of an attack.
    pub fn attack(&self, id: &str, name: &str, refused: bool, what: &str) {
        let mark = if refused { "ok" } else { "!!" };
        self.print("attack", &format!("{mark} {id:<4}{name:<32} {what}"));
    }

    /// Something nobody must overlook, machine or person.
    pub fn loud(&self, lines: &[&str]) {
        let bar = "!".repeat(90);
        eprintln!("{bar}");
        lines.iter().for_each(|line| eprintln!("!!! {line}"));
        eprintln!("{bar}");
    }

    /// Something went wrong.
    pub fn problem(&self, what: &str) {
        eprintln!("gridseal demo: {what}");
    }

    /// The label of a meter, as QR code and text. It holds no secret.
    pub fn label(&self, text: &str) {
        if self.quiet {
            return;
        }
        if let Ok(picture) = labels::terminal(text) {
            crate::observe::show(&picture);
        }
        crate::observe::show(text);
    }

    /// An event of a process.
    pub fn line(&self, line: &Line) {
        let Some(what) = describe(line) else { return };
        self.print(&line.process, &what);
    }

    /// A reading as it is stored, beside the frame in which it came.
    pub fn reading(&self, reading: &Reading, frame: Option<&str>) {
        if self.quiet {
            return;
        }
        let sealed = frame.unwrap_or("?");
        let (head, tail) = sealed.split_at(sealed.len().min(56));
        let more = if tail.is_empty() { "" } else { ".." };
        self.print("sealed", &format!("{head}{more}"));
        let key = reading.key;
        self.print(
            "reading",
            &format!(
                "{} {} {} = {} {}",
                key.meter,
                key.start,
                key.obis,
                reading.value,
                reading.unit.symbol()
            ),
        );
    }
}

fn describe(line: &Line) -> Option<String> {
    let text = match (line.process.split(' ').next().unwrap_or_default(), line.event.as_str()) {
        (_, "listening") => format!("listens on {} ({})", line.field("address"), line.field("side")),
        ("meter", "powered") => format!("is powered; root of trust: {}", line.field("root")),
        ("meter", "owner-found") => {
            "asked the init server: redirect signed by its owner, voucher checked".into()
        }
        ("meter", "keys-made") => "made its keys in the root of trust".into(),
        ("meter", "sent") => format!("sends {} {}", line.field("message"), meaning(line.field("message"))),
        ("meter", "accepted") => {
            format!("accepts {} {}", line.field("message"), meaning(line.field("message")))
        }
        ("meter", "operating") => "is owned and provisioned".into(),
        ("meter", "order-answered") if line.field("code").is_empty() => {
            format!("has carried out an order: {}", line.field("order"))
        }
        ("meter", "order-answered") => {
            format!("REFUSES an order, {}: {}", line.field("order"), line.field("code"))
        }
        ("meter", "ownership-ended") => "has wiped everything of its owner's".into(),
        ("meter", "decommissioned") => "is at its end".into(),
        ("meter", "refused") => format!("REFUSES an answer: {}", line.field("code")),
        ("meter", "root-failed") => format!("root of trust failed: {}", line.field("error")),
        ("endpoint-manager", "accepted") => {
            format!("{} {} checked", line.field("serial"), line.field("message"))
        }
        ("endpoint-manager", "redirect-registered") => "redirect registered at the init server".into(),
        ("endpoint-manager", "refused" | "quarantined") => {
            format!("{} {}: {}", line.field("serial"), line.event, line.field("code"))
        }
        ("pki", "issued") => format!("issued a certificate ({})", line.field("kind")),
        ("headend", "admission") => format!("meter {} is {}", line.field("meter"), line.field("state")),
        ("headend", "meter-connected") => format!("meter {} connected with its LDevID", line.field("meter")),
        ("headend", "frame-refused") => format!("REFUSES a frame: {}", line.field("reason")),
        _ => return None,
    };
    Some(text)
}

fn meaning(message: &str) -> &'static str {
    match message {
        "C1" => "(hello, sealed to its owner)",
        "C2" => "(challenge: signature and grant hold)",
        "C3" => "(evidence: activation, certificates of its keys, quote)",
        "C4" => "(ownership commands for its TPM)",
        "C5" => "(the TPM's own proof of ownership)",
        "C6" => "(LDevID, terminus, channel keys for its TPM)",
        "C7" => "(installed, with receipt)",
        "C8" => "(done)",
        _ => "",
    }
}
