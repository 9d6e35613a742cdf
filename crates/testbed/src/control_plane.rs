//! etcd, the API server, the controller manager and the scheduler.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::api_service::ApiService;
use crate::image::random_hex;
use crate::kubeconfig::Access;
use crate::kubectl::Kubectl;
use crate::paths::Dirs;
use crate::process::{Process, Program};
use crate::state::StateFile;
use crate::tools::Tools;
use crate::wait::{wait_for, wait_for_port};
use crate::{cleanup, cluster::ClusterOptions, http};

const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";

#[derive(Debug)]
pub(crate) struct ControlPlane {
    etcd: Process,
    etcd_address: SocketAddr,
    api_server: Process,
    pub(crate) api_address: SocketAddr,
    controller_manager: Process,
    scheduler: Process,
    pub(crate) access: Access,
    pub(crate) kubectl: Kubectl,
    audit_log: PathBuf,
}

impl ControlPlane {
    /// The API server listens at `service` if Pods shall reach it, else at any port of this
    /// machine's own.
    pub(crate) fn start(
        options: &ClusterOptions,
        service: Option<&ApiService>,
        tools: &Tools,
        dirs: &Dirs,
        state: &Arc<StateFile>,
    ) -> Result<Self> {
        let start = |name: &str, command: Vec<String>| {
            let program = Program { name: name.to_owned(), command, log: dirs.logs().join(format!("{name}.log")) };
            Process::start_new(program, state)
        };
        let etcd_address = free_address()?;
        let etcd = start("etcd", etcd_command(dirs, etcd_address)?)?;
        wait_for_port(&etcd, etcd_address)?;

        let tokens = Tokens::write(dirs)?;
        let (api_address, services) = match service {
            Some(service) => (SocketAddr::from((service.address, 443)), service.network()),
            None => (free_address()?, "10.96.0.0/16".to_owned()),
        };
        let audit_log = dirs.logs().join("audit.log");
        let command = api_server_command(dirs, etcd_address, api_address, &services)?;
        let api_server = start("kube-apiserver", command)?;
        wait_for_port(&api_server, api_address)?;

        let access = Access {
            server: format!("https://{api_address}"),
            // The server has made its certificate, and an authority for it, before it listens.
            ca: fs::read(dirs.data().join("pki/apiserver.crt")).context("server certificate")?,
            admin: tokens.admin,
        };
        let kubeconfig = |name: &str| dirs.etc().join(format!("{name}.kubeconfig"));
        access.write(&kubeconfig("admin"), &access.admin)?;
        access.write(&kubeconfig("controller-manager"), &tokens.controller_manager)?;
        access.write(&kubeconfig("scheduler"), &tokens.scheduler)?;
        let kubectl = Kubectl {
            program: tools.path("kubectl"),
            kubeconfig: kubeconfig("admin"),
            cache: dirs.data().join("kubectl"),
        };

        let command = controller_manager_command(dirs, options);
        let controller_manager = start("kube-controller-manager", command)?;
        let scheduler = start("kube-scheduler", scheduler_command(dirs))?;
        let control_plane = Self {
            etcd,
            etcd_address,
            api_server,
            api_address,
            controller_manager,
            scheduler,
            access,
            kubectl,
            audit_log,
        };
        control_plane.wait_ready()?;
        // Pods are refused until the controller manager has made the account they run as.
        let account = ["serviceaccount/default", "--namespace=default"];
        let wait = ["wait", "--for=create", "--timeout=60s"];
        control_plane.kubectl.run(&[&wait[..], &account].concat(), "")?;
        Ok(control_plane)
    }

    pub(crate) fn audit_log(&self) -> Result<String> {
        fs::read_to_string(&self.audit_log).with_context(|| self.audit_log.display().to_string())
    }

    pub(crate) fn etcd_written(&self) -> Result<u64> {
        const METRIC: &str = "etcd_disk_wal_write_bytes_total ";
        let reply = http::client().get(format!("http://{}/metrics", self.etcd_address)).call()?;
        let metrics = http::succeeded(reply)?.body_mut().read_to_string()?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(METRIC));
        // Large numbers come as 1.2345e+07.
        let bytes: f64 = value.context("etcd does not tell what it has written")?.parse()?;
        Ok(bytes as u64)
    }

    pub(crate) fn stop_api_server(&self) -> Result<()> {
        self.api_server.kill()
    }

    /// Waits until it serves requests.
    pub(crate) fn start_api_server(&self) -> Result<()> {
        self.api_server.start()?;
        wait_for_port(&self.api_server, self.api_address)?;
        self.wait_ready()
    }

    pub(crate) fn stop_etcd(&self) -> Result<()> {
        self.etcd.kill()
    }

    pub(crate) fn start_etcd(&self) -> Result<()> {
        self.etcd.start()?;
        wait_for_port(&self.etcd, self.etcd_address)
    }

    pub(crate) fn stop(&self) -> Result<()> {
        self.scheduler.kill()?;
        self.controller_manager.kill()?;
        self.api_server.kill()?;
        self.etcd.kill()
    }

    /// Starts what was stopped.
    pub(crate) fn resume(&self) -> Result<()> {
        self.start_etcd()?;
        self.start_api_server()?;
        self.controller_manager.start()?;
        self.scheduler.start()
    }

    fn wait_ready(&self) -> Result<()> {
        wait_for("API server is ready", Duration::from_secs(60), || {
            self.api_server.check()?;
            Ok(self.kubectl.run(&["get", "--raw=/readyz"], "").ok())
        })?;
        Ok(())
    }
}

