//! Access to `/metrics`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, Operator, Scraper, root};
use drop_testbed::{Authority, Tools, wait_for};
use ureq::Agent;

/// How long the test waits for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns the chart's roles for an operator that checks tokens, and two clients that send tokens.
fn roles() -> Result<String> {
    let values = "metrics.tls.secret=tls,metrics.auth.enabled=true,\
        metrics.auth.readers[0].namespace=default,metrics.auth.readers[0].name=reader";
    let tools = Tools::built(&["helm"])?;
    let rendered = Command::new(tools.path("helm"))
        .args(["template", "drop", "charts/drop", "--namespace", "drop-system", "--set", values])
        .args(["--show-only", "templates/rbac.yaml", "--show-only", "templates/metrics-auth.yaml"])
        .current_dir(root())
        .output()?;
    ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let accounts = ["reader", "other"].map(|name| {
        format!("---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: default}}}}\n")
    });
    Ok(format!("{}{}", String::from_utf8(rendered.stdout)?, accounts.concat()))
}

/// Returns the status of the operator's answer over TLS to a client that trusts `authority` only.
fn status(operator: &Operator, authority: &Authority, path: &str, token: Option<&str>) -> Result<u16> {
    let scraper = Scraper::new(authority, operator.address.parse()?)?;
    Ok(scraper.get(&format!("https://{}{path}", operator.address), token)?.0)
}

pub fn only_who_may_read_them_is_told(bed: &Bed) -> Result<()> {
    bed.apply(&roles()?)?;
    let token = |account: &str| -> Result<String> {
        Ok(bed.cluster.kubectl(&["create", "token", account, "--namespace", "default"])?.trim().to_owned())
    };
    let (reader, other) = (token("reader")?, token("other")?);
    let file = |name: &str| bed.cluster.kubeconfig().with_file_name(name);
    let (chain, key) = (file("metrics.crt"), file("metrics.key"));
    let renew = |authority: &Authority| -> Result<()> {
        let issued = authority.issue(&["127.0.0.1"])?;
        fs::write(&chain, issued.certificate)?;
        Ok(fs::write(&key, issued.key)?)
    };
    let (first, second) = (Authority::new()?, Authority::new()?);
    renew(&first)?;

    // The operator has no more permissions than the chart grants.
    let groups = ["system:serviceaccounts", "system:serviceaccounts:drop-system"];
    let account = bed.cluster.kubeconfig_for("system:serviceaccount:drop-system:drop", &groups)?;
    let flags = [
        format!("--tls-cert-file={}", chain.display()),
        format!("--tls-key-file={}", key.display()),
        "--metrics-auth=true".to_owned(),
    ];
    let operator = bed.start_replica_as(&account, &flags)?;
    let ready = || Ok(status(&operator, &first, "/readyz", None).is_ok_and(|status| status == 200).then_some(()));
    wait_for("probes are answered without a token", LIMIT, ready)?;
    ensure!(status(&operator, &first, "/healthz", None)? == 200);

    let cases = [
        ("/metrics", None, 401),
        ("/metrics", Some("made-up"), 401),
        ("/metrics", Some(other.as_str()), 403),
        ("/metrics", Some(reader.as_str()), 200),
        ("/debug/plan", None, 401),
        ("/debug/plan", Some(reader.as_str()), 403),
    ];
    for (path, token, expected) in cases {
        let status = status(&operator, &first, path, token).with_context(|| path.to_owned())?;
        ensure!(status == expected, "{path} with {token:?}: {status}, not {expected}");
    }
    let plain = Agent::config_builder().proxy(None).timeout_global(Some(LIMIT)).build().new_agent();
    let plain = plain.get(format!("http://{}/healthz", operator.address)).call();
    ensure!(plain.is_err(), "plain HTTP is answered: {plain:?}");

    renew(&second)?;
    ensure!(status(&operator, &second, "/metrics", Some(&reader))? == 200);
    let former = status(&operator, &first, "/metrics", Some(&reader));
    ensure!(former.is_err(), "the former certificate is still served: {former:?}");

    // A client that gets the permission can use it at once.
    let grant = ["create", "clusterrolebinding", "metrics-other", "--clusterrole=drop-metrics-reader"];
    bed.cluster.kubectl(&[&grant[..], &["--serviceaccount=default:other"]].concat())?;
    let may = || Ok((status(&operator, &second, "/metrics", Some(&other))? == 200).then_some(()));
    wait_for("the right that was granted counts", LIMIT, may)
}
