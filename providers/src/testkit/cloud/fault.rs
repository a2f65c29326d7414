//! What goes wrong, and when.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a request is for, whatever its path is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Lists what is for rent.
    Offers,
    /// Rents.
    Rent,
    /// Lists what is rented.
    List,
    /// Looks at one rental.
    Show,
    /// Ends a rental.
    Release,
    /// Reads or adds public keys.
    Keys,
    /// Asks for an access token.
    Token,
    /// Anything else.
    Other,
}

impl Call {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Offers,
        Self::Rent,
        Self::List,
        Self::Show,
        Self::Release,
        Self::Keys,
        Self::Token,
        Self::Other,
    ];

    /// As it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Offers => "offers",
            Self::Rent => "rent",
            Self::List => "list",
            Self::Show => "show",
            Self::Release => "release",
            Self::Keys => "keys",
            Self::Token => "token",
            Self::Other => "other",
        }
    }
}

/// What goes wrong with one request, or with what it rents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is carried out, and the connection breaks before a word of the answer.
    LoseReply,
    /// It isn't carried out, and the connection breaks.
    Drop,
    /// It isn't carried out, and is answered with this status.
    Status {
        /// 429 and 5xx, mostly.
        code: u16,
        /// Seconds to stay away, if it says so.
        retry_after: Option<u64>,
    },
    /// It is carried out, and answered with this status all the same.
    Late5xx {
        /// 5xx, mostly.
        code: u16,
    },
    /// It is carried out twice, as something in between does that sends it again, and is answered
    /// once.
    Twice,
    /// It is carried out, and the answer breaks off in the middle.
    Truncate,
    /// It is carried out, and the answer is not what it should be.
    Garble,
    /// It isn't carried out, and the answer repeats the request with its key, as some servers'
    /// error pages do.
    Echo {
        /// The status of the answer.
        code: u16,
    },
    /// It is carried out at once, and answered properly after this time, by when whoever asked may
    /// be gone.
    Slow {
        /// How long.
        millis: u64,
    },
    /// Something goes wrong with what is rented.
    Rental(Mishap),
}

/// What goes wrong with what is rented. Only orders meet these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mishap {
    /// Somebody was faster.
    OfferGone,
    /// The account is empty.
    OutOfFunds,
    /// The bid doesn't win. At Vast.ai that leaves a stopped instance behind.
    BidTooLow,
    /// It is not listed for this time.
    Late {
        /// How long.
        millis: u64,
    },
    /// It never runs.
    NeverReady,
    /// It runs after this time.
    Boot {
        /// How long.
        millis: u64,
    },
    /// It is taken back after this time.
    Outbid {
        /// How long.
        millis: u64,
    },
    /// Its disk stays when it is ended, and is billed on. At Verda only.
    LeavesDisk,
    /// It costs more than was quoted.
    Dearer {
        /// How much more.
        percent: u32,
    },
    /// Its machine isn't what was offered.
    Faulty(Defect),
    /// It is in a state that nobody has heard of.
    State {
        /// What the state is called.
        word: String,
    },
}

impl Mishap {
    /// How its machine differs from what was offered, if it does.
    pub(super) fn defect(&self) -> Option<Defect> {
        if let Self::Faulty(defect) = self { Some(*defect) } else { None }
    }
}

/// How a machine differs from what was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// Its driver sees no GPU.
    NoGpu,
    /// It has one GPU less.
    FewerGpus,
    /// Its GPUs have half the memory.
    LessMemory,
    /// Its driver is for CUDA 11.0.
    OldDriver,
    /// Its disk is full.
    FullDisk,
}

/// A fault, and the requests that meet it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Which marketplace, or any.
    #[serde(default)]
    pub provider: Option<String>,
    /// Which kind of request, or any.
    #[serde(default)]
    pub call: Option<Call>,
    /// Only once there was a request of this kind, whatever became of it.
    #[serde(default)]
    pub since: Option<Call>,
    /// How many such requests are let through first.
    #[serde(default)]
    pub after: u32,
    /// How many meet it then.
    #[serde(default = "once")]
    pub times: u32,
    /// What goes wrong.
    pub fault: Fault,
    /// What also goes wrong with what is rented by such a request.
    #[serde(default)]
    pub with: Option<Mishap>,
}

