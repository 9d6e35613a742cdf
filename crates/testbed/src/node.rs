//! A node: a real containerd and a real kubelet, with a network, a view of the file system and a
//! resolver of their own.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cleanup;
use crate::kubeconfig::Access;
use crate::kubectl::Kubectl;
use crate::paths::Dirs;
use crate::process::{Process, Program};
use crate::state::{Entry, StateFile};
use crate::tools::Tools;
use crate::wait::wait_for;

/// The image of the container that holds a Pod's network.
pub(crate) const SANDBOX_IMAGE: (&str, &str) = ("pause", "3.10");

/// Directories that a node must not share: kubelet, containerd and the CNI plugins have these
/// paths built in.
const OWN_DIRECTORIES: [&str; 3] = ["/run/containerd", "/var/lib/cni", "/var/log"];
const KUBELET_DIRECTORY: &str = "/var/lib/kubelet";

/// Sets up a node's view of the file system ($1: resolv.conf, $2: the node's data, $3: where it
/// sees them, $4: empty directories), then runs the rest of the arguments. Mounts of the node's
/// containers are made in there too, and end with it.
const VIEW: &str = r#"
mount --bind "$1" /etc/resolv.conf
mount --bind "$2" "$3"
mount --bind "$2/kubelet" /var/lib/kubelet
for directory in $4; do mount -t tmpfs tmpfs "$directory"; done
shift 4
exec "$@"
"#;

/// What a node shall be like.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name; the label `kubernetes.io/hostname` too.
    pub name: String,
    /// Labels that it registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints that it registers with, as `key=value:Effect` or `key:Effect`.
    pub taints: Vec<String>,
    /// Whether its network is set up. Without, it stays NotReady until
    /// [`Node::enable_network`].
    pub cni: bool,
    /// Merged into its `KubeletConfiguration`.
    pub kubelet: Value,
}

impl NodeOptions {
    /// A node with a network, no labels and no taints.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), labels: BTreeMap::new(), taints: Vec::new(), cni: true, kubelet: json!({}) }
    }
}

/// What the nodes of a cluster share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dirs: Dirs,
    pub(crate) state: Arc<StateFile>,
    pub(crate) tools: Tools,
    pub(crate) kubectl: Kubectl,
    pub(crate) access: Access,
    /// Keeps bridge names of clusters apart.
    pub(crate) slot: u8,
    /// X of the cluster's 10.X.0.0/16.
    pub(crate) network: u8,
    /// Where Pods reach the API server, if they do.
    pub(crate) api_for_pods: Option<Ipv4Addr>,
}

/// A node of a cluster; stopped with it.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    shared: Arc<Shared>,
    index: u8,
    containerd: Process,
    kubelet: Process,
}

