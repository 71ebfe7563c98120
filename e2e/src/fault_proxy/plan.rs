//! Which request meets which fault, and what was met.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use super::{Call, Fault, Side};

/// What went through, of one kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    /// Bodies of requests that reached the server. Unit: bytes.
    pub to_server: u64,
    /// Bodies of answers that reached the client. Unit: bytes.
    pub to_client: u64,
}

#[derive(Debug)]
pub(super) struct Plan {
    inner: Mutex<Inner>,
    /// Whether a request is held.
    held: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    rng: StdRng,
    per_mille: u32,
    faults: Vec<Fault>,
    next: BTreeMap<Call, VecDeque<Fault>>,
    /// Requests until those that are held, and where they are.
    hold: Option<(u64, Side)>,
    met: BTreeMap<Fault, u64>,
    traffic: BTreeMap<Call, Traffic>,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Good,
    Fault(Fault),
    Held(Side),
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            per_mille: 0,
            faults: Vec::new(),
            next: BTreeMap::new(),
            hold: None,
            met: BTreeMap::new(),
            traffic: BTreeMap::new(),
        };
        Self { inner: Mutex::new(inner), held: watch::Sender::new(false) }
    }

    /// Counters and switches are whole whatever happens to a test.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail_at_random(&self, per_mille: u32, faults: &[Fault]) {
        let mut inner = self.inner();
        inner.per_mille = per_mille;
        inner.faults = faults.to_vec();
    }

    pub(super) fn fail_next(&self, call: Call, fault: Fault) {
        self.inner().next.entry(call).or_default().push_back(fault);
    }

    pub(super) fn hold_at(&self, number: u64, side: Side) {
        self.inner().hold = Some((number, side));
        self.held.send_replace(false);
    }

    pub(super) fn release(&self) {
        self.inner().hold = None;
        self.held.send_replace(false);
    }

    pub(super) async fn held(&self) {
        // The sender lives as long as the plan.
        drop(self.held.subscribe().wait_for(|held| *held).await);
    }

    pub(super) fn tell_held(&self) {
        self.held.send_replace(true);
    }

    /// Decides over a request and counts it. A fault counts as met only once it has happened.
    pub(super) fn fate(&self, call: Call, conditional: bool) -> Fate {
        let mut inner = self.inner();
        inner.traffic.entry(call).or_default().requests += 1;
        if let Some((number, side)) = &mut inner.hold {
            *number = number.saturating_sub(1);
            if *number == 0 {
                return Fate::Held(*side);
            }
        }
        let planned = inner.next.get_mut(&call).and_then(VecDeque::pop_front);
        if let Some(fault) = planned {
            return Fate::Fault(fault);
        }
        if inner.rng.random_range(0..1000) >= inner.per_mille {
            return Fate::Good;
        }
        let fitting: Vec<Fault> =
            inner.faults.iter().copied().filter(|fault| fault.fits(call, conditional)).collect();
        if fitting.is_empty() {
            return Fate::Good;
        }
        let place = inner.rng.random_range(0..fitting.len());
        fitting.get(place).map_or(Fate::Good, |fault| Fate::Fault(*fault))
    }

    /// A number below `bound`, for the place of a fault.
    pub(super) fn below(&self, bound: usize) -> usize {
        self.inner().rng.random_range(0..bound.max(1))
    }

    pub(super) fn met(&self, fault: Fault) {
        *self.inner().met.entry(fault).or_default() += 1;
    }

    pub(super) fn to_server(&self, call: Call, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.inner().traffic.entry(call).or_default().to_server += bytes;
    }

    pub(super) fn to_client(&self, call: Call, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.inner().traffic.entry(call).or_default().to_client += bytes;
    }

    pub(super) fn faults_met(&self) -> BTreeMap<Fault, u64> {
        self.inner().met.clone()
    }

    pub(super) fn traffic(&self) -> BTreeMap<Call, Traffic> {
        self.inner().traffic.clone()
    }
}
