//! One gusher client's conversation.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::core::{ChannelName, CloseReason, Connection, ConnectionId, Outcome, Rejection};
use crate::hooks::jobs::{self, Job, JobError};
use crate::protocol::json;
use crate::shard::door::{Farewell, Heard, Session, Step};

use super::command::{self, Command};
use super::reply;

/// What the session must remember beside the connection's own state.
pub(super) struct GusherSession {
    pub(super) id: ConnectionId,
    /// Remote jobs that the credential allows.
    pub(super) remotes: Box<[Box<str>]>,
    /// Answer pings in the wrong form that v1 and v3 really send.
    pub(super) legacy_pong: bool,
    /// The command in flight, as its reply will be worded.
    pub(super) in_flight: Option<Box<InFlight>>,
}

pub(super) enum InFlight {
    Subscribe(String),
    MultiSubscribe(Vec<String>),
    Remote { remote: String, uid: String, payload: String, debug: bool },
}

impl Session for GusherSession {
    fn protocol(&self) -> &'static str {
        "gusher"
    }

    fn text(&mut self, heard: Heard<'_>) -> Step {
        let command = match command::parse(heard.text) {
            Ok(command) => command,
            Err(farewell) => return Step::Close(farewell),
        };
        match command {
            Command::Subscribe { channel } => self.subscribe(&heard, channel),
            Command::MultiSubscribe { channels } => self.multi_subscribe(&heard, channels),
            Command::Unsubscribe { channel } => self.unsubscribe(heard.connection, &channel),
            Command::QueryChannel => {
                let permitted: Vec<&str> = heard.connection.permissions().patterns().collect();
                let list = serde_json::to_string(&permitted).unwrap_or_default();
                self.reply("gusher.querychannel_succeeded", &format!("{{\"channels\":{list}}}"))
            }
            Command::Ping { data } => {
                let (name, data) = if self.legacy_pong {
                    let bytes = command::legacy_ping_bytes(data);
                    ("gusher.querychannel_succeeded", format!("\"{}\"", STANDARD.encode(bytes)))
                } else {
                    ("gusher.pong_succeeded", data.get().to_owned())
                };
                let mut text = reply::event(name, self.id, &data);
                text.truncate(text.len() - 1);
                Step::Reply(format!("{text},\"time\":{}}}", heard.unix_s()))
            }
            Command::Remote { remote, uid, payload, debug } => {
                let connection = heard.connection;
                let app = connection.permit().app().as_str();
                let socket = self.id.to_uuid().to_string();
                let job = Job {
                    app_key: app.to_owned(),
                    remote: remote.clone(),
                    payload: jobs::payload(connection.user().as_str(), &socket, &uid, app, payload),
                };
                let permitted = self.remotes.iter().any(|held| **held == *remote);
                let payload = payload.get().to_owned();
                if !permitted {
                    return Step::Reply(self.remote_error(&remote, &uid, &payload, "remote not permitted"));
                }
                self.in_flight = Some(Box::new(InFlight::Remote { remote, uid, payload, debug }));
                Step::Job(job)
            }
        }
    }

    fn done(&mut self, outcome: Outcome) -> Step {
        let ended = if matches!(outcome, Outcome::Subscribed(_)) { "succeeded" } else { "error" };
        let text = match self.in_flight.take().map(|in_flight| *in_flight) {
            Some(InFlight::MultiSubscribe(channels)) => self.multi_subscribed(ended, &channels),
            Some(InFlight::Subscribe(channel)) => {
                reply::event(&format!("gusher.subscribe_{ended}"), self.id, &reply::channel_data(&channel))
            }
            // only a subscribe leads here
            Some(InFlight::Remote { .. }) | None => return Step::Nothing,
        };
        Step::Reply(text)
    }

    fn job_done(&mut self, result: Result<(), JobError>) -> Option<String> {
        let InFlight::Remote { remote, uid, payload, debug } = *self.in_flight.take()? else { return None };
        match result {
            Ok(()) if debug => {
                Some(reply::event("gusher.remote_succeeded", self.id, &remote_data(&remote, &uid, &payload, "null")))
            }
            Ok(()) => None,
            Err(error) => Some(self.remote_error(&remote, &uid, &payload, &error.to_string())),
        }
    }

    fn farewell(&self, reason: CloseReason) -> Farewell {
        reply::farewell(reason)
    }
}

impl GusherSession {
    fn reply(&self, event: &str, data: &str) -> Step {
        Step::Reply(reply::event(event, self.id, data))
    }

    fn subscribe(&mut self, heard: &Heard<'_>, channel: String) -> Step {
        match heard.connection.permissions().grant(&channel, heard.limits().channel_name_bytes_max) {
            Ok(grant) => {
                self.in_flight = Some(Box::new(InFlight::Subscribe(channel)));
                Step::Subscribe(vec![grant])
            }
            Err(rejection) => {
                let data = reply::channel_data(&channel);
                Step::Refuse(rejection, reply::event("gusher.subscribe_error", self.id, &data))
            }
        }
    }

    fn multi_subscribe(&mut self, heard: &Heard<'_>, channels: Vec<String>) -> Step {
        let permissions = heard.connection.permissions();
        let grants = channels
            .iter()
            .map(|channel| permissions.grant(channel, heard.limits().channel_name_bytes_max))
            .collect::<Result<Vec<_>, _>>();
        match grants {
            Ok(grants) if !grants.is_empty() => {
                self.in_flight = Some(Box::new(InFlight::MultiSubscribe(channels)));
                Step::Subscribe(grants)
            }
            Ok(_) => Step::Reply(self.multi_subscribed("error", &channels)),
            Err(rejection) => Step::Refuse(rejection, self.multi_subscribed("error", &channels)),
        }
    }

    fn multi_subscribed(&self, ended: &str, channels: &[String]) -> String {
        let data = reply::multi_channel_data(channels);
        reply::event(&format!("gusher.multi_subscribe_{ended}"), self.id, &data)
    }

    fn unsubscribe(&self, connection: &Connection, channel: &str) -> Step {
        let data = reply::channel_data(channel);
        if !connection.permissions().cover(channel) {
            return Step::Refuse(Rejection::NotPermitted, reply::event("gusher.unsubscribe_error", self.id, &data));
        }
        let text = reply::event("gusher.unsubscribe_succeeded", self.id, &data);
        Step::Unsubscribe { channel: ChannelName::from(channel), words: Some(text), flaps: false }
    }

    fn remote_error(&self, remote: &str, uid: &str, payload: &str, why: &str) -> String {
        let data = remote_data(remote, uid, payload, &json::string(why));
        reply::event("gusher.remote_error", self.id, &data)
    }
}

/// `{"remote":…,"uid":…,"payload":…,"msg":…}`; `payload` and `msg` are JSON.
fn remote_data(remote: &str, uid: &str, payload: &str, msg: &str) -> String {
    let (remote, uid) = (json::string(remote), json::string(uid));
    format!("{{\"remote\":{remote},\"uid\":{uid},\"payload\":{payload},\"msg\":{msg}}}")
}
