//! Images made up for tests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image consists of. Every push of one makes another image, with a digest of its own.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// Layers of so many random bytes each, which no compression makes smaller; built in memory.
    pub layers: Vec<usize>,
    /// Whether the image has programs: `/bin/true`, `/bin/false` and `/bin/sleep`, which (as the
    /// image's default command) waits until it is ended.
    pub with_true: bool,
    /// What it says to be built for; the program in it is always this machine's.
    pub platforms: Platforms,
}

/// Platforms such as `linux/amd64`.
#[derive(Clone, Debug)]
pub enum Platforms {
    /// This machine's, without an index.
    Native,
    /// One, without an index.
    Single(String),
    /// An index with a manifest for each.
    Index(Vec<String>),
}

impl ImageSpec {
    /// An image with a small file and no program at all.
    #[must_use]
    pub fn scratch() -> Self {
        Self { layers: vec![1024], with_true: false, platforms: Platforms::Native }
    }

    /// An image that can run `true` and `sleep`.
    #[must_use]
    pub fn runnable() -> Self {
        Self { with_true: true, ..Self::scratch() }
    }

    /// Adds a layer of so many bytes.
    #[must_use]
    pub fn layer(mut self, bytes: usize) -> Self {
        self.layers.push(bytes);
        self
    }

    /// Sets the platforms.
    #[must_use]
    pub fn platforms(mut self, platforms: Platforms) -> Self {
        self.platforms = platforms;
        self
    }
}

/// Content and its name.
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
}

/// What is pushed to a registry, in this order.
pub(crate) struct Image {
    pub(crate) blobs: Vec<Blob>,
    /// With their media types; the last one is the image's.
    pub(crate) manifests: Vec<(Blob, &'static str)>,
}

/// Makes up an image; `program` is that of `with_true`.
pub(crate) fn build(spec: &ImageSpec, program: &[u8]) -> Result<Image> {
    let mut image = Image { blobs: Vec::new(), manifests: Vec::new() };
    if spec.with_true {
        image.blobs.push(Blob::new(programs(program)?));
    }
    for size in &spec.layers {
        image.blobs.push(Blob::new(random_file(*size)?));
    }
    let layers: Vec<Value> = image.blobs.iter().map(|blob| blob.descriptor(LAYER)).collect();
    let mut add = |platform: &str| -> Result<Value> {
        let sleep = json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/sleep"] });
        let config = Blob::new(config(platform, sleep, &layers)?);
        let manifest = manifest(&config, &layers)?;
        let mut descriptor = manifest.descriptor(MANIFEST);
        if let (Some((os, architecture)), Some(fields)) = (platform.split_once('/'), descriptor.as_object_mut()) {
            let platform = json!({ "os": os, "architecture": architecture });
            fields.insert("platform".to_owned(), platform);
        }
        image.blobs.push(config);
        image.manifests.push((manifest, MANIFEST));
        Ok(descriptor)
    };
    match &spec.platforms {
        Platforms::Native => drop(add(native_platform())?),
        Platforms::Single(platform) => drop(add(platform)?),
        Platforms::Index(platforms) => {
            let manifests: Vec<Value> = platforms.iter().map(|platform| add(platform)).collect::<Result<_>>()?;
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
            image.manifests.push((Blob::json(&index)?, INDEX));
        }
    }
    Ok(image)
}

/// An image that runs a program of this machine by its name, `/NAME`, as a user without rights. It
/// holds nothing else but the libraries that the program is linked to.
pub(crate) fn of_program(program: &Path) -> Result<Image> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    let mut archive = tar::Builder::new(Vec::new());
    for (path, file) in
        libraries(program)?.iter().map(|path| (path.as_str(), Path::new(path))).chain([(&*name, program)])
    {
        let content = fs::read(file).with_context(|| file.display().to_string())?;
        archive.append_data(&mut header(content.len(), 0o755)?, path.trim_start_matches('/'), content.as_slice())?;
    }
    let layer = Blob::new(archive.into_inner()?);
    let layers = [layer.descriptor(LAYER)];
    let start = json!({ "Entrypoint": [format!("/{name}")], "User": "65532:65532" });
    let config = Blob::new(config(native_platform(), start, &layers)?);
    let manifest = manifest(&config, &layers)?;
    Ok(Image { blobs: vec![layer, config], manifests: vec![(manifest, MANIFEST)] })
}

