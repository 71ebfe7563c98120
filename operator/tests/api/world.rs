//! A namespace of its own for each test.

use std::time::Duration;

use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};
use pyramid_e2e::cluster::ApiServer;
use pyramid_e2e::process::wait_until;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::wire::Wire;

/// For whatever a test waits for.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// From listening to ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) server: &'static ApiServer,
    /// Of the administrator.
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl World {
    /// The namespace has the name of the test.
    pub(crate) async fn new(namespace: &str) -> Self {
        let server = ApiServer::shared().await.unwrap();
        let file = Kubeconfig::read_from(server.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await.unwrap();
        // It belongs to the runtime of this test.
        let client = Client::try_from(config).unwrap();
        wait_until("the API server is ready", READY_TIMEOUT, async || {
            let request = Request::get("/readyz").body(Vec::new())?;
            Ok(client.request_text(request).await.is_ok_and(|answer| answer == "ok"))
        })
        .await
        .unwrap();
        let world = Self { server, client, namespace: namespace.to_owned() };
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let object = json!({"metadata": {"name": namespace}});
        let object = serde_json::from_value(object).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        world
    }

    /// A way to the server that can break.
    pub(crate) fn wire(&self) -> Wire {
        Wire::new(self.client.clone())
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Object,
        K::DynamicType: Default,
    {
        let object = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Object,
        K::DynamicType: Default,
    {
        self.api().get_opt(name).await.unwrap()
    }

    /// Changes it as somebody else would.
    pub(crate) async fn change<K>(&self, name: &str, change: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Object,
        K::DynamicType: Default,
    {
        let change = Patch::Merge(change);
        self.api().patch(name, &PatchParams::default(), &change).await.unwrap()
    }

    /// Deletes it and waits until it is gone.
    pub(crate) async fn delete<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope> + Object,
        K::DynamicType: Default,
    {
        let api: Api<K> = self.api();
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        api.delete(name, &params).await.unwrap();
        wait_until("it is gone", SOON, async || Ok(api.get_opt(name).await?.is_none()))
            .await
            .unwrap();
    }
}

/// What is written and read.
pub(crate) trait Object: Clone + std::fmt::Debug + Serialize + DeserializeOwned {}

impl<K: Clone + std::fmt::Debug + Serialize + DeserializeOwned> Object for K {}
