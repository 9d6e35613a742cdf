//! The simulation, tied to real time if one likes to watch.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use drop_sim::Lab;
use jiff::SignedDuration;

use crate::rest::is_at_rest;
use crate::story::Story;
use crate::view::{Screen, Timeline, View};
use crate::{Args, summary, table};

/// So much time passes between two looks.
const TICK: SignedDuration = SignedDuration::from_secs(1);
/// Statuses and NodeCaches that only tell numbers are written so much later.
const STRAGGLERS: SignedDuration = SignedDuration::from_secs(60);
/// A simulation that never comes to rest ends then.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Simulates what is asked for, and shows it on standard output.
///
/// # Errors
/// The files cannot be used, an entry of a CachedImageSet is not valid, nothing can be written, or the planner
/// broke a promise.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let story = Story::new(args)?;
    let mut out = io::stdout().lock();
    let played = match out.is_terminal() {
        true => play(story, args, &mut Screen::default(), &mut out),
        false => play(story, args, &mut Timeline::default(), &mut out),
    };
    match played {
        // Who reads has read enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        played => played.map(drop),
    }
}

/// Simulates what is asked for without showing it. Returns the cluster, with the record of all that happened.
///
/// # Errors
/// The files cannot be used, an entry of a CachedImageSet is not valid, or the planner broke a promise.
pub fn record(args: &Args) -> anyhow::Result<Lab> {
    play(Story::new(args)?, args, &mut Timeline::default(), &mut io::sink())
}

/// Lets a story happen until everything is at rest, and tells of it. Returns the cluster.
pub(crate) fn play(mut story: Story, args: &Args, view: &mut dyn View, out: &mut dyn Write) -> anyhow::Result<Lab> {
    let speed = args.speed();
    let mut lab = story.begin(args);
    introduce(&story, &lab, speed, out)?;
    let start = Instant::now();
    let (mut elapsed, mut rested_at) = (SignedDuration::ZERO, None);
    let rested_at = loop {
        for sentence in story.happen(&mut lab, elapsed) {
            view.tell(elapsed, &sentence, out)?;
        }
        let is_busy = lab.next_at().is_some_and(|at| at <= lab.now + TICK);
        lab.run(TICK);
        elapsed += TICK;
        if speed > 0.0 || is_busy {
            view.show(&lab, elapsed, out)?;
        }
        let rests = story.next_at().is_none() && is_at_rest(&lab);
        rested_at = rested_at.or(Some(elapsed)).filter(|_| rests);
        match rested_at {
            Some(at) if elapsed - at >= STRAGGLERS => break Some(at),
            None if elapsed >= LONGEST => break None,
            // Numbers that lag behind are not worth waiting for.
            Some(_) => {}
            None if speed > 0.0 => sleep_until(start, elapsed.as_secs_f64() / speed),
            None => {}
        }
    };
    view.end(out)?;
    for table in table::all() {
        writeln!(out, "\n{}", table.command())?;
        table.print(&lab, out)?;
    }
    summary::print(&lab, rested_at, out)?;
    if !lab.violations.is_empty() {
        let violations: Vec<String> = lab.violations.iter().map(ToString::to_string).collect();
        bail!("the planner broke a promise:\n  {}", violations.join("\n  "));
    }
    let invalid = summary::invalid_entries(&lab);
    if !invalid.is_empty() {
        bail!("not every entry is valid:\n  {}", invalid.join("\n  "));
    }
    Ok(lab)
}

fn introduce(story: &Story, lab: &Lab, speed: f64, out: &mut dyn Write) -> io::Result<()> {
    let pace =
        if speed > 0.0 { format!("{speed} times as fast as real time") } else { "as fast as possible".to_owned() };
    writeln!(out, "The planner of Drop on a simulated cluster, {pace}. Nodes: {}.", lab.api.nodes.len())?;
    for object in &story.passed_over {
        writeln!(out, "Not simulated: {object}")?;
    }
    writeln!(out)?;
    out.flush()
}

