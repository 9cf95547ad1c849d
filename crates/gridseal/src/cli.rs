//! The command line: noun, then verb.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{
    demo,
    process::{self, config_server, endpoint_manager, headend, init_server, keys, keys_core, meter, pki},
    setup::factory::Anchor,
    tools,
};

/// The open security back-end for smart metering.
#[derive(Debug, Parser)]
#[command(
    name = "gridseal",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or input."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Daemon {
    /// Configuration file (TOML); paths in it are relative to it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    start: process::Start,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything: meters find their owner, prove themselves and deliver readings, in real processes.
    Demo(demo::Arguments),
    /// Manufacturer: make devices and their papers.
    #[command(subcommand)]
    Factory(Factory),
    /// Owner, offline: make keys, delegations and certificates.
    #[command(subcommand)]
    Ceremony(Ceremony),
    /// Run the manufacturer's init server.
    InitServer(Daemon),
    /// Run the owner's config server (DMZ).
    ConfigServer(Daemon),
    /// Run the owner's endpoint manager (inner zone).
    EndpointManager(Daemon),
    /// Run the key service (inner zone); it starts `keys-core` as its child.
    Keys(Daemon),
    /// The part of the key service that opens keys; started by `keys`.
    #[command(hide = true)]
    KeysCore(Daemon),
    /// Run the certificate authority (inner zone).
    Pki(Daemon),
    /// Run the head-end (terminus).
    Headend(Daemon),
    /// A meter.
    #[command(subcommand)]
    Meter(Meter),
    /// The device register.
    #[command(subcommand)]
    Device(Device),
    /// What comes from manufacturers.
    #[command(subcommand)]
    Import(Import),
    /// A witness of manufacturers' logs of voucher entries.
    #[command(subcommand)]
    Witness(tools::witness::Witness),
    /// Meters' keys: where they stand, their change, their history, what a compromise reaches, and acts of two persons.
    #[command(subcommand)]
    Key(tools::key::Key),
    /// Read what a meter, a person or a radio said.
    #[command(subcommand)]
    Decode(tools::decode::Decode),
    /// Speak with a meter over DLMS, with the test keys of a lab file.
    #[command(subcommand)]
    Dlms(tools::dlms::Dlms),
    /// The JSON that `decode` prints, back to bytes.
    #[command(subcommand)]
    Encode(tools::encode::Encode),
    /// The local metering network: listen to the meters of a house.
    #[command(subcommand)]
    Lmn(tools::lmn::Lmn),
    /// Prepayment tokens (STS) with test keys.
    #[command(subcommand)]
    Sts(tools::sts::Sts),
    /// Group keys: plan a re-key.
    #[command(subcommand)]
    Group(tools::group::Group),
    /// Simulations that check the rules by trying to break them.
    #[cfg(feature = "sim")]
    #[command(subcommand)]
    Sim(tools::sim::Sim),
    /// List stored readings.
    Readings(tools::readings::Arguments),
    /// Read a process's audit log and check its chain.
    Audit(tools::audit::Arguments),
}

#[derive(Debug, Subcommand)]
enum Factory {
    /// Make devices with a root of trust, labels and a shipment file.
    #[command(
        after_help = "Example:\n  gridseal factory make --vendor ACME --model GS-1 --count 3 --anchor tpm \
        --owner owner.toml --init-listen 192.0.2.1:7440 --out devices"
    )]
    Make(tools::factory::Arguments),
    /// Sell the devices in stock: vouchers, public log, encrypted owner secrets.
    #[command(after_help = "Example:\n  gridseal factory sell --out devices --owner owner.toml")]
    Sell(tools::factory::Sell),
    /// Release service: log a resale and hand the buyer the secrets of the new epoch.
    #[command(
        after_help = "Example:\n  gridseal factory release --out devices --transfer transfer.cbor --to buyer"
    )]
    Release(tools::factory::Release),
    /// Sign devices over to a new owner in place of one who has vanished, with the offline recovery key.
    #[command(
        after_help = "The release service logs the entries (factory release); each device then needs somebody who \
        holds its button while power comes (meter run --button).\n\nExample:\n  gridseal factory recover --keys \
        devices/recovery --papers devices/shipment.cbor --buyer buyer.toml --to transfer.cbor 4C1F2A000001"
    )]
    Recover(tools::factory::Recover),
    /// Put a manifest with both signatures in front of firmware: an image that meters take.
    #[command(
        after_help = "Prints the lines of a lab file with which `gridseal meter serve` takes the image.\n\n\
        Example:\n  gridseal factory image --keys firmware --model EM-1 --image-version 2 --identifier 'application 2' \
        --contents app.bin --out app.img"
    )]
    Image(tools::firmware::Arguments),
}

