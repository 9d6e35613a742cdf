//! Loki: the kubelets' events, or a metric query over anything.
//!
//! The API: <https://grafana.com/docs/loki/latest/reference/loki-http-api/>.

use std::collections::BTreeMap;
use std::fmt;

use drop_api::discovery_policy::{LokiParser, LokiQuery};
use drop_core::discovery::{Answer, PullEvent, SourceFailure};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::MAX_NAME;
use super::at_most::AtMost;
use super::client::{Client, Limits, Request, host, invalid};
use super::credentials::Credentials;
use super::fields::Fields;
use super::prometheus::{AllSeries, Envelope, Typed, images};
use super::seat::Seat;

/// Lines per request: the most that Loki allows unless configured otherwise
/// (`max_entries_limit_per_query`).
const PAGE: usize = 5000;
/// The most lines that are read for a query.
const MAX_LINES: usize = 200_000;
/// Labels per stream that are looked at: Loki allows 15, and 128 with its metadata, unless
/// configured otherwise (`max_label_names_per_series`, `max_structured_metadata_entries_count`).
const MAX_LABELS: usize = 150;
/// The longest line that is looked at, in bytes: what Loki takes unless configured otherwise
/// (`max_line_size`).
const MAX_LINE: usize = 256 << 10;
/// The reason of events that tell of a pull.
const PULLED: &str = "Pulled";

/// What was logged in the lookback up to `now`.
///
/// Pages follow each other in the order of time, each from the last instant of the one
/// before. Of that instant a page may not hold all lines, so they are taken from the next.
pub async fn fetch(
    query: &LokiQuery,
    credentials: &Credentials,
    now: Timestamp,
    limits: Limits,
    seat: &Seat,
) -> Result<Answer, SourceFailure> {
    let client = Client::new(&query.endpoint, credentials, limits, seat)?;
    let end = now.as_nanosecond();
    let mut start = end - query.lookback.get().as_nanos();
    let mut pulls = Vec::new();
    let mut lines = 0;
    loop {
        let parameters = [
            ("query", query.query.clone()),
            ("start", start.to_string()),
            ("end", end.to_string()),
            ("limit", PAGE.to_string()),
            ("direction", "forward".to_owned()),
        ];
        let url = client.url("loki/api/v1/query_range", &parameters);
        let request = Request { url, form: None, authorization: credentials.authorization() };
        let mut response = client.send(request).await?;
        let envelope: Envelope<Data> = client.json(&mut response).await?;
        let streams = match envelope.content(&client, &response.url)? {
            Data::Streams(streams) => streams,
            Data::Series(series) => return Ok(Answer::Series(images(series, &client, &response.url)?)),
        };
        let entries = || streams.iter().flat_map(|stream| stream.values.iter().map(|entry| (&stream.stream, entry)));
        let count = entries().count();
        lines += count;
        if lines > MAX_LINES {
            let host = host(&response.url);
            return Err(invalid(format!("{host} has more than {MAX_LINES} lines: filter more, or look back less")));
        }
        let newest = entries().map(|(_, entry)| entry.0).max().unwrap_or(start);
        let is_last = count < PAGE;
        let taken = entries().filter(|(_, entry)| is_last || entry.0 < newest);
        for pull in taken.filter_map(|(labels, entry)| pull(&query.parser, labels, entry)) {
            client.keep(size_of::<PullEvent>() + pull.image.len(), &response.url)?;
            pulls.push(pull);
        }
        if is_last {
            return Ok(Answer::Pulls(pulls));
        }
        if entries().all(|(_, entry)| entry.0 == newest) {
            let host = host(&response.url);
            return Err(invalid(format!("{host} has {PAGE} or more lines of one instant: filter more")));
        }
        start = newest;
    }
}

/// The result of a query.
#[derive(Deserialize)]
#[serde(try_from = "Typed")]
enum Data {
    /// With no more lines in all than a page has.
    Streams(Vec<Stream>),
    Series(AllSeries),
}

impl TryFrom<Typed> for Data {
    type Error = String;

    fn try_from(Typed { result_type, result }: Typed) -> Result<Self, String> {
        let data = match result_type.as_str() {
            "streams" => streams(&result).map(Self::Streams),
            "matrix" | "vector" => serde_json::from_str(result.get()).map(Self::Series),
            _ => return Err(format!("a result of type {result_type}")),
        };
        data.map_err(|error| error.to_string())
    }
}

