//! A TPM 2.0 behind a transport.
