//! Writers, as Streams and Subscriptions see them.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use pyramid_crds::condition::{Truth, find, reasons, types};
use pyramid_crds::stream::WriterRef;
use pyramid_crds::writer::{AllowedFrom, Writer};

use super::status::Verdict;

/// Length of a cluster id. Unit: bytes.
const CLUSTER_ID_LEN: usize = 16;
/// A Writer that starts again is back in less: until then nothing is written into its Streams, of
/// which there may be thousands.
const RESTART_MAX: Duration = Duration::from_secs(30);

/// Which Writer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriterName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl WriterName {
    pub(crate) fn of(writer: &Writer) -> Self {
        Self { namespace: writer.namespace().unwrap_or_default(), name: writer.name_any() }
    }

    /// What a Stream in `own` names.
    pub(crate) fn named(reference: &WriterRef, own: &str) -> Self {
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        Self { namespace: namespace.to_owned(), name: reference.name.clone() }
    }
}

impl fmt::Display for WriterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Writer that takes declarations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Founded {
    pub(crate) name: WriterName,
    pub(crate) cluster_id: [u8; CLUSTER_ID_LEN],
    /// Of the replica to call.
    pub(crate) ordinal: u32,
}

impl Founded {
    /// The Writer, if it has a member. Before that, a declaration could reach a cluster that is
    /// never founded. One that is being deleted counts: it goes after the Streams that it has.
    pub(crate) fn of(writer: &Writer) -> Option<Self> {
        let status = writer.status.as_ref()?;
        if status.members.is_empty() {
            return None;
        }
        let cluster_id = cluster_id(status.cluster_id.as_deref()?)?;
        let ordinal = status.leader.as_deref().and_then(|pod| pod.rsplit_once('-'));
        let ordinal = ordinal.and_then(|(_, ordinal)| ordinal.parse().ok()).unwrap_or_default();
        Some(Self { name: WriterName::of(writer), cluster_id, ordinal })
    }
}

/// Whether a Writer takes appends, as far as its own status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// It does, or nothing says that it does not.
    Up,
    /// It does not, as when it starts again. That counts after this long.
    Failing(Duration),
    /// It does not. What is said of that holds the reason of its `Ready`, and not the message, which
    /// may change with each start of its Pod.
    Down(String),
}

impl Service {
    pub(crate) fn of(writer: &Writer, now: Timestamp) -> Self {
        let Some(reason) = stopped(writer) else { return Self::Up };
        let conditions = writer.status.as_ref().map(|one| &*one.conditions).unwrap_or_default();
        let since = find(conditions, types::READY).map_or(now, |one| one.last_transition_time.0);
        // A time to come is that of another clock.
        let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let left = RESTART_MAX.saturating_sub(elapsed);
        if left.is_zero() {
            let name = WriterName::of(writer);
            let text = format!("Writer {name} is not ready: {reason}; see its conditions");
            Self::Down(text)
        } else {
            Self::Failing(left)
        }
    }

    /// What keeps an object from being ready, whose own two verdicts these are, in their order: what it
    /// is told itself; then that its Writer is down, which does not answer the operator either.
    pub(crate) fn obstacle(&self, wired: &Verdict, programmed: &Verdict) -> Option<Verdict> {
        let failing = [wired, programmed].into_iter().find(|one| one.truth != Truth::True);
        let is_own = wired.truth != Truth::True || programmed.truth == Truth::False;
        match self {
            Self::Down(text) if !is_own => {
                Some(Verdict::new(types::READY, Truth::False, reasons::WRITER_NOT_READY, text))
            }
            Self::Up | Self::Failing(_) | Self::Down(_) => failing.map(|one| one.of(types::READY)),
        }
    }

    /// When to look again at what is at rest: as long as the Writer may only start again, nothing
    /// that is watched tells that it does not.
    pub(crate) fn rest(&self, resync: Duration) -> Duration {
        match self {
            Self::Failing(left) => *left,
            Self::Up | Self::Down(_) => resync,
        }
    }
}

/// Why a Writer that was founded takes no appends: the reason of its `Ready`. A Writer that leads
/// takes them even while its spec asks for what it cannot have, and so says that it is not ready. One
/// that the operator does not reach may be reached by others.
pub(crate) fn stopped(writer: &Writer) -> Option<&str> {
    let status = writer.status.as_ref().filter(|status| !status.members.is_empty())?;
    let ready = find(&status.conditions, types::READY)?;
    let has_other_data = [reasons::VOLUME_LOST, reasons::FOREIGN_VOLUME].contains(&&*ready.reason);
    let is_stopped =
        ready.status == Truth::False.as_str() && (status.leader.is_none() || has_other_data);
    is_stopped.then_some(ready.reason.as_str())
}

