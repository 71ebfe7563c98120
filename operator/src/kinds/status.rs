//! Writing status: the whole set of one field manager, and only if something in it changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use pyramid_crds::condition::{Observation, Truth, find};
use serde_json::{Map, Value, json};

/// What a condition shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) r#type: &'static str,
    pub(crate) truth: Truth,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn new(
        r#type: &'static str,
        truth: Truth,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { r#type, truth, reason, message: message.into() }
    }

    /// The same said of another condition.
    pub(crate) fn of(&self, r#type: &'static str) -> Self {
        Self { r#type, ..self.clone() }
    }
}

/// All that one field manager has in the status of one object.
#[derive(Debug)]
pub(crate) struct Set<'a> {
    pub(crate) manager: &'static str,
    /// The fields that are the manager's, and what they shall be; `Null`: absent.
    pub(crate) fields: Vec<(&'static str, Value)>,
    /// The conditions that are the manager's.
    pub(crate) types: &'a [&'static str],
    /// What they shall say; those of `types` that are not here shall be absent.
    pub(crate) verdicts: &'a [Verdict],
}

/// The object, and what its status says now.
pub(crate) struct Present<'a, K> {
    pub(crate) object: &'a K,
    /// As JSON; `Null`: none, or it could not be read.
    pub(crate) status: Value,
    pub(crate) conditions: &'a [Condition],
}

/// Writes the set if the status differs from it; whether it did.
///
/// # Errors
///
/// The server did not take it. An object that is gone, or another one by now, is no error.
pub(crate) async fn write<K>(
    client: &kube::Client,
    present: &Present<'_, K>,
    set: &Set<'_>,
) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = ()>,
{
    let Some(status) = changed(present, set, now()) else { return Ok(false) };
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": present.object.name_any(), "uid": present.object.uid() },
        "status": status,
    });
    let api = api::<K>(client, &present.object.namespace().unwrap_or_default());
    let params = PatchParams::apply(set.manager).force();
    let done = api.patch_status(&present.object.name_any(), &params, &Patch::Apply(&patch)).await;
    done.map(|_| true).or_else(ignore_gone)
}

