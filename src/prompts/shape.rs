//! Which fields of a row make its prompt: its own `prompt`, a column that is named, or a template
//! over all of them.

use super::{
    Format, Options, PromptsError, Reason,
    error::Columns,
    parse::{Body, Fault, Fields, Request},
};
use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    path::Path,
};
use wire::Form;

/// Steps that a template may take for one row, so that none goes on for ever.
const FUEL: u64 = 10_000_000;

/// The name under which the template is kept.
const TEMPLATE: &str = "prompt";

/// What a template calls a plain line.
const TEXT: &str = "text";

/// The columns that are what they are called.
const PROMPTS: [&str; 2] = ["prompt", "messages"];
const IDS: [&str; 2] = ["custom_id", "id"];

/// Makes requests of rows.
#[derive(Debug)]
pub(super) struct Shape {
    prompt: Prompt,
    id: Option<String>,
    bare: Form,
}

#[derive(Debug)]
enum Prompt {
    /// Of what the row says itself.
    AsIs,
    /// Of the column of this name.
    Column(String),
    /// Of a template over these fields. A table's column may also be called like something that
    /// templates have anyway, such as `range`, and goes before it.
    Template(Box<Environment<'static>>, Names),
}

/// The names in a template.
#[derive(Debug)]
struct Names {
    /// Those that a row must fill in.
    fields: BTreeSet<String>,
    /// Those that it may.
    known: BTreeSet<String>,
}

impl Shape {
    /// What the options ask for.
    pub(super) fn new(options: &Options) -> Result<Self, PromptsError> {
        let prompt = match (&options.template, &options.prompt_column) {
            (Some(template), _) => {
                let mut environment = Environment::new();
                environment.set_undefined_behavior(UndefinedBehavior::Strict);
                environment.set_fuel(Some(FUEL));
                environment
                    .add_template_owned(TEMPLATE, template.clone())
                    .map_err(|error| PromptsError::Template(told(&error)))?;
                let names = names(&environment)?;
                Prompt::Template(Box::new(environment), names)
            }
            (None, Some(column)) => Prompt::Column(column.clone()),
            (None, None) => Prompt::AsIs,
        };
        let bare = if options.raw { Form::Text } else { Form::Auto };
        Ok(Self { prompt, id: options.id_column.clone(), bare })
    }

    /// Whether prompts are made of columns, which a plain line doesn't have.
    pub(super) fn needs_columns(&self) -> bool {
        self.id.is_some() || matches!(self.prompt, Prompt::Column(_))
    }

    /// Of a table's columns, those that are used.
    pub(super) fn wanted(
        &self,
        path: &Path,
        columns: &[String],
    ) -> Result<HashSet<String>, PromptsError> {
        let there = |name: &str| columns.iter().any(|column| column == name);
        let all = || Columns(columns.to_vec());
        let known = |names: [&'static str; 2]| names.into_iter().filter(|name| there(name));
        let mut wanted: HashSet<String> = match &self.prompt {
            Prompt::AsIs => known(PROMPTS).map(str::to_owned).collect(),
            Prompt::Column(column) => [column.clone()].into(),
            Prompt::Template(_, Names { fields, known }) => {
                let known = known.iter().filter(|name| there(name));
                fields.iter().chain(known).cloned().collect()
            }
        };
        if matches!(self.prompt, Prompt::AsIs) && wanted.is_empty() {
            return Err(PromptsError::NoPromptColumn { path: path.to_owned(), columns: all() });
        }
        wanted.extend(self.id.clone());
        if let Some(missing) = wanted.iter().filter(|name| !there(name)).min() {
            let (path, column, columns) = (path.to_owned(), missing.clone(), all());
            return Err(PromptsError::NoColumn { path, column, columns });
        }
        if self.id.is_none() {
            wanted.extend(known(IDS).map(str::to_owned));
        }
        Ok(wanted)
    }

    /// The request of a plain line.
    pub(super) fn text<'a>(&self, line: &'a str) -> Result<Request<'a>, Fault> {
        let text = match &self.prompt {
            Prompt::Template(environment, _) => {
                let fields = Map::from_iter([(TEXT.to_owned(), Value::String(line.to_owned()))]);
                Cow::Owned(fill(environment, &fields)?)
            }
            Prompt::AsIs | Prompt::Column(_) => Cow::Borrowed(line),
        };
        Ok(Request { form: self.bare, id: None, body: Body::Text(text) })
    }

    /// The request of a JSON object: `line` is all of it.
    pub(super) fn object<'a>(
        &self,
        line: &'a str,
        fields: Fields<'a>,
    ) -> Result<Request<'a>, Fault> {
        let id = match &self.id {
            Some(column) => fields.id_in(column)?,
            None => fields.id()?,
        };
        let request = match &self.prompt {
            // Another field than `id` is no part of what the model is asked.
            Prompt::AsIs => fields.request(line, self.bare, self.id.as_deref()),
            Prompt::Column(column) => fields.text(column).map(|t| (self.bare, Body::Text(t))),
            Prompt::Template(environment, _) => serde_json::from_str(line)
                .map_err(|error| Reason::NotJson(error.to_string()))
                .and_then(|fields| fill(environment, &fields))
                .map(|text| (self.bare, Body::Text(Cow::Owned(text)))),
        };
        match request {
            Ok((form, body)) => Ok(Request { form, id, body }),
            Err(reason) => Err(Fault { id: id.map(Cow::into_owned), reason }),
        }
    }
}

fn fill(environment: &Environment<'_>, fields: &Map<String, Value>) -> Result<String, Reason> {
    let template = environment.get_template(TEMPLATE).expect("it was put there");
    let text = template.render(minijinja::Value::from(Serde(fields)));
    let text = text.map_err(|error| Reason::Template(told(&error)))?;
    if text.trim().is_empty() { Err(Reason::Empty(TEMPLATE)) } else { Ok(text) }
}

fn names(environment: &Environment<'_>) -> Result<Names, PromptsError> {
    let template = environment.get_template(TEMPLATE);
    let template = template.map_err(|error| PromptsError::Template(told(&error)))?;
    let globals: HashSet<&str> = environment.globals().map(|(name, _)| name).collect();
    let names = template.undeclared_variables(false).into_iter();
    let (known, fields) = names.partition(|name| globals.contains(name.as_str()));
    Ok(Names { fields, known })
}

/// What is wrong, without where in a file that nobody has.
fn told(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Checks that a template can be understood.
pub fn check_template(template: &str) -> Result<(), PromptsError> {
    let options = Options { template: Some(template.to_owned()), ..Options::default() };
    Shape::new(&options).map(drop)
}

/// Reads a row that isn't blank.
pub(super) fn request<'a>(
    bytes: &'a [u8],
    format: Format,
    shape: &Shape,
) -> Result<Request<'a>, Fault> {
    let line = super::parse::text(bytes)?;
    match format {
        Format::Text => shape.text(line),
        Format::Jsonl | Format::Csv | Format::Parquet => {
            let line = line.trim_ascii();
            shape.object(line, super::parse::fields(line)?)
        }
    }
}
