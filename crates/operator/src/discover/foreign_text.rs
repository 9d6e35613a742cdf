//! Randomly changed texts of servers and shippers: no parser panics, and no result is longer than its text.

use std::collections::BTreeMap;

use drop_api::discovery_policy::LokiParser;
use drop_fuzz::each;
use http::header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;

use super::challenge::challenges;
use super::client::Client;
use super::complaint::complaint;
use super::credentials::secret;
use super::docker_config;
use super::fields::Fields;
use super::prometheus::{AllSeries, Envelope, Typed, images};
use super::{Limits, Seat, link, loki, shippers};

const HOST: &str = "http://server.example";

fn header(name: HeaderName, value: &str) -> Option<HeaderMap> {
    Some(HeaderMap::from_iter([(name, HeaderValue::from_str(value).ok()?)]))
}

#[test]
fn any_challenge_is_read() {
    let seeds = [
        r#"Bearer realm="https://r/t",service="s",scope="repository:a/b:pull,push""#,
        r#"Basic realm="r, Bearer realm=no", Bearer realm="https://r/t",service="s""#,
        r#"Bearer realm="https://r/t?x=1,2;3",service="a \"b\", c""#,
        r#"Negotiate, NTLM TlRMTVNTUAAB==, Bearer realm="https://r/t", Basic realm="x""#,
        "Bearer realm=https://r/t?a=b;service=s",
    ];
    each("challenges", &seeds, |text| {
        let found = header(WWW_AUTHENTICATE, text).map(|headers| challenges(&headers)).unwrap_or_default();
        let names = ["realm", "service", "scope"];
        let read = found.iter().flat_map(|challenge| names.map(|name| challenge.get(name).map_or(0, str::len)));
        assert!(read.sum::<usize>() <= 3 * text.len() && found.len() <= text.len());
    });
}

#[test]
fn any_link_is_read() {
    let seeds = [
        r#"</v2/a/tags/list?last=b&n=2>; rel="next""#,
        r#"<a>; rel="prev", <b>; title="x, <y>; rel=next"; rel="last next""#,
        r#"https://r/v2/a/tags/list?n=50&next_page=x%3D; rel="next""#,
    ];
    each("links", &seeds, |text| {
        let base = Url::parse(HOST).unwrap();
        if let Some(next) = link::next(text) {
            assert!(!next.is_empty() && text.contains(next));
            drop(base.join(next));
        }
    });
}

#[test]
fn any_wait_is_bounded_by_a_date() {
    let now = "2025-05-01T22:01:18Z".parse().unwrap();
    let seeds = ["5400", "0.5", "Thu, 01 May 2025 22:02:18 GMT", "1746136938", "1e300", "-5"];
    each("Retry-After", &seeds, |text| {
        let Some(mut headers) = header(RETRY_AFTER, text) else { return };
        for date in [None, Some("Thu, 01 May 2025 22:00:00 GMT"), Some(text)] {
            headers.extend(date.and_then(|date| Some((DATE, HeaderValue::from_str(date).ok()?))));
            let wait = super::retry_after::retry_after(&headers, now);
            assert!(wait.is_none_or(|wait| wait > SignedDuration::ZERO && wait.subsec_nanos() == 0));
        }
    });
}

#[test]
fn any_complaint_is_no_longer_than_the_answer() {
    let seeds = [
        r#"{"errors":[{"code":"NAME_UNKNOWN","message":"unknown name","detail":{"name":"a"}}]}"#,
        r#"{"error":"invalid_grant","error_description":"expired"}"#,
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>not you</Message></Error>",
        "\u{feff}  <!DOCTYPE html>\n<title>\n Sign in\n </title>",
    ];
    each("complaints", &seeds, |text| {
        let said = complaint(&HeaderMap::new(), text);
        assert!(said.is_none_or(|said| said.len() <= text.len() + "a web page ()".len() + 2));
    });
}

