//! Reads DiscoveryPolicies and Secrets from files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use anyhow::{Context as _, anyhow};
use drop_api::{DiscoveryPolicySpec, strict};
use drop_core::discovery::{Pipeline, SourceFailure};
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::run::check_type;

/// The data of a Secret.
pub type Data = BTreeMap<String, Vec<u8>>;

/// The objects in the files that discovery needs.
#[derive(Debug, Default)]
pub struct Manifests {
    /// By name, in the order of the files.
    pub policies: Vec<(String, Arc<Pipeline>)>,
    /// The data of Secrets by name, or why a Secret is not usable. Namespaces are ignored: all Secrets of policies are
    /// in one.
    pub secrets: BTreeMap<String, Result<Data, SourceFailure>>,
}

impl Manifests {
    /// Reads files, the YAML and JSON files of directories, and standard input (`-`).
    ///
    /// # Errors
    /// The file, the object and the field that is wrong.
    pub fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut manifests = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                let text = io::read_to_string(io::stdin()).context("cannot read standard input")?;
                manifests.add(&text).context("standard input")?;
                continue;
            }
            for file in files(path).with_context(|| format!("cannot read {}", path.display()))? {
                let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
                manifests.add(&text).with_context(|| file.display().to_string())?;
            }
        }
        Ok(manifests)
    }

    /// Adds the objects of a text with any number of YAML documents. Other kinds are ignored.
    pub fn add(&mut self, text: &str) -> anyhow::Result<()> {
        for document in serde_saphyr::from_multiple::<Value>(text).context("not YAML")? {
            self.add_object(document)?;
        }
        Ok(())
    }

    fn add_object(&mut self, mut object: Value) -> anyhow::Result<()> {
        let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (group, kind, name) = (field("/apiVersion"), field("/kind"), field("/metadata/name"));
        match (group.as_str(), kind.as_str()) {
            // The output of `kubectl get -o yaml`.
            (_, "List") => {
                let items = object.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
                items.into_iter().flatten().try_for_each(|item| self.add_object(item))
            }
            ("drop.corewire.io/v1alpha1", "DiscoveryPolicy") => {
                let spec = object.get_mut("spec").map(Value::take).unwrap_or_default();
                let pipeline = pipeline(spec).with_context(|| format!("DiscoveryPolicy {name:?}"))?;
                self.policies.push((name, Arc::new(pipeline)));
                Ok(())
            }
            ("v1", "Secret") => {
                let secret: Secret =
                    serde_path_to_error::deserialize(object).with_context(|| format!("Secret {name:?}"))?;
                let usable = check_type(&name, secret.type_.as_deref());
                let data = secret.data.into_iter().flatten().map(|(key, value)| (key, value.0));
                let texts = secret.string_data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
                self.secrets.insert(name, usable.map(|()| data.chain(texts).collect()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Returns the files that `path` stands for, by name.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries: Vec<_> = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    let is_manifest = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
    };
    let mut files: Vec<_> = entries.into_iter().filter(is_manifest).collect();
    files.sort();
    Ok(files)
}

fn pipeline(spec: Value) -> anyhow::Result<Pipeline> {
    let spec: DiscoveryPolicySpec = strict::read(spec, "spec").map_err(anyhow::Error::msg)?;
    Pipeline::compile(&spec).map_err(|error| anyhow!("spec.{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {name: p}
spec:
  sources:
    - type: prometheus
      prometheus: {endpoint: http://localhost, query: up}
";

    fn parse(text: &str) -> anyhow::Result<Manifests> {
        let mut manifests = Manifests::default();
        manifests.add(text)?;
        Ok(manifests)
    }

    #[test]
    fn policies_and_secrets_are_taken_from_among_other_objects() {
        let others = "
---
# nothing
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: drop-system}
data: {token: YQ==, username: YWxpY2U=}
stringData: {token: b}
---
apiVersion: v1
kind: Secret
metadata: {name: robot-token}
type: kubernetes.io/service-account-token
data: {token: YQ==}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {name: set}
spec: {anything: goes}
---
kind: List
apiVersion: v1
items:
";
        let item = POLICY.trim().replace('\n', "\n  ").replace("name: p}", "name: q}");
        let manifests = parse(&format!("{POLICY}{others}- {item}")).unwrap();
        let names: Vec<_> = manifests.policies.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["p", "q"]);
        let secret = [("token", "b"), ("username", "alice")];
        let secret = secret.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        assert_eq!(manifests.secrets["s"], Ok(BTreeMap::from(secret)));
        let refused = manifests.secrets["robot-token"].as_ref().unwrap_err();
        assert!(refused.message.contains("kubernetes.io/service-account-token"), "{refused}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let cases = [
            ("sources:", "surces:", "spec.surces: there is no such field"),
            ("query: up", "query: up, lokback: 1h", "spec.sources.0.prometheus.lokback: there is no such field"),
            ("query: up", "query: up, step: soon", "spec.sources[0].prometheus.step: \"soon\" is not a duration"),
            ("query: up", "qery: up", "spec.sources[0].prometheus: missing field `query`"),
            ("type: prometheus", "type: Prometheus", "spec.sources[0].type: unknown variant"),
            ("type: prometheus", "type: loki", "spec.sources[0].loki: it is missing"),
            ("http://localhost", "localhost", "spec.sources[0].prometheus.endpoint:"),
            ("spec:\n", "spec:\n  imageFilter: '('\n", "spec.imageFilter: not a regular expression"),
            ("metadata", "{metadata", "not YAML"),
        ];
        for (from, to, says) in cases {
            let error = format!("{:#}", parse(&POLICY.replace(from, to)).unwrap_err());
            assert!(error.contains(says), "{says}: {error}");
            assert!(says == "not YAML" || error.starts_with("DiscoveryPolicy \"p\": "), "{error}");
        }
    }

    #[test]
    fn directories_stand_for_their_manifests() {
        let directory = std::env::temp_dir().join(format!("drop-manifests-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("b.yaml"), POLICY).unwrap();
        fs::write(directory.join("a.yml"), POLICY.replace("name: p}", "name: a}")).unwrap();
        fs::write(directory.join("notes.txt"), "no: [YAML").unwrap();
        let manifests = Manifests::read(std::slice::from_ref(&directory));
        fs::write(directory.join("c.json"), "{").unwrap();
        let error = Manifests::read(std::slice::from_ref(&directory)).unwrap_err();
        fs::remove_dir_all(&directory).unwrap();
        let names: Vec<_> = manifests.unwrap().policies.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "p"]);
        assert!(format!("{error:#}").contains("c.json: not YAML"), "{error:#}");
        let error = Manifests::read(&[directory]).unwrap_err();
        assert!(format!("{error:#}").starts_with("cannot read"), "{error:#}");
    }
}
