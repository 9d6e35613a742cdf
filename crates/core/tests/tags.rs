//! Which tags of a registry are images, and which of them is the newest.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::collections::BTreeSet;

use drop_core::discovery::{Answer, End, LeftOut, Pipeline, Ranked, Repository, Why};
use serde_json::{Value, json};

/// What a policy with these fields of its registry makes of `tags`, in the order of the registry.
fn ranked(fields: &Value, tags: &[&str]) -> Ranked {
    let mut registry = json!({ "url": "https://registry.example.com", "repositories": ["team/app"] });
    registry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let spec = json!({ "maxImages": 500, "sources": [{ "type": "registry", "registry": registry }] });
    let pipeline = Pipeline::compile(&serde_json::from_value(spec).unwrap()).unwrap();
    let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    let repository = Repository { path: "team/app".to_owned(), tags, end: End::Whole };
    let measured = pipeline.measure(0, Answer::Tags(vec![repository]), "2026-03-31T12:00:00Z".parse().unwrap());
    pipeline.rank(&[Some(&measured)], |_| 1, &BTreeSet::new())
}

/// The newest first.
fn newest(fields: &Value, tags: &[&str]) -> Vec<String> {
    let images = ranked(fields, tags).images.into_iter();
    images.map(|ranked| ranked.image.rsplit_once(':').unwrap().1.to_owned()).collect()
}

