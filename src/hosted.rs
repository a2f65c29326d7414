//! What the job would cost at hosted APIs, from `templates/hosted.toml` and a user's own file of the
//! same form (`settings::hosted_prices`).
//!
//! Whoever plans to rent should know when not to.

use crate::{
    model::{Shape, whole},
    need::Workload,
};
use providers::Usd;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// A price of a hosted API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Who sells it.
    pub service: String,
    /// What is sold, in the seller's words.
    pub model: String,
    /// The open models that it is, by our names.
    #[serde(default)]
    pub same: Vec<String>,
    /// Billions of parameters, where that is known.
    pub billions: Option<f64>,
    /// Whether nobody else has the model.
    #[serde(default)]
    pub closed: bool,
    /// US dollars for a million tokens in.
    pub input: f64,
    /// US dollars for a million tokens out.
    pub output: f64,
    /// What the batch mode takes, as a share of the price. None where there is none.
    pub batch: Option<f64>,
    /// The day of the price, as `2026-11-05`.
    pub date: String,
    /// Who says so.
    pub source: String,
    /// What the batch mode is limited to.
    pub limits: Option<String>,
    /// What to know before believing it.
    pub note: Option<String>,
}

/// How a hosted model compares with the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Likeness {
    /// It is the same.
    Same,
    /// It is an open one of about the size.
    Alike,
    /// It is one that only its maker has.
    Closed,
}

/// What the job would cost at an API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quote {
    /// The price that it is made of.
    pub price: Price,
    /// How the model compares.
    pub likeness: Likeness,
    /// The whole job, in batch mode where there is one.
    pub cost: Usd,
}

/// Models whose sizes are this far apart, as a factor, still compare.
const ALIKE: f64 = 1.35;

/// A file of prices can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the file of hosted prices can't be read: {0}")]
pub struct PriceError(#[from] pub(crate) toml::de::Error);

impl Price {
    /// What a job costs at this price, in batch mode where there is one.
    pub fn cost(&self, work: &Workload) -> Usd {
        // A dollar for a million tokens is a millionth of one for each.
        let each = work.input * self.input + work.output * self.output;
        Usd(whole((work.prompts as f64 * each * self.batch.unwrap_or(1.0)).ceil()))
    }

    fn likeness(&self, model: &str, billions: Option<f64>) -> Option<Likeness> {
        if self.same.iter().any(|name| name.eq_ignore_ascii_case(model)) {
            return Some(Likeness::Same);
        }
        if self.closed {
            return Some(Likeness::Closed);
        }
        let factor = self.billions? / billions?;
        (factor.max(1.0 / factor) <= ALIKE).then_some(Likeness::Alike)
    }
}

/// Reads a file of prices.
pub fn parse(text: &str) -> Result<Vec<Price>, PriceError> {
    #[derive(Deserialize)]
    struct Table {
        #[serde(default)]
        price: Vec<Price>,
    }
    let table: Table = toml::from_str(text)?;
    Ok(table.price)
}

/// The prices that we know.
pub fn prices() -> &'static [Price] {
    static PRICES: LazyLock<Vec<Price>> = LazyLock::new(|| {
        parse(include_str!("../templates/hosted.toml")).expect("a test reads this file")
    });
    &PRICES
}

