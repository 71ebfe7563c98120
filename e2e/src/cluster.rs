//! A real Kubernetes of three nodes on this machine, without an image registry.
//!
//! All of a cluster lies in one state directory, and follows from it: names, addresses, certificates,
//! data, logs. The control plane, the object store and each node are [`unit`](mod@unit)s, which the kernel ends
//! as a whole; their [`network`] has no way out. `pyramid-cluster up` leaves a cluster running for
//! people, [`Cluster::start`] binds one to a test, and both are taken down by what the state
//! directory says.
//!
//! What the programs need, found by trying Kubernetes 1.35 with containerd 1.6:
//!
//! - A namespace of the network is entered with `nsenter`: `ip netns exec` mounts another `/sys`, and
//!   the control groups are gone.
//! - Kubelets set limits of the machine's kernel. They are written down before and restored.
//!
//! What needs no nodes has an [`ApiServer`] alone, on loopback, which any user may start.
//!
//! Absent on purpose: network policies, which the plugins do not enforce; load balancers; Ingress.

mod api_server;
mod calls;
mod certificates;
mod cgroup;
mod chart;
mod command;
mod control_plane;
mod dns;
mod evidence;
mod grants;
mod keeper;
mod kubectl;
mod layout;
mod network;
mod node;
mod pods;
mod s3;
mod tools;
mod traces;
mod tunables;
mod unit;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;

pub use self::api_server::ApiServer;
pub use self::calls::Call;
pub use self::chart::{INSTALL, PREPARE};
pub use self::grants::Grant;
pub use self::kubectl::Ended;
pub use self::layout::{NODES, node_name};
pub use self::s3::{BUCKET, ENDPOINT, S3};
pub use self::traces::Traces;

use self::command::run;
use self::keeper::Keeper;
use self::layout::Layout;
use self::tools::Tools;
use crate::process::tell;
use crate::seaweed::Credentials;

/// How long all of it may take to serve. Usual are 20 s.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// What every cluster has.
const BASE: &str = include_str!("../cluster/manifests/base.yaml");
/// One volume of a node.
const VOLUME: &str = include_str!("../cluster/manifests/volume.yaml");

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    tools: Tools,
    /// Of a cluster that ends with this.
    keeper: Option<Keeper>,
}

impl Cluster {
    /// Starts a cluster that goes on after this process. If it runs already, it gets the images as
    /// they are now. What is left of an earlier one is removed first.
    ///
    /// # Errors
    /// Something is missing, which the error tells how to get; or a part does not serve: logs are
    /// kept and named.
    pub async fn up(state: &Path) -> anyhow::Result<Self> {
        let cluster = Self::new(state)?;
        if cluster.runs() {
            cluster.import_images(&cluster.tools.images()?).await?;
            return Ok(cluster);
        }
        if let Err(error) = cluster.begin().await {
            let folder = tempfile::Builder::new().prefix("pyramid-cluster-").tempdir()?.keep();
            cluster.collect(&folder).await?;
            Self::down(state).await?;
            return Err(error.context(format!("logs are in {}", folder.display())));
        }
        Ok(cluster)
    }

