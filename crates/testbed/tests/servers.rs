//! Real Prometheus, Loki and registry. They need root, and `cargo xtask tools` before.

use std::process::Command;
use std::time::Duration;

use drop_testbed::{
    Answer, FakeServer, Home, ImageSpec, Loki, Prometheus, PrometheusOptions, Registry, RegistryAuth, RegistryOptions,
    Series, Tools,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn tools(names: &[&str]) -> anyhow::Result<Tools> {
    Tools::built(names)
}

fn client() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent()
}

#[test]
#[ignore = "needs root and the built tools"]
fn helm_and_kwok_are_built() {
    let tools = tools(&["helm", "kwok"]).unwrap();
    for (tool, argument) in [("helm", "version"), ("kwok", "--version")] {
        let output = Command::new(tools.path(tool)).arg(argument).output().unwrap();
        assert!(output.status.success(), "{tool}: {output:?}");
    }
}

#[test]
#[ignore = "needs root and the built tools"]
fn prometheus_has_its_history_behind_a_base_path_and_keeps_it_when_it_comes_back() {
    let home = Home::open("test-prometheus").unwrap();
    let now = Timestamp::now();
    let minutes = (0..7 * 24 * 12).rev().map(|step| now - SignedDuration::from_mins(5 * step));
    let series = Series {
        name: "pods".to_owned(),
        labels: vec![("image".to_owned(), "docker.io/library/alpine:3.20".to_owned())],
        samples: minutes.map(|time| (time, 2.0)).collect(),
    };
    let options =
        PrometheusOptions { base_path: "/prometheus".to_owned(), password: true, history: vec![series], scrape: None };
    let prometheus = Prometheus::start(&home, &tools(&["prometheus"]).unwrap(), "prometheus", options).unwrap();
    assert!(prometheus.url().ends_with("/prometheus"));
    // At the time of the last sample, however long ago that is by now.
    let query = format!("sum by (image) (count_over_time(pods[168h] @ {:.3}))", now.as_duration().as_secs_f64());
    let count = || prometheus.query(&query).unwrap();
    assert_eq!(count()[0]["value"][1], "2016");
    assert_eq!(count()[0]["metric"], json!({ "image": "docker.io/library/alpine:3.20" }));

    let url = format!("{}/api/v1/query?query=up", prometheus.url());
    assert_eq!(client().get(&url).call().unwrap().status(), 401);
    prometheus.stop().unwrap();
    assert!(client().get(&url).call().is_err());
    prometheus.resume().unwrap();
    assert_eq!(count()[0]["metric"], json!({ "image": "docker.io/library/alpine:3.20" }));
}

#[test]
#[ignore = "needs root and the built tools"]
fn prometheus_reads_what_a_test_sets() {
    let home = Home::open("test-scrape").unwrap();
    let metrics = FakeServer::start().unwrap();
    metrics.answer("/metrics", Answer::ok("pods{image=\"a\"} 1\n").header("Content-Type", "text/plain"));
    let options = PrometheusOptions { scrape: Some(metrics.address()), ..PrometheusOptions::default() };
    let prometheus = Prometheus::start(&home, &tools(&["prometheus"]).unwrap(), "prometheus", options).unwrap();
    prometheus.wait_data("pods{image=\"a\"} == 1", LIMIT).unwrap();
    metrics.answer("/metrics", Answer::ok("pods{image=\"a\"} 5\n").header("Content-Type", "text/plain"));
    prometheus.wait_data("pods{image=\"a\"} == 5", LIMIT).unwrap();
}

