//! The registries: one that nodes use in place of the well-known ones, and one that wants a
//! password.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::control_plane;
use crate::gate::Gate;
use crate::image::{self, INDEX, ImageSpec, MANIFEST};
use crate::paths::Dirs;
use crate::process::{Process, Program};
use crate::proxy::{Fault, Proxy};
use crate::state::StateFile;
use crate::tools::Tools;
use crate::wait::wait_for_port;

/// Hosts that the mirror stands for: their images exist in [`crate::Cluster::registry`] or
/// nowhere, which is "not found". More can be added by [`crate::Cluster::mirror_host`]; any
/// other name is unknown, "no such host".
pub const MIRRORED_HOSTS: [&str; 6] =
    ["docker.io", "gcr.io", "ghcr.io", "quay.io", "registry.example.com", "registry.k8s.io"];

/// Host of the private registry in image references.
pub const PRIVATE_HOST: &str = "private.test";

const USER: &str = "puller";
const PASSWORD: &str = "let-me-pull";
/// USER and the bcrypt hash of PASSWORD.
const HTPASSWD: &str = "puller:$2a$05$A6LDKjLYMJfK9e0LmJCBX.aUiNFUhVMsqPPTR.5xtDYp/byfZygOS\n";

/// A registry to push made-up images to; nodes pull them under [`Registry::image`].
#[derive(Debug)]
pub struct Registry {
    host: &'static str,
    private: bool,
    process: Process,
    address: SocketAddr,
    gate: Gate,
    http: ureq::Agent,
    program: Vec<u8>,
}

impl Registry {
    /// The registry that stands for the [`MIRRORED_HOSTS`].
    pub(crate) fn start_mirror(tools: &Tools, dirs: &Dirs, state: &Arc<StateFile>) -> Result<Self> {
        Self::start("docker.io", false, tools, dirs, state)
    }

    /// The registry at [`PRIVATE_HOST`].
    pub(crate) fn start_private(tools: &Tools, dirs: &Dirs, state: &Arc<StateFile>) -> Result<Self> {
        Self::start(PRIVATE_HOST, true, tools, dirs, state)
    }

    fn start(host: &'static str, private: bool, tools: &Tools, dirs: &Dirs, state: &Arc<StateFile>) -> Result<Self> {
        let name = if private { "registry-private" } else { "registry" };
        let address = control_plane::free_address()?;
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "warn", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": dirs.data().join(name) } },
            "http": { "addr": address, "secret": "only needed by several instances" },
        });
        if private {
            let path = dirs.etc().join("htpasswd");
            fs::write(&path, HTPASSWD)?;
            if let Some(config) = config.as_object_mut() {
                let auth = json!({ "htpasswd": { "realm": PRIVATE_HOST, "path": path } });
                config.insert("auth".to_owned(), auth);
            }
        }
        let config_path = dirs.etc().join(format!("{name}.json"));
        fs::write(&config_path, serde_json::to_vec_pretty(&config)?)?;
        let program = Program {
            name: name.to_owned(),
            command: vec!["registry".to_owned(), "serve".to_owned(), config_path.display().to_string()],
            log: dirs.logs().join(format!("{name}.log")),
        };
        let process = Process::start_new(program, state)?;
        wait_for_port(&process, address)?;
        let http = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            .proxy(None)
            .build()
            .new_agent();
        Ok(Self {
            host,
            private,
            process,
            address,
            gate: Gate::start(address)?,
            http,
            program: fs::read(tools.path("tiny"))?,
        })
    }

    /// How an image of this registry is named in a Pod.
    #[must_use]
    pub fn image(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host)
    }

    /// User and password, if it wants them.
    #[must_use]
    pub fn credentials(&self) -> Option<(&'static str, &'static str)> {
        self.private.then_some((USER, PASSWORD))
    }

    /// Makes up an image, pushes it and lets `tag` point to it; returns its digest, which is
    /// the index's if it has one.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn push(&self, repository: &str, tag: &str, spec: &ImageSpec) -> Result<String> {
        let image = image::build(spec, &self.program)?;
        for blob in &image.blobs {
            self.push_blob(repository, blob).with_context(|| format!("push a blob of {repository}:{tag}"))?;
        }
        let mut last = String::new();
        for (manifest, media_type) in &image.manifests {
            self.put_manifest(repository, &manifest.digest, media_type, &manifest.bytes)?;
            last.clone_from(&manifest.digest);
            if image.manifests.last().is_some_and(|(top, _)| top.digest == last) {
                self.put_manifest(repository, tag, media_type, &manifest.bytes)?;
            }
        }
        Ok(last)
    }

    /// Lets the tag `to` point to what `from`, a tag or digest, points to.
    ///
    /// # Errors
    /// If there is no `from`.
    pub fn retag(&self, repository: &str, from: &str, to: &str) -> Result<()> {
        let url = self.url(&format!("{repository}/manifests/{from}"));
        let request = self.http.get(url).header("Accept", format!("{MANIFEST}, {INDEX}"));
        let reply = request.header("Authorization", self.authorization()).call()?;
        let mut reply = succeeded(reply).with_context(|| format!("{repository}:{from}"))?;
        let media_type = reply.body().mime_type().unwrap_or(MANIFEST).to_owned();
        let manifest = reply.body_mut().read_to_vec()?;
        self.put_manifest(repository, to, &media_type, &manifest)
    }

    /// From now on, pulls from `repository` wait when they have the manifest and ask for the
    /// first blob that the node does not have.
    pub fn hold(&self, repository: &str) {
        self.gate.hold(repository);
    }

    /// Lets the pulls from `repository` go on.
    pub fn release(&self, repository: &str) {
        self.gate.release(repository);
    }

    /// Waits until a node is in the middle of a pull from the held `repository`.
    ///
    /// # Errors
    /// If none is within `limit`.
    pub fn wait_held(&self, repository: &str, limit: Duration) -> Result<()> {
        self.gate.wait_held(repository, limit)
    }

    pub(crate) fn stop(&self) -> Result<()> {
        self.process.kill()
    }

    fn push_blob(&self, repository: &str, blob: &image::Blob) -> Result<()> {
        let url = self.url(&format!("{repository}/blobs/uploads/"));
        let request = self.http.post(url).header("Authorization", self.authorization());
        let reply = succeeded(request.send_empty()?)?;
        let location = reply.headers().get("Location").context("no Location")?;
        let url = format!("{}&digest={}", location.to_str()?, blob.digest);
        let request = self.http.put(url).header("Authorization", self.authorization());
        succeeded(request.content_type("application/octet-stream").send(&blob.bytes)?)?;
        Ok(())
    }

    fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, manifest: &[u8]) -> Result<()> {
        let url = self.url(&format!("{repository}/manifests/{reference}"));
        let request = self.http.put(url).header("Authorization", self.authorization());
        succeeded(request.content_type(media_type).send(manifest)?)
            .with_context(|| format!("push {repository}:{reference}"))?;
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// A registry that asks for nothing ignores it.
    fn authorization(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
    }
}

