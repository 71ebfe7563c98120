//! An API server of objects in memory: as much of one as tests of the operator's own objects need.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{Method, StatusCode};
use kube::Client;
use serde_json::{Value, json};

/// Clones are the same server.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    /// By their path.
    objects: BTreeMap<String, Value>,
    /// Status of the review of each token.
    tokens: BTreeMap<String, Value>,
    version: u64,
    mood: Mood,
    requests: Vec<String>,
}

/// How requests are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As they should be.
    #[default]
    Good,
    /// With 403.
    Forbids,
    /// Never.
    Silent,
}

impl FakeApi {
    pub(crate) fn client(&self) -> Client {
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    /// Puts an object there, or replaces it, as somebody else would.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.content().write(path, object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.content().objects.remove(path);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.content().objects.get(path).cloned()
    }

    /// What a review of the token says.
    pub(crate) fn put_token(&self, token: &str, status: Value) {
        self.content().tokens.insert(token.to_owned(), status);
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.content().mood = mood;
    }

    /// Method and path of all requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.content().requests)
    }
}

impl Content {
    fn write(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let (base, plural) = path.rsplit_once('/').unwrap();
        let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
        let selector = selector.map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let is_selected = |object: &Value| {
            let Some((label, value)) = selector.as_deref().and_then(|it| it.split_once('=')) else {
                return true;
            };
            object["metadata"]["labels"][label] == value
        };
        let is_there = |place: &str| {
            let collection = place.rsplit_once('/').unwrap().0;
            collection.starts_with(base) && collection.ends_with(&format!("/{plural}"))
        };
        let found = self.objects.iter().filter(|(place, it)| is_there(place) && is_selected(it));
        let items: Vec<&Value> = found.map(|(_, object)| object).collect();
        json!({"metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }

    fn create(&mut self, path: &str, object: Value) -> Response {
        if path.ends_with("/tokenreviews") {
            let token = object["spec"]["token"].as_str().unwrap();
            let audiences = &object["spec"]["audiences"];
            assert_eq!(*audiences, json!(["pyramid-issuer"]), "a review without an audience");
            let status = self.tokens.get(token).cloned().unwrap_or_else(|| json!({}));
            return ok(&json!({"metadata": {}, "spec": {}, "status": status}));
        }
        let name = object["metadata"]["name"].as_str().unwrap();
        let place = format!("{path}/{name}");
        if self.objects.contains_key(&place) {
            return failure(StatusCode::CONFLICT, "AlreadyExists");
        }
        ok(&self.write(&place, object))
    }

    fn replace(&mut self, path: &str, object: Value) -> Response {
        let Some(current) = self.objects.get(path) else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        if version(current) != version(&object) {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        ok(&self.write(path, object))
    }
}

async fn answer(State(api): State<FakeApi>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let mood = {
        let mut content = api.content();
        content.requests.push(format!("{} {path}", head.method));
        content.mood
    };
    match mood {
        Mood::Good => {}
        Mood::Forbids => return failure(StatusCode::FORBIDDEN, "Forbidden"),
        Mood::Silent => std::future::pending().await,
    }
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let object = || serde_json::from_slice(&body).unwrap();
    let mut content = api.content();
    // A collection is named in the plural, and no object of the tests ends like one.
    let is_collection = path.ends_with("/secrets");
    match head.method {
        Method::GET if is_collection => ok(&content.list(&path, &query)),
        Method::GET => match content.objects.get(&path) {
            Some(object) => ok(object),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        },
        Method::POST => content.create(&path, object()),
        Method::PUT => content.replace(&path, object()),
        Method::DELETE => match content.objects.remove(&path) {
            Some(object) => ok(&object),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        },
        method => panic!("{method} {path}"),
    }
}

fn ok(object: &Value) -> Response {
    Response::new(Body::from(object.to_string()))
}

fn failure(code: StatusCode, reason: &str) -> Response {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": reason,
        "reason": reason,
        "code": code.as_u16(),
    });
    (code, status.to_string()).into_response()
}