    /// Starts a cluster that ends with this process, or when it is dropped. If the test panics,
    /// logs and descriptions are kept and their folder is named.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn start(state: &Path) -> anyhow::Result<Self> {
        let mut cluster = Self::new(state)?;
        ensure!(!cluster.runs(), "a cluster runs in {} already", state.display());
        cluster.keeper = Some(Keeper::start(cluster.layout.state())?);
        if let Err(error) = cluster.begin().await {
            let folder = cluster.fail()?;
            return Err(error.context(format!("logs are in {}", folder.display())));
        }
        Ok(cluster)
    }

    /// The cluster that runs in this directory.
    ///
    /// # Errors
    /// None does.
    pub fn open(state: &Path) -> anyhow::Result<Self> {
        let cluster = Self::new(state)?;
        ensure!(cluster.runs(), "no cluster runs in {}; start it first", state.display());
        Ok(cluster)
    }

    /// The cluster of this directory, whether it runs or not.
    ///
    /// # Errors
    /// There is none.
    pub fn attach(state: &Path) -> anyhow::Result<Self> {
        ensure!(state.exists(), "there is no cluster in {}", state.display());
        let cluster = Self::new(state)?;
        ensure!(cluster.layout.is_marked(), "there is no cluster in {}", state.display());
        Ok(cluster)
    }

    /// Ends what runs in this directory and removes all that belongs to it.
    ///
    /// # Errors
    /// Something does not go away.
    pub async fn down(state: &Path) -> anyhow::Result<()> {
        if !state.exists() {
            return Ok(());
        }
        let layout = Layout::of(state)?;
        if !layout.is_marked() {
            return Ok(());
        }
        for unit in unit::recorded(&layout)? {
            unit::end(&layout, &unit).await?;
        }
        for namespace in network::namespaces(&layout) {
            unit::end_all_in(&namespace).await?;
        }
        network::remove(&layout).await?;
        for number in 1..=NODES {
            cgroup::remove(&node::containers(&layout, number)?).await?;
        }
        tunables::restore(&layout)?;
        layout.remove()
    }

    /// Waits until the owner of this process has closed our standard input, and takes the cluster
    /// of this directory down.
    ///
    /// # Errors
    /// Something does not go away.
    pub async fn keep(state: &Path) -> anyhow::Result<()> {
        let folder = tokio::task::spawn_blocking(keeper::wait_for_the_owner).await??;
        if let Some(folder) = folder {
            Self::new(state)?.collect(&folder).await?;
        }
        Self::down(state).await
    }

    fn new(state: &Path) -> anyhow::Result<Self> {
        let tools = Tools::find()?;
        Ok(Self { layout: Layout::of(state)?, tools, keeper: None })
    }

    /// Whether it was started wholly, and all units run.
    fn runs(&self) -> bool {
        self.layout.has_served() && self.units().iter().all(|unit| unit::runs(&self.layout, unit))
    }

    fn units(&self) -> Vec<String> {
        let mut units = vec![control_plane::UNIT.to_owned(), s3::UNIT.to_owned()];
        units.extend((1..=NODES).map(node_name));
        units
    }

    /// Each unit, and whether it runs.
    #[must_use]
    pub fn status(&self) -> Vec<(String, bool)> {
        let status = |unit: String| {
            let runs = unit::runs(&self.layout, &unit);
            (unit, runs)
        };
        self.units().into_iter().map(status).collect()
    }

    async fn begin(&self) -> anyhow::Result<()> {
        let images = self.tools.images()?;
        Self::down(self.layout.state()).await?;
        // The directory went with the one before.
        let layout = Layout::of(self.layout.state())?;
        layout.mark()?;
        tunables::save(&layout)?;
        network::make(&layout).await?;
        certificates::write(&layout)?;
        control_plane::unit(&layout, &self.tools)?.start(&layout).await?;
        for number in 1..=NODES {
            node::unit(&layout, &self.tools, number)?.start(&layout).await?;
        }
        let (serves, store, imported) = tokio::join!(
            self.wait_until_it_serves(),
            async { self.s3().start().await },
            self.import_images(&images),
        );
        serves.and(store).and(imported)?;
        layout.note_served()
    }

    async fn wait_until_it_serves(&self) -> anyhow::Result<()> {
        self.wait_for("the API server is ready", START_TIMEOUT, async || {
            Ok(self.kubectl(&["get", "--raw", "/readyz"]).await? == "ok")
        })
        .await?;
        self.apply(&self.manifests()).await?;
        self.wait_for("all nodes are ready", START_TIMEOUT, async || {
            Ok(self.ready_nodes().await? == usize::from(NODES))
        })
        .await?;
        let server = (self.layout.plane_for_host(), 53).into();
        let name = "kubernetes.default.svc.cluster.local";
        self.wait_for("DNS answers", START_TIMEOUT, async || {
            Ok(dns::address(server, name).await? == self.layout.kubernetes_service())
        })
        .await
    }

    fn manifests(&self) -> String {
        let Credentials { access_key, secret_key } = Credentials::admin();
        let mut manifests = BASE
            .replace("{plane}", &self.layout.plane().to_string())
            .replace("{access_key}", &access_key)
            .replace("{secret_key}", &secret_key);
        for number in 1..=NODES {
            for volume in 1..=node::VOLUMES {
                let path = node::volume_path(&self.layout, number, volume);
                manifests += &VOLUME
                    .replace("{node}", &node_name(number))
                    .replace("{volume}", &volume.to_string())
                    .replace("{path}", &path.display().to_string());
            }
        }
        manifests
    }

    /// How many nodes are ready.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn ready_nodes(&self) -> anyhow::Result<usize> {
        let jsonpath = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
        let states = self.kubectl(&["get", "nodes", "-o", jsonpath]).await?;
        Ok(states.split_whitespace().filter(|state| *state == "True").count())
    }

    /// Gives the images of these archives to every node.
    ///
    /// # Errors
    /// A node does not take one.
    pub async fn import_images(&self, archives: &[PathBuf]) -> anyhow::Result<()> {
        let nodes = (1..=NODES).map(|number| async move {
            let node = Node { cluster: self, number };
            for archive in archives {
                node.import_image(archive).await?;
            }
            anyhow::Ok(())
        });
        try_join_all(nodes).await.map(drop)
    }

    /// Gives an image that every node has one more name.
    ///
    /// # Errors
    /// A node has no such image.
    pub async fn tag_image(&self, image: &str, name: &str) -> anyhow::Result<()> {
        for number in 1..=NODES {
            let socket = node::socket(&self.layout, number).display().to_string();
            let tag = ["images", "tag", "--force", image, name];
            run("ctr", &[&["-a", &socket, "-n", "k8s.io"], &tag[..]].concat()).await?;
        }
        Ok(())
    }

    /// A node, from 1 on.
    ///
    /// # Errors
    /// There is none of this number.
    pub fn node(&self, number: u8) -> anyhow::Result<Node<'_>> {
        ensure!((1..=NODES).contains(&number), "there are {NODES} nodes, and no {number}");
        Ok(Node { cluster: self, number })
    }

    /// The node of this name.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn node_named(&self, name: &str) -> anyhow::Result<Node<'_>> {
        let number = (1..=NODES).find(|number| node_name(*number) == name);
        self.node(number.with_context(|| format!("there is no node {name}"))?)
    }

    /// The object store.
    #[must_use]
    pub fn s3(&self) -> S3<'_> {
        S3 { cluster: self }
    }

    /// Where the API server, and nothing else of the cluster, finds servers of this process.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.layout.host()
    }

    /// How kubectl and helm reach it.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig("admin")
    }

    /// The line that gives a shell kubectl and helm.
    #[must_use]
    pub fn shell_line(&self) -> String {
        let (config, tools) = (self.kubeconfig(), self.tools.folder());
        let Credentials { access_key, secret_key } = Credentials::admin();
        format!(
            "export KUBECONFIG={} PATH={}:$PATH S3_ENDPOINT={ENDPOINT} S3_BUCKET={BUCKET} \
             S3_ACCESS_KEY={access_key} S3_SECRET_KEY={secret_key}",
            config.display(),
            tools.display()
        )
    }

    /// Has the keeper collect what tells why this failed.
    fn fail(&mut self) -> anyhow::Result<PathBuf> {
        let folder = tempfile::Builder::new().prefix("pyramid-cluster-").tempdir()?.keep();
        if let Some(keeper) = &mut self.keeper {
            keeper.collect_into(&folder);
        }
        Ok(folder)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keeper.is_some() && std::thread::panicking() {
            match self.fail() {
                Ok(folder) => tell(&format!("logs of the cluster: {}", folder.display())),
                Err(error) => tell(&format!("logs of the cluster are not kept: {error}")),
            }
        }
    }
}

