//! The Admin service of one Writer.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use pyramid_protocol::net::{self, Connect};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{SpiffeId, StreamName};
use tonic::transport::Channel;

use super::refused;
use crate::identity::Named;

/// As whom the command works with records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Nobody: without TLS all rights are there.
    Plain,
    /// The user of a `pyramid dev`.
    Dev {
        /// Whose name is in the certificate.
        user: SpiffeId,
    },
    /// Somebody else.
    Named {
        /// Whose name is in the certificate.
        user: SpiffeId,
    },
}

/// The Admin service of one cluster.
pub(crate) struct Admin {
    pub(crate) calls: AdminClient<Channel>,
    /// 16 bytes; empty as long as the replica is not founded.
    pub(crate) cluster_id: Bytes,
    caller: Caller,
}

/// What became of a declared stream.
pub(crate) enum Put {
    /// It is as declared.
    Done {
        info: pb::StreamInfo,
        created: bool,
    },
    Refused(Refusal),
}

impl Admin {
    /// Asks whose it is.
    pub(crate) async fn open(
        connect: Arc<dyn Connect>,
        address: &str,
        caller: Caller,
    ) -> anyhow::Result<Self> {
        let channel = net::channel(connect, address)
            .with_context(|| format!("{address:?} is not host:port"))?;
        let mut calls = AdminClient::new(channel);
        let info = calls.get_info(pb::GetInfoRequest {}).await.map_err(refused)?.into_inner();
        Ok(Self { calls, cluster_id: info.cluster_id, caller })
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The identity that is meant.
    ///
    /// # Errors
    ///
    /// It is none.
    pub(crate) fn identity_of(&self, name: &Named) -> anyhow::Result<SpiffeId> {
        match &self.caller {
            Caller::Dev { user } => name.resolve(Some(user.trust_domain())),
            Caller::Named { .. } | Caller::Plain => name.resolve(None),
        }
    }

    /// A stream as it is declared, if there is one of this name.
    pub(crate) async fn stream_config(
        &mut self,
        name: &StreamName,
    ) -> anyhow::Result<Option<pb::GetStreamConfigResponse>> {
        let request = pb::GetStreamConfigRequest { name: name.to_string() };
        match self.calls.get_stream_config(request).await {
            Ok(found) => Ok(Some(found.into_inner())),
            Err(status) if Refusal::from_status(&status).reason() == Reason::NotFound => Ok(None),
            Err(status) => Err(refused(status)),
        }
    }

    /// Declares a stream.
    pub(crate) async fn put_stream(&mut self, put: pb::PutStream) -> anyhow::Result<Put> {
        let request =
            pb::PutStreamsRequest { cluster_id: self.cluster_id.clone(), streams: vec![put] };
        let response = self.calls.put_streams(request).await.map_err(refused)?.into_inner();
        let put = response.results.into_iter().next().context("the Writer gave no answer")?;
        match put.result {
            Some(pb::put_stream_result::Result::Stream(info)) => {
                Ok(Put::Done { info, created: put.created })
            }
            Some(pb::put_stream_result::Result::Refused(refusal)) => Ok(Put::Refused(refusal)),
            None => bail!("the Writer gave an empty answer"),
        }
    }
}
