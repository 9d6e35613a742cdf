//! Recognises virtual nodes. A virtual node runs each Pod on another machine. An image pulled for one Pod is not on the
//! disk of any other, so pull Pods would only cost money.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;

use crate::Name;

/// Labels and taints of virtual nodes: a key, and the value if other values have another meaning. Providers set some as
/// a label, some as a taint and some as both, and users may remove either. The tests name the source of each.
const MARKS: [(&str, Option<&str>); 9] = [
    ("type", Some("virtual-kubelet")),
    ("virtual-kubelet.io/provider", None),
    ("eks.amazonaws.com/compute-type", Some("fargate")),
    ("k8s.aliyun.com/vnode", Some("true")),
    ("node.kubernetes.io/instance-type", Some("eklet")),
    ("eks.tke.cloud.tencent.com/eklet", None),
    ("liqo.io/type", Some("virtual-node")),
    ("virtual-node.liqo.io/not-allowed", None),
    ("virtual-node.interlink/no-schedule", None),
];

/// Whether a node with these labels and taints is virtual.
#[must_use]
pub fn is_virtual(labels: &BTreeMap<Name, Name>, taints: &[Taint]) -> bool {
    MARKS.iter().any(|(key, value)| {
        let matches = |found: Option<&str>| value.is_none_or(|value| found == Some(value));
        labels.get(*key).is_some_and(|found| matches(Some(found)))
            || taints.iter().any(|taint| taint.key == *key && matches(taint.value.as_deref()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a node with these labels and taints, each as `key` or `key=value`.
    fn is_virtual_with(labels: &[&str], taints: &[&str]) -> bool {
        let pair = |mark: &str| -> (Name, Name) {
            let (key, value) = mark.split_once('=').unwrap_or((mark, ""));
            (key.into(), value.into())
        };
        let taint = |mark: &&str| {
            let (key, value) = pair(mark);
            let value = Some(value.to_string()).filter(|value| !value.is_empty());
            Taint { key: key.to_string(), value, effect: "NoSchedule".to_owned(), time_added: None }
        };
        is_virtual(&labels.iter().copied().map(pair).collect(), &taints.iter().map(taint).collect::<Vec<_>>())
    }

    #[test]
    fn each_mark_of_a_virtual_node_is_enough() {
        // The provider's labels, its taints, and the page that describes them.
        let virtual_nodes: [(&[&str], &[&str], &str); 8] = [
            // AKS virtual nodes: provider=azure; others use their own value. Labels and taint are virtual-kubelet's
            // defaults.
            (
                &["type=virtual-kubelet"],
                &["virtual-kubelet.io/provider=azure"],
                "https://azure.github.io/aks-advanced-autoscaling/modules/Module3/part1.html",
            ),
            (
                &["type=virtual-kubelet"],
                &["virtual-kubelet.io/provider=alibabacloud"],
                "https://www.alibabacloud.com/help/en/ack/ack-managed-and-ack-dedicated/user-guide/configure-eci-scaling",
            ),
            (
                &["k8s.aliyun.com/vnode=true"],
                &["k8s.aliyun.com/vnode=true"],
                "https://www.alibabacloud.com/help/en/eci/user-guide/schedule-pods-to-a-vnode",
            ),
            (
                &["eks.amazonaws.com/compute-type=fargate"],
                &["eks.amazonaws.com/compute-type=fargate"],
                "https://github.com/aws/eks-charts/pull/260",
            ),
            (
                &["node.kubernetes.io/instance-type=eklet"],
                &["eks.tke.cloud.tencent.com/eklet"],
                "https://www.tencentcloud.com/document/product/457/40027",
            ),
            (
                &["liqo.io/type=virtual-node"],
                &["virtual-node.liqo.io/not-allowed=true"],
                "https://github.com/liqotech/liqo, pkg/consts",
            ),
            (
                &["virtual-kubelet.io/provider=admiralty"],
                &["virtual-kubelet.io/provider=admiralty"],
                "https://github.com/admiraltyio/admiralty, pkg/common/constants.go",
            ),
            (
                &["type=virtual-kubelet"],
                &["virtual-node.interlink/no-schedule=true"],
                "https://github.com/interTwin-eu/interLink, pkg/virtualkubelet",
            ),
        ];
        for (labels, taints, source) in virtual_nodes {
            for label in labels {
                assert!(is_virtual_with(&["kubernetes.io/os=linux", label], &["other"]), "{label}: {source}");
            }
            for taint in taints {
                assert!(is_virtual_with(&["kubernetes.io/os=linux"], &["other", taint]), "{taint}: {source}");
            }
        }
    }

    #[test]
    fn machines_and_simulated_nodes_are_no_virtual_nodes() {
        let machines: [(&[&str], &[&str], &str); 5] = [
            (&[], &[], "a machine without marks"),
            (
                &["type=kwok"],
                &["kwok.x-k8s.io/node=fake"],
                "https://kwok.sigs.k8s.io/docs/user/kwok-manage-nodes-and-pods",
            ),
            (
                &["eks.amazonaws.com/compute-type=auto", "node.kubernetes.io/instance-type=m5.large"],
                &[],
                "https://docs.aws.amazon.com/eks/latest/userguide/associate-workload.html",
            ),
            (&["eks.amazonaws.com/compute-type=hybrid"], &[], "EKS hybrid nodes"),
            (&["type=node", "liqo.io/type=gateway"], &["eks.amazonaws.com/compute-type=ec2"], "other values"),
        ];
        for (labels, taints, source) in machines {
            assert!(!is_virtual_with(labels, taints), "{labels:?} {taints:?}: {source}");
        }
    }
}
