//! The types of single values: how each is written, read and printed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::nearest;
use super::file::read_text;
use super::tree::{Node, Origin, Value};

/// A type that a key may have.
pub(super) trait Setting: Sized {
    /// The value that was written, or everything that is wrong with it.
    fn read(node: &Node) -> Result<Self, Vec<Wrong>>;
    /// The value as TOML, secrets masked; `None` if it is not set.
    fn write(&self) -> Option<String>;
    /// What tells it from other values, hidden parts too; `None` if it is not set. Not to be shown to anybody.
    fn identity(&self) -> Option<String> {
        self.write()
    }
    /// Adds the files that it was read from, or names.
    fn files(&self, _into: &mut Vec<PathBuf>) {}
}

/// A setting that counts something, so that a range can be asked of it.
pub(super) trait Number: Setting {
    /// The count, in the unit of the key.
    fn count(&self) -> u64;
}

/// What is wrong with a value, or with a part of it.
pub(super) struct Wrong {
    pub(super) at: Origin,
    pub(super) message: String,
}

fn wrong<T>(node: &Node, message: impl Into<String>) -> Result<T, Vec<Wrong>> {
    Err(vec![Wrong { at: node.at.clone(), message: message.into() }])
}

fn expected<T>(node: &Node, what: &str) -> Result<T, Vec<Wrong>> {
    wrong(node, format!("expected {what}, found {}", node.describe()))
}

/// The text of a node, `what` being the words for what was wanted.
fn text<'a>(node: &'a Node, what: &str) -> Result<&'a str, Vec<Wrong>> {
    match (&node.value, &node.raw) {
        (Value::Text(text), _) | (_, Some(text)) => Ok(text),
        (Value::Bool(_) | Value::Integer(_) | Value::Other(_), None) => expected(node, &format!("{what}, in quotes")),
        _ => expected(node, what),
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

impl<T: Setting> Setting for Option<T> {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        T::read(node).map(Some)
    }

    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }

    fn identity(&self) -> Option<String> {
        self.as_ref().and_then(T::identity)
    }

    fn files(&self, into: &mut Vec<PathBuf>) {
        self.iter().for_each(|value| value.files(into));
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        let Value::List(items) = &node.value else {
            return wrong(node, format!("expected a list, as in [\"…\", \"…\"], found {}", node.kind()));
        };
        let (mut values, mut wrongs) = (Vec::new(), Vec::new());
        for item in items {
            match T::read(item) {
                Ok(value) => values.push(value),
                Err(wrong) => wrongs.extend(wrong),
            }
        }
        if wrongs.is_empty() { Ok(values) } else { Err(wrongs) }
    }

    fn write(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::write).collect();
        Some(format!("[{}]", items.join(", ")))
    }

    fn identity(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::identity).collect();
        Some(format!("{items:?}"))
    }

    fn files(&self, into: &mut Vec<PathBuf>) {
        self.iter().for_each(|value| value.files(into));
    }
}

