//! The network of a cluster, apart from the machine's.
//!
//! The control plane has a namespace with a bridge, each node one with a link to it. There are plain
//! routes between pods and no default route, and the control plane forwards nothing: no packet
//! leaves. The machine reaches the control plane over a link of its own; nodes and pods have no
//! route to it.

use std::fmt::Write;

use tokio::process::Command;

use crate::cluster::command::{run, said};
use crate::cluster::layout::{Layout, NODES};

/// Makes all of it.
///
/// # Errors
/// The kernel's answer.
pub(super) async fn make(layout: &Layout) -> anyhow::Result<()> {
    let mut namespaces = format!("netns add {}\n", layout.plane_namespace());
    for node in 1..=NODES {
        writeln!(namespaces, "netns add {}", layout.node_namespace(node))?;
    }
    batch(None, &namespaces).await?;

    let plane = layout.plane_namespace();
    let (host, link) = (layout.host(), layout.host_link());
    let on_host = format!(
        "link add {link} type veth peer name host netns {plane}\n\
         addr add {host}/30 dev {link}\n\
         link set {link} up\n"
    );
    batch(None, &on_host).await?;
    batch(Some(&plane), &on_plane(layout)?).await?;
    for node in 1..=NODES {
        let namespace = layout.node_namespace(node);
        batch(Some(&namespace), &on_node(layout, node)?).await?;
        let forward = ["netns", "exec", &namespace, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"];
        run("ip", &forward).await?;
    }
    Ok(())
}

fn on_plane(layout: &Layout) -> anyhow::Result<String> {
    let mut lines = format!(
        "link set lo up\n\
         link add bridge type bridge\n\
         addr add {}/24 dev bridge\n\
         link set bridge up\n\
         addr add {}/30 dev host\n\
         link set host up\n",
        layout.plane(),
        layout.plane_for_host()
    );
    for node in 1..=NODES {
        let namespace = layout.node_namespace(node);
        writeln!(lines, "link add {} type veth peer name eth0 netns {namespace}", link(node))?;
        writeln!(lines, "link set {} master bridge up", link(node))?;
        writeln!(lines, "route add {} via {}", layout.pods(node), layout.node_address(node))?;
    }
    Ok(lines)
}

fn on_node(layout: &Layout, node: u8) -> anyhow::Result<String> {
    let mut lines = format!(
        "link set lo up\n\
         addr add {}/24 dev eth0\n\
         link set eth0 up\n",
        layout.node_address(node)
    );
    for other in (1..=NODES).filter(|other| *other != node) {
        writeln!(lines, "route add {} via {}", layout.pods(other), layout.node_address(other))?;
    }
    // A node's own programs find a route to Services before kube-proxy changes the address.
    writeln!(lines, "route add {} via {}", layout.services(), layout.plane())?;
    Ok(lines)
}

/// The bridge's end of the link to a node.
fn link(node: u8) -> String {
    format!("node-{node}")
}

/// Takes the link to a node down, or up again.
///
/// # Errors
/// The kernel's answer.
pub(super) async fn set_link(layout: &Layout, node: u8, up: bool) -> anyhow::Result<()> {
    let state = if up { "up" } else { "down" };
    let line = format!("link set {} {state}\n", link(node));
    batch(Some(&layout.plane_namespace()), &line).await
}

/// Removes all of it, also what is left of a part.
///
/// # Errors
/// The kernel's answer.
pub(super) async fn remove(layout: &Layout) -> anyhow::Result<()> {
    let mut lines = String::new();
    if std::fs::exists(format!("/sys/class/net/{}", layout.host_link()))? {
        writeln!(lines, "link del {}", layout.host_link())?;
    }
    for namespace in namespaces(layout) {
        if std::fs::exists(format!("/run/netns/{namespace}"))? {
            writeln!(lines, "netns del {namespace}")?;
        }
    }
    batch(None, &lines).await
}

/// The names of all network namespaces.
pub(super) fn namespaces(layout: &Layout) -> Vec<String> {
    let nodes = (1..=NODES).map(|node| layout.node_namespace(node));
    std::iter::once(layout.plane_namespace()).chain(nodes).collect()
}

/// Gives these lines to `ip`, in a namespace.
async fn batch(namespace: Option<&str>, lines: &str) -> anyhow::Result<()> {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    said(ip.args(["-batch", "-"]), Some(lines)).await.map(drop)
}
