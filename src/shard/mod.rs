//! The data plane: one thread per shard, which accepts, reads, fans out and writes; nothing of it is shared.
//!
//! Around the [`Core`] of its shard the runtime moves bytes, messages and time. It works in *turns*: a turn takes what is
//! in the mailbox, hands events to a slice of their subscribers, and then writes each socket that has something
//! pending once, with everything that is pending.

pub mod door;
pub mod http;
pub mod listener;
pub mod route;
mod stream;
pub mod tls;
pub mod ws;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{LocalSet, spawn_local, yield_now};

use crate::core::{
    Answer, CloseReason, Connection, ConnectionId, Core, Effect, Grant, KEPT_PLACES, Message, Node, Outcome, Rejection,
    RequestId, Settings, ShardIndex,
};
use crate::hooks::Hooks;
use crate::hooks::jobs::Jobs;
use door::{Farewell, FrontDoor};
use http::Seat;
use listener::Listener;
use stream::Accepted;
use tls::handshake::Handshakes;
use ws::session::{Conn, part, write_what_goes};

/// How long turns follow each other before sockets, requests and timers have theirs.
const TURNS_TIME: Duration = Duration::from_micros(500);
/// Messages taken from the mailbox in one turn.
const TURN_MESSAGES_MAX: usize = 64;
/// Frames written with one call.
const WRITE_FRAMES_MAX: usize = 64;
/// How long a shard that drains waits for requests and goodbyes under way.
const DRAIN_LINGER: Duration = Duration::from_secs(2);
/// How often a shard that drains closes the next part of its connections.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// What all shards, doors and the control plane of one node hold in common.
pub struct Shared {
    /// The core's part of it.
    pub node: Node,
    /// Where `gusher.remote` and its like are handed on.
    pub jobs: Jobs,
    /// Who is told of what happens.
    pub hooks: Hooks,
    /// Every listener serves: what `/readyz` says.
    pub ready: AtomicBool,
    /// Sockets that are not client connections, of all listeners.
    pub http_connections: AtomicUsize,
    /// Set once, when the node shuts down.
    pub draining: watch::Receiver<bool>,
}

impl Shared {
    /// Whether the node wants traffic: everything listens, and it is not shutting down.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !*self.draining.borrow()
    }
}

/// What is answered on each listener, in order.
pub type Doors = Arc<[Vec<Arc<dyn FrontDoor>>]>;

/// What arrives in a shard's mailbox.
pub enum Mail {
    /// From another shard's core.
    Core(Message),
    /// Other settings, and other doors for every listener.
    Reload(Arc<Settings>, Doors),
    /// A stream that another shard accepted, for balance.
    Stream(Handover),
    /// Close every connection, spread over this time, then say so.
    Drain(Duration, oneshot::Sender<()>),
    /// End the thread.
    Stop,
}

/// What every shard is given to begin with.
#[derive(Clone)]
pub struct Given {
    /// What they hold in common.
    pub shared: Arc<Shared>,
    /// The settings at first.
    pub settings: Arc<Settings>,
    /// What the listeners answer at first.
    pub doors: Doors,
    /// The mailboxes of all shards.
    pub mailboxes: Arc<[UnboundedSender<Mail>]>,
    /// Their common beginning of time.
    pub epoch: Instant,
}

/// A stream on its way to another shard.
pub struct Handover {
    accepted: Accepted,
    seat: Seat,
}

/// One shard, as its own thread sees it.
pub struct Shard {
    index: ShardIndex,
    shared: Arc<Shared>,
    core: RefCell<Core>,
    settings: RefCell<Arc<Settings>>,
    /// What each listener answers, by [`Listener::index`].
    doors: RefCell<Doors>,
    /// By slot of the core's connections; empty until the handshake is complete.
    conns: RefCell<Vec<Option<Rc<Conn>>>>,
    /// Connections whose handshake is answered once they are subscribed.
    subscribing: RefCell<HashMap<ConnectionId, oneshot::Sender<Outcome>>>,
    mailboxes: Arc<[UnboundedSender<Mail>]>,
    mailbox: RefCell<UnboundedReceiver<Mail>>,
    /// Told to end.
    stopping: Cell<bool>,
    requests: RefCell<HashMap<RequestId, oneshot::Sender<Answer>>>,
    last_request: Cell<RequestId>,
    last_event_id: Cell<u64>,
    /// The queue for TLS handshakes.
    handshakes: Handshakes,
    /// There is something to fan out.
    work: Notify,
    effects: RefCell<Vec<Effect>>,
    dirty: RefCell<Vec<u32>>,
    /// What sockets are read into; bytes of one read are dealt with before the next.
    scratch: RefCell<Vec<u8>>,
    epoch: Instant,
    /// Tasks that keep the shard from ending: requests and goodbyes under way.
    tasks: Cell<usize>,
}

