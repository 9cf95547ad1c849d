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
    clock::utc_now,
    tls::{Alpn, server},
};
use gridseal_onboarding::init_server::{Answer, InitServer, MESSAGE_SIZE_MAX};
use gridseal_store::SqliteRecords;
use gridseal_types::records::RecordsError;

use crate::{
    config,
    files::{Zone, parse_voucher_key},
    observe::Observer,
    process::{bind, serve, service_identity},
};

/// Runs the init server.
pub async fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::InitServer, _) = config::load(path)?;
    let observer = Observer::new("init-server");
    let zone = Zone::open(&dir)?;
    let signer = SigningKey::<InitSigning>::new(&zone.load("init")?)?;
    let voucher_keys = config.voucher_keys.iter().map(|key| parse_voucher_key(key)).collect::<Result<_>>()?;
    let machine = Arc::new(InitServer::new(signer, voucher_keys));
    let records = SqliteRecords::open(dir.join("init.db")).context("cannot open the redirect store")?;
    let records = Arc::new(Mutex::new(records));
    let tls = server(&service_identity(&zone)?, Alpn::Http)?;
    let events = observer.clone();
    let router = Router::new().route("/gso/v1/init", Access::Anyone, MESSAGE_SIZE_MAX, move |_, body| {
        let (machine, records, observer) = (Arc::clone(&machine), Arc::clone(&records), events.clone());
        async move {
            observer.frame(config.log_frames, "received", &body);
            let answered = tokio::task::spawn_blocking(move || answer(&machine, &records, &body)).await;
            match answered {
                Ok(Ok((reply, refused))) => {
                    if let Some(code) = refused {
                        observer.event("refused", &[("code", &code.name())]);
                    } else {
                        observer.event("answered", &[]);
                    }
                    observer.frame(config.log_frames, "sent", &reply);
                    Reply::Body(reply)
                }
                _ => Reply::Refused(Refusal::Busy(Duration::from_secs(5))),
            }
        }
    });
    let server = bind(config.listen, tls, router, Limits::FIELD).await?;
    serve(&observer, "field", server).await
}

type Answered = (Vec<u8>, Option<gridseal_types::Code>);

fn answer(
    machine: &InitServer<SigningKey<InitSigning>>,
    records: &Mutex<SqliteRecords>,
    body: &[u8],
) -> Result<Answered, RecordsError> {
    let mut records = records.lock().map_err(|_| RecordsError::Failed)?;
    if !gridseal_trust::enrol::init::is_registration(body) {
        // A device's question changes nothing: it needs no transaction.
        let Answer { reply, refused, .. } = machine.answer(&*records, utc_now(), body)?;
        return Ok((reply, refused));
    }
    records.transact(|view| {
        let Answer { writes, reply, refused } = machine.answer(view, utc_now(), body)?;
        Ok((writes, (reply, refused)))
    })
}