/// Waits until so many seconds have passed since `start`.
fn sleep_until(start: Instant, seconds: f64) {
    let passed = start.elapsed();
    thread::sleep(Duration::from_secs_f64(seconds).saturating_sub(passed));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Pace;

    fn fast() -> Args {
        Args { pace: Pace { speed: Some(0.0) }, ..Args::default() }
    }

    fn played(args: &Args) -> (Lab, String) {
        let mut out = Vec::new();
        let lab = play(Story::new(args).unwrap(), args, &mut Timeline::default(), &mut out).unwrap();
        (lab, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_demo_ends_as_it_should() {
        let (lab, text) = played(&fast());
        // AGE follows from every delay in the cluster.
        let tables = table::all().into_iter().map(|table| {
            let table = table.ageless();
            [vec![table.command()], table.lines(&lab, usize::MAX), vec![String::new()]].concat().join("\n")
        });
        let shown = tables.collect::<Vec<_>>().join("\n");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo.golden");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &shown).unwrap();
        }
        assert_eq!(shown, std::fs::read_to_string(path).unwrap(), "BLESS=1 accepts it; what led there: {text}");
    }

    #[test]
    fn the_demo_shows_pacing_failures_that_stay_where_they_belong_and_recovery() {
        let (lab, text) = played(&fast());
        let app = lab.reasons("team-app");
        assert!(app.contains(&"ImagePullBackOff".to_owned()) && app.last().unwrap() == "Cached", "{app:?}");
        assert_eq!(lab.shows("typo"), "ImagePullBackOff 0/4");
        assert!(text.contains("PullPolicy gentle: at most 2 nodes at once, of 2 allowed"), "{text}");
        assert!(text.contains("==> node worker-4 joins and is not Ready"), "{text}");
        let at_10_times_the_speed = lab.now.duration_since(lab.record.pods[0].at) / 10;
        assert!(at_10_times_the_speed < SignedDuration::from_secs(60), "{at_10_times_the_speed}");
    }

    #[test]
    fn a_pipe_gets_no_control_characters() {
        let (_, text) = played(&fast());
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn a_roll_out_of_ones_own_takes_as_long_as_its_policy_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/toolchain-set.yaml");
        let args = Args {
            files: vec![path.into()],
            nodes: Some(20),
            pull_time: Some("1s".parse().unwrap()),
            ..Args::default()
        };
        let (lab, text) = played(&args);
        assert_eq!(lab.api.images.len(), 3);
        assert!(lab.api.images.keys().all(|name| lab.shows(name) == "Cached 20/20"), "{text}");
        // 19 delays of 30 s.
        let last = lab.record.pods.last().unwrap().second();
        assert!((570..580).contains(&last), "{last}: {text}");
        assert!(text.contains("At rest after 9m 3") && text.contains("; every image is on its nodes."), "{text}");
    }

    /// Plays documents.
    fn play_text(text: &str) -> (anyhow::Result<Lab>, String) {
        let args = Args { nodes: Some(2), ..fast() };
        let mut out = Vec::new();
        let lab = Story::of(text, &args).and_then(|story| play(story, &args, &mut Timeline::default(), &mut out));
        (lab, String::from_utf8(out).unwrap())
    }

    const SET: &str = "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImageSet
metadata: {name: tools}
spec: {images: [{image: alpine}, {image: \"https://a/b\"}]}
";

    #[test]
    fn an_entry_that_is_not_valid_is_no_success() {
        let (lab, text) = play_text(SET);
        let error = lab.err().unwrap().to_string();
        assert!(error.contains("CachedImageSet \"tools\": spec.images[1] (https://a/b): "), "{error}");
        assert!(text.contains("; every valid image is on its nodes."), "{text}");
    }

    #[test]
    fn a_node_that_joins_and_is_ready_in_the_same_moment_becomes_ready() {
        let (lab, text) = play_text(
            "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: a}
spec: {image: alpine}
---
apiVersion: v1
kind: Node
metadata: {name: late}
---
apiVersion: simulation.drop.corewire.io/v1
kind: Simulation
spec: {joins: [{node: late, at: 1m, ready: 1m}]}
",
        );
        assert_eq!(lab.unwrap().shows("a"), "Cached 3/3", "{text}");
    }

    #[test]
    fn what_fails_on_one_node_for_a_while_comes_there_later() {
        let (lab, text) = play_text(
            "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: a}
spec: {image: quay.io/a/b}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: large}
spec: {image: quay.io/a/large}
---
apiVersion: simulation.drop.corewire.io/v1
kind: Simulation
spec:
  outages: [{of: quay.io, nodes: [node-1], outcome: forbidden, until: 5m}]
  kubelets: [{node: node-2, is: {rejectsNext: {reason: OutOfpods, message: too many Pods}}}]
  machines: {node-2: {disk: 150000000}}
  sizes: {quay.io/a/large: 200000000}
",
        );
        let lab = lab.unwrap();
        assert_eq!(
            (lab.shows("a").as_str(), lab.reasons("large").last().unwrap().as_str()),
            ("Cached 2/2", "ImagePullBackOff")
        );
        for sentence in [
            "==> quay.io on node-1 cannot be pulled: the registry answers 403",
            "==> quay.io on node-1 can be pulled again",
            "==> the kubelet of node-2 rejects the next Pod: too many Pods",
        ] {
            assert!(text.contains(sentence), "{sentence}: {text}");
        }
    }

    #[test]
    fn what_waits_for_somebody_ends_at_once() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/pace-a-build-image.yaml");
        let files = vec![path.into()];
        let (lab, _) = played(&Args { files: files.clone(), ..Args::default() });
        assert_eq!(lab.shows("golang-ci"), "NoMatchingNodes 0/0");
        let label = ("node-role.kubernetes.io/build".to_owned(), "true".to_owned());
        let (lab, _) = played(&Args { files, labels: vec![label], ..Args::default() });
        assert_eq!(lab.shows("golang-ci"), "Cached 3/3");
    }
}
