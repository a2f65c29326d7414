//! What a request may ask for, and what comes of it.

use crate::{
    harness::{answer, job, load, respond, response, text},
    small_model::{END, SmallModel, VOCABULARY},
};
use serde_json::{Value, json};
use std::collections::HashSet;
use tempfile::TempDir;
use wire::{Failure, Form, Job, Limits, Outcome};

fn model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    SmallModel::new("llama", json!({})).write(folder.path(), 1);
    folder
}

/// The choices of one text completion of the prompt "once".
fn choices(folder: &TempDir, more: Value) -> Value {
    let mut body = json!({"prompt": "once", "max_tokens": 24, "ignore_eos": true});
    let (Value::Object(body), Value::Object(more)) = (&mut body, more) else { panic!("objects") };
    body.extend(more);
    let body = Value::Object(body.clone());
    respond(load(folder.path(), &job()), Form::Text, &body)["choices"].clone()
}

fn tokens(choices: &Value) -> Vec<String> {
    let tokens = choices[0]["logprobs"]["tokens"].as_array().unwrap();
    tokens.iter().map(|token| token.as_str().unwrap().to_owned()).collect()
}

fn failure(form: Form, job: &Job, body: &Value) -> (Failure, String) {
    let folder = model();
    match answer(load(folder.path(), job), form, std::slice::from_ref(body)).remove(0) {
        Outcome::Failed { failure, reason } => (failure, reason),
        Outcome::Done { body, .. } => panic!("answered by {body}"),
    }
}

#[test]
fn the_same_seed_draws_the_same_and_another_draws_differently() {
    let folder = model();
    let draw = |seed: i64| choices(&folder, json!({"temperature": 1.5, "seed": seed}));
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn without_a_seed_the_jobs_seed_and_the_index_decide() {
    let folder = model();
    let body = json!({"prompt": "once", "max_tokens": 24, "temperature": 1.5});
    let run = |seed: u64| -> Vec<Value> {
        let engine = load(folder.path(), &Job { seed, ..job() });
        let outcomes = answer(engine, Form::Text, &[body.clone(), body.clone()]);
        outcomes.iter().map(|outcome| response(outcome)["choices"].clone()).collect()
    };
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first, again);
    assert!(first[0] != first[1] && first[0] != other[0]);
}

#[test]
fn several_choices_differ_and_their_tokens_add_up() {
    let folder = model();
    let body = json!({"prompt": "once", "max_tokens": 10, "n": 3, "temperature": 1.5,
        "ignore_eos": true});
    let response = respond(load(folder.path(), &job()), Form::Text, &body);
    let texts: HashSet<&str> = response["choices"]
        .as_array()
        .unwrap()
        .iter()
        .zip(0..)
        .map(|(choice, index)| {
            assert_eq!(choice["index"], json!(index));
            choice["text"].as_str().unwrap()
        })
        .collect();
    assert_eq!((texts.len(), &response["usage"]["completion_tokens"]), (3, &json!(30)));
}

#[test]
fn no_temperature_and_one_candidate_are_the_same() {
    let folder = model();
    let greedy = choices(&folder, json!({"temperature": 0}));
    for more in [json!({"top_k": 1}), json!({"top_p": 0.0}), json!({"min_p": 1.0})] {
        assert_eq!(choices(&folder, more.clone()), greedy, "{more}");
    }
    assert_ne!(choices(&folder, json!({"temperature": 5.0})), greedy);
}

