//! What a replica says of itself.

use pyramid_protocol::pb::v1::{self as pb, DataState};
use pyramid_tls::Tls;

use crate::data_dir::Identity;
use crate::member::{Member, Phase};

/// The answer to `GetInfo` in every phase.
pub(super) fn of(phase: &Phase, tls: Option<&Tls>) -> pb::GetInfoResponse {
    let info = match phase {
        Phase::Serving(member) => of_member(member),
        Phase::Starting(Identity { cluster_id, node_id, .. }) => pb::GetInfoResponse {
            cluster_id: cluster_id.to_vec().into(),
            node_id: *node_id,
            data_state: DataState::Member.into(),
            ..Default::default()
        },
        Phase::Empty => {
            pb::GetInfoResponse { data_state: DataState::Empty.into(), ..Default::default() }
        }
    };
    let (trust_bundle_sha256, serving_certificate_serial) = match tls.map(Tls::status) {
        Some(status) => (status.bundle_sha256, status.serial),
        None => Default::default(),
    };
    pb::GetInfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_bundle_sha256,
        serving_certificate_serial,
        ..info
    }
}

fn of_member(member: &Member) -> pb::GetInfoResponse {
    let usage = member.usage();
    let log = member.wal.log_state();
    let leads = member.consensus.leads().is_some();
    member.view.read(|state, _| {
        let applied = state.applied();
        pb::GetInfoResponse {
            cluster_id: member.cluster_id.to_vec().into(),
            node_id: member.node_id,
            data_state: DataState::Member.into(),
            leader: leads,
            term: applied.map_or(0, |at| at.term),
            applied_index: applied.map_or(0, |at| at.index),
            committed_index: log.committed.map_or(0, |at| at.index),
            config_index: state.membership().map_or(0, |(at, _)| at.index),
            feature_level: state.feature_level(),
            wal_bytes: usage.used_bytes,
            wal_bytes_max: usage.max_bytes,
            epoch: state.epoch(),
            log_time_ms: state.time_ms(),
            open_seals: u64::try_from(state.open_seal_count()).unwrap_or(u64::MAX),
            leader_id: if leads { member.node_id } else { 0 },
            free_disk_bytes: member.free_disk_bytes(),
            shipping_error: member.shipper.trouble(),
            ..Default::default()
        }
    })
}