impl Setting for bool {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        if let Value::Bool(value) = node.value { Ok(value) } else { expected(node, "true or false") }
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for usize {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        match node.value {
            Value::Integer(value) => usize::try_from(value).or_else(|_| expected(node, "a whole number from 0 up")),
            _ => expected(node, "a whole number"),
        }
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Number for usize {
    fn count(&self) -> u64 {
        *self as u64
    }
}

/// Every time in a file is in whole milliseconds, as the `_ms` of its key says.
impl Setting for Duration {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        match node.value {
            Value::Integer(value) => {
                u64::try_from(value).map(Duration::from_millis).or_else(|_| expected(node, "milliseconds from 0 up"))
            }
            _ => expected(node, "a whole number of milliseconds"),
        }
    }

    fn write(&self) -> Option<String> {
        Some(self.as_millis().to_string())
    }
}

impl Number for Duration {
    fn count(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Setting for String {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        text(node, "a text").map(str::to_owned)
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Setting for IpNet {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        const WANTED: &str = "an IP address or network, such as \"10.0.0.0/8\"";
        let text = text(node, WANTED)?;
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse::<IpNet>().map(|net| net.trunc())).or_else(|_| expected(node, WANTED))
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// Something that must not be printed: `Debug` and `Display` show `***`. It cannot be compared with `==`, which would
/// tell by its time how much of a guess is right.
#[derive(Clone)]
pub struct Secret {
    text: String,
    /// The file that it stands in, if it is named by a `*_file` key.
    file: Option<PathBuf>,
}

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret { text: text.into(), file: None }
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Secret {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        match text(node, "a text") {
            Ok("") => wrong(node, "must not be empty"),
            Ok(text) => Ok(Secret::new(text)),
            Err(_) => wrong(node, format!("expected a text, in quotes, found {}", node.kind())),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quoted("***"))
    }

    fn identity(&self) -> Option<String> {
        Some(self.text.clone())
    }
}

/// The `*_file` form of a secret: the first line break at the file's end is not part of it.
pub(super) struct SecretFile(Secret);

impl SecretFile {
    /// The secret under whichever of its two keys it belongs.
    pub(super) fn split(secret: Option<Secret>) -> (Option<Secret>, Option<SecretFile>) {
        match secret {
            Some(secret) if secret.file.is_some() => (None, Some(SecretFile(secret))),
            secret => (secret, None),
        }
    }

    pub(super) fn join(given: Option<Secret>, file: Option<SecretFile>) -> Option<Secret> {
        given.or(file.map(|file| file.0))
    }
}

impl Setting for SecretFile {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        let path = node.at.resolve(text(node, "the path of a file")?);
        let text = read_text(&path).or_else(|reason| wrong(node, reason))?;
        match text.lines().collect::<Vec<_>>()[..] {
            [line] if !line.is_empty() => Ok(SecretFile(Secret { text: line.to_owned(), file: Some(path) })),
            [] | [""] => wrong(node, format!("{} is empty", path.display())),
            _ => wrong(node, format!("{} has more than one line", path.display())),
        }
    }

    fn write(&self) -> Option<String> {
        self.0.file.as_ref().map(|file| quoted(&file.display().to_string()))
    }

    fn identity(&self) -> Option<String> {
        Some(format!("{:?} {}", self.0.file, self.0.text))
    }

    fn files(&self, into: &mut Vec<PathBuf>) {
        into.extend(self.0.file.clone());
    }
}

/// A URL that may hold a user and password, or a key in its query: `Debug` and `Display` show those as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps a URL.
    pub fn new(url: impl Into<String>) -> SecretUrl {
        SecretUrl(url.into())
    }

    /// The URL whole, with its password.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password may hold any character, `?` too, so everything between the scheme and the last `@` goes.
        let (start, rest) = match (self.0.split_once("://"), self.0.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, rest))) => (format!("{scheme}://***@"), rest),
            (None, Some(_)) => return f.write_str("***"),
            _ => (String::new(), &*self.0),
        };
        match rest.split_once('?') {
            Some((path, _)) => write!(f, "{start}{path}?***"),
            None => write!(f, "{start}{rest}"),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Setting for SecretUrl {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        text(node, "a URL").map(SecretUrl::new)
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }

    fn identity(&self) -> Option<String> {
        Some(self.0.clone())
    }
}

/// A public key in PEM form: one `PUBLIC KEY` (SubjectPublicKeyInfo) or `RSA PUBLIC KEY` (PKCS #1) block whose body is
/// base64. Whether it is a key of a usable kind is for the reader of tokens to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKeyPem {
    /// The block, from its `-----BEGIN` to its last dash.
    pub pem: Vec<u8>,
    /// Where it comes from, for messages: a file's path, or the place in the configuration.
    pub origin: String,
    /// The file it was read from; `None` if it stands in the configuration itself.
    pub file: Option<PathBuf>,
}

impl PublicKeyPem {
    /// Takes a key out of PEM text, `origin` being the words for where that comes from. The error is a sentence that
    /// begins with them.
    pub fn parse(text: &str, origin: impl Into<String>) -> Result<PublicKeyPem, String> {
        let origin = origin.into();
        let block = pem_block(text).map_err(|reason| format!("{origin} {reason}"))?;
        Ok(PublicKeyPem { pem: block.as_bytes().to_vec(), origin, file: None })
    }

    /// Reads a key from a PEM file. The error is a sentence that names it.
    pub fn read(path: &Path) -> Result<PublicKeyPem, String> {
        let key = PublicKeyPem::parse(&read_text(path)?, path.display().to_string())?;
        Ok(PublicKeyPem { file: Some(path.to_owned()), ..key })
    }
}

