//! `gridseal init-server`.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result};
use gridseal_api::{
    Refusal, Reply,
    router::{Access, Router},
    server::Limits,
};
use gridseal_crypto::{SigningKey, role::InitSigning};
use gridseal_io::{
    clock::{tick_now, utc_now},
    rng::OsRng,
    tls::{Alpn, server},
};
use gridseal_onboarding::{
    init_server::{Answer, Challenges, InitServer, MESSAGE_SIZE_MAX},
    limits::InitLimits,
};
use gridseal_store::SqliteRecords;
use gridseal_types::records::RecordsError;

use crate::{
    config,
    files::{Zone, parse_voucher_key},
    observe::Observer,
    process::{bind, serve, service_identity, source_of},
};

/// Runs the init server.
pub async fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::InitServer, _) = config::load(path)?;
    let observer = Observer::new("init-server").with_journal(&dir)?;
    let zone = Zone::open(&dir)?;
    let signer = SigningKey::<InitSigning>::new(&zone.load("init")?)?;
    let voucher_keys = config.voucher_keys.iter().map(|key| parse_voucher_key(key)).collect::<Result<_>>()?;
    let machine = Arc::new(InitServer::new(signer, voucher_keys));
    let records = SqliteRecords::open(dir.join("init.db")).context("cannot open the redirect store")?;
    let challenges = config.challenge.then(Challenges::default);
    let records = Arc::new(Mutex::new(Kept { records, challenges }));
    let tls = server(&service_identity(&zone)?, Alpn::Http)?;
    let events = observer.clone();
    let address_key: [u8; 32] = gridseal_crypto::random(&mut OsRng)?;
    let limits = Arc::new(Mutex::new(InitLimits::new(config.source_per_hour, config.device_per_hour)));
    let router = Router::new().route("/gso/v1/init", Access::Anyone, MESSAGE_SIZE_MAX, move |peer, body| {
        let (machine, records, observer) = (Arc::clone(&machine), Arc::clone(&records), events.clone());
        let limits = Arc::clone(&limits);
        let source = source_of(&address_key, peer.address);
        async move {
            observer.frame(config.log_frames, "received", &body);
            let digest = hex::encode(gridseal_crypto::sha256(&[&body]));
            let wait =
                limits.lock().ok().and_then(|mut limits| limits.admit(tick_now(), source, &body).err());
            if let Some(wait) = wait {
                let code = gridseal_types::Code::Busy.name();
                observer.event("refused", &[("code", &code), ("message", &digest), ("source", &source)]);
                return Reply::Refused(Refusal::TooMany(wait));
            }
            let answered = tokio::task::spawn_blocking(move || answer(&machine, &records, &body)).await;
            match answered {
                Ok(Ok((reply, refused))) => {
                    if let Some(code) = refused {
                        observer.event("refused", &[("code", &code.name()), ("message", &digest)]);
                    } else {
                        observer.event("answered", &[]);
                    }
                    observer.frame(config.log_frames, "sent", &reply);
                    Reply::Body(reply)
                }
                failed => {
                    if let Ok(Err(error)) = failed {
                        observer.event("store-failed", &[("code", &error.code())]);
                    }
                    Reply::Refused(Refusal::Busy(Duration::from_secs(5)))
                }
            }
        }
    });
    let server = bind(config.listen, tls, router, Limits::FIELD).await?;
    serve(&observer, "field", server).await
}

type Answered = (Vec<u8>, Option<gridseal_types::Code>);

/// What the process keeps: redirects, and challenges under way where devices are challenged.
struct Kept {
    records: SqliteRecords,
    challenges: Option<Challenges>,
}

fn answer(
    machine: &InitServer<SigningKey<InitSigning>>,
    kept: &Mutex<Kept>,
    body: &[u8],
) -> Result<Answered, RecordsError> {
    let mut kept = kept.lock().map_err(|_| RecordsError::Failed)?;
    let Kept { records, challenges } = &mut *kept;
    if !gridseal_trust::enrol::init::is_registration(body) {
        // A device's question changes nothing on record: it needs no transaction.
        let Answer { reply, refused, .. } = match challenges {
            Some(challenges) => challenges.answer(machine, (&*records, &mut OsRng), utc_now(), body)?,
            None => machine.answer(&*records, utc_now(), body)?,
        };
        return Ok((reply, refused));
    }
    records.transact(|view| {
        let Answer { writes, reply, refused } = machine.answer(view, utc_now(), body)?;
        Ok((writes, (reply, refused)))
    })
}
