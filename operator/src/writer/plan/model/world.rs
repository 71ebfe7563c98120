//! The cluster of the model, and what happens in it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;

#[derive(Clone, Debug)]
pub(super) struct WriterObject {
    uid: u64,
    version: u64,
    replicas: i32,
    template: u64,
    when_deleted: Fate,
    pub(super) is_deleting: bool,
    is_forced: bool,
    has_finalizer: bool,
    cluster_id: Option<ClusterId>,
    member: Option<MemberSeen>,
}

#[derive(Clone, Debug)]
struct SetObject {
    uid: u64,
    owner: u64,
    template: u64,
    observed: Option<u64>,
}

#[derive(Clone, Debug)]
struct PodObject {
    uid: u64,
    set: u64,
    template: u64,
    is_up: bool,
    is_terminating: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ClaimObject {
    uid: u64,
    stamp: Option<ClusterId>,
    is_bound: bool,
    is_terminating: bool,
    /// `None`: empty.
    data: Option<ClusterId>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) writer: Option<WriterObject>,
    set: Option<SetObject>,
    pod: Option<PodObject>,
    pub(super) claim: Option<ClaimObject>,
    pub(super) kek: Option<u64>,
    pub(super) streams: usize,
    is_cut_off: bool,
    next: u64,
    are_children_applied: bool,
    is_tls_applied: bool,
    /// The key that was in use when a cluster was recorded as founded.
    founded: BTreeMap<String, u64>,
    /// Clusters that were founded, ever.
    pub(super) bootstrapped: BTreeSet<String>,
    /// What was done, for the message of a failure.
    pub(super) done: Vec<Step>,
}

/// Something that happens, by the user, the cluster or bad luck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The operator decides one step and does it.
    Operate,
    /// It is restarted.
    Crash,
    /// It is restarted when the children are applied and it does not know yet.
    CrashAmongChildren,
    /// The controllers of the cluster go on.
    Controllers,
    CreateWriter,
    DeleteWriter,
    ForceDelete,
    ChangeTemplate,
    KeepVolumes,
    DropVolumes,
    WantThree,
    WantOne,
    Bind,
    Unbind,
    CutOff,
    Rejoin,
    KillPod,
    DeleteSet,
    /// The disk dies, and comes back empty.
    WipeVolume,
    /// The claim is deleted, and made anew.
    ReplaceClaim,
    LoseKek,
}

pub(super) const HARMLESS: [Event; 17] = [
    Event::Crash,
    Event::CrashAmongChildren,
    Event::Controllers,
    Event::CreateWriter,
    Event::DeleteWriter,
    Event::ForceDelete,
    Event::ChangeTemplate,
    Event::KeepVolumes,
    Event::DropVolumes,
    Event::WantThree,
    Event::WantOne,
    Event::Bind,
    Event::Unbind,
    Event::CutOff,
    Event::Rejoin,
    Event::KillPod,
    Event::DeleteSet,
];
pub(super) const LOSSES: [Event; 3] = [Event::WipeVolume, Event::ReplaceClaim, Event::LoseKek];

