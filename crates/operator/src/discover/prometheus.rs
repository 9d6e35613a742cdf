//! Prometheus and servers with its HTTP API: Thanos, Mimir, Cortex, VictoriaMetrics, Google Managed Prometheus.
//!
//! The API: <https://prometheus.io/docs/prometheus/latest/querying/api/>.

use std::collections::BTreeSet;
use std::fmt;

use drop_api::discovery_policy::{PrometheusQuery, QueryType};
use drop_core::discovery::{Answer, Sample, Series, SourceFailure};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::at_most::AtMost;
use super::client::{Client, Limits, Request, Response, Wanted, host, invalid};
use super::credentials::Credentials;
use super::seat::Seat;
use super::{Fetched, MAX_NAME, PER_NAME};

/// Points per series and request. A longer range is split into parts, because a longer step would change sums and
/// counts. Prometheus allows 11,000 points; with these, 60 series fill an answer, and with this limit 600.
const MAX_POINTS: i64 = 1000;
/// The fewest points of a part that Drop tries after a server's limit of the time range. A query that is still too long
/// has the range in itself, as in `count_over_time(up[90d])`.
const MIN_POINTS: i64 = 10;
/// The most points per series that Drop reads: Prometheus never answers more.
const MOST_POINTS: usize = 11_000;
/// Series per answer.
const MOST_SERIES: usize = 100_000;
/// The longest query in a URL, which read-only proxies and caches require. A longer query would exceed the URLs that
/// proxies accept, and is posted.
const MAX_URL_QUERY: usize = 2000;
/// The label with the image.
const LABEL: &str = "image";
/// Ask Thanos and the cluster version of VictoriaMetrics for an error instead of a part of the answer.
const WHOLE: [(&str, &str); 2] = [("partial_response", "false"), ("deny_partial_response", "1")];
/// The most warnings and infos of an answer that Drop reads.
const MOST_REMARKS: usize = 100;
/// The beginnings of remarks about the query, and not about missing data: those of Prometheus' own engine, as `PromQL
/// info: metric might not be a counter`, and that of Loki's new one.
const HARMLESS: [&str; 2] = ["PromQL ", "Query was executed using the new experimental query engine"];

/// Returns the result of a query, up to `now`.
pub async fn fetch(
    query: &PrometheusQuery,
    credentials: &Credentials,
    now: Timestamp,
    limits: Limits,
    seat: &Seat,
) -> Result<Fetched, SourceFailure> {
    // In whole seconds: Google Managed Prometheus answers nothing to a time with a fraction.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut server = Server {
        client: Client::new(&query.endpoint, credentials, limits, seat)?,
        knows_whole: true,
        series: Vec::new(),
        remarks: BTreeSet::new(),
    };
    match query.query_type {
        QueryType::Instant => {
            let parameters = [("query", query.query.clone()), ("time", seconds(now))];
            let response = server.ask("api/v1/query", &parameters).await?;
            server.read(response).await?;
        }
        QueryType::Range => {
            let step = query.step.get().max(SignedDuration::from_millis(1));
            let mut points = MAX_POINTS;
            let mut start = now.checked_sub(query.lookback.get()).unwrap_or(Timestamp::MIN);
            while start <= now {
                let parameters = [
                    ("query", query.query.clone()),
                    ("start", seconds(start)),
                    ("end", seconds(after(start, step, points - 1).min(now))),
                    ("step", step.as_secs_f64().to_string()),
                ];
                let response = server.ask("api/v1/query_range", &parameters).await?;
                if is_too_long(&response) && points > MIN_POINTS {
                    points = (points / 4).max(MIN_POINTS);
                    continue;
                }
                server.read(response).await?;
                start = after(start, step, points);
            }
        }
    }
    if server.series.is_empty() {
        server.remarks.insert("the query has no result".to_owned());
    }
    Ok(Fetched::new(Answer::Series(server.series), server.remarks))
}

/// Returns the time this many steps later.
fn after(time: Timestamp, step: SignedDuration, steps: i64) -> Timestamp {
    let nanos = time.as_nanosecond() + step.as_nanos() * i128::from(steps);
    Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX)
}

/// Returns seconds since 1970 as Prometheus reads them, to the millisecond.
fn seconds(time: Timestamp) -> String {
    let millis = time.as_millisecond();
    match (millis.div_euclid(1000), millis.rem_euclid(1000)) {
        (seconds, 0) => seconds.to_string(),
        (seconds, millis) => format!("{seconds}.{millis:03}"),
    }
}

