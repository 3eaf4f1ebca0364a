//! Plays a transcript against a server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hydrant::credential::signature::AppSecrets;
use serde_json::{Map, Value, json};

use crate::http::{self, PATIENCE, Response};
use crate::jobs::{Job, Jobs};
use crate::server::{self, Addresses, App, Server, Settings};
use crate::template::Bindings;
use crate::token;
use crate::transcript::{
    self, Act, Answer, Body, Content, Expect, Fields, Hook, Listener, Open, Protocol, Receive, Reload, Request, Send,
    Signed, Signer, Text,
};
use crate::websocket::{self, Frame, WebSocket};

/// The folder of one protocol's transcripts.
pub(crate) fn folder(protocol: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(protocol)
}

/// Plays one file; panics with `file:line`, what differs and the end of the server's log.
pub(crate) fn play(protocol: &str, name: &str) {
    let path = folder(protocol).join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if let Err(reason) = play_text(&text) {
        panic!("\ntests/transcripts/{protocol}/{name}.txt:{reason}");
    }
}

fn play_text(text: &str) -> Result<(), String> {
    let transcript = transcript::parse(text)?;
    let (mut jobs, mut hooks) = (None, None);
    let own;
    let mut own_settings = None;
    let server = match transcript.settings {
        None => server::shared()?,
        Some(mut settings) => {
            jobs = stand_in("{jobs}", settings.values.values_mut())?;
            let options = settings.apps.iter_mut().flat_map(|app| &mut app.options);
            hooks = stand_in("{hooks}", options.map(|(_, value)| value))?;
            own = Server::start(&settings)?;
            own_settings = Some(settings);
            &own
        }
    };
    let mut player = Player {
        addresses: server.addresses,
        jobs,
        hooks,
        hook: None,
        bindings: Bindings::default(),
        sockets: BTreeMap::new(),
        own: own_settings.map(|settings| (server, settings)),
        apps: BTreeMap::new(),
        app: None,
    };
    player.run(&transcript.steps).map_err(|reason| format!("{reason}\n--- the server's log\n{}", server.log()))
}

/// Replaces a name by host and port of a stand-in that takes jobs, if one of the values has the name in it.
fn stand_in<'a>(name: &str, values: impl Iterator<Item = &'a mut String>) -> Result<Option<Jobs>, String> {
    let mut named: Vec<_> = values.filter(|value| value.contains(name)).collect();
    if named.is_empty() {
        return Ok(None);
    }
    let stand_in = Jobs::start()?;
    for value in &mut named {
        **value = value.replace(name, &stand_in.address.to_string());
    }
    Ok(Some(stand_in))
}

struct Player<'a> {
    addresses: Addresses,
    jobs: Option<Jobs>,
    hooks: Option<Jobs>,
    /// The webhook that the last step of its kind took.
    hook: Option<Job>,
    bindings: Bindings,
    sockets: BTreeMap<String, WebSocket>,
    /// The file's own server, and what it was started with.
    own: Option<(&'a Server, Settings)>,
    /// Configured apps by the names that the file has for them.
    apps: BTreeMap<String, App>,
    /// The app that [`Player::nothing`] asks about.
    app: Option<String>,
}

