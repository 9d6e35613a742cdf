//! `drop discover`: runs DiscoveryPolicies from files once, without a cluster.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use drop_core::discovery::{Query, SourceFailure, SourceReason};
use futures::future::join_all;
use jiff::Timestamp;

use super::manifest::{Data, Manifests};
use super::report::{self, Outcome};
use super::run::ask;
use super::{Credentials, Limits, check_authorities};

/// The options of `drop discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// File or directory with DiscoveryPolicies, and with the Secrets that they name; - is standard input
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
    /// Number of nodes, for rankings that depend on it
    #[arg(long)]
    pub nodes: Option<usize>,
    #[command(flatten)]
    pub secret: SecretArgs,
}

/// The format of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// A list with an object per policy.
    Json,
}

/// The credentials that replace every Secret that sources name.
#[derive(Debug, Args)]
#[command(next_help_heading = "In place of the Secrets that sources name")]
pub struct SecretArgs {
    /// Bearer token
    #[arg(long, env = "DROP_DISCOVER_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// User
    #[arg(long, env = "DROP_DISCOVER_USERNAME")]
    pub username: Option<String>,
    /// Password of the user
    #[arg(long, env = "DROP_DISCOVER_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// PEM file with the certificates of the trusted authorities
    #[arg(long, env = "DROP_DISCOVER_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate in PEM
    #[arg(long, env = "DROP_DISCOVER_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Private key of the client certificate in PEM
    #[arg(long, env = "DROP_DISCOVER_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Header of every request, such as "X-Scope-OrgID: tenant"
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
}

/// Runs the policies of the files, and prints the images that they find.
///
/// # Errors
/// If the files, or the authorities that the environment names, are not usable, or if no source of a policy answers.
pub fn run(args: &DiscoverArgs) -> anyhow::Result<()> {
    let manifests = Manifests::read(&args.files)?;
    let given = secret(&args.secret)?;
    check_authorities()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(discover(args, &manifests, given.as_ref(), &mut io::stdout().lock()))
}

/// Returns the keys that a Secret would have, from flags.
fn secret(args: &SecretArgs) -> anyhow::Result<Option<Data>> {
    let text = |value: &Option<String>| value.clone().map(String::into_bytes);
    let file = |path: &Option<PathBuf>| {
        let path = path.as_ref();
        path.map(|path| fs::read(path).with_context(|| format!("cannot read {}", path.display()))).transpose()
    };
    let values = [
        ("token", text(&args.token)),
        ("username", text(&args.username)),
        ("password", text(&args.password)),
        ("ca.crt", file(&args.ca_file)?),
        ("tls.crt", file(&args.cert)?),
        ("tls.key", file(&args.key)?),
    ];
    let mut data: Data = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    for header in &args.headers {
        let (name, value) = header.split_once(':').context("--header: write NAME: VALUE")?;
        data.insert(format!("headers.{}", name.trim()), value.trim().into());
    }
    Ok((!data.is_empty()).then_some(data))
}

async fn discover(
    args: &DiscoverArgs,
    manifests: &Manifests,
    given: Option<&Data>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if manifests.policies.is_empty() {
        bail!("no DiscoveryPolicy of drop.corewire.io/v1alpha1 in the files");
    }
    let mut queries = manifests.policies.iter().flat_map(|(_, pipeline)| pipeline.queries());
    if given.is_some() && queries.all(|query| query.secret.is_none()) {
        bail!("credentials stand for the Secrets that sources name, and none names one: add secretRef to a source");
    }
    let asked_for_nodes = Cell::new(false);
    let nodes = || {
        asked_for_nodes.set(true);
        args.nodes.unwrap_or_default()
    };
    let now = Timestamp::now();
    let run = manifests.policies.iter().map(|(name, pipeline)| async {
        let credentials = pipeline.queries().iter().map(|query| credentials(query, manifests, given)).collect();
        let asked = ask(pipeline, credentials, now, Limits::default()).await;
        let measured = asked.into_iter().map(|(_, measured)| measured).collect();
        Outcome::new(name, pipeline, measured, nodes)
    });
    let outcomes = join_all(run).await;
    match args.output {
        OutputFormat::Table => report::table(&outcomes, out)?,
        OutputFormat::Json => report::json(&outcomes, out)?,
    }
    if asked_for_nodes.get() && args.nodes.is_none() {
        writeln!(io::stderr(), "The ranking depends on how many nodes there are: give --nodes.")?;
    }
    match outcomes.iter().find(|outcome| !outcome.answered()) {
        Some(outcome) => bail!("no source of DiscoveryPolicy {:?} answers", outcome.policy),
        None => Ok(()),
    }
}