/// The bits of an event's number that tell its shard.
const SHARD_MASK: u64 = (1 << 10) - 1;
/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 << 10;

impl Shard {
    /// Runs a shard on the current thread until it is told to stop; says so through `started` once it accepts.
    ///
    /// # Errors
    /// The runtime or a listener could not be set up.
    pub fn run(
        index: ShardIndex,
        given: Given,
        mailbox: UnboundedReceiver<Mail>,
        listeners: Vec<(Arc<Listener>, listener::Socket)>,
        started: mpsc::Sender<()>,
    ) -> io::Result<()> {
        let Given { shared, settings, doors, mailboxes, epoch } = given;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shard = Rc::new(Shard {
            index,
            core: RefCell::new(Core::new(index, shared.node.clone(), settings.clone())),
            handshakes: Handshakes::new(settings.limits.tls_handshakes_max),
            settings: RefCell::new(settings),
            doors: RefCell::new(doors),
            shared,
            conns: RefCell::default(),
            subscribing: RefCell::default(),
            mailboxes,
            mailbox: RefCell::new(mailbox),
            stopping: Cell::new(false),
            requests: RefCell::default(),
            last_request: Cell::new(0),
            last_event_id: Cell::new(0),
            work: Notify::new(),
            effects: RefCell::default(),
            dirty: RefCell::default(),
            scratch: RefCell::new(vec![0; READ_BYTES]),
            epoch,
            tasks: Cell::new(0),
        });
        LocalSet::new().block_on(&runtime, async {
            for (listener, socket) in listeners {
                listener::accept_on(shard.clone(), listener, socket)?;
            }
            let _ = started.send(());
            turns(shard).await;
            Ok(())
        })
    }

    // ------------------------------------------------------------------ for the front doors

    /// What the node holds in common.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Wall clock, in seconds since 1970.
    pub fn unix_s(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// A number for the next event: nanoseconds since 1970, but later than the last, and of no other shard of this node.
    pub fn event_id(&self) -> u64 {
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let id = (nanos & !SHARD_MASK).max(self.last_event_id.get() + SHARD_MASK + 1) | u64::from(self.index);
        self.last_event_id.set(id & !SHARD_MASK);
        id
    }

    /// Calls a verb of the core, and carries out what it leads to.
    pub fn act<T>(self: &Rc<Self>, verb: impl FnOnce(&mut Core) -> T) -> T {
        self.catch_up();
        let result = {
            let mut core = self.core.borrow_mut();
            core.set_now(self.now_ms());
            verb(&mut core)
        };
        self.come_to_rest();
        result
    }

    /// Calls a verb that is answered by other shards, and waits for the answer.
    ///
    /// # Errors
    /// The core refused, or (after `request_timeout`) a shard did not answer: [`Rejection::Overloaded`].
    pub async fn ask(
        self: &Rc<Self>,
        verb: impl FnOnce(&mut Core, RequestId) -> Result<(), Rejection>,
    ) -> Result<Answer, Rejection> {
        let request = self.last_request.get() + 1;
        self.last_request.set(request);
        let (answer, answered) = oneshot::channel();
        self.requests.borrow_mut().insert(request, answer);
        let asked = Asked { shard: self, request };
        self.act(|core| verb(core, asked.request))?;
        match tokio::time::timeout(self.settings().limits.request_timeout, answered).await {
            Ok(Ok(Answer::Refused(rejection))) => Err(rejection),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Rejection::Overloaded),
        }
    }

