//! Invalid objects, which a real API server denies with a message that says how to fix them.

use anyhow::{Result, ensure};
use drop_e2e::Bed;

/// Kind, spec, and the message of the denial.
const BAD: [(&str, &str, &str); 39] = [
    ("CachedImage", "{}", "spec.image: Required value"),
    ("CachedImage", "{image: ''}", "spec.image"),
    ("CachedImage", "{image: 'https://docker.io/alpine'}", "without https://"),
    ("CachedImage", "{image: 'docker.io/library/Alpine'}", "in lower case"),
    ("CachedImage", "{image: 'alpine latest'}", "not an image name"),
    (
        "CachedImage",
        "{image: b19406328e70dd2f6a36d6dbe4e867b0684ced2fdeb2f02ecb54ead39ec0bac0}",
        "this is the ID of an image",
    ),
    ("CachedImage", "{image: '[2001:db8::1]:5000'}", "not an image name"),
    ("CachedImage", "{image: nginx, tag: '-x'}", "not a tag"),
    ("CachedImage", "{image: nginx, digest: 'sha256:abc'}", "64 lower-case hexadecimal digits"),
    (
        "CachedImage",
        "{image: nginx, tag: a, digest: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}",
        "keep digest to pin the image",
    ),
    ("CachedImage", "{image: 'nginx:1.25', tag: '1.26'}", "remove tag and digest"),
    (
        "CachedImage",
        "{image: nginx, imagePullPolicy: Sometimes}",
        r#"supported values: "Always", "IfNotPresent", "Never""#,
    ),
    ("CachedImage", "{image: nginx, policyRef: {}}", "spec.policyRef.name: Required value"),
    ("CachedImage", "{image: nginx, priority: high}", "spec.priority"),
    ("CachedImage", "{image: nginx, tolerations: [{operator: Equal}]}", "needs operator: Exists"),
    ("CachedImage", "{image: nginx, tolerations: [{key: a, operator: Exists, value: b}]}", "takes no value"),
    ("CachedImage", "{image: nginx, tolerations: [{key: a, effect: NoRun}]}", "supported values"),
    (
        "CachedImage",
        "{image: nginx, tolerations: [{key: a, operator: Exists, tolerationSeconds: 60}]}",
        "write that effect, or remove tolerationSeconds",
    ),
    (
        "CachedImage",
        "{image: nginx, tolerations: [{key: a, operator: Exists, effect: NoSchedule, tolerationSeconds: 60}]}",
        "write that effect, or remove tolerationSeconds",
    ),
    (
        "CachedImage",
        "{image: nginx, tolerations: [{key: 'not a key', operator: Exists}]}",
        "not a key: write [prefix/]name",
    ),
    ("CachedImage", "{image: nginx, tolerations: [{key: a/b/c, operator: Exists}]}", "not a key: write [prefix/]name"),
    ("CachedImage", "{image: nginx, tolerations: [{key: a, value: 'b c'}]}", "not a value"),
    ("CachedImage", "{image: nginx, nodeSelector: {'Pool/x': a}}", "not a key: write [prefix/]name"),
    ("CachedImage", "{image: nginx, nodeSelector: {pool: 'a b'}}", "not a value"),
    (
        "CachedImage",
        "{image: nginx, nodeAffinity: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}]}]}}",
        "need values",
    ),
    (
        "CachedImage",
        "{image: nginx, nodeAffinity: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Gt, values: [x]}]}]}}",
        "an integer",
    ),
    ("CachedImage", "{image: nginx, nodeAffinity: {nodeSelectorTerms: []}}", "should have at least 1 items"),
    ("CachedImage", "{image: nginx, imag: x}", r#"unknown field "spec.imag""#),
    ("PullPolicy", "{maxConcurrentNodes: 0}", "greater than or equal to 1"),
    ("PullPolicy", "{imagesPerPod: 51}", "less than or equal to 50"),
    ("PullPolicy", "{minDelayBetweenPulls: 10}", "spec.minDelayBetweenPulls"),
    ("PullPolicy", "{minDelayBetweenPulls: 10 seconds}", "write a duration such as 30s, 5m or 1h30m"),
    ("PullPolicy", "{minDelayBetweenPulls: 99999999999999999999h}", "of at most 99999h"),
    ("PullPolicy", "{pullTimeout: 100000h}", "of at most 99999h"),
    ("PullPolicy", "{nodeSelector: {pool-: a}}", "not a key: write [prefix/]name"),
    ("PullPolicy", "{tolerations: [{key: a, tolerationSeconds: 1}]}", "write that effect, or remove tolerationSeconds"),
    ("PullPolicy", "{failureBackoff: {initial: 10m, max: 1m}}", "raise max, or lower initial"),
    ("PullPolicy", "{pullTimeout: 0s}", "pullTimeout must be at least 1s"),
    ("PullPolicy", "{repullInterval: 0s}", "repullInterval must be at least 1s"),
];

pub fn bad_objects_are_refused_with_a_remedy(bed: &Bed) -> Result<()> {
    for (kind, spec, remedy) in BAD {
        let refusal = bed.refused(&format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: {kind}, metadata: {{name: bad}}, spec: {spec}}}"
        ))?;
        ensure!(refusal.contains(remedy), "{kind} {spec} should say {remedy:?}, but says:\n{refusal}");
    }
    let without_spec =
        bed.refused("{apiVersion: drop.corewire.io/v1alpha1, kind: PullPolicy, metadata: {name: bad}}")?;
    ensure!(without_spec.contains("spec: Required value"), "{without_spec}");

    // Values at the limits.
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: empty}
spec: {}
---
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: longest}
spec:
  minDelayBetweenPulls: 999999999s999999999s999999999s9s
  pullTimeout: 99999h99999h99999h99999h99999h9h
  repullInterval: 9999999m9999999m9999999m9999999m
  failureBackoff: {initial: 99999h, max: 999999999s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: edge}
spec:
  image: registry.example.com:5000/a_b/c__d/e-f.g:1.2.3_x@sha256:0000000000000000000000000000000000000000000000000000000000000000
  policyRef: {name: not-there}
  tolerations:
  - {operator: Exists}
  - {key: '', operator: Exists, value: '', effect: NoExecute, tolerationSeconds: 60}
  - {key: node.kubernetes.io/not-ready, operator: Equal, value: ''}
  nodeSelector: {kubernetes.io/os: linux, empty: '', A_b.c-1: D_e.f-2}
",
    )?;
    let policy = bed.wait("defaults", |sight| sight.policies.get("empty").cloned())?;
    ensure!(policy.spec == drop_api::PullPolicySpec::default(), "{:#?}", policy.spec);
    // Drop can read every object that the API server accepts.
    bed.wait("the longest durations", |sight| sight.policies.get("longest").cloned())?;
    bed.cluster.kubectl(&["delete", "cachedimage/edge", "pullpolicy/empty", "pullpolicy/longest"])?;
    Ok(())
}
