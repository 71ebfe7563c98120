//! Who may use what: the direction between our crates, and one owner per heavy package.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Value, json};

use crate::{File, checkout, nothing_wrong, root};

/// The suites that see the whole. No program has them in it: whoever uses them does so in tests.
const SUITES: &str = "pyramid-e2e";

/// Which of our crates each of our crates may use.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("pyramid-protocol", &[]),
    ("pyramid-tls", &["pyramid-protocol"]),
    ("pyramid-telemetry", &["pyramid-protocol"]),
    ("pyramid-storage", &["pyramid-protocol"]),
    ("pyramid-client", &["pyramid-protocol", "pyramid-storage"]),
    (
        "pyramid-writer",
        &["pyramid-protocol", "pyramid-storage", "pyramid-telemetry", "pyramid-tls"],
    ),
    (
        "pyramid-sidecar",
        &[
            "pyramid-protocol",
            "pyramid-storage",
            "pyramid-client",
            "pyramid-telemetry",
            "pyramid-tls",
        ],
    ),
    (
        "pyramid",
        &[
            "pyramid-protocol",
            "pyramid-storage",
            "pyramid-client",
            "pyramid-telemetry",
            "pyramid-tls",
            "pyramid-writer",
            "pyramid-sidecar",
        ],
    ),
    (
        "pyramid-e2e",
        &[
            "pyramid-protocol",
            "pyramid-storage",
            "pyramid-client",
            "pyramid-telemetry",
            "pyramid-tls",
            "pyramid-writer",
            "pyramid-sidecar",
            "pyramid",
            "orders",
        ],
    ),
    ("orders", &["pyramid-protocol"]),
    ("pyramid-crds", &[]),
    (
        "pyramid-operator",
        &[
            "pyramid-protocol",
            "pyramid-telemetry",
            "pyramid-tls",
            "pyramid-crds",
            // Starts an API server for its tests.
            "pyramid-e2e",
        ],
    ),
];

/// Which of our crates may name a heavy package in their manifest.
const OWNERS: [(&str, &[&str]); 20] = [
    ("openraft", &["pyramid-writer"]),
    ("zstd", &["pyramid-storage"]),
    ("aes", &["pyramid-storage"]),
    ("cbc", &["pyramid-storage"]),
    // The suites unwrap keys in order to look for them where they must not be.
    ("aes-kw", &["pyramid-storage", "pyramid-e2e"]),
    ("hmac", &["pyramid-storage"]),
    ("hkdf", &["pyramid-storage"]),
    // The Writer compares declared objects by their digest, TLS tells trust bundles apart, the
    // operator templates; the suites look for digests that leaked.
    (
        "sha2",
        &["pyramid-storage", "pyramid-writer", "pyramid-tls", "pyramid-operator", "pyramid-e2e"],
    ),
    ("aws-sdk-s3", &["pyramid-storage"]),
    ("aws-config", &["pyramid-storage"]),
    // Storage fetches presigned URLs over HTTPS.
    ("rustls", &["pyramid-tls", "pyramid-storage"]),
    ("hyper-rustls", &["pyramid-storage"]),
    // The suites look at what was issued.
    ("x509-parser", &["pyramid-tls", "pyramid-e2e"]),
    // Tests make certificates that no authority of ours would.
    ("rcgen", &["pyramid-tls", "pyramid-storage", "pyramid-e2e"]),
    ("prometheus-client", &["pyramid-telemetry"]),
    ("tracing-subscriber", &["pyramid-telemetry"]),
    ("rusqlite", &["orders", "pyramid-e2e"]),
    ("kube", &["pyramid-crds", "pyramid-operator"]),
    ("k8s-openapi", &["pyramid-crds", "pyramid-operator"]),
    ("schemars", &["pyramid-crds"]),
];

/// Packages that must not be built: one TLS provider is enough, and both need more than a C compiler.
const NEVER: [&str; 2] = ["aws-lc-sys", "openssl-sys"];

/// The only places that may name openraft's types, so that an upgrade touches few files.
const OPENRAFT_PLACES: [&str; 3] =
    ["dataplane/writer/src/raft.rs", "dataplane/writer/src/raft/", "dataplane/writer/tests/"];

/// Package → packages that its manifest names, for whatever purpose.
type Manifests = BTreeMap<String, BTreeSet<String>>;

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        // Other platforms' packages are not on this machine.
        .args(["--filter-platform", &host()])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The platform of this build, as cargo names it.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").current_dir(root()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

/// Our packages: those without a registry.
fn our_manifests(metadata: &Value) -> Manifests {
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| package["source"].is_null())
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            (name(package), dependencies.iter().map(name).collect())
        })
        .collect()
}

/// Programs and libraries with the suites in them.
fn suites_in_programs(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let has_suites = |package: &&Value| {
        let mut dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies.any(|it| it["name"] == SUITES && it["kind"] != "dev")
    };
    packages
        .filter(has_suites)
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Names of all packages that a build of the workspace resolves to.
fn resolved(metadata: &Value) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let ids: BTreeSet<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .filter(|package| ids.contains(package["id"].as_str().unwrap()))
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .collect()
}