#[derive(Debug, Subcommand)]
enum Ceremony {
    /// Make or use the owner key, certify the key service and the inner services.
    #[command(after_help = "Example:\n  gridseal ceremony owner --out owner --config-listen 192.0.2.2:8443")]
    Owner(tools::ceremony::Arguments),
    /// Write the configuration files of the owner's processes for a first start.
    #[command(after_help = "Example:\n  gridseal ceremony configure --out owner --factory devices")]
    Configure(tools::ceremony::Configure),
    /// Sign devices over to a buyer with the owner key.
    #[command(after_help = "Example:\n  gridseal ceremony transfer --out owner --papers papers.cbor \
        --buyer buyer.toml --to transfer.cbor")]
    Transfer(tools::ceremony::TransferArguments),
    /// Replace the owner key: sign entries for devices with the one in use that name the next one; with `--finish`, once every
    /// device knows the next key, put it in the place of the other.
    #[command(
        after_help = "Example:\n  gridseal ceremony rekey --out owner --papers papers.cbor --to rekey.cbor\n  \
        gridseal device rekey --config endpoint-manager/config.toml 4C1F2A000001 --transfer rekey.cbor --reason yearly\n  \
        gridseal ceremony rekey --out owner --finish"
    )]
    Rekey(tools::ceremony::RekeyArguments),
    /// Certify the key of a server of the inner network that is none of our services: it may enrol by EST then.
    #[command(
        after_help = "Example:\n  gridseal ceremony identity --out owner --name proxy --csr proxy.csr \
        --to proxy.pem"
    )]
    Identity(tools::ceremony::IdentityArguments),
    /// Make the key by which a person consents to acts of the key service that need two.
    #[command(after_help = "Example:\n  gridseal ceremony approver --out owner --name alice")]
    Approver(tools::ceremony::Approver),
}

#[derive(Debug, Subcommand)]
enum Meter {
    /// Run a meter out of its directory.
    Run {
        /// Directory that `factory make` has made.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Somebody holds the button while power comes: a recovery entry of the manufacturer is taken for 10 minutes.
        #[arg(long)]
        button: bool,
        #[command(flatten)]
        start: process::Start,
    },
    /// Serve the COSEM objects of a simulated meter to DLMS clients, with the test keys of a lab file.
    Serve(meter::serve::Arguments),
    /// Onboard every meter below a directory in one process, and say what it took. For load tests.
    Fleet {
        /// Directory that `factory make` has made.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How many at a time.
        #[arg(long, default_value_t = 32)]
        concurrency: usize,
    },
}

#[derive(Debug, Subcommand)]
enum Import {
    /// Take a shipment into the register: papers are checked, owner secrets go to the key service.
    #[command(
        after_help = "Example:\n  gridseal import shipment --config endpoint-manager/config.toml shipment.cbor"
    )]
    Shipment(tools::device::Register),
    /// Read a manufacturer's public log of voucher entries: was any device of ours sold a second time?
    #[command(
        after_help = "Example:\n  gridseal import voucher-log --config endpoint-manager/config.toml voucher-log.cbor\n\n\
        Exit codes: 0 in order, 1 a fork or an entry that is missing, 2 wrong usage."
    )]
    VoucherLog(tools::voucher_log::Arguments),
}

