//! Lua hooks: a script with a function `OnTrigger(type, app, channel, session, message)`, called for each event on a
//! thread of the script's own.
//!
//! The script is loaded once; what it keeps in globals stays until it is loaded anew. It has Lua 5.4's `string`,
//! `table`, `math`, `utf8` and `coroutine`, of `os` the functions that tell the time, `json.decode`, and `print`, which
//! writes to the server's log. It has no way to files, processes, modules or byte code.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use mlua::chunk::ChunkMode;
use mlua::{Function, HookTriggers, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value, VmState};

use super::body::{self, Happening, Trigger};
use super::settings::Settings;

/// Instructions between two looks at the clock.
const INSTRUCTIONS: u32 = 1_000;
/// What loading or a call may take beyond its time, which a single function of the interpreter can overrun.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked at whether another script has ended.
const ENDING_STEP: Duration = Duration::from_millis(10);
/// At most one log line about failed calls in this time.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What has become of a script's events. Outlives the script when another is loaded in its place.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) queued: AtomicUsize,
    pub(super) queued_bytes: AtomicUsize,
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) last_error: Mutex<Option<(SystemTime, Arc<str>)>>,
}

/// What a script is made of; another is loaded when it changes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Source {
    path: String,
    text: String,
    memory_bytes_max: usize,
    time: Duration,
    queue_max: usize,
}

impl Source {
    /// Reads a script. The error names the file.
    pub(super) fn read(path: &str, settings: &Settings) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        let Settings { lua_memory_bytes_max: memory_bytes_max, lua_time: time, queue_max, .. } = *settings;
        Ok(Self { path: path.to_owned(), text, memory_bytes_max, time, queue_max })
    }
}

/// A script that is loaded and waits for events. When it is dropped, it is still called for those that wait.
pub(super) struct Script {
    pub(super) source: Source,
    pub(super) tally: Arc<Tally>,
    calls: SyncSender<Call>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Call {
    /// Another script's thread has to end first, or to have been in one call for so long that it never will.
    After(JoinHandle<()>, Duration),
    Trigger(Arc<str>, Arc<Happening>),
}

impl Script {
    /// Loads a script on a thread of its own. The error names file and line.
    pub(super) fn start(source: Source, tally: Arc<Tally>) -> Result<Self, String> {
        let (calls, waiting) = sync_channel(source.queue_max.max(1));
        let (loaded, is_loaded) = sync_channel(1);
        let (source_there, tally_there) = (source.clone(), tally.clone());
        let thread = std::thread::Builder::new().name("lua-hook".into()).spawn(move || {
            let host = match Host::load(&source_there) {
                Ok(host) => host,
                Err(error) => return drop(loaded.send(Err(error))),
            };
            let _ = loaded.send(Ok(())); // whoever started it waits for this
            host.serve(&waiting, &tally_there);
        });
        let thread = thread.map_err(|error| format!("{}: {error}", source.path))?;
        let loading = is_loaded.recv_timeout(source.time.saturating_add(PATIENCE));
        loading.unwrap_or_else(|_| Err(format!("{}: it does not come to its end", source.path)))?;
        Ok(Self { source, tally, calls, thread: Mutex::new(Some(thread)) })
    }

    /// Begins only when the script that it replaces has been called for all that waits there. To be called before the
    /// first [`push`](Self::push).
    pub(super) fn follow(&self, old: &Script) {
        if let Some(thread) = old.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let patience = old.source.time.saturating_add(PATIENCE);
            let _ = self.calls.try_send(Call::After(thread, patience)); // nothing is in there yet
        }
    }

    /// Hands on an event; neither waits nor fails.
    pub(super) fn push(&self, app_id: &Arc<str>, happening: Arc<Happening>, bytes_max: usize) {
        let (tally, weight) = (&self.tally, happening.weight);
        let bytes = tally.queued_bytes.fetch_add(weight, Ordering::Relaxed) + weight;
        tally.queued.fetch_add(1, Ordering::Relaxed);
        if bytes > bytes_max || self.calls.try_send(Call::Trigger(app_id.clone(), happening)).is_err() {
            tally.dropped.fetch_add(1, Ordering::Relaxed);
            tally.leave(weight);
        }
    }
}