/// A node of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    cluster: &'a Cluster,
    number: u8,
}

impl Node<'_> {
    /// Its name in Kubernetes.
    #[must_use]
    pub fn name(&self) -> String {
        node_name(self.number)
    }

    /// Kills it as a power cut does: kubelet, containerd and the processes of its pods. What is on
    /// its disk stays.
    ///
    /// # Errors
    /// Its processes do not go.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let layout = &self.cluster.layout;
        let containers = node::containers(layout, self.number)?;
        unit::end(layout, &self.name()).await?;
        cgroup::remove(&containers).await
    }

    /// Starts it after [`Self::kill`].
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start(&self) -> anyhow::Result<()> {
        let Cluster { layout, tools, .. } = self.cluster;
        ensure!(!unit::runs(layout, &self.name()), "{} runs already", self.name());
        node::unit(layout, tools, self.number)?.start(layout).await
    }

    /// Cuts it off from everything but its own pods.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn cut(&self) -> anyhow::Result<()> {
        network::set_link(&self.cluster.layout, self.number, false).await
    }

    /// Connects it again after [`Self::cut`].
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn join(&self) -> anyhow::Result<()> {
        network::set_link(&self.cluster.layout, self.number, true).await
    }

    /// Gives it the images of an archive.
    ///
    /// # Errors
    /// It does not take them.
    pub async fn import_image(&self, archive: &Path) -> anyhow::Result<()> {
        let socket = node::socket(&self.cluster.layout, self.number).display().to_string();
        self.cluster
            .wait_for("containerd serves", START_TIMEOUT, async || {
                Ok(run("ctr", &["-a", &socket, "version"]).await.is_ok())
            })
            .await?;
        let archive = archive.display().to_string();
        let import = ["-a", &socket, "-n", "k8s.io", "images", "import", &archive];
        run("ctr", &import).await.map(drop)
    }
}