fn streams(result: &RawValue) -> serde_json::Result<Vec<Stream>> {
    let too_many = || serde::de::Error::custom(format!("more than the {PAGE} lines that were asked for"));
    let unread: AtMost<Unread, PAGE> = serde_json::from_str(result.get())?;
    let mut room = if unread.is_cut { return Err(too_many()) } else { PAGE };
    let streams = unread.items.into_iter().map(|Unread { stream, values }| {
        let values: AtMost<Entry, PAGE> = serde_json::from_str(values.get())?;
        room = room.checked_sub(values.items.len()).filter(|_| !values.is_cut).ok_or_else(too_many)?;
        Ok(Stream { stream, values: values.items })
    });
    streams.collect()
}

/// A stream whose lines are not read yet.
#[derive(Deserialize)]
struct Unread {
    #[serde(deserialize_with = "labels")]
    stream: BTreeMap<String, String>,
    values: Box<RawValue>,
}

/// Lines with the same labels.
struct Stream {
    stream: BTreeMap<String, String>,
    values: Vec<Entry>,
}

/// Nanoseconds since 1970, the line, and what newer versions may add.
#[derive(Deserialize)]
struct Entry(#[serde(deserialize_with = "nanoseconds")] i128, String, #[serde(default)] IgnoredAny);

fn nanoseconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// The first [`MAX_LABELS`] labels of a stream.
fn labels<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Labels;
    impl<'de> Visitor<'de> for Labels {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("labels")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut labels = BTreeMap::new();
            while labels.len() < MAX_LABELS {
                match map.next_entry()? {
                    Some((name, value)) => labels.insert(name, value),
                    None => return Ok(labels),
                };
            }
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(labels)
        }
    }
    deserializer.deserialize_map(Labels)
}

