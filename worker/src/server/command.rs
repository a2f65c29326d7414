//! A server's command line and environment, from its description and the values of this machine.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};
use wire::{Precision, Server};

/// What the placeholders of a description stand for. None has no value.
#[derive(Clone, Debug)]
pub(super) struct Values<'a> {
    /// The model's folder or file.
    pub(super) model: &'a Path,
    /// What responses call it.
    pub(super) name: &'a str,
    /// Where to listen.
    pub(super) port: u16,
    /// What requests are to show.
    pub(super) key: &'a str,
    /// Prompts at once.
    pub(super) parallel: u32,
    /// Tokens of a prompt and its answer.
    pub(super) context: Option<u32>,
    /// Its GPUs.
    pub(super) gpus: Option<usize>,
    /// Threads that compute.
    pub(super) threads: Option<u32>,
    /// Numbers to compute with.
    pub(super) precision: Option<Precision>,
    /// The seed.
    pub(super) seed: u64,
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandLine {
    /// The program.
    pub(super) program: String,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// Variables of its environment.
    pub(super) environment: BTreeMap<String, String>,
}

impl Values<'_> {
    fn get(&self, placeholder: &str) -> Option<String> {
        match placeholder {
            "model" => Some(self.model.to_string_lossy().into_owned()),
            "name" => Some(self.name.to_owned()),
            "port" => Some(self.port.to_string()),
            "key" => Some(self.key.to_owned()),
            "parallel" => Some(self.parallel.to_string()),
            "context" => self.context.map(|context| context.to_string()),
            "context_all" => self
                .context
                .map(|context| (u64::from(context) * u64::from(self.parallel)).to_string()),
            "gpus" => self.gpus.map(|gpus| gpus.to_string()),
            "threads" => self.threads.map(|threads| threads.to_string()),
            "precision" => self.precision.map(|precision| {
                let name = match precision {
                    Precision::F32 => "float32",
                    Precision::F16 => "float16",
                    Precision::Bf16 => "bfloat16",
                };
                name.to_owned()
            }),
            // Servers take no more than a C integer.
            "seed" => Some((self.seed & 0x7fff_ffff).to_string()),
            _ => None,
        }
    }

    /// The text with its placeholders filled in. The error names one that has no value.
    fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((placeholder, after)) = after.split_once('}') else { break };
            filled.push_str(before);
            filled.push_str(&self.get(placeholder).ok_or_else(|| placeholder.to_owned())?);
            rest = after;
        }
        Ok(filled + rest)
    }
}

/// How the server is started. The error says what its description lacks.
pub(super) fn command_line(server: &Server, values: &Values<'_>) -> Result<CommandLine, String> {
    let name = &server.name;
    let lacks = |placeholder| {
        format!(
            "the description of the server {name} needs a value for {{{placeholder}}}, and there is none; set it, or take it out"
        )
    };
    let fill = |text: &String| values.fill(text).map_err(lacks);
    let mut words = server.command.iter().map(fill).collect::<Result<Vec<_>, _>>()?;
    if words.is_empty() {
        return Err(format!("the description of the server {name} names no program"));
    }
    let program = words.remove(0);
    for group in &server.options {
        words.extend(
            group
                .iter()
                .map(|text| values.fill(text))
                .collect::<Result<Vec<_>, _>>()
                .unwrap_or_default(),
        );
    }
    let environment = server.environment.iter().map(|(name, text)| Ok((name.clone(), fill(text)?)));
    Ok(CommandLine {
        program,
        arguments: words,
        environment: environment.collect::<Result<_, String>>()?,
    })
}

/// Where a program is: by its path, in the folders of `PATH`, or in `places`.
pub(super) fn find(program: &str, places: &[String]) -> Option<PathBuf> {
    find_in(program, env::var_os("PATH"), places)
}

fn find_in(program: &str, path: Option<OsString>, places: &[String]) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = path.unwrap_or_default();
    let folders = env::split_paths(&path).chain(places.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::server::{Parallel, Patience};

    fn server() -> Server {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        Server {
            name: "s".into(),
            command: words("s --model={model} --port {port}"),
            options: vec![words("--split {gpus}"), words("--ctx {context_all} {context}")],
            environment: BTreeMap::from([("KEY".into(), "x{key}".into())]),
            places: Vec::new(),
            ready: "/".into(),
            metrics: None,
            out_of_memory: Vec::new(),
            parallel: Parallel { start: 1, most: 1, reserved: false },
            patience: Patience::default(),
        }
    }

    fn values() -> Values<'static> {
        Values {
            model: Path::new("/m/x.gguf"),
            name: "x",
            port: 8000,
            key: "k",
            parallel: 8,
            context: Some(4096),
            gpus: None,
            threads: None,
            precision: None,
            seed: 0,
        }
    }

    #[test]
    fn placeholders_are_filled_in_and_options_without_a_value_left_out() {
        let line = command_line(&server(), &values()).unwrap();
        let told = ["--model=/m/x.gguf", "--port", "8000", "--ctx", "32768", "4096"];
        assert_eq!(
            (line.program.as_str(), line.arguments),
            ("s", told.map(str::to_owned).to_vec())
        );
        assert_eq!(line.environment["KEY"], "xk");
        let line = command_line(&server(), &Values { gpus: Some(4), context: None, ..values() });
        assert_eq!(line.unwrap().arguments[3..], ["--split", "4"]);
    }

    #[test]
    fn a_placeholder_that_must_have_a_value_is_named() {
        let mut needy = server();
        needy.command.push("{threads}".into());
        let reason = command_line(&needy, &values()).unwrap_err();
        assert!(reason.contains("{threads}"), "{reason}");
    }

    #[test]
    fn a_program_is_found_by_path_then_in_its_places() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("s");
        std::fs::write(&program, "").unwrap();
        let place = folder.path().to_string_lossy().into_owned();
        assert_eq!(find_in("s", Some(folder.path().into()), &[]), Some(program.clone()));
        assert_eq!(find_in("s", None, std::slice::from_ref(&place)), Some(program.clone()));
        assert_eq!(find_in("s", Some("/nowhere".into()), &[]), None);
        assert_eq!(find_in(&format!("{place}/s"), None, &[]), Some(program));
        assert_eq!(find_in(&format!("{place}/t"), None, &[place]), None);
    }
}
