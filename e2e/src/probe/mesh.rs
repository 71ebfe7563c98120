//! A stand-in for a mesh: a webhook that puts a native sidecar into each pod it is asked about.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::routing::post;
use axum::{Json, Router};
use clap::Args;
use pyramid_protocol::SystemClock;
use pyramid_protocol::net::{self, TcpAccept};
use pyramid_tls::{Protocols, Tls};
use serde_json::{Value, json};
use tonic::service::Routes;

/// Name of its container.
const CONTAINER: &str = "mesh";

/// Serves `/first` and `/last`, named by where the sidecar is put among the init containers.
#[derive(Clone, Debug, Args)]
pub struct Mesh {
    /// The folder with key, certificate and roots.
    #[arg(long)]
    identity: PathBuf,
    /// Where it listens.
    #[arg(long)]
    port: u16,
    /// The image of the sidecar.
    #[arg(long)]
    image: String,
}

impl Mesh {
    /// Serves until it is ended.
    ///
    /// # Errors
    /// It cannot listen, or has no certificate.
    pub async fn run(self) -> anyhow::Result<()> {
        let tls = Tls::open(&self.identity, Arc::new(SystemClock))?;
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
        let accept = tls.accept_anybody(TcpAccept::bind(address).await?, Protocols::Grpc);
        let route = |is_first: bool| {
            let image = self.image.clone();
            post(async move |Json(review): Json<Value>| Json(answer(&review, is_first, &image)))
        };
        let router = Router::new().route("/first", route(true)).route("/last", route(false));
        let served = net::server().add_routes(Routes::from(router));
        served.serve_with_incoming(net::incoming(accept)).await.context("serve")
    }
}

fn answer(review: &Value, is_first: bool, image: &str) -> Value {
    let patch = patch(&review["request"]["object"]["spec"], is_first, image);
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    if let (Some(patch), Some(fields)) = (patch, response.as_object_mut()) {
        fields.insert("patchType".to_owned(), json!("JSONPatch"));
        fields.insert("patch".to_owned(), json!(base64(patch.to_string().as_bytes())));
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn patch(spec: &Value, is_first: bool, image: &str) -> Option<Value> {
    let containers = spec["initContainers"].as_array();
    let is_there = |containers: &Vec<Value>| containers.iter().any(|it| it["name"] == CONTAINER);
    if containers.is_some_and(is_there) {
        return None;
    }
    let sidecar = json!({
        "name": CONTAINER,
        "image": image,
        "args": ["wait"],
        "restartPolicy": "Always",
    });
    let list = "/spec/initContainers";
    Some(match containers {
        None => json!([{"op": "add", "path": list, "value": [sidecar]}]),
        Some(_) => {
            let place = if is_first { "0" } else { "-" };
            json!([{"op": "add", "path": format!("{list}/{place}"), "value": sidecar}])
        }
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap_or(0);
            let is_there = digit <= group.len();
            let digit = DIGITS.get(index).filter(|_| is_there).copied().unwrap_or(b'=');
            text.push(char::from(digit));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn a_sidecar_is_put_where_it_is_asked_for_and_once() {
        let place =
            |spec: Value, is_first| patch(&spec, is_first, "x").map(|it| it[0]["path"].clone());
        assert_eq!(place(json!({}), true), Some(json!("/spec/initContainers")));
        let others = json!({"initContainers": [{"name": "a"}]});
        assert_eq!(place(others.clone(), true), Some(json!("/spec/initContainers/0")));
        assert_eq!(place(others, false), Some(json!("/spec/initContainers/-")));
        assert_eq!(place(json!({"initContainers": [{"name": "mesh"}]}), true), None);
    }
}