    /// Subscribes a connection whose handshake is yet to be answered; returns once it is subscribed.
    async fn subscribe(self: &Rc<Self>, id: ConnectionId, grants: Vec<Grant>) -> Result<(), Rejection> {
        let (outcome, ended) = oneshot::channel();
        self.subscribing.borrow_mut().insert(id, outcome);
        let _subscribing = Subscribing { shard: self, id };
        self.act(|core| core.subscribe(id.slot, grants));
        match tokio::time::timeout(self.settings().limits.request_timeout, ended).await {
            Ok(Ok(Outcome::Refused(rejection))) => Err(rejection),
            Ok(Ok(Outcome::Subscribed(_) | Outcome::SignedIn { .. })) => Ok(()),
            // taken down meanwhile, or a shard does not answer
            Ok(Err(_)) | Err(_) => Err(Rejection::Overloaded),
        }
    }

    // ------------------------------------------------------------------ turns

    /// Acts on everything in the mailbox. Comes before any verb: a publish that another shard has accepted and answered,
    /// for a channel at home here, must not be overtaken by what is accepted here after it.
    fn catch_up(self: &Rc<Self>) {
        let waiting = self.mailbox.borrow().len();
        for _ in 0..waiting {
            let Ok(mail) = self.mailbox.borrow_mut().try_recv() else { break };
            self.open(mail);
        }
    }

