//! Who may do what with a Stream, in the Writer's words.

use pyramid_crds::Stream;
use pyramid_crds::stream::{ANY_ACCOUNT, Account};
use pyramid_protocol::SpiffeId;
use pyramid_protocol::pb::v1::StreamRights;

/// A name in an access list that no service account has. The user mends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.{list} names the service account {account:?} of namespace {namespace:?}, which cannot \
     exist; take its name as kubectl get serviceaccounts shows it"
)]
pub(crate) struct NoSuchName {
    list: &'static str,
    namespace: String,
    account: String,
}

/// The rights that a Stream's lists give.
///
/// # Errors
///
/// As [`NoSuchName`] says.
pub(crate) fn rights(stream: &Stream, trust_domain: &str) -> Result<StreamRights, NoSuchName> {
    let own = stream.metadata.namespace.as_deref().unwrap_or_default();
    let list = |list: &'static str, accounts: Option<&Vec<Account>>| {
        let mut identities = Vec::new();
        for account in accounts.into_iter().flatten() {
            let namespace = account.namespace_from(own);
            let identity = identity(trust_domain, namespace, &account.service_account);
            identities.push(identity.ok_or_else(|| NoSuchName {
                list,
                namespace: namespace.to_owned(),
                account: account.service_account.clone(),
            })?);
        }
        identities.sort_unstable();
        identities.dedup();
        Ok(identities)
    };
    let own_accounts =
        vec![Account { namespace: String::new(), service_account: ANY_ACCOUNT.to_owned() }];
    let spec = &stream.spec;
    Ok(StreamRights {
        appenders: list("appenders", spec.appenders.as_ref().or(Some(&own_accounts)))?,
        readers: list("subscribers", spec.subscribers.as_ref().or(Some(&own_accounts)))?,
        managers: list("managers", spec.managers.as_ref())?,
    })
}

/// A service account, or all of a namespace, as a Writer names them.
pub(crate) fn identity(trust_domain: &str, namespace: &str, account: &str) -> Option<String> {
    if account != ANY_ACCOUNT {
        let id = SpiffeId::service_account(trust_domain, namespace, account).ok()?;
        return Some(id.as_str().to_owned());
    }
    let one = SpiffeId::service_account(trust_domain, namespace, "any").ok()?;
    pyramid_protocol::Grantee::service_accounts_of(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(spec: &str) -> Stream {
        let yaml = format!("metadata: {{name: orders, namespace: shop}}\nspec: {spec}");
        serde_saphyr::from_str(&yaml).unwrap()
    }

    #[test]
    fn absent_lists_mean_the_streams_namespace_and_no_managers() {
        let own = || vec!["spiffe://td/ns/shop/sa/*".to_owned()];
        let expected = StreamRights { appenders: own(), readers: own(), managers: Vec::new() };
        assert_eq!(rights(&stream("{}"), "td"), Ok(expected));
    }

    #[test]
    fn an_empty_list_is_nobody() {
        let stream = stream("{appenders: [], subscribers: [], managers: []}");
        assert_eq!(rights(&stream, "td"), Ok(StreamRights::default()));
    }

    #[test]
    fn entries_are_sorted_and_those_that_mean_the_same_are_one() {
        let stream = stream(
            "{appenders: [{namespace: web, serviceAccount: '*'}, {namespace: shop, serviceAccount: b},
              {namespace: '', serviceAccount: b}, {serviceAccount: a}], subscribers: [],
              managers: [{serviceAccount: admin}]}",
        );
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let expected = StreamRights {
            appenders: texts(&[
                "spiffe://td/ns/shop/sa/a",
                "spiffe://td/ns/shop/sa/b",
                "spiffe://td/ns/web/sa/*",
            ]),
            readers: Vec::new(),
            managers: texts(&["spiffe://td/ns/shop/sa/admin"]),
        };
        assert_eq!(rights(&stream, "td"), Ok(expected));
    }

    #[test]
    fn a_name_that_would_reach_into_another_namespace_is_refused() {
        for (namespace, account) in
            [("", "x/../y"), ("", "a/*"), ("", "**"), ("a/sa/b", "c"), ("*", "*"), ("a/sa", "*")]
        {
            let stream = stream(&format!(
                "{{managers: [{{namespace: '{namespace}', serviceAccount: '{account}'}}]}}"
            ));
            let expected = NoSuchName {
                list: "managers",
                namespace: if namespace.is_empty() { "shop" } else { namespace }.to_owned(),
                account: account.to_owned(),
            };
            assert_eq!(rights(&stream, "td"), Err(expected));
        }
    }
}
