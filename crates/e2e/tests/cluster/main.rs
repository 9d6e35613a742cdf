//! The operator against a real API server, kubelets, containerd and registry.
//!
//! Several clusters run side by side. On `shared` every scenario has nodes of its own, which it selects by label.
//! `alone` has two nodes, for scenarios that affect the operator as a whole; these run one after another. A third
//! cluster has faults between the operator and the API server, and a fourth has an operator that looks images up at
//! registries.

mod dashboard;
mod discovery;
mod docs;
mod edits;
mod failures;
mod faults;
mod ghcr;
mod gitops;
mod lease;
mod lookups;
mod metrics;
mod migration;
mod nodes;
mod pacing;
mod partial;
mod presence;
mod quickstart;
mod registries;
mod restart;
mod seed;
mod sets;
mod shippers;
mod validation;

use std::process::ExitCode;
use std::sync::Arc;

use drop_e2e::Bed;
use libtest_mimic::{Arguments, Failed, Trial};

type Scenario = fn(&Bed) -> anyhow::Result<()>;

const SHARED: [(&str, Scenario); 40] = [
    ("dashboard::each_panel_shows_data_of_a_working_operator", dashboard::each_panel_shows_data_of_a_working_operator),
    ("metrics::only_who_may_read_them_is_told", metrics::only_who_may_read_them_is_told),
    (
        "registries::a_registry_that_stalls_is_tried_by_one_pull_at_a_time",
        registries::a_registry_that_stalls_is_tried_by_one_pull_at_a_time,
    ),
    (
        "registries::registries_that_refuse_are_tried_by_one_pull_at_a_time",
        registries::registries_that_refuse_are_tried_by_one_pull_at_a_time,
    ),
    (
        "failures::a_registry_that_is_down_is_tried_by_one_pull_at_a_time",
        failures::a_registry_that_is_down_is_tried_by_one_pull_at_a_time,
    ),
    (
        "presence::an_image_that_is_removed_is_pulled_again_there",
        presence::an_image_that_is_removed_is_pulled_again_there,
    ),
    (
        "presence::a_moved_tag_is_noticed_by_one_node_and_followed_by_the_others",
        presence::a_moved_tag_is_noticed_by_one_node_and_followed_by_the_others,
    ),
    (
        "presence::a_list_that_is_full_tells_of_large_images_only",
        presence::a_list_that_is_full_tells_of_large_images_only,
    ),
    (
        "presence::a_node_that_lists_fewer_images_than_others_evicts_none",
        presence::a_node_that_lists_fewer_images_than_others_evicts_none,
    ),
    (
        "registries::a_question_that_fails_backs_off_for_the_image_and_not_node_by_node",
        registries::a_question_that_fails_backs_off_for_the_image_and_not_node_by_node,
    ),
    (
        "failures::a_pull_that_a_throttled_registry_delays_holds_up_no_other_image",
        failures::a_pull_that_a_throttled_registry_delays_holds_up_no_other_image,
    ),
    (
        "nodes::a_node_that_rejects_pods_is_told_once_and_costs_few_writes",
        nodes::a_node_that_rejects_pods_is_told_once_and_costs_few_writes,
    ),
    ("discovery::real_backends_tell_which_images_matter", discovery::real_backends_tell_which_images_matter),
    (
        "discovery::a_registry_with_tokens_and_pages_tells_the_newest_versions",
        discovery::a_registry_with_tokens_and_pages_tells_the_newest_versions,
    ),
    ("discovery::an_outage_empties_no_list", discovery::an_outage_empties_no_list),
    ("discovery::a_secret_is_used_as_soon_as_it_is_there", discovery::a_secret_is_used_as_soon_as_it_is_there),
    ("discovery::credentials_stay_with_their_host", discovery::credentials_stay_with_their_host),
    (
        "partial::a_part_of_an_answer_removes_no_image_and_stops_no_other_source",
        partial::a_part_of_an_answer_removes_no_image_and_stops_no_other_source,
    ),
    (
        "shippers::pulls_are_found_in_the_lines_of_every_shipper",
        shippers::pulls_are_found_in_the_lines_of_every_shipper,
    ),
    ("nodes::a_lost_kubelet_holds_no_slot", nodes::a_lost_kubelet_holds_no_slot),
    ("presence::what_a_node_has_already_needs_no_pod", presence::what_a_node_has_already_needs_no_pod),
    ("nodes::a_node_without_a_network_is_warmed_over_its_own", nodes::a_node_without_a_network_is_warmed_over_its_own),
    ("nodes::labels_cordons_and_taints_are_followed", nodes::labels_cordons_and_taints_are_followed),
    ("nodes::a_machine_under_an_old_name_starts_empty", nodes::a_machine_under_an_old_name_starts_empty),
    ("sets::a_set_owns_one_cachedimage_for_each_image", sets::a_set_owns_one_cachedimage_for_each_image),
    ("sets::the_longest_names_make_valid_children", sets::the_longest_names_make_valid_children),
    ("sets::twenty_images_on_four_nodes_cost_few_requests", sets::twenty_images_on_four_nodes_cost_few_requests),
    ("pacing::caps_and_delays_hold_in_the_audit_log", pacing::caps_and_delays_hold_in_the_audit_log),
    ("pacing::a_policy_edit_takes_effect_during_a_pull", pacing::a_policy_edit_takes_effect_during_a_pull),
    ("pacing::a_missing_or_paused_policy_starts_nothing", pacing::a_missing_or_paused_policy_starts_nothing),
    ("failures::an_unknown_registry_delays_nobody_else", failures::an_unknown_registry_delays_nobody_else),
    ("failures::a_private_image_needs_its_secret", failures::a_private_image_needs_its_secret),
    ("failures::a_pull_that_takes_too_long_is_given_up", failures::a_pull_that_takes_too_long_is_given_up),
    ("quickstart::an_image_without_programs_is_cached", quickstart::an_image_without_programs_is_cached),
    ("edits::an_image_is_edited_while_it_is_pulled", edits::an_image_is_edited_while_it_is_pulled),
    ("edits::two_cachedimages_of_one_image_share_a_pull", edits::two_cachedimages_of_one_image_share_a_pull),
    ("edits::long_names_and_digests_work", edits::long_names_and_digests_work),
    ("gitops::argo_cd_flux_and_kubectl_see_what_is_true", gitops::argo_cd_flux_and_kubectl_see_what_is_true),
    ("validation::bad_objects_are_refused_with_a_remedy", validation::bad_objects_are_refused_with_a_remedy),
    ("docs::what_readers_may_copy_is_accepted", docs::what_readers_may_copy_is_accepted),
];

