//! A bucket of the shared server, as the programs open it.

use std::path::PathBuf;
use std::sync::Arc;

use pyramid_e2e::process::Folder;
use pyramid_e2e::seaweed::{Credentials, REGION, Seaweed};
use pyramid_storage::object_store::{S3Options, S3Settings};
use pyramid_storage::{ObjectStore, S3Store};

/// A bucket and the way to it.
pub(crate) struct Bucket {
    pub(crate) server: &'static Seaweed,
    pub(crate) name: String,
    pub(crate) options: S3Options,
    /// Holds the credentials.
    folder: Folder,
}

impl Bucket {
    /// A new one, reached by HTTP.
    pub(crate) async fn http() -> Self {
        Self::on(Seaweed::shared().await.unwrap()).await
    }

    /// A new one on a server that may be killed.
    pub(crate) async fn on_own_server() -> Self {
        // It ends with this process.
        Self::on(Box::leak(Box::new(Seaweed::start().await.unwrap()))).await
    }

    async fn on(server: &'static Seaweed) -> Self {
        let name = server.new_bucket().await.unwrap();
        let folder = Folder::new().unwrap();
        let mut bucket = Self { server, name, options: S3Options::default(), folder };
        bucket.options = S3Options {
            endpoint: Some(server.http()),
            region: Some(REGION.to_owned()),
            ca_file: None,
            credentials_dir: Some(bucket.credentials("admin", &Credentials::admin())),
        };
        bucket
    }

    /// A new one, reached by HTTPS.
    pub(crate) async fn https() -> Self {
        let mut bucket = Self::http().await;
        bucket.options.endpoint = Some(bucket.server.https());
        bucket.options.ca_file = Some(bucket.server.ca());
        bucket
    }

    /// Of each kind one.
    pub(crate) async fn both() -> [Self; 2] {
        [Self::http().await, Self::https().await]
    }

    /// The folder that holds these credentials.
    pub(crate) fn credentials(&self, name: &str, credentials: &Credentials) -> PathBuf {
        let folder = self.folder.join(name);
        credentials.write_into(&folder).unwrap();
        folder
    }

    pub(crate) async fn open(&self) -> Arc<dyn ObjectStore> {
        self.open_with(self.options.clone()).await
    }

    /// Opens it with other settings.
    pub(crate) async fn open_with(&self, options: S3Options) -> Arc<dyn ObjectStore> {
        let settings = S3Settings::new(&self.name, options).unwrap();
        Arc::new(S3Store::open(&settings).await.unwrap())
    }
}
