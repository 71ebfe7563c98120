//! What a starting `pyramid dev` tells its Writer: who it is, and what is subscribed.

use std::fs;

use anyhow::{Context, anyhow, bail};
use pyramid_protocol::pb::v1::{self as pb, Reason};
use pyramid_protocol::{Entropy, StreamName, SystemEntropy};
use pyramid_storage::ClusterId;

use super::Subscribed;
use super::certificates;
use super::folder::Folder;
use crate::connection::admin::{Admin, Put};
use crate::connection::refused;
use crate::stream::control::{NOTHING, own_rights};
use crate::stream::rights::again;

/// What was found or made.
pub(super) struct Declared {
    pub(super) cluster_id: ClusterId,
    /// Streams that did not exist.
    pub(super) created: Vec<StreamName>,
}

/// Founds the cluster of a new directory, gives rights to streams from before there were any,
/// creates missing streams, declares the subscriptions.
pub(super) async fn declare(
    mut admin: Admin,
    folder: &Folder,
    trust_domain: &str,
    subscribe: &[Subscribed],
) -> anyhow::Result<Declared> {
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
    if folder.rights_due.exists() {
        give_rights(&mut admin).await.context("give the user rights on older streams")?;
        fs::remove_file(&folder.rights_due)
            .with_context(|| format!("remove {}", folder.rights_due.display()))?;
    }
    let mut created = Vec::new();
    for Subscribed { stream, .. } in subscribe {
        if create_if_missing(&mut admin, stream).await? {
            created.push(stream.clone());
        }
    }
    if subscribe.is_empty() {
        return Ok(Declared { cluster_id, created });
    }
    let pusher = certificates::pusher(trust_domain)?.as_str().to_owned();
    let subscriptions = subscribe.iter().map(|subscribed| pb::PutSubscription {
        object: Some(pb::ObjectRef { uid: subscribed.name(), generation: 1 }),
        name: subscribed.name(),
        streams: vec![subscribed.stream.to_string()],
        start_from: pb::StartFrom::Earliest.into(),
        paused: false,
        mode: pb::DeliveryMode::Broadcast.into(),
        ack_timeout_ms: 0,
        service_accounts: vec![pusher.clone()],
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

/// Whether it was created. Settings and rights of a stream that exists stay as they are.
async fn create_if_missing(admin: &mut Admin, stream: &StreamName) -> anyhow::Result<bool> {
    let mut rights = pb::StreamRights::default();
    own_rights(&mut rights, admin.caller())?;
    let put = pb::PutStream {
        object: Some(pb::ObjectRef { uid: format!("dev-{stream}"), generation: 1 }),
        name: stream.to_string(),
        settings: None,
        rights: Some(rights),
        expected: Some(NOTHING),
    };
    match admin.put_stream(put).await.context("create a subscribed stream")? {
        Put::Done { created, .. } => Ok(created),
        Put::Refused(refusal) if refusal.reason() == Reason::AlreadyExists => Ok(false),
        Put::Refused(refusal) => {
            bail!("create the subscribed stream {stream}: {}", refusal.message)
        }
    }
}

/// Gives the user, as to streams that it creates, rights on every stream on which nobody has any.
async fn give_rights(admin: &mut Admin) -> anyhow::Result<()> {
    let mut rights = pb::StreamRights::default();
    own_rights(&mut rights, admin.caller())?;
    let mut after = String::new();
    loop {
        let request = pb::ListConfigRequest { after, limit: 0 };
        let list = admin.calls.list_config(request).await.map_err(refused)?.into_inner();
        for object in list.objects.iter().filter(|object| object.kind == "stream") {
            let name: StreamName = object.name.parse()?;
            let Some(config) = admin.stream_config(&name).await? else { continue };
            let has_none = config.rights.unwrap_or_default() == pb::StreamRights::default();
            let (Some(stream), Some(object), true) = (config.stream, config.object, has_none)
            else {
                continue;
            };
            let put = again(&name, stream.settings, object, rights.clone());
            if let Put::Refused(refusal) = admin.put_stream(put).await? {
                bail!("{name}: {}", refusal.message);
            }
        }
        if list.next.is_empty() {
            return Ok(());
        }
        after = list.next;
    }
}