/// Time constants that would make tests slow. An image must be listed within a minute here, because kubelets take up to
/// half a minute. Discovery is retried so late that an earlier request cannot be a retry.
const SHORTENED: [&str; 5] = [
    "--listed-within=60s",
    "--repair-initial=3s",
    "--lost-within=5s",
    "--discovery-timeout=10s",
    "--discovery-retry=10m",
];

/// These scenarios have an operator that looks images up, and also run one after another.
const LOOKUPS: [(&str, Scenario); 2] = [
    ("lookups::registries_are_asked_so_that_no_pod_is", lookups::registries_are_asked_so_that_no_pod_is),
    (
        "ghcr::a_registry_that_forbids_logins_without_a_challenge_is_asked_as_it_wants",
        ghcr::a_registry_that_forbids_logins_without_a_challenge_is_asked_as_it_wants,
    ),
];

const ALONE: [(&str, Scenario); 9] = [
    ("quickstart::the_quickstart_becomes_cached", quickstart::the_quickstart_becomes_cached),
    ("migration::objects_of_older_operators_are_taken_over", migration::objects_of_older_operators_are_taken_over),
    ("restart::a_killed_operator_goes_on_where_it_was", restart::a_killed_operator_goes_on_where_it_was),
    ("restart::a_converged_operator_sends_no_requests", restart::a_converged_operator_sends_no_requests),
    ("restart::a_standby_goes_on_for_a_killed_leader", restart::a_standby_goes_on_for_a_killed_leader),
    (
        "restart::a_leader_that_is_cut_off_stops_and_a_standby_goes_on",
        restart::a_leader_that_is_cut_off_stops_and_a_standby_goes_on,
    ),
    (
        "lease::a_deleted_or_edited_lease_never_has_two_replicas_write",
        lease::a_deleted_or_edited_lease_never_has_two_replicas_write,
    ),
    (
        "restart::a_restart_of_the_control_plane_pulls_nothing_again",
        restart::a_restart_of_the_control_plane_pulls_nothing_again,
    ),
    ("seed::its_manifests_apply_unmodified", seed::its_manifests_apply_unmodified),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(5);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let (shared, alone) = std::thread::scope(|scope| {
        let shared = scope.spawn(|| Bed::start("e2e-shared", &SHORTENED));
        let alone = Bed::start("e2e-alone", &["--lease-duration=6s", "--discovery-retry=1s"]);
        (shared.join(), alone)
    });
    match (shared, alone) {
        (Ok(Ok(shared)), Ok(alone)) => {
            let beds = (Arc::new(shared), Arc::new(alone));
            let conclusion = libtest_mimic::run(&arguments, trials(Some(&beds)));
            // The clusters must end before the process ends, whatever the result.
            drop(beds);
            conclusion.exit_code()
        }
        (Ok(Err(error)), _) | (_, Err(error)) => {
            eprintln!("the testbed does not start: {error:#}");
            ExitCode::FAILURE
        }
        (Err(_), Ok(_)) => {
            eprintln!("the testbed does not start");
            ExitCode::FAILURE
        }
    }
}