/// The server that a query asks, and its answers so far.
struct Server<'a> {
    client: Client<'a>,
    /// Whether it accepts the parameters of [`WHOLE`]: Google's API denies unknown ones.
    knows_whole: bool,
    series: Vec<Series>,
    remarks: BTreeSet<String>,
}

impl Server<'_> {
    /// Sends a request for a complete answer, if the server supports that.
    async fn ask(&mut self, path: &str, parameters: &[(&str, String)]) -> Result<Response, SourceFailure> {
        let response = self.send(path, parameters).await?;
        if response.status == StatusCode::BAD_REQUEST && self.knows_whole && says(&response, "partial_response") {
            self.knows_whole = false;
            return self.send(path, parameters).await;
        }
        Ok(response)
    }

    /// Keeps the series of an answer.
    async fn read(&mut self, mut response: Response) -> Result<(), SourceFailure> {
        let envelope: Envelope<Data> = self.client.json(&mut response).await?;
        let (data, remarks) = envelope.content(&self.client, &response.url)?;
        self.remarks.extend(remarks);
        match data {
            Data::Series(series) => self.series.extend(images(series, &self.client, &response.url)?),
            Data::WithoutLabels => return Err(without_image(&response.url)),
        }
        Ok(())
    }

    async fn send(&self, path: &str, parameters: &[(&str, String)]) -> Result<Response, SourceFailure> {
        let whole = WHOLE.iter().filter(|_| self.knows_whole).map(|(name, value)| (*name, (*value).to_owned()));
        let parameters: Vec<_> = parameters.iter().cloned().chain(whole).collect();
        let whole = self.client.url(path, &parameters);
        let encoded = whole.query().unwrap_or_default();
        let (url, form) = if encoded.len() <= MAX_URL_QUERY {
            (whole, None)
        } else {
            let form = encoded.to_owned();
            (self.client.url(path, &[]), Some(form))
        };
        let authorization = self.client.credentials().authorization();
        self.client.send(Request { url, wanted: Wanted::Content, form, is_private: false, authorization }).await
    }
}

/// Whether the body of an answer contains `text`.
pub fn says(response: &Response, text: &str) -> bool {
    response.body.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}

/// Whether a server denies a query because its time range is too long: `the query time range exceeds the limit (query
/// length: 800h0m0s, limit: 768h0m0s)`, in the words of Mimir, Cortex and Loki.
pub fn is_too_long(response: &Response) -> bool {
    response.status.is_client_error() && says(response, "query time range exceeds the limit")
}

/// The wrapper of every answer, also of Loki's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<T> {
    status: String,
    error: Option<String>,
    data: Option<T>,
    /// VictoriaMetrics: some of its storage nodes did not answer.
    is_partial: Option<bool>,
    warnings: Option<Remarks>,
    infos: Option<Remarks>,
}

type Remarks = AtMost<String, MOST_REMARKS>;

impl<T> Envelope<T> {
    /// Returns the content, and the server's remarks about the query.
    ///
    /// # Errors
    /// If the answer reports an error, or has no content, or is incomplete.
    pub fn content(self, client: &Client<'_>, url: &Url) -> Result<(T, Vec<String>), SourceFailure> {
        let host = host(url);
        let data = self.data.filter(|_| self.status == "success").ok_or_else(|| {
            let said = self.error.as_deref().and_then(|error| client.excerpt(error));
            let said = said.unwrap_or_else(|| "an answer without data".to_owned());
            invalid(format!("{host} reports an error: {said}"))
        })?;
        if self.is_partial == Some(true) {
            return Err(invalid(format!("{host} gives a partial answer: some of its storage nodes do not answer")));
        }
        let warnings = self.warnings.unwrap_or_default();
        if warnings.is_cut {
            let most = format!("more than {MOST_REMARKS} warnings");
            return Err(invalid(format!("{host} gives {most}, so its answer may be partial: aggregate more")));
        }
        let (mut remarks, missing): (Vec<_>, Vec<_>) =
            warnings.items.into_iter().partition(|warning| HARMLESS.iter().any(|begin| warning.starts_with(begin)));
        if let Some(warning) = missing.iter().find_map(|warning| client.excerpt(warning)) {
            let remedy = match warning.contains("No StoreAPIs matched") {
                true => ": no store has this time range or these labels, shorten lookback",
                false => "",
            };
            return Err(invalid(format!("{host} gives a partial answer: {warning}{remedy}")));
        }
        remarks.extend(self.infos.unwrap_or_default().items);
        Ok((data, remarks.iter().filter_map(|remark| client.excerpt(remark)).collect()))
    }
}