/// The only block of a PEM text, or what is wrong with it, to stand behind the words for where it comes from.
fn pem_block(text: &str) -> Result<&str, String> {
    const BEGIN: &str = "-----BEGIN ";
    let start = text.find(BEGIN).ok_or("holds no PEM text: `-----BEGIN PUBLIC KEY-----` is missing")?;
    if text.contains("PRIVATE KEY-----") {
        return Err("holds a private key: it belongs to whoever signs tokens, and nowhere else. Its public half is \
                    printed by `openssl pkey -in FILE -pubout`"
            .into());
    }
    let (label, rest) = text[start + BEGIN.len()..].split_once("-----").unwrap_or_default();
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        "CERTIFICATE" => {
            return Err("holds a certificate, not a public key: take the key out with \
                        `openssl x509 -in FILE -pubkey -noout`"
                .into());
        }
        _ => return Err(format!("holds no public key but a block of another kind ({label:?})")),
    }
    let end = format!("-----END {label}-----");
    let (body, after) = rest.split_once(&end).ok_or_else(|| format!("is cut off: `{end}` is missing"))?;
    if after.contains(BEGIN) {
        return Err("holds more than one key: give each a file of its own".into());
    }
    let body: String = body.split_whitespace().collect();
    if body.is_empty() || STANDARD.decode(&body).is_err() {
        return Err("is damaged: what stands between BEGIN and END is not base64".into());
    }
    Ok(&text[start..text.len() - after.len()])
}

impl Setting for PublicKeyPem {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        let text = text(node, "the path of a PEM file, or PEM text")?;
        let key = if text.contains("-----BEGIN") {
            PublicKeyPem::parse(text, node.at.to_string())
        } else {
            PublicKeyPem::read(&node.at.resolve(text))
        };
        key.or_else(|reason| wrong(node, reason))
    }

    fn write(&self) -> Option<String> {
        Some(match &self.file {
            Some(file) => quoted(&file.display().to_string()),
            None => quoted(&String::from_utf8_lossy(&self.pem)),
        })
    }

    fn identity(&self) -> Option<String> {
        Some(format!("{:?} {}", self.file, String::from_utf8_lossy(&self.pem)))
    }

    fn files(&self, into: &mut Vec<PathBuf>) {
        into.extend(self.file.clone());
    }
}

/// A server's certificate, read from a PEM file, with those that lead from it to one that clients know. Whether it fits
/// its key is for its user to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// In DER, its own first; at least one.
    pub chain: Vec<CertificateDer<'static>>,
    /// The file.
    pub file: PathBuf,
}

impl Setting for Certificate {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        let file = node.at.resolve(text(node, "the path of a PEM file")?);
        let pem = read_text(&file).or_else(|reason| wrong(node, reason))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Ok(Certificate { chain, file }),
            Ok(_) => wrong(node, format!("{} holds no certificate (`-----BEGIN CERTIFICATE-----`)", file.display())),
            Err(_) => wrong(node, format!("{} is damaged, or cut off: it is no PEM text", file.display())),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.file.display().to_string()))
    }

    fn identity(&self) -> Option<String> {
        Some(format!("{:?} {:?}", self.file, self.chain))
    }

    fn files(&self, into: &mut Vec<PathBuf>) {
        into.push(self.file.clone());
    }
}

/// The private key of a server's certificate, read from a PEM file. `Debug` shows the file only.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey {
    der: Arc<PrivateKeyDer<'static>>,
    /// The file.
    pub file: PathBuf,
}

impl PrivateKey {
    /// The key, in DER.
    pub fn der(&self) -> &PrivateKeyDer<'static> {
        &self.der
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrivateKey").field(&self.file).finish()
    }
}