impl Tally {
    /// Waits until the only script that is called has ended; not if one call takes longer than `patience`.
    fn ends(&self, thread: &JoinHandle<()>, patience: Duration) -> bool {
        let calls = || self.delivered.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed);
        let (mut seen, mut since) = (calls(), Instant::now());
        while !thread.is_finished() {
            std::thread::sleep(ENDING_STEP);
            if seen != calls() {
                (seen, since) = (calls(), Instant::now());
            } else if since.elapsed() >= patience {
                return false;
            }
        }
        true
    }

    fn leave(&self, weight: usize) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(weight, Ordering::Relaxed);
    }
}

/// The interpreter, on its thread.
struct Host {
    lua: Lua,
    on_trigger: Function,
    path: String,
    clock: Clock,
}

impl Host {
    fn load(source: &Source) -> Result<Self, String> {
        let in_words = |error: mlua::Error| in_words(&source.path, &error);
        let libs = StdLib::COROUTINE | StdLib::TABLE | StdLib::STRING | StdLib::UTF8 | StdLib::MATH | StdLib::OS;
        let lua = Lua::new_with(libs, LuaOptions::default()).map_err(in_words)?;
        furnish(&lua, &source.path).map_err(in_words)?;
        lua.set_memory_limit(source.memory_bytes_max).map_err(in_words)?;
        let clock = Clock { time: source.time, deadline: Rc::new(Cell::new(Instant::now())) };
        let chunk = lua.load(&*source.text).set_name(format!("@{}", source.path)).set_mode(ChunkMode::Text);
        clock.run(&lua, || chunk.exec()).map_err(in_words)?;
        let on_trigger = lua.globals().get("OnTrigger").map_err(|_| {
            format!("{}: there is no function OnTrigger(type, app, channel, session, message)", source.path)
        })?;
        Ok(Self { lua, on_trigger, path: source.path.clone(), clock })
    }

    fn serve(&self, calls: &Receiver<Call>, tally: &Tally) {
        let mut logged: Option<Instant> = None;
        while let Ok(call) = calls.recv() {
            let (app_id, happening) = match call {
                Call::After(thread, patience) => {
                    if !tally.ends(&thread, patience) {
                        let script = &self.path;
                        tracing::error!(script, "the Lua hook before this one hangs in a call; it is left behind");
                    }
                    continue;
                }
                Call::Trigger(app_id, happening) => (app_id, happening),
            };
            match self.call(&app_id, &happening) {
                Ok(()) => drop(tally.delivered.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    tally.failed.fetch_add(1, Ordering::Relaxed);
                    let error: Arc<str> = in_words(&self.path, &error).into();
                    if logged.is_none_or(|at| at.elapsed() >= FAILURE_LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        tracing::warn!(script = self.path, %error, "a Lua hook failed");
                    }
                    let now = SystemTime::now();
                    *tally.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, error));
                }
            }
            tally.leave(happening.weight);
        }
    }

    fn call(&self, app_id: &str, happening: &Happening) -> mlua::Result<()> {
        let Some(Trigger { event, session, data }) = body::trigger(happening) else { return Ok(()) };
        let arguments = (event, app_id, happening.channel.as_str(), session, data);
        self.clock.run(&self.lua, || self.on_trigger.call::<()>(arguments))
    }
}

/// Stops what takes too long.
struct Clock {
    time: Duration,
    deadline: Rc<Cell<Instant>>,
}

impl Clock {
    fn run<T>(&self, lua: &Lua, code: impl FnOnce() -> mlua::Result<T>) -> mlua::Result<T> {
        self.deadline.set(Instant::now() + self.time);
        self.watch(lua, INSTRUCTIONS)?;
        let result = code();
        lua.remove_hook();
        result
    }

    /// A global hook, for it holds in coroutines too.
    fn watch(&self, lua: &Lua, instructions: u32) -> mlua::Result<()> {
        let (time, deadline) = (self.time, self.deadline.clone());
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(instructions), move |lua, debug| {
            if Instant::now() < deadline.get() {
                return Ok(VmState::Continue);
            }
            // from here on each instruction fails, else a loop around `pcall` would go on for ever
            let clock = Clock { time, deadline: deadline.clone() };
            if instructions > 1 {
                clock.watch(lua, 1)?;
            }
            let (source, line) = (debug.source(), debug.current_line());
            let place = source.short_src.zip(line).map(|(file, line)| format!("{file}:{line}: "));
            Err(mlua::Error::runtime(format!("{}stopped after {} ms", place.unwrap_or_default(), time.as_millis())))
        })
    }
}

