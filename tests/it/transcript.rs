//! Transcripts: conversations with a server, written down as text and played byte for byte.
//!
//! One file is one test. One line is one step; its first word says who acts. `{name}` binds at first sight and must
//! match afterwards; `{_}` matches anything. What came is compared exactly as text, JSON too: the order of keys is part
//! of what clients see.
//!
//! ```text
//! # the first lines say which behaviour the file holds
//! server limits.ping_interval_ms=300   a server of its own with these settings (values are TOML, without spaces);
//!                                      app=NAME configures an app, app=NAME:other one with a public key of its own;
//!                                      public.path_prefix="/x" is about that listener;
//!                                      {jobs} is host and port of a stand-in that takes remote jobs, by Redis or HTTP;
//!                                      without this line: a server that many files share, on which every app is open
//! app one two                          {one} and {two} become app keys that no other transcript uses: open to gusher
//! app one two configured               the same of apps in the configuration, which Pusher and Push1ST need, with ids
//!                                      {one_id} and secrets {one_secret}
//! app one configured watchlist=true    ... with options, on a server of its own: every key of [[apps]], id, key and
//!                                      secret too; values are TOML, without spaces; none at all leaves a key out;
//!                                      {hooks} is host and port of a stand-in that takes webhooks
//! token t app={one} user=u1 channels=["AA","b*"] remotes={"chat":true}
//!                                      {t} becomes a JSON web token. Further fields: exp, nbf, iat (+60, -60: seconds
//!                                      from now; or Unix time), iss, aud, sub, jti (JSON or bare words), alg=RS256,
//!                                      key=test|other, claims={..} instead of all others. Values have no spaces.
//! auth k one {sid} private-x           {k} becomes what the secret of app one signs for a subscription: KEY:HEX, and
//!                                      {k_hex} its second half
//! auth k one {sid} presence-x {"user_id":"1"}      ... with channel_data; {k_data} is the same within a JSON string
//! signin k one {sid} {"id":"1"}        the same for a sign-in
//! auth k one/other {sid} private-x     signed with the secret `other` instead; so can be `signin` and `signed`
//! match {x} ^[0-9]+$                   what {x} stands for fits a regular expression
//!
//! http public GET /gcs/ping            a request; the first word says on which listener: public has the doors of
//!                                      clients and Pusher's API, trusted gusher's and Push1ST's APIs, api Push1ST's API
//!                                      for strangers, ops what operators need
//!      Origin: https://shop.example    a header of it; with Transfer-Encoding: chunked the body comes in chunks
//! http < 200 pong                      status and body of the answer. A final \n is a newline; no body: an empty one;
//!                                      *: any body; ~[..]: JSON, arrays in any order
//! http < header Allow: POST            a header of the answer; *: any value
//! http < no header Allow
//! http < closed                        the server ends the connection after the answer
//! http trusted POST /api/push/{one}  event=e  data={"k": 1}    two spaces, then a form: fields two spaces apart
//! http trusted POST /v1/..  json {..}       ... a JSON body
//! http trusted POST /api/..  encoded a=%ff  ... a form that is encoded already
//! http trusted POST /v1/..  body text/plain {..}
//! http trusted POST /api/..  sized 4096  data={pad}            {pad} makes the body 4096 bytes long
//! http public POST /apps/{one_id}/events  signed one  json {..}      ... with a query that the secret of app one signs;
//!                                      {signature}, {timestamp} and {body_md5} stand for its parameters
//! http public GET /apps/..  signed one at=-601 auth_version=2        ... signed for another time (seconds from now, or
//!                                      Unix time); auth_X=.. and body_md5=.. replace a parameter once it is signed, and
//!                                      leave it out without a value
//! http public POST /apps/..  signed one as={} path=/x  json {..}     ... signed as if the body were {}, the path /x
//! until http trusted GET /api/..       asked again until the answer is as written below
//!
//! ws a as app={one} user=u1 channels=["AA"]      token, POST /gcs/auth, GET /gcs/ws/{one}; `as v3` the v3 way
//! ws a as pusher app={one}                       GET /app/{one}?protocol=7, and the greeting, which binds {a_id}
//! ws a connect /gcs/ws/{one}?token={s}           a handshake that succeeds; lines `http <` may follow
//! ws a try /gcs/ws/{one}                         a handshake that is refused; lines `http <` follow
//! a > {"event":..}                     a text frame; also: text WORDS, empty, binary TEXT, ping TEXT, pong TEXT,
//!                                      close 1000 REASON, begin TEXT + more TEXT + end TEXT (fragments),
//!                                      raw 81 02 7b 7d (bytes), sized 512 TEXT with {pad} in it, deflated TEXT
//! a < {"event":..}                     the next frame; pings are answered unseen, unless expected
//! a < ~{"event":..}                    the same as JSON, arrays and members in any order, JSON in strings too
//! a <~ {"event":..}                    neighbouring lines of this kind may come in any order
//! a < deflated {"event":..}            a frame that came deflated (RFC 7692); all others must come plain
//! a < ping TEXT                        also: pong TEXT
//! a < close 1008 REASON                close frame, then the end of the stream; * any reason, 1007/1008 either code
//! a < nothing                          all that was done before has taken effect, and no frame came of it
//! a drop                               the client goes without a close frame
//! job < KEY VALUE                      the next job that the stand-in took: Redis key or HTTP path, and its text
//! hook < /PATH {..}                    the next webhook that the stand-in took: path and body; a path that ends in
//!                                      /refuse-2 refuses the first two, /refused all, /hang does not answer
//! hook < header X-Pusher-Key: {one}    a header of it
//! hook < signed one                    its X-Pusher-Signature is that of app one
//! reload app one enabled=false         the server's configuration changes, and is in force: options of an app
//! reload without one                   ... an app less
//! reload limits.connections_max=5      ... other settings
//! n=1..60: LINE                        the line (and its `http <` lines) for {n} from 1 to 60
//! ```