/// Fails where the newest of these tags are not these, however the registry lists them. The tags are written from
/// the newest to the oldest, with spaces between them.
fn assert_order(rows: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (repository, tags) in rows {
        let expected: Vec<_> = tags.split_whitespace().collect();
        let mut by_name = expected.clone();
        by_name.sort_unstable();
        for listed in [by_name.clone(), by_name.into_iter().rev().collect()] {
            let found = newest(&json!({}), &listed);
            if found != expected {
                wrong.push(format!("{repository}: {found:?}\n    instead of {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn versions_count_number_by_number() {
    assert_order(&[
        ("plain", "v19.0.0 v18.10.0 v18.9.0 v9.0.0"),
        ("with and without v", "1.11.0 v1.10.2 1.10.1 V1.9.9"),
        ("what is missing is 0, and the tag that moves comes first", "3.1 3 3.0 3.0.0 2.9"),
        ("windows/servercore", "10.0.20348.2227 10.0.17763.5329 10.0.17763.693 ltsc2022 ltsc2019 2004 1809"),
        ("linuxserver/radarr", "5.8.3.8933 5.8.1.8928 5.7.0.8882 5.7.0.882"),
        ("sonarqube", "25.1.0.102122-community 10.8.0-community 10.7.0-community 9.9.8-community"),
        ("years beside versions", "2022.10.1 2022.04.11 2022.4.0 4.3.2-1 0.118.5"),
        ("zeros before a number", "2026.02.0 2025.11.1 2025.08.0 nightly"),
        ("authentik", "2024.6.1 2024.4.2 2021.12.10 2021.9.1"),
        ("fedora", "42 41 40 9 rawhide"),
        ("build numbers", "1000000 999999 12"),
        ("numbers without end", "99999999999999999999999 99999999999999999999998 18446744073709551616 1"),
        ("kube-proxy", "v1.30.10 v1.30.9 v1.30.9-rc.1 v1.30.9-beta.0 v1.29.14"),
        ("vllm/vllm-openai", "v0.20.1 v0.9.2 v0.9.1 v0.9.1rc1 v0.9.0.1 v0.9.0 v0.8.5.post1 v0.8.5"),
    ]);
}

#[test]
fn the_tags_of_well_known_repositories_are_ordered_as_people_read_them() {
    assert_order(&[
        ("nvcr.io/nvidia/pytorch", "24.10-py3 24.10-py3-igpu 24.09-py3 24.09-py3-igpu 23.12-py3"),
        (
            "pytorch/pytorch",
            "2.5.0-cuda12.4-cudnn9-runtime 2.5.0-cuda12.4-cudnn9-devel 2.5.0-cuda12.1-cudnn9-runtime \
             2.4.1-cuda12.4-cudnn9-runtime",
        ),
        ("jenkins/jenkins", "2.482 2.482-jdk17 2.479.1-lts 2.479.1-lts-jdk17 2.479 2.462.3-lts latest lts"),
        ("gitlab/gitlab-ce", "17.5.0-ce.0 17.4.2-ce.0 17.4.1-ce.0 16.11.10-ce.0 nightly"),
        ("eclipse-temurin", "21.0.5_11-jdk 21.0.4_7-jdk 17.0.13_11-jdk 8u432-b06-jdk 8u422-b05-jdk"),
        (
            "mssql/server",
            "2025-RC1-ubuntu-22.04 2025-CTP2.0-ubuntu-22.04 2022-CU15-ubuntu-22.04 2022-CU14-ubuntu-22.04 \
             2022-CU9-ubuntu-22.04 2022-RTM-ubuntu-20.04 2019-CU28-ubuntu-20.04 2019-GDR1-ubuntu-16.04",
        ),
        ("jenkins/inbound-agent", "3355.v388858a_47b_33-3 3309.v27b_9314fd1a_4-1 3283.v92c105e0f819-1 4.13.3-1 4.9-1"),
        ("rancher/rancher", "v2.10.1 v2.10.0-rc2 v2.10-head v2.9.5 v2.9-head"),
        ("longhornio/longhorn-manager", "v1.8.0 v1.7.2 v1.7.x-head v1.6.4"),
        ("hotio/radarr", "release-5.11.0.9244 testing-5.11.0.9244 release-5.10.4.9218 nightly-5.9.0.1"),
        (
            "openshift-release-dev/ocp-release",
            "4.18.0-x86_64 4.18.0-rc.1-x86_64 4.18.0-rc.0-x86_64 4.18.0-ec.4-x86_64 4.18.0-ec.3-x86_64 4.17.9-x86_64",
        ),
        ("days before months and years", "01-02-2025 01-01-2025 31-12-2024 30-11-2024"),
        ("months before days", "12-31-2024 12-30-2024 11-30-2024"),
        ("unityci/editor", "ubuntu-2022.3.40f1-base-3.1.0 ubuntu-2022.3.9f1-base-3.1.0 ubuntu-2021.3.45f1-base-3.1.0"),
        ("openssl", "1.1.1w 1.1.1 1.0.2zg 1.0.2za 1.0.2z 1.0.2 0.9.8zh 0.9.8zg 0.9.8z"),
        ("releases beside builds of Windows", "release-1.9.0 release-1.8.2 2004 1809"),
        ("numbers before versions", "1.6 1.5 89-1.5 88-1.5"),
        ("snapshots beside versions", "3.20.3 3.19.4 2024-09-23 2024-09-22 20240921 edge"),
        ("several images a day", "20250906b 20250906a 20250906 20250905"),
        ("words right behind a version", "1.2.3 1.2.3lts 1.2.2 1.2.2lts 1.2.2rc1"),
    ]);
}

#[test]
fn hashes_of_any_length_are_neither_newer_nor_older() {
    for tags in
        [["main-104857612345", "main-a41e8f9b2c3d"], ["6028143123", "a41e8f9b2c"], ["sha-602814312", "sha-a41e8f9b2"]]
    {
        for [first, last] in [tags, [tags[1], tags[0]]] {
            assert_eq!(newest(&json!({}), &[first, last]), [last, first], "the one that is listed last");
        }
    }
}

#[test]
fn a_pre_release_comes_before_its_release() {
    assert_order(&[
        (
            "https://semver.org/#spec-item-11",
            "1.0.0 1.0.0-rc.1 1.0.0-beta.11 1.0.0-beta.2 1.0.0-beta 1.0.0-alpha.beta 1.0.0-alpha.1 1.0.0-alpha",
        ),
        ("python", "3.14.0-slim 3.14.0rc3-slim 3.14.0b4-slim 3.14.0a1-slim 3.13.7-slim 3.13.0-slim 3.13.0rc2-slim"),
        ("php", "8.4.0-cli 8.4.0RC4-cli 8.4.0beta5-cli 8.4.0alpha1-cli 8.3.14-cli"),
        ("golang", "1.22.1 1.22.0 1.22rc2 1.22rc1 1.21.8"),
        ("mattermost", "7.8.0 7.8.0-rc10 7.8.0-rc9 7.8.0-rc1 7.7.3"),
        ("postgres", "18beta1 17.6 17.5 17 17rc1 17beta3 16.10"),
        ("PEP 440", "1.0.post1 1.0 1.0rc1 1.0b2 1.0b1 1.0a2 1.0a1 1.0a1.dev2 1.0.dev3"),
        ("tensorflow", "2.17.0 2.17.0rc1 2.17.0rc0 2.16.1 2.0.0a0"),
        ("nightly builds of Python packages", "5.4.0 5.4.0a20240310 5.4.0a20240309 5.3.1"),
        ("home-assistant", "2025.9.0 2025.9.0b2 2025.9.0b1 2025.9.0.dev202508010231 2025.8.3"),
        ("traefik", "v3.1.0 v3.1.0-rc3 v3.1.0-rc2 v3.1.0-beta1 v3.0.4"),
        ("haproxy", "3.1.0 3.1-dev11 3.1-dev3 3.0.6 3.0.6-alpine"),
        ("maven", "2.1.0 2.1.0-RC2 2.1.0-M10 2.1.0-M3 2.1.0-SNAPSHOT 2.0.9"),
        ("hibernate", "6.0.1.Final 6.0.0.Final 6.0.0.CR2 6.0.0.CR1 6.0.0.Beta3 6.0.0.Alpha9"),
        ("openjdk", "24-jdk 24-ea-8-jdk 24-ea-7-jdk 23-jdk"),
        ("zeros in a candidate", "app-v1.10.0-rc.02 app-v1.10.0-rc.1 app-v1.9.0"),
        ("a base before the candidate", "1.4.0 1.4.0-alpine 1.4.0-alpine-rc2 1.4.0-alpine-rc1 1.3.0-alpine"),
        ("wordpress", "5.7.1-apache 5.7.1-RC1-apache 5.7.0-apache beta-5.7.1-apache beta-5.7.0-apache"),
        ("istio", "1.23.0 1.23.0-rc.1 1.23.0-beta.1 1.23.0-alpha.0 1.22.3"),
        ("a pull request's", "1.2.3 1.2.3-pr.45.a41e8f9 1.2.2"),
        ("keel", "0.1.0 0.1.0-unstable0010 0.1.0-unstable0009"),
        ("mysql", "9.0.1 8.4.2 8.4.0-preview 8.0.39"),
    ]);
}

#[test]
fn what_was_changed_after_a_release_comes_after_it() {
    assert_order(&[
        ("bitnami/node", "20.13.1-debian-12-r11 20.13.1-debian-12-r10 20.13.1-debian-12-r9 20.13.0-debian-12-r30"),
        ("bitnami/redis", "7.4.0-debian-12-r4 7.4.0-debian-11-r9 7.2.5-debian-12-r40 6.2.14-debian-12-r9"),
        ("linuxserver/plex", "1.40.2-ls100 1.40.2-ls24 1.40.1-ls216"),
        ("git describe", "v3.9.1 v3.9.0-177-ged5bcde v3.9.0-18-g1a2b3c4 v3.9.0-9-gab12cd3 v3.9.0"),
        ("git describe of a candidate", "v3.9.0 v3.9.0-rc.1-5-ga41e8f9 v3.9.0-rc.1"),
        ("rancher/hyperkube", "v1.30.2-rancher1-2 v1.30.2-rancher1-1 v1.30.1-rancher4-1"),
        ("rancher/k3s", "v1.30.2-k3s10 v1.30.2-k3s2 v1.30.2-k3s1 v1.30.2-rc3-k3s1 v1.30.1-k3s1"),
        ("rancher/rke2-runtime", "v1.24.10-rke2r2 v1.24.10-rke2r1 v1.24.10-rc2-rke2r1 v1.24.9-rke2r2"),
        ("eclipse-temurin", "17.0.12_7-jdk 17.0.11_9-jdk 17.0.3_10-jdk 17.0.3_7-jdk 11.0.24_8-jdk"),
        ("eclipse-temurin 8", "8u402-b06-jdk 8u392-b10-jdk 8u392-b08-jdk 8u92-b14-jdk 8-jdk"),
        ("ubi9/ubi", "9.4-1227.1726694542 9.4-1227 9.4-947 9.4 9.0.0-1471"),
        ("build metadata as Helm writes it", "1.2.3_build10 1.2.3_build7 1.2.3 1.2.2_build99"),
        ("ruby", "2.0.0-p247 2.0.0-p195 2.0.0 2.0.0-rc1"),
        ("openssl", "1.1.1w 1.1.1n 1.1.1 1.1.0l"),
        ("updatecli", "1.0.0-14 1.0.0-10 1.0.0-9 1.0.0-1"),
        ("plexinc/pms-docker", "1.43.3.10896-cb3ebc72d 1.43.3.10861-07dfddaeb 1.43.2.10900-0a1b2c3d4"),
        ("grafana", "11.2.0-183374 11.2.0-99999 11.1.0 11.0.1-ubuntu main"),
        ("suwayomi", "v1.1.1-r1535 v1.1.1-r999 v1.1.1"),
    ]);
}

#[test]
fn dates_count_as_dates_in_each_spelling() {
    assert_order(&[
        (
            "minio/minio",
            "RELEASE.2025-09-07T16-13-09Z RELEASE.2025-04-22T22-12-26Z RELEASE.2025-04-22T22-12-26Z-cpuv1 \
             RELEASE.2025-01-18T00-31-37Z RELEASE.2023-12-07T04-16-00Z latest edge",
        ),
        ("one day in several spellings", "20250908 2025.09.07 2025-09-06 20250905"),
        ("seconds", "20250907161309 20250907161308 20250907 20250906235959"),
        ("rss-bridge", "2025-08-05 2025-06-03 2024-02-02 2023-12-31"),
        ("a counter behind the day", "20220209-22 20220209-9 20220209-04 20190209-4"),
        ("renovate's loose", "2024-07-21T11-33-05.abc123 2024-07-21T11-33-04.abc124 2023-06-21T11-33-05.abc123"),
        ("tlcpack/ci-arm", "20220201-115323-2af42ba8e 20220201-115322-9af42ba8e 20220131-235959-0af42ba8e"),
        ("test-infra", "v20240802-66b115076b v20240801-a7f11e5f2b v20231130-5a4f5e6b7c"),
        (
            "debian",
            "12.6 11.10 trixie-20250721-slim bookworm-20250721-slim bookworm-20250630-slim sid-slim trixie bookworm",
        ),
        ("ubuntu", "24.04 22.04 noble-20250716 jammy-20250714 noble-20250619 plucky noble jammy"),
        ("alpine", "3.20.3 3.20 3.19.4 20240923 20240807 latest edge"),
        ("snapshots with a time", "1.5.0 20250907T161309Z 20250907T161308Z 20250907 2025-09-06 latest"),
        ("photoprism", "251130 250707 250223 20220629 20201122 latest preview"),
        ("nightly builds", "v1.2.3 nightly-2025-07-02 nightly-2025-07-01 nightly-20250630 main"),
        ("flux", "main-a41e8f9-1552613297 main-0c2b7d1-1551067109 main-b7a90d9-1500000000"),
        ("ubuntu's own builds", "24.05-py3 24.04-py3 23.12-py3"),
        ("GitLab pipelines", "main-1038422337 main-999999999 main"),
        (
            "months by name",
            "15-Jan-2024 jan-14-2024 jan2024 31dec2023 2023-Dec-05 2023-12-04 2023dec 20231130 november-2023 sept2023 feb2023 latest",
        ),
        ("months behind a name", "nightly-jan2024 nightly-dec2023 nightly-2023-11-30 nightly-feb2023 main"),
        ("months behind a version", "1.3-jan2024 1.2-apr2024 1.2-jan-2024 1.2-dec2023 1.2-feb2023 1.2"),
        ("a version before a month is no day", "v4-jan-2024 v3-mar-2024 1.2.3-jan-2024 1.2.3-dec-2023 1.2.2-mar-2024"),
        ("a letter before the day of a build", "3.0.1-b20240101 3.0.0 3.0.0-b20240405 3.0.0-b20240404 3.0.0-b20231231"),
        ("setuptools_scm", "1.2.3.dev4-ga41e8f9.d20240406 1.2.3.dev4-gb41e8f9.d20240405 1.2.3.dev3-gc41e8f9.d20240407"),
    ]);
}

#[test]
fn what_only_looks_like_a_version_is_none() {
    assert_order(&[
        ("the hash of a commit", "1.5.1 1.5.0 1.4.0 latest 6028143"),
        ("all of GitLab's short hashes", "v1.0.0 main-1.0 latest-dev main 12345678"),
        (
            "gitlab-runner-helper",
            "x86_64-v17.10.1 x86_64-v17.5.0 alpine3.19-x86_64-v16.11.0 x86_64-latest x86_64-bleeding",
        ),
        ("portainer", "2.27.1 2.9.3 windowsltsc2022-amd64-2.30.0 linux-arm64-2.9.3 latest"),
        ("architectures", "arm64v8-1.10 amd64-1.9 arm32v7-1.8 latest arm64v8"),
        ("pull requests", "1.0.0 main pr-124 pr-123 pr-9"),
        ("GPUs", "1.2.3 1.2.3-h100 1.2.3-a100 1.2.2"),
        ("windows", "10.0.26100.1742 ltsc2025 ltsc2022 2004 1909 20H2"),
        ("words with digits", "2.0 1.0 s6-overlay log4j"),
    ]);
    let hashes = ["0c2b7d1", "6028143", "a41e8f9", "latest"];
    assert_eq!(newest(&json!({}), &hashes), ["latest", "a41e8f9", "6028143", "0c2b7d1"], "the last is the newest");
    let pushed = ["sha-9f8e7d6", "sha-4f3a2b1", "sha-1234567"];
    assert_eq!(newest(&json!({ "topX": 1 }), &pushed), ["sha-1234567"]);
    let branch = ["main-34769fa-99", "main-1234567-100", "main-b7a90d9-101"];
    assert_eq!(newest(&json!({}), &branch), ["main-b7a90d9-101", "main-1234567-100", "main-34769fa-99"]);
}

#[test]
fn a_version_as_a_whole_comes_before_one_within_and_before_names() {
    assert_order(&[
        ("a prefix", "1.5.0 1.4.0 release-2.0.0 release-1.9.0 stable"),
        ("go", "1.21-alpine3.20 jdk17-2.3 go1.22-alpine3.18 go1.9-alpine3.20 latest"),
        (
            "node",
            "22.9.0 22.9.0-bookworm-slim 22.9.0-slim 22.9.0-alpine3.20 22.9.0-alpine3.19 22-alpine 20.18.0 lts current",
        ),
        ("jenkins", "2.452-jdk17 2.440.1-lts-jdk21 2.440.1-lts-jdk17 2.426.3-lts-jdk17 lts lts-jdk17 alpine"),
        (
            "nvidia/cuda",
            "12.4.1-cudnn-devel-ubuntu22.04 12.4.1-base-ubuntu22.04 12.4.0-base-ubuntu22.04 11.8.0-cudnn8-devel-ubuntu22.04",
        ),
        (
            "pytorch",
            "2.3.1-cuda12.1-cudnn8-devel 2.3.1-cuda11.8-cudnn8-devel 2.3.0-cuda12.1-cudnn8-runtime 1.13.1-cuda11.6-cudnn8-devel",
        ),
        ("a marked version before a base", "cuda12.1-py3.11-v2.10.0 cuda12.4-py3.12-v2.9.0 cuda11.8-py3.10-v2.8.0"),
        (
            "scrypted",
            "20-bookworm-full-v0.102.0 20-bookworm-full-v0.80.0 20-bookworm-full-v0.9.1 18-bookworm-full-v0.13.4",
        ),
        ("base images", "3.13-trixie 3.13-bookworm 3.13-bullseye 3.13-alpine3.20 3.13-alpine3.19 3.12-trixie"),
        ("linuxserver", "version-3.0.1.4259 version-3.0.0.4204 version-v0.2.0.1504 develop"),
        ("cilium", "v1.16.0 v1.16.0-rc.1 v1.15.6 stable"),
        ("distroless", "1.22.3 1.22.3-distroless 1.22.3-debug 1.22.2"),
        ("names in natural order", "foo-11 foo-5 foo-1 foo"),
        ("latest is the newest name", "latest latest-gpu stable main edge"),
        ("runtimes", "jdk21 jdk17 jdk11 jdk8"),
    ]);
}

#[test]
fn a_version_pattern_says_what_the_version_is() {
    let cases: [(&str, &[&str], &[&str]); 5] = [
        // Only the group counts: of the two numbers here the second.
        ("^jdk-[0-9]+-(.+)$", &["jdk-21-1.0", "jdk-17-1.1", "other"], &["jdk-17-1.1", "jdk-21-1.0", "other"]),
        (
            r"^10\.0\.(\d+\.\d+)$",
            &["10.0.14393.2007", "10.0.14393.206", "10.0.14393.2430"],
            &["10.0.14393.2430", "10.0.14393.2007", "10.0.14393.206"],
        ),
        (
            "^staging-[a-f0-9]+-(.*)$",
            &["staging-1234567-1500000000", "staging-34769fa-1551067109", "staging-b7a90d9-1552613297"],
            &["staging-b7a90d9-1552613297", "staging-34769fa-1551067109", "staging-1234567-1500000000"],
        ),
        // What it finds is a version, even beside versions with dots.
        ("^v(.+)$", &["v1.5.1", "v6028143"], &["v6028143", "v1.5.1"]),
        ("^(?:v(.+)|latest)$", &["v1", "latest", "v2"], &["v2", "v1", "latest"]),
    ];
    for (pattern, tags, expected) in cases {
        assert_eq!(newest(&json!({ "versionPattern": pattern }), tags), expected, "{pattern}");
    }
}

#[test]
fn the_filter_and_the_number_of_tags_come_before_and_after_the_order() {
    assert_eq!(newest(&json!({ "topX": 2 }), &["1.0.0", "1.2.0", "1.1.0"]), ["1.2.0", "1.1.0"]);
    let fields = json!({ "tagFilter": "^v\\d+\\.", "topX": 1 });
    assert_eq!(newest(&fields, &["9.0.0", "v1.0.0", "v2.0.0", "vnext"]), ["v2.0.0"]);
    // What the filter leaves out says nothing about the others.
    assert_eq!(newest(&json!({ "tagFilter": "^[0-9]+$" }), &["1.5.0", "1809", "2004", "20"]), ["2004", "1809", "20"]);
}

#[test]
fn signatures_and_what_is_no_tag_take_no_place() {
    let hash = "3b1c".repeat(16);
    let kept = [".sig", ".att", ".sbom", "", ".0123456789abcdef.vex"].map(|end| format!("sha256-{hash}{end}"));
    let longer = format!("sha512-{hash}");
    let long = "x".repeat(129);
    let digest = format!("sha256:{hash}");
    let mut tags = vec!["1.9", "1.10", "latest", longer.as_str(), &digest, "2.0 beta", ".hidden", "-x", "", "ä", &long];
    tags.extend(kept.iter().map(String::as_str));
    let ranked = ranked(&json!({ "topX": 3 }), &tags);
    assert_eq!(newest(&json!({ "topX": 3 }), &tags), ["1.10", "1.9", "latest"]);
    let count = |why: Why| ranked.left_out.iter().filter(|left: &&LeftOut| left.why == why).count();
    assert_eq!((count(Why::Signature), count(Why::NotATag), ranked.left_out.len()), (6, 7, 13));
    // A short hash is the name of an image that somebody has built.
    assert_eq!(newest(&json!({}), &["sha256-3b1c3b1"]), ["sha256-3b1c3b1"]);
}

#[test]
fn the_table_of_the_documentation_is_true() {
    let page = include_str!("../../../docs/newest-versions.md");
    let code = |cell: &str| Some(cell.trim().strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let mut rows = 0;
    for line in page.lines() {
        let [_, rule, newer, older, _] = line.split('|').collect::<Vec<_>>()[..] else { continue };
        let (Some(newer), Some(older)) = (code(newer), code(older)) else { continue };
        rows += 1;
        assert_eq!(newest(&json!({}), &[&older, &newer]), [newer.clone(), older.clone()]);
        if !rule.contains("lists last") {
            assert_eq!(newest(&json!({}), &[&newer, &older]), [newer, older]);
        }
    }
    assert!(rows > 10, "{rows}");
}
