//! Registries: in a cluster, one that nodes use in place of the well-known ones and one that
//! wants a password; others for whom a test likes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::fake::FakeServer;
use crate::gate::Gate;
use crate::home::Home;
use crate::http;
use crate::image::{self, INDEX, ImageSpec, MANIFEST};
use crate::proxy::{Fault, Proxy};
use crate::service::{Place, Service};
use crate::tokens::Tokens;
use crate::tools::Tools;

/// Hosts that the mirror stands for: their images exist in [`crate::Cluster::registry`] or
/// nowhere, which is "not found". More can be added by [`crate::Cluster::mirror_host`]; any
/// other name is unknown, "no such host".
pub const MIRRORED_HOSTS: [&str; 6] =
    ["docker.io", "gcr.io", "ghcr.io", "quay.io", "registry.example.com", "registry.k8s.io"];

/// Host of the private registry in image references.
pub const PRIVATE_HOST: &str = "private.test";

/// Who may pull from registries and the like that want a password.
pub(crate) const USER: &str = "puller";
pub(crate) const PASSWORD: &str = "let-me-pull";
/// The bcrypt hash of PASSWORD.
pub(crate) const PASSWORD_HASH: &str = "$2a$05$A6LDKjLYMJfK9e0LmJCBX.aUiNFUhVMsqPPTR.5xtDYp/byfZygOS";

/// What a registry shall be like.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Its host in image references.
    pub host: String,
    /// Whom it serves.
    pub auth: RegistryAuth,
    /// How many tags it lists at most on a page, where a client asks for pages at all.
    pub page: usize,
}

/// How a registry finds out whom it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryAuth {
    /// It serves everybody.
    None,
    /// By user and password.
    Password,
    /// By tokens of its token server ([`Registry::token_server`]), which wants user and password,
    /// except for pulls of repositories below `public/`.
    Token {
        /// The URL that it sends clients to for a token, if not to the token server itself.
        realm: Option<String>,
    },
}

impl RegistryOptions {
    /// A registry that serves everybody.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), auth: RegistryAuth::None, page: 1000 }
    }
}

/// A registry to push made-up images to; nodes pull them under [`Registry::image`]. Its
/// projects are `registry` and `tiny`.
#[derive(Debug)]
pub struct Registry {
    options: RegistryOptions,
    service: Service,
    tokens: Option<Tokens>,
    gate: Gate,
    http: ureq::Agent,
    program: Vec<u8>,
}

