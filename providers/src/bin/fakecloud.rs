//! Six marketplaces on this computer, to try everything without spending.
//!
//! ```text
//! fakecloud [--listen 127.0.0.1:0] [--offers N] [--folder PATH] [--share PATH]… [--no-machines]
//! ```
//!
//! Prints one line of JSON with the address of each marketplace and the key that opens them all,
//! and serves until it is ended. `/world` shows the truth, `/world/faults` takes a plan of faults,
//! `/world/prices` makes marketplaces dearer: `{"vast": 1000}` a thousand times, and `/world/paces`
//! says how many prompts a second a GPU answers: `{"RTX 4090": 5.5}`.

use providers::testkit::cloud::{Cloud, Confinement, KEY, Machines, be_instance, be_vllm};
use serde_json::json;
use std::{
    env,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What was typed.
struct Options {
    listen: SocketAddr,
    offers: usize,
    folder: PathBuf,
    shared: Vec<PathBuf>,
    machines: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            match arguments.as_slice() {
                [word, script, folder] if word == "instance" => {
                    let served = be_instance(Path::new(script), Path::new(folder)).await;
                    served.map_err(|error| error.to_string())
                }
                [word, arguments @ ..] if word == "vllm" => {
                    be_vllm(arguments).await.map_err(|error| error.to_string())
                }
                _ => serve(parse(&arguments)?).await,
            }
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody left to tell if this fails.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        offers: 60,
        folder: env::temp_dir().join("fakecloud"),
        shared: Vec::new(),
        machines: true,
    };
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{word} needs a value"));
        let unreadable = |error: &dyn std::fmt::Display| format!("{word}: {error}");
        match word.as_str() {
            "--listen" => options.listen = value()?.parse().map_err(|error| unreadable(&error))?,
            "--offers" => options.offers = value()?.parse().map_err(|error| unreadable(&error))?,
            "--folder" => options.folder = value()?.into(),
            "--share" => options.shared.push(value()?.into()),
            "--no-machines" => options.machines = false,
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(options)
}

async fn serve(options: Options) -> Result<(), String> {
    let machines = if options.machines { Some(machines(&options)?) } else { None };
    let cloud = Cloud::start(options.listen, options.offers, machines).await;
    let cloud = cloud.map_err(|error| format!("can't listen on {}: {error}", options.listen))?;
    let mut line = cloud.urls();
    line["key"] = json!(KEY);
    let mut out = io::stdout();
    let printed = writeln!(out, "{line}").and_then(|()| out.flush());
    printed.map_err(|error| error.to_string())?;
    tokio::signal::ctrl_c().await.map_err(|error| error.to_string())?;
    // What still runs has nobody to be billed by.
    cloud.end_all().await.map_err(|error| error.to_string())
}

fn machines(options: &Options) -> Result<Machines, String> {
    let confinement = Confinement::detect().ok_or(
        "instances can't be kept off your files here: install bubblewrap, or say --no-machines",
    )?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    Machines::confined(&options.folder, &program, confinement, &options.shared)
        .map_err(|error| error.to_string())
}
