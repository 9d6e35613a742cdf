//! Reads the manifests that a registry serves.
//!
//! Image manifests: <https://github.com/opencontainers/image-spec/blob/main/manifest.md>; indexes:
//! <https://github.com/opencontainers/image-spec/blob/main/image-index.md>. Docker's own have the same fields.

use drop_core::Name;
use serde::{Deserialize, Deserializer};

use super::super::at_most::AtMost;

/// The most entries of a list, or layers of an image, that Drop reads. Docker allows 127 layers, and lists have an
/// entry per platform and one for each attestation. A manifest of 4 MiB could hold 300,000 empty ones.
const MOST: usize = 1000;

/// The types of manifests and indexes, which some registries write instead of the version of the schema.
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// A manifest of one of the known shapes. Other JSON, such as an error with status 200, is no manifest.
#[derive(Debug, PartialEq)]
pub enum Document {
    /// A list of manifests.
    Index(Vec<Entry>),
    /// The image for one platform.
    Image { config: Blob, layers: Vec<Blob> },
    /// A manifest of the first schema, which has neither configuration nor sizes.
    Old,
}

/// A manifest in a list.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Entry {
    pub digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: Option<String>,
    #[serde(default)]
    platform: Option<Platform>,
}

/// A part of an image.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Blob {
    pub digest: String,
    #[serde(default)]
    pub size: u64,
}

/// The nodes that a manifest in a list is for.
#[derive(Debug, PartialEq)]
pub enum Offer {
    /// It is an attestation about an image, and no image.
    Nobody,
    /// For nodes of this platform.
    Platform(Name),
    /// The list does not name a platform: runtimes read it from the image.
    Anybody,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: Option<String>,
    architecture: Option<String>,
}

/// The fields of all shapes.
#[derive(Deserialize)]
struct Fields {
    #[serde(default, rename = "schemaVersion")]
    schema: Option<u64>,
    #[serde(default, rename = "mediaType")]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<AtMost<Entry, MOST>>,
    #[serde(default)]
    config: Option<Blob>,
    #[serde(default)]
    layers: Option<AtMost<Blob, MOST>>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        let is_of = |types: [&str; 2]| fields.media_type.as_deref().is_some_and(|own| types.contains(&own));
        let is_known = fields.schema == Some(2) || is_of(MANIFESTS) || is_of(INDEXES);
        let is_cut = fields.manifests.as_ref().is_some_and(|manifests| manifests.is_cut)
            || fields.layers.as_ref().is_some_and(|layers| layers.is_cut);
        if is_cut {
            return Err(serde::de::Error::custom(format!("it has more than {MOST} manifests or layers")));
        }
        let document = match (fields.manifests, fields.config.zip(fields.layers)) {
            _ if fields.schema == Some(1) => Some(Self::Old),
            (Some(entries), None) => Some(Self::Index(entries.items)),
            (None, Some((config, layers))) => Some(Self::Image { config, layers: layers.items }),
            _ => None,
        };
        let document = document.filter(|document| is_known || *document == Self::Old);
        document.ok_or_else(|| serde::de::Error::custom("it is no manifest of an image"))
    }
}

impl Document {
    /// Returns configuration and layers, if it is an image.
    pub fn image(self) -> Option<(Blob, Vec<Blob>)> {
        match self {
            Self::Image { config, layers } => Some((config, layers)),
            Self::Index(_) | Self::Old => None,
        }
    }
}

impl Entry {
    /// Whether it is a list itself.
    pub fn is_index(&self) -> bool {
        self.media_type.as_deref().is_some_and(|own| INDEXES.contains(&own))
    }

    /// Returns the nodes that it is for. containerd replaces a missing operating system by that of the node, and
    /// ignores case in names: <https://github.com/containerd/platforms/blob/main/platforms.go>.
    pub fn offer(&self) -> Offer {
        let named = |field: fn(&Platform) -> &Option<String>| {
            let text = field(self.platform.as_ref()?).as_deref()?.to_ascii_lowercase();
            Some(text).filter(|text| !text.is_empty())
        };
        let (os, architecture) = (named(|platform| &platform.os), named(|platform| &platform.architecture));
        if os.as_deref() == Some("unknown") || architecture.as_deref() == Some("unknown") {
            return Offer::Nobody;
        }
        let Some((os, architecture)) = os.zip(architecture) else { return Offer::Anybody };
        let architecture = match architecture.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "armhf" | "armel" => "arm",
            "i386" | "i686" => "386",
            other => other,
        };
        Offer::Platform(format!("{os}/{architecture}").into())
    }
}

#[cfg(test)]
mod tests {
    use drop_fuzz::each;
    use serde_json::{Value, json};

    use super::*;

    fn read(json: &Value) -> Option<Document> {
        serde_json::from_value(json.clone()).ok()
    }

    fn blob() -> Value {
        json!({ "mediaType": "application/octet-stream", "digest": "sha256:00", "size": 7 })
    }

    #[test]
    fn a_manifest_is_known_by_its_shape() {
        let image = |more: Value| {
            let mut image = json!({ "config": blob(), "layers": [blob()] });
            image.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read(&image)
        };
        assert!(matches!(image(json!({ "schemaVersion": 2 })), Some(Document::Image { .. })));
        for media_type in MANIFESTS {
            assert!(matches!(image(json!({ "mediaType": media_type })), Some(Document::Image { .. })));
        }
        let empty = json!({ "schemaVersion": 2, "manifests": [] });
        assert_eq!(read(&empty), Some(Document::Index(Vec::new())));
        let old = json!({ "schemaVersion": 1, "name": "app", "fsLayers": [], "signatures": [] });
        assert_eq!(read(&old), Some(Document::Old));
    }

