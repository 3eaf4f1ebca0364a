//! Push1ST: the channel stands in a raw socket's path; requests are signed only where a secret is given.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde_json::json;

use crate::credential::signature::AppSecrets;

use super::{EVENT, Endpoint, Heard, JSON, Publish, Subscription, Target, channel_name, post};

/// A Push1ST server's app.
pub struct Push1st {
    socket_path: String,
    api: Endpoint,
    api_path: String,
    secrets: Option<AppSecrets>,
}

impl Push1st {
    /// An app with these credentials.
    pub fn new(sockets: Endpoint, api: Endpoint, id: &str, key: &str, secret: Option<&str>) -> Self {
        Self {
            socket_path: format!("{}/ws/app/{key}", sockets.prefix),
            api_path: format!("{}/apps/{id}/events", api.prefix),
            api,
            secrets: secret.map(|secret| AppSecrets::new(key, [secret])),
        }
    }
}

impl Target for Push1st {
    fn request_target(&self, _index: usize, subscription: Subscription) -> String {
        // a socket has to name a channel: one that hears nothing names one that nobody publishes to
        let name = subscription.channel().map_or_else(|| "nothing".to_owned(), channel_name);
        format!("{}/{name}", self.socket_path)
    }

    fn subscribe(&self, _subscription: Subscription, _socket_id: &str) -> Option<String> {
        None
    }

    fn unsubscribe(&self, _subscription: Subscription) -> Option<String> {
        None
    }

    fn hear(&self, _text: &[u8]) -> Heard {
        Heard::Other
    }

    fn publish(&self, events: &[Publish]) -> Result<Vec<u8>> {
        let [Publish { channel, data }] = events else { bail!("Push1ST's API has no batches") };
        let body = json!({ "name": EVENT, "channels": [channel_name(*channel)], "data": data }).to_string();
        let mut path = self.api_path.clone();
        if let Some(secrets) = &self.secrets {
            let unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            path = format!("{path}?{}", secrets.sign_request("POST", &path, &[], body.as_bytes(), unix_s));
        }
        Ok(post(&self.api.host, &path, JSON, &body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_is_in_the_path_and_a_signature_only_with_a_secret() {
        let at = Endpoint::at(([127, 0, 0, 1], 1).into());
        let push1st = |secret| Push1st::new(at.clone(), at.clone(), "id", "key", secret);
        assert_eq!(push1st(None).request_target(0, Subscription::Channel(4)), "/ws/app/key/c4");
        let event = [Publish { channel: 4, data: "hyb".into() }];
        let request = |secret| String::from_utf8(push1st(secret).publish(&event).unwrap()).unwrap();
        assert!(request(None).starts_with("POST /apps/id/events HTTP/1.1\r\n"));
        assert!(request(Some("s")).starts_with("POST /apps/id/events?auth_key=key&"));
        assert!(push1st(None).publish(&[]).is_err());
    }
}
