//! The object store of a cluster: `SeaweedFS` beside the control plane, as a unit of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use http::{Method, StatusCode};
use pyramid_storage::object_store::{S3Options, S3Settings};
use pyramid_storage::{ObjectKey, ObjectStore, S3Store};

use crate::cluster::Cluster;
use crate::cluster::layout::Layout;
use crate::cluster::unit::{self, Part, Unit, quoted};
use crate::process::wait_until;
use crate::seaweed::signed::Request;
use crate::seaweed::{self, Credentials, REGION};

/// The name of the unit.
pub(super) const UNIT: &str = "s3";

/// Its port, for everybody.
const PORT: u16 = 8333;

/// The bucket that is there from the begin.
pub const BUCKET: &str = "pyramid-test";

/// The URL of the object store for pods.
pub const ENDPOINT: &str = "http://s3.pyramid-test.svc:8333";

/// How long it may take to serve. Usual are 4 s.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The unit, with the files that it reads.
///
/// # Errors
/// The program or the state directory is not there.
pub(super) fn unit(layout: &Layout) -> anyhow::Result<Unit> {
    let program = seaweed::program()?.canonicalize()?;
    let folder = layout.path("s3");
    std::fs::create_dir_all(folder.join("data"))?;
    std::fs::write(folder.join("identities.json"), seaweed::identities())?;
    // The server puts sockets with fixed names into /tmp, where this cluster's state may be, too.
    let word = |path: &std::path::Path| quoted(&path.display().to_string());
    let setup = format!(
        "mount -t tmpfs own /run\n\
         mkdir /run/state\n\
         touch /run/weed\n\
         mount --bind {} /run/state\n\
         mount --bind {} /run/weed\n\
         mount -t tmpfs own /tmp\n\
         cd /run/state\n",
        word(&folder),
        word(&program)
    );
    let mut arguments = vec!["server".to_owned(), "-filer".to_owned(), "-s3".to_owned()];
    for (flag, value) in [
        ("ip", layout.plane().to_string()),
        ("ip.bind", "0.0.0.0".to_owned()),
        ("dir", "/run/state/data".to_owned()),
        ("s3.port", PORT.to_string()),
        ("s3.port.iceberg", "0".to_owned()),
        ("s3.port.lance", "0".to_owned()),
        ("s3.config", "/run/state/identities.json".to_owned()),
        ("s3.iam", "false".to_owned()),
        // Else a put into a missing bucket creates it.
        ("s3.autoCreateBucket", "false".to_owned()),
        ("volume.max", "2000".to_owned()),
        ("master.volumeSizeLimitMB", "64".to_owned()),
        ("master.telemetry", "false".to_owned()),
        ("master.electionTimeout", "500ms".to_owned()),
        ("master.heartbeatInterval", "100ms".to_owned()),
        ("master.resumeState", "false".to_owned()),
    ] {
        arguments.push(format!("-{flag}={value}"));
    }
    Ok(Unit {
        name: UNIT.to_owned(),
        network: layout.plane_namespace(),
        setup,
        parts: vec![Part { name: "weed", program: "/run/weed".into(), arguments }],
    })
}

/// The object store of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct S3<'a> {
    pub(super) cluster: &'a Cluster,
}

impl S3<'_> {
    /// kill -9. What it stored stays.
    ///
    /// # Errors
    /// Its processes do not go.
    pub async fn stop(&self) -> anyhow::Result<()> {
        unit::end(&self.cluster.layout, UNIT).await
    }

    /// Starts it and waits until it serves and the bucket is there.
    ///
    /// # Errors
    /// It does not serve.
    pub async fn start(&self) -> anyhow::Result<()> {
        let layout = &self.cluster.layout;
        if !unit::runs(layout, UNIT) {
            unit(layout)?.start(layout).await?;
        }
        wait_until("SeaweedFS serves", START_TIMEOUT, async || Ok(self.stores().await)).await
    }

    /// Whether the bucket is there and takes content. Buckets are known sooner than volumes.
    async fn stores(&self) -> bool {
        let send = async |method, path: String| {
            let request = Request::new(method, path).body(bytes::Bytes::from_static(b"content"));
            request.send(self.address(), &Credentials::admin()).await.ok().map(|answer| answer.0)
        };
        let bucket = send(Method::PUT, format!("/{BUCKET}")).await;
        let object = format!("/{BUCKET}/.ready");
        // A server that was started again has the bucket already.
        matches!(bucket, Some(StatusCode::OK | StatusCode::CONFLICT))
            && send(Method::PUT, object.clone()).await == Some(StatusCode::OK)
            && send(Method::DELETE, object).await == Some(StatusCode::NO_CONTENT)
    }

    /// Where it listens, for the machine.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.cluster.layout.plane_for_host(), PORT).into()
    }

    /// The bucket, as the machine's programs open it.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub async fn open(&self) -> anyhow::Result<Arc<dyn ObjectStore>> {
        let credentials = self.cluster.layout.path("s3-credentials");
        Credentials::admin().write_into(&credentials)?;
        let options = S3Options {
            endpoint: Some(format!("http://{}", self.address())),
            region: Some(REGION.to_owned()),
            ca_file: None,
            credentials_dir: Some(credentials),
        };
        Ok(Arc::new(S3Store::open(&S3Settings::new(BUCKET, options)?).await?))
    }

    /// The keys of all objects of the bucket that begin so, in order.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn list(&self, prefix: &str) -> anyhow::Result<Vec<ObjectKey>> {
        let store = self.open().await?;
        let mut keys: Vec<ObjectKey> = Vec::new();
        loop {
            let listing = store.list(prefix, keys.last()).await?;
            ensure!(!listing.more || !listing.objects.is_empty(), "a page of a list is empty");
            keys.extend(listing.objects.into_iter().map(|object| object.key));
            if !listing.more {
                return Ok(keys);
            }
        }
    }
}
