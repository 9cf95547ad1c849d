//! One session with a server: what it must be like, how long we wait for it, and what its refusals mean.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gridseal_types::{Kind, records::RecordsError};
use rustls::ClientConfig;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Socket, Statement,
    config::{Host, SslMode},
    error::SqlState,
};

use super::tls::{Protected, Tls};
use crate::BUSY_TIMEOUT;

/// How long an answer of the server may take before the session is given up.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a commit waits for the standby by default.
pub const STANDBY_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// PostgreSQL 15.0 as the server numbers it.
const VERSION_MIN: i32 = 150_000;
const SCHEMA_NAME_SIZE_MAX: usize = 48;
/// Raised with each change of the tables.
const LAYOUT_VERSION: i32 = 1;

/// Where the database is and how it is used.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// As libpq takes it: `host=/run/postgresql dbname=gridseal user=keys`, or a `postgresql://` address.
    pub connection: String,
    /// Schema that holds the records of one service: lower-case letters, digits and `_`, at most 48.
    pub schema: String,
    /// Needed as soon as a host is neither a socket of this machine nor its loopback address.
    pub tls: Option<Arc<ClientConfig>>,
    /// How long a commit that must be replicated waits for the standby.
    pub standby_timeout: Duration,
}

impl PostgresSettings {
    /// Settings for a server on this machine.
    #[must_use]
    pub fn new(connection: &str, schema: &str) -> Self {
        Self {
            connection: connection.to_owned(),
            schema: schema.to_owned(),
            tls: None,
            standby_timeout: STANDBY_TIMEOUT,
        }
    }
}

/// A database could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection string does not parse, the server is not there, or it refused.
    #[error("postgresql refused the connection")]
    Postgres(#[from] tokio_postgres::Error),
    /// The runtime of the connection could not be made.
    #[error("runtime for the connection cannot be made")]
    Runtime(#[from] std::io::Error),
    /// The server did not answer in time.
    #[error("postgresql did not answer in time")]
    Timeout,
    /// The name of the schema has other characters than allowed, or is too long.
    #[error("schema name must be of lower-case letters, digits and `_`, at most {SCHEMA_NAME_SIZE_MAX}")]
    SchemaName,
    /// The connection would leave the machine without TLS.
    #[error("connection leaves this machine without TLS")]
    Unprotected,
    /// The server is older than 15.
    #[error("server has version {found}, {VERSION_MIN} is the oldest that is known to work")]
    Version {
        /// As the server numbers it.
        found: i32,
    },
    /// The server does not flush what it has committed.
    #[error("server runs with {setting} = off: a commit would not survive a power cut")]
    NotDurable {
        /// Which setting.
        setting: &'static str,
    },
    /// The schema was written by another version of the program.
    #[error("schema has layout {found}, this program knows {LAYOUT_VERSION}")]
    Layout {
        /// Layout found.
        found: i32,
    },
}

impl ConnectError {
    /// Stable name, as in logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "store.unreachable"
    }

    /// Whether it is worth another try.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Timeout => Kind::Transient,
            Self::Postgres(error) if error.as_db_error().is_none() => Kind::Transient,
            _ => Kind::Local,
        }
    }
}

/// Prepared statements of the records.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) get: Statement,
    pub(super) range: Statement,
    pub(super) put: Statement,
    pub(super) delete: Statement,
    pub(super) page: Statement,
    pub(super) tags: Statement,
    pub(super) set_tags: Statement,
}

#[derive(Debug)]
pub(super) struct Session {
    runtime: Runtime,
    pub(super) client: Client,
    pub(super) statements: Statements,
    tls: Tls,
    /// A warning came in since it was last asked for.
    warned: Arc<AtomicBool>,
    /// An answer did not come in time: the next one would be taken for it.
    is_given_up: Cell<bool>,
}

/// How a call to the server failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server says so: nothing was done.
    Refused(tokio_postgres::Error),
    /// The connection broke or the time was up: what was done is not known.
    Lost,
}

