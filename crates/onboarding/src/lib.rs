//! Three trust zones of one protocol, side by side: the manufacturer's init server, the owner's config server in the DMZ,
//! and the owner's endpoint manager inside.
//!
//! * [`init_server`] knows `ek_name -> signed redirect` and cannot make a redirect up.
//! * [`config_server`] is a blind relay: it sees pseudonyms, sizes and times.
//! * [`endpoint_manager`] accepts no connection; it pulls work from the config server, keeps the device register, and asks
//!   the key service and the certificate authority through its outputs. It links neither.
//!
//! All three are machines without sockets, clocks or disks.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod config_server;
pub mod endpoint_manager;
pub mod init_server;
pub mod limits;