/// No hook of instructions is called in a finalizer, in what closes a variable, nor in the message handler of an error, if
/// such a hook raised it: so there are none of the former two, and the latter run after the error.
const PRELUDE: &str = r#"
local pcall, setmetatable, rawget, type, error = pcall, setmetatable, rawget, type, error
local pack, unpack, select = table.pack, table.unpack, select
function _G.xpcall(code, handler, ...)
    local results = pack(pcall(code, ...))
    if results[1] then return unpack(results, 1, results.n) end
    return false, select(2, pcall(handler, results[2]))
end
function _G.setmetatable(object, metatable)
    if type(metatable) == "table" then
        if rawget(metatable, "__gc") ~= nil then error("finalizers (__gc) are not available", 2) end
        if rawget(metatable, "__close") ~= nil then error("closing (__close) is not available", 2) end
    end
    return setmetatable(object, metatable)
end
"#;

/// Takes away what leads out of the interpreter, and adds what a hook needs.
fn furnish(lua: &Lua, path: &str) -> mlua::Result<()> {
    let globals = lua.globals();
    for name in ["dofile", "loadfile", "load", "collectgarbage", "warn"] {
        globals.set(name, Value::Nil)?;
    }
    let (os, time): (Table, Table) = (globals.get("os")?, lua.create_table()?);
    for name in ["time", "date", "clock", "difftime"] {
        time.set(name, os.get::<Value>(name)?)?;
    }
    globals.set("os", time)?;
    let script = path.to_owned();
    let print = lua.create_function(move |_, values: MultiValue| {
        let texts = values.iter().map(Value::to_string).collect::<mlua::Result<Vec<_>>>()?;
        tracing::info!(target: "hydrant::hooks::lua", script, "{}", texts.join("\t"));
        Ok(())
    })?;
    globals.set("print", print)?;
    let decode = lua.create_function(|lua, text: LuaString| {
        let value =
            serde_json::from_slice(&text.as_bytes()).map_err(|error| mlua::Error::runtime(error.to_string()))?;
        lua_value(lua, value)
    })?;
    let json = lua.create_table()?;
    json.set("decode", decode)?;
    globals.set("json", json)?;
    lua.load(PRELUDE).set_name("=hydrant").exec()
}

/// JSON as Lua values: `null` is `nil`, arrays begin at 1, and integers beyond 64 bits are floats.
fn lua_value(lua: &Lua, json: serde_json::Value) -> mlua::Result<Value> {
    use serde_json::Value as Json;
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(is) => Value::Boolean(is),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(items) => {
            let table = lua.create_table()?;
            for (index, item) in items.into_iter().enumerate() {
                table.raw_set(index + 1, lua_value(lua, item)?)?;
            }
            Value::Table(table)
        }
        Json::Object(members) => {
            let table = lua.create_table()?;
            for (name, member) in members {
                table.raw_set(name, lua_value(lua, member)?)?;
            }
            Value::Table(table)
        }
    })
}

