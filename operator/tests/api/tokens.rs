//! Service accounts, pods and the tokens of both.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use pyramid_protocol::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::world::World;

/// The audience that the issuer asks for.
pub(crate) const AUDIENCE: &str = "pyramid-issuer";

impl World {
    /// Makes the service account `web`.
    pub(crate) async fn account(&self) -> ServiceAccount {
        self.create(json!({"metadata": {"name": "web"}})).await
    }

    /// Makes a pod of that account. There is no kubelet: it stays Pending.
    pub(crate) async fn pod(&self, name: &str, annotations: &[&str]) -> Pod {
        let annotations: Value = annotations.iter().map(|name| (*name, "*")).collect();
        self.create(json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "serviceAccountName": "web",
                "containers": [{"name": "web", "image": "web:1"}],
            },
        }))
        .await
    }

    /// Tells that the pod is in this phase, as its kubelet would.
    pub(crate) async fn set_phase(&self, name: &str, phase: &str) {
        let pods: Api<Pod> = self.api();
        let change = Patch::Merge(json!({"status": {"phase": phase}}));
        pods.patch_status(name, &PatchParams::default(), &change).await.unwrap();
    }

    /// A token of the account, as the API server gives it out; of a pod if one is named.
    pub(crate) async fn token(&self, audience: &str, pod: Option<&Pod>) -> String {
        let bound = pod.map(|pod| {
            let Pod { metadata, .. } = pod;
            json!({"kind": "Pod", "apiVersion": "v1", "name": metadata.name, "uid": metadata.uid})
        });
        let request = json!({
            "metadata": {},
            "spec": {"audiences": [audience], "boundObjectRef": bound, "expirationSeconds": 600},
        });
        let request: TokenRequest = serde_json::from_value(request).unwrap();
        let accounts: Api<ServiceAccount> = self.api();
        let answer = accounts.create_token_request("web", &PostParams::default(), &request).await;
        answer.unwrap().status.unwrap().token
    }

    /// A token of the account as it would be if it had been given out at another time. Unit: seconds
    /// from now on.
    pub(crate) fn signed_token(&self, account: &ServiceAccount, from: i64, to: i64) -> String {
        let now = i64::try_from(SystemClock.wall_ms() / 1000).unwrap();
        let claims = json!({
            "sub": format!("system:serviceaccount:{}:web", self.namespace),
            "aud": [AUDIENCE],
            "iat": now + from,
            "nbf": now + from,
            "exp": now + to,
            "kubernetes.io": {
                "namespace": self.namespace,
                "serviceaccount": {"name": "web", "uid": account.metadata.uid},
            },
        });
        self.server.sign_token(&claims).unwrap()
    }
}