impl Session {
    pub(super) fn connect(settings: &PostgresSettings) -> Result<Self, ConnectError> {
        let is_name = |name: &str| {
            (1..=SCHEMA_NAME_SIZE_MAX).contains(&name.len())
                && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        };
        if !is_name(&settings.schema) {
            return Err(ConnectError::SchemaName);
        }
        let mut config: Config = settings.connection.parse()?;
        config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(ANSWER_TIMEOUT);
        config.application_name(format!("gridseal {}", settings.schema)).ssl_mode(match settings.tls {
            Some(_) => SslMode::Require,
            None => SslMode::Disable,
        });
        if settings.tls.is_none() && !stays_on_machine(&config) {
            return Err(ConnectError::Unprotected);
        }
        let tls = Tls(settings.tls.clone());
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let warned = Arc::new(AtomicBool::new(false));
        let prepared = runtime.block_on(async {
            timeout(ANSWER_TIMEOUT, async {
                let (client, connection) = config.connect(tls.clone()).await?;
                tokio::spawn(drive(connection, Arc::clone(&warned)));
                let statements = prepare(&client, &settings.schema).await?;
                Ok::<_, ConnectError>((client, statements))
            })
            .await
        });
        let (client, statements) = prepared.map_err(|_| ConnectError::Timeout)??;
        Ok(Self { runtime, client, statements, tls, warned, is_given_up: Cell::new(false) })
    }

    /// Whether the server may still answer.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_given_up.get() && !self.client.is_closed()
    }

    /// Waits for an answer.
    pub(super) fn run<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        if !self.is_usable() {
            return Err(Failure::Lost);
        }
        match self.runtime.block_on(async { timeout(ANSWER_TIMEOUT, answer).await }) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if is_refusal(&error) => Err(Failure::Refused(error)),
            Ok(Err(_)) => Err(Failure::Lost),
            Err(_) => {
                self.is_given_up.set(true);
                Err(Failure::Lost)
            }
        }
    }

    /// Waits for a commit that the standby has to acknowledge within `patience`. Beyond that the server is told to wait
    /// no longer, and `Ok(false)` says that it has committed alone.
    pub(super) fn run_replicated<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<bool, Failure> {
        self.warned.store(false, Ordering::Relaxed);
        let cancel = self.client.cancel_token();
        let tls = self.tls.clone();
        self.run(async {
            let mut answer = std::pin::pin!(answer);
            match timeout(patience, &mut answer).await {
                Ok(answer) => answer.map(|_| true),
                Err(_) => {
                    cancel.cancel_query(tls).await?;
                    answer.await.map(|_| false)
                }
            }
        })
        // A wait that somebody else cut short ends as a success with a warning.
        .map(|in_time| in_time && !self.warned.load(Ordering::Relaxed))
    }
}

/// Whether the server says that nothing was done. A server that shuts down says something else: it may have committed.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| *state != SqlState::ADMIN_SHUTDOWN && *state != SqlState::CRASH_SHUTDOWN)
}

/// Moves bytes while somebody waits for an answer, and notes warnings. They come before the answer they belong to.
async fn drive(mut connection: Connection<Socket, Protected<Socket>>, warned: Arc<AtomicBool>) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                if notice.severity() != "NOTICE" {
                    warned.store(true, Ordering::Relaxed);
                    tracing::warn!(code = "store.postgres_warning", message = notice.message(), "warning");
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(code = "store.postgres_lost", %error, "connection to postgresql lost");
                return;
            }
            None => return,
        }
    }
}

fn stays_on_machine(config: &Config) -> bool {
    let is_local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
    };
    let addresses = config.get_hostaddrs();
    // An address given beside the name is where the connection goes.
    if addresses.is_empty() {
        !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_local)
    } else {
        addresses.iter().all(IpAddr::is_loopback)
    }
}

/// Checks the server, makes the schema when it is not there, and prepares the statements.
async fn prepare(client: &Client, schema: &str) -> Result<Statements, ConnectError> {
    let busy_ms = BUSY_TIMEOUT.as_millis();
    client
        .batch_execute(&format!(
            "SET lock_timeout = {busy_ms};
             SET idle_in_transaction_session_timeout = 0;
             SET client_min_messages = warning;
             SET bytea_output = hex;
             SET plan_cache_mode = force_generic_plan;
             SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
             SET jit = off"
        ))
        .await?;
    let facts = client
        .query_one(
            "SELECT current_setting('server_version_num')::int4, current_setting('fsync')::bool,
                    current_setting('full_page_writes')::bool",
            &[],
        )
        .await?;
    if facts.try_get::<_, i32>(0)? < VERSION_MIN {
        return Err(ConnectError::Version { found: facts.try_get(0)? });
    }
    for (index, setting) in [(1, "fsync"), (2, "full_page_writes")] {
        if !facts.try_get::<_, bool>(index)? {
            return Err(ConnectError::NotDurable { setting });
        }
    }
    create(client, schema).await?;
    let layout: i32 =
        client.query_one(&format!("SELECT version FROM {schema}.layout"), &[]).await?.try_get(0)?;
    if layout != LAYOUT_VERSION {
        return Err(ConnectError::Layout { found: layout });
    }
    statements(client, schema).await
}