use std::ops::RangeInclusive;

use crate::server::{App, Settings};
use crate::template::is_json;

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Transcript {
    /// Settings of a server of its own, `{jobs}` and `{hooks}` not yet filled in.
    pub(crate) settings: Option<Settings>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    /// Name and values of a repeated step.
    pub(crate) repeat: Option<(String, RangeInclusive<u32>)>,
    pub(crate) act: Act,
}

/// One step. Texts are templates.
#[derive(Debug)]
pub(crate) enum Act {
    App(Vec<String>),
    Configured(Vec<String>),
    Token { name: String, fields: Fields },
    Auth { name: String, signer: Signer, socket_id: String, what: Signed },
    Match { name: String, regex: String },
    Http { until: bool, request: Request, headers: Fields, answer: Answer },
    Open { until: bool, socket: String, how: Open, headers: Fields, answer: Answer },
    Send { socket: String, send: Send },
    Receive { socket: String, receive: Receive },
    Drop { socket: String },
    Job { key: String, value: String },
    Hook(Hook),
    Reload(Reload),
}

/// What changes in a configuration.
#[derive(Debug)]
pub(crate) enum Reload {
    App { name: String, options: Fields },
    Without(String),
    Values(Fields),
}

/// An app, and the secret to sign with if it is not the app's own.
#[derive(Debug, PartialEq)]
pub(crate) struct Signer {
    pub(crate) app: String,
    pub(crate) secret: Option<String>,
}

/// What an `auth` is for.
#[derive(Debug)]
pub(crate) enum Signed {
    Channel { channel: String, data: Option<String> },
    User { data: String },
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) listener: Listener,
    pub(crate) method: String,
    pub(crate) path: String,
    /// Who signs it, and how that differs from the right way.
    pub(crate) signed: Option<(Signer, Fields)>,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Hook {
    Next { path: String, body: Text },
    Header(String, Text),
    Signed(Signer),
}

pub(crate) type Fields = Vec<(String, String)>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Listener {
    Public,
    Trusted,
    Api,
    Ops,
}

#[derive(Debug)]
pub(crate) struct Body {
    /// Length that `{pad}` brings the body to, in bytes.
    pub(crate) size: Option<usize>,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    None,
    Form(Fields),
    Raw { content_type: String, text: String },
}

/// What an answer must be, with the line that says so.
pub(crate) type Answer = Vec<(usize, Expect)>;

#[derive(Debug)]
pub(crate) enum Expect {
    Status(u16, Text),
    Header(String, Text),
    NoHeader(String),
    Closed,
}

#[derive(Debug)]
pub(crate) enum Text {
    Any,
    Exact(String),
    Unordered(String),
}

