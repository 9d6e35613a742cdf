//! A whole cluster, from its start to its end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::api_proxy::ApiProxy;
use crate::api_service::ApiService;
use crate::audit::{self, AuditEvent};
use crate::control_plane::ControlPlane;
use crate::dns::Dns;
use crate::home::{Home, in_use, try_lock};
use crate::image::ImageSpec;
use crate::kubeconfig::Access;
use crate::kwok::Kwok;
use crate::node::{Node, NodeOptions, SANDBOX_IMAGE, Shared};
use crate::paths::Dirs;
use crate::process::send;
use crate::procfs::Identity;
use crate::proxy::Proxy;
use crate::registry::{FaultyRegistry, PRIVATE_HOST, Registry, RegistryAuth, RegistryOptions, write_host, write_hosts};
use crate::state::{self, Entry};
use crate::tools::Tools;
use crate::wait::wait_for;
use crate::{Progress, cleanup, prerequisites};

/// What a cluster shall be like.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Clusters of different names run side by side.
    pub name: String,
    /// How long a node may be silent before it is NotReady; nodes tell that they live every
    /// 3 s. In whole seconds.
    pub node_monitor_grace_period: Duration,
    /// Whether Pods reach the API server, as operators in a cluster do.
    pub api_for_pods: bool,
    /// Whether this process exists only to keep the cluster, so that [`Cluster::down`] may end
    /// it.
    pub daemon: bool,
}

impl ClusterOptions {
    /// The defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            node_monitor_grace_period: Duration::from_secs(20),
            api_for_pods: false,
            daemon: false,
        }
    }

    /// The same for nodes that may be silent for a day.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { node_monitor_grace_period: Duration::from_secs(24 * 3600), ..self }
    }
}

/// A running cluster. It ends with this value, at the latest with this process; containers that
/// a killed process leaves behind are cleaned up by the next start and by [`Cluster::down`].
#[derive(Debug)]
pub struct Cluster {
    control_plane: ControlPlane,
    mirror: Registry,
    private: Registry,
    nodes: Mutex<Vec<Arc<Node>>>,
    next_node: AtomicU8,
    shared: Arc<Shared>,
    stopped: AtomicBool,
    _dns: Dns,
    // Last, so that all of the above has ended before another may start.
    home: Home,
}

impl Cluster {
    /// Cleans up what an earlier cluster of that name has left, and starts the control plane and the
    /// registries; nodes are added afterwards. It uses the tools [`Tools::CLUSTER`].
    ///
    /// # Errors
    /// If the machine lacks something or the tools are not built, a cluster of that name runs, or a component does not
    /// become ready; the error then has the end of its log.
    pub fn start(options: ClusterOptions, progress: Progress<'_>) -> Result<Self> {
        let home = Home::open(&options.name)?;
        let tools = Tools::built(&Tools::CLUSTER)?;
        prerequisites::ensure_to_run(progress)?;
        if options.daemon
            && let Some(identity) = Identity::of(std::process::id())
        {
            home.state.add(&Entry::Daemon(identity))?;
        }
        let Home { dirs, state, .. } = &home;
        let dns = Dns::start()?;
        dns.write_resolv_conf(&dirs.etc().join("resolv.conf"))?;
        progress("starting the registries");
        let mirror = Registry::start(&home, &tools, "registry", RegistryOptions::new("docker.io"))?;
        let wants_password = RegistryOptions { auth: RegistryAuth::Password, ..RegistryOptions::new(PRIVATE_HOST) };
        let private = Registry::start(&home, &tools, "registry-private", wants_password)?;
        write_hosts(&dirs.hosts(), &mirror, &private)?;
        let (repository, tag) = SANDBOX_IMAGE;
        mirror.push(repository, tag, &ImageSpec::runnable())?;
        progress("starting the control plane");
        let service = if options.api_for_pods { Some(ApiService::start(&dns, state)?) } else { None };
        let control_plane = ControlPlane::start(&options, service.as_ref(), &tools, dirs, state)?;
        progress("control plane is ready");
        let shared = Shared {
            dirs: dirs.clone(),
            state: Arc::clone(state),
            tools: tools.clone(),
            kubectl: control_plane.kubectl.clone(),
            access: control_plane.access.clone(),
            slot: dns.slot(),
            network: dns.network(),
            api_for_pods: service.map(|service| service.address),
        };
        Ok(Self {
            control_plane,
            mirror,
            private,
            nodes: Mutex::default(),
            next_node: AtomicU8::new(1),
            shared: Arc::new(shared),
            stopped: AtomicBool::new(false),
            _dns: dns,
            home,
        })
    }

