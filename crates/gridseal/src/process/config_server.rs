//! `gridseal config-server`.

use std::{path::Path, time::Duration};

use anyhow::Result;
use gridseal_api::{router::Router, server::Limits};
use gridseal_io::tls::{Alpn, server, server_for_clients};
use gridseal_onboarding::config_server::Limits as Rates;

use crate::{
    config,
    files::Zone,
    observe::Observer,
    process::{bind, inner_roots, relay::Relay, serve, service_identity},
};

/// Runs the config server.
pub async fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::ConfigServer, _) = config::load(path)?;
    let observer = Observer::new("config-server").with_journal(&dir)?;
    let zone = Zone::open(&dir)?;
    let rates =
        Rates { source_per_hour: config.source_per_hour, pseudonym_per_hour: config.pseudonym_per_hour };
    let relay = Relay::new(rates, Duration::from_secs(config.hold_s), config.log_frames, observer.clone())?;

    // Devices see a certificate of its own, pinned by their redirect; inner services one of the inner network.
    let field_key =
        gridseal_io::tls::TlsKey::software(gridseal_crypto::SigningKey::new(&zone.load("field")?)?);
    let chain = crate::files::read_certificates(&dir.join("field.pem"))?;
    let field_tls = server(&gridseal_io::tls::Identity::new(chain, field_key)?, Alpn::Http)?;
    let inner_tls = server_for_clients(&service_identity(&zone)?, &inner_roots(&dir)?, Alpn::Http2)?;

    let field = relay.for_devices(Router::new());
    let inner = relay.for_endpoint_manager(Router::new());
    let field = bind(config.listen, field_tls, field, Limits::FIELD).await?;
    let inner = bind(config.listen_inner, inner_tls, inner, Limits::INNER).await?;
    tokio::try_join!(serve(&observer, "field", field), serve(&observer, "inner", inner))?;
    Ok(())
}