impl Setting for PrivateKey {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        let file = node.at.resolve(text(node, "the path of a PEM file")?);
        let pem = read_text(&file).or_else(|reason| wrong(node, reason))?;
        let shown = file.display();
        if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY") || pem.contains("Proc-Type: 4,ENCRYPTED") {
            let decrypt = "decrypt it with `openssl pkey -in FILE -out KEY.pem`, and let only this server read that";
            return wrong(node, format!("the key in {shown} is encrypted: {decrypt}"));
        }
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(der) => Ok(PrivateKey { der: Arc::new(der), file }),
            Err(pem::Error::NoItemsFound) => {
                wrong(node, format!("{shown} holds no private key (`-----BEGIN PRIVATE KEY-----`)"))
            }
            Err(_) => wrong(node, format!("{shown} is damaged, or cut off: it is no PEM text")),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.file.display().to_string()))
    }

    fn identity(&self) -> Option<String> {
        Some(format!("{:?} {:?}", self.file, self.der.secret_der()))
    }

    fn files(&self, into: &mut Vec<PathBuf>) {
        into.push(self.file.clone());
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether nobody outside this machine can get here.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }

    /// `IP:PORT`, `:PORT` (all IPv4 interfaces) or `unix:PATH`. The error says what is wrong, and what to write.
    pub(super) fn parse(text: &str) -> Result<Address, String> {
        /// The room for a path in a socket address, less the closing zero.
        const UNIX_PATH_BYTES_MAX: usize = 107;
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("the path is missing, as in unix:/run/hydrant.sock".into()),
                1..=UNIX_PATH_BYTES_MAX => Ok(Address::Unix(path.into())),
                _ => Err(format!("the path of a unix socket has {UNIX_PATH_BYTES_MAX} bytes at most")),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Address::Tcp(address));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("expected IP:PORT or unix:PATH, as in 0.0.0.0:6001, found {text:?}"));
        };
        let Ok(port) = port.parse::<u16>() else {
            return Err(format!("`{port}` is no port: ports are numbers from 0 to 65535"));
        };
        if host.is_empty() {
            return Ok(Address::Tcp((Ipv4Addr::UNSPECIFIED, port).into()));
        }
        if host.contains(':') {
            return Err(format!("an IPv6 address stands in brackets, as in [::1]:{port}"));
        }
        Err(format!("use an IP address, e.g. 127.0.0.1:{port}; `{host}` is a name"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Setting for Address {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        let text = text(node, "IP:PORT or unix:PATH")?;
        match Address::parse(text) {
            Ok(Address::Unix(path)) => Ok(Address::Unix(node.at.resolve(&path.to_string_lossy()))),
            Ok(address) => Ok(address),
            Err(reason) => wrong(node, reason),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// The permission bits of a unix socket; in a file, a text of octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Setting for FileMode {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        const WANTED: &str = "permissions as octal digits, such as \"0660\"";
        let text = text(node, WANTED)?;
        let is_octal = !text.is_empty() && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        match u32::from_str_radix(text, 8) {
            Ok(mode @ 0..=0o777) if is_octal => Ok(FileMode(mode)),
            _ => expected(node, WANTED),
        }
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&format!("{:04o}", self.0)))
    }
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `gusher`: where gusher's clients sign in and hold their WebSockets.
    GusherClient,
    /// `gusher-master`: gusher's REST API, which knows no credentials.
    GusherMaster,
    /// `pusher`: Pusher's sockets (`/app/…`) and its signed REST API (`/apps/…`).
    Pusher,
    /// `push1st-socket`: Push1ST's raw WebSockets (`/ws/app/…`).
    Push1stSocket,
    /// `push1st`: Push1ST's API (`/apps/…`). It knows no credentials on a trusted listener; on another one, requests are
    /// signed as Pusher's are.
    Push1st,
    /// `ops`: metrics and health, which know no credentials.
    Ops,
}

impl Door {
    /// Every door.
    pub const ALL: [Door; 6] =
        [Door::GusherClient, Door::GusherMaster, Door::Pusher, Door::Push1stSocket, Door::Push1st, Door::Ops];

    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Door::GusherClient => "gusher",
            Door::GusherMaster => "gusher-master",
            Door::Pusher => "pusher",
            Door::Push1stSocket => "push1st-socket",
            Door::Push1st => "push1st",
            Door::Ops => "ops",
        }
    }

    /// Whether it knows no credentials at all, so that only a trusted listener may serve it.
    pub fn needs_trust(self) -> bool {
        matches!(self, Door::GusherMaster | Door::Ops)
    }
}

impl Setting for Door {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        one_of(node, "door", &Door::ALL.map(|door| (door.word(), door)))
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.word()))
    }
}

/// A kind of channel, as its name's beginning tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// `public`: none of the others.
    Public,
    /// `private`: `private-…`, encrypted ones too.
    Private,
    /// `presence`: `presence-…`.
    Presence,
    /// `protected`: `protected-…`, Push1ST's.
    Protected,
}

impl ChannelKind {
    /// Every kind.
    pub const ALL: [ChannelKind; 4] =
        [ChannelKind::Public, ChannelKind::Private, ChannelKind::Presence, ChannelKind::Protected];

    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            ChannelKind::Public => "public",
            ChannelKind::Private => "private",
            ChannelKind::Presence => "presence",
            ChannelKind::Protected => "protected",
        }
    }
}