impl Registry {
    /// Starts a registry. Nodes know only those of their cluster, [`crate::Cluster::registry`].
    ///
    /// # Errors
    /// If the home has a server of that name, or it does not start.
    pub fn start(home: &Home, tools: &Tools, name: &str, options: RegistryOptions) -> Result<Self> {
        let place = Place::new(home, name)?;
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "warn", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": place.data } },
            "http": {
                "addr": place.address,
                "secret": "only needed by several instances",
                // It does not know of the TLS before it.
                "relativeurls": true,
            },
            "tags": { "maxtags": options.page },
        });
        let path = |file: &str| home.dirs.etc().join(format!("{name}-{file}"));
        let mut tokens = None;
        let auth = match &options.auth {
            RegistryAuth::None => None,
            RegistryAuth::Password => {
                fs::write(path("htpasswd"), format!("{USER}:{PASSWORD_HASH}\n"))?;
                Some(json!({ "htpasswd": { "realm": options.host, "path": path("htpasswd") } }))
            }
            RegistryAuth::Token { realm } => {
                let tokens = tokens.insert(Tokens::start()?);
                Some(json!({ "token": tokens.config(&path("keys.json"), realm.as_deref())? }))
            }
        };
        if let (Some(auth), Some(config)) = (auth, config.as_object_mut()) {
            config.insert("auth".to_owned(), auth);
        }
        fs::write(path("config.json"), serde_json::to_vec_pretty(&config)?)?;
        let program = tools.path("registry").display().to_string();
        let command = vec![program, "serve".to_owned(), path("config.json").display().to_string()];
        let service = Service::start(home, place, command, "/", String::new())?;
        let gate = Gate::start(service.address)?;
        let program = fs::read(tools.path("tiny"))?;
        Ok(Self { options, service, tokens, gate, http: http::client(), program })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address
    }

    /// The server that gives out its tokens at `/token`, with all that it was asked.
    #[must_use]
    pub fn token_server(&self) -> Option<&FakeServer> {
        self.tokens.as_ref().map(Tokens::server)
    }

    /// How an image of this registry is named in a Pod.
    #[must_use]
    pub fn image(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.options.host)
    }

    /// User and password, if it wants them.
    #[must_use]
    pub fn credentials(&self) -> Option<(&'static str, &'static str)> {
        (self.options.auth != RegistryAuth::None).then_some((USER, PASSWORD))
    }

    /// Makes up an image, pushes it and lets `tag` point to it; returns its digest, which is
    /// the index's if it has one.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn push(&self, repository: &str, tag: &str, spec: &ImageSpec) -> Result<String> {
        self.push_tags(repository, &[tag], spec)
    }

    /// The same with any number of tags.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn push_tags(&self, repository: &str, tags: &[&str], spec: &ImageSpec) -> Result<String> {
        self.push_image(repository, tags, &image::build(spec, &self.program)?)
    }

    fn push_image(&self, repository: &str, tags: &[&str], image: &image::Image) -> Result<String> {
        for blob in &image.blobs {
            self.push_blob(repository, blob).with_context(|| format!("push a blob of {repository}"))?;
        }
        for (manifest, media_type) in &image.manifests {
            self.put_manifest(repository, &manifest.digest, media_type, &manifest.bytes)?;
        }
        let (last, media_type) = image.manifests.last().context("an image has a manifest")?;
        for tag in tags {
            self.put_manifest(repository, tag, media_type, &last.bytes)?;
        }
        Ok(last.digest.clone())
    }

    /// Pushes an image from a tar file of the OCI image layout and lets `tag` point to it; returns
    /// its digest.
    ///
    /// # Errors
    /// If the file holds no image, or the registry refuses it.
    pub fn push_archive(&self, repository: &str, tag: &str, archive: &Path) -> Result<String> {
        let image = image::read(archive).with_context(|| archive.display().to_string())?;
        self.push_image(repository, &[tag], &image)
    }

    /// Pushes an image that runs a program of this machine, with the libraries that it needs and
    /// nothing else, and lets `tag` point to it; returns its digest.
    ///
    /// # Errors
    /// If the program cannot be read, or the registry refuses the image.
    pub fn push_program(&self, repository: &str, tag: &str, program: &Path) -> Result<String> {
        self.push_image(repository, &[tag], &image::of_program(program)?)
    }

    /// Lets the tag `to` point to what `from`, a tag or digest, points to.
    ///
    /// # Errors
    /// If there is no `from`.
    pub fn retag(&self, repository: &str, from: &str, to: &str) -> Result<()> {
        let url = self.url(&format!("{repository}/manifests/{from}"));
        let request = self.http.get(url).header("Accept", format!("{MANIFEST}, {INDEX}"));
        let reply = request.header("Authorization", self.authorization(repository)?).call()?;
        let mut reply = http::succeeded(reply).with_context(|| format!("{repository}:{from}"))?;
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

    /// From now on, at most so many bytes of a blob of `repository` come in a second.
    pub fn throttle(&self, repository: &str, bytes_per_second: usize) {
        self.gate.throttle(repository, bytes_per_second);
    }

    /// Waits until a node is in the middle of a pull from the held `repository`.
    ///
    /// # Errors
    /// If none is within `limit`.
    pub fn wait_held(&self, repository: &str, limit: Duration) -> Result<()> {
        self.gate.wait_held(repository, limit)
    }

    /// How many pulls from `repository` nodes have begun.
    #[must_use]
    pub fn pulls(&self, repository: &str) -> usize {
        self.gate.pulls(repository)
    }

    /// Kills it; what was pushed stays.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn stop(&self) -> Result<()> {
        self.service.stop()
    }

    /// Starts it again after [`Registry::stop`], at the same address.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn resume(&self) -> Result<()> {
        self.service.resume()
    }

    fn push_blob(&self, repository: &str, blob: &image::Blob) -> Result<()> {
        let url = self.url(&format!("{repository}/blobs/uploads/"));
        let request = self.http.post(url).header("Authorization", self.authorization(repository)?);
        let reply = http::succeeded(request.send_empty()?)?;
        let location = reply.headers().get("Location").context("no Location")?;
        let url = format!("http://{}{}&digest={}", self.address(), location.to_str()?, blob.digest);
        let request = self.http.put(url).header("Authorization", self.authorization(repository)?);
        http::succeeded(request.content_type("application/octet-stream").send(&blob.bytes)?)?;
        Ok(())
    }

    fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, manifest: &[u8]) -> Result<()> {
        let url = self.url(&format!("{repository}/manifests/{reference}"));
        let request = self.http.put(url).header("Authorization", self.authorization(repository)?);
        http::succeeded(request.content_type(media_type).send(manifest)?)
            .with_context(|| format!("push {repository}:{reference}"))?;
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address())
    }

    /// A registry that asks for nothing ignores it.
    fn authorization(&self, repository: &str) -> Result<String> {
        match &self.tokens {
            Some(tokens) => Ok(format!("Bearer {}", tokens.push(repository)?)),
            None => Ok(http::basic((USER, PASSWORD))),
        }
    }
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
    /// It closes every connection without an answer.
    Eof,
    /// It answers each request with 200 and an empty body.
    Nonsense,
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
            RegistryFault::Eof => self.proxy.fail(Fault::Close),
            RegistryFault::Nonsense => self.proxy.fail(Fault::Answer("200 OK")),
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