impl Player<'_> {
    /// Errors begin with the line.
    fn run(&mut self, steps: &[transcript::Step]) -> Result<(), String> {
        for step in steps {
            let Some((name, values)) = &step.repeat else {
                self.act(step.line, &step.act)?;
                continue;
            };
            for value in values.clone() {
                self.bindings.set(name, value.to_string());
                self.act(step.line, &step.act)?;
            }
            self.bindings.0.remove(name);
        }
        Ok(())
    }

    fn act(&mut self, line: usize, act: &Act) -> Result<(), String> {
        match act {
            Act::Http { until, answer, .. } | Act::Open { until, answer, .. } => {
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let result = self.ask(act).map_err(|reason| format!("{line}: {reason}"));
                    let result = result.and_then(|response| self.answered(act, response, answer));
                    if result.is_ok() || !until || Instant::now() > deadline {
                        return result;
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            }
            other => self.plain_act(other).map_err(|reason| format!("{line}: {reason}")),
        }
    }

    fn plain_act(&mut self, act: &Act) -> Result<(), String> {
        match act {
            Act::App(names) => {
                static APPS: AtomicU32 = AtomicU32::new(1);
                for name in names {
                    let app = format!("{name}-{}", APPS.fetch_add(1, Ordering::Relaxed));
                    self.bindings.set(name, app.as_str());
                    self.app = Some(app);
                }
                Ok(())
            }
            Act::Configured(names) => {
                for name in names {
                    let app = match &self.own {
                        Some((_, settings)) => settings.app(name)?.clone(),
                        None => server::shared_app()?,
                    };
                    self.bindings.set(&format!("{name}_id"), app.get("id").unwrap_or_default());
                    self.bindings.set(&format!("{name}_secret"), app.get("secret").unwrap_or_default());
                    self.bindings.set(name, app.get("key").unwrap_or_default());
                    self.app = app.get("key");
                    self.apps.insert(name.clone(), app);
                }
                Ok(())
            }
            Act::Auth { name, signer, socket_id, what } => {
                let (secrets, socket_id) = (self.secrets(signer)?, self.bindings.fill(socket_id)?);
                let (auth, data) = match what {
                    Signed::Channel { channel, data } => {
                        let channel = self.bindings.fill(channel)?;
                        let data = data.as_ref().map(|data| self.bindings.fill(data)).transpose()?;
                        (secrets.sign_channel(&socket_id, &channel, data.as_deref()), data)
                    }
                    Signed::User { data } => {
                        let data = self.bindings.fill(data)?;
                        (secrets.sign_user(&socket_id, &data), Some(data))
                    }
                };
                if let Some(data) = data {
                    let string = json!(data).to_string();
                    self.bindings.set(&format!("{name}_data"), &string[1..string.len() - 1]);
                }
                self.bindings.set(&format!("{name}_hex"), auth.rsplit(':').next().unwrap_or_default());
                self.bindings.set(name, auth);
                Ok(())
            }
            Act::Token { name, fields } => {
                let token = self.sign(fields)?;
                self.bindings.set(name, token);
                Ok(())
            }
            Act::Match { name, regex } => {
                let value = self.bindings.0.get(name).ok_or_else(|| format!("{{{name}}} is not bound"))?;
                let fits = regex::Regex::new(regex).map_err(|e| e.to_string())?.is_match(value);
                fits.then_some(()).ok_or_else(|| format!("{value:?} does not fit {regex}"))
            }
            Act::Send { socket, send } => self.send(socket, send),
            Act::Receive { socket, receive } => self.receive(socket, receive),
            Act::Drop { socket } => self.sockets.remove(socket).map(drop).ok_or_else(|| format!("no socket {socket}")),
            Act::Job { key, value } => {
                let jobs = self.jobs.as_ref().ok_or("no setting of this server names {jobs}")?;
                let came = jobs.next()?;
                self.bindings.match_text(key, &came.key)?;
                self.bindings.match_text(value, &came.value)
            }
            Act::Hook(hook) => self.webhook(hook),
            Act::Reload(change) => {
                let (server, settings) = self.own.as_mut().ok_or("the shared server stays as it is")?;
                match change {
                    Reload::App { name, options } => {
                        let app = settings.apps.iter_mut().find(|app| app.name == *name);
                        let app = app.ok_or_else(|| format!("this server has no app {name}"))?;
                        app.options.retain(|(key, _)| !options.iter().any(|(changed, _)| changed == key));
                        let stand_in = self.hooks.as_ref().map(|hooks| hooks.address.to_string()).unwrap_or_default();
                        let filled = options.iter().map(|(key, value)| (key, value.replace("{hooks}", &stand_in)));
                        app.options.extend(filled.map(|(key, value)| (key.clone(), value)));
                        self.apps.insert(name.clone(), app.clone());
                    }
                    Reload::Without(name) => settings.apps.retain(|app| app.name != *name),
                    Reload::Values(values) => settings.values.extend(values.clone()),
                }
                server.reload(settings)
            }
            Act::Http { .. } | Act::Open { .. } => unreachable!("asked in act"),
        }
    }

    /// Sends the request of an `http` or `ws` step.
    fn ask(&mut self, act: &Act) -> Result<Response, String> {
        match act {
            Act::Http { request: Request { listener, method, path, signed, body }, headers, .. } => {
                let address = self.address(*listener);
                let (content_type, body) = self.body(body)?;
                let mut all = self.fill_fields(headers)?;
                if let Some(content_type) = content_type {
                    all.push(("Content-Type".to_owned(), content_type));
                }
                let mut path = self.bindings.fill(path)?;
                if let Some((signer, fields)) = signed {
                    path = self.sign_request(method, &path, signer, fields, &body)?;
                }
                http::request(address, method, &path, &all, body.as_bytes())
            }
            Act::Open { how: Open::As { protocol, fields }, headers, .. } => {
                let app = fields.iter().find(|(key, _)| key == "app").ok_or("an app is missing")?;
                let app = self.bindings.fill(&app.1)?;
                let form = "application/x-www-form-urlencoded";
                let ((auth, content_type), socket) = match protocol {
                    Protocol::Pusher => {
                        let path = format!("/app/{app}?protocol=7&client=js&version=8.6.0&flash=false");
                        return websocket::ask(self.addresses.public, &path, &self.fill_fields(headers)?);
                    }
                    Protocol::GusherV1 => (("/gcs/auth", form), format!("/gcs/ws/{app}")),
                    Protocol::GusherV3 => (("/v1/auth", "application/json"), format!("/v1/apps/{app}/ws")),
                };
                let jwt = self.sign(fields)?;
                let body = match protocol {
                    Protocol::GusherV3 => json!({ "jwt": jwt }).to_string(),
                    _ => format!("jwt={jwt}"),
                };
                let content_type = [("Content-Type".to_owned(), content_type.to_owned())];
                let response = http::request(self.addresses.public, "POST", auth, &content_type, body.as_bytes())?;
                let answer = String::from_utf8_lossy(&response.body).into_owned();
                let session: Value = serde_json::from_str(&answer).unwrap_or_default();
                let session =
                    session["token"].as_str().ok_or_else(|| format!("POST {auth} was answered {answer:?}"))?;
                websocket::ask(self.addresses.public, &format!("{socket}?token={session}"), &self.fill_fields(headers)?)
            }
            Act::Open { how: Open::Connect(path) | Open::Try(path), headers, .. } => {
                websocket::ask(self.addresses.public, &self.bindings.fill(path)?, &self.fill_fields(headers)?)
            }
            _ => unreachable!("only http and ws steps ask"),
        }
    }

    /// Checks an answer, and keeps the socket that it opened.
    fn answered(&mut self, act: &Act, mut response: Response, answer: &Answer) -> Result<(), String> {
        for (line, expect) in answer {
            self.expect(&mut response, expect).map_err(|reason| format!("{line}: {reason}"))?;
        }
        let Act::Open { socket, how, .. } = act else { return Ok(()) };
        if matches!(how, Open::Try(_)) {
            return Ok(());
        }
        self.sockets.insert(socket.clone(), WebSocket::accept(response)?);
        if matches!(how, Open::As { protocol: Protocol::Pusher, .. }) {
            self.bindings.0.remove(&format!("{socket}_id"));
            let data = format!(r#"{{\"socket_id\":\"{{{socket}_id}}\",\"activity_timeout\":120}}"#);
            let greeting = format!(r#"{{"event":"pusher:connection_established","data":"{data}"}}"#);
            self.receive(socket, &Receive::Text(Text::Exact(greeting)))?;
        }
        Ok(())
    }

    fn secrets(&self, signer: &Signer) -> Result<AppSecrets, String> {
        let app = self.apps.get(&signer.app).ok_or_else(|| format!("no configured app {}", signer.app))?;
        let secret = signer.secret.clone().or_else(|| app.get("secret"));
        let secret = secret.ok_or_else(|| format!("the app {} has no secret", signer.app))?;
        Ok(AppSecrets::new(&app.get("key").unwrap_or_default(), [&*secret]))
    }

    /// The path with its query and what signs it.
    fn sign_request(
        &mut self,
        method: &str,
        path: &str,
        signer: &Signer,
        fields: &Fields,
        body: &str,
    ) -> Result<String, String> {
        let fields = self.fill_fields(fields)?;
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let unix_s = seconds(field("at").unwrap_or("+0"))?;
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let params: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (&**name, &**value)).collect();
        let (signed_path, signed_body) = (field("path").unwrap_or(path), field("as").unwrap_or(body));
        let secrets = self.secrets(signer)?;
        let query = secrets.sign_request(method, signed_path, &params, signed_body.as_bytes(), unix_s);
        let mut sent = Vec::new();
        for pair in query.split('&') {
            let (name, signed) = pair.split_once('=').unwrap_or((pair, ""));
            let binding = match name {
                "auth_signature" => "signature",
                "auth_timestamp" => "timestamp",
                name => name,
            };
            self.bindings.set(binding, signed);
            match field(name) {
                Some("") => {}
                Some(other) => sent.push(format!("{name}={other}")),
                None => sent.push(pair.to_owned()),
            }
        }
        Ok(format!("{path}?{}", sent.join("&")))
    }

    fn webhook(&mut self, expected: &Hook) -> Result<(), String> {
        if let Hook::Next { path, body } = expected {
            let came = self.hooks.as_ref().ok_or("no option of an app names {hooks}")?.next()?;
            self.bindings.match_text(path, &came.key)?;
            self.match_text(body, &came.value)?;
            self.hook = Some(came);
            return Ok(());
        }
        let came = self.hook.take().ok_or("no webhook has come")?;
        let header = |name: &str| {
            let found = came.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str()).ok_or_else(|| format!("no {name} among {:?}", came.headers))
        };
        match expected {
            Hook::Header(name, text) => self.match_text(text, header(name)?)?,
            Hook::Signed(signer) => {
                let signature = self.secrets(signer)?.sign_webhook(came.value.as_bytes());
                self.bindings.match_text(&signature, header("X-Pusher-Signature")?)?;
            }
            Hook::Next { .. } => {}
        }
        self.hook = Some(came);
        Ok(())
    }

    fn expect(&mut self, response: &mut Response, expect: &Expect) -> Result<(), String> {
        match expect {
            Expect::Status(status, text) => {
                let body = String::from_utf8(response.body.clone()).map_err(|e| format!("the body: {e}"))?;
                if response.status != *status {
                    return Err(format!("came      status {} {body:?}\n expected {status}", response.status));
                }
                self.match_text(text, &body)
            }
            Expect::Header(name, text) => {
                let value = response.header(name).ok_or_else(|| format!("no {name} among {:?}", response.headers))?;
                self.match_text(text, value)
            }
            Expect::NoHeader(name) => match response.header(name) {
                Some(value) => Err(format!("came      {name}: {value}\n expected none")),
                None => Ok(()),
            },
            Expect::Closed => response.wire.ended(),
        }
    }

    fn match_text(&mut self, text: &Text, actual: &str) -> Result<(), String> {
        match text {
            Text::Any => Ok(()),
            Text::Exact(template) => self.bindings.match_text(template, actual),
            Text::Unordered(template) => self.bindings.match_unordered(template, actual),
        }
    }

    fn address(&self, listener: Listener) -> SocketAddr {
        match listener {
            Listener::Public => self.addresses.public,
            Listener::Trusted => self.addresses.trusted,
            Listener::Api => self.addresses.api,
            Listener::Ops => self.addresses.ops,
        }
    }

    fn fill_fields(&self, fields: &Fields) -> Result<Fields, String> {
        fields.iter().map(|(key, value)| Ok((key.clone(), self.bindings.fill(value)?))).collect()
    }

    /// `make` once with an empty `{pad}`, and again with one that brings the result to `size` bytes.
    fn padded(
        &mut self,
        size: Option<usize>,
        make: impl Fn(&Bindings) -> Result<String, String>,
    ) -> Result<String, String> {
        if let Some(size) = size {
            self.bindings.set("pad", "");
            let length = make(&self.bindings)?.len();
            let pad = size.checked_sub(length).ok_or_else(|| format!("already {length} bytes long"))?;
            self.bindings.set("pad", "x".repeat(pad));
        }
        make(&self.bindings)
    }

    /// Content type and text.
    fn body(&mut self, body: &Body) -> Result<(Option<String>, String), String> {
        let content_type = match &body.content {
            Content::None => return Ok((None, String::new())),
            Content::Form(_) => "application/x-www-form-urlencoded".to_owned(),
            Content::Raw { content_type, .. } => content_type.clone(),
        };
        let text = self.padded(body.size, |bindings| match &body.content {
            Content::None => Ok(String::new()),
            Content::Raw { text, .. } => bindings.fill(text),
            Content::Form(fields) => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (key, value) in fields {
                    form.append_pair(key, &bindings.fill(value)?);
                }
                Ok(form.finish())
            }
        })?;
        Ok((Some(content_type), text))
    }

    fn sign(&self, fields: &Fields) -> Result<String, String> {
        let (mut algorithm, mut key, mut claims, mut gusher) = ("RS256", "test", Map::new(), Map::new());
        for (name, template) in fields {
            let text = self.bindings.fill(template)?;
            let value = || serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
            match name.as_str() {
                "app" => drop(gusher.insert("app_key".to_owned(), json!(text))),
                "user" => drop(gusher.insert("user_id".to_owned(), json!(text))),
                "channels" | "remotes" => drop(gusher.insert(name.clone(), value())),
                "alg" => algorithm = template,
                "key" => key = template,
                "claims" => claims = value().as_object().cloned().ok_or_else(|| format!("not an object: {text}"))?,
                "exp" | "nbf" | "iat" => {
                    claims.insert(name.clone(), json!(seconds(&text)?));
                }
                "iss" | "aud" | "sub" | "jti" => drop(claims.insert(name.clone(), value())),
                _ => return Err(format!("no token field {name:?}")),
            }
        }
        if !gusher.is_empty() {
            claims.insert("gusher".to_owned(), Value::Object(gusher));
        }
        token::sign(algorithm, key, &Value::Object(claims))
    }

    fn socket(&mut self, name: &str) -> Result<&mut WebSocket, String> {
        self.sockets.get_mut(name).ok_or_else(|| format!("no socket {name}"))
    }

    fn send(&mut self, socket: &str, send: &Send) -> Result<(), String> {
        let (last, opcode, text) = match send {
            Send::Text { size, text } => (true, websocket::TEXT, self.padded(*size, |bindings| bindings.fill(text))?),
            Send::Binary(text) => (true, websocket::BINARY, self.bindings.fill(text)?),
            Send::Ping(text) => (true, websocket::PING, self.bindings.fill(text)?),
            Send::Pong(text) => (true, websocket::PONG, self.bindings.fill(text)?),
            Send::Fragment { first, last, text } => {
                let opcode = if *first { websocket::TEXT } else { websocket::CONTINUATION };
                (*last, opcode, self.bindings.fill(text)?)
            }
            Send::Deflated(text) => {
                let message = websocket::deflate(self.bindings.fill(text)?.as_bytes());
                return self.socket(socket)?.send(true, websocket::DEFLATED | websocket::TEXT, &message);
            }
            Send::Close(code, reason) => return self.socket(socket)?.send_close(*code, reason),
            Send::Raw(bytes) => return self.socket(socket)?.send_raw(bytes),
        };
        self.socket(socket)?.send(last, opcode, text.as_bytes())
    }

    fn receive(&mut self, socket: &str, receive: &Receive) -> Result<(), String> {
        let wrong = |frame: &Frame| Err(format!("came      {frame:?}\n expected {receive:?}"));
        match receive {
            Receive::Nothing => self.nothing(socket),
            Receive::Text(expected) => match self.next(socket)? {
                Frame::Text(text) => self.match_text(expected, &text),
                frame => wrong(&frame),
            },
            Receive::Deflated(expected) => match self.next(socket)? {
                Frame::Deflated(text) => self.match_text(expected, &text),
                frame => wrong(&frame),
            },
            Receive::AnyOrder(frames) => self.any_order(socket, frames),
            Receive::Ping(template) => match self.socket(socket)?.receive()? {
                Frame::Ping(payload) => self.bindings.match_text(template, &payload),
                frame => wrong(&frame),
            },
            Receive::Pong(template) => match self.next(socket)? {
                Frame::Pong(payload) => self.bindings.match_text(template, &payload),
                frame => wrong(&frame),
            },
            Receive::Close(codes, reason) => match self.next(socket)? {
                Frame::Close(code, came) if codes.contains(&code) => {
                    self.match_text(reason, &came)?;
                    self.sockets.remove(socket).map_or(Ok(()), |socket| socket.finish(code))
                }
                frame => wrong(&frame),
            },
        }
    }

    fn any_order(&mut self, socket: &str, frames: &[(usize, String)]) -> Result<(), String> {
        let mut open: Vec<&(usize, String)> = frames.iter().collect();
        while !open.is_empty() {
            let frame = self.next(socket)?;
            let Frame::Text(text) = &frame else { return Err(format!("came      {frame:?}\n expected text")) };
            match open.iter().position(|(_, template)| self.bindings.match_text(template, text).is_ok()) {
                Some(index) => drop(open.remove(index)),
                None => return Err(format!("came      {text:?}\n expected one of {open:?}")),
            }
        }
        Ok(())
    }

    /// The next frame but pings, which are answered.
    fn next(&mut self, socket: &str) -> Result<Frame, String> {
        let socket = self.socket(socket)?;
        loop {
            match socket.receive()? {
                Frame::Ping(payload) => socket.send(true, websocket::PONG, payload.as_bytes())?,
                frame => return Ok(frame),
            }
        }
    }

    /// Asks a question that every part of the node answers, then one over the socket: what was done before has reached
    /// the socket before the second answer does.
    fn nothing(&mut self, socket: &str) -> Result<(), String> {
        if let Some(app) = &self.app {
            http::request(self.addresses.trusted, "GET", &format!("/api/{app}/channels"), &[], b"")?;
        }
        static FENCES: AtomicU32 = AtomicU32::new(1);
        let fence = format!("fence {}", FENCES.fetch_add(1, Ordering::Relaxed));
        self.socket(socket)?.send(true, websocket::PING, fence.as_bytes())?;
        match self.next(socket)? {
            Frame::Pong(payload) if payload == fence => Ok(()),
            frame => Err(format!("came      {frame:?}\n expected nothing")),
        }
    }
}