    #[test]
    fn other_json_is_no_manifest() {
        let all = [
            json!({}),
            json!([]),
            json!(null),
            json!("plainly no"),
            json!({ "schemaVersion": 2 }),
            json!({ "schemaVersion": 3, "manifests": [] }),
            json!({ "schemaVersion": "2", "manifests": [] }),
            json!({ "manifests": [] }),
            json!({ "mediaType": "text/plain", "config": blob(), "layers": [] }),
            json!({ "schemaVersion": 2, "config": blob() }),
            json!({ "schemaVersion": 2, "layers": [blob()] }),
            json!({ "schemaVersion": 2, "manifests": [], "config": blob(), "layers": [] }),
            json!({ "schemaVersion": 2, "manifests": [{ "size": 1 }] }),
            json!({ "errors": [{ "code": "TOOMANYREQUESTS", "message": "slow down" }] }),
            json!({ "name": "team/app", "tags": ["1.0"] }),
        ];
        for json in all {
            assert_eq!(read(&json), None, "{json}");
        }
    }

    #[test]
    fn a_list_without_end_is_no_manifest() {
        let index = |count: usize| json!({ "schemaVersion": 2, "manifests": vec![json!({ "digest": "" }); count] });
        let image = |count: usize| json!({ "schemaVersion": 2, "config": blob(), "layers": vec![blob(); count] });
        for json in [index, image] {
            assert!(read(&json(MOST)).is_some());
            let error = serde_json::from_value::<Document>(json(MOST + 1)).unwrap_err();
            assert_eq!(error.to_string(), "it has more than 1000 manifests or layers");
        }
    }

    #[test]
    fn any_manifest_is_read_or_refused() {
        let entry = |platform: Value| json!({ "mediaType": MANIFESTS[0], "digest": "sha256:00", "platform": platform });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [
            entry(json!({ "os": "linux", "architecture": "arm", "variant": "v7" })),
            entry(json!({ "os": "unknown", "architecture": "unknown" })),
            entry(Value::Null),
        ] });
        let image =
            json!({ "schemaVersion": 2, "mediaType": MANIFESTS[1], "config": blob(), "layers": [blob(), blob()] });
        let old = json!({ "schemaVersion": 1, "name": "app", "fsLayers": [{ "blobSum": "sha256:00" }] });
        let error = json!({ "errors": [{ "code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {} }] });
        let seeds = [index, image, old, error].map(|json| json.to_string());
        each("manifests", &seeds.each_ref().map(String::as_str), |text| {
            let bytes = match serde_json::from_str(text) {
                Ok(Document::Index(entries)) => {
                    assert!(entries.len() <= MOST);
                    let platforms = entries.iter().map(|entry| match entry.offer() {
                        Offer::Platform(platform) => platform.len(),
                        Offer::Nobody | Offer::Anybody => 0,
                    });
                    platforms.sum::<usize>() + entries.iter().map(|entry| entry.digest.len()).sum::<usize>()
                }
                Ok(Document::Image { config, layers }) => {
                    assert!(layers.len() <= MOST);
                    config.digest.len() + layers.iter().map(|layer| layer.digest.len()).sum::<usize>()
                }
                Ok(Document::Old) | Err(_) => 0,
            };
            assert!(bytes <= text.len(), "{bytes}");
        });
    }

    #[test]
    fn entries_of_a_list_are_for_platforms_as_nodes_report_them() {
        let offer = |platform: Value| {
            let entry = json!({ "digest": "sha256:00", "platform": platform });
            serde_json::from_value::<Entry>(entry).unwrap().offer()
        };
        let platform = |name: &str| Offer::Platform(name.into());
        let cases = [
            (json!({ "os": "linux", "architecture": "amd64", "variant": "v3" }), platform("linux/amd64")),
            (json!({ "os": "Linux", "architecture": "AMD64" }), platform("linux/amd64")),
            (json!({ "os": "linux", "architecture": "x86_64" }), platform("linux/amd64")),
            (json!({ "os": "linux", "architecture": "aarch64" }), platform("linux/arm64")),
            (json!({ "os": "linux", "architecture": "arm", "variant": "v7" }), platform("linux/arm")),
            (json!({ "os": "linux", "architecture": "armhf" }), platform("linux/arm")),
            (json!({ "os": "windows", "architecture": "amd64", "os.version": "10.0.1" }), platform("windows/amd64")),
            (json!({ "os": "unknown", "architecture": "unknown" }), Offer::Nobody),
            (json!({ "os": "", "architecture": "amd64" }), Offer::Anybody),
            (json!({ "architecture": "amd64" }), Offer::Anybody),
            (json!({ "os": null, "architecture": null }), Offer::Anybody),
            (json!({}), Offer::Anybody),
            (Value::Null, Offer::Anybody),
        ];
        for (json, expected) in cases {
            assert_eq!(offer(json.clone()), expected, "{json}");
        }
        let bare: Entry = serde_json::from_value(json!({ "digest": "sha256:00" })).unwrap();
        assert_eq!((bare.offer(), bare.is_index()), (Offer::Anybody, false));
        let nested = json!({ "digest": "sha256:00", "mediaType": INDEXES[0] });
        assert!(serde_json::from_value::<Entry>(nested).unwrap().is_index());
    }
}
