//! [`plan`]: what to do next about one Writer. Pure; the rest of the controller reads and acts.
//!
//! One step at a time, decided from what is there and from nothing else: a crash between two
//! steps is the same as a long pause. The order of the steps is the safety:
//!
//! * The cluster id is written down before there is a replica that could be founded under it.
//! * A replica is founded only while nothing says that one was: no member in the status, no mark on
//!   the volume. Afterwards an empty volume is a lost one, and nobody but a person mends that.
//! * Volumes go only under a finalizer of a Writer that is being deleted, after its `StatefulSet`.

mod cluster_id;

use pyramid_crds::writer::Fate;

pub(crate) use self::cluster_id::{ClusterId, ParseClusterIdError};

/// All that decides about the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// As the spec asks for.
    pub(crate) replicas: i32,
    pub(crate) when_deleted: Fate,
    /// Set if the Writer is being deleted.
    pub(crate) deletion: Option<Deletion>,
    /// The spec says a size from which that of the log follows.
    pub(crate) is_size_readable: bool,
    /// Ours, which protects the volumes.
    pub(crate) has_finalizer: bool,
    /// The operator may work in this namespace. If not, nothing below is known.
    pub(crate) is_enabled: bool,
    /// Of the status.
    pub(crate) cluster_id: Option<ClusterId>,
    /// Of the status. With it, the Writer is founded.
    pub(crate) member: Option<MemberSeen>,
    /// A child with the right name and another owner; the first that was found.
    pub(crate) foreign: Option<ForeignChild>,
    pub(crate) kek: KekSeen,
    /// What the spec names and is not there, such as a Secret; in words.
    pub(crate) missing: Vec<String>,
    /// This pass has applied the children.
    pub(crate) are_children_applied: bool,
    /// This pass has looked after the certificate.
    pub(crate) is_tls_applied: bool,
    pub(crate) set: Option<SetSeen>,
    pub(crate) pod: Option<PodSeen>,
    pub(crate) claim: Option<ClaimSeen>,
    pub(crate) data: DataSeen,
}

/// A Writer that is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deletion {
    pub(crate) is_namespace_terminating: bool,
    /// By annotation: leave the volumes and go.
    pub(crate) is_forced: bool,
    /// How many Streams name the Writer.
    pub(crate) streams: usize,
}

/// The member in the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberSeen {
    /// [`UNKNOWN_NODE`] until the replica has told it.
    pub(crate) node_id: u64,
    pub(crate) volume_uid: Option<String>,
}

/// Node id of a member that was taken over with its volume and was not asked yet.
pub(crate) const UNKNOWN_NODE: u64 = 0;

/// A child that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignChild {
    /// Kind and name.
    pub(crate) child: String,
    /// Kind and name of its owner, or that it has none.
    pub(crate) owner: String,
    /// Of an earlier Writer of this name: it is about to be collected.
    pub(crate) is_of_earlier: bool,
}

/// The key-encryption key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KekSeen {
    /// The Secret that the operator makes is not there.
    Absent,
    /// It is there.
    Present,
    /// The user's own.
    OfUser,
    /// The user's own is not there; it is named in [`Observed::missing`].
    OfUserAbsent,
}

/// The `StatefulSet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetSeen {
    pub(crate) uid: String,
    /// Its owner is this Writer.
    pub(crate) is_ours: bool,
    pub(crate) is_terminating: bool,
    /// The hash that its newest template gives to Pods. `None` as long as its controller has not
    /// seen that template.
    pub(crate) update_revision: Option<String>,
}

/// The Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodSeen {
    pub(crate) uid: String,
    /// The `StatefulSet` that is there now has made it.
    pub(crate) is_of_set: bool,
    pub(crate) revision: Option<String>,
    pub(crate) is_ready: bool,
    pub(crate) is_terminating: bool,
}

/// The volume claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimSeen {
    pub(crate) uid: String,
    /// The mark that says whose data it holds.
    pub(crate) stamp: Option<String>,
    pub(crate) is_bound: bool,
    pub(crate) is_terminating: bool,
    pub(crate) size: SizeSeen,
}

/// How the size of a volume compares with the one that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeSeen {
    /// Large enough.
    Enough,
    /// Asked to grow, and does.
    Growing,
    /// Too small, and its class can grow it.
    Small,
    /// Too small, and its class cannot grow it.
    Fixed,
}

