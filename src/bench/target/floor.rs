//! The floors' own few words.

use std::sync::Arc;

use anyhow::Result;

use super::{Heard, Publish, Subscription, Target, contains};

/// What speaks to a floor: it says what the driven server's clients say, and takes any answer.
pub struct Floor {
    /// The driven server's protocol: its requests and commands are sent.
    pub like: Arc<dyn Target>,
    /// Whether the floor waits for a subscribe, or sends by itself.
    pub is_asked: bool,
}

impl Target for Floor {
    fn request_target(&self, _index: usize, _subscription: Subscription) -> String {
        "/".to_owned()
    }

    fn subscribe(&self, subscription: Subscription, _socket_id: &str) -> Option<String> {
        self.is_asked.then(|| self.like.subscribe(subscription, "1.1")).flatten()
    }

    fn unsubscribe(&self, _subscription: Subscription) -> Option<String> {
        None
    }

    fn hear(&self, text: &[u8]) -> Heard {
        if contains(text, "member_") { Heard::Notice } else { Heard::Subscribed }
    }

    fn publish(&self, events: &[Publish]) -> Result<Vec<u8>> {
        self.like.publish(events)
    }
}
