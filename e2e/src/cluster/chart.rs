//! The chart, as the quickstart installs it: commands for [`Cluster::shell`](super::Cluster::shell).

/// What the chart needs.
pub const PREPARE: &str = r#"
kubectl create namespace pyramid-system
kubectl --namespace pyramid-system create secret generic bucket \
  --from-literal=accessKeyId="$S3_ACCESS_KEY" --from-literal=secretAccessKey="$S3_SECRET_KEY"
"#;

/// Installs it; more values can be set behind it.
pub const INSTALL: &str = r#"
helm install pyramid helm/pyramid --namespace pyramid-system --wait \
  --set defaultWriter.spec.objectStorage.bucket="$S3_BUCKET" \
  --set defaultWriter.spec.objectStorage.endpoint="$S3_ENDPOINT" \
  --set defaultWriter.spec.objectStorage.credentialsSecretRef.name=bucket"#;
