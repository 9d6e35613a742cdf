//! Loki: the kubelets' events, or any metric query.
//!
//! The API: <https://grafana.com/docs/loki/latest/reference/loki-http-api/>.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use drop_api::discovery_policy::{LokiParser, LokiQuery};
use drop_core::discovery::{Answer, PullEvent, SourceFailure};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::at_most::AtMost;
use super::client::{Client, Limits, Request, Response, Wanted, host, invalid};
use super::credentials::Credentials;
use super::fields::{Fields, Pull, pull_in};
use super::prometheus::{AllSeries, Envelope, Typed, images, is_too_long, says};
use super::seat::Seat;
use super::{Fetched, MAX_NAME};

/// Lines per request: the most that Loki allows unless configured otherwise
/// (`max_entries_limit_per_query`).
const PAGE: usize = 5000;
/// The fewest lines per request that Drop tries after a server's limit.
const MIN_PAGE: usize = 10;
/// The shortest range in nanoseconds that Drop tries after a server's limit: a minute.
const MIN_SPAN: i128 = 60_000_000_000;
/// The most lines that Drop reads for a query.
const MAX_LINES: usize = 200_000;
/// The most labels per stream that Drop reads. Loki allows 15, and 128 with its metadata, unless configured otherwise
/// (`max_label_names_per_series`, `max_structured_metadata_entries_count`).
const MAX_LABELS: usize = 150;
/// The longest line that Drop reads, in bytes. Loki accepts as much unless configured otherwise (`max_line_size`).
const MAX_LINE: usize = 256 << 10;
/// The reason of events that report a pull.
const PULLED: &str = "Pulled";
/// The label whose images Drop counts in lines that report no pull.
const LABEL: &str = "image";

/// Returns the lines that were logged in the lookback up to `now`.
///
/// Pages follow each other in the order of time, each from the last instant of the one before. A page may not hold all
/// lines of its last instant, so these lines are taken from the next page.
pub async fn fetch(
    query: &LokiQuery,
    credentials: &Credentials,
    now: Timestamp,
    limits: Limits,
    seat: &Seat,
) -> Result<Fetched, SourceFailure> {
    let client = Client::new(&query.endpoint, credentials, limits, seat)?;
    let end = now.as_nanosecond();
    let mut start = end - query.lookback.get().as_nanos();
    let (mut page, mut span) = (PAGE, end - start);
    let (mut lines, mut untold) = (0, 0);
    let mut pulls = Vec::new();
    let mut events = HashSet::new();
    let mut remarks = BTreeSet::new();
    loop {
        let until = end.min(start + span);
        let parameters = [
            ("query", query.query.clone()),
            ("start", start.to_string()),
            ("end", until.to_string()),
            ("limit", page.to_string()),
            ("direction", "forward".to_owned()),
        ];
        let url = client.url("loki/api/v1/query_range", &parameters);
        let request = Request {
            url,
            wanted: Wanted::Content,
            form: None,
            is_private: false,
            authorization: credentials.authorization(),
        };
        let mut response = client.send(request).await?;
        if let Some(fewer) = fewer_lines(&response, page) {
            page = fewer;
            continue;
        }
        // The points of a metric query depend on the range.
        if wants_shorter(&response) && query.query.trim_start().starts_with('{') && span > MIN_SPAN {
            span = (span / 2).max(MIN_SPAN);
            continue;
        }
        let envelope: Envelope<Data> = client.json(&mut response).await?;
        let (data, said) = envelope.content(&client, &response.url)?;
        remarks.extend(said);
        let streams = match data {
            Data::Streams(streams) => streams,
            Data::Series(series) => {
                let series = images(series, &client, &response.url)?;
                return Ok(Fetched::new(Answer::Series(series), remarks));
            }
        };
        let entries = || streams.iter().flat_map(|stream| stream.values.iter().map(|entry| (&stream.stream, entry)));
        let count = entries().count();
        let newest = entries().map(|(_, entry)| entry.0).max().unwrap_or(start);
        let is_last = count < page;
        for (labels, entry) in entries().filter(|(_, entry)| is_last || entry.0 < newest) {
            lines += 1;
            match pull(query.parser.as_ref(), labels, entry) {
                // A shipper that restarts, or that lists events now and then, reports an event again.
                Some((_, Some(identity))) if !events.insert(hash(&identity)) => {}
                Some((pull, _)) => {
                    client.keep(size_of::<PullEvent>() + pull.image.len(), &response.url)?;
                    pulls.push(pull);
                }
                None => untold += 1,
            }
        }
        if lines > MAX_LINES {
            let host = host(&response.url);
            return Err(invalid(format!("{host} has more than {MAX_LINES} lines: filter more, or look back less")));
        }
        if is_last && until == end {
            let remark = remark(query, lines, untold);
            return Ok(Fetched::new(Answer::Pulls(pulls), remark.into_iter().chain(remarks)));
        }
        if !is_last && entries().all(|(_, entry)| entry.0 == newest) {
            let host = host(&response.url);
            return Err(invalid(format!("{host} has {page} or more lines of one instant: filter more")));
        }
        start = if is_last { until } else { newest };
    }
}

