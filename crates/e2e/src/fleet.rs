//! Several images that are rolled out under one PullPolicy.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use drop_testbed::ImageSpec;

use crate::bed::Bed;
use crate::requests::{self, Life};
use crate::sight::SeenPod;

/// Images `docker.io/NAME/app-0:1` and so on, wanted by CachedImages `NAME-0` and so on, under a PullPolicy `NAME`.
pub struct Fleet<'a> {
    /// The name of the images and objects.
    pub name: &'a str,
    /// The number of images.
    pub images: usize,
    /// The PullPolicy's spec, as YAML on one line.
    pub policy: &'a str,
    /// The node selector, as YAML on one line.
    pub selector: &'a str,
}

impl Fleet<'_> {
    /// The repository of an image: `NAME/app-0`.
    pub fn repository(&self, image: usize) -> String {
        format!("{}/app-{image}", self.name)
    }

    /// Pushes the images.
    ///
    /// # Errors
    /// If the registry denies one.
    pub fn push(&self, bed: &Bed) -> Result<()> {
        for image in 0..self.images {
            bed.cluster.registry().push(&self.repository(image), "1", &ImageSpec::runnable().layer(1 << 20))?;
        }
        Ok(())
    }

    /// Applies the policy and all CachedImages at once.
    ///
    /// # Errors
    /// If the API server denies one.
    pub fn apply(&self, bed: &Bed) -> Result<()> {
        let Self { name, policy, selector, .. } = self;
        let mut manifests = format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: PullPolicy, metadata: {{name: {name}}}, spec: {policy}}}"
        );
        for image in 0..self.images {
            let repository = self.repository(image);
            manifests.push_str(&format!(
                "
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {{name: {name}-{image}}}
spec: {{image: docker.io/{repository}, tag: '1', policyRef: {{name: {name}}}, nodeSelector: {selector}}}"
            ));
        }
        bed.apply(&manifests)
    }

    /// Waits until every image is on `nodes` nodes and no Pod is left.
    ///
    /// # Errors
    /// If this does not happen in time.
    pub fn wait_cached(&self, bed: &Bed, nodes: usize) -> Result<()> {
        for image in 0..self.images {
            bed.wait_cached(&format!("{}-{image}", self.name), nodes)?;
            bed.wait_no_pod(&format!("docker.io/{}:1", self.repository(image)))?;
        }
        Ok(())
    }

    /// Returns every Pod that ever pulled one of the images.
    pub fn pods(&self, bed: &Bed) -> BTreeMap<String, SeenPod> {
        let repositories = format!("docker.io/{}/", self.name);
        let is_ours = |image: &String| image.starts_with(&repositories);
        bed.look().all_pods.clone().into_iter().filter(|(_, pod)| pod.images.iter().any(is_ours)).collect()
    }

    /// Returns the lives of those Pods, one for each image and node.
    ///
    /// # Errors
    /// If there were more or fewer, or the audit log cannot be read.
    pub fn lives(&self, bed: &Bed, nodes: usize) -> Result<Vec<Life>> {
        let lives = requests::lives(&bed.cluster.audit()?, &self.pods(bed));
        let pairs = self.images * nodes;
        ensure!(lives.len() == pairs, "{} Pods for {pairs} pulls: {lives:#?}", lives.len());
        Ok(lives)
    }
}
