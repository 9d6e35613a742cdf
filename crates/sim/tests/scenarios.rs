//! The scenarios in `scenarios/`: each one must produce the timeline in the file beside it.
//!
//! `BLESS=1` writes the timelines anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::path::Path;

use drop_sim::scenario::Scenario;

#[test]
fn every_scenario_goes_as_its_timeline_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut differing = Vec::new();
    for file in files {
        let scenario = Scenario::from_yaml(&fs::read_to_string(&file).unwrap());
        let scenario = scenario.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let lab = scenario.run();
        let timeline = format!("{}\n\n{}", scenario.about, lab.record.timeline());
        let golden = file.with_extension("timeline");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &timeline).unwrap();
        }
        let violations: Vec<String> = lab.violations.iter().map(ToString::to_string).collect();
        assert!(violations.is_empty(), "{}: {violations:#?}", file.display());
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if timeline != expected {
            let same = timeline.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
            let found = timeline.lines().nth(same).unwrap_or("the end");
            let wanted = expected.lines().nth(same).unwrap_or("the end");
            differing.push(format!("{}:{}: {found:?} instead of {wanted:?}", golden.display(), same + 1));
        }
    }
    assert!(differing.is_empty(), "BLESS=1 accepts what is right:\n{}", differing.join("\n"));
}
