//! A real llama.cpp server, for tests and benches.

use std::collections::BTreeMap;
use wire::{
    Server,
    server::{Metrics, Parallel, Patience},
};

/// As templates/servers.toml describes it, with less patience.
pub(crate) fn description(program: &str) -> Server {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let command = "{program} --model {model} --alias {name} --host 127.0.0.1 --port {port} \
                   --parallel {parallel} --ctx-size {context_all} --metrics";
    let mut command = words(command);
    program.clone_into(&mut command[0]);
    let environment = [("LLAMA_API_KEY", "{key}"), ("LLAMA_ARG_CACHE_RAM", "0")];
    Server {
        name: "llama-cpp".to_owned(),
        command,
        options: vec![words("--threads {threads}")],
        environment: BTreeMap::from(environment.map(|(k, v)| (k.to_owned(), v.to_owned()))),
        places: Vec::new(),
        ready: "/health".to_owned(),
        metrics: Some(Metrics {
            path: "/metrics".to_owned(),
            names: words("llamacpp:n_decode_total llamacpp:tokens_predicted_total"),
        }),
        out_of_memory: words("cudaMalloc"),
        parallel: Parallel { start: 4, most: 4, reserved: true },
        patience: Patience { load: 120, silent: 6, stalled: 60 },
    }
}