/// The result of a query. Its type may come after it. Finding the type first would take a tree of the result, of many
/// times its size.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Typed {
    /// Its type.
    pub result_type: String,
    /// The result itself.
    pub result: Box<RawValue>,
}

/// The result of a query.
#[derive(Deserialize)]
#[serde(try_from = "Typed")]
enum Data {
    Series(AllSeries),
    WithoutLabels,
}

impl TryFrom<Typed> for Data {
    type Error = String;

    fn try_from(Typed { result_type, result }: Typed) -> Result<Self, String> {
        match result_type.as_str() {
            "matrix" | "vector" => {
                serde_json::from_str(result.get()).map(Self::Series).map_err(|error| error.to_string())
            }
            "scalar" | "string" => Ok(Self::WithoutLabels),
            _ => Err(format!("a result of type {result_type}")),
        }
    }
}

/// All series of an answer.
pub type AllSeries = AtMost<Labelled, MOST_SERIES>;

/// A series: several `values`, or one `value`.
#[derive(Deserialize)]
pub struct Labelled {
    metric: Labels,
    #[serde(default)]
    values: AtMost<Point, MOST_POINTS>,
    value: Option<Point>,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    image: String,
}

/// Seconds since 1970, and a number as text. There may be millions, so it is read without memory of its own.
#[derive(Deserialize)]
#[serde(try_from = "(f64, Number)")]
struct Point(Sample);

impl TryFrom<(f64, Number)> for Point {
    type Error = String;

    fn try_from((at, Number(value)): (f64, Number)) -> Result<Self, String> {
        let since = SignedDuration::try_from_secs_f64(at).ok();
        let at = since.and_then(|since| Timestamp::from_duration(since).ok()).ok_or(format!("{at} is no time"))?;
        Ok(Self(Sample { at, value }))
    }
}

struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number as text")
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                text.parse().map(Number).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Returns the series by their label `image`, which is empty if a series lacks it.
///
/// # Errors
/// If there are series, but none has the label; or if there are too many, or too long ones.
pub fn images(series: AllSeries, client: &Client<'_>, url: &Url) -> Result<Vec<Series>, SourceFailure> {
    if series.is_cut || series.items.iter().any(|series| series.values.is_cut) {
        let remedy = format!("aggregate with `by ({LABEL})`, or ask for less");
        let most = format!("{MOST_SERIES} series, or {MOST_POINTS} points of one");
        return Err(invalid(format!("{} answers with more than {most}: {remedy}", host(url))));
    }
    if !series.items.is_empty() && series.items.iter().all(|series| series.metric.image.is_empty()) {
        return Err(without_image(url));
    }
    let series = series.items.into_iter().map(|Labelled { metric: Labels { mut image }, values, value }| {
        if image.len() > MAX_NAME {
            image = image.chars().take(MAX_NAME).collect();
        }
        let mut samples: Vec<_> = values.items.into_iter().map(|Point(sample)| sample).collect();
        samples.extend(value.map(|Point(sample)| sample));
        samples.shrink_to_fit();
        client.keep(PER_NAME + image.len() + size_of_val(&*samples), url)?;
        Ok(Series { image, samples })
    });
    series.collect()
}

fn without_image(url: &Url) -> SourceFailure {
    let remedy = format!("aggregate with `by ({LABEL})`, or rename a label with label_replace()");
    invalid(format!("{} answers without a label {LABEL}: {remedy}", host(url)))
}

#[cfg(test)]
mod tests {
    use drop_core::discovery::SourceReason;

    use super::super::credentials::secret;
    use super::*;
    use crate::fake::{Fake, gzip, reply};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn query(endpoint: &str, query_type: QueryType) -> PrometheusQuery {
        PrometheusQuery {
            endpoint: endpoint.to_owned(),
            query: "count(up) by (image)".to_owned(),
            query_type,
            lookback: "1h".parse().unwrap(),
            step: "5m".parse().unwrap(),
        }
    }