/// A free port of the loopback address. Another process may take it before it is used, which
/// then fails loudly.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("free port")?;
    Ok(listener.local_addr()?)
}

/// The secrets of those who are known before the API server starts.
struct Tokens {
    admin: String,
    controller_manager: String,
    scheduler: String,
}

impl Tokens {
    fn write(dirs: &Dirs) -> Result<Self> {
        let tokens = Self { admin: random_hex(16)?, controller_manager: random_hex(16)?, scheduler: random_hex(16)? };
        let lines = format!(
            "{},admin,admin,system:masters\n{},{CONTROLLER_MANAGER},{CONTROLLER_MANAGER}\n\
             {},{SCHEDULER},{SCHEDULER}\n",
            tokens.admin, tokens.controller_manager, tokens.scheduler
        );
        fs::write(dirs.etc().join("tokens.csv"), lines).context("tokens")?;
        Ok(tokens)
    }
}

fn etcd_command(dirs: &Dirs, client: SocketAddr) -> Result<Vec<String>> {
    let peer = free_address()?;
    Ok(vec![
        // The name of etcd's main package.
        "server".to_owned(),
        format!("--data-dir={}", dirs.data().join("etcd").display()),
        format!("--listen-client-urls=http://{client}"),
        format!("--advertise-client-urls=http://{client}"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
        // What a power failure would lose is thrown away anyway.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ])
}

fn api_server_command(dirs: &Dirs, etcd: SocketAddr, address: SocketAddr, services: &str) -> Result<Vec<String>> {
    let etc = dirs.etc();
    let key = service_account_key(dirs);
    cleanup::run(
        Command::new("openssl")
            // Not genpkey: the API server does not take the newer format.
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout"])
            .arg("-out")
            .arg(&key),
    )?;
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{ "level": "Metadata" }],
    });
    fs::write(etc.join("audit-policy.json"), serde_json::to_vec(&policy)?)?;
    let (key, etc, logs) = (key.display(), etc.display(), dirs.logs());
    Ok(vec![
        "kube-apiserver".to_owned(),
        format!("--etcd-servers=http://{etcd}"),
        format!("--bind-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--advertise-address={}", address.ip()),
        format!("--cert-dir={}", dirs.data().join("pki").display()),
        // Nothing translates addresses of Services, so they need no endpoints.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--service-cluster-ip-range={services}"),
        format!("--token-auth-file={etc}/tokens.csv"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={key}"),
        format!("--service-account-signing-key-file={key}"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={etc}/audit-policy.json"),
        format!("--audit-log-path={}", logs.join("audit.log").display()),
        // A request is in the log before its client has the whole reply, and in one file.
        "--audit-log-mode=blocking".to_owned(),
        "--audit-log-maxsize=100000".to_owned(),
    ])
}

fn controller_manager_command(dirs: &Dirs, options: &ClusterOptions) -> Vec<String> {
    let pki = dirs.data().join("pki");
    let kubeconfig = dirs.etc().join("controller-manager.kubeconfig");
    vec![
        "kube-controller-manager".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        "--secure-port=0".to_owned(),
        "--leader-elect=false".to_owned(),
        // Thousands of nodes may join at once.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        // Its roles are made for a separate account of each controller.
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", service_account_key(dirs).display()),
        format!("--root-ca-file={}", pki.join("apiserver.crt").display()),
        "--node-monitor-period=1s".to_owned(),
        format!("--node-monitor-grace-period={}s", options.node_monitor_grace_period.as_secs()),
    ]
}

fn scheduler_command(dirs: &Dirs) -> Vec<String> {
    let kubeconfig = dirs.etc().join("scheduler.kubeconfig");
    vec![
        "kube-scheduler".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        "--secure-port=0".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}

fn service_account_key(dirs: &Dirs) -> PathBuf {
    dirs.etc().join("service-accounts.key")
}
