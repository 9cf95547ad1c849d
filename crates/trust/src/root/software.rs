//! A software stand-in for a TPM.
