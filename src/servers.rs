//! The inference servers that are known, from `templates/servers.toml`, and those of the user's.

use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use wire::Server;

/// Why a file describes no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It can't be read.
    #[error("the server's description `{}` can't be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It makes no sense.
    #[error("`{}` describes no server; templates/servers.toml shows how it is written", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// It names no program.
    #[error("`{}` describes a server without a `command`; name its program there", .0.display())]
    NoCommand(PathBuf),
}

/// The server of this name, if it is known.
pub fn named(name: &str) -> Option<&'static Server> {
    all().iter().find(|server| server.name == name)
}

/// Reads a server's description from a file.
pub fn read(path: &Path) -> Result<Server, ServerError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ServerError::File { path: path.to_owned(), source })?;
    let server: Server = toml::from_str(&text)
        .map_err(|source| ServerError::Toml { path: path.to_owned(), source: Box::new(source) })?;
    if server.command.is_empty() {
        return Err(ServerError::NoCommand(path.to_owned()));
    }
    Ok(server)
}

/// Every server that is known.
fn all() -> &'static [Server] {
    #[derive(Deserialize)]
    struct Table {
        server: Vec<Server>,
    }
    static SERVERS: LazyLock<Vec<Server>> = LazyLock::new(|| {
        let text = include_str!("../templates/servers.toml");
        let table: Table = toml::from_str(text).expect("a test reads this file");
        table.server
    });
    &SERVERS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_server_says_how_it_is_started_and_asked() {
        for server in all() {
            let Server { name, command, ready, parallel, .. } = server;
            let whole = command.join(" ");
            for placeholder in ["{model}", "{name}", "{port}", "{parallel}"] {
                assert!(whole.contains(placeholder), "{name} has no {placeholder}");
            }
            assert!(whole.contains("127.0.0.1"), "{name} would listen to strangers");
            let key = server.environment.values().chain(command).any(|text| text.contains("{key}"));
            assert!(key, "{name} would answer strangers");
            assert!(ready.starts_with('/'), "{name}: {ready}");
            assert!((1..=parallel.most).contains(&parallel.start), "{name}: {parallel:?}");
            assert!(!server.out_of_memory.is_empty(), "{name}");
        }
        assert_eq!(all().len(), 3);
    }

    #[test]
    fn a_file_of_the_users_is_read_or_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.toml");
        let parallel = "parallel = { start = 4, most = 8 }";
        std::fs::write(
            &path,
            format!("name = 'own'\ncommand = ['own']\nready = '/up'\n{parallel}"),
        )
        .unwrap();
        let server = read(&path).unwrap();
        assert_eq!((server.name.as_str(), server.patience.load), ("own", 1800));
        std::fs::write(&path, format!("name = 'own'\ncommand = []\nready = '/up'\n{parallel}"))
            .unwrap();
        assert!(matches!(read(&path), Err(ServerError::NoCommand(_))));
        std::fs::write(&path, "name = 'own'\nhaste = true").unwrap();
        assert!(matches!(read(&path), Err(ServerError::Toml { .. })));
        assert!(matches!(read(Path::new("/nowhere")), Err(ServerError::File { .. })));
    }
}
