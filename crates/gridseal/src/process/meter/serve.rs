//! `gridseal meter serve`: the COSEM objects of a simulated meter behind a DLMS server, for bench work with test keys.
//!
//! | file | what is in it |
//! |---|---|
//! | `holder` | the keys: operations of associations, keys that arrive, what is durable |
//! | `pairs` | key pairs, in a TPM or sealed |
//! | `flash` | what else of the device is durable |
//! | `station` | device, keys and one association machine for each client of a connection |
//! | `wire` | connections: TCP wrapper or HDLC, limits, time-outs |
//! | `log` | the security log |

mod counters;
mod flash;
mod holder;
mod log;
mod pairs;
mod station;
mod wire;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{Key, role::Kek};
use tokio::net::TcpListener;

use super::root::SharedRoot;
use crate::{
    config::{self, Root},
    files,
    lab::Lab,
    observe::tell,
    setup::factory::Anchor,
    tools::Usage,
};
use counters::Counters;
use flash::Flash;
use holder::{Holder, Kept, MasterKey};
use log::{Form, Log};
use pairs::PairStore;
use station::{Meter, StartError};

/// Arguments of `meter serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Prints `listening ADDR` when it is ready. Ends with SIGINT or SIGTERM.\n\n\
    Whoever is refused learns one thing only; the cause is in the security log: standard error, or the file of --log.\n\
    Without --dir nothing is kept: counters begin again at those of the lab file, so never use its keys elsewhere.\n\n\
    Exit codes: 0 stopped, 1 failed, 2 wrong usage or lab file.\n\n\
    Example:\n  gridseal meter serve --listen 127.0.0.1:4059 --lab lab.toml --dir meter")]
pub struct Arguments {
    /// Address to listen on; port 0 for any free one.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Lab file with test keys.
    #[arg(long, value_name = "FILE")]
    lab: PathBuf,
    /// Speak HDLC over TCP instead of the wrapper.
    #[arg(long)]
    hdlc_tcp: bool,
    /// Directory that keeps counters, keys, certificates and images that clients brought, across restarts.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where key pairs are made: an emulated TPM in the directory of --dir, where it has the curve, or software.
    #[arg(long, value_enum, default_value = "software")]
    anchor: Anchor,
    /// Append the security log to this file, one JSON object per line; at 16 MiB it becomes FILE.1 and a new one begins.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write the security log as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the meter.
pub async fn run(arguments: Arguments) -> Result<()> {
    let lab = Lab::load(&arguments.lab)?;
    match lab.suite {
        2 => serve::<32>(&arguments, lab).await,
        _ => serve::<16>(&arguments, lab).await,
    }
}

async fn serve<const N: usize>(arguments: &Arguments, lab: Lab) -> Result<()>
where
    Key<Kek, N>: MasterKey<N>,
{
    // Held until the process ends: two meters with one directory would use one counter twice.
    let _lock = match &arguments.dir {
        None => {
            eprintln!("gridseal: without --dir counters are not kept: the next start uses them again");
            None
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            Some(files::lock_directory(dir)?)
        }
    };
    let form = if arguments.json { Form::Json } else { Form::Text };
    let log = Log::open(arguments.log.as_deref(), form)?;
    let dir = arguments.dir.as_deref();
    let root = match (arguments.anchor, dir) {
        (Anchor::Software, _) => None,
        (Anchor::Tpm, Some(dir)) => {
            let state = dir.join("tpm");
            std::fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
            let emulator = Root::Emulator { dir: "tpm".into(), endorsement: config::Endorsement::P256 };
            Some(SharedRoot::power_on(&emulator, None, dir)?)
        }
        (Anchor::Tpm, None) => bail!(Usage("--anchor tpm keeps its state in the directory of --dir".into())),
    };
    let lab = Arc::new(lab);
    let kept = Kept {
        counters: Counters::load(dir)?,
        flash: Flash::new(dir),
        pairs: PairStore::load(lab.curve(), dir, root)?,
    };
    let holder = Holder::<N>::new(Arc::clone(&lab), kept)?;
    let meter = match Meter::new(&lab, holder, log) {
        Ok(meter) => Arc::new(meter),
        Err(StartError::Read(error)) => return Err(error),
        Err(error @ StartError::Restore(_)) => bail!("{error}"),
        Err(error @ StartError::Object(_)) => {
            bail!(Usage(format!("lab file {}: {error}", arguments.lab.display())))
        }
    };
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = listener.local_addr()?;
    tell(&format!("listening {address}")).context("cannot write the address to standard output")?;
    wire::run(listener, meter, arguments.hdlc_tcp).await
}