#[test]
fn penalties_keep_tokens_from_coming_back() {
    let folder = model();
    let repeats = |more: Value| {
        let mut body = json!({"temperature": 0, "logprobs": 0, "max_tokens": 60,
            "return_tokens_as_token_ids": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let tokens = tokens(&choices(&folder, body));
        tokens.len() - tokens.iter().collect::<HashSet<_>>().len()
    };
    let plain = repeats(json!({}));
    assert!(0 < plain, "greedy answers repeat themselves");
    for name in ["presence_penalty", "frequency_penalty"] {
        assert!(repeats(json!({name: 2.0})) < plain, "{name}");
    }
    assert!(repeats(json!({"repetition_penalty": 100.0})) < plain);
}

#[test]
fn a_bias_forces_a_token_or_forbids_it() {
    let folder = model();
    let body = json!({"temperature": 0, "logit_bias": {"65": 100}, "max_tokens": 5});
    assert_eq!(choices(&folder, body)[0]["text"], json!("AAAAA"));
    let best = choices(
        &folder,
        json!({"temperature": 0, "max_tokens": 1, "logprobs": 1,
        "return_tokens_as_token_ids": true}),
    );
    let best = tokens(&best).remove(0);
    let number = best.strip_prefix("token_id:").unwrap();
    let other = choices(
        &folder,
        json!({"temperature": 0, "max_tokens": 1, "logprobs": 1,
        "logit_bias": {number: -100}, "return_tokens_as_token_ids": true}),
    );
    assert_ne!(tokens(&other)[0], best);
}

#[test]
fn the_models_end_stops_an_answer_unless_it_is_passed_over_or_too_early() {
    let folder = model();
    let bias = json!({END.to_string(): 100});
    let ask = |more: Value| {
        let mut body =
            json!({"prompt": "once", "max_tokens": 9, "logit_bias": bias, "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let response = respond(load(folder.path(), &job()), Form::Text, &body);
        let reason = response["choices"][0]["finish_reason"].as_str().unwrap().to_owned();
        (
            reason,
            response["usage"]["completion_tokens"].as_u64().unwrap(),
            text(&response).to_owned(),
        )
    };
    assert_eq!(ask(json!({})), ("stop".to_owned(), 1, String::new()));
    let (reason, count, text) = ask(json!({"min_tokens": 4}));
    assert_eq!((reason.as_str(), count), ("stop", 5));
    assert!(!text.contains("<|end|>"));
    let (reason, count, text) = ask(json!({"ignore_eos": true}));
    assert_eq!((reason.as_str(), count, text.as_str()), ("length", 9, ""));
}

#[test]
fn a_stop_text_ends_an_answer_across_tokens_and_is_left_out() {
    let folder = model();
    // Every token is a byte, so any text of two letters lies across tokens.
    let body = json!({"temperature": 1.0, "seed": 3, "max_tokens": 40,
        "logit_bias": (97..123).map(|id| (id.to_string(), json!(60))).collect::<serde_json::Map<_, _>>()});
    let whole = choices(&folder, body.clone())[0]["text"].as_str().unwrap().to_owned();
    assert!(whole.is_ascii() && whole.len() == 40, "{whole}");
    let stop = &whole[20..23];
    let at = whole.find(stop).unwrap();
    let mut stopped = body;
    stopped["stop"] = json!(["never", stop]);
    let stopped = choices(&folder, stopped);
    assert_eq!(stopped[0]["text"], json!(whole[..at]));
    assert_eq!(stopped[0]["finish_reason"], json!("stop"));
}

#[test]
fn a_text_completions_log_probabilities_have_openais_shape() {
    let folder = model();
    let body = json!({"logprobs": 2, "max_tokens": 3, "temperature": 0,
        "logit_bias": {"66": 100}});
    let logprobs = &choices(&folder, body)[0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["B", "B", "B"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2]));
    for at in 0..3 {
        let chosen = logprobs["token_logprobs"][at].as_f64().unwrap();
        assert!(chosen < 0.0);
        let top = logprobs["top_logprobs"][at].as_object().unwrap();
        // The bias is no part of them; the chosen token is always there.
        assert!((2..=3).contains(&top.len()) && top["B"].as_f64() == Some(chosen));
    }
}

#[test]
fn a_chats_log_probabilities_have_openais_shape() {
    let folder = model();
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2,
        "logprobs": true, "top_logprobs": 2, "temperature": 0, "ignore_eos": true});
    let response = respond(load(folder.path(), &job()), Form::Chat, &body);
    assert_eq!(response["object"], json!("chat.completion"));
    assert_eq!(response["model"], json!("tested"));
    let choice = &response["choices"][0];
    assert_eq!(choice["message"]["role"], json!("assistant"));
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 2);
    let top = content[0]["top_logprobs"].as_array().unwrap();
    assert_eq!((top.len(), &top[0]["token"]), (2, &content[0]["token"]));
    assert!(top[1]["logprob"].as_f64() <= top[0]["logprob"].as_f64());
    assert!(content[0]["bytes"].is_array());
}

#[test]
fn a_prompt_is_a_users_message_where_there_is_a_template() {
    let folder = model();
    let ask = |form, body: Value| respond(load(folder.path(), &job()), form, &body);
    let auto = ask(Form::Auto, json!({"prompt": "hi", "temperature": 0}));
    let parts = json!([{"type": "text", "text": "hi"}]);
    let chat = ask(
        Form::Chat,
        json!({"messages": [{"role": "user", "content": parts}], "temperature": 0}),
    );
    assert_eq!(auto["choices"], chat["choices"]);
    // "[user]hi\n" and ">".
    assert_eq!(auto["usage"]["prompt_tokens"], json!(10));
    assert_eq!(ask(Form::Text, json!({"prompt": "hi"}))["usage"]["prompt_tokens"], json!(2));
}