#[derive(Debug)]
pub(crate) enum Open {
    As { protocol: Protocol, fields: Fields },
    Connect(String),
    Try(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Protocol {
    GusherV1,
    GusherV3,
    Pusher,
}

#[derive(Debug)]
pub(crate) enum Send {
    Text { size: Option<usize>, text: String },
    Binary(String),
    Deflated(String),
    Ping(String),
    Pong(String),
    Close(u16, String),
    Fragment { first: bool, last: bool, text: String },
    Raw(Vec<u8>),
}

#[derive(Debug)]
pub(crate) enum Receive {
    Text(Text),
    Deflated(Text),
    AnyOrder(Vec<(usize, String)>),
    Ping(String),
    Pong(String),
    Close(Vec<u16>, Text),
    Nothing,
}

impl Transcript {
    /// Lines that expect a text which begins like JSON and is not.
    pub(crate) fn not_json(&self) -> impl Iterator<Item = usize> {
        let mut lines = Vec::new();
        let mut check = |line: usize, text: &str| {
            if text.starts_with(['{', '[']) && !is_json(text) {
                lines.push(line);
            }
        };
        for step in &self.steps {
            match &step.act {
                Act::Http { answer, .. } | Act::Open { answer, .. } => {
                    for (line, expect) in answer {
                        if let Expect::Status(_, Text::Exact(text) | Text::Unordered(text)) = expect {
                            check(*line, text);
                        }
                    }
                }
                Act::Receive { receive: Receive::Text(Text::Exact(text) | Text::Unordered(text)), .. }
                | Act::Receive { receive: Receive::Deflated(Text::Exact(text) | Text::Unordered(text)), .. }
                | Act::Hook(Hook::Next { body: Text::Exact(text) | Text::Unordered(text), .. }) => {
                    check(step.line, text)
                }
                Act::Receive { receive: Receive::AnyOrder(frames), .. } => {
                    frames.iter().for_each(|(line, text)| check(*line, text));
                }
                Act::Job { value, .. } => check(step.line, value),
                _ => {}
            }
        }
        lines.into_iter()
    }
}

/// Reads a transcript; an error begins with the number of its line.
pub(crate) fn parse(text: &str) -> Result<Transcript, String> {
    let mut transcript = Transcript { settings: None, steps: Vec::new() };
    let mut apps = Vec::new();
    if !text.starts_with("# ") {
        return Err("1: the first line is a comment that says which behaviour the file holds".to_owned());
    }
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        parse_line(&mut transcript, &mut apps, number, line.trim_end())
            .map_err(|reason| format!("{number}: {reason}"))?;
    }
    if transcript.settings.is_some() || apps.iter().any(|app: &App| !app.options.is_empty()) {
        transcript.settings.get_or_insert_default().apps.extend(apps);
    }
    Ok(transcript)
}

fn parse_line(transcript: &mut Transcript, apps: &mut Vec<App>, number: usize, line: &str) -> Result<(), String> {
    let steps = &mut transcript.steps;
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    if line.starts_with(' ') {
        let header = line.split_once(':').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        let header = header.ok_or("an indented line is a header: `Name: value`")?;
        match steps.last_mut().map(|step| &mut step.act) {
            Some(Act::Http { headers, answer, .. } | Act::Open { headers, answer, .. }) if answer.is_empty() => {
                headers.push(header);
            }
            _ => return Err("a header follows the request that it belongs to".to_owned()),
        }
        return Ok(());
    }
    if let Some(expect) = line.strip_prefix("http < ").or((line == "http <").then_some("")) {
        let expect = parse_expect(expect)?;
        return match steps.last_mut().map(|step| &mut step.act) {
            Some(Act::Http { answer, .. } | Act::Open { answer, .. }) => {
                answer.push((number, expect));
                Ok(())
            }
            _ => Err("`http <` follows the request that it belongs to".to_owned()),
        };
    }
    if let Some(settings) = line.strip_prefix("server") {
        if transcript.settings.is_some() || !steps.is_empty() {
            return Err("`server` comes once, before all steps".to_owned());
        }
        transcript.settings = Some(parse_settings(settings)?);
        return Ok(());
    }
    if let Some((names, options)) = line.strip_prefix("app ").and_then(|line| line.split_once(" configured")) {
        let names = names.split(' ').map(name).collect::<Result<Vec<_>, _>>()?;
        for name in &names {
            let number = apps.len() + 1;
            apps.push(App { options: parse_fields(options)?, ..App::numbered(name, number) });
        }
        steps.push(Step { line: number, repeat: None, act: Act::Configured(names) });
        return Ok(());
    }
    if let Some((socket, text)) = line.split_once(" <~ ") {
        let frame = (number, text.to_owned());
        return match steps.last_mut().map(|step| &mut step.act) {
            Some(Act::Receive { socket: before, receive: Receive::AnyOrder(frames) }) if before == socket => {
                frames.push(frame);
                Ok(())
            }
            _ => {
                let act = Act::Receive { socket: name(socket)?, receive: Receive::AnyOrder(vec![frame]) };
                steps.push(Step { line: number, repeat: None, act });
                Ok(())
            }
        };
    }
    let (repeat, line) = match line.split_once(": ").and_then(|(head, rest)| Some((parse_repeat(head)?, rest))) {
        Some((repeat, rest)) => (Some(repeat), rest),
        None => (None, line),
    };
    steps.push(Step { line: number, repeat, act: parse_act(line)? });
    Ok(())
}

/// `n=1..60`
fn parse_repeat(text: &str) -> Option<(String, RangeInclusive<u32>)> {
    let (variable, range) = text.split_once('=')?;
    let (first, last) = range.split_once("..")?;
    Some((name(variable).ok()?, first.parse().ok()?..=last.parse().ok()?))
}

fn parse_act(line: &str) -> Result<Act, String> {
    let (until, line) = line.strip_prefix("until ").map_or((false, line), |rest| (true, rest));
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "http" => parse_http(until, rest),
        "ws" => parse_open(until, rest),
        _ if until => Err("`until` is for http and ws".to_owned()),
        "app" => Ok(Act::App(rest.split(' ').map(name).collect::<Result<_, _>>()?)),
        "token" => {
            let (variable, fields) = rest.split_once(' ').ok_or("token NAME FIELD=VALUE ...")?;
            Ok(Act::Token { name: name(variable)?, fields: parse_fields(fields)? })
        }
        "auth" | "signin" => parse_auth(word, rest),
        "match" => {
            let (variable, regex) = rest.split_once(' ').ok_or("match {NAME} REGEX")?;
            let variable = variable.strip_prefix('{').and_then(|v| v.strip_suffix('}')).ok_or("match {NAME} REGEX")?;
            Ok(Act::Match { name: name(variable)?, regex: regex.to_owned() })
        }
        "job" => {
            let (key, value) = rest.strip_prefix("< ").and_then(|job| job.split_once(' ')).ok_or("job < KEY VALUE")?;
            Ok(Act::Job { key: key.to_owned(), value: value.to_owned() })
        }
        "hook" => parse_hook(rest),
        "reload" => Ok(Act::Reload(match rest.split_once(' ') {
            Some(("app", app)) => {
                let (app, options) = app.split_once(' ').ok_or("reload app NAME OPTION=VALUE ...")?;
                Reload::App { name: name(app)?, options: parse_fields(options)? }
            }
            Some(("without", app)) => Reload::Without(name(app)?),
            _ => Reload::Values(parse_fields(rest)?),
        })),
        socket => {
            let socket = name(socket)?;
            match rest.split_once(' ').unwrap_or((rest, "")) {
                ("drop", "") => Ok(Act::Drop { socket }),
                (">", send) => Ok(Act::Send { socket, send: parse_send(send)? }),
                ("<", receive) => Ok(Act::Receive { socket, receive: parse_receive(receive)? }),
                _ => Err(format!("not a step: {line}")),
            }
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    let fits = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    fits.then(|| text.to_owned()).ok_or_else(|| format!("not a name: {text:?}"))
}

fn parse_signer(text: &str) -> Result<Signer, String> {
    let (app, secret) = text.split_once('/').map_or((text, None), |(app, secret)| (app, Some(secret.to_owned())));
    Ok(Signer { app: name(app)?, secret })
}

fn parse_auth(word: &str, text: &str) -> Result<Act, String> {
    let usage = "auth NAME APP SOCKET-ID CHANNEL [DATA], or signin NAME APP SOCKET-ID DATA";
    let mut words = text.splitn(4, ' ');
    let mut next = || words.next().ok_or(usage);
    let (variable, signer, socket_id, rest) = (name(next()?)?, parse_signer(next()?)?, next()?.to_owned(), next()?);
    let what = match rest.split_once(' ') {
        _ if word == "signin" => Signed::User { data: rest.to_owned() },
        Some((channel, data)) => Signed::Channel { channel: channel.to_owned(), data: Some(data.to_owned()) },
        None => Signed::Channel { channel: rest.to_owned(), data: None },
    };
    Ok(Act::Auth { name: variable, signer, socket_id, what })
}

fn parse_hook(text: &str) -> Result<Act, String> {
    let text = text.strip_prefix("< ").ok_or("hook < PATH BODY, hook < header NAME: VALUE or hook < signed APP")?;
    Ok(Act::Hook(if let Some(header) = text.strip_prefix("header ") {
        let (header, value) = header.split_once(": ").ok_or("hook < header NAME: VALUE")?;
        Hook::Header(header.to_owned(), parse_text(value))
    } else if let Some(signer) = text.strip_prefix("signed ") {
        Hook::Signed(parse_signer(signer)?)
    } else {
        let (path, body) = text.split_once(' ').ok_or("hook < PATH BODY")?;
        Hook::Next { path: path.to_owned(), body: parse_text(body) }
    }))
}

/// `key=value` pairs, one space apart.
fn parse_fields(text: &str) -> Result<Fields, String> {
    let split = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("not KEY=VALUE: {pair:?}"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split_ascii_whitespace().map(split).collect()
}

fn parse_settings(text: &str) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for (key, value) in parse_fields(text)? {
        match (key.as_str(), value.split_once(':')) {
            ("app", Some((app, key))) => {
                settings.apps.push(App { gusher_key: Some(key.to_owned()), ..App::called(app) });
            }
            ("app", None) => settings.apps.push(App::called(&value)),
            _ => {
                settings.values.insert(key, value);
            }
        }
    }
    Ok(settings)
}

fn parse_http(until: bool, text: &str) -> Result<Act, String> {
    let (head, body) = text.split_once("  ").unwrap_or((text, ""));
    let words: Vec<&str> = head.split(' ').collect();
    let [listener, method, path] = words[..] else { return Err("http LISTENER METHOD PATH".to_owned()) };
    let listener = match listener {
        "public" => Listener::Public,
        "trusted" => Listener::Trusted,
        "api" => Listener::Api,
        "ops" => Listener::Ops,
        _ => return Err(format!("no listener {listener:?}: public, trusted, api or ops")),
    };
    let (mut signed, mut body) = (None, body.trim_start());
    if let Some(rest) = body.strip_prefix("signed ") {
        let (how, rest) = rest.split_once("  ").unwrap_or((rest, ""));
        let (signer, fields) = how.split_once(' ').unwrap_or((how, ""));
        signed = Some((parse_signer(signer)?, parse_fields(fields)?));
        body = rest.trim_start();
    }
    let (method, path, body) = (method.to_owned(), path.to_owned(), parse_body(body)?);
    let request = Request { listener, method, path, signed, body };
    Ok(Act::Http { until, request, headers: Vec::new(), answer: Vec::new() })
}

fn parse_body(text: &str) -> Result<Body, String> {
    let (size, text) = match text.strip_prefix("sized ").and_then(|rest| rest.split_once("  ")) {
        Some((size, rest)) => (Some(size.parse().map_err(|_| format!("not a size: {size:?}"))?), rest.trim_start()),
        None => (None, text),
    };
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let raw =
        |content_type: &str, text: &str| Content::Raw { content_type: content_type.to_owned(), text: text.to_owned() };
    let content = match word {
        "" => Content::None,
        "json" => raw("application/json", rest),
        "encoded" => raw("application/x-www-form-urlencoded", rest),
        "body" => {
            let (content_type, text) = rest.split_once(' ').ok_or("body CONTENT-TYPE TEXT")?;
            raw(content_type, text)
        }
        _ => {
            let split = |pair: &str| {
                let (key, value) = pair.trim_start().split_once('=').ok_or_else(|| format!("not a field: {pair:?}"))?;
                Ok::<_, String>((key.to_owned(), value.to_owned()))
            };
            Content::Form(text.split("  ").filter(|pair| !pair.is_empty()).map(split).collect::<Result<_, _>>()?)
        }
    };
    Ok(Body { size, content })
}

fn parse_expect(text: &str) -> Result<Expect, String> {
    if text == "closed" {
        return Ok(Expect::Closed);
    }
    if let Some(header) = text.strip_prefix("no header ") {
        return Ok(Expect::NoHeader(header.to_owned()));
    }
    if let Some(header) = text.strip_prefix("header ") {
        let (header, value) = header.split_once(": ").ok_or("header NAME: VALUE")?;
        return Ok(Expect::Header(header.to_owned(), parse_text(value)));
    }
    let (status, body) = text.split_once(' ').unwrap_or((text, ""));
    let status = status.parse().map_err(|_| format!("not a status: {status:?}"))?;
    let body = match body.strip_suffix("\\n") {
        Some(line) => format!("{line}\n"),
        None => body.to_owned(),
    };
    Ok(Expect::Status(status, parse_text(&body)))
}

fn parse_text(text: &str) -> Text {
    match text.strip_prefix('~') {
        _ if text == "*" => Text::Any,
        Some(json) => Text::Unordered(json.to_owned()),
        None => Text::Exact(text.to_owned()),
    }
}

fn parse_open(until: bool, text: &str) -> Result<Act, String> {
    let usage = "ws NAME as FIELDS, ws NAME connect PATH or ws NAME try PATH";
    let (socket, rest) = text.split_once(' ').ok_or(usage)?;
    let how = match rest.split_once(' ').ok_or(usage)? {
        ("as", fields) => {
            let (protocol, fields) = match fields.split_once(' ') {
                Some(("v3", fields)) => (Protocol::GusherV3, fields),
                Some(("pusher", fields)) => (Protocol::Pusher, fields),
                _ => (Protocol::GusherV1, fields),
            };
            Open::As { protocol, fields: parse_fields(fields)? }
        }
        ("connect", path) => Open::Connect(path.to_owned()),
        ("try", path) => Open::Try(path.to_owned()),
        _ => return Err(usage.to_owned()),
    };
    Ok(Act::Open { until, socket: name(socket)?, how, headers: Vec::new(), answer: Vec::new() })
}

fn parse_send(text: &str) -> Result<Send, String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let owned = rest.to_owned();
    let fragment = |first, last| Send::Fragment { first, last, text: rest.to_owned() };
    Ok(match word {
        "text" => Send::Text { size: None, text: owned },
        "empty" => Send::Text { size: None, text: String::new() },
        "sized" => {
            let (size, text) = rest.split_once(' ').ok_or("sized BYTES TEXT")?;
            let size = size.parse().map_err(|_| format!("not a size: {size:?}"))?;
            Send::Text { size: Some(size), text: text.to_owned() }
        }
        "binary" => Send::Binary(owned),
        "deflated" => Send::Deflated(owned),
        "ping" => Send::Ping(owned),
        "pong" => Send::Pong(owned),
        "close" => {
            let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            Send::Close(code.parse().map_err(|_| format!("not a close code: {code:?}"))?, reason.to_owned())
        }
        "begin" => fragment(true, false),
        "more" => fragment(false, false),
        "end" => fragment(false, true),
        "raw" => {
            let bytes: Result<_, _> = rest.split_ascii_whitespace().map(|hex| u8::from_str_radix(hex, 16)).collect();
            Send::Raw(bytes.map_err(|_| format!("not bytes in hexadecimal: {rest:?}"))?)
        }
        _ if text.starts_with(['{', '[', '"']) => Send::Text { size: None, text: text.to_owned() },
        _ => return Err(format!("cannot send {text:?}; for words: text {text}")),
    })
}

fn parse_receive(text: &str) -> Result<Receive, String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok(match word {
        "" => return Err("receive what?".to_owned()),
        "nothing" => Receive::Nothing,
        "deflated" => Receive::Deflated(parse_text(rest)),
        "ping" => Receive::Ping(rest.to_owned()),
        "pong" => Receive::Pong(rest.to_owned()),
        "close" => {
            let (codes, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let codes: Result<_, _> = codes.split('/').map(str::parse).collect();
            Receive::Close(codes.map_err(|_| format!("not a close code: {rest:?}"))?, parse_text(reason))
        }
        _ => Receive::Text(parse_text(text)),
    })
}

#[test]
fn mistakes_are_named_with_their_line() {
    let check = |text: &str, error: &str| assert_eq!(parse(text).unwrap_err(), error, "{text}");
    check("app one", "1: the first line is a comment that says which behaviour the file holds");
    check("# x\n\nhttp public GET", "3: http LISTENER METHOD PATH");
    check("# x\nhttp private GET /", "2: no listener \"private\": public, trusted, api or ops");
    check("# x\nhttp < 200", "2: `http <` follows the request that it belongs to");
    check("# x\n  Origin: x", "2: a header follows the request that it belongs to");
    check("# x\napp one\nserver", "3: `server` comes once, before all steps");
    check("# x\na > hello", "2: cannot send \"hello\"; for words: text hello");
    check("# x\na = b", "2: not a step: a = b");
    check("# x\nAB > {}", "2: not a name: \"AB\"");
    check("# x\na > raw 8g", "2: not bytes in hexadecimal: \"8g\"");
}

#[test]
fn forms_and_settings() {
    let text = "# x\nserver gusher.open_apps=false app=shop app=own:other\n\
                http trusted POST /p  sized 20  a={\"k\": 1}   b=  c=1=2\n  Host: h\nhttp < 400 x\\n\nhttp < closed";
    let transcript = parse(text).unwrap();
    let settings = transcript.settings.unwrap();
    assert_eq!(settings.values["gusher.open_apps"], "false");
    let own = App { gusher_key: Some("other".to_owned()), ..App::called("own") };
    assert_eq!(settings.apps, [App::called("shop"), own]);
    let Act::Http { request, headers, answer, .. } = &transcript.steps[0].act else { panic!("{:?}", transcript.steps) };
    let Body { size: Some(20), content: Content::Form(fields) } = &request.body else { panic!("{request:?}") };
    let pairs: Vec<_> = fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("a", "{\"k\": 1}"), ("b", ""), ("c", "1=2")]);
    assert_eq!(headers, &[("Host".to_owned(), "h".to_owned())]);
    assert!(matches!(&answer[..], [(5, Expect::Status(400, Text::Exact(body))), (6, Expect::Closed)] if body == "x\n"));
}