impl Setting for ChannelKind {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        one_of(node, "kind of channel", &ChannelKind::ALL.map(|kind| (kind.word(), kind)))
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.word()))
    }
}

/// Who is told by a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookTarget {
    /// `http://…` or `https://…`: an endpoint that events are POSTed to.
    Http(SecretUrl),
    /// `lua://FILE`: a script that is called with them.
    Lua(PathBuf),
}

impl Setting for HookTarget {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        const WANTED: &str = "http://HOST:PORT/PATH, https://… or lua://FILE";
        let url = text(node, WANTED)?;
        match url.split_once("://") {
            Some(("lua", path)) if !path.is_empty() => Ok(HookTarget::Lua(node.at.resolve(path))),
            Some(("http" | "https", rest))
                if !rest.starts_with(['/', '?', '#'])
                    && !rest.is_empty()
                    && rest.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(HookTarget::Http(SecretUrl::new(url)))
            }
            _ => wrong(node, format!("expected {WANTED}")), // what was found may be a secret
        }
    }

    fn write(&self) -> Option<String> {
        match self {
            HookTarget::Http(url) => url.write(),
            HookTarget::Lua(path) => Some(quoted(&format!("lua://{}", path.display()))),
        }
    }

    fn identity(&self) -> Option<String> {
        match self {
            HookTarget::Http(url) => url.identity(),
            HookTarget::Lua(_) => self.write(),
        }
    }

    fn files(&self, into: &mut Vec<PathBuf>) {
        if let HookTarget::Lua(path) = self {
            into.push(path.clone());
        }
    }
}

/// In whose words a hook is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookFormat {
    /// Signed webhooks as Pusher's.
    Pusher,
    /// Push1ST's, one request for each event.
    Push1st,
}

impl HookFormat {
    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            HookFormat::Pusher => "pusher",
            HookFormat::Push1st => "push1st",
        }
    }
}

impl Setting for HookFormat {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        one_of(node, "hook format", &[HookFormat::Pusher, HookFormat::Push1st].map(|format| (format.word(), format)))
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.word()))
    }
}

/// What a hook can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookEvent {
    /// `channel_occupied`: the first subscriber of a channel.
    ChannelOccupied,
    /// `channel_vacated`: the last one has gone.
    ChannelVacated,
    /// `member_added`: a user's first connection on a presence channel.
    MemberAdded,
    /// `member_removed`: the last one has gone.
    MemberRemoved,
    /// `client_event`: a client published.
    ClientEvent,
    /// `cache_miss`: a subscriber found an empty cache channel.
    CacheMiss,
    /// `subscription_count`: how many connections are subscribed.
    SubscriptionCount,
    /// `register`: the first subscriber of a channel.
    Register,
    /// `unregister`: the last one has gone.
    Unregister,
    /// `join`: a connection subscribed.
    Join,
    /// `leave`: its subscription ended.
    Leave,
    /// `push`: a client published.
    Push,
}

impl HookEvent {
    /// Every event.
    pub const ALL: [HookEvent; 12] = [
        HookEvent::ChannelOccupied,
        HookEvent::ChannelVacated,
        HookEvent::MemberAdded,
        HookEvent::MemberRemoved,
        HookEvent::ClientEvent,
        HookEvent::CacheMiss,
        HookEvent::SubscriptionCount,
        HookEvent::Register,
        HookEvent::Unregister,
        HookEvent::Join,
        HookEvent::Leave,
        HookEvent::Push,
    ];

    /// Its word, in the configuration and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            HookEvent::ChannelOccupied => "channel_occupied",
            HookEvent::ChannelVacated => "channel_vacated",
            HookEvent::MemberAdded => "member_added",
            HookEvent::MemberRemoved => "member_removed",
            HookEvent::ClientEvent => "client_event",
            HookEvent::CacheMiss => "cache_miss",
            HookEvent::SubscriptionCount => "subscription_count",
            HookEvent::Register => "register",
            HookEvent::Unregister => "unregister",
            HookEvent::Join => "join",
            HookEvent::Leave => "leave",
            HookEvent::Push => "push",
        }
    }

    /// The format that has it.
    pub fn format(self) -> HookFormat {
        match self {
            HookEvent::Register | HookEvent::Unregister | HookEvent::Join | HookEvent::Leave | HookEvent::Push => {
                HookFormat::Push1st
            }
            _ => HookFormat::Pusher,
        }
    }
}