/// Hashes an event's identity, because the texts of all events of a query would take too much memory.
fn hash(identity: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    hasher.finish()
}

/// Returns how many lines to ask for after a server has denied `page` of them.
fn fewer_lines(response: &Response, page: usize) -> Option<usize> {
    // max entries limit per query exceeded, limit > max_entries_limit_per_query (5000 > 1000)
    let allowed = || {
        let text = String::from_utf8_lossy(&response.body);
        let (_, allowed) = text.split_once(&format!("({page} > "))?;
        allowed.split(')').next()?.parse::<usize>().ok()
    };
    let is_refused = !response.status.is_success()
        && (says(response, "max entries limit") || says(response, "received message larger than max"));
    (is_refused && page > MIN_PAGE).then(|| allowed().unwrap_or(page / 4).min(page / 2).max(MIN_PAGE))
}

/// Whether a server denies a range of time because of the amount of data in it.
fn wants_shorter(response: &Response) -> bool {
    // the query would read too many bytes (query: 1.2 TB, limit: 500 GB); consider …
    is_too_long(response) || response.status.is_client_error() && says(response, "would read too many bytes")
}

/// Returns a note about lines if some of them report no pull.
fn remark(query: &LokiQuery, lines: usize, untold: usize) -> Option<String> {
    if lines == 0 {
        return Some(format!("no log line within {}: is the query right, and are events shipped?", query.lookback));
    }
    let LokiParser { message_field, reason_field, image_field, .. } = query.parser.clone().unwrap_or_default();
    let image = match (&query.parser, image_field) {
        (None, _) => format!(", and there is no label {LABEL}"),
        (Some(_), Some(field)) => format!(", and the field {field} names no image"),
        (Some(_), None) => String::new(),
    };
    let looked_for = format!(
        "no \"{message}\" in the field {message_field} or elsewhere in the line, or the field {reason_field} is not \
         {PULLED}{image}",
        message = PullEvent::TEXT,
    );
    (untold > 0).then(|| format!("{untold} of {lines} lines tell of no pull: {looked_for}"))
}