/// The paths of the libraries that a program is linked to, its loader among them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    ensure!(output.status.success(), "ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)`; the kernel's own has no path.
    let output = String::from_utf8(output.stdout)?;
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    Ok(output.lines().filter_map(path).collect())
}

/// Reads the only image of a tar file of the OCI image layout
/// (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).
pub(crate) fn read(archive: &Path) -> Result<Image> {
    let mut files = BTreeMap::new();
    for file in tar::Archive::new(File::open(archive)?).entries()? {
        let mut file = file?;
        let path = file.path()?.display().to_string();
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        files.insert(path, content);
    }
    let index: Value = serde_json::from_slice(files.get("index.json").context("no index.json")?)?;
    let digest = index.pointer("/manifests/0/digest").and_then(Value::as_str).context("no manifest")?;
    let manifest = files.remove(&format!("blobs/{}", digest.replace(':', "/"))).context("no manifest")?;
    let blobs = files.into_iter().filter(|(path, _)| path.starts_with("blobs/"));
    Ok(Image {
        blobs: blobs.map(|(_, content)| Blob::new(content)).collect(),
        manifests: vec![(Blob::new(manifest), MANIFEST)],
    })
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: format!("sha256:{}", sha256(&bytes)), bytes }
    }

    fn json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// Lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// So many random bytes, twice as many characters.
pub(crate) fn random_hex(bytes: usize) -> Result<String> {
    Ok(hex(&random(bytes)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random(bytes: usize) -> Result<Vec<u8>> {
    let mut random = Vec::with_capacity(bytes);
    let limit = u64::try_from(bytes)?;
    let source = File::open("/dev/urandom").context("/dev/urandom")?;
    source.take(limit).read_to_end(&mut random)?;
    Ok(random)
}

/// This machine's platform in the registries' words.
fn native_platform() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "linux/arm64",
        _ => "linux/amd64",
    }
}

fn manifest(config: &Blob, layers: &[Value]) -> Result<Blob> {
    Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": layers,
    }))
}

/// A configuration whose `config` is `start` and a label that makes it unlike all others.
fn config(platform: &str, mut start: Value, layers: &[Value]) -> Result<Vec<u8>> {
    let (os, architecture) = platform.split_once('/').unwrap_or(("linux", platform));
    if let Some(fields) = start.as_object_mut() {
        fields.insert("Labels".to_owned(), json!({ "drop.test/unique": random_hex(8)? }));
    }
    // Layers are not compressed: their digests are those of their content.
    let diff_ids: Vec<&Value> = layers.iter().filter_map(|layer| layer.get("digest")).collect();
    Ok(serde_json::to_vec(&json!({
        "os": os,
        "architecture": architecture,
        "config": start,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?)
}

/// The layer with the program under all of its names.
fn programs(program: &[u8]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header(program.len(), 0o755)?, "bin/true", program)?;
    for name in ["bin/false", "bin/sleep"] {
        let mut link = header(0, 0o777)?;
        link.set_entry_type(tar::EntryType::Symlink);
        archive.append_link(&mut link, name, "true")?;
    }
    Ok(archive.into_inner()?)
}

/// A layer with one file of random bytes.
fn random_file(size: usize) -> Result<Vec<u8>> {
    let content = random(size)?;
    let name = format!("data/{}", random_hex(4)?);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header(size, 0o644)?, name, content.as_slice())?;
    Ok(archive.into_inner()?)
}

/// Owned by root, from 1970: the same program makes the same layer.
fn header(size: usize, mode: u32) -> Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(size)?);
    header.set_mode(mode);
    Ok(header)
}
