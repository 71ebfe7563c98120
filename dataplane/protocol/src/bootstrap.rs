//! [`Bootstrap`]: what the operator tells the pushers of one namespace, in the ConfigMap
//! `pyramid-bootstrap`.
//!
//! Only what a pusher must know before it can talk to a Writer: where the issuer and the Writers
//! are, and which Writer has what. Everything else it hears from the Writer, live.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the ConfigMap, one in each namespace that uses Pyramid.
pub const CONFIG_MAP: &str = "pyramid-bootstrap";
/// Its key with the trust bundle, PEM.
pub const TRUST_BUNDLE_KEY: &str = "ca.crt";
/// Its key with the [`Bootstrap`], JSON.
pub const BOOTSTRAP_KEY: &str = "bootstrap.json";
/// Audience of the tokens that the issuer takes.
pub const ISSUER_AUDIENCE: &str = "pyramid-issuer";

/// One namespace's view. Names of Writers and streams are `namespace/name`, those of subscriptions
/// the bare name in this namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// All certificates are of this trust domain.
    pub trust_domain: String,
    /// `host:port` of the issuer.
    pub issuer: String,
    /// Writers that have something of this namespace.
    #[serde(default)]
    pub writers: BTreeMap<String, WriterAddress>,
    /// Subscriptions of this namespace.
    #[serde(default)]
    pub subscriptions: BTreeMap<String, SubscriptionPlace>,
    /// Streams that service accounts of this namespace may append to or read, and their Writer.
    #[serde(default)]
    pub streams: BTreeMap<String, String>,
}

/// Where one Writer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriterAddress {
    /// `host:port` of its replicas, the client port.
    pub replicas: Vec<String>,
    /// Authorities of the object store's certificate, PEM; absent: those of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store_ca: Option<String>,
    /// The object store is reached over plain HTTP.
    #[serde(default)]
    pub object_store_http: bool,
}

/// What a pusher needs of a subscription before it attaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionPlace {
    /// Its Writer, a key of [`Bootstrap::writers`].
    pub writer: String,
    /// The port on which the application takes pushes.
    pub port: u16,
}

impl Bootstrap {
    /// Reads what the ConfigMap holds.
    ///
    /// # Errors
    ///
    /// It is not of this form.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The form of the ConfigMap; the same content gives the same bytes.
    ///
    /// # Panics
    ///
    /// Never: names and numbers have a form in JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers have a form in JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let writer = WriterAddress {
            replicas: vec!["default-writer-0.default-writer-peers.pyramid-system.svc:7400".into()],
            object_store_ca: None,
            object_store_http: false,
        };
        let place = SubscriptionPlace { writer: "pyramid-system/default".into(), port: 50051 };
        let bootstrap = Bootstrap {
            trust_domain: "cluster.local".into(),
            issuer: "pyramid-operator.pyramid-system.svc:8443".into(),
            writers: [("pyramid-system/default".into(), writer)].into(),
            subscriptions: [("orders-projector".into(), place)].into(),
            streams: [("shop/orders".into(), "pyramid-system/default".into())].into(),
        };
        assert_eq!(Bootstrap::from_json(&bootstrap.to_json()).unwrap(), bootstrap);
    }

    #[test]
    fn fields_of_a_later_operator_are_no_error() {
        let text = r#"{"trustDomain": "a", "issuer": "b:1", "later": {}}"#;
        let expected =
            Bootstrap { trust_domain: "a".into(), issuer: "b:1".into(), ..Bootstrap::default() };
        assert_eq!(Bootstrap::from_json(text).unwrap(), expected);
    }
}
