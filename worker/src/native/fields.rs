//! Fields of a request, wherever they come from, with errors that name them.

use super::simd::narrowed;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// A request's body, and what speaks where it is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    /// The body.
    pub(super) body: &'a Map<String, Value>,
    /// The job's defaults.
    pub(super) job: &'a Map<String, Value>,
    /// The advice of the model's makers.
    pub(super) model: &'a Map<String, Value>,
}

/// What the advice of a model's makers is taken for.
const ADVICE: [&str; 6] =
    ["do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"];

impl<'a> Fields<'a> {
    /// A field's value. Null counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let set =
            |fields: &'a Map<String, Value>| fields.get(name).filter(|value| !value.is_null());
        set(self.body).or_else(|| set(self.job)).or_else(|| self.advice(name))
    }

    /// What the model's makers advise.
    pub(super) fn advice(&self, name: &str) -> Option<&'a Value> {
        if !ADVICE.contains(&name) {
            return None;
        }
        self.model.get(name).filter(|value| !value.is_null())
    }

    /// A number within bounds.
    pub(super) fn number(
        &self,
        name: &str,
        bounds: RangeInclusive<f64>,
    ) -> Result<Option<f32>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| format!("`{name}` is not a number"))?;
        if bounds.contains(&number) {
            return Ok(Some(narrowed(number)));
        }
        let (start, end) = bounds.into_inner();
        Err(format!("`{name}` is {number}, and must be from {start} to {end}"))
    }

    /// A whole number.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // A seed may use all 64 bits.
        let whole = value.as_i64().or_else(|| value.as_u64().map(u64::cast_signed));
        whole.map(Some).ok_or_else(|| format!("`{name}` is not a whole number"))
    }

    /// A whole number that isn't negative.
    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.map(Some).ok_or_else(|| format!("`{name}` is not a whole number from 0 on"))
    }

    /// A truth value.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| format!("`{name}` is neither true nor false"))
    }

    /// A text or a list of up to `most` texts. Empty texts are left out.
    pub(super) fn texts(&self, name: &str, most: usize) -> Result<Vec<String>, String> {
        let wrong = || format!("`{name}` is neither a text nor a list of texts");
        let texts: Vec<String> = match self.get(name) {
            None => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(value) => {
                let items = value.as_array().ok_or_else(wrong)?.iter();
                let texts: Option<_> = items.map(|item| item.as_str().map(str::to_owned)).collect();
                texts.ok_or_else(wrong)?
            }
        };
        if most < texts.len() {
            return Err(format!("`{name}` has {} texts, and {most} is the most", texts.len()));
        }
        Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }
}