/// What the replica says about its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataSeen {
    /// It does not answer.
    Unknown,
    Empty,
    Member {
        cluster_id: ClusterId,
        node_id: u64,
        leads: bool,
    },
    /// Of a form or a disk that it does not take.
    Foreign,
    /// Not to be read.
    Damaged,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, and only a person can change that.
    Stop(Stop),
    /// Nothing now: something else has to happen first.
    Wait(Wait),
    /// Nothing: all is as it should be.
    Stable,
    /// Nothing: the Writer goes, and holds nobody up.
    Gone,
    AddFinalizer,
    RemoveFinalizer,
    /// Draw a cluster id and write it into the status.
    NameCluster,
    /// Write the cluster id of a kept volume into the status, and the volume as its member.
    AdoptCluster {
        cluster_id: ClusterId,
        volume_uid: String,
    },
    CreateKek,
    /// The Secret of the certificate only.
    ApplyTls,
    /// Account, certificate, Services, and then the `StatefulSet`.
    ApplyChildren,
    Bootstrap {
        cluster_id: ClusterId,
    },
    /// Write the member into the status. From then on the Writer is founded.
    RecordMember {
        node_id: u64,
        volume_uid: String,
    },
    /// Mark the volume with the cluster id.
    StampClaim {
        uid: String,
        cluster_id: ClusterId,
    },
    GrowClaim {
        uid: String,
    },
    EvictPod {
        uid: String,
    },
    DeleteSet {
        uid: String,
    },
    DeleteClaim {
        uid: String,
    },
}

/// Why a person has to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    NamespaceNotEnabled,
    ReplicasNotSupported,
    /// The size of the volumes is no number of bytes that the operator can reckon with.
    SizeUnreadable,
    /// The API server refuses what was to be done, and will again; in its words.
    Refused(String),
    ForeignChild(ForeignChild),
    /// The Writer is founded, and the Secret with its key is gone.
    KekLost,
    /// The Writer is founded, and its volume is empty.
    VolumeLost,
    /// The volume holds data that is not this Writer's; in words.
    ForeignVolume(String),
}

impl Stop {
    /// Whether a replica that serves goes on to, and is said to: only what is new in the spec does
    /// not count.
    pub(crate) fn leaves_it_serving(&self) -> bool {
        match self {
            Self::SizeUnreadable | Self::Refused(_) => true,
            Self::NamespaceNotEnabled
            | Self::ReplicasNotSupported
            | Self::ForeignChild(_)
            | Self::KekLost
            | Self::VolumeLost
            | Self::ForeignVolume(_) => false,
        }
    }
}

/// What has to happen first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The garbage collector removes what an earlier Writer of this name has left.
    EarlierWriter,
    /// The claim of an earlier Writer goes.
    EarlierClaim,
    /// Somebody makes what the spec names.
    Missing,
    /// The `StatefulSet` goes, or its controller has not seen its newest form.
    StatefulSet,
    /// The Pod comes up.
    Pod,
    /// The volume is bound, and the replica says that it is empty.
    Empty,
    /// The replica answers.
    Answer,
    /// The replica leads and is ready.
    Leader,
    /// The volume grows.
    Growth,
    /// Streams are bound to the Writer that is being deleted.
    Streams,
    /// What is being deleted goes.
    Deletion,
}

/// The next step.
pub(crate) fn plan(seen: &Observed) -> Step {
    if let Some(deletion) = seen.deletion {
        return plan_deletion(seen, deletion);
    }
    if !seen.is_enabled {
        return Step::Stop(Stop::NamespaceNotEnabled);
    }
    if seen.replicas != 1 {
        return certificate_and(seen, Step::Stop(Stop::ReplicasNotSupported));
    }
    if !seen.is_size_readable {
        return certificate_and(seen, Step::Stop(Stop::SizeUnreadable));
    }
    if let Some(foreign) = &seen.foreign {
        return if foreign.is_of_earlier {
            Step::Wait(Wait::EarlierWriter)
        } else {
            Step::Stop(Stop::ForeignChild(foreign.clone()))
        };
    }
    match (seen.when_deleted, seen.has_finalizer) {
        (Fate::Delete, false) => return Step::AddFinalizer,
        (Fate::Retain, true) => return Step::RemoveFinalizer,
        (Fate::Delete, true) | (Fate::Retain, false) => {}
    }
    match seen.cluster_id {
        Some(cluster_id) => plan_cluster(seen, cluster_id),
        None => plan_identity(seen),
    }
}

