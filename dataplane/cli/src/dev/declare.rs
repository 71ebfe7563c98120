//! What a starting `pyramid dev` tells its Writer: who it is, and what is subscribed.

use std::net::SocketAddr;

use anyhow::{Context, anyhow, bail};
use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::{Entropy, StreamName, SystemEntropy};
use pyramid_storage::ClusterId;

use super::Subscribed;
use crate::connection::{Admin, refused};

/// What was found or made.
pub(super) struct Declared {
    pub(super) cluster_id: ClusterId,
    /// Streams that did not exist.
    pub(super) created: Vec<StreamName>,
}

/// Founds the cluster of a new directory, creates missing streams, declares the subscriptions.
pub(super) async fn declare(
    address: SocketAddr,
    subscribe: &[Subscribed],
) -> anyhow::Result<Declared> {
    let mut admin = Admin::open(&address.to_string()).await?;
    if admin.cluster_id.is_empty() {
        // The identity is written last and whole, so a crash leaves a founded directory or an empty
        // one, for which any id is as good.
        let mut cluster_id = [0; ClusterId::LEN];
        SystemEntropy.fill(&mut cluster_id);
        admin.cluster_id = cluster_id.to_vec().into();
        let request = pb::BootstrapRequest { cluster_id: admin.cluster_id.clone() };
        let founded = admin.calls.bootstrap(request).await.map_err(refused);
        founded.context("found the cluster of the new data directory")?;
    }
    let cluster_id = ClusterId::from_slice(&admin.cluster_id)
        .context("the Writer has a cluster id that is not 16 bytes")?;
    let mut created = Vec::new();
    for Subscribed { stream, .. } in subscribe {
        if create_if_missing(&mut admin, stream).await? {
            created.push(stream.clone());
        }
    }
    if subscribe.is_empty() {
        return Ok(Declared { cluster_id, created });
    }
    let subscriptions = subscribe.iter().map(|subscribed| pb::PutSubscription {
        object: Some(pb::ObjectRef { uid: subscribed.name(), generation: 1 }),
        name: subscribed.name(),
        streams: vec![subscribed.stream.to_string()],
        start_from: pb::StartFrom::Earliest.into(),
        paused: false,
        mode: pb::DeliveryMode::Broadcast.into(),
        ack_timeout_ms: 0,
        service_accounts: Vec::new(),
    });
    let request = pb::PutSubscriptionsRequest {
        cluster_id: admin.cluster_id.clone(),
        subscriptions: subscriptions.collect(),
    };
    let put = admin.calls.put_subscriptions(request).await.map_err(refused)?.into_inner();
    for (subscribed, result) in subscribe.iter().zip(put.results) {
        if let Some(refusal) = result.refused {
            let error = anyhow!(refusal.message);
            return Err(error.context(format!("--subscribe {}", subscribed.stream)));
        }
    }
    Ok(Declared { cluster_id, created })
}

/// Whether it was created. The settings of a stream that exists stay as they are.
async fn create_if_missing(admin: &mut Admin, stream: &StreamName) -> anyhow::Result<bool> {
    let mut after = String::new();
    loop {
        let request = pb::ListConfigRequest { after, limit: 0 };
        let list = admin.calls.list_config(request).await.map_err(refused)?.into_inner();
        let mut objects = list.objects.iter();
        if objects.any(|object| object.kind == "stream" && object.name == stream.as_str()) {
            return Ok(false);
        }
        if list.next.is_empty() {
            break;
        }
        after = list.next;
    }
    let put = pb::PutStream {
        object: Some(pb::ObjectRef { uid: format!("dev-{stream}"), generation: 1 }),
        name: stream.to_string(),
        settings: None,
        rights: None,
    };
    let (info, created) = admin.put_stream(put).await.context("create a subscribed stream")?;
    if info.name != stream.as_str() {
        bail!("the Writer created {} instead of {stream}", info.name);
    }
    Ok(created)
}
