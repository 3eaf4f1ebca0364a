//! What an operator may change while the node runs.

use std::collections::HashMap;
use std::time::Duration;

use super::id::AppKey;
use crate::limits::Limits;

/// Limits and apps of a node. A shard has one set at a time, and changes all of it at once.
#[derive(Clone, Default, Debug)]
pub struct Settings {
    /// What is refused, and when.
    pub limits: Limits,
    /// Configured apps. Others may be in use where a front door lets them be.
    pub apps: HashMap<AppKey, AppSettings>,
}

impl Settings {
    /// The settings of an app; the defaults for one that is not configured.
    pub fn app(&self, app: &AppKey) -> &AppSettings {
        static DEFAULT: AppSettings = AppSettings::DEFAULT;
        self.apps.get(app).unwrap_or(&DEFAULT)
    }
}

/// What the core must know of an app.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppSettings {
    /// Whether it may be used.
    pub enabled: bool,
    /// Live connections on this node; 0 = no limit of its own.
    pub connections_max: usize,
    /// Bytes that it takes on this node, without events, beyond which no connection is let in; 0 = no limit of its own.
    pub memory_bytes_max: usize,
    /// How long a member stays after its last connection broke off.
    pub presence_grace: Duration,
    /// Members of one presence channel.
    pub presence_members_max: usize,
    /// Bytes of one member's `user_info`.
    pub presence_member_bytes_max: usize,
    /// Whether subscribers are told how many they are.
    pub subscription_count: bool,
    /// Within what time connections that must show who they are have to.
    pub authorize_within: Option<Duration>,
    /// Whether somebody wants to know what happens.
    pub observed: bool,
    /// Whether its connections may be sent events deflated.
    pub deflates: bool,
}

impl AppSettings {
    /// What holds where nothing is said.
    pub const DEFAULT: AppSettings = AppSettings {
        enabled: true,
        connections_max: 0,
        memory_bytes_max: 0,
        presence_grace: Duration::ZERO,
        presence_members_max: 100,
        presence_member_bytes_max: 1024,
        subscription_count: false,
        authorize_within: None,
        observed: false,
        deflates: false,
    };
}

impl Default for AppSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}