async fn statements(client: &Client, schema: &str) -> Result<Statements, ConnectError> {
    Ok(Statements {
        get: client
            .prepare(&format!("SELECT value, tag FROM {schema}.records WHERE tbl = $1 AND key = $2"))
            .await?,
        range: client
            .prepare(&format!(
                "SELECT key, value, tag FROM {schema}.records WHERE tbl = $1 AND key > $2 ORDER BY key LIMIT $3"
            ))
            .await?,
        put: client
            .prepare(&format!(
                "INSERT INTO {schema}.records(tbl, key, value, tag)
                 SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[])
                 ON CONFLICT (tbl, key) DO UPDATE SET value = EXCLUDED.value, tag = EXCLUDED.tag"
            ))
            .await?,
        delete: client
            .prepare(&format!(
                "DELETE FROM {schema}.records r USING unnest($1::text[], $2::bytea[]) AS d(tbl, key)
                 WHERE r.tbl = d.tbl AND r.key = d.key"
            ))
            .await?,
        page: client
            .prepare(&format!(
                "SELECT tbl, key, value, tag FROM {schema}.records
                 WHERE (tbl, key) > ($1, $2) ORDER BY tbl, key LIMIT $3"
            ))
            .await?,
        tags: client
            .prepare(&format!(
                "SELECT r.tag FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS d(tbl, key, place)
                 LEFT JOIN {schema}.records r ON r.tbl = d.tbl AND r.key = d.key ORDER BY d.place"
            ))
            .await?,
        set_tags: client
            .prepare(&format!(
                "UPDATE {schema}.records r SET tag = d.tag
                 FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS d(tbl, key, tag)
                 WHERE r.tbl = d.tbl AND r.key = d.key"
            ))
            .await?,
    })
}

/// Makes the schema, unless it is there: then nothing is written, so a role without that right will do.
async fn create(client: &Client, schema: &str) -> Result<(), ConnectError> {
    let there = "SELECT to_regclass($1) IS NOT NULL";
    if client.query_one(there, &[&format!("{schema}.layout")]).await?.try_get(0)? {
        return Ok(());
    }
    // Values are sealed or hashes: they do not compress. `turn` is the lock that a transaction takes before it reads;
    // it stays empty, so that no vacuum ever stands in its way.
    client
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED;
             SELECT pg_advisory_xact_lock(hashtextextended('gridseal.create', 0));
             CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE IF NOT EXISTS {schema}.records(
                 tbl text COLLATE \"C\" NOT NULL, key bytea NOT NULL, value bytea NOT NULL, tag bytea,
                 PRIMARY KEY(tbl, key));
             ALTER TABLE {schema}.records ALTER COLUMN value SET STORAGE EXTERNAL;
             CREATE TABLE IF NOT EXISTS {schema}.turn();
             CREATE TABLE IF NOT EXISTS {schema}.layout(one bool PRIMARY KEY CHECK(one), version int4 NOT NULL);
             INSERT INTO {schema}.layout VALUES(true, {LAYOUT_VERSION}) ON CONFLICT DO NOTHING;
             COMMIT"
        ))
        .await?;
    Ok(())
}

/// What a failure means for the caller. The cause is for the operator; the server's messages hold no values.
pub(super) fn failed(step: &'static str, failure: &Failure) -> RecordsError {
    let Failure::Refused(error) = failure else {
        tracing::error!(code = "store.postgres_lost", step, "postgresql does not answer");
        return RecordsError::Failed;
    };
    let state = error.code();
    let meaning = match state {
        Some(&SqlState::DISK_FULL) => RecordsError::Full,
        Some(&SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED) => RecordsError::Damaged,
        // A standby is not written to, and has no serialisable transactions.
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION | &SqlState::FEATURE_NOT_SUPPORTED) => RecordsError::Fenced,
        _ => RecordsError::Failed,
    };
    let sql_state = state.map_or("", SqlState::code);
    tracing::error!(code = meaning.code(), step, sql_state, "record store failed");
    meaning
}