/// Returns every scenario; without beds only the names.
fn trials(beds: Option<&(Arc<Bed>, Arc<Bed>)>) -> Vec<Trial> {
    let report = |result: anyhow::Result<()>| result.map_err(|error| Failed::from(format!("{error:#}")));
    let shared = SHARED.into_iter().map(|(name, scenario)| {
        let bed = beds.map(|(shared, _)| shared.clone());
        Trial::test(name, move || report(bed.map_or(Ok(()), |bed| scenario(&bed))))
    });
    // One trial, because each of these scenarios builds on the result of the previous one.
    let alone = beds.map(|(_, alone)| alone.clone());
    let alone = Trial::test("alone: quickstart, restart, migration, seed", move || {
        let Some(bed) = &alone else { return Ok(()) };
        in_turn(bed, &ALONE)
    });
    let has_beds = beds.is_some();
    let faults = Trial::test("faults::nothing_is_pulled_twice_whatever_goes_wrong", move || {
        report(if has_beds { faults::nothing_is_pulled_twice_whatever_goes_wrong() } else { Ok(()) })
    });
    let lookups = Trial::test("lookups: lookups, ghcr", move || {
        if !has_beds {
            return Ok(());
        }
        let bed = Bed::start("e2e-lookups", &["--lookup=true", "--discovery-retry=2s"]);
        in_turn(&bed.map_err(|error| Failed::from(format!("{error:#}")))?, &LOOKUPS)
    });
    [alone, faults, lookups].into_iter().chain(shared).collect()
}

/// Runs scenarios one after another, up to the first that fails.
fn in_turn(bed: &Bed, scenarios: &[(&str, Scenario)]) -> Result<(), Failed> {
    for (name, scenario) in scenarios {
        scenario(bed).map_err(|error| format!("{name}: {error:#}"))?;
        eprintln!("{name} ... ok");
    }
    Ok(())
}
