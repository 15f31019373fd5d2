//! Options of the form `--name value`, for the probe and the attacks.

use std::collections::HashMap;
use std::str::FromStr;

/// The given options, by name.
pub struct Options(HashMap<String, String>);

impl Options {
    /// Parses `--name value` pairs; anything else ends the program with an error.
    pub fn parse(arguments: &[String]) -> Options {
        let mut options = HashMap::new();
        for pair in arguments.chunks(2) {
            let (Some(name), Some(value)) = (pair[0].strip_prefix("--"), pair.get(1)) else {
                panic!("not an option with a value: {}", pair.join(" "));
            };
            options.insert(name.to_owned(), value.clone());
        }
        Options(options)
    }

    /// Returns the text of a mandatory option.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("--{name} is missing"))
    }

    /// Returns the value of an option, or `default` if it is not given.
    pub fn value<T: FromStr>(&self, name: &str, default: T) -> T {
        match self.0.get(name) {
            None => default,
            Some(text) => text.parse().unwrap_or_else(|_| panic!("--{name}: invalid value {text}")),
        }
    }
}