#[test]
fn a_parameter_comes_from_the_body_else_the_job_else_the_model() {
    let folder = model();
    let lengths = |defaults: &str, body: Value| {
        let job = Job { defaults: defaults.to_owned(), ..job() };
        let response = respond(load(folder.path(), &job), Form::Text, &body);
        response["usage"]["completion_tokens"].as_u64().unwrap()
    };
    let defaults = r#"{"max_tokens": 7, "ignore_eos": true}"#;
    assert_eq!(lengths(defaults, json!({"prompt": "a"})), 7);
    assert_eq!(lengths(defaults, json!({"prompt": "a", "max_completion_tokens": 3})), 3);
    assert_eq!(lengths("", json!({"prompt": "a", "ignore_eos": true})), 256);
    std::fs::write(folder.path().join("generation_config.json"), r#"{"do_sample": false}"#)
        .unwrap();
    let greedy = choices(&folder, json!({"temperature": 0}));
    assert_eq!(choices(&folder, json!({})), greedy);
}

#[test]
fn a_request_that_makes_no_sense_is_refused_by_the_name_of_its_field() {
    for (body, named) in [
        (json!({"prompt": "a", "temperature": "hot"}), "temperature"),
        (json!({"prompt": "a", "temperature": -1}), "temperature"),
        (json!({"prompt": "a", "top_p": 2}), "top_p"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens"),
        (json!({"prompt": "a", "max_tokens": 2.5}), "max_tokens"),
        (json!({"prompt": "a", "stop": 4}), "stop"),
        (json!({"prompt": "a", "stop": ["1", "2", "3", "4", "5"]}), "stop"),
        (json!({"prompt": "a", "seed": "x"}), "seed"),
        (json!({"prompt": "a", "n": 0}), "`n`"),
        (json!({"prompt": "a", "logprobs": 21}), "21"),
        (json!({"prompt": "a", "logit_bias": [1]}), "logit_bias"),
        (json!({"prompt": "a", "logit_bias": {"05": 1}}), "logit_bias"),
        (json!({"prompt": "a", "min_tokens": 9, "max_tokens": 3}), "min_tokens"),
        (json!({"prompt": "a", "response_format": {"type": "json_object"}}), "json_object"),
        (json!({"prompt": "a", "tools": [{"type": "function"}]}), "tools"),
        (json!({"prompt": "a", "echo": true}), "echo"),
        (json!({"prompt": ["a", "b"]}), "prompt"),
        (json!({"prompt": [VOCABULARY]}), "token"),
        (json!({"prompt": ""}), "empty"),
        (json!({}), "prompt"),
    ] {
        let (failure, reason) = failure(Form::Text, &job(), &body);
        assert_eq!(failure, Failure::BadRequest, "{body}");
        assert!(reason.contains(named) && !reason.ends_with('.'), "{body}: {reason}");
    }
    for messages in [
        json!("hi"),
        json!([]),
        json!([{"content": "x"}]),
        json!([{"role": "user",
        "content": [{"type": "image_url"}]}]),
    ] {
        let (failure, reason) = failure(Form::Chat, &job(), &json!({"messages": messages}));
        assert!(failure == Failure::BadRequest && reason.contains("messages"), "{reason}");
    }
}

#[test]
fn fields_that_arent_known_and_harmless_values_are_ignored() {
    let folder = model();
    let body = json!({"stream": true, "user": "me", "metadata": {"a": 1}, "tools": [],
        "response_format": {"type": "text"}, "best_of": 1, "temperature": 0, "stop": null});
    assert_eq!(choices(&folder, body), choices(&folder, json!({"temperature": 0})));
}

#[test]
fn a_prompt_over_the_context_fails_with_both_numbers_and_harms_no_other() {
    let folder = model();
    let short = Limits { context: Some(50), ..Limits::default() };
    let engine = || load(folder.path(), &Job { limits: short.clone(), ..job() });
    let good = json!({"prompt": "once", "temperature": 0, "max_tokens": 8});
    let long = json!({"prompt": vec![65; 50]});
    let outcomes = answer(engine(), Form::Text, &[good.clone(), long, good.clone()]);
    let alone = respond(engine(), Form::Text, &good);
    for index in [0, 2] {
        assert_eq!(response(&outcomes[index])["choices"], alone["choices"]);
    }
    let Outcome::Failed { failure, reason } = &outcomes[1] else { panic!("it is too long") };
    assert_eq!(*failure, Failure::TooLong);
    assert!(reason.contains("50 tokens") && reason.contains("may have 50"), "{reason}");
    // One that fits is cut off where the context ends.
    let nearly = json!({"prompt": vec![65; 45], "max_tokens": 100, "ignore_eos": true});
    let response = respond(engine(), Form::Text, &nearly);
    assert_eq!(response["usage"]["completion_tokens"], json!(5));
    assert_eq!(response["choices"][0]["finish_reason"], json!("length"));
}