#[test]
fn apps_and_signatures() {
    let transcript = parse("# x\napp one two configured\nhttp public GET /a").unwrap();
    assert!(transcript.settings.is_none(), "the shared server has such apps");
    let text = "# x\napp one two configured\napp third configured client_events=true id=\"3\"\n\
                auth k one/other {sid} presence-x {\"user_id\": 1}\nsignin k one {sid} {}\n\
                http public POST /p?a=b  signed third at=-601 auth_key=  json {}\nhook < /h {}\nhook < signed one";
    let transcript = parse(text).unwrap();
    let apps = transcript.settings.unwrap().apps;
    assert_eq!(apps.iter().map(|app| &*app.name).collect::<Vec<_>>(), ["one", "two", "third"]);
    assert_eq!([apps[2].get("id"), apps[2].get("secret")], [Some("3".to_owned()), Some("third-secret".to_owned())]);
    let [_, _, auth, signin, http, hook, signed] = &transcript.steps[..] else { panic!("{:?}", transcript.steps) };
    let Act::Auth { signer, what: Signed::Channel { channel, data }, .. } = &auth.act else { panic!("{auth:?}") };
    assert_eq!(*signer, Signer { app: "one".to_owned(), secret: Some("other".to_owned()) });
    assert_eq!((&**channel, data.as_deref()), ("presence-x", Some("{\"user_id\": 1}")));
    assert!(matches!(&signin.act, Act::Auth { what: Signed::User { data }, .. } if data == "{}"));
    let Act::Http { request: Request { signed: Some((signer, fields)), body, .. }, .. } = &http.act else {
        panic!("{http:?}")
    };
    assert_eq!((&*signer.app, &*fields[1].1, fields.len()), ("third", "", 2));
    assert!(matches!(&body.content, Content::Raw { text, .. } if text == "{}"));
    assert!(matches!(&hook.act, Act::Hook(Hook::Next { path, .. }) if path == "/h"));
    assert!(matches!(&signed.act, Act::Hook(Hook::Signed(_))));
}
