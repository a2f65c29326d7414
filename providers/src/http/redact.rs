//! Takes secrets out of what a person may get to see.

use secrecy::{ExposeSecret, SecretString};

/// What stands where a secret stood.
const HIDDEN: &str = "[hidden]";

/// As much of an answer as an error shows, in characters.
const EXCERPT: usize = 600;

/// An answer as an error may show it: without the secrets that we know, without the values of
/// JSON fields that are named like one, and not too long.
pub(crate) fn excerpt(text: &str, secrets: &[SecretString]) -> String {
    let mut text = hide_fields(text);
    for secret in secrets.iter().map(ExposeSecret::expose_secret) {
        // An empty secret stands between any two letters.
        if !secret.is_empty() {
            text = text.replace(secret, HIDDEN);
        }
    }
    let text = text.trim();
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether a field of this name may hold a secret that we never sent: one marketplace hands out a
/// key for each instance.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["api_key", "apikey", "token", "secret", "password", "private_key"]
        .iter()
        .any(|word| name.ends_with(word))
}

/// Empties the string values of JSON fields with a secret's name, in text that need not be whole
/// JSON.
fn hide_fields(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    let mut name = "";
    while let Some(start) = rest.find('"') {
        let (before, quoted) = rest.split_at(start);
        let end = closing_quote(quoted);
        let value = quoted[..end].trim_matches('"');
        shown.push_str(before);
        if before.trim() == ":" && is_secret(name) {
            shown.push('"');
            shown.push_str(HIDDEN);
            shown.push('"');
        } else {
            shown.push_str(&quoted[..end]);
        }
        name = value;
        rest = &quoted[end..];
    }
    shown.push_str(rest);
    shown
}

/// Where a quoted string ends, its closing quote included.
fn closing_quote(quoted: &str) -> usize {
    let mut escaped = false;
    for (place, byte) in quoted.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return place + 1,
            _ => {}
        }
    }
    quoted.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_sent_is_hidden_wherever_it_stands() {
        let secrets = [SecretString::from("open-sesame"), SecretString::from("")];
        let shown = excerpt("no user has the key open-sesame, sorry", &secrets);
        assert_eq!(shown, "no user has the key [hidden], sorry");
    }

    #[test]
    fn what_they_hand_out_is_hidden_by_its_name() {
        let cases = [
            (
                r#"{"instance_api_key": "abc", "id": 7}"#,
                r#"{"instance_api_key": "[hidden]", "id": 7}"#,
            ),
            (r#"{"access_token":"a\"b","a":"b"}"#, r#"{"access_token":"[hidden]","a":"b"}"#),
            (r#"{"jupyter_token":"cut of"#, r#"{"jupyter_token":"[hidden]""#),
            (r#"{"msg":"token"}"#, r#"{"msg":"token"}"#),
        ];
        for (answer, shown) in cases {
            assert_eq!(excerpt(answer, &[]), shown);
        }
    }

    #[test]
    fn a_long_answer_is_cut_between_letters() {
        let shown = excerpt(&"ü".repeat(2_000), &[]);
        assert_eq!(shown.chars().count(), EXCERPT + 1);
    }
}
