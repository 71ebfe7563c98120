//! Who holds a token, as the API server says it.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use k8s_openapi::api::core::v1::Pod;
use pyramid_crds::annotation;
use pyramid_protocol::bootstrap::ISSUER_AUDIENCE;

use super::Error;
use crate::metrics::Issue;

const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A service account, perhaps in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) namespace: String,
    pub(super) account: String,
    pub(super) pod: Option<BoundPod>,
}

/// The pod that a token was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoundPod {
    pub(super) name: String,
    pub(super) uid: String,
}

/// Which certificate there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// That of a pod that asks for Pyramid.
    Pod,
    /// That of anybody else who may have one.
    Unbound,
}

impl Holder {
    /// Reads the answer to a review.
    pub(super) fn read(status: TokenReviewStatus) -> Result<Self, Error> {
        let TokenReviewStatus { audiences, authenticated, error, user } = status;
        let refused = |why: &str| Error::Token { why: why.to_owned(), flaw: flaw(why) };
        // A refusal is an answer too: `authenticated` is then absent.
        if authenticated != Some(true) {
            return Err(refused(error.as_deref().unwrap_or("the API server does not know it")));
        }
        // An API server that knows nothing of audiences leaves them out, and has checked none.
        if !audiences.is_some_and(|audiences| audiences.iter().any(|it| it == ISSUER_AUDIENCE)) {
            return Err(refused("it is for another audience"));
        }
        let UserInfo { username, extra, .. } = user.unwrap_or_default();
        let username = username.unwrap_or_default();
        let (namespace, account) = username
            .strip_prefix(ACCOUNT_PREFIX)
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(|| refused("it is not of a service account"))?;
        let extra = extra.unwrap_or_default();
        let pod = match (only(&extra, POD_NAME), only(&extra, POD_UID)) {
            (Some(name), Some(uid)) => Some(BoundPod { name, uid }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(refused("it names half of a pod"));
            }
        };
        Ok(Self { namespace: namespace.to_owned(), account: account.to_owned(), pod })
    }

    /// By what requests are counted.
    pub(super) fn key(&self) -> String {
        match &self.pod {
            Some(pod) => pod.uid.clone(),
            None => format!("{}/{}", self.namespace, self.account),
        }
    }
}

/// What is wrong with a token, from the words of the API server: it has no codes for it.
fn flaw(why: &str) -> Issue {
    let words = [
        ("audience", Issue::OtherAudience),
        ("expired", Issue::ExpiredToken),
        // Its pod.
        ("invalidated", Issue::InvalidatedToken),
        // Its account.
        ("not found", Issue::InvalidatedToken),
        // Either, and another one has the name.
        ("does not match", Issue::InvalidatedToken),
    ];
    let found = words.into_iter().find(|(word, _)| why.contains(word));
    found.map_or(Issue::BadToken, |(_, issue)| issue)
}

/// The value of a list of one.
fn only(extra: &BTreeMap<String, Vec<String>>, key: &str) -> Option<String> {
    extra.get(key)?.first().cloned()
}

