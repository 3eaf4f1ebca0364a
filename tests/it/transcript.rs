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
//!                                      {jobs} is host and port of a stand-in that takes remote jobs, by Redis or HTTP;
//!                                      without this line: a server that many files share, on which every app is open
//! app one two                          {one} and {two} become app keys that no other transcript uses
//! token t app={one} user=u1 channels=["AA","b*"] remotes={"chat":true}
//!                                      {t} becomes a JSON web token. Further fields: exp, nbf, iat (+60, -60: seconds
//!                                      from now; or Unix time), iss, aud, sub, jti (JSON or bare words), alg=RS256,
//!                                      key=test|other, claims={..} instead of all others. Values have no spaces.
//! match {x} ^[0-9]+$                   what {x} stands for fits a regular expression
//!
//! http public GET /gcs/ping            a request; public, trusted or ops says on which listener
//!      Origin: https://shop.example    a header of it
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
//! until http trusted GET /api/..       asked again until the answer is as written below
//!
//! ws a as app={one} user=u1 channels=["AA"]      token, POST /gcs/auth, GET /gcs/ws/{one}; `as v3` the v3 way
//! ws a connect /gcs/ws/{one}?token={s}           a handshake that succeeds; lines `http <` may follow
//! ws a try /gcs/ws/{one}                         a handshake that is refused; lines `http <` follow
//! a > {"event":..}                     a text frame; also: text WORDS, empty, binary TEXT, ping TEXT, pong TEXT,
//!                                      close 1000 REASON, begin TEXT + more TEXT + end TEXT (fragments),
//!                                      raw 81 02 7b 7d (bytes), sized 512 TEXT with {pad} in it
//! a < {"event":..}                     the next frame; pings are answered unseen, unless expected
//! a <~ {"event":..}                    neighbouring lines of this kind may come in any order
//! a < ping TEXT                        also: pong TEXT
//! a < close 1008 REASON                close frame, then the end of the stream; * any reason, 1007/1008 either code
//! a < nothing                          all that was done before has taken effect, and no frame came of it
//! a drop                               the client goes without a close frame
//! job < KEY VALUE                      the next job that the stand-in took: Redis key or HTTP path, and its text
//! n=1..60: LINE                        the line (and its `http <` lines) for {n} from 1 to 60
//! ```

use std::ops::RangeInclusive;

use crate::server::Settings;
use crate::template::is_json;

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Transcript {
    /// Settings of a server of its own, `{jobs}` not yet filled in.
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
    Token { name: String, fields: Fields },
    Match { name: String, regex: String },
    Http { until: bool, listener: Listener, method: String, path: String, headers: Fields, body: Body, answer: Answer },
    Open { until: bool, socket: String, how: Open, headers: Fields, answer: Answer },
    Send { socket: String, send: Send },
    Receive { socket: String, receive: Receive },
    Drop { socket: String },
    Job { key: String, value: String },
}

pub(crate) type Fields = Vec<(String, String)>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Listener {
    Public,
    Trusted,
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
    As { v3: bool, fields: Fields },
    Connect(String),
    Try(String),
}

#[derive(Debug)]
pub(crate) enum Send {
    Text { size: Option<usize>, text: String },
    Binary(String),
    Ping(String),
    Pong(String),
    Close(u16, String),
    Fragment { first: bool, last: bool, text: String },
    Raw(Vec<u8>),
}

#[derive(Debug)]
pub(crate) enum Receive {
    Text(String),
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
                Act::Receive { receive: Receive::Text(text), .. } => check(step.line, text),
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
    if !text.starts_with("# ") {
        return Err("1: the first line is a comment that says which behaviour the file holds".to_owned());
    }
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        parse_line(&mut transcript, number, line.trim_end()).map_err(|reason| format!("{number}: {reason}"))?;
    }
    Ok(transcript)
}

fn parse_line(transcript: &mut Transcript, number: usize, line: &str) -> Result<(), String> {
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
        "match" => {
            let (variable, regex) = rest.split_once(' ').ok_or("match {NAME} REGEX")?;
            let variable = variable.strip_prefix('{').and_then(|v| v.strip_suffix('}')).ok_or("match {NAME} REGEX")?;
            Ok(Act::Match { name: name(variable)?, regex: regex.to_owned() })
        }
        "job" => {
            let (key, value) = rest.strip_prefix("< ").and_then(|job| job.split_once(' ')).ok_or("job < KEY VALUE")?;
            Ok(Act::Job { key: key.to_owned(), value: value.to_owned() })
        }
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
            ("app", Some((app, key))) => settings.apps.push((app.to_owned(), Some(key.to_owned()))),
            ("app", None) => settings.apps.push((value, None)),
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
        "ops" => Listener::Ops,
        _ => return Err(format!("no listener {listener:?}: public, trusted or ops")),
    };
    let (method, path, body) = (method.to_owned(), path.to_owned(), parse_body(body.trim_start())?);
    Ok(Act::Http { until, listener, method, path, headers: Vec::new(), body, answer: Vec::new() })
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
            let (v3, fields) = fields.strip_prefix("v3 ").map_or((false, fields), |fields| (true, fields));
            Open::As { v3, fields: parse_fields(fields)? }
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
        "ping" => Receive::Ping(rest.to_owned()),
        "pong" => Receive::Pong(rest.to_owned()),
        "close" => {
            let (codes, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let codes: Result<_, _> = codes.split('/').map(str::parse).collect();
            Receive::Close(codes.map_err(|_| format!("not a close code: {rest:?}"))?, parse_text(reason))
        }
        _ => Receive::Text(text.to_owned()),
    })
}

#[test]
fn mistakes_are_named_with_their_line() {
    let check = |text: &str, error: &str| assert_eq!(parse(text).unwrap_err(), error, "{text}");
    check("app one", "1: the first line is a comment that says which behaviour the file holds");
    check("# x\n\nhttp public GET", "3: http LISTENER METHOD PATH");
    check("# x\nhttp private GET /", "2: no listener \"private\": public, trusted or ops");
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
    assert_eq!(settings.apps, [("shop".to_owned(), None), ("own".to_owned(), Some("other".to_owned()))]);
    let Act::Http { body: Body { size: Some(20), content: Content::Form(fields) }, headers, answer, .. } =
        &transcript.steps[0].act
    else {
        panic!("{:?}", transcript.steps)
    };
    let pairs: Vec<_> = fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("a", "{\"k\": 1}"), ("b", ""), ("c", "1=2")]);
    assert_eq!(headers, &[("Host".to_owned(), "h".to_owned())]);
    assert!(matches!(&answer[..], [(5, Expect::Status(400, Text::Exact(body))), (6, Expect::Closed)] if body == "x\n"));
}