fn credentials(query: &Query, manifests: &Manifests, given: Option<&Data>) -> Result<Credentials, SourceFailure> {
    let Some(name) = &query.secret else { return Credentials::none() };
    let data = match (given, manifests.secrets.get(name)) {
        (Some(given), _) => given,
        (None, Some(found)) => found.as_ref().map_err(SourceFailure::clone)?,
        (None, None) => {
            let message = format!("Secret {name:?} is not in the files: add it, or give credentials as flags");
            return Err(SourceFailure::new(SourceReason::SecretNotFound, message));
        }
    };
    Credentials::from_secret(data)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;
    use crate::fake::{Fake, reply};

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        args: DiscoverArgs,
    }

    fn args(flags: &[&str]) -> DiscoverArgs {
        Parsed::parse_from(["discover", "-f", "policy.yaml"].iter().chain(flags)).args
    }

    async fn run(yaml: &str, flags: &[&str]) -> (String, Result<(), String>) {
        let mut manifests = Manifests::default();
        manifests.add(yaml).unwrap();
        let args = args(flags);
        let given = secret(&args.secret).unwrap();
        let mut out = Vec::new();
        let result = discover(&args, &manifests, given.as_ref(), &mut out).await;
        (String::from_utf8(out).unwrap(), result.map_err(|error| error.to_string()))
    }

    /// A Prometheus that knows two images, and a registry that knows two more, both for clients with the token.
    async fn backend() -> Fake {
        Fake::start(|got| match (got.authorization(), got.target.starts_with("/v2/")) {
            (Some("Bearer s3cr3t"), true) => {
                reply(200, &[], r#"{"tags":["1.9","1.10","alpha","beta","edge","edge-1","nightly","rc","x"]}"#)
            }
            (Some("Bearer s3cr3t"), false) => {
                let series = |image: &str, value: &str| json!({"metric": {"image": image}, "value": [1, value]});
                let result =
                    [series("docker.io/library/golang:1", "4"), series("r.example.com/a:1", "7"), series("b:1", "1")];
                reply(
                    200,
                    &[],
                    json!({"status": "success", "data": {"resultType": "vector", "result": result}}).to_string(),
                )
            }
            _ => reply(401, &[], ""),
        })
        .await
    }

    fn policy(prometheus: &str, registry: &str) -> String {
        format!(
            "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {{name: ci}}
spec:
  maxImages: 3
  imageFilter: '/[agt]'
  sources:
    - type: prometheus
      prometheus: {{endpoint: {prometheus}, query: up}}
      secretRef: {{name: creds}}
    - type: registry
      registry: {{url: {registry}, repositories: [team/app], tagFilter: '^1', imageTemplate: 'r.example.com/{{{{.Repository}}}}:{{{{.Tag}}}}'}}
      secretRef: {{name: creds}}
"
        )
    }

    const SECRET: &str = "
---
apiVersion: v1
kind: Secret
metadata: {name: creds}
stringData: {token: s3cr3t}
";

    #[tokio::test]
    async fn the_table_shows_sources_ranks_signals_and_what_was_left_out() {
        let backend = backend().await;
        let (table, result) = run(&(policy(&backend.url, &backend.url) + SECRET), &[]).await;
        let expected = "\
DiscoveryPolicy ci

SOURCE       TYPE         RESULT   IMAGES   MESSAGE
sources[0]   prometheus   Synced   2
sources[1]   registry     Synced   2

RANK   IMAGE                          SCORE   sources[0]   sources[1]
1      r.example.com/a:1              7       7            -
2      docker.io/library/golang:1     4       4            -
3      r.example.com/team/app:1.10    1       -            1

LEFT OUT                         WHY
r.example.com/team/app:1.9       better images fill maxImages
docker.io/library/b:1            imageFilter does not match
r.example.com/team/app:alpha     tagFilter does not match
r.example.com/team/app:beta      tagFilter does not match
r.example.com/team/app:edge      tagFilter does not match
r.example.com/team/app:edge-1    tagFilter does not match
r.example.com/team/app:nightly   tagFilter does not match
and 2 more                       tagFilter does not match
";
        let squeezed = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(squeezed(&table), squeezed(expected), "{table}");
        assert_eq!(result, Ok(()));
    }

    #[tokio::test]
    async fn a_source_that_fails_is_named_and_all_that_fail_are_an_error() {
        let backend = backend().await;
        let (json, result) =
            run(&policy(&backend.url, "http://127.0.0.1:1"), &["-o", "json", "--token", "s3cr3t"]).await;
        assert_eq!(result, Ok(()));
        let outcome: Value = serde_json::from_str(&json).unwrap();
        let results = [
            json!({"name": "sources[0]", "type": "prometheus", "status": "success", "images": 2}),
            json!({"name": "sources[1]", "type": "registry", "status": "failed", "images": 0,
                "reason": "ConnectionRefused", "message": "connection refused: 127.0.0.1:1"}),
        ];
        assert_eq!(outcome[0]["queryResults"], json!(results));
        let first = json!({"image": "r.example.com/a:1", "rank": 1, "finalScore": "7", "foundBy": [0],
            "signals": {"sources[0]": 7.0}});
        assert_eq!((&outcome[0]["policy"], &outcome[0]["discoveredImages"][0]), (&json!("ci"), &first));
        assert_eq!(outcome[0]["leftOut"][0]["image"], "docker.io/library/b:1");

        let (table, result) = run(&policy(&backend.url, "http://127.0.0.1:1"), &[]).await;
        assert_eq!(result.unwrap_err(), "no source of DiscoveryPolicy \"ci\" answers");
        assert!(table.contains("Secret \"creds\" is not in the files"), "{table}");
    }

    #[tokio::test]
    async fn credentials_go_to_sources_that_name_a_secret_and_to_no_other() {
        let backend = backend().await;
        let open = policy(&backend.url, &backend.url).replace("      secretRef: {name: creds}\n", "");
        let (_, result) = run(&open, &["--token", "s3cr3t"]).await;
        assert!(result.unwrap_err().contains("add secretRef"));
        assert!(backend.got().is_empty());
    }

    #[test]
    fn flags_stand_for_the_keys_of_a_secret() {
        let args = args(&["--username", "me", "--password", "pw", "--header", "X-Scope-OrgID: tenant:1"]);
        let keys = [("headers.X-Scope-OrgID", "tenant:1"), ("password", "pw"), ("username", "me")];
        let expected = keys.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        assert_eq!(secret(&args.secret).unwrap(), Some(BTreeMap::from(expected)));
        assert_eq!(secret(&self::args(&[]).secret).unwrap(), None);
        assert!(secret(&self::args(&["--header", "X"]).secret).is_err());
        let error = secret(&self::args(&["--ca-file", "/nowhere/ca.crt"]).secret).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/ca.crt");
    }
}