#[test]
fn any_answer_of_prometheus_is_read_or_refused() {
    let body = |result: &str| format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":{result}}}}}"#);
    let series = body(
        r#"[{"metric":{"image":"a:1","pod":"x"},"values":[[6400,"1"],[6700.5,"+Inf"]]},{"metric":{"image":"a:2"},"value":[1,"NaN"]}]"#,
    );
    let histogram = body(r#"[{"metric":{"image":"a:1"},"histograms":[[1,{"count":"6","buckets":[[3,"-0.001"]]}]]}]"#);
    let error = r#"{"status":"error","errorType":"timeout","error":"query timed out"}"#;
    let partial =
        series.replace("\"status\"", r#""isPartial":true,"warnings":["No StoreAPIs matched"],"infos":null,"status""#);
    let (credentials, seat) = (secret(&[]), Seat::default());
    let client = Client::new(HOST, &credentials, Limits::default(), &seat).unwrap();
    let url = client.url("api/v1/query", &[]);
    each("Prometheus", &[&series, &histogram, error, &partial], |text| {
        let Ok(envelope) = serde_json::from_str::<Envelope<Typed>>(text) else { return };
        let Ok((data, remarks)) = envelope.content(&client, &url) else { return };
        assert!(remarks.iter().map(String::len).sum::<usize>() <= text.len());
        let Ok(series) = serde_json::from_str::<AllSeries>(data.result.get()) else { return };
        let Ok(series) = images(series, &client, &url) else { return };
        let samples = series.iter().map(|series| 1 + series.samples.len()).sum::<usize>();
        assert!(samples <= text.len());
    });
}

#[test]
fn any_log_line_tells_of_a_pull_or_of_none() {
    let lines = shippers::lines();
    let seeds: Vec<_> = lines.iter().map(String::as_str).collect();
    let none = BTreeMap::new();
    let go = LokiParser { image_field: Some("message".to_owned()), ..LokiParser::default() };
    each("log lines", &seeds, |line| {
        let fields = Fields::new([&none, &none], line);
        for name in ["message", "reason", "event_involvedObject_name", "body.object.note"] {
            // JSON writes characters such as a line break with two, and the line may already contain escapes.
            assert!(fields.get(name).is_none_or(|value| value.len() <= 6 * line.len() + 2));
        }
        drop(fields.pull(Timestamp::UNIX_EPOCH));
        for parser in [None, Some(&go)] {
            drop(loki::pull_of_line(parser, line));
        }
    });
}

#[test]
fn any_answer_of_loki_is_read_or_refused() {
    let lines = shippers::lines();
    let answer = |line: &String| {
        let values = serde_json::json!([["1000000000", line, {"structuredMetadata": {"pod": "x"}}], ["1", line]]);
        let result = serde_json::json!([{"stream": {"job": "events"}, "values": values}]);
        serde_json::json!({"resultType": "streams", "result": result}).to_string()
    };
    let answers: Vec<_> = lines.iter().map(answer).collect();
    let seeds: Vec<_> = answers.iter().map(String::as_str).collect();
    each("Loki", &seeds, |text| {
        let lines = serde_json::from_str::<loki::Data>(text).map_or(0, |data| data.lines());
        assert!(lines <= text.len());
    });
}

#[test]
fn any_docker_config_is_read_or_refused() {
    let seeds = [
        r#"{"auths": {"r.example/team": {"auth": "Yjoy"}, "https://index.docker.io/v1/": {"auth": "ZDo0"}, "*.azurecr.io": {"auth": "MDAwMDo="}}}"#,
        r#"{"auths": {"r.example:443": {"username": "c", "password": "3"}, "r": {"identitytoken": "t0k"}, "x": {"auth": "PHRva2VuPjp4"}}}"#,
        r#"{"r": {"auth": "YTox", "email": "x@y"}}"#,
    ];
    each("Docker configs", &seeds, |text| {
        let entries = docker_config::entries(text.as_bytes()).unwrap_or_default();
        assert!(entries.len() <= text.len());
        let entries: Vec<_> = entries.into_iter().map(|entry| (entry, ())).collect();
        for host in ["r.example", "one.azurecr.io", "docker.io", "r.example:443", text] {
            assert!(docker_config::find(&entries, host, "team/app").is_none() || !entries.is_empty());
        }
    });
}