    /// Acts on one piece of mail.
    fn open(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Core(message) => self.survive(|| {
                let mut core = self.core.borrow_mut();
                core.set_now(self.now_ms());
                core.receive(message);
            }),
            Mail::Reload(settings, doors) => {
                self.core.borrow_mut().apply_settings(settings.clone());
                self.handshakes.set_max(settings.limits.tls_handshakes_max);
                self.settings.replace(settings);
                self.doors.replace(doors);
            }
            Mail::Stream(handover) => listener::take_over(self, handover),
            Mail::Drain(over, drained) => drop(spawn_local(drain(self.clone(), over, drained))),
            Mail::Stop => self.stopping.set(true),
        }
        self.survive(|| self.carry_out_effects());
    }

    /// Gives memory back that a crowd took which has gone.
    fn give_back(&self) {
        let mut conns = self.conns.borrow_mut();
        let used = conns.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        conns.truncate(used);
        if conns.capacity() > KEPT_PLACES && conns.len() < conns.capacity() / 8 {
            conns.shrink_to_fit();
        }
        self.effects.borrow_mut().shrink_to(KEPT_PLACES);
        self.dirty.borrow_mut().shrink_to(KEPT_PLACES);
    }

    /// A clock that never runs backwards, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn since_epoch_us(&self, time: Instant) -> u64 {
        (time - self.epoch).as_micros() as u64
    }

    /// Carries out effects and writes until nothing more follows from what was done.
    fn come_to_rest(self: &Rc<Self>) {
        self.write_out();
        if self.core.borrow_mut().has_new_fan_out() {
            self.work.notify_one();
        }
    }

    fn write_out(self: &Rc<Self>) {
        loop {
            self.carry_out_effects();
            if !self.flush() {
                break;
            }
        }
    }

    fn carry_out_effects(self: &Rc<Self>) {
        let mut effects = self.effects.take();
        loop {
            self.core.borrow_mut().take_effects(&mut effects);
            if effects.is_empty() {
                break;
            }
            for effect in effects.drain(..) {
                self.survive(|| self.carry_out(effect));
            }
        }
        self.effects.replace(effects);
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        match effect {
            // a shard that has ended after a drain has nobody left to tell
            Effect::Send(shard, message) => drop(self.mailboxes[usize::from(shard)].send(Mail::Core(message))),
            Effect::Connected(slot) => {
                if let Some(conn) = self.conn(slot) {
                    conn.command_ended();
                }
            }
            Effect::Outcome(slot, outcome) => self.reply_to_command(slot, outcome),
            Effect::Answered(request, answer) => {
                if let Some(asked) = self.requests.borrow_mut().remove(&request) {
                    let _ = asked.send(answer);
                }
            }
            Effect::Ping(slot) => self.core.borrow_mut().reply(slot, ws::codec::ping_frame(b"")),
            Effect::Close(slot, reason) => self.take_down(slot, reason, None),
            Effect::Observed(observation) => self.shared.hooks.observe(observation),
        }
    }

    fn reply_to_command(self: &Rc<Self>, slot: u32, outcome: Outcome) {
        let Some(conn) = self.conn(slot) else {
            let id = self.core.borrow().connection(slot).map(Connection::id);
            if let Some(opening) = id.and_then(|id| self.subscribing.borrow_mut().remove(&id)) {
                let _ = opening.send(outcome);
            }
            return;
        };
        let step = self.guarded(slot, || conn.session().done(outcome));
        conn.command_ended();
        ws::session::take_step(self, &conn, step);
    }

    /// Runs protocol code for one connection; a panic in it costs that connection alone.
    fn guarded<T>(&self, slot: u32, code: impl FnOnce() -> T) -> Option<T> {
        let result = survived(code);
        if result.is_none() {
            let mut core = self.core.borrow_mut();
            core.stats_mut().panics += 1;
            core.close(slot, CloseReason::Internal);
        }
        result
    }

    fn conn(&self, slot: u32) -> Option<Rc<Conn>> {
        self.conns.borrow().get(slot as usize)?.clone()
    }

    /// Writes every connection that has something pending. Returns whether there was one.
    fn flush(&self) -> bool {
        let mut dirty = self.dirty.take();
        self.core.borrow_mut().take_dirty(&mut dirty);
        let any = !dirty.is_empty();
        for slot in dirty.drain(..) {
            self.flush_one(slot);
        }
        self.dirty.replace(dirty);
        any
    }

    fn flush_one(&self, slot: u32) {
        let conns = self.conns.borrow();
        let mut core = self.core.borrow_mut();
        let conn = conns.get(slot as usize).and_then(Option::as_ref);
        if let Some(conn) = conn
            && !conn.is_blocked()
            && let Some(outbox) = core.outbox_mut(slot)
        {
            match write_what_goes(conn, outbox) {
                Ok((bytes, calls)) => {
                    let stats = core.stats_mut();
                    stats.bytes_out += bytes;
                    stats.writes += calls;
                }
                Err(_) => core.close(slot, CloseReason::Client),
            }
        }
        core.flushed(slot, conn.map_or(0, |conn| conn.stream.held_back_bytes()));
    }

    /// Ends a connection: off the roster at once, then it is sent what it is still to be sent, by a task of its own if
    /// that takes time.
    fn take_down(self: &Rc<Self>, slot: u32, reason: CloseReason, close_frame: Option<Vec<u8>>) {
        let Some(conn) = self.conns.borrow_mut().get_mut(slot as usize).and_then(Option::take) else {
            // still shaking hands: whoever does that finds it gone
            self.core.borrow_mut().disconnect(slot, reason);
            self.subscribing.borrow_mut().retain(|id, _| id.slot != slot);
            return;
        };
        conn.end();
        let mut core = self.core.borrow_mut();
        if let Some(connection) = core.connection(slot) {
            ws::session::log_end(connection, conn.session().protocol(), reason, self.now_ms());
        }
        let Some(mut outbox) = core.disconnect(slot, reason) else { return };
        drop(core);
        if reason == CloseReason::SlowReader {
            outbox.keep_only_started();
        }
        let farewell = || {
            let session = conn.session();
            let words = session.last_words(reason).map(|words| ws::codec::text_frame(words.as_bytes()));
            let Farewell { code, reason } = session.farewell(reason);
            [words.unwrap_or_default(), ws::codec::close_frame(code, &reason)].concat()
        };
        let frame = close_frame.or_else(|| (reason != CloseReason::Client).then(farewell));
        outbox.push(frame.unwrap_or_default().into());
        if !ws::session::part_at_once(&conn, &mut outbox, reason) {
            self.spawn(part(conn, outbox));
        }
    }

    /// Runs a task that the shard waits for when it drains.
    fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let running = Running::new(self.clone());
        spawn_local(async move {
            task.await;
            drop(running);
        });
    }

    /// A message or a piece of work must not take the shard with it.
    fn survive(self: &Rc<Self>, work: impl FnOnce()) {
        if survived(work).is_none() {
            self.core.borrow_mut().stats_mut().panics += 1;
        }
    }
}