/// Seconds since 1970: `+60` and `-60` from now, or as they are.
fn seconds(text: &str) -> Result<u64, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_secs();
    let seconds = match text.split_at_checked(1) {
        Some(("+", later)) => later.parse().ok().and_then(|later: u64| now.checked_add(later)),
        Some(("-", earlier)) => earlier.parse().ok().and_then(|earlier| now.checked_sub(earlier)),
        _ => text.parse().ok(),
    };
    seconds.ok_or_else(|| format!("not a time: {text}"))
}

/// A stand-in for a server, to try the player on: HTTP requests to `/echo` come back, `/count` counts, `/refuse` ends the
/// connection, `/apps/3/events` answers with its query; a WebSocket gets its texts back, and does what some texts tell it.
#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::{self, Message};

    use super::*;

    fn stand_in() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut count = 0;
            for mut stream in listener.incoming().flatten() {
                let mut start = [0; 2048];
                let length = stream.peek(&mut start).unwrap();
                let start = String::from_utf8_lossy(&start[..length]).into_owned();
                if start.contains("websocket") {
                    thread::spawn(move || converse(stream));
                    continue;
                }
                count += 1;
                let head = start.find("\r\n\r\n").unwrap() + 4;
                let content_length = start
                    .split("Content-Length: ")
                    .nth(1)
                    .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
                let mut request = vec![0; head + content_length];
                stream.read_exact(&mut request).unwrap();
                let path = start.split(' ').nth(1).unwrap();
                let (path, query) = path.split_once('?').unwrap_or((path, ""));
                let body = match path {
                    "/apps/3/events" => query.to_owned(),
                    "/echo" => String::from_utf8(request[head..].to_vec()).unwrap(),
                    "/count" => count.to_string(),
                    _ => "no\n".to_owned(),
                };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nX-Case: Kept\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    fn converse(stream: TcpStream) -> Option<()> {
        let mut socket = tungstenite::accept(stream).ok()?;
        loop {
            match socket.read().ok()? {
                Message::Text(text) if text == "leave" => {
                    socket.close(Some(CloseFrame { code: 1008.into(), reason: "told to".into() })).ok()?;
                }
                Message::Text(text) if text == "ping me" => socket.send(Message::Ping("p1".into())).ok()?,
                message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).ok()?,
                _ => {}
            }
        }
    }

    fn play_here(text: &str) -> Result<(), String> {
        let address = stand_in();
        let addresses = Addresses { public: address, trusted: address, api: address, ops: address };
        let transcript = transcript::parse(&format!("# a test of the player\n{text}"))?;
        let server = server::shared()?;
        let mut player = Player {
            addresses,
            jobs: None,
            hooks: None,
            hook: None,
            bindings: Bindings::default(),
            sockets: BTreeMap::new(),
            own: transcript.settings.map(|settings| (server, settings)),
            apps: BTreeMap::new(),
            app: None,
        };
        player.run(&transcript.steps)
    }

    #[test]
    fn http_answers() {
        play_here(
            "app one\n\
             http public POST /echo  a={\"k\": 1}  b=x&y\n\
             http < 200 a=%7B%22k%22%3A+1%7D&b=x%26y\n\
             http < header x-case: K{rest}\n\
             http < no header X-Other\n\
             match {rest} ^ept$\n\
             http trusted POST /echo  json {\"app\":\"{one}\",\"list\":[1,2]}\n\
             http < 200 ~{\"list\":[2,1],\"app\":\"{one}\"}\n\
             http ops POST /echo  sized 20  data={pad}\n\
             http < 200 data=xxxxxxxxxxxxxxx\n\
             n=1..3: http public POST /echo  encoded {n}\n\
             http < 200 {n}\n\
             until http public GET /count\n\
             http < 200 8\n\
             http public GET /refuse\n\
             http < 200 no\\n\n",
        )
        .unwrap();
    }

    #[test]
    fn websocket_frames() {
        play_here(
            "ws a connect /\n\
             app one\n\
             a > {\"k\":\"{one}\"}\n\
             a < {\"k\":\"{one}\"}\n\
             a > begin one,\n\
             a > more two,\n\
             a > end three\n\
             a < one,two,three\n\
             a > sized 70000 {\"pad\":\"{pad}\"}\n\
             a < {\"pad\":\"{pad}\"}\n\
             a > ping hello\n\
             a < pong hello\n\
             a > text ping me\n\
             a < nothing\n\
             a > text ping me\n\
             a < ping {payload}\n\
             a > pong {payload}\n\
             a > text {\"b\":[1,2],\"a\":\"[2,1]\"}\n\
             a < ~{\"a\":\"[1, 2]\",\"b\":[2,1]}\n\
             a > text 1\n\
             a > text 2\n\
             a <~ 2\n\
             a <~ 1\n\
             a > raw 81 82 00 00 00 00 68 69\n\
             a < hi\n\
             ws b connect /\n\
             b > text leave\n\
             b < close 1007/1008 told to\n\
             a > close 1000 bye\n\
             a < close 1000 *\n",
        )
        .unwrap();
    }

    /// The signatures that Pusher's documents work out.
    #[test]
    fn signatures() {
        play_here(
            "app docs configured id=\"3\" key=\"278d425bdf160c739803\" secret=\"7ad3773142a6692b25b8\"\n\
             auth k docs 1234.1234 private-foobar\n\
             match {k} ^278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4$\n\
             auth k docs 1234.1234 presence-foobar {\"user_id\":10,\"user_info\":{\"name\":\"Mr. Channels\"}}\n\
             match {k_hex} ^31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80$\n\
             match {k_data} ^\\{..user_id..:10,\n\
             signin k docs 1234.1234 {\"id\":\"12345\"}\n\
             match {k_hex} ^4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba$\n\
             signin other docs/other 1234.1234 {\"id\":\"12345\"}\n\
             match {other_hex} ^[^4]\n\
             http public POST /apps/{docs_id}/events  signed docs at=1353088179  json \
             {\"name\":\"foo\",\"channels\":[\"project-3\"],\"data\":\"{\\\"some\\\":\\\"data\\\"}\"}\n\
             http < 200 auth_key={docs}&auth_timestamp=1353088179&auth_version=1.0&body_md5={body_md5}&auth_signature={signature}\n\
             match {body_md5} ^ec365a775a4cd0599faeb73354201b6f$\n\
             match {signature} ^da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c$\n\
             http public GET /apps/3/events?a=1  signed docs auth_version=2 auth_timestamp=\n\
             http < 200 auth_key={docs}&auth_version=2&a=1&auth_signature={signature}\n\
             http public POST /apps/3/events  signed docs as={}  json []\n\
             http < 200 {_}&body_md5=99914b932bd37a50b983c5e7c90ae93b&{_}\n",
        )
        .unwrap();
    }

    #[test]
    fn differences_are_named_with_their_line() {
        let check = |text: &str, error: &str| {
            let came = play_here(text).unwrap_err();
            assert!(came.starts_with(error), "{text}\n{came}");
        };
        check("http public POST /echo  a=1\nhttp < 200 a=2", "3: came      \"a=1\"\n expected \"a=2\"");
        check("http public POST /echo  a=1\nhttp < 400 a=1", "3: came      status 200 \"a=1\"\n expected 400");
        check("http public GET /echo\nhttp < 200\nhttp < header Allow: *", "4: no Allow among");
        check("http public GET /{x}\nhttp < 200", "2: {x} is not bound");
        check("ws a connect /\na > text x\na < y", "4: came      \"x\"");
        check("ws a connect /\na > text x\na < nothing", "4: came      Text(\"x\")\n expected nothing");
        check("ws a connect /\na > text leave\na < x", "4: came      Close(1008, \"told to\")");
        check("ws a connect /\na > text leave\na < close 1001 *", "4: came      Close(1008");
        check("b > text x", "2: no socket b");
    }
}
