//! The user's own prices of hosted APIs.

use super::SettingsError;
use crate::hosted::{self, Price};
use etcetera::{BaseStrategy, base_strategy::choose_base_strategy};
use std::{fs, io};

/// The name of the user's file of prices.
const HOSTED: &str = "hosted.toml";

/// The user's own prices of hosted APIs, in `hosted.toml` beside the user's settings. None where there
/// is no such file.
pub fn hosted_prices() -> Result<Vec<Price>, SettingsError> {
    let path = choose_base_strategy()?.config_dir().join("piecework").join(HOSTED);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(SettingsError::File { path, source }),
    };
    hosted::parse(&text).map_err(|error| SettingsError::Toml { path, source: Box::new(error.0) })
}