impl Node {
    /// Starts a node and waits until it is registered, and Ready if it has a network.
    pub(crate) fn start_new(options: NodeOptions, index: u8, shared: &Arc<Shared>) -> Result<Self> {
        let files = Files::new(&options.name, index, shared);
        files.prepare(&options)?;
        shared.state.add(&Entry::Bridge(files.bridge.clone()))?;
        // The bridge has the node's address before the kubelet starts, which wants one of the
        // machine's that is not a loopback address.
        cleanup::add_bridge(&files.bridge, files.address())?;
        let containerd = Process::start_new(files.containerd(), &shared.state)?;
        wait_for("containerd listens", Duration::from_secs(60), || {
            containerd.check()?;
            Ok(UnixStream::connect(files.socket()).ok().map(drop))
        })?;
        let kubelet = Process::start_new(files.kubelet(&options, containerd.pid()?), &shared.state)?;
        let node = Self { options, shared: Arc::clone(shared), index, containerd, kubelet };
        node.wait_registered()?;
        if node.options.cni {
            node.wait_ready()?;
        }
        Ok(node)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Runs containerd's client in the namespace of Kubernetes' images and containers; returns
    /// its output.
    ///
    /// # Errors
    /// With its error output, if it fails.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(self.shared.tools.path("ctr"))
            .arg("--address")
            .arg(self.files().socket())
            .args(["--namespace", "k8s.io"])
            .args(arguments)
            .output()
            .context("ctr")?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("ctr {}: {}", arguments.join(" "), error.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Pulls an image without a Pod. `reference` is in full (`docker.io/library/app:1`).
    ///
    /// # Errors
    /// If there is no such image.
    pub fn pull(&self, reference: &str) -> Result<()> {
        let hosts = self.shared.dirs.hosts().display().to_string();
        self.ctr(&["images", "pull", "--hosts-dir", &hosts, reference])?;
        Ok(())
    }

    /// Removes an image as the kubelet's garbage collector does: under all of its names.
    /// `reference` is one of them, in full (`docker.io/library/app:1`).
    ///
    /// # Errors
    /// If the node does not have it.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        let table = self.ctr(&["images", "list"])?;
        // Name, media type, digest, ...
        let images: Vec<(&str, &str)> = table
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, words.nth(1)?))
            })
            .collect();
        let named = images.iter().find(|(name, _)| *name == reference);
        let (_, digest) = named.with_context(|| format!("no image {reference}"))?;
        let mut arguments = vec!["images", "remove"];
        let same = images.iter().filter(|(_, other)| other == digest);
        arguments.extend(same.map(|(name, _)| name));
        self.ctr(&arguments)?;
        Ok(())
    }

    /// Freezes the kubelet: it neither works nor tells the API server that it lives.
    ///
    /// # Errors
    /// If the kubelet does not run.
    pub fn pause(&self) -> Result<()> {
        self.kubelet.signal(Signal::STOP)
    }

    /// Ends [`Node::pause`].
    ///
    /// # Errors
    /// If the kubelet does not run.
    pub fn resume(&self) -> Result<()> {
        self.kubelet.signal(Signal::CONT)
    }

    /// Kills the kubelet; containers go on.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn stop(&self) -> Result<()> {
        self.kubelet.kill()
    }

    /// Starts the kubelet again after [`Node::stop`].
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self) -> Result<()> {
        self.kubelet.start()
    }

    /// Sets up the network of a node that was created without; it becomes Ready.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub fn enable_network(&self) -> Result<()> {
        self.files().write_cni()
    }

    /// Waits until the node is Ready.
    ///
    /// # Errors
    /// If it is not within a minute.
    pub fn wait_ready(&self) -> Result<()> {
        let node = format!("node/{}", self.name());
        let arguments = ["wait", "--for=condition=Ready", "--timeout=60s", &node];
        self.shared.kubectl.run(&arguments, "")?;
        Ok(())
    }

    /// Ends the node's processes and containers and removes what it has stored.
    pub(crate) fn shut_down(&self) -> Result<()> {
        let files = self.files();
        self.kubelet.kill()?;
        // First containerd, so that it does not start anything while its shims end.
        self.containerd.kill()?;
        cleanup::node(&files.run())?;
        cleanup::bridge(&files.bridge)?;
        cleanup::remove(&files.data)
    }

    fn wait_registered(&self) -> Result<()> {
        wait_for("the kubelet registers its node", Duration::from_secs(60), || {
            self.containerd.check()?;
            self.kubelet.check()?;
            Ok(self.shared.kubectl.run(&["get", "node", self.name()], "").ok())
        })?;
        Ok(())
    }

    fn files(&self) -> Files<'_> {
        Files::new(&self.options.name, self.index, &self.shared)
    }
}

/// Where a node's files are, and what is in them.
struct Files<'a> {
    name: &'a str,
    index: u8,
    shared: &'a Shared,
    bridge: String,
    etc: PathBuf,
    data: PathBuf,
}

impl<'a> Files<'a> {
    fn new(name: &'a str, index: u8, shared: &'a Shared) -> Self {
        Self {
            name,
            index,
            shared,
            // At most 15 bytes.
            bridge: format!("dt{}n{index}", shared.slot),
            etc: shared.dirs.etc().join(name),
            data: shared.dirs.data().join(name),
        }
    }

    fn run(&self) -> PathBuf {
        self.shared.dirs.run().join(self.index.to_string())
    }

    /// Where the node's own processes see its data. By the path, they are told from all others.
    fn view(&self) -> PathBuf {
        self.run().join("data")
    }

    fn socket(&self) -> PathBuf {
        self.run().join("containerd.sock")
    }

