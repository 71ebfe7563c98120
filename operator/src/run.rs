//! Wires everything; one task that ends, ends all.

/// Where to listen and what to read.
#[derive(Clone, Debug)]
pub struct Config {}

/// Why the operator cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Runs until told to stop.
///
/// # Errors
///
/// As [`Error`] says.
pub async fn run(_config: Config) -> Result<(), Error> {
    Ok(())
}