/// What a job would cost at each API that has the model, or one that compares: the same model
/// first, then open ones of its size, then closed ones, each the cheapest first. A price of the
/// user's own replaces ours.
pub fn quotes(model: &str, shape: Option<&Shape>, work: &Workload, own: &[Price]) -> Vec<Quote> {
    // A mixture of experts answers about as well, and is sold for about as much, as a dense model of the
    // geometric mean of what it has and what it uses for a token: a rule of thumb, and better than
    // either.
    let size = |shape: &Shape| (shape.parameters as f64 * shape.active as f64).sqrt() / 1e9;
    let billions = shape.map(size);
    let is_replaced = |price: &&Price| {
        own.iter().any(|other| other.service == price.service && other.model == price.model)
    };
    let known = prices().iter().filter(|price| !is_replaced(price));
    let quote = |price: &Price| {
        let likeness = price.likeness(model, billions)?;
        Some(Quote { cost: price.cost(work), likeness, price: price.clone() })
    };
    let mut quotes: Vec<_> = known.chain(own).filter_map(quote).collect();
    quotes.sort_by_key(|quote| (quote.likeness, quote.cost));
    quotes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::entries;

    const JOB: Workload = Workload { prompts: 4_000_000, input: 1_000.0, output: 200.0 };

    fn of(name: &str, own: &[Price]) -> Vec<Quote> {
        let shape = entries().iter().find(|entry| entry.name == name).unwrap().config.shape();
        quotes(name, Some(&shape.unwrap()), &JOB, own)
    }

    #[test]
    fn the_articles_job_costs_what_the_study_says() {
        let cost = |model: &str| {
            let price = prices().iter().find(|price| price.model == model).unwrap();
            price.cost(&JOB).0 / 1_000_000
        };
        for (model, dollars) in [
            ("Llama 3.1 8B Turbo", 89),
            ("an 8B model", 120),
            ("any model of 4 to 16B", 480),
            ("Qwen3 8B", 832),
            ("Llama 3.3 70B Turbo", 524),
            ("GPT-5 nano", 260),
            ("GPT-5 mini", 1_300),
            ("GPT-5.5", 22_000),
            ("Gemini 3.1 Flash-Lite", 1_100),
            ("Claude Haiku 4.5", 4_000),
        ] {
            assert_eq!(cost(model), dollars, "{model}");
        }
    }

    #[test]
    fn the_same_model_comes_first_then_its_like_then_closed_ones() {
        let quotes = of("Llama-3.1-8B-Instruct", &[]);
        assert_eq!(
            (quotes[0].likeness, quotes[0].price.service.as_str()),
            (Likeness::Same, "DeepInfra")
        );
        assert!(quotes.is_sorted_by_key(|quote| (quote.likeness, quote.cost)));
        assert!(quotes.iter().any(|quote| quote.likeness == Likeness::Alike));
        assert!(quotes.iter().all(|quote| quote.price.billions != Some(70.0)));
    }

    #[test]
    fn a_mixture_of_experts_is_set_beside_what_is_sold_for_as_much() {
        // 30 billion, of which 3 work for a token.
        let quotes = of("Qwen3-30B-A3B", &[]);
        let alike = quotes.iter().filter(|quote| quote.likeness == Likeness::Alike);
        let sizes: Vec<_> = alike.map(|quote| quote.price.billions.unwrap()).collect();
        assert!(!sizes.is_empty() && sizes.iter().all(|size| (7.0..14.0).contains(size)));
    }

    #[test]
    fn a_users_price_replaces_ours() {
        let own = parse(
            r#"
            [[price]]
            service = "DeepInfra"
            model = "Llama 3.1 8B Turbo"
            same = ["Llama-3.1-8B-Instruct"]
            input = 0.01
            output = 0.01
            date = "2026-12-01"
            source = "an offer of theirs"
            "#,
        );
        let quotes = of("Llama-3.1-8B-Instruct", &own.unwrap());
        assert_eq!(quotes[0].cost, Usd(48_000_000));
        let same = quotes.iter().filter(|quote| quote.likeness == Likeness::Same);
        assert_eq!(same.count(), 1);
        assert!(parse("[[price]]\nservice = 1").is_err());
    }

    #[test]
    fn every_price_has_a_day_and_names_models_that_are_known() {
        for price in prices() {
            let digits = price.date.bytes().filter(u8::is_ascii_digit).count();
            assert_eq!((price.date.len(), digits), (10, 8), "{}", price.model);
            for name in &price.same {
                assert!(entries().iter().any(|entry| entry.name == *name), "{name}");
            }
        }
    }
}
