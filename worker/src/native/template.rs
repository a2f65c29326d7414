//! Chat templates: messages to the text that a model was trained on.
//!
//! Templates come with models, so they are strangers' programs: they run on a budget of steps, see
//! nothing but the messages, and an error in them fails one prompt.

use crate::engine::EngineError;
use minijinja::{
    Environment, Error, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Steps that one rendering may take. Real templates take a few dozen for each message.
const FUEL: u64 = 10_000_000;

/// The name under which the environment knows the template.
const NAME: &str = "chat";

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
}

impl Template {
    /// Compiles a template.
    pub(super) fn new(source: String) -> Result<Self, EngineError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format, now()));
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source).map_err(|error| {
            EngineError::work(format!("the model's chat template can't be understood: {error:#}"))
        })?;
        Ok(Self { environment })
    }

    /// Renders `messages` and the beginning of an answer. `more` are values that the request
    /// gives the template by name.
    pub(super) fn render(
        &self,
        messages: &serde_json::Value,
        more: Option<&serde_json::Map<String, serde_json::Value>>,
        begin: Option<&str>,
        end: Option<&str>,
    ) -> Result<String, String> {
        let mut values = more.cloned().unwrap_or_default();
        let mut set = |name: &str, value| values.insert(name.to_owned(), value);
        set("messages", messages.clone());
        set("add_generation_prompt", true.into());
        set("bos_token", begin.unwrap_or_default().into());
        set("eos_token", end.unwrap_or_default().into());
        set("tools", serde_json::Value::Null);
        set("documents", serde_json::Value::Null);
        let template = self.environment.get_template(NAME).expect("it was added");
        template.render(Value::from(Serde(&values))).map_err(|error| match error.detail() {
            Some(detail) => format!("the model's chat template refuses the messages: {detail}"),
            None => format!("the model's chat template fails on the messages: {error}"),
        })
    }
}

/// `tojson` as Hugging Face has it: nothing is escaped for HTML.
#[expect(clippy::needless_pass_by_value, reason = "what minijinja calls has this form")]
fn to_json(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let _: Option<bool> = arguments.get("ensure_ascii")?;
    arguments.assert_all_used()?;
    let failed =
        |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let text = match indent {
        None => spaced(&serde_json::to_value(value).map_err(failed)?),
        Some(width) => {
            let indent = vec![b' '; width.min(16)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            let mut bytes = Vec::new();
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
            serde::Serialize::serialize(value, &mut serializer).map_err(failed)?;
            String::from_utf8(bytes).expect("JSON is text")
        }
    };
    Ok(Value::from_safe_string(text))
}

/// JSON with Python's blanks after colons and commas.
fn spaced(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(spaced).collect();
            format!("[{}]", items.join(", "))
        }
        serde_json::Value::Object(fields) => {
            let field = |(name, value): (&String, &serde_json::Value)| {
                format!("{}: {}", serde_json::Value::from(name.as_str()), spaced(value))
            };
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("{{{}}}", fields.join(", "))
        }
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => value.to_string(),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Formats a time, in seconds since 1970 and UTC, as C's `strftime` does.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (year, month, day) = date(seconds / 86_400);
    let name = MONTHS.into_iter().nth(usize::try_from(month - 1).expect("a month is small"));
    let name = name.expect("there are twelve months");
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let shown = match characters.next() {
            Some('Y') => format!("{year:04}"),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('-') => match characters.next() {
                Some('d') => day.to_string(),
                Some('m') => month.to_string(),
                other => return Err(unknown_conversion(other)),
            },
            Some('B') => name.to_owned(),
            Some('b') => name[..3].to_owned(),
            Some('y') => format!("{:02}", year % 100),
            Some('H') => format!("{:02}", seconds / 3600 % 24),
            Some('M') => format!("{:02}", seconds / 60 % 60),
            Some('S') => format!("{:02}", seconds % 60),
            Some('%') => "%".to_owned(),
            other => return Err(unknown_conversion(other)),
        };
        text.push_str(&shown);
    }
    Ok(text)
}

fn unknown_conversion(character: Option<char>) -> Error {
    let shown = character.map_or_else(String::new, String::from);
    Error::new(ErrorKind::InvalidOperation, format!("strftime_now doesn't know %{shown}"))
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last (Howard Hinnant's `civil_from_days`).
fn date(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, messages: &serde_json::Value) -> Result<String, String> {
        let template = Template::new(source.to_owned()).expect("it compiles");
        template.render(messages, None, Some("<s>"), Some("</s>"))
    }

    #[test]
    fn a_template_sees_what_hugging_faces_gives_it() {
        let source = "{{ bos_token }}{% for m in messages %}\n    [{{ m.role.upper() }}] \
                      {{ m['content'].strip() }}{{ eos_token }}\n{% endfor %}\n\
                      {% if add_generation_prompt and not tools %}[ASSISTANT]{% endif %}";
        let text = render(source, &json!([{"role": "user", "content": " hi "}]));
        assert_eq!(text.as_deref(), Ok("<s>    [USER] hi</s>\n[ASSISTANT]"));
    }

    #[test]
    fn tojson_writes_what_python_would() {
        let value = json!([{"a": [1, "<é>"], "b": null}]);
        let text = render("{{ messages | tojson }}", &value);
        assert_eq!(text.as_deref(), Ok(r#"[{"a": [1, "<é>"], "b": null}]"#));
    }

    #[test]
    fn a_refusal_is_told_in_the_templates_words() {
        let error = render("{{ raise_exception('roles must alternate') }}", &json!([]));
        assert!(error.expect_err("it raises").ends_with("roles must alternate"));
    }

    #[test]
    fn an_endless_template_runs_out_of_fuel() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) \
                      %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(render(source, &json!([])).is_err());
    }

    #[test]
    fn times_are_told_as_c_tells_them() {
        for (seconds, want) in [
            (0, "01 Jan 1970 00:00:00"),
            (951_827_696, "29 Feb 2000 12:34:56"),
            (1_795_532_055, "24 Nov 2026 14:54:15"),
        ] {
            assert_eq!(strftime("%d %b %Y %H:%M:%S", seconds).expect("all are known"), want);
        }
        assert!(strftime("%Q", 0).is_err());
    }
}