/// A Writer without a cluster id takes that of a volume that was kept, or a new one.
fn plan_identity(seen: &Observed) -> Step {
    let Some(claim) = &seen.claim else {
        return Step::NameCluster;
    };
    if claim.is_terminating {
        return Step::Wait(Wait::EarlierClaim);
    }
    let Some(stamp) = &claim.stamp else {
        return Step::NameCluster;
    };
    match stamp.parse() {
        Ok(cluster_id) => Step::AdoptCluster { cluster_id, volume_uid: claim.uid.clone() },
        Err(error) => Step::Stop(Stop::ForeignVolume(format!("its mark is {stamp:?}: {error}"))),
    }
}

fn plan_cluster(seen: &Observed, cluster_id: ClusterId) -> Step {
    let stamp = seen.claim.as_ref().and_then(|claim| claim.stamp.as_deref());
    let is_stamped = stamp == Some(&*cluster_id.to_string());
    if let Some(stamp) = stamp
        && !is_stamped
    {
        let words = format!("it is marked as that of cluster {stamp}");
        return certificate_and(seen, Step::Stop(Stop::ForeignVolume(words)));
    }
    let is_founded = seen.member.is_some() || is_stamped;
    match seen.kek {
        // A second key would not open what the first has closed.
        KekSeen::Absent | KekSeen::OfUserAbsent if is_founded => {
            return certificate_and(seen, Step::Stop(Stop::KekLost));
        }
        KekSeen::Absent => return Step::CreateKek,
        KekSeen::Present | KekSeen::OfUser | KekSeen::OfUserAbsent => {}
    }
    if !seen.missing.is_empty() && seen.set.is_none() {
        // A volume that was missing once is tried again only after a while.
        return Step::Wait(Wait::Missing);
    }
    if !seen.are_children_applied {
        return Step::ApplyChildren;
    }
    let set = seen.set.as_ref().filter(|set| set.is_ours && !set.is_terminating);
    let Some(set) = set else {
        return Step::Wait(Wait::StatefulSet);
    };
    let pod = seen.pod.as_ref().filter(|pod| pod.is_of_set && !pod.is_terminating);
    if let Some(step) = plan_kept_volume(seen, cluster_id, pod.is_some(), is_founded) {
        return step;
    }
    if let Some(stop) = broken_data(seen.data, cluster_id, is_founded) {
        return Step::Stop(stop);
    }
    plan_replica(seen, cluster_id, set, pod, is_founded)
}

/// A Writer that was never founded takes the volume of its name as it is, also if the earlier
/// Writer had no time to mark it.
fn plan_kept_volume(
    seen: &Observed,
    named: ClusterId,
    has_pod: bool,
    is_founded: bool,
) -> Option<Step> {
    let claim = seen.claim.as_ref().filter(|claim| claim.is_bound && !claim.is_terminating)?;
    match seen.data {
        DataSeen::Member { cluster_id, .. } if cluster_id != named && has_pod && !is_founded => {
            Some(Step::AdoptCluster { cluster_id, volume_uid: claim.uid.clone() })
        }
        DataSeen::Member { .. }
        | DataSeen::Unknown
        | DataSeen::Empty
        | DataSeen::Foreign
        | DataSeen::Damaged => None,
    }
}

/// A volume that is not the one that it should be.
fn broken_data(data: DataSeen, cluster_id: ClusterId, is_founded: bool) -> Option<Stop> {
    let foreign = |words: String| Some(Stop::ForeignVolume(words));
    match data {
        DataSeen::Empty if is_founded => Some(Stop::VolumeLost),
        DataSeen::Member { cluster_id: found, .. } if found != cluster_id => {
            foreign(format!("it holds data of cluster {found}"))
        }
        DataSeen::Foreign => foreign("it holds data that this replica does not take".to_owned()),
        DataSeen::Damaged => foreign("its data cannot be read".to_owned()),
        DataSeen::Unknown | DataSeen::Empty | DataSeen::Member { .. } => None,
    }
}

