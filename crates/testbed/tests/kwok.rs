//! Nodes of kwok. They need root and Go.

use std::time::Duration;

use anyhow::{Context, Result};
use drop_testbed::{Cluster, ClusterOptions};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const NODES: usize = 50;

/// A pull Pod as Drop makes it.
fn pod(node: &str) -> Value {
    let container = |number: usize| json!({ "name": format!("pull-{number}"), "image": format!("docker.io/library/app-{number}:1"), "command": ["true"] });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": node, "namespace": "default" },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [container(0), container(1)],
        },
    })
}

fn wait(cluster: &Cluster, condition: &str, pods: &str) -> Result<String> {
    let condition = format!("--for={condition}");
    cluster.kubectl(&["wait", &condition, "--timeout=60s", "pod", pods])
}

fn get(cluster: &Cluster, kind: &str) -> Result<Vec<Value>> {
    let mut list: Value = serde_json::from_str(&cluster.kubectl(&["get", kind, "--output=json"])?)?;
    let items = list.get_mut("items").context("no items")?.take();
    Ok(serde_json::from_value(items)?)
}

#[test]
#[ignore = "needs root and Go"]
fn every_pod_on_fifty_nodes_pulls_its_images_and_goes_when_it_is_deleted() {
    let cluster = Cluster::start(ClusterOptions::new("test-kwok").patient(), &|line| eprintln!("{line}")).unwrap();
    let kwok = cluster.start_kwok(Duration::from_millis(10)).unwrap();
    let names: Vec<String> = (0..NODES).map(|number| format!("fake-{number}")).collect();
    kwok.add_nodes(&names, 0).unwrap();
    kwok.wait_ready(NODES, LIMIT).unwrap();
    let pods: Vec<Value> = names.iter().map(|name| pod(name)).collect();
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string()).unwrap();
    wait(&cluster, "jsonpath={.status.phase}=Succeeded", "--all").unwrap();
    for pod in get(&cluster, "pods").unwrap() {
        let status = &pod["status"];
        assert!(status["startTime"].is_string());
        let conditions = status["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "PodReadyToStartContainers");
        assert_eq!(ready.unwrap()["status"], "True");
        let containers = status["containerStatuses"].as_array().unwrap();
        assert_eq!(containers.len(), 2);
        for (number, container) in containers.iter().enumerate() {
            let id = container["imageID"].as_str().unwrap();
            let digest = id.strip_prefix(&format!("docker.io/library/app-{number}@sha256:")).unwrap();
            assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            assert_eq!(container["state"]["terminated"]["reason"], "Completed");
        }
    }
    cluster.kubectl(&["delete", "pods", "--all", "--timeout=60s"]).unwrap();
    assert_eq!(get(&cluster, "pods").unwrap(), Vec::<Value>::new());
    assert_eq!(get(&cluster, "nodes").unwrap().len(), NODES);
}

#[test]
#[ignore = "needs root and Go"]
fn a_pod_that_is_deleted_in_the_middle_of_its_pull_goes_too() {
    let cluster = Cluster::start(ClusterOptions::new("test-kwok-slow").patient(), &|line| eprintln!("{line}")).unwrap();
    let kwok = cluster.start_kwok(Duration::from_secs(3600)).unwrap();
    kwok.add_nodes(&["slow".to_owned()], 0).unwrap();
    kwok.wait_ready(1, LIMIT).unwrap();
    cluster.apply(&pod("slow").to_string()).unwrap();
    wait(&cluster, "jsonpath={.status.containerStatuses[1].state.waiting.reason}=ContainerCreating", "slow").unwrap();
    cluster.kubectl(&["delete", "pod", "slow", "--timeout=60s"]).unwrap();
    assert_eq!(get(&cluster, "pods").unwrap(), Vec::<Value>::new());
}
