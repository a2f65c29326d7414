//! The same sentences about every marketplace. A new one is a row here; without it
//! `every_marketplace_is_here` fails and names it.

mod suite;

use providers::PROVIDERS;

/// Makes one test of each sentence for each marketplace.
macro_rules! conformance {
    ($($marketplace:ident)+; $($sentence:ident)+) => {
        conformance!(@rows [$($marketplace)+] ($($sentence)+));
        const ROWS: &[&str] = &[$(stringify!($marketplace)),+];
    };
    (@rows [$($marketplace:ident)+] $sentences:tt) => {
        $(conformance!(@row $marketplace $sentences);)+
    };
    (@row $marketplace:ident ($($sentence:ident)+)) => {
        mod $marketplace {
            $(
                #[tokio::test]
                async fn $sentence() {
                    super::suite::$sentence(stringify!($marketplace)).await;
                }
            )+
        }
    };
}

conformance! {
    vast runpod lambda verda shadeform prime;

    offers_are_whole
    offers_are_priced_as_they_are_billed
    a_rental_is_listed_under_its_label
    every_page_is_read
    a_refusal_leaves_nothing_billed
    a_fault_at_any_request_of_a_rental_is_told_truly
    a_lost_reply_is_uncertain_and_can_be_found
    a_status_that_nobody_knows_is_uncertain_and_can_be_looked_for
    rent_is_sent_once
    an_order_that_is_called_off_is_not_sent
    an_offer_that_is_gone_is_gone
    an_empty_account_is_out_of_funds
    a_late_listing_is_within_what_is_claimed
    release_twice_is_fine
    a_release_is_repeated_until_it_is_answered
    a_truncated_listing_is_an_error
    a_garbled_listing_is_an_error
    a_listing_that_fails_is_an_error
    a_listing_that_fails_once_is_asked_again
    a_rejected_key_is_unauthorized_and_not_retried
    a_rate_limit_is_waited_out
    an_unknown_state_is_kept
    an_interruption_is_seen
    an_instance_that_never_runs_stays_pending
    a_higher_price_than_quoted_is_told
    secrets_never_show
    a_strange_id_is_never_sent
    an_expiry_ends_what_nobody_else_ends
    an_expiry_can_be_moved
    what_renting_leaves_behind_is_found_and_removed
    what_others_have_left_is_not_ours
    the_account_can_be_asked_about
}

#[test]
fn every_marketplace_is_here() {
    let missing: Vec<_> =
        PROVIDERS.iter().map(|row| row.name).filter(|name| !ROWS.contains(name)).collect();
    assert!(missing.is_empty(), "no conformance row for {missing:?}");
    assert_eq!(ROWS.len(), PROVIDERS.len(), "a row has no marketplace");
}
