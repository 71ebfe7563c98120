//! Faults of the store in memory: what real stores and networks do.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use pyramid_protocol::{Entropy, SeededEntropy};

use super::Object;

/// The calls of an object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`super::ObjectStore::put`].
    Put,
    /// [`super::ObjectStore::get`].
    Get,
    /// [`super::ObjectStore::list`].
    List,
    /// [`super::ObjectStore::delete`].
    Delete,
    /// [`super::ObjectStore::locate`].
    Locate,
}

impl Call {
    pub(super) fn action(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Locate => "locate",
        }
    }
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `Unavailable`, and nothing was done.
    FailBefore,
    /// `Unavailable`, but it was done: the answer was lost.
    TimeoutAfter,
    /// `Unavailable` with the wish to be left alone for a time, and nothing was done.
    Busy(Duration),
    /// `Refused`, and nothing was done.
    Refuse,
    /// `Expired`, as the reader of a URL sees it. For `get`.
    Expire,
    /// `NotFound`, whatever is there.
    NotFound,
    /// The object seems to end at this many bytes from its front. For `get`.
    CutBody {
        /// Unit: bytes of the object.
        len: u64,
    },
    /// One bit of the answer is wrong. For `get`.
    WrongBit {
        /// Which bit, modulo the bits of the answer.
        bit: u64,
    },
    /// It is done this much later, on tokio's clock.
    Delay(Duration),
    /// It never ends, and nothing was done.
    Hang,
}

impl Fault {
    /// Changes an answer whose first byte is at `start` of the object.
    pub(super) fn change(&self, object: &mut Object, start: u64) {
        match self {
            Self::CutBody { len } => {
                object.total_len = object.total_len.min(*len);
                let left = usize::try_from(len.saturating_sub(start)).unwrap_or(usize::MAX);
                object.bytes.truncate(left);
            }
            Self::WrongBit { bit } => object.bytes = flipped(&object.bytes, *bit),
            Self::FailBefore
            | Self::TimeoutAfter
            | Self::Busy(_)
            | Self::Refuse
            | Self::Expire
            | Self::NotFound
            | Self::Delay(_)
            | Self::Hang => {}
        }
    }
}

fn flipped(bytes: &Bytes, bit: u64) -> Bytes {
    let mut changed = bytes.to_vec();
    let bits = u64::try_from(changed.len()).unwrap_or(u64::MAX).saturating_mul(8);
    let bit = bit.checked_rem(bits).unwrap_or(0);
    let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
    if let Some(byte) = changed.get_mut(at) {
        *byte ^= 1 << (bit % 8);
    }
    changed.into()
}

/// How often calls meet faults. Unit: of 1,000 calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// [`Fault::FailBefore`].
    pub fail_before: u16,
    /// [`Fault::TimeoutAfter`].
    pub timeout_after: u16,
    /// [`Fault::NotFound`] of a `get`.
    pub not_found: u16,
    /// [`Fault::CutBody`] of a `get`, anywhere in the first MiB.
    pub cut_body: u16,
    /// [`Fault::WrongBit`] of a `get`.
    pub wrong_bit: u16,
    /// [`Fault::Delay`] of up to 10 s.
    pub delay: u16,
}

/// What will go wrong.
#[derive(Debug, Default)]
pub(super) struct Faults {
    next: HashMap<Call, VecDeque<Fault>>,
    random: Option<(FaultRates, SeededEntropy)>,
    met: u64,
}

impl Faults {
    pub(super) fn add(&mut self, call: Call, fault: Fault) {
        self.next.entry(call).or_default().push_back(fault);
    }

    pub(super) fn set_rates(&mut self, rates: FaultRates, seed: u64) {
        self.random = (rates != FaultRates::default()).then(|| (rates, SeededEntropy::new(seed)));
    }

    pub(super) fn met(&self) -> u64 {
        self.met
    }

    pub(super) fn take(&mut self, call: Call) -> Option<Fault> {
        let planned = self.next.get_mut(&call).and_then(VecDeque::pop_front);
        let fault = planned.or_else(|| {
            let (rates, entropy) = self.random.as_ref()?;
            draw(*rates, call, entropy)
        });
        self.met += u64::from(fault.is_some());
        fault
    }
}

/// Draws twice for every call, so that what one call meets does not depend on the rates of others.
fn draw(rates: FaultRates, call: Call, entropy: &SeededEntropy) -> Option<Fault> {
    let FaultRates { fail_before, timeout_after, not_found, cut_body, wrong_bit, delay } = rates;
    let of_get = |rate| if call == Call::Get { rate } else { 0 };
    let (mut roll, detail) = (entropy.u64() % 1000, entropy.u64());
    [
        (fail_before, Fault::FailBefore),
        (timeout_after, Fault::TimeoutAfter),
        (of_get(not_found), Fault::NotFound),
        (of_get(cut_body), Fault::CutBody { len: detail % (1 << 20) }),
        (of_get(wrong_bit), Fault::WrongBit { bit: detail }),
        (delay, Fault::Delay(Duration::from_millis(detail % 10_000))),
    ]
    .into_iter()
    .find_map(|(rate, fault)| {
        let rate = u64::from(rate);
        if roll < rate {
            return Some(fault);
        }
        roll -= rate;
        None
    })
}