/// Status and conditions of an object that does not decode, as they are now; of one that is gone,
/// none.
///
/// # Errors
///
/// The server did not answer.
pub(crate) async fn read<K>(
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> Result<(Value, Vec<Condition>), kube::Error>
where
    K: Resource<DynamicType = ()>,
{
    let found = api::<K>(client, namespace).get_opt(name).await?;
    Ok(found.map(said).unwrap_or_default())
}

fn said(mut found: DynamicObject) -> (Value, Vec<Condition>) {
    let status = found.data.get_mut("status").map(Value::take).unwrap_or_default();
    let conditions = status.get("conditions").cloned().unwrap_or_default();
    (status, serde_json::from_value(conditions).unwrap_or_default())
}

/// Whether writing the set would change anything.
pub(crate) fn differs<K>(present: &Present<'_, K>, set: &Set<'_>) -> bool
where
    K: Resource<DynamicType = ()>,
{
    changed(present, set, now()).is_some()
}

fn now() -> Time {
    Time(jiff::Timestamp::now())
}

/// The status to apply, if it changes anything.
fn changed<K>(present: &Present<'_, K>, set: &Set<'_>, now: Time) -> Option<Value>
where
    K: Resource<DynamicType = ()>,
{
    let generation = present.object.meta().generation.unwrap_or_default();
    let observation = Observation { previous: present.conditions, generation, now };
    let conditions: Vec<Condition> = set
        .verdicts
        .iter()
        .map(|one| observation.condition(one.r#type, one.truth, one.reason, one.message.clone()))
        .collect();
    let same_conditions =
        set.types.iter().all(|one| find(present.conditions, one) == find(&conditions, one));
    let same_fields = set
        .fields
        .iter()
        .all(|(name, value)| present.status.get(name).unwrap_or(&Value::Null) == value);
    if same_conditions && same_fields {
        return None;
    }
    // What is left out is removed; a null would be kept, as ours.
    let mut status: Map<String, Value> = set
        .fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    if !conditions.is_empty() {
        status.insert("conditions".to_owned(), json!(conditions));
    }
    Some(Value::Object(status))
}

/// Objects of a kind, as whatever they are: also those that do not decode.
pub(crate) fn api<K>(client: &kube::Client, namespace: &str) -> Api<DynamicObject>
where
    K: Resource<DynamicType = ()>,
{
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<K>(&()))
}

/// 404: it is gone. 409 and 422 about the uid: it is another object of that name.
fn ignore_gone(error: kube::Error) -> Result<bool, kube::Error> {
    if let kube::Error::Api(status) = &error
        && (status.is_not_found() || is_other_uid(status))
    {
        return Ok(false);
    }
    Err(error)
}

/// Whether an apply was refused because the object is not the one that was meant.
pub(crate) fn is_other_uid(status: &kube::core::Status) -> bool {
    matches!(status.code, 409 | 422) && status.message.contains("uid")
}

#[cfg(test)]
mod tests {
    use pyramid_crds::Stream;
    use pyramid_crds::condition::{reasons, types};

    use super::*;

    fn time(text: &str) -> Time {
        serde_json::from_value(json!(text)).unwrap()
    }

    fn stream() -> Stream {
        serde_saphyr::from_str(
            "
metadata: {name: orders, namespace: shop, uid: u, generation: 3}
spec: {}
status:
  observedGeneration: 3
  streamID: '7'
  nextOffset: 12
  conditions:
  - {type: Ready, status: 'True', reason: Ready, message: '', observedGeneration: 3,
     lastTransitionTime: '2030-01-01T00:00:00Z'}
  - {type: Deleting, status: 'True', reason: PurgePending, message: '', observedGeneration: 3,
     lastTransitionTime: '2030-01-01T00:00:00Z'}",
        )
        .unwrap()
    }

    fn status(
        stream: &Stream,
        fields: Vec<(&'static str, Value)>,
        owned: &[&'static str],
        verdicts: &[Verdict],
    ) -> Option<Value> {
        let status = stream.status.as_ref().unwrap();
        let present = Present {
            object: stream,
            status: serde_json::to_value(status).unwrap(),
            conditions: &status.conditions,
        };
        let set = Set { manager: "m", fields, types: owned, verdicts };
        changed(&present, &set, time("2030-02-02T00:00:00Z"))
    }

    fn ready(truth: Truth) -> Verdict {
        Verdict::new(types::READY, truth, reasons::READY, "")
    }

    #[test]
    fn nothing_is_written_while_the_managers_part_is_as_it_shall_be() {
        let fields = || vec![("observedGeneration", json!(3)), ("streamID", json!("7"))];
        let owned = [types::READY, types::STALLED];
        assert_eq!(status(&stream(), fields(), &owned, &[ready(Truth::True)]), None);
    }

    #[test]
    fn the_whole_part_is_written_when_one_thing_differs() {
        let fields = |id: Value| vec![("observedGeneration", json!(3)), ("streamID", id)];
        let condition = |status: &str, time: &str| {
            json!([{"type": "Ready", "status": status, "reason": "Ready", "message": "",
                "observedGeneration": 3, "lastTransitionTime": time}])
        };
        let owned = [types::READY];
        assert_eq!(
            status(&stream(), fields(json!("8")), &owned, &[ready(Truth::True)]),
            Some(json!({"observedGeneration": 3, "streamID": "8",
                "conditions": condition("True", "2030-01-01T00:00:00Z")}))
        );
        assert_eq!(
            status(&stream(), fields(Value::Null), &owned, &[ready(Truth::False)]),
            Some(json!({"observedGeneration": 3,
                "conditions": condition("False", "2030-02-02T00:00:00Z")}))
        );
    }

    /// Else an object that cannot be read would be written to at each look.
    #[test]
    fn what_is_said_of_an_object_that_does_not_decode_is_said_once() {
        let condition = json!({"type": "Ready", "status": "False", "reason": "Ready",
            "message": "", "observedGeneration": 3, "lastTransitionTime": "2030-01-01T00:00:00Z"});
        let found = json!({
            "apiVersion": "pyramid.dev/v1alpha1",
            "kind": "Stream",
            "metadata": {"name": "orders", "namespace": "shop", "generation": 3},
            "spec": {"retention": "a word"},
            "status": {"observedGeneration": 3, "conditions": [condition]},
        });
        let (status, conditions) = said(serde_json::from_value(found).unwrap());
        let again = |truth| {
            let object = &stream();
            let present = Present { object, status: status.clone(), conditions: &conditions };
            let verdicts = &[ready(truth)];
            let fields = vec![("observedGeneration", json!(3))];
            let set = Set { manager: "m", fields, types: &[types::READY], verdicts };
            changed(&present, &set, time("2030-02-02T00:00:00Z"))
        };
        assert_eq!(again(Truth::False), None);
        assert!(again(Truth::True).is_some());
    }

    #[test]
    fn a_condition_that_shall_go_is_left_out() {
        let owned = [types::READY, types::DELETING];
        let written = status(&stream(), vec![], &owned, &[ready(Truth::True)]).unwrap();
        assert_eq!(written["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(status(&stream(), vec![], &[types::READY], &[ready(Truth::True)]), None);
    }
}