/// The reply, or what it says if it is not a success.
fn succeeded(mut reply: ureq::http::Response<ureq::Body>) -> Result<ureq::http::Response<ureq::Body>> {
    if !reply.status().is_success() {
        let text = reply.body_mut().read_to_string().unwrap_or_default();
        bail!("{}: {}", reply.status(), text.trim());
    }
    Ok(reply)
}

/// How a [`FaultyRegistry`] can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryFault {
    /// It answers 429, with the wish to be asked again after a second.
    TooManyRequests,
    /// It answers 503.
    Unavailable,
    /// It resets every connection.
    Reset,
    /// It accepts connections, and never answers a TLS handshake.
    Stall,
    /// Its certificate is of an authority that nobody knows.
    BadCertificate,
}

/// A host under which nodes reach [`crate::Cluster::registry`] while it is well. A change holds
/// from the next pull on. The host's name is unknown when this value has gone.
#[derive(Debug)]
pub struct FaultyRegistry {
    /// Its entry in containerd's table of registries.
    entry: PathBuf,
    proxy: Proxy,
    registry: SocketAddr,
    /// A server whose certificate no node trusts.
    stranger: SocketAddr,
}

impl FaultyRegistry {
    /// `hosts` is containerd's table.
    pub(crate) fn start(hosts: &Path, host: &str, registry: &Registry, stranger: SocketAddr) -> Result<Self> {
        let registry = registry.gate.address();
        let faulty = Self { entry: hosts.join(host), proxy: Proxy::start(registry)?, registry, stranger };
        faulty.heal()?;
        Ok(faulty)
    }

    /// Goes wrong.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub fn fail(&self, fault: RegistryFault) -> Result<()> {
        match fault {
            RegistryFault::TooManyRequests => self.proxy.fail(Fault::Answer("429 Too Many Requests")),
            RegistryFault::Unavailable => self.proxy.fail(Fault::Answer("503 Service Unavailable")),
            RegistryFault::Reset => self.proxy.fail(Fault::Reset),
            RegistryFault::Stall => self.proxy.fail(Fault::Stall),
            RegistryFault::BadCertificate => self.proxy.lead_to(self.stranger),
        }
        let encrypted = matches!(fault, RegistryFault::Stall | RegistryFault::BadCertificate);
        self.write_entry(if encrypted { "https" } else { "http" })
    }

    /// Works again.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub fn heal(&self) -> Result<()> {
        self.proxy.lead_to(self.registry);
        self.proxy.heal();
        self.write_entry("http")
    }

    fn write_entry(&self, scheme: &str) -> Result<()> {
        write_entry(&self.entry, &format!("{scheme}://{}", self.proxy.address()))
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        // The cluster may have gone first, with the whole table.
        let _ = fs::remove_dir_all(&self.entry);
    }
}

/// Writes containerd's table of registries, which it reads anew for every pull: a directory per
/// host.
pub(crate) fn write_hosts(directory: &Path, mirror: &Registry, private: &Registry) -> Result<()> {
    for host in MIRRORED_HOSTS {
        write_host(directory, host, mirror)?;
    }
    write_host(directory, PRIVATE_HOST, private)
}

/// Lets `registry` serve the images of `host`. There is no entry for all other hosts: of what a
/// mirror says and what the host itself says containerd reports the former, so that a host
/// that does not exist would be no error of its own.
pub(crate) fn write_host(directory: &Path, host: &str, registry: &Registry) -> Result<()> {
    write_entry(&directory.join(host), &format!("http://{}", registry.gate.address()))
}

/// Writes the entry of a host, which is a directory.
fn write_entry(entry: &Path, server: &str) -> Result<()> {
    let write = || {
        fs::create_dir_all(entry)?;
        // Moved into place whole, for a pull may read it now.
        let new = entry.join("hosts.new");
        fs::write(&new, format!("server = \"{server}\"\n"))?;
        fs::rename(&new, entry.join("hosts.toml"))
    };
    write().with_context(|| entry.display().to_string())
}
