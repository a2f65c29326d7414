//! `cleanup`: end what dead runs have left.

use super::{CommandError, forget::forget, markets, ps};
use crate::{
    cleanup::{self, CleanupError, Found, Kind, Whose},
    cli::CleanupArgs,
    clock,
    event::Events,
    exit::Exit,
    leases::Markets,
    report::{self, Style, words},
    run::Home,
};
use providers::Leftover;
use std::{convert::Infallible, path::Path, time::Duration};
use tokio::{signal::ctrl_c, sync::mpsc::unbounded_channel};

/// How often it looks where it is to watch.
const WATCH_EVERY: Duration = Duration::from_mins(1);

/// Cleans up.
pub(super) async fn cleanup(args: &CleanupArgs, home: Option<&Path>) -> Result<Exit, CommandError> {
    let home = ps::home_of(home)?;
    let markets = markets(&home).await?;
    if let Some(label) = &args.forget {
        return forget(label, args.yes, &home, &markets).await;
    }
    if !args.watch {
        return once(args, &home, &markets).await;
    }
    // Who has once listened for an interrupt has to listen all the time.
    let mut last = Exit::MayBeBilled;
    tokio::select! {
        biased;
        never = watch(args, &home, &markets, &mut last) => match never {},
        Ok(()) = ctrl_c() => {}
    }
    Ok(last)
}

/// Looks again and again, and notes how the last look ended. What goes wrong once may not the next
/// time.
async fn watch(args: &CleanupArgs, home: &Home, markets: &Markets, last: &mut Exit) -> Infallible {
    loop {
        *last = once(args, home, markets).await.unwrap_or_else(|failed| failed.tell());
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn once(args: &CleanupArgs, home: &Home, markets: &Markets) -> Result<Exit, CommandError> {
    let whose = if args.all_owners { Whose::Anybodys } else { Whose::Ours };
    let listings = cleanup::listings(markets).await;
    let accounts = cleanup::accounts(home).map_err(ps::unreadable)?;
    let owner = home.owner().map_err(ps::unreadable)?;
    let found = cleanup::sort(&accounts, &listings, &owner, clock::now());
    ps::show(&found, args.json);
    let exit = ps::unknown(&accounts, &listings);
    let exit = if args.all_owners { exit } else { exit.max(ps::abandoned(&found)) };
    let dead = found.iter().filter(|found| whose.is_to_end(found)).count();
    let (keys, unasked) = cleanup::keys_left(&accounts, markets).await;
    let exit = exit.max(tell(&unasked));
    if dead == 0 && keys.is_empty() {
        if exit == Exit::Done && !args.watch {
            report::note("nothing to clean up");
        }
        return Ok(exit);
    }
    let exit = exit.max(take_keys_off(args, &keys, markets).await);
    if dead == 0 {
        return Ok(exit);
    }
    let is_disk = |found: &&Found| whose.is_to_end(found) && found.disk.is_some();
    let word = match found.iter().filter(is_disk).count() {
        0 => "instance",
        disks if disks == dead => "disk",
        _ => "rental",
    };
    let instances = words::plural(dead as u64, word);
    if !args.yes && !report::ask(&format!("end {instances}?")) {
        report::note(&format!("{instances} left as they are; give `--yes` to end them"));
        return Ok(Exit::MayBeBilled);
    }
    if found.iter().any(|found| found.kind == Kind::Settling) {
        report::note("what is being given back is tried here too, once its guard lets it go");
    }
    let (sender, receiver) = unbounded_channel();
    let style = if args.json { Style::Json } else { Style::Human };
    let telling = tokio::spawn(report::tell(style, receiver));
    let events = Events::to(sender);
    let ended = tokio::select! {
        errors = cleanup::end(&found, whose, &accounts, markets, &events) => Some(errors),
        // Without somebody who hears it, the program ends as it always would.
        Ok(()) = ctrl_c() => None,
    };
    drop(events);
    // A reporter that crashed has nothing to add.
    drop(telling.await);
    let Some(errors) = ended else {
        report::note(&format!("stopped; some of {instances} may still be billed"));
        return Ok(Exit::MayBeBilled);
    };
    if errors.is_empty() {
        report::note(&format!("ended {instances}"));
    }
    Ok(exit.max(tell(&errors)))
}

async fn take_keys_off(
    args: &CleanupArgs,
    keys: &[(&'static str, Leftover)],
    markets: &Markets,
) -> Exit {
    if keys.is_empty() {
        return Exit::Done;
    }
    let number = words::plural(keys.len() as u64, "key");
    if !args.yes && !report::ask(&format!("take {number} of dead runs off the accounts?")) {
        report::note(&format!(
            "{number} of dead runs left on the accounts, where they cost nothing"
        ));
        return Exit::Done;
    }
    let errors = cleanup::remove_keys(keys, markets).await;
    if errors.is_empty() {
        report::note(&format!("took {number} of dead runs off the accounts"));
    }
    tell(&errors)
}

/// Says what went wrong, and how the program is to end for it.
fn tell(errors: &[CleanupError]) -> Exit {
    let mut exit = Exit::Done;
    for error in errors {
        report::error(error, None);
        exit = exit.max(if error.may_be_billed() { Exit::MayBeBilled } else { Exit::Failed });
    }
    exit
}
