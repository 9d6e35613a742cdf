//! A cluster with an operator.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use drop_api::condition::{self, Condition};
use drop_api::{CachedImage, CachedImageStatus};
use drop_testbed::{
    AuditEvent, Authority, Clients, Cluster, ClusterOptions, ForwardProxy, Node, NodeOptions, TlsFront,
};
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::Runtime;

use crate::operator::{self, Operator};
use crate::sight::{Sight, Watched};

/// The namespace of pull Pods.
const NAMESPACE: &str = "drop-system";
/// How long a test waits for anything. The limit is generous, because machines are slow and these waits measure
/// nothing.
const LIMIT: Duration = Duration::from_secs(180);

/// A cluster with an operator.
pub struct Bed {
    /// The cluster.
    pub cluster: Cluster,
    operator: Mutex<Option<Operator>>,
    binary: PathBuf,
    /// The binary finds the hosts that tests serve through this proxy.
    proxy: ForwardProxy,
    /// The authority that the binary trusts.
    authority: Authority,
    authority_file: PathBuf,
    flags: Vec<String>,
    watched: Watched,
    runtime: Runtime,
}

impl Bed {
    /// Starts a cluster without nodes, installs the CRDs, and starts the operator with these flags.
    ///
    /// # Errors
    /// If a step fails.
    pub fn start(name: &str, flags: &[&str]) -> Result<Self> {
        let bed = Self::without_operator(name, flags)?;
        bed.start_operator()?;
        Ok(bed)
    }

    /// Starts the cluster in the same way, but without the operator.
    ///
    /// # Errors
    /// If a step fails.
    pub fn without_operator(name: &str, flags: &[&str]) -> Result<Self> {
        let binary = operator::binary()?;
        let cluster = Cluster::start(ClusterOptions::new(name), &|line| eprintln!("[{name}] {line}"))?;
        cluster.define(&crate::root().join("deploy/crds"))?;
        cluster.kubectl(&["create", "namespace", NAMESPACE])?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(client(cluster.kubeconfig()))?;
        let watched = Watched::start(&client, NAMESPACE, runtime.handle());
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (proxy, authority) = (ForwardProxy::start()?, Authority::new()?);
        let authority_file = cluster.kubeconfig().with_file_name("authority.crt");
        fs::write(&authority_file, authority.certificate())?;
        let operator = Mutex::default();
        Ok(Self { cluster, operator, binary, proxy, authority, authority_file, flags, watched, runtime })
    }

