//! [`Writers`]: calls to the `Admin` service of Writers.

use std::sync::Arc;

use pyramid_protocol::net::{Connect, TcpConnect};
use pyramid_tls::Tls;

/// Opens connections to replicas; clones share them.
#[derive(Clone)]
pub(crate) struct Writers {
    connect: Arc<dyn Connect>,
}

impl Writers {
    /// `tls` is the operator's own identity.
    pub(crate) fn new(tls: &Tls) -> Self {
        Self { connect: Arc::new(tls.connect(Arc::new(TcpConnect))) }
    }
}