/// File, line and what is wrong, without the stack.
fn in_words(path: &str, error: &mlua::Error) -> String {
    let words = match error {
        mlua::Error::CallbackError { cause, .. } => cause.to_string(),
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        error => error.to_string(),
    };
    let line = words.lines().next().unwrap_or_default();
    if line.contains(path) { line.to_owned() } else { format!("{path}: {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{ConnectionId, Data, Event, Observation, Observed, SessionName};
    use std::io::Write;
    use tempfile::NamedTempFile;

    /// For what the processor has to get done: generous, for it may have much else to do.
    const DONE_BY: Duration = Duration::from_secs(30);

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn settings() -> Settings {
        let (lua_memory_bytes_max, lua_time) = (1 << 20, DONE_BY);
        Settings { lua_memory_bytes_max, lua_time, queue_max: 10, ..Settings::default() }
    }

    fn start(text: &str, settings: &Settings) -> Result<Script, String> {
        let file = file(text);
        let path = file.path().to_str().unwrap();
        let script = Script::start(Source::read(path, settings)?, Arc::default());
        script.map_err(|error| error.replace(path, "hook.lua"))
    }

    fn event(data: &'static str) -> Arc<Happening> {
        let session =
            SessionName { prefix: Some("bob".into()), id: ConnectionId { nonce: 0, slot: 1, shard: 0, node: 0 } };
        let event = Event::new("hi", Data::AsSent(data.into()), 42);
        let what = Observed::ClientEvent { event, session, user: None };
        Arc::new(Happening::new(Observation { app: "key".into(), channel: "x".into(), what }))
    }

    /// Calls the script once for the data, and returns what went wrong.
    fn call(script: &Script, data: &'static str) -> Option<String> {
        let before = script.tally.last_error.lock().unwrap().take();
        assert!(before.is_none());
        script.push(&"id".into(), event(data), 1 << 20);
        let began = Instant::now();
        while script.tally.queued.load(Ordering::Acquire) > 0 {
            assert!(began.elapsed() < DONE_BY);
            std::thread::yield_now();
        }
        let error = script.tally.last_error.lock().unwrap().take().map(|(_, error)| error.to_string());
        error.map(|error| error.replace(&script.source.path, "hook.lua"))
    }

    #[test]
    fn the_script_is_told_what_push1st_tells() {
        let script = start(
            r##"
            function OnTrigger(type, app, channel, session, message)
                assert(type == "push" and app == "id" and channel == "x" and session == "bob.0.1")
                local decoded = json.decode(message)
                assert(decoded["#msg-from"] == session and decoded["#msg-id"] == 42)
                assert(decoded.data.list[2] == "b" and decoded.data.none == nil and decoded.data.half == 0.5)
                assert(math.type(decoded.data.big) == "integer" and decoded.data.big == 9007199254740993)
                print("all is", "well", nil, {} ~= nil)
                count = (count or 0) + 1
                error("call " .. count .. " at " .. os.date("!%Y", 0))
            end"##,
            &settings(),
        )
        .unwrap();
        let data = r#"{"list":["a","b"],"none":null,"half":0.5,"big":9007199254740993}"#;
        assert_eq!(call(&script, data).unwrap(), "hook.lua:10: call 1 at 1970");
        assert_eq!(call(&script, data).unwrap(), "hook.lua:10: call 2 at 1970");
        assert_eq!(script.tally.failed.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_script_that_does_not_load_says_where() {
        let check = |text: &str, expected: &str| assert_eq!(start(text, &settings()).err().unwrap(), expected);
        check("x = 1", "hook.lua: there is no function OnTrigger(type, app, channel, session, message)");
        check("OnTrigger = 1", "hook.lua: there is no function OnTrigger(type, app, channel, session, message)");
        check("\nx = = 1", "hook.lua:2: unexpected symbol near '='");
        check("\n\nerror('no')", "hook.lua:3: no");
        check("require('socket')", "hook.lua:1: attempt to call a nil value (global 'require')");
        check("x = nil + 1", "hook.lua:1: attempt to perform arithmetic on a nil value");
        let table = start("error({})", &settings()).err().unwrap();
        assert!(table.starts_with("hook.lua: table: "), "{table}");
        let missing = Source::read("/no/such/hook.lua", &settings()).err().unwrap();
        assert!(missing.starts_with("cannot read /no/such/hook.lua: "), "{missing}");
        let looping = Settings { lua_time: Duration::from_millis(20), ..settings() };
        assert_eq!(start("while true do end", &looping).err().unwrap(), "hook.lua:1: stopped after 20 ms");
    }

    #[test]
    fn nothing_leads_out_of_the_interpreter() {
        let names =
            "io debug package require dofile loadfile load collectgarbage warn os.execute os.getenv os.exit os.remove";
        let absent = names.split(' ').map(|name| format!("assert({name} == nil, '{name}')")).collect::<Vec<_>>();
        start(&format!("{} function OnTrigger() end", absent.join(" ")), &settings()).unwrap();
        let bytecode = file("");
        let source =
            Source { text: "\x1bLua".into(), ..Source::read(bytecode.path().to_str().unwrap(), &settings()).unwrap() };
        assert!(Script::start(source, Arc::default()).is_err());
    }

    #[test]
    fn what_takes_too_long_is_stopped_whatever_it_catches() {
        let limits = Settings { lua_time: Duration::from_millis(20), ..settings() };
        let script = start(
            r##"
            local function spin() while true do end end
            local ways = {
                loop = spin,
                caught = function() while true do pcall(spin) end end,
                handled = function() while true do xpcall(spin, spin) end end,
                coroutine = function() coroutine.wrap(spin)() end,
                coroutines = function() while true do coroutine.resume(coroutine.create(spin)) end end,
                collected = function() while true do setmetatable({}, {__gc = spin}) end end,
                closed = function() local x <close> = setmetatable({}, {__close = spin}) while true do end end,
                nothing = function() end,
            }
            function OnTrigger(type, app, channel, session, message) ways[json.decode(message).data]() end"##,
            &limits,
        )
        .unwrap();
        assert!(call(&script, r#""collected""#).unwrap().ends_with(": finalizers (__gc) are not available"));
        assert!(call(&script, r#""closed""#).unwrap().ends_with(": closing (__close) is not available"));
        for way in [r#""loop""#, r#""caught""#, r#""handled""#, r#""coroutine""#, r#""coroutines""#] {
            let error = call(&script, way).unwrap();
            assert!(error.contains("stopped after 20 ms"), "{way}: {error}");
            assert_eq!(call(&script, r#""nothing""#), None, "after {way}");
        }
    }

    #[test]
    fn what_takes_too_much_memory_fails() {
        let script = start(
            r#"function OnTrigger(type, app, channel, session, message)
                kept = string.rep("x", json.decode(message).data)
            end"#,
            &settings(),
        )
        .unwrap();
        assert_eq!(call(&script, "1000"), None);
        assert!(call(&script, "10000000").unwrap().contains("not enough memory"));
        assert_eq!(call(&script, "1000"), None);
    }

    #[test]
    fn what_finds_no_room_is_dropped() {
        let limits = Settings { lua_time: Duration::from_secs(5), ..settings() };
        let script = start("function OnTrigger() while not go do end end", &limits).unwrap();
        for _ in 0..15 {
            script.push(&"id".into(), event("1"), 1 << 20);
        }
        let dropped = script.tally.dropped.load(Ordering::Relaxed);
        assert!((4..=5).contains(&dropped), "{dropped}: the first may be under way");
        let script = start("function OnTrigger() end", &settings()).unwrap();
        script.push(&"id".into(), event("1"), 100);
        assert_eq!(script.tally.dropped.load(Ordering::Relaxed), 1);
        assert_eq!(script.tally.queued_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_script_that_hangs_does_not_hold_up_the_one_that_follows() {
        // in one function of the interpreter, for some seconds
        let old = start("function OnTrigger() string.rep('', 500000000) end", &settings()).unwrap();
        let source = Source { text: "function OnTrigger() error('new') end".into(), ..old.source.clone() };
        let new = Script::start(source, old.tally.clone()).unwrap();
        old.push(&"id".into(), event("1"), 1 << 20);
        let thread = old.thread.lock().unwrap().take().unwrap();
        new.calls.try_send(Call::After(thread, Duration::from_millis(50))).unwrap();
        new.push(&"id".into(), event("1"), 1 << 20);
        let began = Instant::now();
        while new.tally.failed.load(Ordering::Relaxed) == 0 {
            assert!(began.elapsed() < DONE_BY);
            std::thread::yield_now();
        }
        assert_eq!(new.tally.delivered.load(Ordering::Relaxed), 0, "the old one still hangs");
    }

    #[test]
    fn a_script_that_follows_begins_when_the_other_is_through() {
        let limits = Settings { lua_time: Duration::from_millis(20), ..settings() };
        let old = start("function OnTrigger() while true do end end", &limits).unwrap();
        let source = Source { text: "function OnTrigger() error('new') end".into(), ..old.source.clone() };
        let new = Script::start(source, old.tally.clone()).unwrap();
        for _ in 0..3 {
            old.push(&"id".into(), event("1"), 1 << 20);
        }
        new.follow(&old);
        new.push(&"id".into(), event("1"), 1 << 20);
        drop(old);
        let began = Instant::now();
        while new.tally.queued.load(Ordering::Acquire) > 0 {
            assert!(began.elapsed() < DONE_BY);
            std::thread::yield_now();
        }
        assert_eq!(new.tally.failed.load(Ordering::Relaxed), 4);
        let last = new.tally.last_error.lock().unwrap().take().unwrap().1;
        assert!(last.ends_with(":1: new"), "{last}");
    }
}
