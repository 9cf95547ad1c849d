//! Randomness as a port: the shell gives the operating system's generator, the simulator a seeded one.

/// A source of cryptographically strong random bytes.
pub trait Rng {
    /// Fills the buffer.
    ///
    /// # Errors
    /// [`RngError`] when the source cannot deliver; the buffer is then not to be used.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError>;
}

/// The random source failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the random source failed")]
pub struct RngError;

/// `N` fresh random bytes, for public values such as nonces.
///
/// # Errors
/// [`RngError`] as given by the source.
pub fn random<const N: usize>(rng: &mut dyn Rng) -> Result<[u8; N], RngError> {
    let mut bytes = [0; N];
    rng.fill(&mut bytes)?;
    Ok(bytes)
}
