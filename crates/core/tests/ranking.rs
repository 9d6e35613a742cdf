//! From answers of backends to a ranking.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

use std::collections::BTreeSet;

use drop_api::scheduling::NodeSelector;
use drop_core::discovery::{
    Answer, Backend, End, LeftOut, MOST_IMAGES, Measured, Pipeline, PullEvent, Ranked, Repository, Sample, Series, Why,
    score_text,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const NOW: &str = "2026-03-31T12:00:00Z";

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn compile(spec: Value) -> Pipeline {
    Pipeline::compile(&serde_json::from_value(spec).unwrap()).unwrap()
}

fn series<T: AsRef<str>>(image: &str, samples: &[(T, f64)]) -> Series {
    let samples = samples.iter().map(|(time, value)| Sample { at: at(time.as_ref()), value: *value });
    Series { image: image.to_owned(), samples: samples.collect() }
}

/// Images with one sample each, of now.
fn values(values: &[(&str, f64)]) -> Answer {
    Answer::Series(values.iter().map(|(image, value)| series(image, &[(NOW, *value)])).collect())
}

fn pull(time: &str, image: &str, secs: f64) -> PullEvent {
    let pull_time = Some(SignedDuration::try_from_secs_f64(secs).unwrap());
    PullEvent { at: at(time), image: image.to_owned(), pull_time, size: None }
}

fn repository(path: &str, tags: &[&str]) -> Repository {
    Repository { path: path.to_owned(), tags: tags.iter().map(|&tag| tag.to_owned()).collect(), end: End::Whole }
}

/// The ranking of `answers`, one per query, on as many nodes.
fn rank_on(nodes: usize, pipeline: &Pipeline, answers: Vec<Answer>) -> Ranked {
    let measure = |(query, answer)| pipeline.measure(query, answer, at(NOW));
    let measured: Vec<Measured> = answers.into_iter().enumerate().map(measure).collect();
    pipeline.rank(&measured.iter().map(Some).collect::<Vec<_>>(), |_| nodes, &BTreeSet::new())
}

/// The images and their scores: `"x 3, y 2"`, without docker.io/library/ and :latest.
fn shown(ranked: &Ranked) -> String {
    let short = |image: &str| image.trim_start_matches("docker.io/library/").trim_end_matches(":latest").to_owned();
    let shown = ranked.images.iter().map(|ranked| format!("{} {}", short(&ranked.image), score_text(ranked.score)));
    shown.collect::<Vec<_>>().join(", ")
}

fn rank(pipeline: &Pipeline, answers: Vec<Answer>) -> String {
    shown(&rank_on(10, pipeline, answers))
}

fn prometheus() -> Value {
    json!({ "endpoint": "https://mimir.example.com/prometheus", "query": "up", "lookback": "168h" })
}

fn query(name: &str) -> Value {
    json!({ "name": name, "type": "prometheus", "prometheus": prometheus() })
}

fn loki(name: &str) -> Value {
    json!({ "name": name, "type": "loki", "loki": { "endpoint": "http://loki:3100", "query": "{job=\"events\"}" } })
}

/// A full policy with a query and a signal `s` of `type`.
fn one_signal(query: &Value, type_: &str, block: &Value) -> Value {
    json!({ "queries": [query], "signals": [{ "name": "s", "query": query["name"], "type": type_, type_: block }] })
}

/// A policy over three queries, whose signals are the sums of pre, target and pull.
fn usage(strategy: &str, nodes: &Value) -> Value {
    let names = ["pre", "target", "pull"];
    let signal = |name| json!({ "name": name, "query": name, "type": "aggregate", "aggregate": { "method": "sum" } });
    json!({
        "queries": names.map(query),
        "signals": names.map(signal),
        "ranking": { "strategy": strategy, strategy: {
            "nodes": nodes, "preWindowUsageSignal": "pre", "targetWindowUsageSignal": "target", "pullTimeSignal": "pull",
        } },
    })
}

// ---- Aggregates and statistics ----------------------------------------------

#[test]
fn percentiles_are_interpolated_linearly() {
    let cases = [("p50", "5.5"), ("p90", "9.1"), ("p95", "9.55"), ("avg", "5.5"), ("max", "10"), ("count", "10")];
    for (statistic, expected) in cases {
        let policy = compile(one_signal(&loki("l"), "eventPullTime", &json!({ "statistic": statistic })));
        // In an order of their own, as logs of several nodes are.
        let pulls = [7, 1, 10, 4, 2, 9, 3, 8, 6, 5].map(|n| pull(NOW, "x", f64::from(n)));
        assert_eq!(rank(&policy, vec![Answer::Pulls(pulls.to_vec())]), format!("x {expected}"), "{statistic}");
        let one = Answer::Pulls(vec![pull(NOW, "x", 1.0)]);
        assert_eq!(rank(&policy, vec![one]), "x 1", "{statistic} of a single value");
    }
}

#[test]
fn sizes_are_bytes_and_events_without_one_do_not_count_for_them() {
    let signal = json!({ "metric": "imageSize", "statistic": "avg" });
    let policy = compile(one_signal(&loki("l"), "eventPullTime", &signal));
    let sized = |size| PullEvent { size, ..pull(NOW, "x", 1.0) };
    let pulls = [Some(3_000_000), None, Some(1_000_000)].map(sized).to_vec();
    assert_eq!(rank(&policy, vec![Answer::Pulls(pulls)]), "x 2000000");
}

#[test]
fn aggregates_of_samples() {
    for (method, expected) in [("sum", "6"), ("count", "3"), ("avg", "2"), ("max", "3"), ("min", "1")] {
        let policy = compile(one_signal(&query("q"), "aggregate", &json!({ "method": method })));
        let samples = [("2026-03-31T09:00:00Z", 3.0), ("2026-03-31T10:00:00Z", 1.0), (NOW, 2.0)];
        assert_eq!(rank(&policy, vec![Answer::Series(vec![series("x", &samples)])]), format!("x {expected}"));
        let short = json!({ "type": "prometheus", "prometheus": {
            "endpoint": "http://p", "query": "up", "lookback": "1h", "aggregationMethod": method,
        } });
        let short = compile(json!({ "sources": [short] }));
        assert_eq!(rank(&short, vec![Answer::Series(vec![series("x", &samples)])]), format!("x {expected}"));
    }
}

#[test]
fn several_series_of_one_image_are_put_together_in_any_order_and_spelling() {
    let policy = compile(json!({ "queries": [query("q")] }));
    // In f64, 0.1 + 0.2 + 0.3 depends on the order of addition.
    let parts = [
        series("alpine", &[("2026-03-31T10:00:00Z", 0.1)]),
        series("docker.io/library/alpine:latest", &[("2026-03-31T10:00:00Z", 0.2)]),
        series(" index.docker.io/alpine ", &[("2026-03-31T10:00:00Z", 0.3)]),
    ];
    let values = |parts: Vec<Series>| rank_on(10, &policy, vec![Answer::Series(parts)]).images[0].signals.clone();
    assert_eq!(values(parts.to_vec()), values(parts.iter().rev().cloned().collect()));
    assert_eq!(rank(&policy, vec![Answer::Series(parts.to_vec())]), "alpine 0.6");
}

#[test]
fn numbers_that_are_none_are_left_out_of_sums_and_of_the_ranking() {
    let policy = compile(json!({ "queries": [query("q")] }));
    let times = ["2026-03-31T10:00:00Z", "2026-03-31T11:00:00Z", NOW];
    let of =
        |image, values: [f64; 3]| series(image, &[(times[0], values[0]), (times[1], values[1]), (times[2], values[2])]);
    let answer = Answer::Series(vec![
        of("gaps", [1.0, f64::NAN, 2.0]),
        of("nan", [f64::NAN; 3]),
        of("infinite", [f64::INFINITY, f64::NEG_INFINITY, f64::NAN]),
        of("overflow", [f64::MAX, f64::MAX, 0.0]),
        of("negative", [1.0, -3.0, 1.0]),
        of("zero", [1.0, -2.0, 1.0]),
    ]);
    let ranked = rank_on(1, &policy, vec![answer]);
    assert_eq!(shown(&ranked), "gaps 3, zero 0");
    let why: Vec<_> = ranked.left_out.iter().map(|left| (left.image.as_ref(), &left.why)).collect();
    assert_eq!(
        why,
        [
            ("docker.io/library/infinite:latest", &Why::NoValue),
            ("docker.io/library/nan:latest", &Why::NoValue),
            ("docker.io/library/negative:latest", &Why::Negative),
            ("docker.io/library/overflow:latest", &Why::NoValue),
        ]
    );
}

// ---- Windows ----------------------------------------------------------------

/// One sample of value 1 at each hour from `start` for so many hours, in UTC.
fn hourly(start: &str, hours: i64) -> Answer {
    let samples = (0..hours).map(|hour| ((at(start) + SignedDuration::from_hours(hour)).to_string(), 1.0));
    Answer::Series(vec![series("x", &samples.collect::<Vec<_>>())])
}

#[test]
fn a_fixed_window_counts_every_day_and_ends_before_its_end() {
    let cases = [
        ("09:00", "17:00", "UTC", "x 24"),
        ("09:00", "17:01", "UTC", "x 27"),
        ("22:00", "02:00", "UTC", "x 12"),
        ("09:00", "09:00", "UTC", "x 72"),
        ("00:00", "00:00", "UTC", "x 72"),
        ("09:30", "10:00", "UTC", ""),
        // By clocks that go half an hour differently.
        ("09:30", "10:00", "Asia/Kolkata", "x 3"),
    ];
    for (start, end, timezone, expected) in cases {
        let window = json!({ "method": "sum", "window": { "start": start, "end": end }, "timezone": timezone });
        let policy = compile(one_signal(&query("q"), "windowAggregate", &window));
        assert_eq!(rank(&policy, vec![hourly("2026-03-02T00:00:00Z", 72)]), expected, "{start}–{end}");
    }
}

#[test]
fn windows_follow_daylight_saving_time() {
    let window = |start: &str, end: &str| {
        let window = json!({ "method": "sum", "window": { "start": start, "end": end }, "timezone": "Europe/Berlin" });
        compile(one_signal(&query("q"), "windowAggregate", &window))
    };
    // Clocks went from 02:00 to 03:00 on 29 March 2026, and from 03:00 to 02:00 on 25 October.
    for (start, end, day, hours, expected) in [
        ("09:00", "17:00", "2026-03-27T23:00:00Z", 71, "x 24"), // three days, one of 23 hours
        ("02:00", "03:00", "2026-03-28T23:00:00Z", 23, ""),
        ("00:00", "06:00", "2026-03-28T23:00:00Z", 23, "x 5"),
        ("09:00", "17:00", "2026-10-24T22:00:00Z", 25, "x 8"),
        ("02:00", "03:00", "2026-10-24T22:00:00Z", 25, "x 2"),
        ("22:00", "06:00", "2026-10-24T22:00:00Z", 25, "x 9"),
    ] {
        assert_eq!(rank(&window(start, end), vec![hourly(day, hours)]), expected, "{start}–{end} from {day}");
    }
    // The same hour of the day before and after, an hour apart in UTC.
    let nine = window("09:00", "10:00");
    let samples = series("x", &[("2026-03-28T08:00:00Z", 1.0), ("2026-03-30T07:00:00Z", 10.0)]);
    assert_eq!(rank(&nine, vec![Answer::Series(vec![samples])]), "x 11");
}

#[test]
fn a_relative_window_is_the_end_of_the_lookback() {
    let window = json!({ "method": "sum", "relativeWindow": "2h" });
    let policy = compile(one_signal(&query("q"), "windowAggregate", &window));
    let samples = [("2026-03-31T10:00:00Z", 1.0), ("2026-03-31T10:00:01Z", 2.0), (NOW, 4.0)];
    assert_eq!(rank(&policy, vec![Answer::Series(vec![series("x", &samples)])]), "x 6");
}

#[test]
fn the_first_window_that_holds_a_sample_gives_its_weight() {
    let weighted = |method: &str| {
        compile(one_signal(
            &query("q"),
            "timeWeightedAggregate",
            &json!({
                "method": method, "timezone": "UTC", "defaultWeight": "0.5", "windows": [
                    { "startHour": 22, "endHour": 6, "weight": 0 },
                    { "startHour": 9, "endHour": 17, "weight": 2 },
                    { "startHour": 0, "endHour": 24, "weight": "100m" },
                ],
            }),
        ))
    };
    // 8 hours weigh nothing, 8 weigh 2, and the other 8 weigh 0.1.
    let day = || vec![hourly("2026-03-02T00:00:00Z", 24)];
    assert_eq!(rank(&weighted("count"), day()), "x 16");
    assert_eq!(rank(&weighted("max"), day()), "x 2");
    assert_eq!(rank(&weighted("min"), day()), "x 0.1");
    assert_eq!(rank(&weighted("avg"), day()), "x 1.05");
}

#[test]
fn pulls_count_by_their_time_too() {
    let window = json!({ "method": "sum", "window": { "start": "09:00", "end": "17:00" }, "timezone": "UTC" });
    let policy = compile(one_signal(&loki("l"), "windowAggregate", &window));
    let times = ["2026-03-30T08:59:59Z", "2026-03-30T09:00:00Z", "2026-03-31T10:00:00Z"];
    let pulls = times.map(|time| pull(time, "x", 1.0)).to_vec();
    assert_eq!(rank(&policy, vec![Answer::Pulls(pulls)]), "x 2");
}

// ---- Rankings ---------------------------------------------------------------

#[test]
fn without_a_ranking_the_highest_value_counts_and_ties_go_by_name() {
    let policy = compile(json!({ "queries": [query("a"), query("b")], "maxImages": 4 }));
    let answers = vec![values(&[("z", 2.0), ("b", 1.0), ("y", 1.0)]), values(&[("y", 2.0), ("a", 1.0), ("c", 1.0)])];
    let ranked = rank_on(1, &policy, answers);
    assert_eq!(shown(&ranked), "y 2, z 2, a 1, b 1");
    let y = &ranked.images[0];
    assert_eq!((&y.signals, &y.found_by), (&vec![Some(1.0), Some(2.0)], &vec![0, 1]));
    assert_eq!(ranked.images[1].found_by, [0]);
    assert_eq!(ranked.left_out.iter().map(|left| left.why.clone()).collect::<Vec<_>>(), [Why::MaxImages]);
}

#[test]
fn a_listed_image_gives_its_place_to_one_that_is_much_better() {
    let policy = compile(json!({ "queries": [query("a")], "maxImages": 2 }));
    let cases = [
        (&[("a", 3.0), ("b", 1.05), ("c", 1.0)][..], &["a", "c"][..], "a 3, c 1"),
        (&[("a", 3.0), ("b", 1.2), ("c", 1.0)], &["a", "c"], "a 3, b 1.2"),
        (&[("a", 1.05), ("b", 1.04), ("c", 1.0), ("d", 0.99)], &["c", "d"], "c 1, d 0.99"),
        (&[("a", 1.05), ("b", 1.0), ("c", 1.0)], &["b", "c"], "b 1, c 1"),
        (&[("a", 1.0), ("b", 1.0), ("c", 1.0)], &["c"], "a 1, c 1"),
        (&[("a", 2.0), ("b", 1.0)], &["c"], "a 2, b 1"),
        (&[("a", 0.0), ("b", 0.0), ("c", 0.0)], &["c"], "a 0, b 0"),
    ];
    for (answer, listed, expected) in cases {
        let measured = policy.measure(0, values(answer), at(NOW));
        let listed = listed.iter().map(|image| format!("docker.io/library/{image}:latest").into()).collect();
        let ranked = policy.rank(&[Some(&measured)], |_| 1, &listed);
        assert_eq!(shown(&ranked), expected);
        let names = || ranked.images.iter().map(|image| &image.image).chain(ranked.left_out.iter().map(|it| &it.image));
        assert_eq!(names().collect::<BTreeSet<_>>().len(), answer.len(), "each is there once");
        let is_held = ranked.images.iter().any(|image| image.is_held);
        let best = policy.rank(&[Some(&measured)], |_| 1, &BTreeSet::new());
        assert_eq!(is_held, shown(&best) != expected);
    }
}

#[test]
fn a_query_that_never_answered_takes_nothing_from_the_others() {
    let policy = compile(json!({ "queries": [query("a"), query("b")] }));
    let measured = policy.measure(1, values(&[("x", 1.0)]), at(NOW));
    let ranked = policy.rank(&[None, Some(&measured)], |_| 1, &BTreeSet::new());
    assert_eq!((shown(&ranked).as_str(), &ranked.images[0].found_by), ("x 1", &vec![1]));
    assert_eq!(policy.rank(&[None, None], |_| 1, &BTreeSet::new()), Ranked::default());
}

#[test]
fn a_ranking_by_one_signal_needs_that_signal() {
    let mut spec = usage("expectedSavings", &json!({ "count": 2 }));
    spec["ranking"] = json!({ "strategy": "signal", "signal": "pull" });
    let answers = vec![values(&[("x", 9.0)]), values(&[]), values(&[("y", 1.0)])];
    let ranked = rank_on(1, &compile(spec), answers);
    assert_eq!(shown(&ranked), "y 1");
    assert_eq!(ranked.left_out[0].why.to_string(), "it has no value for the signal \"pull\"");
}

#[test]
fn a_weighted_sum_normalises_each_signal_and_says_what_a_missing_one_is_worth() {
    let signal = |name| json!({ "name": name, "query": name, "type": "aggregate", "aggregate": { "method": "sum" } });
    let policy = |missing: &str| {
        compile(json!({
            "queries": [query("use"), query("time")],
            "signals": [signal("use"), signal("time")],
            "ranking": { "strategy": "weightedSum", "weightedSum": {
                "normalize": "minMax", "missingSignal": missing,
                "terms": [{ "signal": "use", "weight": "0.7" }, { "signal": "time", "weight": "0.3" }],
            } },
        }))
    };
    let answers = || {
        vec![
            values(&[("top", 110.0), ("half", 60.0), ("low", 10.0), ("unpulled", 110.0)]),
            values(&[("top", 5.0), ("half", 25.0), ("low", 45.0), ("unused", 45.0)]),
        ]
    };
    assert_eq!(rank(&policy("zero"), answers()), "top 0.7, unpulled 0.7, half 0.5, low 0.3, unused 0.3");
    assert_eq!(rank(&policy("drop"), answers()), "top 0.7, half 0.5, low 0.3");
    let equal = vec![values(&[("x", 3.0), ("y", 3.0)]), values(&[("x", 0.0), ("y", 8.0)])];
    assert_eq!(rank(&policy("zero"), equal), "y 1, x 0.7");
    let huge = vec![values(&[("x", -1e308), ("y", 1e308), ("z", 0.0)]), values(&[])];
    assert_eq!(rank(&policy("zero"), huge), "y 0.7, z 0.35, x 0");
}

/// The score of an image under a strategy on so many nodes, with J_pre, J_target and p.
fn score(strategy: &str, nodes: usize, pre: f64, target: f64, pull: f64) -> f64 {
    let answers = vec![values(&[("x", pre)]), values(&[("x", target)]), values(&[("x", pull)])];
    rank_on(nodes, &compile(usage(strategy, &json!({}))), answers).images[0].score
}

#[test]
fn the_models_are_those_of_the_reference() {
    let cases = [
        // N, J_pre, J_target, p, exposure, savings
        (2, 0.0, 1.0, 10.0, 10.0, 10.0),
        (2, 3.0, 8.0, 10.0, 10.0, 2.490_234_375),
        (2, 1.0, 2.0, 8.0, 8.0, 6.0),
        (2, 3.0, 4.0, 1.0, 0.5, 0.234_375),
        (3, 1.0, 1.0, 1.0, 0.666_666_666_667, 0.666_666_666_667),
        (10, 2.0, 3.0, 7.5, 18.225, 16.46325),
        (4, 2.0, 1.0, 16.0, 9.0, 9.0),
        (10, 0.0, 0.0, 5.0, 0.0, 0.0),
        // On one node, the first job warms it.
        (1, 0.0, 7.0, 5.0, 35.0, 5.0),
        (1, 1.0, 7.0, 5.0, 0.0, 0.0),
        // Without nodes none is warm.
        (0, 3.0, 7.0, 5.0, 35.0, 35.0),
        // Jobs without end find every node warm, or warm every node.
        (100, 1e300, 1e300, 5.0, 0.0, 0.0),
        (100, 0.0, 1e9, 5.0, 5e9, 500.0),
        // Few jobs on many nodes: each is the first of its node.
        (1_000_000_000_000, 1.0, 3.0, 5.0, 15.0, 15.0),
    ];
    for (nodes, pre, target, pull, exposure, savings) in cases {
        for (strategy, expected) in [("modelExposure", exposure), ("expectedSavings", savings)] {
            let score = score(strategy, nodes, pre, target, pull);
            let inputs = format!("{strategy} of N={nodes} J_pre={pre} J_target={target} p={pull}");
            assert_eq!(score.to_string(), expected.to_string(), "{inputs}");
        }
    }
}

#[test]
fn every_strategy_gives_what_a_calculator_does() {
    let three = || vec![values(&[("x", 0.1), ("y", 0.7)]), values(&[("x", 0.2)]), values(&[("x", 0.3)])];
    let strategy = |ranking: Value| {
        let mut spec = usage("expectedSavings", &json!({ "count": 2 }));
        spec["ranking"] = ranking;
        compile(spec)
    };
    assert_eq!(rank(&strategy(Value::Null), three()), "y 0.7, x 0.3");
    assert_eq!(rank(&strategy(json!({ "strategy": "signal", "signal": "pre" })), three()), "y 0.7, x 0.1");
    let terms = [("pre", "0.1"), ("target", "0.2"), ("pull", "0.7")];
    let terms = terms.map(|(signal, weight)| json!({ "signal": signal, "weight": weight }));
    let sum = strategy(json!({ "strategy": "weightedSum", "weightedSum": {
        "normalize": "minMax", "missingSignal": "zero", "terms": terms,
    } }));
    assert_eq!(rank(&sum, three()), "x 0.9, y 0.1");
    // Of two that differ by less than can be shown, the name decides.
    let equal = compile(json!({ "queries": [query("q")] }));
    assert_eq!(rank(&equal, vec![values(&[("z", 0.1 + 0.2), ("a", 0.3)])]), "a 0.3, z 0.3");
}

#[test]
fn models_take_an_image_that_was_not_used_before_the_window_and_no_other_that_lacks_a_signal() {
    let policy = compile(usage("expectedSavings", &json!({ "count": 2 })));
    let answers = vec![
        values(&[("idle", 1.0), ("unpulled", 1.0), ("negative", -1.0)]),
        values(&[("new", 1.0), ("unpulled", 1.0), ("negative", 1.0)]),
        values(&[("new", 4.0), ("idle", 4.0), ("negative", 1.0)]),
    ];
    let ranked = rank_on(1, &policy, answers);
    assert_eq!(shown(&ranked), "new 4");
    let why: Vec<_> = ranked.left_out.iter().map(|left| left.why.clone()).collect();
    assert_eq!(why, [Why::NoSignal("target".into()), Why::Negative, Why::NoSignal("pull".into())]);
}

#[test]
fn models_do_not_take_an_image_for_cold_while_nobody_knows() {
    let policy = compile(usage("expectedSavings", &json!({ "count": 2 })));
    let [target, pull] = [1, 2].map(|query| policy.measure(query, values(&[("x", 4.0)]), at(NOW)));
    let ranked = policy.rank(&[None, Some(&target), Some(&pull)], |_| 1, &BTreeSet::new());
    assert_eq!((ranked.images.len(), &ranked.left_out[0].why), (0, &Why::NoSignal("pre".into())));
    let empty = policy.measure(0, values(&[]), at(NOW));
    assert_eq!(shown(&policy.rank(&[Some(&empty), Some(&target), Some(&pull)], |_| 1, &BTreeSet::new())), "x 7.5");
}

#[test]
fn nodes_are_counted_by_the_selector_then_by_the_number() {
    let selector = json!({ "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "gpu", "operator": "Exists" }] }] });
    let cases = [
        // nodes, how many are Ready or selected, N
        (json!({}), 4, 4.0),
        (json!({ "count": 2 }), 4, 2.0),
        (json!({ "selector": selector }), 4, 4.0),
        (json!({ "selector": selector, "count": 2 }), 4, 4.0),
        (json!({ "selector": selector, "count": 2 }), 0, 2.0),
    ];
    for (nodes, counted, n) in cases {
        let policy = compile(usage("expectedSavings", &nodes));
        let answers = [values(&[("x", 1.0)]), values(&[("x", 1.0)]), values(&[("x", 20.0)])];
        let measure = |(query, answer)| policy.measure(query, answer, at(NOW));
        let measured: Vec<_> = answers.into_iter().enumerate().map(measure).collect();
        let count = |selector: Option<&NodeSelector>| {
            assert_eq!(selector.is_some(), nodes.get("selector").is_some());
            counted
        };
        let ranked = policy.rank(&measured.iter().map(Some).collect::<Vec<_>>(), count, &BTreeSet::new());
        // N · q · (1 − q) · p
        assert_eq!(ranked.images[0].score, 20.0 * (1.0 - 1.0 / n), "{nodes}");
    }
}

#[test]
fn scores_are_shown_as_decimal_numbers_of_at_most_twelve_digits() {
    let tiny = format!("0.{}5", "0".repeat(323));
    let huge = format!("1{}", "0".repeat(300));
    let cases = [
        (0.0, "0"),
        (3.0, "3"),
        (0.1, "0.1"),
        (1.0 / 3.0, "0.333333333333"),
        (0.1 + 0.2, "0.3"),
        (0.500_000_000_000_000_1, "0.5"),
        (2.0 / 3.0 * 1e9, "666666666.667"),
        (123_456_789_012_345.0, "123456789012000"),
        (1e21, "1000000000000000000000"),
        (5e-324, &tiny),
        (1e300, &huge),
    ];
    for (score, expected) in cases {
        assert_eq!(score_text(score), expected);
    }
    assert!(score_text(f64::MAX).len() <= 512 && score_text(f64::MIN_POSITIVE).len() <= 512);
}

// ---- Images -----------------------------------------------------------------

#[test]
fn what_is_no_image_is_left_out_with_its_reason() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let pinned = format!("nginx@{digest}");
    let tagged = format!("nginx:1.25@{digest}");
    let long = format!("ghcr.io/{}", "a".repeat(600));
    let policy = compile(json!({ "queries": [query("q")], "imageFilter": "nginx|^ghcr\\.io/\\w+/" }));
    let id = "b1".repeat(32);
    let images = ["", "  ", &digest, &id, "not an image", "Upper/Case", "http://nginx", &long, "nginx@sha256:abc"]
        .into_iter()
        .chain([pinned.as_str(), &tagged, "nginx", "ghcr.io/team/app:v1", "alpine"]);
    let answer = images.map(|image| (image, 1.0)).collect::<Vec<_>>();
    let ranked = rank_on(1, &policy, vec![values(&answer)]);
    assert_eq!(shown(&ranked), format!("{pinned} 2, nginx 1, ghcr.io/team/app:v1 1"));
    let mut why: Vec<_> = ranked.left_out.iter().map(|left| left.why.to_string()).collect();
    why.sort();
    why.dedup();
    assert_eq!(
        why,
        [
            "imageFilter does not match",
            "it is not an image name",
            "it is the ID of an image on a node, which no registry knows",
            "the result has no label \"image\"",
        ]
    );
    assert_eq!(ranked.left_out.iter().filter(|left| left.why == Why::NotAnImage).count(), 5);
}

#[test]
fn an_answer_with_any_number_of_images_is_cut_to_the_highest() {
    let policy = compile(json!({ "queries": [query("q")], "maxImages": 500 }));
    let names: Vec<_> = (0..MOST_IMAGES + 100).map(|n| format!("image-{n}")).collect();
    let answer: Vec<_> = names.iter().enumerate().map(|(n, name)| (name.as_str(), n as f64)).collect();
    let measured = policy.measure(0, values(&answer), at(NOW));
    assert_eq!((measured.image_count(), measured.left_out.len()), (MOST_IMAGES, 100));
    assert!(measured.signals[&0].values().all(|value| *value >= 100.0));
    let ranked = policy.rank(&[Some(&measured)], |_| 1, &BTreeSet::new());
    assert_eq!((ranked.images.len(), ranked.images[0].score), (500, (MOST_IMAGES + 99) as f64));
}

// ---- Registries -------------------------------------------------------------

fn registry(fields: &Value) -> Value {
    let mut registry = json!({ "url": "https://registry.example.com:5000/", "repositories": ["team/app"] });
    registry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({ "sources": [{ "type": "registry", "registry": registry }] })
}

#[test]
fn the_newest_of_every_repository_come_first() {
    let policy = compile(registry(&json!({ "topX": 3, "repositories": ["team/a", "team/b"] })));
    let answer = vec![repository("team/a", &["1.0", "2.0", "3.0", "4.0"]), repository("team/b", &["7", "latest"])];
    let ranked = rank_on(1, &policy, vec![Answer::Tags(answer)]);
    let shown = shown(&ranked).replace("registry.example.com:5000/team/", "");
    assert_eq!(shown, "a:4.0 1, b:7 1, a:3.0 0.5, b 0.5, a:2.0 0.333333333333");
    assert_eq!(ranked.left_out[0].why, Why::TopX);
}

#[test]
fn tags_become_images_by_the_template() {
    let named = |url: &str, template: Value| {
        let mut fields = json!({ "url": url });
        fields["imageTemplate"] = template;
        let policy = compile(registry(&fields));
        let ranked = rank_on(1, &policy, vec![Answer::Tags(vec![repository("team/app", &["v1"])])]);
        ranked.images[0].image.to_string()
    };
    let cases = [
        ("https://registry.example.com:5000/", Value::Null, "registry.example.com:5000/team/app:v1"),
        ("https://registry-1.docker.io", Value::Null, "docker.io/team/app:v1"),
        ("https://index.docker.io/", Value::Null, "docker.io/team/app:v1"),
        ("https://hub.docker.com", Value::Null, "docker.io/team/app:v1"),
        ("https://registry.hub.docker.com", Value::Null, "docker.io/team/app:v1"),
        ("https://index.docker.io:443/v2", Value::Null, "docker.io/team/app:v1"),
        ("https://r.example:443", Value::Null, "r.example/team/app:v1"),
        ("http://r.example:443", Value::Null, "r.example:443/team/app:v1"),
        (
            "http://127.0.0.1:5000/base",
            json!("{{ .Registry }}/{{.Repository}}:{{ .Tag}}"),
            "127.0.0.1:5000/team/app:v1",
        ),
        (
            "https://ghcr.io",
            json!("mirror.example.com/{{.Repository}}:{{.Tag}}-debug"),
            "mirror.example.com/team/app:v1-debug",
        ),
    ];
    for (url, template, expected) in cases {
        assert_eq!(named(url, template), expected);
    }
}

#[test]
fn a_repository_that_was_not_read_to_its_end_is_named() {
    let policy = compile(registry(&json!({ "url": "https://ghcr.io" })));
    let whole = repository("whole", &["v1"]);
    let cut = Repository { end: End::MaxScan, ..repository("cut", &["v1"]) };
    let stuck = Repository { end: End::Stuck, ..repository("stuck", &["v1"]) };
    let answer = vec![whole, cut, stuck];
    let ranked = rank_on(1, &policy, vec![Answer::Tags(answer.clone())]);
    let left_out = |image: &str, why| LeftOut { image: image.into(), why };
    let expected = [left_out("ghcr.io/cut", Why::MaxScan), left_out("ghcr.io/stuck", Why::NoNextPage)];
    assert_eq!((ranked.images.len(), &ranked.left_out[..]), (3, &expected[..]));
    let note = policy.measure(0, Answer::Tags(answer), at(NOW)).note.unwrap();
    assert!(note.starts_with("cut (and 1 more): maxScan is reached"), "{note}");
}

#[test]
fn of_a_repository_that_fails_the_images_are_known() {
    let cases = [
        ("https://ghcr.io", Value::Null, "team/app", "ghcr.io/team/app:1", true),
        ("https://ghcr.io", Value::Null, "team/app", "ghcr.io/team/app/deep:1", false),
        ("https://ghcr.io", Value::Null, "team/app", "ghcr.io/team/apple:1", false),
        ("https://hub.docker.com", Value::Null, "alpine", "docker.io/library/alpine:3", true),
        ("https://ghcr.io", json!("m.example/{{.Repository}}:{{.Tag}}-debug"), "a", "m.example/a:1-debug", true),
        ("https://ghcr.io", json!("m.example/{{.Repository}}:{{.Tag}}-debug"), "a", "m.example/a:1", false),
        ("https://ghcr.io", json!("m.example/{{.Tag}}/{{.Repository}}:{{.Tag}}"), "a", "m.example/1/a:1", true),
        ("https://ghcr.io", json!("m.example/{{.Repository}}"), "a", "m.example/a:latest", true),
        ("https://ghcr.io", json!("m.example/{{.Repository}}"), "b", "m.example/a:latest", false),
        ("http://[2001:db8::1]:5000", Value::Null, "a", "[2001:db8::1]:5000/a:1", true),
    ];
    for (url, template, path, image, expected) in cases {
        let mut fields = json!({ "url": url });
        fields["imageTemplate"] = template;
        assert_eq!(compile(registry(&fields)).may_be_of(0, path, image), expected, "{path} {image}");
    }
}

#[test]
fn an_image_that_two_repositories_make_counts_once() {
    let fields = json!({ "repositories": ["a", "b"], "imageTemplate": "x:{{.Tag}}" });
    let answer = vec![repository("a", &["2", "1"]), repository("b", &["1"])];
    assert_eq!(rank(&compile(registry(&fields)), vec![Answer::Tags(answer)]), "x:1 1, x:2 1");
}

// ---- Kubelets ---------------------------------------------------------------

#[test]
fn what_kubelets_say_of_pulls_is_read_and_nothing_else() {
    let secs = SignedDuration::from_millis;
    let cases = [
        (
            "Successfully pulled image \"ghcr.io/a/b:1\" in 1m21.3s (1m30s including waiting). Image size: 123456 bytes.",
            Some(("ghcr.io/a/b:1", Some(secs(81_300)), Some(123_456))),
        ),
        ("Successfully pulled image \"x\" in 450ms (450ms including waiting)", Some(("x", Some(secs(450)), None))),
        ("Successfully pulled image \"x\" in 1h2m3.5s", Some(("x", Some(secs(3_723_500)), None))),
        ("Successfully pulled image \"x\" in 12.3µs", Some(("x", Some(SignedDuration::from_nanos(12_300)), None))),
        ("Successfully pulled image \"x\" in 2s. Image size: 7 bytes.", Some(("x", Some(secs(2_000)), Some(7)))),
        ("Successfully pulled image \"x\"", Some(("x", None, None))),
        ("Successfully pulled image \"x\" in a while", Some(("x", None, None))),
        ("Container image \"x\" already present on machine", None),
        ("Pulling image \"x\"", None),
        ("Failed to pull image \"x\": not found", None),
        ("Successfully pulled image x in 1s", None),
        ("", None),
    ];
    for (message, expected) in cases {
        let event = PullEvent::from_message(at(NOW), message);
        let read = event.as_ref().map(|event| (event.image.as_str(), event.pull_time, event.size));
        assert_eq!(read, expected, "{message}");
        assert!(event.is_none_or(|event| event.at == at(NOW)));
    }
}

// ---- Specs ------------------------------------------------------------------

#[test]
fn the_short_form_asks_what_the_full_one_does() {
    let prometheus = |fields: Value| {
        let mut block = json!({ "endpoint": "http://p", "query": "up" });
        block.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({ "type": "prometheus", "prometheus": block, "secretRef": { "name": "s" } })
    };
    let full = |fields: Value| {
        let mut query = prometheus(fields);
        query["name"] = json!("q");
        compile(json!({ "queries": [query] })).queries()[0].backend.clone()
    };
    for (short, long) in [
        (json!({}), json!({ "queryType": "instant" })),
        (json!({ "lookback": "168h" }), json!({ "queryType": "range", "lookback": "168h", "step": "5m" })),
        (json!({ "queryType": "range", "step": "1m" }), json!({ "lookback": "24h", "step": "1m" })),
    ] {
        let policy = compile(json!({ "sources": [prometheus(short)] }));
        let [query] = policy.queries() else { panic!("one query") };
        assert_eq!((query.name.as_str(), query.secret.as_deref()), ("sources[0]", Some("s")));
        assert_eq!(query.backend, full(long));
    }
    let loki = json!({ "type": "loki", "loki": { "endpoint": "http://l", "query": "{}" } });
    let policy = compile(json!({ "sources": [prometheus(json!({})), loki] }));
    assert!(matches!(policy.queries()[1].backend, Backend::Loki(_)));
    assert_eq!(policy.signals().map(AsRef::as_ref).collect::<Vec<_>>(), ["sources[0]", "sources[1]"]);
    let pulls = Answer::Pulls(vec![pull(NOW, "x", 60.0), pull(NOW, "x", 70.0), pull(NOW, "y", 80.0)]);
    assert_eq!(rank(&policy, vec![values(&[("y", 1.5)]), pulls]), "x 2, y 1.5");
}

fn invalid(spec: Value) -> String {
    Pipeline::compile(&serde_json::from_value(spec).unwrap()).unwrap_err().to_string()
}

/// `spec` with `value` at `pointer`.
fn with(mut spec: Value, pointer: &str, value: Value) -> Value {
    *spec.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    spec
}

#[test]
fn a_spec_that_cannot_be_done_is_refused_with_the_field() {
    let count = json!({ "count": 2 });
    let savings = || usage("expectedSavings", &count);
    let window = |fields: Value| one_signal(&query("q"), "windowAggregate", &fields);
    let weighted = |fields: Value| one_signal(&query("q"), "timeWeightedAggregate", &fields);
    let weights = |timezone: &str, window: Value| {
        weighted(json!({ "method": "sum", "timezone": timezone, "defaultWeight": 0, "windows": [window] }))
    };
    let short = json!({ "type": "prometheus", "prometheus": prometheus() });
    let day = json!({ "start": "09:00", "end": "17:00" });
    let cases = [
        (json!({}), "sources"),
        (json!({ "sources": [short], "queries": [query("q")] }), "sources"),
        (json!({ "sources": [{ "type": "loki" }] }), "sources[0].loki"),
        (json!({ "queries": [query("q"), query("q")] }), "queries[1].name"),
        (
            with(json!({ "queries": [query("q")] }), "/queries/0/prometheus/endpoint", json!("mimir")),
            "queries[0].prometheus.endpoint",
        ),
        (
            with(json!({ "queries": [query("q")] }), "/queries/0/prometheus/lookback", json!("0s")),
            "queries[0].prometheus.lookback",
        ),
        (json!({ "queries": [query("q")], "imageFilter": "(" }), "imageFilter"),
        (json!({ "queries": [query("q")], "maxImages": 0 }), "maxImages"),
        (json!({ "queries": [query("q")], "ranking": { "strategy": "signal", "signal": "q" } }), "ranking"),
        (registry(&json!({ "tagFilter": "[" })), "sources[0].registry.tagFilter"),
        (registry(&json!({ "topX": 0 })), "sources[0].registry.topX"),
        (registry(&json!({ "versionPattern": "(" })), "sources[0].registry.versionPattern"),
        (registry(&json!({ "versionPattern": "^v" })), "sources[0].registry.versionPattern"),
        (registry(&json!({ "imageTemplate": "{{.Registry}}/{{.Digest}}" })), "sources[0].registry.imageTemplate"),
        (registry(&json!({ "imageTemplate": "{{.Registry" })), "sources[0].registry.imageTemplate"),
        (registry(&json!({ "imageTemplate": "{Registry}:{{.Tag}}" })), "sources[0].registry.imageTemplate"),
        (with(savings(), "/signals/1/query", json!("other")), "signals[1].query"),
        (with(savings(), "/signals/1/name", json!("pre")), "signals[1].name"),
        (with(savings(), "/signals/1/aggregate", Value::Null), "signals[1].aggregate"),
        (one_signal(&query("q"), "eventPullTime", &json!({ "statistic": "p50" })), "signals[0].type"),
        (with(registry_window(), "/signals/0/name", json!("s")), "signals[0].type"),
        (window(json!({ "method": "sum" })), "signals[0].windowAggregate"),
        (window(json!({ "method": "sum", "relativeWindow": "0s" })), "signals[0].windowAggregate.relativeWindow"),
        (window(json!({ "method": "sum", "relativeWindow": "169h" })), "signals[0].windowAggregate.relativeWindow"),
        (window(json!({ "method": "sum", "window": day })), "signals[0].windowAggregate"),
        (
            window(json!({ "method": "sum", "window": day, "timezone": "Mars/Olympus" })),
            "signals[0].windowAggregate.timezone",
        ),
        (
            window(json!({ "method": "sum", "window": { "start": "09:00", "end": "24:00" }, "timezone": "UTC" })),
            "signals[0].windowAggregate.window.end",
        ),
        (
            weights("Nowhere", json!({ "startHour": 9, "endHour": 17, "weight": 1 })),
            "signals[0].timeWeightedAggregate.timezone",
        ),
        (
            weights("UTC", json!({ "startHour": 24, "endHour": 24, "weight": 1 })),
            "signals[0].timeWeightedAggregate.windows[0].startHour",
        ),
        (
            weights("UTC", json!({ "startHour": 9, "endHour": 25, "weight": 1 })),
            "signals[0].timeWeightedAggregate.windows[0].endHour",
        ),
        (
            weights("UTC", json!({ "startHour": 9, "endHour": 17, "weight": 0 })),
            "signals[0].timeWeightedAggregate.windows",
        ),
        (
            with(savings(), "/ranking/expectedSavings/pullTimeSignal", json!("p")),
            "ranking.expectedSavings.pullTimeSignal",
        ),
        (with(savings(), "/ranking/strategy", json!("modelExposure")), "ranking.modelExposure"),
        (with(savings(), "/ranking", json!({ "strategy": "signal", "signal": "p" })), "ranking.signal"),
        (
            with(
                savings(),
                "/ranking",
                json!({ "strategy": "weightedSum", "weightedSum": {
                "terms": [{ "signal": "pre", "weight": 1 }, { "signal": "p", "weight": 1 }],
            } }),
            ),
            "ranking.weightedSum.terms[1].signal",
        ),
        (
            with(
                savings(),
                "/ranking",
                json!({ "strategy": "weightedSum", "weightedSum": {
                "terms": [{ "signal": "pre", "weight": 0 }],
            } }),
            ),
            "ranking.weightedSum.terms",
        ),
    ];
    for (spec, path) in cases {
        let error = invalid(spec.clone());
        assert_eq!(error.split_once(": ").unwrap().0, path, "{error}\n{spec}");
    }
}

/// A window over the tags of a registry.
fn registry_window() -> Value {
    let query =
        json!({ "name": "r", "type": "registry", "registry": { "url": "https://ghcr.io", "repositories": ["a"] } });
    one_signal(&query, "windowAggregate", &json!({ "method": "sum", "relativeWindow": "1h" }))
}
