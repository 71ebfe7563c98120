//! Randomness, behind a trait: simulations run with a seed.

use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::limits::ID_MAX;

/// A source of random bytes that nobody can guess, or of repeatable ones in a simulation.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);

    /// Eight random bytes as a number.
    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number from 1 to 2^53 - 1: an id that fits every language's number.
    fn id53(&self) -> u64 {
        loop {
            let id = self.u64() & ID_MAX;
            if id != 0 {
                return id;
            }
        }
    }
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        // Without it no key is safe, so there is nothing to go on with.
        getrandom::fill(bytes).expect("the operating system has a random generator");
    }
}

/// The same bytes for the same seed. For tests and simulations only.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// A source that depends on `seed` only.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }
}