    /// Address of the node on its bridge.
    fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.shared.network, self.index, 1)
    }

    fn prepare(&self, options: &NodeOptions) -> Result<()> {
        let cni = self.etc.join("cni");
        let kubelet = self.data.join("kubelet");
        let shared_paths = OWN_DIRECTORIES.map(PathBuf::from);
        for directory in [cni, kubelet, self.view(), PathBuf::from(KUBELET_DIRECTORY)].iter().chain(&shared_paths) {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        fs::write(self.etc.join("containerd.toml"), self.containerd_config())?;
        let config = serde_json::to_vec_pretty(&self.kubelet_config(options)?)?;
        fs::write(self.etc.join("kubelet.json"), config)?;
        let user = format!("system:node:{}", self.name);
        let kubeconfig = self.etc.join("kubeconfig");
        self.shared.access.write_as(&kubeconfig, &user, &["system:nodes"])?;
        if options.cni {
            self.write_cni()?;
        }
        Ok(())
    }

    /// Pods get an address and no route beyond their bridge, except to the API server: nothing
    /// that runs in them leaves the machine.
    fn write_cni(&self) -> Result<()> {
        let gateway = self.address();
        let routes: Vec<Value> = self
            .shared
            .api_for_pods
            .iter()
            .map(|address| json!({ "dst": format!("{address}/32"), "gw": gateway }))
            .collect();
        let subnet = format!("10.{}.{}.0/24", self.shared.network, self.index);
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{
                "type": "bridge",
                "bridge": self.bridge,
                "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet }]], "routes": routes },
            }],
        });
        // Moved into place whole, for containerd watches the directory.
        let path = self.etc.join("cni/pods.conflist");
        let new = self.etc.join("cni/pods.new");
        fs::write(&new, serde_json::to_vec_pretty(&config)?)?;
        fs::rename(&new, &path).with_context(|| path.display().to_string())
    }

    fn containerd(&self) -> Program {
        let path = |path: PathBuf| path.display().to_string();
        let resolv_conf = self.shared.dirs.etc().join("resolv.conf");
        let command = [
            "unshare",
            "--mount",
            "--propagation=private",
            "sh",
            "-euc",
            VIEW,
            "sh",
            &path(resolv_conf),
            &path(self.data.clone()),
            &path(self.view()),
            &OWN_DIRECTORIES.join(" "),
            "containerd",
            "--config",
            &path(self.etc.join("containerd.toml")),
        ];
        self.program("containerd", command.map(str::to_owned).to_vec())
    }

    fn containerd_config(&self) -> String {
        let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
        let (repository, tag) = SANDBOX_IMAGE;
        format!(
            r#"version = 3
root = {root}
state = {state}
# They need what a node lacks, or share a socket between all nodes.
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = {socket}

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/{repository}:{tag}"

[plugins."io.containerd.cri.v1.images".registry]
config_path = {hosts}

[plugins."io.containerd.cri.v1.runtime"]
# A process in a container may not be allowed to lower its own score.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{bin}]
conf_dir = {cni}
"#,
            root = quoted(self.view().join("containerd")),
            state = quoted(self.run().join("state")),
            socket = quoted(self.socket()),
            hosts = quoted(self.shared.dirs.hosts()),
            bin = quoted(self.shared.tools.path("")),
            cni = quoted(self.etc.join("cni")),
        )
    }

    fn kubelet(&self, options: &NodeOptions, containerd: u32) -> Program {
        let labels: Vec<String> = options.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let command = vec![
            "nsenter".to_owned(),
            format!("--mount=/proc/{containerd}/ns/mnt"),
            "kubelet".to_owned(),
            format!("--config={}", self.etc.join("kubelet.json").display()),
            format!("--kubeconfig={}", self.etc.join("kubeconfig").display()),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.address()),
            format!("--node-labels={}", labels.join(",")),
        ];
        self.program("kubelet", command)
    }

    fn kubelet_config(&self, options: &NodeOptions) -> Result<Value> {
        let taints = options.taints.iter().map(|taint| parse_taint(taint)).collect::<Result<Vec<_>>>()?;
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address(),
            "healthzBindAddress": self.address(),
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "registerWithTaints": taints,
            "maxPods": 200,
            "resolvConf": "",
            // Nothing serves it; without, every Pod gets an event that says so.
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            // Many kubelets share this machine: none manages or judges it.
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            "makeIPTablesUtilChains": false,
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            // News sooner than usual, but no more requests without news.
            "nodeStatusUpdateFrequency": "2s",
            "nodeStatusReportFrequency": "1m",
            "nodeLeaseDurationSeconds": 12,
        });
        merge(&mut config, &options.kubelet);
        Ok(config)
    }

    fn program(&self, name: &str, command: Vec<String>) -> Program {
        let name = format!("{name}-{}", self.name);
        Program { log: self.shared.dirs.logs().join(format!("{name}.log")), name, command }
    }
}

/// A taint written as for `kubectl taint`.
fn parse_taint(taint: &str) -> Result<Value> {
    let (key, effect) = taint.rsplit_once(':').with_context(|| format!("taint {taint:?}: no effect"))?;
    let (key, value) = key.split_once('=').unwrap_or((key, ""));
    Ok(json!({ "key": key, "value": value, "effect": effect }))
}

/// Overwrites fields of `base` by those of `patch`, within objects at any depth.
fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, patch) => base.clone_from(patch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_settings_are_overwritten_one_by_one() {
        let mut config = json!({ "a": { "b": 1, "c": 2 }, "d": 3 });
        merge(&mut config, &json!({ "a": { "c": 4 }, "e": [5] }));
        assert_eq!(config, json!({ "a": { "b": 1, "c": 4 }, "d": 3, "e": [5] }));
    }

    #[test]
    fn taints_are_parsed() {
        let taint = json!({ "key": "gpu", "value": "yes", "effect": "NoSchedule" });
        assert_eq!(parse_taint("gpu=yes:NoSchedule").unwrap(), taint);
        assert_eq!(parse_taint("gpu:NoSchedule").unwrap()["value"], "");
        assert!(parse_taint("gpu").is_err());
    }
}