fn plan_replica(
    seen: &Observed,
    cluster_id: ClusterId,
    set: &SetSeen,
    pod: Option<&PodSeen>,
    is_founded: bool,
) -> Step {
    let claim = seen.claim.as_ref().filter(|claim| claim.is_bound && !claim.is_terminating);
    if let (DataSeen::Member { node_id, .. }, Some(claim)) = (seen.data, claim) {
        // Marked first: a volume without a mark never held anything under a key that may be lost.
        if claim.stamp.is_none() {
            return Step::StampClaim { uid: claim.uid.clone(), cluster_id };
        }
        let volume_uid = &claim.uid;
        let is_recorded = seen.member.as_ref().is_some_and(|member| {
            member.node_id == node_id && member.volume_uid.as_ref() == Some(volume_uid)
        });
        if !is_recorded {
            return Step::RecordMember { node_id, volume_uid: volume_uid.clone() };
        }
    }
    let Some(revision) = &set.update_revision else {
        return Step::Wait(Wait::StatefulSet);
    };
    let Some(pod) = pod else {
        return Step::Wait(Wait::Pod);
    };
    // Also one that is not ready: it may never become so with its old template.
    if pod.revision.as_ref() != Some(revision) {
        return Step::EvictPod { uid: pod.uid.clone() };
    }
    let Some(claim) = claim else {
        return Step::Wait(if is_founded { Wait::Pod } else { Wait::Empty });
    };
    match claim.size {
        SizeSeen::Small => return Step::GrowClaim { uid: claim.uid.clone() },
        SizeSeen::Enough | SizeSeen::Growing | SizeSeen::Fixed => {}
    }
    match seen.data {
        DataSeen::Empty => Step::Bootstrap { cluster_id },
        DataSeen::Member { leads: true, .. } if pod.is_ready => match claim.size {
            SizeSeen::Growing => Step::Wait(Wait::Growth),
            SizeSeen::Enough | SizeSeen::Small | SizeSeen::Fixed => Step::Stable,
        },
        DataSeen::Member { .. } => Step::Wait(Wait::Leader),
        DataSeen::Unknown | DataSeen::Foreign | DataSeen::Damaged => Step::Wait(Wait::Answer),
    }
}

/// Looks after the certificate of a Writer that runs, and then does no more: whatever else is the
/// matter, it must be able to prove who it is.
fn certificate_and(seen: &Observed, last: Step) -> Step {
    let runs = seen.set.as_ref().is_some_and(|set| set.is_ours);
    if runs && !seen.is_tls_applied && seen.foreign.is_none() { Step::ApplyTls } else { last }
}

fn plan_deletion(seen: &Observed, deletion: Deletion) -> Step {
    if !seen.has_finalizer {
        // What has an owner is collected with it.
        return Step::Gone;
    }
    let Deletion { is_namespace_terminating, is_forced, streams } = deletion;
    if is_namespace_terminating || is_forced || seen.when_deleted == Fate::Retain {
        return Step::RemoveFinalizer;
    }
    if !seen.is_enabled {
        return Step::Stop(Stop::NamespaceNotEnabled);
    }
    if streams > 0 {
        return certificate_and(seen, Step::Wait(Wait::Streams));
    }
    let Some(cluster_id) = seen.cluster_id else {
        // It never had a volume.
        return Step::RemoveFinalizer;
    };
    match &seen.set {
        Some(set) if !set.is_ours => return Step::RemoveFinalizer,
        Some(set) if set.is_terminating => return Step::Wait(Wait::Deletion),
        Some(set) => return Step::DeleteSet { uid: set.uid.clone() },
        None => {}
    }
    if seen.pod.is_some() {
        return Step::Wait(Wait::Deletion);
    }
    let is_of_cluster = |stamp: &str| stamp == cluster_id.to_string();
    match &seen.claim {
        None => Step::RemoveFinalizer,
        Some(claim) if claim.stamp.as_deref().is_some_and(|stamp| !is_of_cluster(stamp)) => {
            Step::RemoveFinalizer
        }
        Some(claim) if claim.is_terminating => Step::Wait(Wait::Deletion),
        Some(claim) => Step::DeleteClaim { uid: claim.uid.clone() },
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
