//! A model that its hub gives only to some: machines get the user's token, and only for that.

use crate::{
    cloud::Cloud,
    program::{User, conversation},
    secrets::files_with,
};
use serde_json::{Value, json};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

const TOKEN: &str = "a-licence-holder";
const FILE: &str = "stories260K-f32.gguf";

/// What a hub was asked, and whether with the token.
type Asked = Arc<Mutex<Vec<(String, bool)>>>;

/// A hub with one model, for as long as the test program runs, that wants to see the token for each
/// answer. Its address.
fn hub(model: &Path) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = format!("http://{}", listener.local_addr().expect("it has one"));
    let digest = Command::new("sha256sum").arg(model).output().expect("it is always there");
    let digest = String::from_utf8_lossy(&digest.stdout)[..64].to_owned();
    let (asked, content) = (Asked::default(), fs::read(model).expect("it can be read"));
    let noted = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who has had enough hangs up.
            drop(answer(stream, &digest, &content, &noted));
        }
    });
    (address, asked)
}

fn answer(
    mut stream: TcpStream,
    digest: &str,
    content: &[u8],
    asked: &Asked,
) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let holds =
        lines.iter().any(|line| line.to_lowercase() == format!("authorization: bearer {TOKEN}"));
    asked.lock().expect("nobody panics").push((path.to_owned(), holds));
    let listing = |value: Value| value.to_string().into_bytes();
    let (status, body) = match path {
        _ if !holds => ("401 Unauthorized\r\nX-Error-Code: GatedRepo", Vec::new()),
        "/api/models/acme/stories/revision/main" => ("200 OK", listing(json!({ "sha": "0123" }))),
        "/api/models/acme/stories/tree/0123" => {
            let file = json!({ "type": "file", "path": FILE, "size": content.len(), "oid": "",
                "lfs": { "oid": digest, "size": content.len() } });
            ("200 OK", listing(json!([file])))
        }
        _ if path.starts_with("/acme/stories/resolve/") && path.ends_with(FILE) => {
            ("200 OK", content.to_owned())
        }
        _ => ("404 Not Found\r\nX-Error-Code: RepoNotFound", Vec::new()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(&body) }
}

/// A run of three prompts with a machine of its own.
fn run(cloud: &Cloud, user: &User, hub: &str, token: Option<&str>) -> Output {
    user.file("prompts.txt", "Once\nThere was\nA girl\n");
    let model = format!("acme/stories:{FILE}");
    let arguments = ["run", "prompts.txt", "--model", &model, "--max-tokens", "4"];
    let mut command = cloud.piecework(user, "lambda", &arguments);
    command.args(["--engine", "native", "--provider", "lambda", "--out", "out.jsonl", "--yes"]);
    command.env("HF_ENDPOINT", hub).env_remove("HF_TOKEN");
    command.envs(token.map(|token| ("HF_TOKEN", token)));
    command.output().expect("it runs")
}

#[test]
#[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
fn a_machine_gets_the_hub_token_that_its_model_needs_and_keeps_it_nowhere() {
    let Some(models) = env::var_os("PIECEWORK_TEST_MODELS").map(PathBuf::from) else {
        println!("skipped: a model for some: PIECEWORK_TEST_MODELS isn't set");
        return;
    };
    let Some(cloud) = Cloud::start("a model for some") else { return };
    let (hub, asked) = hub(&models.join("stories260K").join(FILE));

    // Nothing is rented for what no machine could have.
    for token in [None, Some("nobodys")] {
        let user = User::new();
        let output = run(&cloud, &user, &hub, token);
        let said = conversation(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("no machine could have") && said.contains("licence holders only"),
            "{said}"
        );
        assert_eq!(cloud.world("lambda")["rentals"], json!([]), "{said}");
        let runs = fs::read_dir(user.folder().join("home/runs")).expect("it can be read");
        assert_eq!(runs.count(), 0, "nothing of it is left");
    }

    let user = User::new();
    let output = run(&cloud, &user, &hub, Some(TOKEN));
    let said = conversation(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("your hub token goes to the machines over SSH"), "{said}");
    let out = fs::read_to_string(user.folder().join("out.jsonl")).expect("it is there");
    assert_eq!(out.lines().count(), 3);
    let asked = asked.lock().expect("nobody panics");
    let (last, with_token) = asked.last().expect("it was asked");
    assert!(last.starts_with("/acme/stories/resolve/0123/") && *with_token, "by the machine");
    for folder in [user.folder(), cloud.folder()] {
        assert_eq!(files_with(TOKEN, folder), Vec::<PathBuf>::new());
    }
    assert!(!said.contains(TOKEN), "{said}");
}