    async fn ask(endpoint: &str, query_type: QueryType) -> Result<Answer, SourceFailure> {
        Ok(fetched(&query(endpoint, query_type)).await?.answer)
    }

    async fn fetched(query: &PrometheusQuery) -> Result<Fetched, SourceFailure> {
        fetch(query, &secret(&[]), at(10_000), Limits::default(), &Seat::default()).await
    }

    fn samples(samples: &[(i64, f64)]) -> Vec<Sample> {
        samples.iter().map(|(seconds, value)| Sample { at: at(*seconds), value: *value }).collect()
    }

    #[tokio::test]
    async fn a_range_is_asked_for_below_the_base_path() {
        let backend = Fake::start(|_| {
            reply(
                200,
                &[],
                r#"{"status":"success","data":{"resultType":"matrix","result":[
                    {"metric":{"image":"a:1","pod":"x"},"values":[[6400,"1"],[6700.5,"+Inf"]]},
                    {"metric":{"pod":"y"},"values":[[6400,"1"]]},
                    {"metric":{"image":"a:1"},"values":[[6400,"2e3"]]}],"stats":{}}}"#,
            )
        })
        .await;
        let credentials = secret(&[("username", "me"), ("password", "pw"), ("headers.X-Scope-OrgID", "tenant")]);
        let query = query(&format!("{}/prometheus/", backend.url), QueryType::Range);
        let fetched = fetch(&query, &credentials, at(10_000), Limits::default(), &Seat::default()).await.unwrap();
        let mut first = samples(&[(6400, 1.0), (6700, f64::INFINITY)]);
        first[1].at = Timestamp::from_millisecond(6_700_500).unwrap();
        let expected = [("a:1", first), ("", samples(&[(6400, 1.0)])), ("a:1", samples(&[(6400, 2000.0)]))];
        let expected = expected.map(|(image, samples)| Series { image: image.to_owned(), samples });
        assert_eq!((fetched.answer, fetched.note), (Answer::Series(expected.to_vec()), None));
        let got = &backend.got()[0];
        assert_eq!(got.method, "GET");
        assert!(got.target.starts_with("/prometheus/api/v1/query_range?"), "{}", got.target);
        let names = ["query", "start", "end", "step", "partial_response", "deny_partial_response"];
        let parameters = names.map(|name| got.parameter(name).unwrap());
        assert_eq!(parameters, ["count(up) by (image)", "6400", "10000", "300", "false", "1"]);
        assert_eq!((got.authorization(), got.header("x-scope-orgid")), (Some("Basic bWU6cHc="), Some("tenant")));
    }

    #[tokio::test]
    async fn an_instant_query_gives_one_sample_per_series() {
        let backend = Fake::start(|_| {
            reply(
                200,
                &[],
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"image":"a:1"},"value":[9999,"NaN"]}]}}"#,
            )
        })
        .await;
        let Answer::Series(series) = ask(&backend.url, QueryType::Instant).await.unwrap() else { panic!() };
        assert!(series[0].samples[0].value.is_nan() && series[0].samples[0].at == at(9999));
        let got = &backend.got()[0];
        assert!(got.target.starts_with("/api/v1/query?"), "{}", got.target);
        assert_eq!(got.parameter("time").unwrap(), "10000");
    }

    #[tokio::test]
    async fn a_long_query_is_posted() {
        let backend = Fake::start(|got| match got.target.as_str() {
            "/api/v1/query" => reply(307, &[("location", "/moved")], ""),
            _ => reply(200, &[], r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#),
        })
        .await;
        let long = format!("count({}) by (image)", "x".repeat(8000));
        let query = PrometheusQuery { query: long.clone(), ..query(&backend.url, QueryType::Instant) };
        assert_eq!(fetched(&query).await.unwrap().answer, Answer::Series(Vec::new()));
        for (got, path) in backend.got().iter().zip(["/api/v1/query", "/moved"]) {
            assert_eq!((got.method.as_str(), got.target.as_str()), ("POST", path));
            assert_eq!(got.parameter("query").as_ref(), Some(&long));
        }
    }

    #[tokio::test]
    async fn a_range_of_many_points_is_asked_for_in_parts() {
        let backend = Fake::start(|got| {
            let body = format!(
                r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"image":"a:1"}},"values":[[{},"1"]]}}]}}}}"#,
                got.parameter("start").unwrap()
            );
            reply(200, &[], body)
        })
        .await;
        let query = PrometheusQuery {
            lookback: "168h".parse().unwrap(),
            step: "30s".parse().unwrap(),
            ..query(&backend.url, QueryType::Range)
        };
        let now = 10_000_000;
        let Answer::Series(series) =
            fetch(&query, &secret(&[]), at(now), Limits::default(), &Seat::default()).await.unwrap().answer
        else {
            panic!()
        };
        let bounds = |name: &str| -> Vec<i64> {
            backend.got().iter().map(|got| got.parameter(name).unwrap().parse::<f64>().unwrap() as i64).collect()
        };
        let (starts, ends) = (bounds("start"), bounds("end"));
        assert_eq!((starts.len(), starts[0], ends[20]), (21, now - 168 * 3600, now));
        for (start, end) in starts.iter().skip(1).zip(&ends) {
            assert_eq!(*start, end + 30, "no point twice, none left out");
        }
        assert_eq!((ends[0] - starts[0]) / 30 + 1, MAX_POINTS);
        assert_eq!(series.len(), 21);
    }

    #[tokio::test]
    async fn what_all_parts_bring_is_bounded_and_not_their_texts() {
        let backend = Fake::start(|_| {
            let result = r#"[{"metric":{"image":"a:1"},"values":[[1,"1"]]}]"#;
            let data = format!(r#"{{"resultType":"matrix","result":{result}}}"#);
            reply(200, &[], format!(r#"{{"status":"success","data":{data}}}{}"#, " ".repeat(800)))
        })
        .await;
        // 3,600 s are four parts.
        let query = PrometheusQuery { step: "1s".parse().unwrap(), ..query(&backend.url, QueryType::Range) };
        let part = PER_NAME + "a:1".len() + size_of::<Sample>();
        for (kept, expected) in [(4 * part, None), (4 * part - 1, Some(SourceReason::InvalidResponse))] {
            let limits = Limits { body: 1000, kept, ..Limits::default() };
            let answer = fetch(&query, &secret(&[]), at(10_000), limits, &Seat::default()).await;
            assert_eq!(answer.err().map(|failure| failure.reason), expected);
        }
        assert_eq!(backend.got().len(), 8);
    }

    #[tokio::test]
    async fn answers_that_no_prometheus_gives_are_refused_and_not_held() {
        let series = |values: &str| format!(r#"{{"metric":{{"image":"a:1"}},"values":[{values}]}},"#);
        let points = |count: usize| series(r#"[1,"1"],"#.repeat(count).trim_end_matches(','));
        for (result, expected) in [
            (points(MOST_POINTS), Ok(MOST_POINTS)),
            (points(MOST_POINTS + 1), Err("more than 100000 series, or 11000 points of one")),
            (points(1_000_000), Err("more than 100000 series, or 11000 points of one")),
            (series("").repeat(MOST_SERIES), Ok(0)),
            (series("").repeat(MOST_SERIES + 1), Err("more than 100000 series, or 11000 points of one")),
        ] {
            // The type comes last; no tree of the whole result is built to find it.
            let data = format!(r#"{{"result":[{}],"resultType":"matrix"}}"#, result.trim_end_matches(','));
            let body = gzip(format!(r#"{{"status":"success","data":{data}}}"#).as_bytes());
            let backend = Fake::start(move |_| reply(200, &[("content-encoding", "gzip")], body.clone())).await;
            match (ask(&backend.url, QueryType::Instant).await, expected) {
                (Ok(Answer::Series(series)), Ok(samples)) => {
                    assert_eq!(series.iter().map(|series| series.samples.len()).sum::<usize>(), samples);
                }
                (Err(failure), Err(says)) => assert!(failure.message.contains(says), "{failure}"),
                (answer, expected) => panic!("{expected:?}: {}", answer.is_ok()),
            }
        }
    }

    /// An answer with one image, and these fields beside its data.
    fn vector(more: &str) -> String {
        let result = r#"[{"metric":{"image":"a:1"},"value":[9999,"5"]}]"#;
        format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}{more}}}"#)
    }

    #[tokio::test]
    async fn an_answer_that_lacks_data_is_a_failure_and_other_remarks_are_shown() {
        let warnings = |count: usize| vec!["PromQL warning: odd"; count];
        let harmless = format!(r#","warnings":{}"#, serde_json::json!(warnings(MOST_REMARKS)));
        let harmless_and_more = format!(r#","warnings":{}"#, serde_json::json!(warnings(MOST_REMARKS + 1)));
        // Thanos, Prometheus with a remote read, VictoriaMetrics, Cortex; then complete answers.
        let cases = [
            (r#","warnings":["receive series from Addr: 10.0.0.7:10901: connection refused"]"#, Err("10.0.0.7:10901")),
            (r#","warnings":["No StoreAPIs matched for this query"]"#, Err("shorten lookback")),
            (r#","warnings":["remote_read: remote server http://far returned HTTP status 502"]"#, Err("remote_read")),
            (r#","isPartial":true"#, Err("storage nodes")),
            (r#","warnings":["query result may contain partial data"],"infos":null"#, Err("partial data")),
            (r#","warnings":["PromQL warning: bucket label \"le\" is missing","one store is down"]"#, Err("one store")),
            // Prometheus shows ten warnings, and the omitted ones may be about data.
            (r#","warnings":["PromQL warning: odd","3 more warning annotations omitted"]"#, Err("3 more")),
            (harmless_and_more.as_str(), Err("more than 100 warnings")),
            (harmless.as_str(), Ok(Some("PromQL warning: odd"))),
            (r#","isPartial":false,"warnings":null,"infos":[]"#, Ok(None)),
            (r#","warnings":[],"stats":{},"trace":{"duration_msec":1}"#, Ok(None)),
            (
                r#","infos":["PromQL info: metric might not be a counter"],"warnings":["PromQL warning: odd"]"#,
                Ok(Some("PromQL info: metric might not be a counter; PromQL warning: odd")),
            ),
        ];
        for (more, expected) in cases {
            let body = vector(more);
            let backend = Fake::start(move |_| reply(200, &[], body.clone())).await;
            match (fetched(&query(&backend.url, QueryType::Instant)).await, expected) {
                (Ok(fetched), Ok(note)) => assert_eq!(fetched.note.as_deref(), note, "{more}"),
                (Err(failure), Err(says)) => {
                    assert_eq!(failure.reason, SourceReason::InvalidResponse);
                    assert!(failure.message.contains("partial") && failure.message.contains(says), "{failure}");
                }
                (fetched, _) => panic!("{more}: {fetched:?}"),
            }
        }
    }

    #[tokio::test]
    async fn parameters_that_a_server_does_not_know_are_left_away() {
        // Google Managed Prometheus denies them like this.
        let backend = Fake::start(|got| match got.parameter("partial_response") {
            Some(_) => {
                let why =
                    r#"Invalid JSON payload received. Unknown name \"partial_response\": Cannot bind query parameter."#;
                reply(400, &[], format!(r#"{{"error":{{"code":400,"message":"{why}","status":"INVALID_ARGUMENT"}}}}"#))
            }
            None => reply(200, &[], vector("")),
        })
        .await;
        let query = PrometheusQuery { step: "1s".parse().unwrap(), ..query(&backend.url, QueryType::Range) };
        let Answer::Series(series) = fetched(&query).await.unwrap().answer else { panic!() };
        assert_eq!((series.len(), backend.got().len()), (4, 5), "it is refused once and not for each of four parts");
    }

    #[tokio::test]
    async fn a_range_that_a_server_finds_too_long_is_asked_for_in_shorter_parts() {
        let span = |got: &crate::fake::Got| {
            let bound = |name: &str| got.parameter(name).unwrap().parse::<i64>().unwrap();
            bound("end") - bound("start")
        };
        let backend = Fake::start(move |got| {
            if span(got) > 768 * 3600 {
                let why = "the query time range exceeds the limit (query length: 999h0m0s, limit: 768h0m0s)";
                return reply(422, &[], format!(r#"{{"status":"error","errorType":"execution","error":"{why}"}}"#));
            }
            let start = got.parameter("start").unwrap();
            let result = format!(r#"[{{"metric":{{"image":"a:1"}},"values":[[{start},"1"]]}}]"#);
            let data = format!(r#"{{"resultType":"matrix","result":{result}}}"#);
            reply(200, &[], format!(r#"{{"status":"success","data":{data}}}"#))
        })
        .await;
        let range = PrometheusQuery {
            lookback: "1000h".parse().unwrap(),
            step: "1h".parse().unwrap(),
            ..query(&backend.url, QueryType::Range)
        };
        let limits = Limits::default();
        let fetched = fetch(&range, &secret(&[]), at(10_000_000), limits, &Seat::default()).await.unwrap();
        let Answer::Series(series) = fetched.answer else { panic!() };
        assert_eq!((series.len(), backend.got().len()), (5, 6));
        // If the query itself contains the range, the server is asked a few times.
        let backend =
            Fake::start(|_| reply(400, &[], r#"{"error":"the query time range exceeds the limit (x)"}"#)).await;
        let range = PrometheusQuery { endpoint: backend.url.clone(), ..range };
        let failure = fetch(&range, &secret(&[]), at(10_000_000), limits, &Seat::default()).await.unwrap_err();
        assert!(failure.message.contains("exceeds the limit (x)") && backend.got().len() == 5, "{failure}");
    }

    #[tokio::test]
    async fn native_histograms_are_passed_over_and_numbers_need_no_quotes() {
        let histogram = r#"{"count":"6","sum":"3.5","buckets":[[3,"-0.001","0.001","6"]]}"#;
        let result = format!(
            r#"[{{"metric":{{"image":"a:1"}},"histograms":[[1,{histogram}]]}},{{"metric":{{"image":"a:2"}},"histogram":[1,{histogram}]}},
                {{"metric":{{"image":"b:1"}},"values":[[1,2],[2,-3],[3,0.5],[4,"NaN"]]}}]"#
        );
        let body = format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":{result}}}}}"#);
        let backend = Fake::start(move |_| reply(200, &[], body.clone())).await;
        let Answer::Series(series) = ask(&backend.url, QueryType::Instant).await.unwrap() else { panic!() };
        let values: Vec<Vec<_>> = series
            .iter()
            .map(|series| series.samples.iter().map(|sample| sample.value.to_string()).collect())
            .collect();
        assert_eq!(values, [vec![], vec![], vec!["2".to_owned(), "-3".to_owned(), "0.5".to_owned(), "NaN".to_owned()]]);
    }

    #[tokio::test]
    async fn a_name_that_is_too_long_stays_one_and_is_not_held_whole() {
        let body = format!(
            r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{"image":"{}"}},"value":[1,"1"]}}]}}}}"#,
            "a".repeat(1 << 20)
        );
        let backend = Fake::start(move |_| reply(200, &[], body.clone())).await;
        let Answer::Series(series) = ask(&backend.url, QueryType::Instant).await.unwrap() else { panic!() };
        assert_eq!(series[0].image.len(), MAX_NAME);
    }

    #[tokio::test]
    async fn answers_that_are_no_images_are_invalid_and_say_why() {
        let cases = [
            ("garbage", "not what it should be"),
            ("", "not what it should be"),
            ("<html></html>", "a web page"),
            (r#"{"status":"success"}"#, "an answer without data"),
            (r#"{"status":"error","errorType":"timeout","error":"query timed out"}"#, "query timed out"),
            (r#"{"status":"success","data":{"resultType":"streams","result":[]}}"#, "not what it should be"),
            (r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#, "by (image)"),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"pod":"x"},"value":[1,"1"]}]}}"#,
                "by (image)",
            ),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"image":"x"},"value":[1,"one"]}]}}"#,
                "expected a number as text",
            ),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"image":"x"},"value":[1e20,"1"]}]}}"#,
                "100000000000000000000 is no time",
            ),
        ];
        for (body, says) in cases {
            let backend = Fake::start(move |_| reply(200, &[], body)).await;
            let failure = ask(&backend.url, QueryType::Range).await.unwrap_err();
            assert_eq!(failure.reason, SourceReason::InvalidResponse, "{body}");
            assert!(failure.message.contains(says) && failure.message.contains(&backend.host), "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn a_query_that_prometheus_refuses_is_told_in_its_words() {
        let backend = Fake::start(|_| {
            reply(
                400,
                &[],
                r#"{"status":"error","errorType":"bad_data","error":"1:7: parse error: unexpected character"}"#,
            )
        })
        .await;
        let failure = ask(&backend.url, QueryType::Range).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::InvalidResponse);
        assert!(
            failure.message.ends_with("answers 400 Bad Request: 1:7: parse error: unexpected character"),
            "{}",
            failure.message
        );
    }
}
