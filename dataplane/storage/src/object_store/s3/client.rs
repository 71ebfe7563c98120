//! The one client of a store: connections, timeouts, trust and credentials.

use std::time::Duration;

use aws_config::{
    default_provider::credentials::DefaultCredentialsChain,
    environment::EnvironmentVariableRegionProvider,
    imds::{self, region::ImdsRegionProvider},
    meta::region::RegionProviderChain,
    profile::ProfileFileRegionProvider,
    provider_config::ProviderConfig,
};
use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient,
        StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};

use super::{
    CALL_TIMEOUT_MAX,
    credentials::{FileCredentials, Source},
};
use crate::{
    object_store::{OpenError, S3Settings},
    trust,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A transfer that stands still for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a machine's own metadata service may take: on most machines there is none, and nobody
/// wants to wait for that.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// For servers that are not AWS and have no regions; it must stand in the signature all the same.
const REGION_OF_OTHERS: &str = "us-east-1";

/// A client and what its errors need to know.
pub(super) struct Opened {
    pub(super) client: Client,
    /// Where the bucket is, for people.
    pub(super) place: String,
    pub(super) credentials: Source,
}

pub(super) async fn open(settings: &S3Settings) -> Result<Opened, OpenError> {
    let pem = match settings.ca_file() {
        Some(file) => Some(trust::read(file).map_err(OpenError::Trust)?),
        None => None,
    };
    let needs_native_roots =
        pem.is_none() && settings.endpoint().is_none_or(super::super::Endpoint::is_https);
    // The SDK would go on without any authority, and every handshake would fail.
    let has_native_roots = trust::client_config(None).is_ok();
    if needs_native_roots && !has_native_roots {
        return Err(OpenError::Trust(trust::TrustError::NoNativeRoots));
    }
    let trusted = match &pem {
        Some(pem) => TrustStore::empty().with_pem_certificate(pem.as_slice()),
        None => TrustStore::empty().with_native_roots(has_native_roots),
    };
    let http = http_client(trusted);
    // What gives credentials is another server than the bucket's.
    let ambient_http = http_client(TrustStore::empty().with_native_roots(has_native_roots));
    let ambient = ProviderConfig::without_region().with_http_client(ambient_http);
    let imds = imds::Client::builder()
        .configure(&ambient)
        .connect_timeout(METADATA_TIMEOUT)
        .read_timeout(METADATA_TIMEOUT)
        .max_attempts(1)
        .build();

    let ambient_region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    let region = region(settings, ambient_region, &imds).await?;
    let place = match settings.endpoint() {
        Some(endpoint) => endpoint.to_string(),
        None => format!("AWS in {region}"),
    };
    let config = configured(settings, region.clone(), http);
    let (config, credentials) = match settings.credentials_dir() {
        Some(directory) => {
            let provider = FileCredentials::new(directory.clone());
            // It knows itself when to read again.
            let config = config
                .identity_cache(IdentityCache::no_cache())
                .credentials_provider(SharedCredentialsProvider::new(provider));
            (config, Source::Directory(directory.display().to_string()))
        }
        None => {
            let chain = DefaultCredentialsChain::builder()
                .configure(ambient)
                .imds_client(imds)
                .region(region)
                .build()
                .await;
            (config.credentials_provider(SharedCredentialsProvider::new(chain)), Source::Ambient)
        }
    };
    Ok(Opened { client: Client::from_conf(config.build()), place, credentials })
}

/// What was given, else what the environment says. Where a machine is at AWS says nothing about
/// another server.
async fn region(
    settings: &S3Settings,
    ambient: RegionProviderChain,
    imds: &imds::Client,
) -> Result<Region, OpenError> {
    if let Some(region) = settings.region() {
        return Ok(Region::new(region.to_owned()));
    }
    let chain = if settings.endpoint().is_some() {
        ambient.or_else(Region::from_static(REGION_OF_OTHERS))
    } else {
        ambient.or_else(ImdsRegionProvider::builder().imds_client(imds.clone()).build())
    };
    let found = chain.region().await;
    found.ok_or_else(|| OpenError::NoRegion { bucket: settings.bucket().to_owned() })
}

/// All that does not depend on credentials.
fn configured(
    settings: &S3Settings,
    region: Region,
    http: SharedHttpClient,
) -> aws_sdk_s3::config::Builder {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(region)
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(CALL_TIMEOUT_MAX)
                .operation_timeout(CALL_TIMEOUT_MAX)
                .build(),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(STALL_TIMEOUT).build(),
        )
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .disable_clock_skew_correction(true)
        .force_path_style(settings.endpoint().is_some());
    match settings.endpoint() {
        Some(endpoint) => config.endpoint_url(endpoint.as_str()),
        None => config,
    }
}

fn http_client(trusted: TrustStore) -> SharedHttpClient {
    let context = TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .expect("a context of certificates that were read before can be built");
    Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::S3Options;

    #[tokio::test]
    async fn a_region_is_given_or_ambient_or_that_of_other_servers() {
        let endpoint = || Some("http://127.0.0.1:9000".to_owned());
        let given = || Some("eu-west-1".to_owned());
        // Where no machine's own metadata service is.
        let http = http_client(TrustStore::empty());
        let imds = imds::Client::builder()
            .configure(&ProviderConfig::without_region().with_http_client(http))
            .endpoint("http://127.0.0.1:1")
            .expect("an address")
            .connect_timeout(METADATA_TIMEOUT)
            .max_attempts(1)
            .build();
        for (region_given, ambient, at, expected) in [
            (given(), Some("eu-north-1"), endpoint(), Some("eu-west-1")),
            (given(), Some("eu-north-1"), None, Some("eu-west-1")),
            (given(), None, None, Some("eu-west-1")),
            (None, Some("eu-north-1"), endpoint(), Some("eu-north-1")),
            (None, Some("eu-north-1"), None, Some("eu-north-1")),
            (None, None, endpoint(), Some("us-east-1")),
            (None, None, None, None),
        ] {
            let options = S3Options { endpoint: at, region: region_given, ..S3Options::default() };
            let settings = S3Settings::new("chunks", options).unwrap();
            let ambient = RegionProviderChain::first_try(ambient.map(Region::from_static));
            let found = region(&settings, ambient, &imds).await;
            let expected = expected
                .map(Region::from_static)
                .ok_or(OpenError::NoRegion { bucket: "chunks".to_owned() });
            assert_eq!(found, expected, "{settings:?}");
        }
    }
}
