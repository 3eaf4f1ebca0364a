//! The flags that say where a configuration comes from.

use std::path::PathBuf;

use crate::config::{ConfigError, Loaded, Overrides, Sources, load, process_env, read_env_file};

/// Where a configuration comes from: a file, the environment, flags.
#[derive(Debug, Default, clap::Args)]
#[group(id = "sources")]
pub struct Args {
    /// Configuration file, .toml or .yaml
    #[arg(long, value_name = "FILE", env = "HYDRANT_CONFIG")]
    pub config: Option<PathBuf>,
    /// File of KEY=VALUE lines, added to the environment: how the GUSHER_ variables are often kept
    #[arg(short = 'e', long = "env-file", value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Sets one value, such as limits.outbox_bytes_max=65536; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Args {
    /// Reads every source. The process's environment counts before the lines of the file.
    ///
    /// # Errors
    /// All that is wrong with the sources, at once.
    pub fn load(self, overrides: Overrides) -> Result<Loaded, ConfigError> {
        let mut env = match &self.env_file {
            Some(path) => read_env_file(path)?,
            None => Vec::new(),
        };
        env.extend(process_env());
        load(&Sources { file: self.config, legacy_env: env.clone(), env, set: self.set, overrides })
    }
}
