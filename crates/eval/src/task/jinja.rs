//! Templates and expressions over the fields of a row.

use std::collections::HashSet;
use std::sync::LazyLock;

use indexmap::IndexMap;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use regex::Regex;

use super::error::TaskError;
use super::keys::{Several, Words};
use super::kick;
use crate::data::{Place, Record};

/// Evaluates what a task says; a field that a row does not have is an error.
pub(super) struct Jinja<'a> {
    task: &'a str,
    environment: Environment<'static>,
}

/// A row as templates see it.
#[derive(Clone)]
pub(super) struct Row {
    pub fields: IndexMap<String, Value>,
    pub place: Place,
}

impl Row {
    fn context(&self) -> Value {
        Value::from_pairs(self.fields.iter().map(|(name, value)| (name.clone(), value.clone())))
    }
}

impl From<Record> for Row {
    /// What is null counts as not there.
    fn from(record: Record) -> Self {
        let said = record.fields.into_iter().filter(|(_, value)| !value.is_null());
        let fields = said.map(|(name, value)| (name, Value::from(Serde(value))));
        Row { fields: fields.collect(), place: record.place }
    }
}

/// Whether a text is a template (or an expression) at all; the error says why not.
pub(super) fn check(words: &Words, is_template: bool) -> Result<(), String> {
    let environment = environment();
    let result = match is_template {
        true => environment.template_from_str(&words.text).map(drop),
        false => environment.compile_expression(&words.text).map(drop),
    };
    result.map_err(|error| why(&error))
}

impl<'a> Jinja<'a> {
    pub fn new(task: &'a str) -> Self {
        Jinja { task, environment: environment() }
    }

    /// The text that a template makes of a row.
    pub fn text(&self, key: &str, words: &Words, row: &Row) -> Result<String, TaskError> {
        let rendered = self.environment.template_from_named_str(key, &words.text).and_then(|template| {
            template
                .render(row.context())
                .map_err(|error| self.naming(error, words, template.undeclared_variables(false), row))
        });
        rendered.map_err(|error| self.wrong(key, &error, row))
    }

    /// The value of an expression.
    pub fn value(&self, key: &str, words: &Words, row: &Row) -> Result<Value, TaskError> {
        let evaluated = self.environment.compile_expression(&words.text).and_then(|expression| {
            let value = expression.eval(row.context());
            let value = value.and_then(|value| match value.is_undefined() {
                true => Err(Error::from(ErrorKind::UndefinedError)),
                false => Ok(value),
            });
            value.map_err(|error| self.naming(error, words, expression.undeclared_variables(false), row))
        });
        evaluated.map_err(|error| self.wrong(key, &error, row))
    }

    /// The texts of an expression that gives a list, or one text.
    pub fn list(&self, key: &'static str, words: &Words, row: &Row) -> Result<Vec<String>, TaskError> {
        let value = self.value(key, words, row)?;
        if let Some(one) = value.as_str() {
            return Ok(vec![one.to_owned()]);
        }
        match value.try_iter() {
            Ok(items) => Ok(items.map(|item| item.to_string()).collect()),
            Err(_) if value.is_number() => Ok(vec![value.to_string()]),
            Err(_) => Err(self.unfit(key, &value, "a list of texts", row)),
        }
    }

    /// The texts of some templates, or of one expression.
    pub fn several(&self, key: &'static str, several: &Several, row: &Row) -> Result<Vec<String>, TaskError> {
        match several {
            Several::Templates(all) => all.iter().map(|words| self.text(key, words, row)).collect(),
            Several::Expression(words) => self.list(key, words, row),
        }
    }

    /// The error that a value is of no use.
    pub fn unfit(&self, key: &'static str, found: &Value, wanted: &str, row: &Row) -> TaskError {
        let shown: String = found.to_string().chars().take(80).collect();
        TaskError::Value {
            task: self.task.to_owned(),
            key,
            found: format!("`{shown}`"),
            wanted: wanted.to_owned(),
            place: row.place.clone(),
        }
    }

    /// An error about something undefined gets the name of a variable that the row lacks, or the text that is undefined.
    fn naming(&self, error: Error, words: &Words, names: HashSet<String>, row: &Row) -> Error {
        if error.kind() != ErrorKind::UndefinedError {
            return error;
        }
        let text = error.template_source().zip(error.range()).and_then(|(source, range)| source.get(range));
        let text = text.unwrap_or(&words.text).to_owned();
        let mut missing: Vec<&String> = names.iter().filter(|name| !row.fields.contains_key(*name)).collect();
        // The text that fails may be one of several that the template would like to have.
        missing.sort_by_key(|name| (!text.contains(name.as_str()), (*name).clone()));
        let name = missing.first().map_or(text, |name| (*name).clone());
        Error::new(ErrorKind::UndefinedError, name)
    }

    fn wrong(&self, key: &str, error: &Error, row: &Row) -> TaskError {
        let (task, key, place) = (self.task.to_owned(), key.to_owned(), row.place.clone());
        match error.kind() {
            ErrorKind::UndefinedError => {
                let field = error.detail().unwrap_or_default().to_owned();
                TaskError::Field { task, key, field, place, found: row.fields.keys().cloned().collect() }
            }
            _ => TaskError::Template { task, key, why: why(error), place },
        }
    }
}