impl Planned {
    /// The next request of any kind, anywhere.
    pub const fn next(fault: Fault) -> Self {
        Self { provider: None, call: None, since: None, after: 0, times: 1, fault, with: None }
    }
}

const fn once() -> u32 {
    1
}

/// What is still to go wrong.
#[derive(Debug, Default)]
pub(super) struct Plan {
    planned: Vec<Planned>,
    /// The kinds of requests that there were since it was made, and where.
    seen: BTreeSet<(String, Call)>,
}

impl Plan {
    /// Forgets what was planned, and plans this.
    pub(super) fn replace(&mut self, planned: Vec<Planned>) {
        *self = Self { planned, seen: BTreeSet::new() };
    }

    /// What is left of it.
    pub(super) fn left(&self) -> &[Planned] {
        &self.planned
    }

    /// What goes wrong with this request, and with what it rents. Each request uses up one place of
    /// the first plan that it fits.
    pub(super) fn strike(&mut self, provider: &str, call: Call) -> (Option<Fault>, Option<Mishap>) {
        let seen = &self.seen;
        let fits = |planned: &&mut Planned| {
            0 < planned.times
                && planned.provider.as_deref().is_none_or(|name| name == provider)
                && planned.call.is_none_or(|kind| kind == call)
                && planned.since.is_none_or(|kind| seen.contains(&(provider.to_owned(), kind)))
        };
        let planned = self.planned.iter_mut().find(fits);
        self.seen.insert((provider.to_owned(), call));
        match planned {
            Some(planned) if 0 < planned.after => {
                planned.after -= 1;
                (None, None)
            }
            Some(planned) => {
                planned.times -= 1;
                if let Fault::Rental(mishap) = &planned.fault {
                    return (None, Some(mishap.clone()));
                }
                (Some(planned.fault.clone()), planned.with.clone())
            }
            None => (None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_strikes_the_requests_that_it_names_and_no_others() {
        let text = r#"[{"provider":"vast","call":"rent","after":1,"fault":"lose_reply"},
            {"fault":{"status":{"code":429,"retry_after":1}},"call":"list","times":2}]"#;
        let mut plan = Plan::default();
        plan.replace(serde_json::from_str(text).unwrap());
        let mut strike = |provider, call| plan.strike(provider, call).0;
        assert_eq!(strike("vast", Call::Rent), None);
        assert_eq!(strike("runpod", Call::Rent), None);
        assert_eq!(strike("vast", Call::Rent), Some(Fault::LoseReply));
        assert_eq!(strike("vast", Call::Rent), None);
        let busy = Some(Fault::Status { code: 429, retry_after: Some(1) });
        assert_eq!(strike("prime", Call::List), busy);
        assert_eq!(strike("vast", Call::List), busy);
        assert_eq!(strike("vast", Call::List), None);
    }

    #[test]
    fn a_plan_may_wait_for_another_kind_of_request_and_strike_what_is_rented_as_well() {
        let text = r#"[{"since":"release","call":"list","fault":"drop"},
            {"call":"rent","fault":"lose_reply","with":{"late":{"millis":5}}},
            {"call":"rent","fault":{"rental":"offer_gone"}}]"#;
        let mut plan = Plan::default();
        plan.replace(serde_json::from_str(text).unwrap());
        let late = Some(Mishap::Late { millis: 5 });
        assert_eq!(plan.strike("vast", Call::Rent), (Some(Fault::LoseReply), late));
        assert_eq!(plan.strike("vast", Call::Rent), (None, Some(Mishap::OfferGone)));
        assert_eq!(plan.strike("vast", Call::List), (None, None));
        assert_eq!(plan.strike("vast", Call::Release), (None, None));
        assert_eq!(plan.strike("prime", Call::List), (None, None));
        assert_eq!(plan.strike("vast", Call::List), (Some(Fault::Drop), None));
    }
}
