//! Conversations as text: JSON lines of messages, put through the model's own template.

use brevity_eval::Text;
use brevity_formats::Checkpoint;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};
use serde_json::Value;

use crate::open::TextError;

/// Loads `FILE#field`: each line a JSON object whose field is a list of messages. The conversations follow each other
/// as the template ends them.
pub(crate) fn load(spec: &str, model: &Checkpoint) -> Result<Text, TextError> {
    let named = spec.rsplit_once('#').filter(|(_, field)| !field.is_empty());
    let (path, field) = named.ok_or_else(|| TextError::Field { spec: spec.to_owned() })?;
    let file = Text::load(path)?;
    let template = Template::of(model)?;
    let mut text = String::new();
    for (n, line) in file.text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| TextError::Line { path: path.into(), line: n + 1, field: field.into(), what };
        let value: Value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let messages = value.get(field).filter(|messages| messages.as_array().is_some_and(|list| !list.is_empty()));
        let messages = messages.ok_or_else(|| wrong("there is none".into()))?;
        text += &template.render(messages, false)?;
    }
    Ok(Text { name: format!("chat:{}#{field}", file.name), text })
}

/// The chat template of a model.
pub(crate) struct Template {
    source: String,
    /// `bos_token` and `eos_token`, as templates ask for them.
    tokens: [String; 2],
}

impl Template {
    pub(crate) fn of(model: &Checkpoint) -> Result<Self, TextError> {
        let folder = model.folder();
        let read = |name: &str| folder.has(name).then(|| folder.read_text(name).ok()).flatten();
        let config: Value =
            read("tokenizer_config.json").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let inside = match config.get("chat_template") {
            Some(Value::String(source)) => Some(source.clone()),
            // Several by name: the default one.
            Some(Value::Array(several)) => several
                .iter()
                .find(|one| one["name"] == "default")
                .and_then(|one| one["template"].as_str())
                .map(str::to_owned),
            _ => None,
        };
        let source = read("chat_template.jinja").or(inside).ok_or(TextError::NoTemplate)?;
        let token = |key: &str| {
            let token = config.get(key).unwrap_or(&Value::Null);
            token.as_str().or(token["content"].as_str()).unwrap_or_default().to_owned()
        };
        Ok(Template { source, tokens: [token("bos_token"), token("eos_token")] })
    }

    /// The conversation as text; with `speak`, what makes the assistant speak next stands behind it.
    pub(crate) fn render(&self, messages: &Value, speak: bool) -> Result<String, TextError> {
        let mut jinja = Environment::new();
        // Templates are written for Python: `strip`, `items` and the like are methods there.
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        jinja.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(unusable)?);
        jinja.add_function("raise_exception", |what: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what))
        });
        let [bos, eos] = &self.tokens;
        let messages = minijinja::Value::from(minijinja::value::Serde(messages));
        let values = context! { messages, bos_token => bos, eos_token => eos, add_generation_prompt => speak };
        jinja.render_str(&self.source, values).map_err(unusable)
    }
}

fn unusable(error: minijinja::Error) -> TextError {
    TextError::Template { what: format!("{error:#}").lines().next().unwrap_or_default().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(source: &str) -> Template {
        Template { source: source.into(), tokens: ["<s>".into(), "</s>".into()] }
    }

    #[test]
    fn messages_go_through_the_template_of_the_model() {
        let chatml = template(
            "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'].strip() + \
             '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}no{% endif %}",
        );
        let messages = json!([{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes?"}]);
        let text = chatml.render(&messages, false).unwrap();
        assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n");
        assert_eq!(template("{{ bos_token }}{{ messages|length }}").render(&messages, false).unwrap(), "<s>2");
    }

    #[test]
    fn a_template_that_refuses_a_conversation_says_why() {
        let error = template("{{ raise_exception('roles must alternate') }}").render(&json!([]), false).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }

    #[test]
    fn a_file_of_conversations_is_one_text_and_a_bad_line_is_named() {
        let model = crate::open("tiny", crate::Open::default()).unwrap();
        assert!(matches!(load("talk.jsonl", &model), Err(TextError::Field { .. })));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("talk.jsonl");
        std::fs::write(&path, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n\n{\"messages\": 1}\n")
            .unwrap();
        let spec = format!("{}#messages", path.display());
        // `tiny` has no template; the file is looked at only when there is one.
        assert!(matches!(load(&spec, &model), Err(TextError::NoTemplate)));
    }
}
