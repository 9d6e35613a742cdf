//! `drop discover` as a process: its exit code, and its environment variables.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

const POLICY: &str = "
apiVersion: drop.corewire.io/v1alpha1
kind: DiscoveryPolicy
metadata: {name: ci}
spec:
  sources:
    - type: prometheus
      prometheus: {endpoint: 'http://prometheus.invalid/base', query: up}
      secretRef: {name: creds}
";

/// Answers one request and returns its head.
fn serve_once(listener: TcpListener, body: &'static str) -> JoinHandle<String> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        head.join("\n")
    })
}

fn discover(policy: &str, environment: &[(&str, &str)]) -> Output {
    let mut drop = Command::new(env!("CARGO_BIN_EXE_drop"));
    drop.args(["discover", "-f", "-"]).env_clear().envs(environment.iter().copied());
    let mut drop = drop.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop.stdin.take().unwrap().write_all(policy.as_bytes()).unwrap();
    drop.wait_with_output().unwrap()
}

#[test]
fn proxy_and_credentials_come_from_the_environment() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let body =
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"image":"a:1"},"value":[1,"7"]}]}}"#;
    let proxied = serve_once(listener, body);
    let output = discover(POLICY, &[("HTTP_PROXY", &proxy), ("http_proxy", &proxy), ("DROP_DISCOVER_TOKEN", "s3cr3t")]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && stdout.contains("docker.io/library/a:1"), "{stdout}");
    let head = proxied.join().unwrap();
    assert!(head.starts_with("GET http://prometheus.invalid/base/api/v1/query?"), "{head}");
    assert!(head.to_lowercase().contains("authorization: bearer s3cr3t"), "{head}");
}

#[test]
fn what_fails_fails_with_a_reason_on_standard_error() {
    let output = discover(POLICY, &[]);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!output.status.success() && stdout.contains("SecretNotFound"), "{stdout}");
    assert!(stderr.contains("no source of DiscoveryPolicy \"ci\" answers"), "{stderr}");
    let output = discover(&POLICY.replace("query: up", "step: 1m"), &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.contains("spec.sources[0].prometheus: missing field `query`"),
        "{stderr}"
    );
}

#[test]
fn authorities_that_are_named_and_missing_are_an_error_and_not_replaced_by_others() {
    let empty = std::env::temp_dir().join(format!("drop-authorities-{}", std::process::id()));
    std::fs::write(&empty, "").unwrap();
    for (file, why) in [("/nowhere/ca.crt", "No such file"), (empty.to_str().unwrap(), "no certificate is in it")] {
        let environment = [("SSL_CERT_FILE", file)];
        let operator = Command::new(env!("CARGO_BIN_EXE_drop")).arg("operator").env_clear().envs(environment).output();
        for output in [discover(POLICY, &environment), operator.unwrap()] {
            let stderr = String::from_utf8(output.stderr).unwrap();
            let is_named = stderr.contains(&format!("SSL_CERT_FILE={file}")) && stderr.contains(why);
            assert!(!output.status.success() && is_named, "{stderr}");
        }
    }
    std::fs::remove_file(&empty).unwrap();
}

/// Cases from bug reports about similar programs, with stubs, if a folder beside the project has them.
#[test]
fn cases_beside_the_project_hold() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cases");
    if !cases.join("run.py").exists() {
        return;
    }
    let mut run = Command::new("python3");
    run.arg(cases.join("run.py")).arg(cases.join("discover")).env("DROP", env!("CARGO_BIN_EXE_drop"));
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<_> = said.lines().filter(|line| !line.starts_with("ok")).collect();
    assert!(output.status.success(), "{failed:#?} {}", String::from_utf8_lossy(&output.stderr));
}