fn wrong_directions(manifests: &Manifests) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.into();
    let mut problems = Vec::new();
    for (package, dependencies) in manifests {
        let Some(may_use) = table.get(package.as_str()) else {
            problems.push(format!("{package} is not in the table"));
            continue;
        };
        for dependency in dependencies.iter().filter(|name| manifests.contains_key(*name)) {
            if !may_use.contains(&dependency.as_str()) {
                problems.push(format!("{package} must not use {dependency}"));
            }
        }
    }
    problems
}

fn foreign_owners(manifests: &Manifests) -> Vec<String> {
    let mut problems = Vec::new();
    for (heavy, owners) in OWNERS {
        for (package, dependencies) in manifests {
            if dependencies.contains(heavy) && !owners.contains(&package.as_str()) {
                problems.push(format!("{package} must not use {heavy}, it belongs to {owners:?}"));
            }
        }
    }
    problems
}

fn never_built(resolved: &BTreeSet<String>) -> Vec<&'static str> {
    NEVER.into_iter().filter(|name| resolved.contains(*name)).collect()
}

fn openraft_elsewhere(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.has_extension(&["rs"]))
        .filter(|file| !OPENRAFT_PLACES.iter().any(|place| file.path.starts_with(place)))
        .filter(|file| {
            let path = ["openraft", "::"].concat();
            let import = ["use ", "openraft", ";"].concat();
            file.text().contains(&path) || file.text().contains(&import)
        })
        .map(|file| format!("{} names a type of openraft", file.path))
        .collect()
}

#[test]
fn our_crates_use_only_what_they_may() {
    nothing_wrong(&wrong_directions(&our_manifests(&metadata())));
}

#[test]
fn no_program_has_the_suites_in_it() {
    let metadata = metadata();
    nothing_wrong(&suites_in_programs(&metadata));
    let manifests = our_manifests(&metadata);
    assert!(manifests.values().any(|dependencies| dependencies.contains(SUITES)), "nobody uses it");
}

#[test]
fn every_crate_of_the_table_is_there() {
    let manifests = our_manifests(&metadata());
    let there: BTreeSet<&str> = manifests.keys().map(String::as_str).collect();
    assert_eq!(there, MAY_USE.into_iter().map(|(package, _)| package).collect());
}

#[test]
fn heavy_packages_have_one_owner() {
    let metadata = metadata();
    nothing_wrong(&foreign_owners(&our_manifests(&metadata)));
    // A package that nobody uses would make its row say nothing.
    let resolved = resolved(&metadata);
    for (heavy, _) in OWNERS {
        assert!(resolved.contains(heavy), "{heavy} is not in the tree: drop its row");
    }
}

#[test]
fn one_crypto_provider_is_in_the_tree() {
    assert_eq!(never_built(&resolved(&metadata())), Vec::<&str>::new());
}

#[test]
fn openraft_stays_in_its_module() {
    nothing_wrong(&openraft_elsewhere(&checkout()));
}

fn manifests(of: &[(&str, &[&str])]) -> Manifests {
    of.iter()
        .map(|(package, dependencies)| {
            ((*package).to_owned(), dependencies.iter().map(|name| (*name).to_owned()).collect())
        })
        .collect()
}

#[test]
fn a_wrong_direction_is_found() {
    let of = manifests(&[
        ("pyramid-protocol", &["prost"]),
        ("pyramid-storage", &["pyramid-protocol", "pyramid-client"]),
        ("pyramid-client", &["pyramid-storage"]),
        ("pyramid-writer", &["pyramid-e2e"]),
        ("pyramid-e2e", &["pyramid-writer"]),
        ("pyramid-common", &[]),
    ]);
    let expected = [
        "pyramid-common is not in the table",
        "pyramid-storage must not use pyramid-client",
        "pyramid-writer must not use pyramid-e2e",
    ];
    assert_eq!(wrong_directions(&of), expected);
}

#[test]
fn suites_in_a_program_are_found() {
    let with = |kind: Value| {
        let dependencies = json!([{"name": "pyramid-e2e", "kind": kind}]);
        json!({"packages": [{"name": "pyramid-operator", "dependencies": dependencies}]})
    };
    assert_eq!(suites_in_programs(&with("dev".into())), Vec::<String>::new());
    for kind in [Value::Null, "build".into()] {
        assert_eq!(suites_in_programs(&with(kind)), ["pyramid-operator"]);
    }
}

#[test]
fn a_second_owner_is_found() {
    let of =
        manifests(&[("pyramid-writer", &["openraft", "zstd"]), ("pyramid-storage", &["zstd"])]);
    assert_eq!(
        foreign_owners(&of),
        ["pyramid-writer must not use zstd, it belongs to [\"pyramid-storage\"]"]
    );
}

#[test]
fn a_second_crypto_provider_is_found() {
    let resolved = ["ring", "aws-lc-sys"].map(str::to_owned).into();
    assert_eq!(never_built(&resolved), ["aws-lc-sys"]);
}

#[test]
fn openraft_elsewhere_is_found() {
    let with = |path: &str| [File::new(path, &["use openraft", "::Raft;"].concat())];
    assert_eq!(
        openraft_elsewhere(&with("dataplane/writer/src/state.rs")),
        ["dataplane/writer/src/state.rs names a type of openraft"]
    );
    assert_eq!(
        openraft_elsewhere(&with("dataplane/writer/src/raft/wire.rs")),
        Vec::<String>::new()
    );
    let comment = File::new("dataplane/writer/src/wal.rs", "// openraft's first entry.");
    assert_eq!(openraft_elsewhere(&[comment]), Vec::<String>::new());
}
