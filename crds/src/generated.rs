//! The files that are generated from the types: `crdgen` writes them, a test compares them.

use serde_json::Value;

use crate::definition::{self, Definition};

/// What the first line of each file says.
const NOTE: &str = "Generated from the Rust types by `cargo run --bin crdgen`. Do not edit.";

/// Folder of the files for `kubectl`, from the root of the repository.
pub const PLAIN: &str = "crds/yaml";
/// Folder of the templates for Helm, from the root of the repository.
pub const CHART: &str = "helm/pyramid/templates/crds";

/// One generated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// [`PLAIN`] or [`CHART`].
    pub folder: &'static str,
    /// Name in the folder.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Every generated file.
///
/// # Errors
///
/// A definition has no form in YAML.
pub fn files() -> Result<Vec<File>, serde_saphyr::ser::Error> {
    let mut files = Vec::new();
    for definition in definition::all() {
        let name = format!("{}.yaml", definition.plural);
        let text = format!("# {NOTE}\n{}", serde_saphyr::to_string(&definition.object)?);
        files.push(File { folder: PLAIN, name: name.clone(), text });
        files.push(File { folder: CHART, name, text: template(&definition)? });
    }
    Ok(files)
}

/// The definition for Helm: installed by value, upgraded with the release, kept when it goes.
///
/// The head is written here, because it holds actions of templates; the rest has none.
fn template(definition: &Definition) -> Result<String, serde_saphyr::ser::Error> {
    let spec = definition.object.get("spec").unwrap_or(&Value::Null);
    let spec = serde_saphyr::to_string(&serde_json::json!({"spec": spec}))?;
    let name = definition.object.pointer("/metadata/name").and_then(Value::as_str);
    let name = name.unwrap_or_default();
    Ok(format!(
        "{{{{- /* {NOTE} */}}}}
{{{{- if .Values.crds.install }}}}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {name}
  labels:
    {{{{- include \"pyramid.labels\" . | nindent 4 }}}}
  {{{{- if .Values.crds.keep }}}}
  annotations:
    helm.sh/resource-policy: keep
  {{{{- end }}}}
{spec}{{{{- end }}}}
"
    ))
}