    /// Starts the operator, after it was killed or stopped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_operator(&self) -> Result<()> {
        *self.operator() = Some(self.start_replica()?);
        Ok(())
    }

    /// Starts one more operator.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_replica(&self) -> Result<Operator> {
        self.start_replica_as(self.cluster.kubeconfig(), &[])
    }

    /// Starts one more operator. It reaches the API server by this kubeconfig, and has `flags` in addition to those of
    /// the others.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_replica_as(&self, kubeconfig: &Path, flags: &[String]) -> Result<Operator> {
        Operator::start(self.drop_command(), kubeconfig, &[&self.flags, flags].concat(), &self.log_file())
    }

    fn log_file(&self) -> PathBuf {
        self.cluster.kubeconfig().with_file_name("operator.log")
    }

    /// Returns the log of all operators so far.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.log_file())?)
    }

    /// Returns the command for the binary, which finds the hosts of [`Bed::serve`] and trusts them.
    pub fn drop_command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("HTTPS_PROXY", self.proxy.url())
            .env("HTTP_PROXY", self.proxy.url())
            .env("NO_PROXY", "127.0.0.1")
            .env("SSL_CERT_FILE", &self.authority_file);
        command
    }

    /// Serves `https://HOST` by the HTTP server at `upstream`, as long as the returned value lives. Until then the host
    /// does not exist.
    ///
    /// # Errors
    /// If it is not the name of a host.
    pub fn serve(&self, host: &str, upstream: SocketAddr) -> Result<TlsFront> {
        let front = TlsFront::start(&self.authority, &[host], Clients::Anybody, upstream)?;
        self.proxy.route(&format!("{host}:443"), front.address());
        Ok(front)
    }

    /// The operator's process.
    pub fn operator(&self) -> MutexGuard<'_, Option<Operator>> {
        self.operator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts nodes named after `scenario`, which also is the value of their label
    /// `scenario`.
    ///
    /// # Errors
    /// If one does not become Ready.
    pub fn nodes(&self, scenario: &str, count: usize) -> Result<Vec<Arc<Node>>> {
        let options = (1..=count).map(|number| NodeOptions {
            labels: [("scenario".to_owned(), scenario.to_owned())].into(),
            ..NodeOptions::new(format!("{scenario}-{number}"))
        });
        self.cluster.add_nodes(options.collect())
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// If the API server denies one.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.cluster.apply(manifests)
    }

    /// Returns the objects as the watches show them now.
    pub fn look(&self) -> MutexGuard<'_, Sight> {
        self.watched.look()
    }

    /// Waits until `find` returns a value.
    ///
    /// # Errors
    /// If it does not in time; the error names `what` the test waited for.
    pub fn wait<T>(&self, what: &str, find: impl Fn(&Sight) -> Option<T>) -> Result<T> {
        self.runtime.block_on(async {
            let mut changes = self.watched.changes();
            let found = tokio::time::timeout(LIMIT, async {
                loop {
                    changes.mark_unchanged();
                    if let Some(found) = find(&self.look()) {
                        return Ok(found);
                    }
                    changes.changed().await?;
                }
            });
            match found.await {
                Ok(found) => found,
                Err(_) => Err(anyhow!("waited {LIMIT:?} for {what}")),
            }
        })
    }

    /// Waits until `is_so` holds for the CachedImage `name`.
    ///
    /// # Errors
    /// If it does not in time; the error shows the status.
    pub fn wait_image(
        &self,
        name: &str,
        is_so: impl Fn(&CachedImageStatus, &Condition) -> bool,
    ) -> Result<CachedImage> {
        let found = self.wait(name, |sight| {
            let image = sight.images.get(name)?;
            let status = image.status.as_ref()?;
            let current = status.observed_generation == image.metadata.generation;
            let ready = condition::ready(&status.conditions)?;
            (current && is_so(status, ready)).then(|| image.clone())
        });
        found.with_context(|| format!("{name}: {:#?}", self.look().images.get(name).map(|image| &image.status)))
    }

    /// Waits until the CachedImage `name` is cached on `nodes` nodes.
    ///
    /// # Errors
    /// If it is not in time.
    pub fn wait_cached(&self, name: &str, nodes: usize) -> Result<CachedImage> {
        let ready = format!("{nodes}/{nodes}");
        self.wait_image(name, |status, condition| {
            condition.reason == "Cached" && status.ready.as_deref() == Some(ready.as_str())
        })
    }

    /// Waits until a Pod pulls `image` (a full reference), and returns the Pod.
    ///
    /// # Errors
    /// If none does in time.
    pub fn wait_pod(&self, image: &str) -> Result<Pod> {
        self.wait(&format!("a Pod that pulls {image}"), |sight| {
            sight.pods.values().find(|pod| images(pod).any(|other| other == image)).cloned()
        })
    }

    /// Waits until no pull Pod with `image` exists.
    ///
    /// # Errors
    /// If one stays.
    pub fn wait_no_pod(&self, image: &str) -> Result<()> {
        self.wait(&format!("the end of every Pod that pulls {image}"), |sight| {
            let mut pods = sight.pods.values();
            (!pods.any(|pod| images(pod).any(|other| other == image))).then_some(())
        })
    }

    /// Returns the names of all Pods that ever pulled `image`.
    pub fn pods_of(&self, image: &str) -> Vec<String> {
        let sight = self.look();
        let pods = sight.all_pods.iter().filter(|(_, pod)| pod.images.iter().any(|other| other == image));
        pods.map(|(name, _)| name.clone()).collect()
    }

    /// Applies a manifest that the API server must deny, and returns the reason.
    ///
    /// # Errors
    /// If the API server accepts it.
    pub fn refused(&self, manifest: &str) -> Result<String> {
        match self.cluster.apply(manifest) {
            Ok(()) => bail!("accepted:\n{manifest}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Waits until the CachedImage `name` has exactly these Events, each given as its reason and its count.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn wait_events(&self, name: &str, events: &[(&str, usize)]) -> Result<()> {
        let of_image = |sight: &Sight| {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for event in sight.events.values().filter(|event| event.object == name) {
                *counts.entry(event.reason.clone()).or_default() += 1;
            }
            counts
        };
        let expected = events.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        let found = self.wait("events", |sight| (of_image(sight) == expected).then_some(()));
        found.with_context(|| format!("{name}: {:?}, not {expected:?}", of_image(&self.look())))
    }

    /// Returns the requests that the operator has sent, in order.
    ///
    /// # Errors
    /// If the audit log cannot be read.
    pub fn requests(&self) -> Result<Vec<AuditEvent>> {
        let mut events = self.cluster.audit()?;
        events.retain(|event| event.user_agent.starts_with("drop/"));
        events.sort_by_key(|event| event.request_received);
        Ok(events)
    }

    /// Waits until the operator has sent a request for which `is_it` holds, and returns the first one. The API server
    /// logs a request after other clients have seen the change.
    ///
    /// # Errors
    /// If it sends none in time; the error names `what` the test waited for.
    pub fn wait_request(&self, what: &str, is_it: impl Fn(&AuditEvent) -> bool) -> Result<AuditEvent> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(request) = self.requests()?.into_iter().find(&is_it) {
                return Ok(request);
            }
            ensure!(Instant::now() < end, "waited {LIMIT:?} for the request of {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The images of a Pod's containers.
fn images(pod: &Pod) -> impl Iterator<Item = &str> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.filter_map(|container| container.image.as_deref())
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    // Another bed may have installed the provider before.
    drop(rustls::crypto::ring::default_provider().install_default());
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