/// What the code comes to, unless it panics (the panic hook has reported it then).
fn survived<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).ok()
}

/// A request whose asker waits; forgotten when it no longer does.
struct Asked<'a> {
    shard: &'a Rc<Shard>,
    request: RequestId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.shard.requests.borrow_mut().remove(&self.request);
    }
}

/// A connection whose handshake waits; forgotten when it no longer does.
struct Subscribing<'a> {
    shard: &'a Rc<Shard>,
    id: ConnectionId,
}

impl Drop for Subscribing<'_> {
    fn drop(&mut self) {
        self.shard.subscribing.borrow_mut().remove(&self.id);
    }
}

/// Counts a task among those that the shard waits for.
struct Running(Rc<Shard>);

impl Running {
    fn new(shard: Rc<Shard>) -> Self {
        shard.tasks.set(shard.tasks.get() + 1);
        Self(shard)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.tasks.set(self.0.tasks.get() - 1);
    }
}

/// The life of a shard.
async fn turns(shard: Rc<Shard>) {
    let resolution = Core::resolution(&shard.settings().limits);
    let mut ticks = tokio::time::interval(resolution);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_tick = Instant::now();
    let mut mail = Vec::with_capacity(TURN_MESSAGES_MAX);
    let mut yielded = Instant::now();
    while !shard.stopping.get() {
        let (fans_out, next_us) = {
            let core = shard.core.borrow();
            (core.has_fan_out(), core.next_fan_out_us())
        };
        let next = next_us.map(|us| shard.epoch + Duration::from_micros(us));
        if fans_out || next.is_some_and(|next| next <= Instant::now()) {
            if yielded.elapsed() >= TURNS_TIME {
                yield_now().await;
                yielded = Instant::now();
            }
            let mut mailbox = shard.mailbox.borrow_mut();
            while mail.len() < TURN_MESSAGES_MAX
                && let Ok(message) = mailbox.try_recv()
            {
                mail.push(message);
            }
        } else {
            let letters = poll_fn(|cx| shard.mailbox.borrow_mut().poll_recv_many(cx, &mut mail, TURN_MESSAGES_MAX));
            let rested = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = letters => {}
                () = shard.work.notified() => {}
                () = rested => {}
                _ = ticks.tick() => {}
            }
            yielded = Instant::now();
        }
        let began = Instant::now();
        // here and not in the arm above, which a busy shard may never come to
        if began >= next_tick {
            next_tick = began + resolution;
            shard.survive(|| shard.core.borrow_mut().tick(shard.now_ms()));
            shard.give_back();
        }
        for mail in mail.drain(..) {
            shard.open(mail);
        }
        shard.core.borrow_mut().begin_turn(shard.since_epoch_us(began));
        shard.survive(|| shard.core.borrow_mut().fan_out());
        shard.survive(|| shard.write_out());
        let ended = Instant::now();
        let mut core = shard.core.borrow_mut();
        core.end_turn(shard.since_epoch_us(ended));
        core.stats_mut().turn((ended - began).as_micros() as u64);
    }
}

/// Closes every connection, a part at a time, so that not all clients come back elsewhere in one moment.
async fn drain(shard: Rc<Shard>, over: Duration, drained: oneshot::Sender<()>) {
    let slots = shard.core.borrow().slots();
    let steps = (over.as_millis() / DRAIN_STEP.as_millis()).max(1) as usize;
    for part in slots.chunks(slots.len().div_ceil(steps).max(1)) {
        shard.act(|core| part.iter().for_each(|slot| core.close(*slot, CloseReason::Draining)));
        tokio::time::sleep(DRAIN_STEP).await;
    }
    // whoever came in meanwhile
    shard.act(|core| core.slots().into_iter().for_each(|slot| core.close(slot, CloseReason::Draining)));
    let finished = async {
        // once at least: sockets accepted in the last moment have yet to be read
        loop {
            tokio::time::sleep(DRAIN_STEP).await;
            if shard.tasks.get() == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_LINGER, finished).await;
    let _ = drained.send(());
}