impl World {
    fn uid(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn observe(&self) -> Option<Observed> {
        let writer = self.writer.as_ref()?;
        let set = self.set.as_ref();
        let is_ours = |set: &SetObject| set.owner == writer.uid;
        let deletion = writer.is_deleting.then_some(Deletion {
            is_namespace_terminating: false,
            is_forced: writer.is_forced,
            streams: self.streams,
        });
        let foreign = set.filter(|set| !is_ours(set)).map(|_| ForeignChild {
            child: "StatefulSet w-writer".to_owned(),
            owner: "Writer w".to_owned(),
            is_of_earlier: true,
        });
        Some(Observed {
            replicas: writer.replicas,
            when_deleted: writer.when_deleted,
            deletion,
            is_size_readable: true,
            has_finalizer: writer.has_finalizer,
            is_enabled: true,
            cluster_id: writer.cluster_id,
            member: writer.member.clone(),
            foreign,
            kek: if self.kek.is_some() { KekSeen::Present } else { KekSeen::Absent },
            missing: Vec::new(),
            are_children_applied: self.are_children_applied,
            is_tls_applied: self.is_tls_applied || self.are_children_applied,
            set: set.map(|set| SetSeen {
                uid: set.uid.to_string(),
                is_ours: is_ours(set),
                is_terminating: false,
                update_revision: set
                    .observed
                    .filter(|observed| *observed == set.template)
                    .map(|observed| observed.to_string()),
            }),
            pod: self.pod.as_ref().map(|pod| PodSeen {
                uid: pod.uid.to_string(),
                is_of_set: set.is_some_and(|set| set.uid == pod.set),
                revision: Some(pod.template.to_string()),
                is_ready: pod.is_up && self.claim.as_ref().is_some_and(|c| c.data.is_some()),
                is_terminating: pod.is_terminating,
            }),
            claim: self.claim.as_ref().map(|claim| ClaimSeen {
                uid: claim.uid.to_string(),
                stamp: claim.stamp.map(|id| id.to_string()),
                is_bound: claim.is_bound,
                is_terminating: claim.is_terminating,
                size: SizeSeen::Enough,
            }),
            data: self.data(),
        })
    }

    fn data(&self) -> DataSeen {
        let is_up = self.pod.as_ref().is_some_and(|pod| pod.is_up);
        match &self.claim {
            Some(claim) if is_up && !self.is_cut_off => match claim.data {
                None => DataSeen::Empty,
                Some(cluster_id) => DataSeen::Member { cluster_id, node_id: 1, leads: true },
            },
            Some(_) | None => DataSeen::Unknown,
        }
    }

    /// One step, with something that happens between deciding and doing it.
    pub(super) fn operate(&mut self, meanwhile: Option<Event>) -> Option<Step> {
        let seen = self.observe()?;
        let version = self.writer.as_ref().map(|writer| (writer.uid, writer.version));
        let step = plan(&seen);
        self.check(&seen, &step);
        if let Some(event) = meanwhile {
            self.happen(event);
        }
        self.act(&step, version);
        self.done.push(step.clone());
        Some(step)
    }

    /// The rules that no step may break.
    pub(super) fn check(&self, seen: &Observed, step: &Step) {
        let done = &self.done;
        match step {
            Step::Bootstrap { cluster_id } => assert!(
                !self.founded.contains_key(&cluster_id.to_string()),
                "a cluster is founded twice: {done:?}"
            ),
            Step::CreateKek => {
                let id = seen.cluster_id.map(|id| id.to_string()).unwrap_or_default();
                assert!(!self.founded.contains_key(&id), "a key is made twice: {done:?}");
            }
            Step::DeleteClaim { .. } | Step::DeleteSet { .. } => {
                let deletion = seen.deletion.expect("only a Writer that is being deleted");
                assert_eq!((deletion.streams, deletion.is_forced), (0, false), "{done:?}");
                assert!(seen.has_finalizer && seen.when_deleted == Fate::Delete, "{done:?}");
                if matches!(step, Step::DeleteClaim { .. }) {
                    assert_eq!((&seen.set, &seen.pod), (&None, &None), "{done:?}");
                }
            }
            Step::Stable => {
                let id = seen.cluster_id.expect("a name").to_string();
                assert_eq!(self.founded.get(&id).copied(), self.kek, "another key: {done:?}");
                let data = self.claim.as_ref().and_then(|claim| claim.data);
                let data = data.map(|cluster_id| cluster_id.to_string());
                assert_eq!(data, Some(id), "no data, or another cluster's: {done:?}");
            }
            Step::Stop(_)
            | Step::Wait(_)
            | Step::Gone
            | Step::AddFinalizer
            | Step::RemoveFinalizer
            | Step::NameCluster
            | Step::AdoptCluster { .. }
            | Step::ApplyTls
            | Step::ApplyChildren
            | Step::RecordMember { .. }
            | Step::StampClaim { .. }
            | Step::GrowClaim { .. }
            | Step::EvictPod { .. } => {}
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each step")]
    fn act(&mut self, step: &Step, version: Option<(u64, u64)>) {
        let kek = self.kek;
        let fresh = self.uid();
        let is_same = self.writer.as_ref().map(|writer| (writer.uid, writer.version)) == version;
        let writer = self.writer.as_mut().filter(|_| is_same);
        match step {
            Step::Stop(_) | Step::Wait(_) | Step::Stable | Step::Gone => self.end_pass(),
            Step::AddFinalizer => {
                if let Some(writer) = writer.filter(|writer| !writer.is_deleting) {
                    writer.has_finalizer = true;
                    writer.version += 1;
                }
            }
            Step::RemoveFinalizer => {
                if let Some(writer) = writer {
                    writer.has_finalizer = false;
                    writer.version += 1;
                    if writer.is_deleting {
                        self.writer = None;
                    }
                }
            }
            Step::NameCluster => {
                if let Some(writer) = writer {
                    writer.cluster_id = Some(ClusterId(u128::from(fresh).to_be_bytes()));
                    writer.version += 1;
                }
            }
            Step::AdoptCluster { cluster_id, volume_uid } => {
                if let Some(writer) = writer {
                    let volume_uid = Some(volume_uid.clone());
                    writer.cluster_id = Some(*cluster_id);
                    writer.member = Some(MemberSeen { node_id: UNKNOWN_NODE, volume_uid });
                    writer.version += 1;
                    let kek = kek.unwrap_or_default();
                    self.founded.entry(cluster_id.to_string()).or_insert(kek);
                }
            }
            Step::RecordMember { node_id, volume_uid } => {
                if let Some(writer) = writer {
                    let id = writer.cluster_id.expect("a name").to_string();
                    let volume_uid = Some(volume_uid.clone());
                    writer.member = Some(MemberSeen { node_id: *node_id, volume_uid });
                    writer.version += 1;
                    self.founded.entry(id).or_insert(kek.unwrap_or_default());
                }
            }
            Step::CreateKek => self.kek = self.kek.or(Some(fresh)),
            Step::ApplyTls => self.is_tls_applied = true,
            Step::ApplyChildren => self.apply_children(fresh),
            Step::Bootstrap { cluster_id } => {
                let is_up = self.pod.as_ref().is_some_and(|pod| pod.is_up) && !self.is_cut_off;
                if let Some(claim) = self.claim.as_mut().filter(|_| is_up)
                    && claim.data.is_none()
                {
                    claim.data = Some(*cluster_id);
                    self.bootstrapped.insert(cluster_id.to_string());
                }
            }
            Step::StampClaim { uid, cluster_id } => {
                if let Some(claim) = self.claim.as_mut().filter(|c| c.uid.to_string() == *uid) {
                    claim.stamp = Some(*cluster_id);
                }
            }
            Step::GrowClaim { .. } => unreachable!("sizes do not change in this model"),
            Step::EvictPod { uid } => {
                if let Some(pod) = self.pod.as_mut().filter(|pod| pod.uid.to_string() == *uid) {
                    pod.is_terminating = true;
                }
            }
            Step::DeleteSet { uid } => {
                self.set.take_if(|set| set.uid.to_string() == *uid);
            }
            Step::DeleteClaim { uid } => {
                if let Some(claim) = self.claim.as_mut().filter(|c| c.uid.to_string() == *uid) {
                    claim.is_terminating = true;
                }
            }
        }
    }

    /// An owner that is gone makes a child that is collected.
    fn apply_children(&mut self, uid: u64) {
        if let Some(writer) = &self.writer {
            let (owner, template) = (writer.uid, writer.template);
            match &mut self.set {
                Some(set) if set.owner == owner => set.template = template,
                Some(_) => {}
                None => self.set = Some(SetObject { uid, owner, template, observed: None }),
            }
        }
        self.are_children_applied = true;
    }

    fn end_pass(&mut self) {
        self.are_children_applied = false;
        self.is_tls_applied = false;
    }

    /// The garbage collector, the `StatefulSet`'s controller, scheduler, volumes and kubelet.
    fn controllers(&mut self) {
        let fresh = (self.uid(), self.uid());
        let owner = self.writer.as_ref().map(|writer| writer.uid);
        self.set.take_if(|set| Some(set.owner) != owner);
        let set = self.set.as_ref().map(|set| set.uid);
        self.pod.take_if(|pod| pod.is_terminating);
        if let Some(pod) = self.pod.as_mut().filter(|pod| Some(pod.set) != set) {
            pod.is_terminating = true;
        }
        let has_pod = self.pod.is_some();
        self.claim.take_if(|claim| claim.is_terminating && !has_pod);
        if let Some(claim) = &mut self.claim {
            claim.is_bound = true;
        }
        if let Some(pod) = self.pod.as_mut() {
            pod.is_up = self.claim.is_some();
        }
        if let Some(set) = &mut self.set {
            set.observed = Some(set.template);
            self.claim.get_or_insert(ClaimObject {
                uid: fresh.0,
                stamp: None,
                is_bound: false,
                is_terminating: false,
                data: None,
            });
            self.pod.get_or_insert(PodObject {
                uid: fresh.1,
                set: set.uid,
                template: set.template,
                is_up: false,
                is_terminating: false,
            });
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        let fresh = self.uid();
        let change = |writer: Option<&mut WriterObject>, how: fn(&mut WriterObject)| {
            if let Some(writer) = writer {
                how(writer);
                writer.version += 1;
            }
        };
        match event {
            Event::Operate => drop(self.operate(None)),
            Event::Crash => self.end_pass(),
            Event::CrashAmongChildren => {
                let decided = self.observe().map(|seen| plan(&seen));
                if decided == Some(Step::ApplyChildren) {
                    self.apply_children(fresh);
                    self.end_pass();
                }
            }
            Event::Controllers => self.controllers(),
            Event::CreateWriter => {
                self.writer.get_or_insert(WriterObject {
                    uid: fresh,
                    version: 0,
                    replicas: 1,
                    template: 1,
                    when_deleted: Fate::Retain,
                    is_deleting: false,
                    is_forced: false,
                    has_finalizer: false,
                    cluster_id: None,
                    member: None,
                });
            }
            Event::DeleteWriter => {
                change(self.writer.as_mut(), |writer| writer.is_deleting = true);
                self.writer.take_if(|writer| !writer.has_finalizer);
            }
            Event::ForceDelete => change(self.writer.as_mut(), |writer| writer.is_forced = true),
            Event::ChangeTemplate => change(self.writer.as_mut(), |writer| writer.template += 1),
            Event::KeepVolumes => {
                change(self.writer.as_mut(), |writer| writer.when_deleted = Fate::Retain);
            }
            Event::DropVolumes => {
                change(self.writer.as_mut(), |writer| writer.when_deleted = Fate::Delete);
            }
            Event::WantThree => change(self.writer.as_mut(), |writer| writer.replicas = 3),
            Event::WantOne => change(self.writer.as_mut(), |writer| writer.replicas = 1),
            Event::Bind => self.streams += 1,
            Event::Unbind => self.streams = self.streams.saturating_sub(1),
            Event::CutOff => self.is_cut_off = true,
            Event::Rejoin => self.is_cut_off = false,
            Event::KillPod => self.pod = None,
            Event::DeleteSet => self.set = None,
            Event::WipeVolume => {
                if let Some(claim) = &mut self.claim {
                    claim.data = None;
                }
            }
            Event::ReplaceClaim => (self.claim, self.pod) = (None, None),
            Event::LoseKek => self.kek = None,
        }
    }

    /// Time passes, the operator works, and nothing else happens. The last step.
    pub(super) fn rest(&mut self) -> Option<Step> {
        let mut last = None;
        for _ in 0..80 {
            for _ in 0..24 {
                last = self.operate(None);
                let ends = |step| matches!(step, &Step::Stop(_) | &Step::Wait(_) | &Step::Stable);
                if last.as_ref().is_none_or(ends) {
                    break;
                }
            }
            self.controllers();
        }
        last
    }
}