/// The pull that a line tells of.
fn pull(parser: &LokiParser, labels: &BTreeMap<String, String>, Entry(at, line, _): &Entry) -> Option<PullEvent> {
    if line.len() > MAX_LINE {
        return None;
    }
    let fields = Fields::new(labels, line);
    if fields.get(&parser.reason_field).is_some_and(|reason| reason != PULLED) {
        return None;
    }
    let at = Timestamp::from_nanosecond(*at).ok()?;
    let message = fields.get(&parser.message_field).unwrap_or(line.into());
    let event = PullEvent::from_message(at, &message)?;
    let image = parser.image_field.as_deref().and_then(|field| fields.get(field));
    let image = image.map_or(event.image, |image| image.into_owned());
    (image.len() <= MAX_NAME).then_some(PullEvent { image, ..event })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use axum::response::Response;
    use drop_core::discovery::SourceReason;
    use jiff::SignedDuration;
    use serde_json::json;

    use super::super::credentials::secret;
    use super::*;
    use crate::fake::{Fake, Got, gzip, reply};

    const NOW: i64 = 1_000_000;

    fn query(endpoint: &str) -> LokiQuery {
        serde_json::from_value(json!({"endpoint": endpoint, "query": "{job=\"events\"}", "lookback": "1h"})).unwrap()
    }

    async fn ask(query: &LokiQuery) -> Result<Answer, SourceFailure> {
        let now = Timestamp::from_second(NOW).unwrap();
        fetch(query, &secret(&[("headers.X-Scope-OrgID", "tenant")]), now, Limits::default(), &Seat::default()).await
    }

    fn message(image: &str) -> String {
        format!("Successfully pulled image \"{image}\" in 1m21.3s (1m30s including waiting). Image size: 7 bytes.")
    }

    /// What Loki answers to `got` of these lines, which are in the order of time.
    fn page(lines: &[(i128, String)], got: &Got) -> Response {
        let number = |name: &str| got.parameter(name).unwrap().parse::<i128>().unwrap();
        let (start, end) = (number("start"), number("end"));
        let within = lines.iter().filter(|(at, _)| (start..end).contains(at));
        let values: Vec<_> =
            within.take(number("limit") as usize).map(|(at, line)| json!([at.to_string(), line])).collect();
        // Two streams, as if every other line came from another node.
        let (even, odd): (Vec<_>, Vec<_>) = values.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
        let stream = |values: Vec<(usize, serde_json::Value)>| json!({"stream": {"job": "events"}, "values": values.into_iter().map(|(_, value)| value).collect::<Vec<_>>()});
        let data = json!({"resultType": "streams", "result": [stream(even), stream(odd)], "stats": {}});
        reply(200, &[], json!({"status": "success", "data": data}).to_string())
    }

    fn images(answer: Answer) -> Vec<String> {
        let Answer::Pulls(pulls) = answer else { panic!("{answer:?}") };
        let mut images: Vec<_> = pulls.into_iter().map(|pull| pull.image).collect();
        images.sort();
        images
    }

    #[tokio::test]
    async fn lines_at_the_border_of_pages_are_neither_lost_nor_doubled() {
        // 12,000 lines at 7 per instant: no border of pages is one of instants.
        let start = i128::from(NOW - 3600) * 1_000_000_000;
        let lines: Vec<_> = (0..12_000).map(|at| (start + at / 7, message(&format!("app:{at:05}")))).collect();
        let backend = Fake::start(move |got| page(&lines, got)).await;
        let answer = ask(&query(&format!("{}/loki-base/", backend.url))).await.unwrap();
        let expected: Vec<_> = (0..12_000).map(|at| format!("app:{at:05}")).collect();
        assert!(images(answer) == expected);
        let got = backend.got();
        assert_eq!(got.len(), 3);
        assert!(got[0].target.starts_with("/loki-base/loki/api/v1/query_range?"), "{}", got[0].target);
        let parameters = ["query", "start", "end", "direction"].map(|name| got[0].parameter(name).unwrap());
        assert_eq!(parameters, ["{job=\"events\"}", "996400000000000", "1000000000000000", "forward"]);
        assert!(got.iter().all(|got| got.header("x-scope-orgid") == Some("tenant")));
    }

    #[tokio::test]
    async fn more_lines_than_can_be_told_apart_or_held_are_refused() {
        let start = i128::from(NOW - 3600) * 1_000_000_000;
        // How many lines, and how many of them are of one instant.
        let cases = [(6000, 6000, "lines of one instant"), (210_000, 1, "more than 200000 lines")];
        for (count, at_once, says) in cases {
            let lines: Vec<_> = (0..count).map(|at| (start + at / at_once, "x".to_owned())).collect();
            let backend = Fake::start(move |got| page(&lines, got)).await;
            let failure = ask(&query(&backend.url)).await.unwrap_err();
            assert_eq!(failure.reason, SourceReason::InvalidResponse);
            assert!(failure.message.contains(says), "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn pages_share_the_room_for_pulls_and_not_for_their_texts() {
        let start = i128::from(NOW - 3600) * 1_000_000_000;
        // A week of pull events in three pages of 1.1 MB, of which 41 pulls are kept.
        let line = |at: i128| if at % 300 == 0 { message("a:1") } else { "x".repeat(200) };
        let lines: Vec<_> = (0..12_300).map(|at| (start + at, line(at))).collect();
        let backend = Fake::start(move |got| page(&lines, got)).await;
        let now = Timestamp::from_second(NOW).unwrap();
        let room = 41 * (size_of::<PullEvent>() + "a:1".len());
        for (kept, expected) in [(room, None), (room - 1, Some(SourceReason::InvalidResponse))] {
            let limits = Limits { body: 1_500_000, kept, ..Limits::default() };
            let answer = fetch(&query(&backend.url), &secret(&[]), now, limits, &Seat::default()).await;
            assert_eq!(answer.err().map(|failure| failure.reason), expected);
        }
    }

    #[tokio::test]
    async fn answers_that_no_loki_gives_are_refused_and_not_held() {
        let (entry, empty) = (r#"["1","x"],"#, r#"{"stream":{},"values":[]},"#);
        let stream =
            |count: usize| format!(r#"{{"stream":{{}},"values":[{}]}},"#, entry.repeat(count).trim_matches(','));
        for (result, is_refused) in [
            (stream(PAGE + 1), true),
            (stream(1_000_000), true),
            (stream(1).repeat(PAGE + 1), true),
            (empty.repeat(600_000), true),
            (stream(PAGE - 1), false),
        ] {
            let data = format!(r#"{{"result":[{}],"resultType":"streams"}}"#, result.trim_end_matches(','));
            let body = gzip(format!(r#"{{"status":"success","data":{data}}}"#).as_bytes());
            let backend = Fake::start(move |_| reply(200, &[("content-encoding", "gzip")], body.clone())).await;
            match ask(&query(&backend.url)).await {
                Ok(answer) => assert!(!is_refused && images(answer).is_empty()),
                Err(failure) => {
                    assert!(is_refused && failure.message.contains("more than the 5000 lines"), "{failure}")
                }
            }
        }
    }

    #[tokio::test]
    async fn lines_labels_and_names_without_end_are_passed_over() {
        let long = json!({"reason": "Pulled", "message": message("long:1"), "x": "x".repeat(MAX_LINE)}).to_string();
        let named = message(&"n".repeat(MAX_NAME + 1));
        let many: BTreeMap<_, _> = (0..100_000).map(|at| (format!("l{at:06}"), "")).collect();
        let values = [long, named, message("a:1")].map(|line| json!(["1", line]));
        let body = json!({"status": "success", "data": {"resultType": "streams", "result": [
            {"stream": many, "values": values}]}});
        let result = RawValue::from_string(body["data"]["result"].to_string()).unwrap();
        assert_eq!(streams(&result).unwrap()[0].stream.len(), MAX_LABELS);
        let backend = Fake::start(move |_| reply(200, &[], body.to_string())).await;
        assert_eq!(images(ask(&query(&backend.url)).await.unwrap()), ["a:1"]);
    }

    #[tokio::test]
    async fn pulls_are_read_from_every_kind_of_line() {
        let json =
            json!({"reason": "Pulled", "message": message("json:1"), "involvedObject": {"name": "pod"}}).to_string();
        let other = json!({"reason": "Scheduled", "message": message("other:1")}).to_string();
        let mut logfmt = "name=pod reason=Pulled ".to_owned();
        write!(logfmt, "message={:?}", message("logfmt:1")).unwrap();
        let kept = json!({"reason": "Pulled", "message": "Container image \"kept:1\" already present on machine"});
        let lines = [json, other, logfmt, message("plain:1"), kept.to_string()];
        let lines: Vec<_> = lines.into_iter().map(|line| (i128::from(NOW) * 1_000_000_000 - 1, line)).collect();
        let backend = Fake::start(move |got| page(&lines, got)).await;
        let answer = ask(&query(&backend.url)).await.unwrap();
        let Answer::Pulls(pulls) = &answer else { panic!() };
        for pull in pulls {
            let expected = Timestamp::from_nanosecond(i128::from(NOW) * 1_000_000_000 - 1).unwrap();
            assert_eq!(
                (pull.at, pull.pull_time, pull.size),
                (expected, Some(SignedDuration::from_millis(81_300)), Some(7))
            );
        }
        assert_eq!(images(answer), ["json:1", "logfmt:1", "plain:1"]);
    }

    #[tokio::test]
    async fn fields_go_by_the_names_that_the_parser_is_told() {
        let line = json!({"why": "Pulled", "what": {"text": message("a:1")}, "ref": "b:1"}).to_string();
        let backend = Fake::start(move |got| page(&[(i128::from(NOW) * 1_000_000_000 - 1, line.clone())], got)).await;
        let mut query = query(&backend.url);
        query.parser.reason_field = "why".to_owned();
        query.parser.message_field = "what_text".to_owned();
        assert_eq!(images(ask(&query).await.unwrap()), ["a:1"]);
        query.parser.image_field = Some("ref".to_owned());
        assert_eq!(images(ask(&query).await.unwrap()), ["b:1"]);
    }

    #[tokio::test]
    async fn a_metric_query_gives_series() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"image":"a:1"},"values":[[1,"2"]]}]}}"#;
        let backend = Fake::start(move |_| reply(200, &[], body)).await;
        let Answer::Series(series) = ask(&query(&backend.url)).await.unwrap() else { panic!() };
        assert_eq!((series[0].image.as_str(), series[0].samples[0].value), ("a:1", 2.0));
    }

    #[tokio::test]
    async fn entries_may_carry_more_than_time_and_line() {
        let line = message("a:1");
        let body = json!({"status": "success", "data": {"resultType": "streams", "result": [
            {"stream": {}, "values": [["1", line, {"structuredMetadata": {"pod": "x"}}]]}]}});
        let backend = Fake::start(move |_| reply(200, &[], body.to_string())).await;
        assert_eq!(images(ask(&query(&backend.url)).await.unwrap()), ["a:1"]);
    }

    #[tokio::test]
    async fn what_loki_complains_of_is_told_in_its_words() {
        let backend = Fake::start(|_| {
            reply(400, &[("content-type", "text/plain; charset=utf-8")], "parse error at line 1, col 2: syntax error\n")
        })
        .await;
        let failure = ask(&query(&backend.url)).await.unwrap_err();
        assert_eq!(failure.reason, SourceReason::InvalidResponse);
        assert!(failure.message.ends_with("400 Bad Request: parse error at line 1, col 2: syntax error"), "{failure}");
    }
}