/// 32 hexadecimal digits as bytes.
fn cluster_id(text: &str) -> Option<[u8; CLUSTER_ID_LEN]> {
    if text.len() != 2 * CLUSTER_ID_LEN || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// Whether Streams of a namespace may be bound to the Writer.
pub(crate) fn allows(writer: &Writer, namespace: &str) -> bool {
    match writer.spec.allowed_streams.from {
        AllowedFrom::Same => writer.namespace().as_deref() == Some(namespace),
        AllowedFrom::All => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_has_32_hexadecimal_digits() {
        let text = "00112233445566778899aabbccddeeFF";
        let bytes = [0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255];
        assert_eq!(cluster_id(text), Some(bytes));
        for odd in
            ["", &text[1..], "+0112233445566778899aabbccddeeff", "x0112233445566778899aabbccddeeff"]
        {
            assert_eq!(cluster_id(odd), None, "{odd}");
        }
    }

    fn writer(yaml: &str) -> Writer {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_writer_is_founded_once_it_has_a_member() {
        let with = |members: &str| {
            writer(&format!(
                "metadata: {{name: w, namespace: a}}
spec: {{objectStorage: {{bucket: abc}}}}
status: {{clusterID: 00112233445566778899aabbccddeeff, leader: w-writer-2, members: {members}}}"
            ))
        };
        let founded = Founded::of(&with("[{name: w-writer-2, id: '1'}]")).unwrap();
        assert_eq!((founded.name.to_string(), founded.ordinal), ("a/w".to_owned(), 2));
        assert_eq!(Founded::of(&with("[]")), None);
    }

    /// With its `Ready`, and with a leader or without.
    fn said(ready: &str, reason: &str, leader: &str) -> Writer {
        writer(&format!(
            "metadata: {{name: w, namespace: a}}
spec: {{objectStorage: {{bucket: abc}}}}
status:
  {leader}
  members: [{{name: w-writer-0, id: '1'}}]
  conditions:
  - {{type: Ready, status: '{ready}', reason: {reason}, message: '',
     lastTransitionTime: '2030-01-01T00:00:00Z'}}"
        ))
    }

    const LEADER: &str = "leader: w-writer-0";

    #[test]
    fn a_writer_that_leads_or_is_not_reached_has_not_stopped() {
        assert_eq!(stopped(&said("False", "NoLeader", "")), Some("NoLeader"));
        assert_eq!(stopped(&said("True", "Ready", LEADER)), None);
        assert_eq!(stopped(&said("Unknown", "AdminUnreachable", "")), None);
        assert_eq!(stopped(&said("False", "ReplicasNotSupported", LEADER)), None);
        assert_eq!(stopped(&said("False", "ForeignVolume", LEADER)), Some("ForeignVolume"));
        let mut unfounded = said("False", "Bootstrapping", "");
        unfounded.status.as_mut().unwrap().members.clear();
        assert_eq!(stopped(&unfounded), None);
    }

    #[test]
    fn a_writer_is_down_once_no_restart_takes_that_long() {
        let at = |time: &str| {
            Service::of(&said("False", "VolumeLost", ""), time.parse::<Timestamp>().unwrap())
        };
        assert_eq!(at("2030-01-01T00:00:00Z"), Service::Failing(Duration::from_secs(30)));
        assert_eq!(at("2030-01-01T00:00:29.999Z"), Service::Failing(Duration::from_millis(1)));
        let text = "Writer a/w is not ready: VolumeLost; see its conditions";
        assert_eq!(at("2030-01-01T00:00:30Z"), Service::Down(text.to_owned()));
        assert_eq!(at("2029-12-31T00:00:00Z"), Service::Failing(Duration::from_secs(30)));
        let later = "2030-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(Service::of(&said("True", "Ready", LEADER), later), Service::Up);
    }

    #[test]
    fn who_waits_for_a_restart_looks_again_when_it_has_taken_too_long() {
        let resync = Duration::from_secs(300);
        let left = Duration::from_secs(29);
        assert_eq!(Service::Failing(left).rest(resync), left);
        for service in [Service::Up, Service::Down(String::new())] {
            assert_eq!(service.rest(resync), resync);
        }
    }
}
