//! TPM structures as they travel: public areas, names, attestations.