#[derive(Debug, Subcommand)]
enum Device {
    /// Register a device by its labels, or a whole shipment.
    #[command(after_help = "Example:\n  gridseal device register --config endpoint-manager/config.toml \
        --label GSO1:A:.. --insert insert.txt shipment.cbor")]
    Register(tools::device::Register),
    /// Installer: say which device hangs at which connection point. Needs no key; signs nothing.
    #[command(after_help = "Example:\n  gridseal device install --label GSO1:A:.. --point DE-0001 \
        --inbox endpoint-manager/inbox")]
    Install(tools::install::Install),
    /// Two devices hang in each other's place: exchange their bindings; both may onboard again.
    #[command(
        after_help = "Example:\n  gridseal device correct --config endpoint-manager/config.toml 4C1F2A000001 \
        4C1F2A000002 --reason 'swapped in the stairwell'"
    )]
    Correct(tools::install::Correct),
    /// Put another device in the place of the one at a connection point, which is taken back.
    #[command(after_help = "Example:\n  gridseal device exchange --config endpoint-manager/config.toml \
        --label GSO1:A:.. --point DE-0001 --reason 'display broken'")]
    Exchange(tools::install::Exchange),
    /// Take a device back from its connection point: it is suspended.
    #[command(
        after_help = "Example:\n  gridseal device return --config endpoint-manager/config.toml 4C1F2A000001 \
        --reason 'moved out'"
    )]
    Return(tools::install::Return),
    /// Write the papers of devices, for their sale.
    #[command(after_help = "Example:\n  gridseal device papers --config endpoint-manager/config.toml \
        --out papers.cbor 4C1F2A000001")]
    Papers(tools::device::PapersArguments),
    /// Show registered devices.
    Show(tools::device::Show),
    /// Let a quarantined device onboard again; every check is made again.
    #[command(
        after_help = "Example:\n  gridseal device readmit --config endpoint-manager/config.toml 4C1F2A000001 \
        --reason 'firmware replaced'"
    )]
    Readmit(tools::device::Readmit),
    /// Have devices prove their software again, now.
    #[command(
        after_help = "Example:\n  gridseal device attest --config endpoint-manager/config.toml 4C1F2A000001 \
        --reason 'after the storm'"
    )]
    Attest(tools::order::Devices),
    /// Hold devices: nothing is sealed or opened for them, and they are told to stop. Stolen ones too.
    #[command(
        after_help = "Example:\n  gridseal device suspend --config endpoint-manager/config.toml 4C1F2A000001 \
        --reason 'reported stolen' --dry-run"
    )]
    Suspend(tools::order::Devices),
    /// Let devices that are held work again, once a fresh attestation went well.
    #[command(
        after_help = "Example:\n  gridseal device resume --config endpoint-manager/config.toml 4C1F2A000001 \
        --reason 'found'"
    )]
    Resume(tools::order::Devices),
    /// Say that the software of devices, or of their TPMs, is being changed: they are `updating`, and are attested again and
    /// again, until an attestation shows other software than before.
    #[command(
        after_help = "Example:\n  gridseal device update --config endpoint-manager/config.toml 4C1F2A000001 \
        --reason 'release 2'"
    )]
    Update(tools::order::Devices),
    /// Give devices a new TLS key and certificate before it is due.
    #[command(
        after_help = "Example:\n  gridseal device renew --config endpoint-manager/config.toml 4C1F2A000001 \
        --with-storage --reason 'new authority'"
    )]
    Renew(tools::order::Renew),
    /// Give devices new channel secrets, or their TPMs new owner authorisations.
    #[command(
        after_help = "Example:\n  gridseal device rotate --config endpoint-manager/config.toml 4C1F2A000001 \
        --what channel --reason yearly"
    )]
    Rotate(tools::order::Rotate),
    /// Tell devices that their owner has a new key, as `ceremony rekey` has signed it.
    #[command(
        after_help = "Example:\n  gridseal device rekey --config endpoint-manager/config.toml 4C1F2A000001 \
        --transfer rekey.cbor --reason 'new owner key'"
    )]
    Rekey(tools::order::Release),
    /// Give devices up to the next owner: they are held, their TPMs cleared, and there is a receipt.
    #[command(
        after_help = "Example:\n  gridseal device release --config endpoint-manager/config.toml 4C1F2A000001 \
        --transfer transfer.cbor --reason 'sold' --dry-run"
    )]
    Release(tools::order::Release),
    /// Take devices out of service for good: they are held, their TPMs cleared, and there is a receipt.
    #[command(
        after_help = "Example:\n  gridseal device decommission --config endpoint-manager/config.toml 4C1F2A000001 \
        --reason scrapped --dry-run"
    )]
    Decommission(tools::order::Devices),
    /// Proof that an ownership has ended.
    #[command(subcommand)]
    Receipt(tools::receipt::Receipt),
}

