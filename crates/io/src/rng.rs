//! The operating system's random generator.

use gridseal_crypto::{Rng, RngError};

/// Randomness of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRng;

impl Rng for OsRng {
    #[expect(clippy::disallowed_methods, reason = "this module is where randomness enters the program")]
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        getrandom::fill(buffer).map_err(|_| RngError)
    }
}