/// The result of a query.
#[derive(Deserialize)]
#[serde(try_from = "Typed")]
pub enum Data {
    /// At most as many lines in all as a page has.
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

/// A stream with unparsed lines.
#[derive(Deserialize)]
struct Unread {
    #[serde(deserialize_with = "labels")]
    stream: Labels,
    values: Box<RawValue>,
}

/// Lines with the same labels.
pub struct Stream {
    stream: Labels,
    values: Vec<Entry>,
}

type Labels = BTreeMap<String, String>;

/// Nanoseconds since 1970, the line, and further data.
#[derive(Deserialize)]
struct Entry(#[serde(deserialize_with = "nanoseconds")] i128, String, #[serde(default)] More);

/// Labels of one line. Loki puts them among those of the stream, unless a proxy asks for them separately.
#[derive(Deserialize)]
#[serde(untagged)]
enum More {
    #[serde(rename_all = "camelCase")]
    Labels {
        #[serde(default, deserialize_with = "labels")]
        structured_metadata: Labels,
    },
    Other(IgnoredAny),
}

impl Default for More {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

fn nanoseconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// Reads the first [`MAX_LABELS`] labels of a stream.
fn labels<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    struct First;
    impl<'de> Visitor<'de> for First {
        type Value = Labels;

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
    deserializer.deserialize_map(First)
}

/// A pull, and the identity of its event, if the line has one.
type Told = (PullEvent, Option<String>);

/// Returns the pull that a line reports. Without a parser, a line that reports none counts for the image in its label.
fn pull(parser: Option<&LokiParser>, labels: &Labels, Entry(at, line, more): &Entry) -> Option<Told> {
    let none = Labels::new();
    let own = match more {
        More::Labels { structured_metadata } => structured_metadata,
        More::Other(_) => &none,
    };
    let at = Timestamp::from_nanosecond(*at).ok()?;
    let pull = match parser {
        Some(parser) => told(parser, at, Fields::new([own, labels], line)),
        None => told(&LokiParser::default(), at, Fields::new([own, labels], line)).or_else(|| {
            let image = own.get(LABEL).or_else(|| labels.get(LABEL))?.clone();
            Some((PullEvent { at, image, pull_time: None, size: None }, None))
        }),
    };
    pull.filter(|(pull, _)| pull.image.len() <= MAX_NAME)
}

/// Returns the pull that the fields of a line report.
fn told(parser: &LokiParser, at: Timestamp, fields: Fields<'_>) -> Option<Told> {
    if fields.line().len() > MAX_LINE {
        return None;
    }
    let reason = fields.get(&parser.reason_field);
    if reason.as_ref().is_some_and(|reason| !reason.eq_ignore_ascii_case(PULLED)) {
        return None;
    }
    let message = fields.get(&parser.message_field);
    let of_message = message.as_deref().and_then(|message| PullEvent::from_message(at, message));
    let (event, identity) = match (of_message, fields.pull(at)) {
        (_, Pull::Again) => return None,
        (Some(event), Pull::Of(_, identity)) | (None, Pull::Of(event, identity)) => (event, identity),
        (Some(event), Pull::Untold) => (event, None),
        (None, Pull::Untold) => match message.as_deref().map(|message| pull_in(message, at)) {
            Some(Pull::Of(event, identity)) => (event, identity),
            Some(Pull::Again | Pull::Untold) => return None,
            // The field with the image is enough for an event of a pull, unless its text is about something else.
            None => {
                let text = fields.get(parser.image_field.as_deref()?).filter(|_| reason.is_some())?;
                if is_sentence(&text) && !matches!(pull_in(&text, at), Pull::Of(..)) {
                    return None;
                }
                (PullEvent { at, image: String::new(), pull_time: None, size: None }, None)
            }
        },
    };
    let image = parser.image_field.as_deref().and_then(|field| image_in(&fields.get(field)?, at));
    let image = image.unwrap_or_else(|| event.image.clone());
    (!image.is_empty()).then_some((PullEvent { image, ..event }, identity))
}

/// Whether a text has more words than the name of an image, such as `Container image "x" already present on machine`.
fn is_sentence(text: &str) -> bool {
    text.trim().contains(char::is_whitespace)
}

/// Returns the image that a text names: in the message of a pull, in quotes as in other messages of kubelets, or as the
/// whole text.
fn image_in(text: &str, at: Timestamp) -> Option<String> {
    if let Pull::Of(event, _) = pull_in(text, at) {
        return Some(event.image);
    }
    let quoted = text.split_once("image \"").and_then(|(_, rest)| rest.split_once('"'));
    let image = quoted.map_or(text.trim(), |(image, _)| image);
    (!image.is_empty() && !is_sentence(image)).then(|| image.to_owned())
}

#[cfg(test)]
impl Data {
    /// Returns the number of lines.
    pub fn lines(&self) -> usize {
        match self {
            Self::Streams(streams) => streams.iter().map(|stream| stream.values.len()).sum(),
            Self::Series(_) => 0,
        }
    }
}

/// Returns the pull that a line without labels reports.
#[cfg(test)]
pub fn pull_of_line(parser: Option<&LokiParser>, line: &str) -> Option<PullEvent> {
    pull(parser, &Labels::new(), &Entry(0, line.to_owned(), More::default())).map(|(pull, _)| pull)
}

#[cfg(test)]
mod tests {
    use axum::response::Response;
    use drop_core::discovery::SourceReason;
    use serde_json::json;

    use super::super::credentials::secret;
    use super::*;
    use crate::fake::{Fake, Got, gzip, reply};

    const NOW: i64 = 1_000_000;

    fn query(endpoint: &str) -> LokiQuery {
        serde_json::from_value(json!({"endpoint": endpoint, "query": "{job=\"events\"}", "lookback": "1h"})).unwrap()
    }

    async fn ask(query: &LokiQuery) -> Result<Answer, SourceFailure> {
        Ok(fetched(query).await?.answer)
    }

    async fn fetched(query: &LokiQuery) -> Result<Fetched, SourceFailure> {
        let now = Timestamp::from_second(NOW).unwrap();
        fetch(query, &secret(&[("headers.X-Scope-OrgID", "tenant")]), now, Limits::default(), &Seat::default()).await
    }

    fn message(image: &str) -> String {
        format!("Successfully pulled image \"{image}\" in 1m21.3s (1m30s including waiting). Image size: 7 bytes.")
    }

    /// Returns Loki's answer to `got` from these lines, which are in the order of time.
    fn page(lines: &[(i128, String)], got: &Got) -> Response {
        let number = |name: &str| got.parameter(name).unwrap().parse::<i128>().unwrap();
        let (start, end) = (number("start"), number("end"));
        let within = lines.iter().filter(|(at, _)| (start..end).contains(at));
        let values: Vec<_> =
            within.take(number("limit") as usize).map(|(at, line)| json!([at.to_string(), line])).collect();
        // Two streams, as if two nodes had written the lines alternately.
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
        // 12,000 lines at 7 per instant: no page ends between two instants.
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
        // The number of lines, and how many of them share one instant.
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
        // A week of pull events in three pages of 1.1 MB, of which Drop keeps 41 pulls.
        let line = |at: i128| if at % 300 == 0 { message("a:1") } else { "x".repeat(200) };
        let lines: Vec<_> = (0..12_300).map(|at| (start + at, line(at))).collect();
        let backend = Fake::start(move |got| page(&lines, got)).await;
        let now = Timestamp::from_second(NOW).unwrap();
        let room = 41 * (size_of::<PullEvent>() + "a:1".len());
        for (kept, expected) in [(room, None), (room - 1, Some(SourceReason::InvalidResponse))] {
            let limits = Limits { body: 1_500_000, kept, ..Limits::default() };
            let fetched = fetch(&query(&backend.url), &secret(&[]), now, limits, &Seat::default()).await;
            assert_eq!(fetched.err().map(|failure| failure.reason), expected);
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

    /// A Loki with one stream.
    async fn stream(labels: serde_json::Value, values: serde_json::Value) -> Fake {
        let data = json!({"resultType": "streams", "result": [{"stream": labels, "values": values}]});
        let body = json!({"status": "success", "data": data}).to_string();
        Fake::start(move |_| reply(200, &[], body.clone())).await
    }

    #[tokio::test]
    async fn fields_go_by_the_names_that_the_parser_is_told() {
        let line = json!({"why": "Pulled", "what": {"text": message("a:1")}, "old": message("c:1"), "ref": "b:1"});
        let backend = stream(json!({}), json!([["1", line.to_string()]])).await;
        let mut query = query(&backend.url);
        let parser = LokiParser { reason_field: "why".to_owned(), ..LokiParser::default() };
        for (message_field, image_field, image) in [
            ("what_text", None, "a:1"),
            ("old", None, "c:1"),
            ("what_text", Some("ref"), "b:1"),
            ("what_text", Some("old"), "c:1"),
            ("what_text", Some("missing"), "a:1"),
        ] {
            let (message_field, image_field) = (message_field.to_owned(), image_field.map(str::to_owned));
            query.parser = Some(LokiParser { message_field, image_field, ..parser.clone() });
            assert_eq!(images(ask(&query).await.unwrap()), [image]);
        }
    }

    #[tokio::test]
    async fn an_event_without_a_message_is_a_pull_where_a_field_names_its_image() {
        let lines =
            ["reason=Pulled image=a:1", "reason=Pulling image=b:1", "image=c:1", "reason=Pulled message=x image=d:1"];
        let backend = stream(json!({}), json!(lines.map(|line| ["1", line]))).await;
        let mut query = query(&backend.url);
        query.parser = Some(LokiParser { image_field: Some("image".to_owned()), ..LokiParser::default() });
        let fetched = fetched(&query).await.unwrap();
        assert_eq!(images(fetched.answer), ["a:1"]);
        let note = fetched.note.unwrap();
        assert!(note.starts_with("3 of 4 lines tell of no pull") && note.contains("field image"), "{note}");
    }

    #[tokio::test]
    async fn an_event_that_is_told_again_counts_once_and_one_that_happens_again_twice() {
        let event = |uid: &str, version: &str, count: u32| {
            let mut metadata = json!({"name": "p.17d0", "uid": uid});
            if !version.is_empty() {
                metadata["resourceVersion"] = json!(version);
            }
            json!({"metadata": metadata, "reason": "Pulled", "message": message("a:1"), "count": count,
                "lastTimestamp": format!("2026-01-02T03:04:0{count}Z")})
        };
        let alloy = |version: u32| format!("name=p kind=Pod eventRV={version} reason=Pulled msg={:?}", message("a:1"));
        let otel = |count: &str| json!({"structuredMetadata": {"k8s_event_uid": "u", "k8s_event_count": count, "reason": "Pulled"}});
        let cases: [(Vec<serde_json::Value>, usize); 6] = [
            // OpenTelemetry's k8sobjects in pull mode; eventrouter after a restart; a nested list; a lost version.
            (vec![json!(event("u", "1", 1).to_string()); 3], 1),
            (vec![json!(json!({"verb": "ADDED", "event": event("u", "1", 1)}).to_string()); 2], 1),
            (["1", "2"].map(|version| json!(event("u", version, 1).to_string())).to_vec(), 2),
            (
                [("u", 1), ("u", 1), ("u", 2), ("v", 2)]
                    .map(|(uid, count)| json!(event(uid, "", count).to_string()))
                    .to_vec(),
                3,
            ),
            ([1, 1, 2].map(|version| json!(alloy(version))).to_vec(), 2),
            // Without an identity each line is a separate event.
            (vec![json!(message("a:1")); 2], 2),
        ];
        for (lines, expected) in cases {
            let values: Vec<_> = lines.iter().enumerate().map(|(at, line)| json!([at.to_string(), line])).collect();
            let backend = stream(json!({}), json!(values)).await;
            let fetched = fetched(&query(&backend.url)).await.unwrap();
            assert_eq!(images(fetched.answer).len(), expected, "{lines:?}");
            assert_eq!(fetched.note, None);
        }
        let values = ["1", "1", "2"].map(|count| json!(["1", message("a:1"), otel(count)]));
        let backend = stream(json!({}), json!(values)).await;
        assert_eq!(images(ask(&query(&backend.url)).await.unwrap()).len(), 2);
    }

    #[tokio::test]
    async fn a_sentence_in_the_field_of_the_image_that_tells_of_no_pull_is_none() {
        let lines = [
            "reason=Pulled msg=\"Container image \\\"a:1\\\" already present on machine\"",
            "reason=Pulled msg=\"Image volume \\\"a:1\\\" is there\"",
            "reason=Pulled msg=b:1",
        ];
        let backend = stream(json!({}), json!(lines.map(|line| ["1", line]))).await;
        let mut query = query(&backend.url);
        query.parser = Some(LokiParser { image_field: Some("msg".to_owned()), ..LokiParser::default() });
        assert_eq!(images(ask(&query).await.unwrap()), ["b:1"]);
    }

    #[tokio::test]
    async fn without_a_parser_lines_count_for_the_image_in_their_label() {
        let own = json!({"structuredMetadata": {"image": "own:1"}, "parsed": {}});
        let values = json!([["1", "started"], ["2", "started"], ["3", "started", own], ["4", message("pulled:1")]]);
        let backend = stream(json!({"image": "label:1"}), values).await;
        let mut query = query(&backend.url);
        assert_eq!(images(ask(&query).await.unwrap()), ["label:1", "label:1", "own:1", "pulled:1"]);
        query.parser = Some(LokiParser::default());
        assert_eq!(images(ask(&query).await.unwrap()), ["pulled:1"]);
    }

    #[tokio::test]
    async fn lines_that_tell_of_no_pull_are_counted_and_named_with_what_was_looked_for() {
        let backend = stream(json!({}), json!([["1", "one"], ["2", message("a:1")], ["3", "three"]])).await;
        let note = fetched(&query(&backend.url)).await.unwrap().note.unwrap();
        let says = "2 of 3 lines tell of no pull: no \"Successfully pulled image\" in the field message or elsewhere";
        assert!(note.starts_with(says) && note.ends_with("no label image"), "{note}");
        let backend = stream(json!({}), json!([["1", message("a:1")]])).await;
        assert_eq!(fetched(&query(&backend.url)).await.unwrap().note, None);
        let backend = stream(json!({}), json!([])).await;
        let note = fetched(&query(&backend.url)).await.unwrap().note.unwrap();
        assert!(note.starts_with("no log line within 1h"), "{note}");
    }

    #[tokio::test]
    async fn limits_of_the_server_make_pages_smaller_and_ranges_shorter() {
        let start = i128::from(NOW - 3600) * 1_000_000_000;
        let lines: Vec<_> =
            (0..3000).map(|at| (start + at * 1_000_000_000, message(&format!("app:{at:04}")))).collect();
        let expected: Vec<_> = (0..3000).map(|at| format!("app:{at:04}")).collect();
        let backend = Fake::start(move |got| {
            let number = |name: &str| got.parameter(name).unwrap().parse::<i128>().unwrap();
            let refuse = |status, why: String| reply(status, &[("content-type", "text/plain")], why);
            match (number("limit"), (number("end") - number("start")) / 1_000_000_000) {
                (limit @ 1001.., _) => refuse(
                    400,
                    format!(
                        "max entries limit per query exceeded, limit > max_entries_limit_per_query ({limit} > 1000)"
                    ),
                ),
                (501.., _) => refuse(500, "rpc error: grpc: received message larger than max (9 vs. 4)".to_owned()),
                (_, 1801..) => {
                    refuse(400, "the query time range exceeds the limit (query length: 1h, limit: 30m)".to_owned())
                }
                (_, 901..) => refuse(400, "the query would read too many bytes (query: 2GB, limit: 1GB)".to_owned()),
                _ => page(&lines, got),
            }
        })
        .await;
        assert!(images(ask(&query(&backend.url)).await.unwrap()) == expected);
        // 4 denials, and for each quarter of an hour four pages of 250 lines and the rest.
        assert!(backend.got().len() <= 20, "{}", backend.got().len());
    }

    #[tokio::test]
    async fn limits_that_nothing_meets_are_told() {
        for why in ["max entries limit per query exceeded", "the query time range exceeds the limit"] {
            let backend = Fake::start(move |_| reply(400, &[("content-type", "text/plain")], why)).await;
            let failure = ask(&query(&backend.url)).await.unwrap_err();
            assert!(failure.message.ends_with(why) && backend.got().len() < 10, "{failure}");
        }
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
