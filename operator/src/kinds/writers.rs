//! Writers, as Streams and Subscriptions see them.

use std::fmt;

use kube::ResourceExt;
use pyramid_crds::stream::WriterRef;
use pyramid_crds::writer::{AllowedFrom, Writer};

/// Length of a cluster id. Unit: bytes.
const CLUSTER_ID_LEN: usize = 16;

/// Which Writer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriterName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl WriterName {
    pub(crate) fn of(writer: &Writer) -> Self {
        Self { namespace: writer.namespace().unwrap_or_default(), name: writer.name_any() }
    }

    /// What a Stream in `own` names.
    pub(crate) fn named(reference: &WriterRef, own: &str) -> Self {
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        Self { namespace: namespace.to_owned(), name: reference.name.clone() }
    }
}

impl fmt::Display for WriterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Writer that takes declarations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Founded {
    pub(crate) name: WriterName,
    pub(crate) cluster_id: [u8; CLUSTER_ID_LEN],
    /// Of the replica to call.
    pub(crate) ordinal: u32,
}

impl Founded {
    /// The Writer, if it has a member. Before that, a declaration could reach a cluster that is
    /// never founded. One that is being deleted counts: it goes after the Streams that it has.
    pub(crate) fn of(writer: &Writer) -> Option<Self> {
        let status = writer.status.as_ref()?;
        if status.members.is_empty() {
            return None;
        }
        let cluster_id = cluster_id(status.cluster_id.as_deref()?)?;
        let ordinal = status.leader.as_deref().and_then(|pod| pod.rsplit_once('-'));
        let ordinal = ordinal.and_then(|(_, ordinal)| ordinal.parse().ok()).unwrap_or_default();
        Some(Self { name: WriterName::of(writer), cluster_id, ordinal })
    }
}

/// 32 hexadecimal digits as bytes.
fn cluster_id(text: &str) -> Option<[u8; CLUSTER_ID_LEN]> {
    if text.len() != 2 * CLUSTER_ID_LEN || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// Whether Streams of a namespace may be bound to the Writer.
pub(crate) fn allows(writer: &Writer, namespace: &str) -> bool {
    match writer.spec.allowed_streams.from {
        AllowedFrom::Same => writer.namespace().as_deref() == Some(namespace),
        AllowedFrom::All => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_has_32_hexadecimal_digits() {
        let text = "00112233445566778899aabbccddeeFF";
        let bytes = [0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255];
        assert_eq!(cluster_id(text), Some(bytes));
        for odd in
            ["", &text[1..], "+0112233445566778899aabbccddeeff", "x0112233445566778899aabbccddeeff"]
        {
            assert_eq!(cluster_id(odd), None, "{odd}");
        }
    }

    fn writer(yaml: &str) -> Writer {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_writer_is_founded_once_it_has_a_member() {
        let with = |members: &str| {
            writer(&format!(
                "metadata: {{name: w, namespace: a}}
spec: {{objectStorage: {{bucket: abc}}}}
status: {{clusterID: 00112233445566778899aabbccddeeff, leader: w-writer-2, members: {members}}}"
            ))
        };
        let founded = Founded::of(&with("[{name: w-writer-2, id: '1'}]")).unwrap();
        assert_eq!((founded.name.to_string(), founded.ordinal), ("a/w".to_owned(), 2));
        assert_eq!(Founded::of(&with("[]")), None);
    }
}