#[test]
#[ignore = "needs root and the built tools"]
fn loki_takes_lines_of_a_week_and_keeps_them_when_it_comes_back() {
    let home = Home::open("test-loki").unwrap();
    let loki = Loki::start(&home, &tools(&["loki"]).unwrap(), "loki").unwrap();
    let now = Timestamp::now();
    let week = now - SignedDuration::from_hours(168);
    let lines: Vec<(Timestamp, String)> =
        (0..168).map(|hour| (week + SignedDuration::from_hours(hour), format!("line {hour}"))).collect();
    let labels = [("job", "kubelet"), ("namespace", "ci")];
    loki.push(&labels, &lines[84..]).unwrap();
    loki.push(&labels, &lines[..84]).unwrap();
    let found = || {
        let streams = loki.query("{job=\"kubelet\"}", week, now).unwrap();
        assert_eq!(streams[0]["stream"]["namespace"], "ci");
        streams[0]["values"].as_array().unwrap().len()
    };
    assert_eq!(found(), 168);
    loki.stop().unwrap();
    assert!(client().get(loki.url()).call().is_err());
    loki.resume().unwrap();
    assert_eq!(found(), 168);
}

#[test]
#[ignore = "needs root and the built tools"]
fn a_registry_wants_tokens_and_lists_tags_by_the_page() {
    let home = Home::open("test-tokens").unwrap();
    let options = RegistryOptions {
        auth: RegistryAuth::Token { realm: None },
        page: 20,
        ..RegistryOptions::new("registry.example.com")
    };
    let registry = Registry::start(&home, &tools(&["tiny", "registry"]).unwrap(), "registry", options).unwrap();
    let tags: Vec<String> = (10..60).map(|number| format!("v1.{number}.0")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    registry.push_tags("team/app", &tags, &ImageSpec::scratch()).unwrap();
    registry.push("public/app", "1", &ImageSpec::scratch()).unwrap();
    let tokens = registry.token_server().unwrap();
    assert_eq!(tokens.requests(), []);

    let root = format!("http://{}", registry.address());
    let url = format!("{root}/v2/team/app/tags/list?n=100");
    let refused = client().get(&url).call().unwrap();
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["WWW-Authenticate"].to_str().unwrap();
    let scope = "repository:team/app:pull";
    let expected = format!("Bearer realm=\"{}/token\",service=\"testbed-registry\",scope=\"{scope}\"", tokens.url());
    assert_eq!(challenge, expected);

    let token = |scope: &str, password: Option<&str>| {
        let mut request =
            client().get(format!("{}/token", tokens.url())).query("service", "testbed-registry").query("scope", scope);
        if let Some(password) = password {
            let (user, _) = registry.credentials().unwrap();
            let plain = format!("{user}:{password}");
            let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, plain);
            request = request.header("Authorization", format!("Basic {encoded}"));
        }
        let mut reply = request.call().unwrap();
        let body: Value = serde_json::from_slice(&reply.body_mut().read_to_vec().unwrap()).unwrap_or_default();
        body["token"].as_str().map(str::to_owned)
    };
    let list =
        |url: &str, token: &str| client().get(url).header("Authorization", format!("Bearer {token}")).call().unwrap();
    // A wrong password gets nothing, nobody's token opens only what is public.
    assert_eq!(token(scope, Some("wrong")), None);
    let anonymous = token("repository:team/app:pull repository:public/app:pull", None).unwrap();
    assert_eq!(list(&url, &anonymous).status(), 401);
    assert_eq!(list(&format!("{root}/v2/public/app/tags/list"), &anonymous).status(), 200);

    let (_, password) = registry.credentials().unwrap();
    let token = token(scope, Some(password)).unwrap();
    let (mut url, mut pages, mut found) = (url, 0, Vec::new());
    loop {
        let mut page = list(&url, &token);
        assert_eq!(page.status(), 200);
        let body: Value = serde_json::from_slice(&page.body_mut().read_to_vec().unwrap()).unwrap();
        found.extend(body["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
        pages += 1;
        let Some(link) = page.headers().get("Link") else {
            break;
        };
        let next = link.to_str().unwrap().trim_start_matches('<').split_once('>').unwrap().0;
        url = format!("{root}{next}");
    }
    assert_eq!((found, pages), (tags.iter().map(|tag| (*tag).to_owned()).collect(), 3));
    assert_eq!(tokens.requests().len(), 3);

    registry.stop().unwrap();
    registry.resume().unwrap();
    assert_eq!(list(&url, &token).status(), 200);
}
