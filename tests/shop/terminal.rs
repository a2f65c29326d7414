//! What a person at a terminal sees. `script` is the terminal.

use crate::shopper::Shopper;
use providers::testkit::cloud::KEY;
use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

fn at_terminal(shopper: &Shopper, command: &str, columns: u32) -> Command {
    let mut script = shopper.command("script");
    let program = env!("CARGO_BIN_EXE_piecework");
    let typed = format!("stty rows 24 cols {columns}; {program} {command}");
    script.args(["-qefc", &typed, "/dev/null"]).env("TERM", "xterm");
    script.stdin(Stdio::null()).stdout(Stdio::piped());
    script
}

fn seen(mut command: Command) -> String {
    let output = command.output().expect("`script` is there");
    String::from_utf8(output.stdout).expect("it writes UTF-8").replace('\r', "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_no_wider_than_the_terminal_and_keeps_what_matters() {
    let shopper = Shopper::new().await;
    for columns in [120, 80, 50] {
        let mut command = at_terminal(&shopper, "offers --provider vast 2>/dev/null", columns);
        let table = seen(std::mem::replace(command.env("NO_COLOR", "1"), Command::new("true")));
        for line in table.lines() {
            assert!(line.chars().count() <= columns as usize, "{columns}: {line}");
        }
        let heading = table.lines().next().unwrap_or_default();
        for column in ["price", "GPUs", "VRAM", "from"] {
            assert!(heading.contains(column), "{heading}");
        }
        assert_eq!(heading.contains("download"), 110 < columns, "{heading}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_are_for_terminals_whose_user_wants_them() {
    let shopper = Shopper::new().await;
    let plain = |text: &str| !text.contains('\x1b');
    assert!(!plain(&seen(at_terminal(&shopper, "offers", 120))));
    let mut command = at_terminal(&shopper, "offers", 120);
    command.env("NO_COLOR", "1");
    assert!(plain(&seen(command)));
    assert!(plain(&shopper.run(&["offers"]).all()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_for_at_a_terminal_and_not_shown_while_it_is_typed() {
    let shopper = Shopper::new().await;
    let mut script = at_terminal(&shopper, "login vast", 200);
    let mut child = script.stdin(Stdio::piped()).spawn().expect("`script` is there");
    let mut typed = child.stdin.take().expect("it is piped");
    let mut shown = child.stdout.take().expect("it is piped");
    let mut screen = String::new();
    let mut until = |words: &str, screen: &mut String| {
        let mut byte = [0];
        while !screen.ends_with(words) {
            assert_eq!(shown.read(&mut byte).expect("it is open"), 1, "it ended:\n{screen}");
            screen.push(byte[0].into());
        }
    };
    until("API key of Vast.ai: ", &mut screen);
    writeln!(typed, "{KEY}").expect("it listens");
    until("[y/N] ", &mut screen);
    assert!(!screen.contains(KEY), "{screen}");
    assert!(!shopper.keys().exists(), "nobody has agreed yet");
    writeln!(typed, "y").expect("it listens");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(shopper.files_with_key(), [shopper.keys()]);
}
