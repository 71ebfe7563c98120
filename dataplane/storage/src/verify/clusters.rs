//! Which clusters have objects below a prefix.

use std::sync::Arc;

use super::{Error, reading::Patient};
use crate::{
    cluster_id::ClusterId,
    object_names::ObjectNames,
    object_store::{ObjectKey, ObjectStore},
};

/// Clusters that are told apart below one prefix.
pub const CLUSTERS_MAX: usize = 1000;

/// A cluster that has objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Whether its `cluster.json` is there. Without one it may be a left-over, or damaged.
    pub has_cluster_file: bool,
}

/// The clusters that have objects below `prefix`, by id; at most [`CLUSTERS_MAX`].
///
/// # Errors
///
/// [`Error::Store`].
pub async fn clusters(store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Vec<Cluster>, Error> {
    let store = Patient(store);
    let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let mut found = Vec::new();
    let mut after: Option<ObjectKey> = None;
    while found.len() < CLUSTERS_MAX {
        let listing = store.list(&folder, after.as_ref()).await.map_err(Error::Store)?;
        let Some(first) = listing.objects.first() else { break };
        let (segment, is_folder) = first_segment(&folder, &first.key);
        if is_folder && let Ok(id) = segment.parse() {
            let has_cluster_file = has_cluster_file(&store, prefix, id).await?;
            found.push(Cluster { id, has_cluster_file });
        }
        // Behind everything of this folder: '0' comes after '/'.
        let behind = if is_folder { format!("{folder}{segment}0").parse().ok() } else { None };
        after = Some(behind.unwrap_or_else(|| first.key.clone()));
    }
    Ok(found)
}

/// The part of a key behind the prefix, and whether more follows.
fn first_segment<'k>(folder: &str, key: &'k ObjectKey) -> (&'k str, bool) {
    let rest = key.as_str().strip_prefix(folder).unwrap_or_default();
    rest.split_once('/').map_or((rest, false), |(segment, _)| (segment, true))
}

async fn has_cluster_file(store: &Patient, prefix: &str, id: ClusterId) -> Result<bool, Error> {
    let Ok(names) = ObjectNames::new(prefix, id) else { return Ok(false) };
    let found = store.get(&names.cluster_file(), 0..1).await.map_err(Error::Store)?;
    Ok(found.is_some())
}