/// What a holder may have because of its pod; `None` if only an access list can help it.
pub(super) fn grant(holder: &Holder, found: Option<&Pod>) -> Result<Option<Grant>, Error> {
    let Some(bound) = &holder.pod else { return Ok(None) };
    let names = || (holder.namespace.clone(), bound.name.clone());
    // One of the same name may be another: a StatefulSet makes such.
    let is_replaced = found.is_some_and(|pod| pod.metadata.uid.as_ref() != Some(&bound.uid));
    let found = found.filter(|pod| pod.metadata.uid.as_ref() == Some(&bound.uid));
    let Some(pod) = found else {
        let (namespace, pod) = names();
        return Err(Error::PodGone { namespace, pod, is_replaced });
    };
    // A pod that is being deleted still works and may need to renew; one that has ended does not.
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        let (namespace, pod) = names();
        return Err(Error::PodFinished { namespace, pod });
    }
    let annotations = pod.metadata.annotations.as_ref();
    let asks = [annotation::SUBSCRIPTIONS, annotation::APPEND]
        .iter()
        .any(|name| annotations.is_some_and(|annotations| annotations.contains_key(*name)));
    Ok(asks.then_some(Grant::Pod))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    use super::*;

    fn status() -> TokenReviewStatus {
        let extra = [(POD_NAME, "web-0"), (POD_UID, "uid-1")];
        TokenReviewStatus {
            audiences: Some(vec![ISSUER_AUDIENCE.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(UserInfo {
                username: Some("system:serviceaccount:shop:web".to_owned()),
                extra: Some(
                    extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into(),
                ),
                ..UserInfo::default()
            }),
        }
    }

    fn holder() -> Holder {
        Holder {
            namespace: "shop".to_owned(),
            account: "web".to_owned(),
            pod: Some(BoundPod { name: "web-0".to_owned(), uid: "uid-1".to_owned() }),
        }
    }

    fn read_with(change: impl FnOnce(&mut TokenReviewStatus)) -> Result<Holder, String> {
        let mut status = status();
        change(&mut status);
        Holder::read(status).map_err(|error| error.to_string())
    }

    fn extra(status: &mut TokenReviewStatus) -> &mut BTreeMap<String, Vec<String>> {
        status.user.as_mut().unwrap().extra.as_mut().unwrap()
    }

    #[test]
    fn a_token_of_a_pod_names_account_and_pod() {
        assert_eq!(read_with(|_| {}), Ok(holder()));
        assert_eq!(holder().key(), "uid-1");
    }

    #[test]
    fn a_token_without_a_pod_names_the_account() {
        let unbound = Holder { pod: None, ..holder() };
        assert_eq!(unbound.key(), "shop/web");
        assert_eq!(read_with(|status| extra(status).clear()), Ok(unbound));
    }

    #[test]
    fn a_token_that_is_not_for_us_is_refused_with_the_reason() {
        type Change = fn(&mut TokenReviewStatus);
        let changes: [(Change, &str); 7] = [
            (|it| it.authenticated = None, "the API server does not know it"),
            (|it| it.authenticated = Some(false), "the API server does not know it"),
            (
                |it| {
                    it.authenticated = None;
                    it.error = Some("token audiences [a] is invalid".to_owned());
                },
                "token audiences [a] is invalid",
            ),
            (|it| it.audiences = None, "it is for another audience"),
            (|it| it.audiences = Some(vec!["api".to_owned()]), "it is for another audience"),
            (
                |it| it.user.as_mut().unwrap().username = Some("kubernetes-admin".to_owned()),
                "it is not of a service account",
            ),
            (
                |it| {
                    extra(it).remove(POD_UID);
                },
                "it names half of a pod",
            ),
        ];
        for (change, why) in changes {
            let text = read_with(change).unwrap_err();
            assert!(text.starts_with(&format!("the token is refused: {why}; use")), "{text}");
        }
    }

    #[test]
    fn flaws_of_tokens_and_pods_are_counted_apart() {
        for (said, issue) in [
            (
                "token audiences [\"a\"] is invalid for the target audiences [\"b\"]",
                Issue::OtherAudience,
            ),
            ("service account token has expired", Issue::ExpiredToken),
            ("service account token has been invalidated", Issue::InvalidatedToken),
            ("serviceaccounts \"web\" not found", Issue::InvalidatedToken),
            ("service account UID (u-2) does not match claim (u-1)", Issue::InvalidatedToken),
            (
                "pod UID (u-2) does not match service account pod ref claim (u-1)",
                Issue::InvalidatedToken,
            ),
            ("service account token is not valid yet", Issue::BadToken),
            ("go-jose/go-jose: error in cryptographic primitive", Issue::BadToken),
            ("invalid bearer token", Issue::BadToken),
        ] {
            let mut status = status();
            status.authenticated = None;
            status.error = Some(format!("[invalid bearer token, {said}]"));
            assert_eq!(Holder::read(status).unwrap_err().result(), issue, "{said}");
        }
        let gone = |found: Option<&Pod>| grant(&holder(), found).unwrap_err().result();
        let mut replaced = pod(&[annotation::APPEND]);
        replaced.metadata.uid = Some("uid-2".to_owned());
        assert_eq!((gone(None), gone(Some(&replaced))), (Issue::PodGone, Issue::PodReplaced));
    }

    fn pod(annotations: &[&str]) -> Pod {
        let annotations = annotations.iter().map(|name| ((*name).to_owned(), "a".to_owned()));
        let metadata = ObjectMeta {
            uid: Some("uid-1".to_owned()),
            annotations: Some(annotations.collect()),
            ..ObjectMeta::default()
        };
        let status = Some(PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() });
        Pod { metadata, status, ..Pod::default() }
    }

    fn granted(pod: Option<&Pod>) -> Result<Option<Grant>, String> {
        grant(&holder(), pod).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_that_asks_for_pyramid_has_a_certificate() {
        for name in ["pyramid.dev/subscriptions", "pyramid.dev/append"] {
            assert_eq!(granted(Some(&pod(&[name]))), Ok(Some(Grant::Pod)), "{name}");
        }
        for names in [&[][..], &["pyramid.dev/readiness"]] {
            assert_eq!(granted(Some(&pod(names))), Ok(None), "{names:?}");
        }
        let unbound = Holder { pod: None, ..holder() };
        assert!(matches!(grant(&unbound, None), Ok(None)));
    }

    #[test]
    fn a_pod_that_is_gone_has_none() {
        let gone = Err("the pod shop/web-0 of this token does not exist any more".to_owned());
        let mut replaced = pod(&[annotation::APPEND]);
        assert_eq!(granted(Some(&replaced)), Ok(Some(Grant::Pod)));
        replaced.metadata.uid = Some("uid-2".to_owned());
        assert_eq!(granted(Some(&replaced)), gone);
        assert_eq!(granted(None), gone);
    }

    #[test]
    fn a_pod_that_has_finished_has_none_and_one_that_ends_has_one() {
        let in_phase = |phase: &str| {
            let mut pod = pod(&[annotation::APPEND]);
            pod.status.as_mut().unwrap().phase = Some(phase.to_owned());
            granted(Some(&pod))
        };
        let finished = Err("the pod shop/web-0 of this token has finished".to_owned());
        assert_eq!(in_phase("Succeeded"), finished);
        assert_eq!(in_phase("Failed"), finished);
        assert_eq!(in_phase("Pending"), Ok(Some(Grant::Pod)));
        let mut ending = pod(&[annotation::APPEND]);
        ending.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(granted(Some(&ending)), Ok(Some(Grant::Pod)));
    }
}
