//! `cargo xtask image`: the operator's container image as an OCI archive, without a Docker
//! engine. The same source, built by the same compilers, makes the same image wherever it lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use drop_testbed::cargo;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::root;

/// The user and group that it runs as, as in the chart.
const USER: &str = "65532:65532";

#[derive(Args)]
pub(crate) struct Image {
    /// Where to write the archive, of the OCI image layout in a tar file.
    #[arg(long, default_value = "target/drop-image.tar")]
    output: PathBuf,
}

pub(crate) fn run(image: &Image) -> Result<()> {
    let platform = Platform::native()?;
    let binary = build_for(&platform)?;
    let binary = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let archive = Archive::new(&binary, platform.architecture)?;
    let output = root()?.join(&image.output);
    fs::write(&output, &archive.bytes).with_context(|| format!("cannot write {}", output.display()))?;
    let mebibytes = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    println!("{}", output.display());
    println!("{} for linux/{}", archive.digest, platform.architecture);
    println!("binary {}, image {}", mebibytes(binary.len()), mebibytes(archive.bytes.len()));
    Ok(())
}

/// What this machine can build for.
struct Platform {
    /// As container registries call it.
    architecture: &'static str,
    /// As Rust calls it; with musl, so that the binary needs no other file.
    target: &'static str,
}

impl Platform {
    fn native() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self { architecture: "amd64", target: "x86_64-unknown-linux-musl" }),
            "aarch64" => Ok(Self { architecture: "arm64", target: "aarch64-unknown-linux-musl" }),
            other => anyhow::bail!("the image is made for amd64 and arm64, not for {other}"),
        }
    }

    /// Installs what it takes to build for it, and returns the target.
    fn install(&self) -> Result<&'static str> {
        drop_testbed::ensure_programs(&[("cc", "gcc"), ("musl-gcc", "musl-tools")], &|line| println!("{line}"))?;
        // Already installed is no error; without rustup the build tells what is missing.
        let _ = Command::new("rustup").args(["target", "add", self.target]).output();
        Ok(self.target)
    }
}

/// Builds the binary of the image for this machine and returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    build_for(&Platform::native()?)
}

/// Returns the target for which the image of this machine is built, installed where that is possible.
pub(crate) fn target() -> Result<&'static str> {
    Platform::native()?.install()
}

fn build_for(platform: &Platform) -> Result<PathBuf> {
    let target = platform.install()?;
    let root = root()?;
    let folder = root.join("target");
    let built = cargo()
        .args(["build", "--quiet", "--release", "--locked", "--package", "drop", "--no-default-features"])
        .args(["--target", target, "--target-dir"])
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", without_paths(&root)?)
        .current_dir(&root)
        .status()?;
    ensure!(built.success(), "the operator does not build for {target}");
    Ok(folder.join(target).join("release/drop"))
}

/// Flags by which the binary, whose panics name source files, does not tell where it was built.
fn without_paths(root: &Path) -> Result<String> {
    let home = || std::env::home_dir().map(|home| home.join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("no home directory")?;
    let flag = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    Ok([flag(root, "/drop"), flag(&cargo, "/cargo")].join("\x1f"))
}

/// An OCI image layout (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>)
/// with one image, in a tar file.
struct Archive {
    bytes: Vec<u8>,
    /// The manifest's.
    digest: String,
}

impl Archive {
    fn new(binary: &[u8], architecture: &str) -> Result<Self> {
        let mut files = Builder::new(Vec::new());
        append(&mut files, "drop", 0o755, binary)?;
        let layer = files.into_inner()?;
        let compressed = {
            // No name and no time in its header.
            let mut compressed = GzBuilder::new().write(Vec::new(), Compression::best());
            std::io::Write::write_all(&mut compressed, &layer)?;
            compressed.finish()?
        };
        let config = serde_json::to_vec(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "User": USER,
                "Entrypoint": ["/drop"],
                "Cmd": ["operator"],
                "ExposedPorts": { "8080/tcp": {} },
                "Labels": {
                    "org.opencontainers.image.title": "drop",
                    "org.opencontainers.image.description": "Pre-pulls container images onto Kubernetes nodes",
                    "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                    "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
                },
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &compressed)],
        }))?;
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", &manifest)],
        }))?;
        let mut archive = Builder::new(Vec::new());
        append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, "index.json", 0o644, &index)?;
        for blob in [&manifest, &config, &compressed] {
            append(&mut archive, &format!("blobs/{}", digest(blob).replace(':', "/")), 0o644, blob)?;
        }
        Ok(Self { bytes: archive.into_inner()?, digest: digest(&manifest) })
    }
}

/// Adds a file of root's from 1970.
fn append(archive: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(u64::try_from(content.len())?);
    Ok(archive.append_data(&mut header, path, content)?)
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

fn digest(content: &[u8]) -> String {
    let bytes = Sha256::digest(content);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_binary_makes_the_same_image_and_another_makes_another() {
        let archive = |binary| Archive::new(binary, "amd64").unwrap();
        let (one, same, other) = (archive(b"1"), archive(b"1"), archive(b"2"));
        assert_eq!((&one.bytes, &one.digest), (&same.bytes, &same.digest));
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn every_blob_lies_under_its_digest() {
        let archive = Archive::new(b"binary", "arm64").unwrap();
        let mut blobs = 0;
        for entry in tar::Archive::new(archive.bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(&content), format!("sha256:{name}"));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }
}