impl Setting for HookEvent {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        one_of(node, "hook event", &HookEvent::ALL.map(|event| (event.word(), event)))
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.word()))
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    const WORDS: [(&'static str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
}

impl Setting for LogFormat {
    fn read(node: &Node) -> Result<Self, Vec<Wrong>> {
        one_of(node, "log format", &LogFormat::WORDS)
    }

    fn write(&self) -> Option<String> {
        LogFormat::WORDS.iter().find(|(_, format)| format == self).map(|(word, _)| quoted(word))
    }
}

/// The value that a word stands for.
fn one_of<T: Copy>(node: &Node, kind: &str, words: &[(&'static str, T)]) -> Result<T, Vec<Wrong>> {
    let known = || words.iter().map(|(word, _)| *word);
    let word = text(node, &format!("a {kind}"))?;
    if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
        return Ok(*value);
    }
    let hint = match nearest(word, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("use one of {}", known().collect::<Vec<_>>().join(", ")),
    };
    wrong(node, format!("there is no {kind} `{word}`; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text, expected: &str| {
            let parsed = Address::parse(text).map(|address| address.to_string());
            assert_eq!(parsed.unwrap_or_else(|reason| reason), expected, "{text}");
        };
        check("127.0.0.1:6001", "127.0.0.1:6001");
        check("[::1]:6001", "[::1]:6001");
        check(":7777", "0.0.0.0:7777");
        check("unix:/run/hydrant.sock", "unix:/run/hydrant.sock");
        check("unix:", "the path is missing, as in unix:/run/hydrant.sock");
        check("localhost:6001", "use an IP address, e.g. 127.0.0.1:6001; `localhost` is a name");
        check("6001", "expected IP:PORT or unix:PATH, as in 0.0.0.0:6001, found \"6001\"");
        check("0.0.0.0:65536", "`65536` is no port: ports are numbers from 0 to 65535");
        check("0.0.0.0:", "`` is no port: ports are numbers from 0 to 65535");
        check("::1:6001", "an IPv6 address stands in brackets, as in [::1]:6001");
        check(&format!("unix:/{}", "x".repeat(107)), "the path of a unix socket has 107 bytes at most");
    }

    #[test]
    fn secrets_are_not_printed() {
        let check = |url, expected: &str| assert_eq!(format!("{:?}", SecretUrl::new(url)), expected);
        check("redis://host:6379/1", "redis://host:6379/1");
        check("redis://:p@ss@host", "redis://***@host");
        check("user:p@host", "***");
        assert_eq!(format!("{0:?} {0}", Secret::new("x")), "*** ***");
    }

    #[test]
    fn public_keys() {
        let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let check = |text: &str, expected: &str| {
            let parsed = PublicKeyPem::parse(text, "a.pem");
            let shown = parsed.map(|key| String::from_utf8(key.pem).unwrap()).unwrap_or_else(|reason| reason);
            assert!(shown.starts_with(expected), "{shown}");
        };
        check(&block("PUBLIC KEY", "QUJD\nREVG"), "-----BEGIN PUBLIC KEY-----\nQUJD\nREVG\n-----END PUBLIC KEY-----");
        check(&format!("# mine\r\n{}", block("RSA PUBLIC KEY", "QUJD")), "-----BEGIN RSA PUBLIC KEY-----\nQUJD");
        check("ssh-rsa AAAA", "a.pem holds no PEM text");
        check(&block("RSA PRIVATE KEY", "QUJD"), "a.pem holds a private key");
        check(&block("CERTIFICATE", "QUJD"), "a.pem holds a certificate");
        check(
            &block("EC PARAMETERS", "QUJD"),
            "a.pem holds no public key but a block of another kind (\"EC PARAMETERS\")",
        );
        check("-----BEGIN PUBLIC KEY-----\nQUJD", "a.pem is cut off: `-----END PUBLIC KEY-----` is missing");
        check(&block("PUBLIC KEY", "QU"), "a.pem is damaged");
        check(&block("PUBLIC KEY", "").repeat(2), "a.pem holds more than one key");
        check("-----BEGIN ", "a.pem holds no public key but a block of another kind (\"\")");
    }

    #[test]
    fn toml_texts() {
        for text in ["plain", "a\"b\\c", "-----BEGIN\nx\r\n\u{1}\u{7f}é"] {
            let table: toml::Table = toml::from_str(&format!("v = {}", quoted(text))).unwrap();
            assert_eq!(table["v"].as_str(), Some(text));
        }
    }
}
