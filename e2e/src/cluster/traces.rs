//! What a cluster leaves on the machine while it runs, so that a test can look for it afterwards.

use std::path::PathBuf;

use crate::cluster::layout::{Layout, NODES};
use crate::cluster::unit::Process;
use crate::cluster::{Cluster, cgroup, network, node, unit};

/// Processes, and places that the machine shares, of a cluster that ran.
#[derive(Clone, Debug)]
pub struct Traces {
    processes: Vec<Process>,
    places: Vec<PathBuf>,
}

impl Cluster {
    /// What it has on the machine now.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn traces(&self) -> anyhow::Result<Traces> {
        let layout = &self.layout;
        let mut processes = unit::processes(layout)?;
        let mut containers = Vec::new();
        for number in 1..=NODES {
            containers.extend(node::containers(layout, number)?);
        }
        let groups = cgroup::folders(&containers)?;
        for group in &groups {
            processes.extend(cgroup::processes(group)?);
        }
        let places = places(layout).into_iter().chain(groups).filter(|place| place.exists());
        Ok(Traces { processes, places: places.collect() })
    }
}

fn places(layout: &Layout) -> Vec<PathBuf> {
    let mut places =
        vec![layout.state().to_owned(), PathBuf::from("/sys/class/net").join(layout.host_link())];
    let namespaces = network::namespaces(layout);
    places.extend(namespaces.iter().map(|name| PathBuf::from("/run/netns").join(name)));
    places
}

impl Traces {
    /// What of it is there now, one word each.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let processes = self.processes.iter().filter(|process| process.runs());
        let places = self.places.iter().filter(|place| place.exists());
        let processes = processes.map(|process| format!("process {}", process.id));
        processes.chain(places.map(|place| place.display().to_string())).collect()
    }
}