    /// Ends a cluster that another process keeps (see [`ClusterOptions::daemon`]) or has left
    /// behind. Nothing happens if there is none.
    ///
    /// # Errors
    /// If the cluster belongs to a running process that is not its daemon, such as a test.
    pub fn down(name: &str) -> Result<()> {
        let dirs = Dirs::new(name)?;
        if !dirs.root().exists() {
            return Ok(());
        }
        let mut killed = false;
        for entry in state::read(&dirs.state())? {
            if let Entry::Daemon(identity) = entry
                && identity.is_alive()
            {
                send(identity.pid, Signal::KILL)?;
                killed = true;
            }
        }
        // The kernel takes the lock from a killed process when the last of its threads has ended.
        let _lock = wait_for("end of the daemon", Duration::from_secs(30), || {
            let lock = try_lock(&dirs)?;
            if lock.is_none() && !killed {
                bail!(in_use(name));
            }
            Ok(lock)
        })?;
        cleanup::cluster(&dirs)
    }

    /// Where the logs of a cluster's processes are; they stay when it ends.
    ///
    /// # Errors
    /// If the name is not one for a cluster.
    pub fn logs(name: &str) -> Result<PathBuf> {
        Ok(Dirs::new(name)?.logs())
    }

    /// Its place, in which other servers may be started too; they end with it.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.control_plane.kubectl.kubeconfig
    }

    /// Writes a kubeconfig for a user, who may do what RBAC allows to him and to these groups
    /// (and to `system:authenticated`).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let path = self.kubeconfig_path(user);
        self.control_plane.access.write_as(&path, user, groups)?;
        Ok(path)
    }

    /// The same by way of a proxy, at which the connection can be disturbed.
    ///
    /// # Errors
    /// If the file cannot be written or no port is free.
    pub fn kubeconfig_by_proxy(&self, user: &str, groups: &[&str]) -> Result<(PathBuf, Proxy)> {
        let proxy = Proxy::start(self.control_plane.api_address)?;
        let path = self.kubeconfig_path(user);
        // The certificate is for the address, whatever the port.
        let access = Access { server: format!("https://{}", proxy.address()), ..self.control_plane.access.clone() };
        access.write_as(&path, user, groups)?;
        Ok((path, proxy))
    }

    /// A proxy before the API server that understands requests; `seed` decides what goes wrong by
    /// chance.
    ///
    /// # Errors
    /// If no port is free.
    pub fn api_proxy(&self, seed: u64) -> Result<ApiProxy> {
        ApiProxy::start(self.control_plane.api_address, &self.control_plane.access.ca, seed)
    }

    /// Writes a kubeconfig for whoever owns the token in `token`, a file that is read again from
    /// time to time, by way of `proxy`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn kubeconfig_with_token(&self, token: &Path, proxy: &ApiProxy) -> Result<PathBuf> {
        let path = token.with_extension("kubeconfig");
        let access = Access {
            server: format!("https://{}", proxy.address()),
            ca: proxy.certificate().into_bytes(),
            ..self.control_plane.access.clone()
        };
        access.write_with_token_file(&path, token)?;
        Ok(path)
    }

    fn kubeconfig_path(&self, user: &str) -> PathBuf {
        let file: String = user.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.home.dirs.etc().join(format!("user-{file}.kubeconfig"))
    }

    /// The path of kubectl.
    #[must_use]
    pub fn kubectl_path(&self) -> &Path {
        &self.control_plane.kubectl.program
    }

    /// Runs kubectl as the administrator; returns its output.
    ///
    /// # Errors
    /// With its error output, if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.control_plane.kubectl.run(arguments, "")
    }

    /// Creates or changes the objects in `manifests` (YAML or JSON).
    ///
    /// # Errors
    /// If the API server refuses one.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let arguments = ["apply", "--filename=-"];
        self.control_plane.kubectl.run(&arguments, manifests)?;
        Ok(())
    }

    /// Applies the CustomResourceDefinitions at `path` (a file, or a folder of them), and waits
    /// until objects of their kinds can be made.
    ///
    /// # Errors
    /// If the API server refuses one, or has not taken all of them in within a minute.
    pub fn define(&self, path: &Path) -> Result<()> {
        let file = format!("--filename={}", path.display());
        self.kubectl(&["apply", "--server-side", "--force-conflicts", &file])?;
        wait_for(&format!("the API server knows the kinds of {}", path.display()), Duration::from_secs(60), || {
            let definitions = serde_json::from_str(&self.kubectl(&["get", "--output=json", &file])?)?;
            Ok(established(&definitions).then_some(()))
        })
    }

    /// The registry that stands for [`crate::MIRRORED_HOSTS`].
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.mirror
    }

    /// Lets [`Cluster::registry`] stand for one more host, from the next pull on.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub fn mirror_host(&self, host: &str) -> Result<()> {
        write_host(&self.home.dirs.hosts(), host, &self.mirror)
    }

    /// Lets nodes reach [`Cluster::registry`] under one more host, which can go wrong.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub fn faulty_registry(&self, host: &str) -> Result<FaultyRegistry> {
        // The API server's certificate is made by itself: nodes do not know its authority.
        FaultyRegistry::start(&self.home.dirs.hosts(), host, &self.mirror, self.control_plane.api_address)
    }

    /// The registry that wants a password, at [`crate::PRIVATE_HOST`].
    #[must_use]
    pub fn private_registry(&self) -> &Registry {
        &self.private
    }

    /// Adds a node and waits until it is registered, and Ready if it has a network.
    ///
    /// # Errors
    /// If it does not get there; the error has the end of the log of what has failed.
    pub fn add_node(&self, options: NodeOptions) -> Result<Arc<Node>> {
        if self.nodes().iter().any(|node| node.name() == options.name) {
            bail!("there is a node {:?} already", options.name);
        }
        let index = self.next_node.fetch_add(1, Ordering::Relaxed);
        if index == 0 || index > 250 {
            bail!("a cluster has addresses for 250 nodes");
        }
        let name = options.name.clone();
        let node = Node::start_new(options, index, &self.shared).with_context(|| format!("node {name}"))?;
        let node = Arc::new(node);
        self.locked_nodes().push(Arc::clone(&node));
        Ok(node)
    }

    /// Adds nodes side by side; returns them in the same order.
    ///
    /// # Errors
    /// If one of them fails, see [`Cluster::add_node`].
    pub fn add_nodes(&self, options: Vec<NodeOptions>) -> Result<Vec<Arc<Node>>> {
        thread::scope(|scope| {
            let starting: Vec<_> = options.into_iter().map(|options| scope.spawn(|| self.add_node(options))).collect();
            starting.into_iter().map(|node| node.join().map_err(|_| anyhow!("adding a node panicked"))?).collect()
        })
    }

    /// Ends a node for good, as a machine that is switched off, and deletes its Node object.
    ///
    /// # Errors
    /// If there is no such node, or something of it cannot be ended.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        let node = {
            let mut nodes = self.locked_nodes();
            let index = nodes.iter().position(|node| node.name() == name);
            nodes.remove(index.with_context(|| format!("there is no node {name:?}"))?)
        };
        node.shut_down()?;
        self.kubectl(&["delete", "node", "--ignore-not-found", name])?;
        Ok(())
    }

    /// The nodes, in the order in which they became ready.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.locked_nodes().clone()
    }

    /// Runs kwok, whose project is `kwok`: nodes without a machine, on which the pull of an image
    /// takes `pull_time`.
    ///
    /// # Errors
    /// If it is not built or does not start.
    pub fn start_kwok(&self, pull_time: Duration) -> Result<Kwok> {
        let tools = Tools::built(&["kwok"])?;
        Kwok::start(&self.home, &self.control_plane.kubectl, &tools, pull_time)
    }

    /// How many bytes etcd has written to its log so far: all that it was asked to store.
    ///
    /// # Errors
    /// If etcd does not tell.
    pub fn etcd_written(&self) -> Result<u64> {
        self.control_plane.etcd_written()
    }

    /// Every request that the API server has answered so far.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        Ok(audit::parse(&self.control_plane.audit_log()?))
    }

    /// Kills the API server.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn stop_api_server(&self) -> Result<()> {
        self.control_plane.stop_api_server()
    }

    /// Starts the API server again, at the same address, and waits until it serves.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn start_api_server(&self) -> Result<()> {
        self.control_plane.start_api_server()
    }

    /// Kills etcd.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn stop_etcd(&self) -> Result<()> {
        self.control_plane.stop_etcd()
    }

    /// Starts etcd again, at the same address and with its data.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn start_etcd(&self) -> Result<()> {
        self.control_plane.start_etcd()
    }

    /// Kills the whole control plane and starts it again.
    ///
    /// # Errors
    /// If a part of it does not get ready.
    pub fn restart_control_plane(&self) -> Result<()> {
        self.control_plane.stop()?;
        self.control_plane.resume()
    }

    /// Ends everything and removes its data; logs stay. Also done when the value is dropped.
    ///
    /// # Errors
    /// If something cannot be ended or removed.
    pub fn stop(&self) -> Result<()> {
        if self.stopped.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        for node in self.nodes() {
            node.shut_down()?;
        }
        self.control_plane.stop()?;
        self.mirror.stop()?;
        self.private.stop()?;
        cleanup::cluster(&self.home.dirs)
    }

    fn locked_nodes(&self) -> MutexGuard<'_, Vec<Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody is left to tell; the next start cleans up what stays.
        let _ = self.stop();
    }
}

/// Whether all CustomResourceDefinitions of what kubectl printed are served.
///
/// kubectl's own wait fails on one so new that its conditions are null.
fn established(definitions: &Value) -> bool {
    let one = std::slice::from_ref(definitions);
    let all = definitions.get("items").and_then(Value::as_array).map_or(one, Vec::as_slice);
    all.iter().all(|definition| {
        let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_are_awaited_from_their_first_moment_on() {
        let new = json!({ "status": { "conditions": null } });
        let named = json!({ "status": { "conditions": [
            { "type": "NamesAccepted", "status": "True" },
            { "type": "Established", "status": "False" },
        ] } });
        let served = json!({ "status": { "conditions": [{ "type": "Established", "status": "True" }] } });
        assert!(established(&served));
        assert!(established(&json!({ "items": [served, served] })));
        for unserved in [new, named, json!({})] {
            assert!(!established(&unserved), "{unserved}");
            assert!(!established(&json!({ "items": [served, unserved] })), "{unserved}");
        }
    }
}