/// Runs the command line.
pub fn run() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Demo(arguments) => return demo::run(&arguments),
        Command::Key(key) => return tools::key::run(&key),
        Command::Decode(decode) => return tools::decode::run(&decode),
        Command::Dlms(dlms) => return tools::dlms::run(&dlms),
        Command::Encode(encode) => return tools::encode::run(&encode),
        Command::Lmn(lmn) => return tools::lmn::run(&lmn),
        Command::Sts(sts) => return tools::sts::run(&sts),
        Command::Group(group) => return tools::group::run(&group),
        #[cfg(feature = "sim")]
        Command::Sim(sim) => return tools::sim::run(&sim),
        Command::Factory(Factory::Make(arguments)) => tools::factory::run(&arguments)?,
        Command::Factory(Factory::Sell(arguments)) => tools::factory::sell(&arguments)?,
        Command::Factory(Factory::Image(arguments)) => tools::firmware::run(&arguments)?,
        Command::Ceremony(Ceremony::Owner(arguments)) => tools::ceremony::run(&arguments)?,
        Command::Ceremony(Ceremony::Configure(arguments)) => tools::ceremony::configure(&arguments)?,
        Command::Ceremony(Ceremony::Rekey(arguments)) => tools::ceremony::rekey(&arguments)?,
        Command::Ceremony(Ceremony::Identity(arguments)) => tools::ceremony::identity(&arguments)?,
        Command::Ceremony(Ceremony::Transfer(arguments)) => tools::ceremony::transfer(&arguments)?,
        Command::Factory(Factory::Release(arguments)) => tools::factory::release(&arguments)?,
        Command::Factory(Factory::Recover(arguments)) => tools::factory::recover(&arguments)?,
        Command::Ceremony(Ceremony::Approver(arguments)) => tools::ceremony::approver(&arguments)?,
        Command::InitServer(d) => process::run(d.start, || async move { init_server::run(&d.config).await })?,
        Command::ConfigServer(d) => {
            process::run(d.start, || async move { config_server::run(&d.config).await })?;
        }
        Command::EndpointManager(d) => {
            process::run(d.start, || async move { endpoint_manager::run(&d.config).await })?;
        }
        Command::Keys(d) => process::run(d.start, || async move { keys::run(&d.config).await })?,
        Command::KeysCore(d) => keys_core::run(&d.config)?,
        Command::Pki(d) => process::run(d.start, || async move { pki::run(&d.config).await })?,
        Command::Headend(d) => process::run(d.start, || async move { headend::run(&d.config).await })?,
        Command::Meter(Meter::Run { dir, button, start }) => {
            process::run(start, || async move { meter::run(&dir, button).await })?;
        }
        Command::Meter(Meter::Serve(arguments)) => {
            process::run(process::Start::default(), || async move { meter::serve::run(arguments).await })?;
        }
        Command::Meter(Meter::Fleet { dir, concurrency }) => {
            process::run(
                process::Start::default(),
                || async move { meter::fleet::run(&dir, concurrency).await },
            )?;
        }
        Command::Device(Device::Register(arguments)) | Command::Import(Import::Shipment(arguments)) => {
            tools::device::register(&arguments)?;
        }
        Command::Witness(witness) => tools::witness::run(&witness)?,
        Command::Import(Import::VoucherLog(arguments)) => tools::voucher_log::run(&arguments)?,
        Command::Device(Device::Install(arguments)) => tools::install::install(&arguments)?,
        Command::Device(Device::Correct(arguments)) => tools::install::correct(&arguments)?,
        Command::Device(Device::Exchange(arguments)) => tools::install::exchange(&arguments)?,
        Command::Device(Device::Return(arguments)) => tools::install::take_back(&arguments)?,
        Command::Device(Device::Papers(arguments)) => tools::device::papers(&arguments)?,
        Command::Device(Device::Show(arguments)) => tools::device::show(&arguments)?,
        Command::Device(Device::Readmit(arguments)) => tools::device::readmit(&arguments)?,
        Command::Device(Device::Attest(arguments)) => tools::order::attest(&arguments)?,
        Command::Device(Device::Suspend(arguments)) => tools::order::suspend(&arguments)?,
        Command::Device(Device::Resume(arguments)) => tools::order::resume(&arguments)?,
        Command::Device(Device::Update(arguments)) => tools::order::update(&arguments)?,
        Command::Device(Device::Renew(arguments)) => tools::order::renew(&arguments)?,
        Command::Device(Device::Rotate(arguments)) => tools::order::rotate(&arguments)?,
        Command::Device(Device::Rekey(arguments)) => tools::order::rekey(&arguments)?,
        Command::Device(Device::Release(arguments)) => tools::order::release(&arguments)?,
        Command::Device(Device::Decommission(arguments)) => tools::order::decommission(&arguments)?,
        Command::Device(Device::Receipt(receipt)) => return tools::receipt::run(&receipt),
        Command::Readings(arguments) => tools::readings::run(&arguments)?,
        Command::Audit(arguments) => return tools::audit::run(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a TPM emulator can be started here.
pub fn anchor_available(anchor: Anchor) -> bool {
    anchor == Anchor::Software || gridseal_io::tpm::swtpm_available()
}
