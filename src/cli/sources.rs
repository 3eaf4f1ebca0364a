//! The flags that say where a configuration comes from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::{ConfigError, Loaded, Overrides, Sources, load, process_env, read_env_file};

/// Where a configuration comes from: a file, the environment, flags.
#[derive(Debug, Default, clap::Args)]
#[group(id = "sources")]
pub struct Args {
    /// Configuration file, .toml or .yaml
    #[arg(long, value_name = "FILE", env = "HYDRANT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Push1ST's server.yml, with its apps: read as if it was written for this server
    #[arg(long, value_name = "FILE")]
    pub push1st: Option<PathBuf>,
    /// File of KEY=VALUE lines, added to the environment: how the GUSHER_ variables are often kept. Repeatable
    #[arg(short = 'e', long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// Sets one value, such as limits.outbox_bytes_max=65536; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Args {
    /// Reads every source. A later file of variables counts before an earlier one, the process's environment before all.
    ///
    /// # Errors
    /// All that is wrong with the sources, at once.
    pub fn load(&self, overrides: Overrides) -> Result<Loaded, ConfigError> {
        let mut env = BTreeMap::new();
        let mut add = |variables: Vec<(String, String)>| {
            for (name, value) in variables {
                // an empty variable counts as not set: it hides no other
                if !value.is_empty() || !env.contains_key(&name) {
                    env.insert(name, value);
                }
            }
        };
        for path in &self.env_files {
            add(read_env_file(path)?);
        }
        add(process_env());
        let env: Vec<_> = env.into_iter().collect();
        let mut loaded = load(&Sources {
            file: self.config.clone(),
            push1st: self.push1st.clone(),
            legacy_env: env.clone(),
            env,
            set: self.set.clone(),
            overrides,
        })?;
        loaded.files.extend(self.env_files.iter().cloned());
        Ok(loaded)
    }
}