fn why(error: &Error) -> String {
    let line = error.line().filter(|&line| line > 1).map_or(String::new(), |line| format!(" (its line {line})"));
    format!("{}{line}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("nothing but newlines is changed"));
    environment.set_debug(true);
    // Published prompts are written for Python: `strip`, `split` and the like are methods there.
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("position", position);
    environment.add_filter("flat", flat);
    environment.add_filter("ones", ones);
    environment.add_filter("wikihow", wikihow);
    environment.add_filter("cut_words", cut_words);
    environment.add_filter("kick_cut", |text: &str, count: usize| kick::cut_at_characters(text, count).to_owned());
    environment.add_filter("kick_lines", kick::lines_run_together);
    environment
}

/// `"B" | position(["A", "B"])` is 1.
fn position(value: &Value, list: &Value) -> Result<usize, Error> {
    list.try_iter()?
        .position(|item| &item == value)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("there is no `{value}` in {list}")))
}

/// `[[1], [2, 3]] | flat` is `[1, 2, 3]`.
fn flat(lists: &Value) -> Result<Vec<Value>, Error> {
    let mut items = Vec::new();
    for list in lists.try_iter()? {
        items.extend(list.try_iter()?);
    }
    Ok(items)
}

/// `[0, 1, 1] | ones` is `[1, 2]`: where the ones are.
fn ones(labels: &Value) -> Result<Vec<usize>, Error> {
    let one = Value::from(1);
    Ok(labels.try_iter()?.enumerate().filter(|(_, label)| label == &one).map(|(n, _)| n).collect())
}

/// HellaSwag's texts without what WikiHow left in them.
fn wikihow(text: &str) -> String {
    static BRACKETS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[.*?\]").expect("a pattern"));
    BRACKETS.replace_all(&text.trim().replace(" [title]", ". "), "").replace("  ", " ")
}

/// At most so many characters, without the word that would be cut.
fn cut_words(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some((end, next)) if next.is_whitespace() => text[..end].to_owned(),
        Some((end, _)) => text[..text[..end].rfind(char::is_whitespace).unwrap_or(end)].trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: serde_json::Value) -> Row {
        let serde_json::Value::Object(fields) = fields else { panic!("an object") };
        Row::from(Record { fields, place: Place { file: "f.jsonl".into(), row: 3, unit: "line" } })
    }

    fn words(text: &str) -> Words {
        Words { text: text.to_owned(), line: 1 }
    }

    #[test]
    fn a_missing_field_is_named_with_the_fields_there_are() {
        let row = row(serde_json::json!({"question": "q", "choices": {"text": ["a"]}, "list": [], "nothing": null}));
        for (text, field) in [
            ("Question: {{ qestion }}", "qestion"),
            ("{{ question }}{{ qestion | upper }}", "qestion"),
            ("{{ choices.txt }}", "choices.txt"),
            ("{{ nothing }}", "nothing"),
            ("{{ query if query is defined else other }}", "other"),
            ("{% for x in things %}{{ x }}{% endfor %}", "things"),
        ] {
            let error = Jinja::new("t").text("prompt", &words(text), &row).unwrap_err();
            let TaskError::Field { field: named, .. } = &error else { panic!("{error}") };
            assert_eq!(named, field, "{text}");
        }
        let error = Jinja::new("t").text("prompt", &words("{{ qestion }}"), &row).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`prompt` of the task `t` reads `qestion`, which a row does not have\n  line 3 of `f.jsonl`"
        );
        assert_eq!(error.hint().unwrap(), "did you mean `question`? the row has the fields question, choices, list");
        let error = Jinja::new("t").value("gold", &words("answer"), &row).unwrap_err();
        assert!(error.to_string().contains("reads `answer`"), "{error}");
        let error = Jinja::new("t").value("gold", &words("list[0]"), &row).unwrap_err();
        assert!(error.to_string().contains("reads `list[0]`"), "{error}");
    }

    #[test]
    fn other_failures_say_what_failed() {
        let row = row(serde_json::json!({"label": "E", "labels": ["A", "B"]}));
        let error = Jinja::new("t").value("gold", &words("label | position(labels)"), &row).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`gold` of the task `t` fails on a row: there is no `E` in ['A', 'B']\n  line 3 of `f.jsonl`"
        );
        let error = Jinja::new("t").list("answers", &words("true"), &row).unwrap_err();
        assert!(error.to_string().starts_with("`answers` of the task `t` is `True`, not a list of texts"), "{error}");
    }

    #[test]
    fn texts_are_kept_to_the_byte() {
        let row = row(serde_json::json!({"q": " <a> & \"b\"\n", "long": "x".repeat(100_000)}));
        assert_eq!(Jinja::new("t").text("prompt", &words("{{ q }}\n"), &row).unwrap(), " <a> & \"b\"\n\n");
        assert_eq!(Jinja::new("t").text("prompt", &words("{{ long }}"), &row).unwrap().len(), 100_000);
    }

    #[test]
    fn keys_of_a_mapping_stay_in_order() {
        let row = row(serde_json::json!({"targets": {"z": 1, "a": 0, "m": 1}}));
        assert_eq!(Jinja::new("t").list("choices", &words("targets"), &row).unwrap(), ["z", "a", "m"]);
    }

    #[test]
    fn filters() {
        assert_eq!(wikihow(" A [title] B  c [step] d [substeps] e[x"), "A. B c d e[x");
        assert_eq!(wikihow("[header] How [a [b] c] d"), " How c] d");
        assert_eq!(cut_words("one two three", 9), "one two");
        assert_eq!(cut_words("one two three", 7), "one two");
        assert_eq!(cut_words("one", 7), "one");
        let row = row(serde_json::json!({"a": [["x", "y"], ["z"]]}));
        assert_eq!(Jinja::new("t").list("answers", &words("a | flat"), &row).unwrap(), ["x", "y", "z"]);
    }
}
