//! A client connection from the handshake to the last byte.

use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};

use super::codec::{self, Accepts, Decoder, Message};
use super::deflate;
use super::handshake::{self, NotAnUpgrade};
use crate::core::AppKey;
use crate::core::{
    CloseReason, Connection, ConnectionId, Core, DialectIndex, Form, Grant, Hello, Outbox, Outcome, Permissions,
    Rejection, UserId,
};
use crate::shard::door::{Farewell, Heard, Session, Step};
use crate::shard::http::{Exchange, Response, Seat};
use crate::shard::stream::Stream;
use crate::shard::{READ_BYTES, Shard, WRITE_FRAMES_MAX, survived};

/// How long a connection that was taken down may take to read what it is still sent.
const CLOSE_LINGER: Duration = Duration::from_secs(2);
/// What a connection that was taken down may still send before it is cut off, in bytes.
const DISCARDED_BYTES_MAX: usize = 1 << 20;

/// What a connection takes that does nothing, in bytes: its state, task, session and place among the kernel's events. Measured;
/// of ten thousand that had one channel in common.
const CONNECTION_BYTES: usize = 1_300;
/// What TLS adds to that: keys, and what else rustls keeps. Measured, too.
const TLS_BYTES: usize = 3_900;

/// What a front door knows of a client whose credential it has verified.
#[derive(Debug)]
pub struct Welcome {
    /// The app that the credential is for.
    pub app: AppKey,
    /// Who it is; empty if it did not say.
    pub user: UserId,
    /// What it may use.
    pub permissions: Permissions,
    /// What it reads.
    pub dialect: DialectIndex,
    /// What it calls its session, where its protocol has that.
    pub session: Option<Arc<str>>,
    /// Whether it must show who it is before long, if its app demands that.
    pub must_authorize: bool,
}

/// Why a handshake was not completed.
#[derive(Debug)]
pub enum Refusal {
    /// The request is no WebSocket handshake.
    NotAnUpgrade(NotAnUpgrade),
    /// The core said no.
    Rejected(Rejection),
}

/// Completes a handshake. Before this answers 101, word of the connection is in the mailbox of its user's home: whoever
/// asks later, on whichever shard, finds the user.
///
/// # Errors
/// See [`Refusal`]; the front door puts it into words.
pub fn open(
    exchange: &mut Exchange,
    welcome: Welcome,
    session: impl FnOnce(ConnectionId) -> Box<dyn Session>,
) -> Result<Response, Refusal> {
    shake_hands(exchange, welcome, session).map(|(_, response)| response)
}

/// As [`open`], for a client whose `user` is empty and who learns from the handshake alone that it is subscribed: that is
/// not answered before. Nothing of what is published from then on is missed.
///
/// # Errors
/// As [`open`]; also if the client may not be subscribed to so many channels.
pub async fn open_subscribed(
    exchange: &mut Exchange,
    welcome: Welcome,
    grants: Vec<Grant>,
    session: impl FnOnce(ConnectionId) -> Box<dyn Session>,
) -> Result<Response, Refusal> {
    let (id, response) = shake_hands(exchange, welcome, session)?;
    exchange.shard.subscribe(id, grants).await.map_err(Refusal::Rejected)?;
    Ok(response)
}

fn shake_hands(
    exchange: &mut Exchange,
    welcome: Welcome,
    session: impl FnOnce(ConnectionId) -> Box<dyn Session>,
) -> Result<(ConnectionId, Response), Refusal> {
    let accept = handshake::accept(&exchange.request).map_err(Refusal::NotAnUpgrade)?;
    let shard = exchange.shard.clone();
    let may_deflate = exchange.seat.deflates() || exchange.settings.app(&welcome.app).deflates;
    let extension = if may_deflate { deflate::agree(exchange.request.headers()) } else { None };
    let deflated = extension.is_some();
    let id = enter(&shard, exchange, welcome, deflated).map_err(Refusal::Rejected)?;
    let opening = Opening { shard: shard.clone(), id, done: false };
    let upgrade = hyper::upgrade::on(&mut exchange.request);
    let session = session(id);
    let seat = exchange.seat.clone();
    spawn_local(async move {
        let mut opening = opening;
        if let Some((stream, early)) = upgraded(upgrade).await {
            opening.done = true;
            let conn = Rc::new(Conn::new(id, stream, session, deflated, seat));
            attach(&shard, &conn);
            // a task of its own: the one that shook hands is many times larger
            spawn_local(run(shard, conn, early));
        }
    });
    Ok((id, handshake::switching_protocols(accept, extension)))
}

/// Completes a handshake only to say no on the socket, where clients of some protocols look for the reason: sends a
/// message, if there is one, and the close frame.
///
/// # Errors
/// The request is no WebSocket handshake.
pub fn refuse(exchange: &mut Exchange, words: Option<String>, farewell: Farewell) -> Result<Response, NotAnUpgrade> {
    let accept = handshake::accept(&exchange.request)?;
    let upgrade = hyper::upgrade::on(&mut exchange.request);
    let shard = exchange.shard.clone();
    let counted = (exchange.seat.clone(), exchange.visitor.clone());
    shard.spawn(async move {
        // until it is gone: a flood of those that are refused has the same limit as other strangers
        let _counted = counted;
        let Some((stream, _)) = upgraded(upgrade).await else { return };
        let words = words.map(|words| codec::text_frame(words.as_bytes())).unwrap_or_default();
        let mut outbox = Outbox::default();
        outbox.push([words, codec::close_frame(farewell.code, &farewell.reason)].concat().into());
        let _ = tokio::time::timeout(CLOSE_LINGER, say_goodbye(&stream, &mut outbox)).await;
    });
    Ok(handshake::switching_protocols(accept, None))
}

fn enter(shard: &Rc<Shard>, exchange: &Exchange, welcome: Welcome, deflated: bool) -> Result<ConnectionId, Rejection> {
    let node = &shard.shared.node;
    if *shard.shared.draining.borrow() {
        return Err(shard.core.borrow_mut().rejected(Rejection::Draining));
    }
    let bytes = CONNECTION_BYTES + if exchange.seat.has_tls() { TLS_BYTES } else { 0 };
    let permit = node
        .admission
        .admit(&welcome.app, exchange.client, bytes, &shard.settings())
        .map_err(|rejection| shard.core.borrow_mut().rejected(rejection))?;
    let mut nonce = [0; 8];
    // not from the kernel, whose calls would be felt in a storm; this fails only where nothing random is to be had at all
    aws_lc_rs::rand::fill(&mut nonce).expect("random bytes");
    let nonce = u64::from_ne_bytes(nonce);
    let Welcome { user, permissions, dialect, session, must_authorize, .. } = welcome;
    shard.act(|core| {
        // its app may be gone, or know it no more: to be asked again
        if !Arc::ptr_eq(core.settings(), &exchange.settings) {
            return Err(core.rejected(Rejection::Overloaded));
        }
        let form = Form::new(dialect, deflated);
        core.connect(Hello { permit, user, permissions, form, session, must_authorize, nonce })
    })
}

async fn upgraded(upgrade: OnUpgrade) -> Option<(Stream, Vec<u8>)> {
    let parts = upgrade.await.ok()?.downcast::<TokioIo<Stream>>().ok()?;
    // copied: the buffer of the handshake is large and must not live as long as the connection
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

/// A connection that is on the roster but has no stream yet; it leaves when the handshake comes to nothing.
struct Opening {
    shard: Rc<Shard>,
    id: ConnectionId,
    done: bool,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let is_ours = self.shard.core.borrow().connection(self.id.slot).is_some_and(|held| held.id() == self.id);
        if !self.done && is_ours {
            self.shard.act(|core| core.disconnect(self.id.slot, CloseReason::Client));
        }
    }
}

/// The I/O side of a connection. Its state is the core's.
pub(in crate::shard) struct Conn {
    id: ConnectionId,
    pub(in crate::shard) stream: Stream,
    session: RefCell<Box<dyn Session>>,
    /// Messages may come deflated.
    deflated: bool,
    /// Wakes the connection's task.
    waker: RefCell<Option<Waker>>,
    /// The socket takes no more for now.
    blocked: Cell<bool>,
    /// A command is in flight: nothing more is read until it has ended.
    busy: Cell<bool>,
    ended: Cell<bool>,
    /// Counts the connection on its listener, for balance between shards.
    _seat: Rc<Seat>,
}

impl Conn {
    fn new(id: ConnectionId, stream: Stream, session: Box<dyn Session>, deflated: bool, seat: Rc<Seat>) -> Self {
        Self {
            id,
            stream,
            session: RefCell::new(session),
            deflated,
            waker: RefCell::default(),
            blocked: Cell::new(false),
            busy: Cell::new(false),
            ended: Cell::new(false),
            _seat: seat,
        }
    }

    pub(in crate::shard) fn session(&self) -> RefMut<'_, dyn Session> {
        RefMut::map(self.session.borrow_mut(), |session| &mut **session)
    }

    pub(in crate::shard) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// The socket is full; its task waits until it takes more.
    pub(in crate::shard) fn blocked(&self) {
        self.blocked.set(true);
        self.wake();
    }

    pub(in crate::shard) fn command_ended(&self) {
        self.busy.set(false);
        self.wake();
    }

    pub(in crate::shard) fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Waits for what the connection's task must do next. `has_rest`: bytes were read that are yet to be decoded.
    /// Returns whether there was a wait, too.
    async fn next(&self, has_rest: bool) -> (Next, bool) {
        let mut waited = false;
        poll_fn(|cx| {
            if self.ended.get() {
                return Poll::Ready((Next::End, waited));
            }
            if self.blocked.get() && self.stream.poll_write_ready(cx).is_ready() {
                return Poll::Ready((Next::Write, waited));
            }
            if !self.busy.get() && (has_rest || self.stream.poll_read_ready(cx).is_ready()) {
                return Poll::Ready((Next::Read, waited));
            }
            waited = true;
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

enum Next {
    Read,
    Write,
    End,
}

fn attach(shard: &Rc<Shard>, conn: &Rc<Conn>) {
    let slot = conn.id.slot as usize;
    let mut conns = shard.conns.borrow_mut();
    if conns.len() <= slot {
        conns.resize(slot + 1, None);
    }
    match shard.core.borrow().connection(conn.id.slot).filter(|held| held.id() == conn.id) {
        // no command before the roster has it
        Some(held) => conn.busy.set(held.is_busy()),
        None => return conn.end(),
    }
    conns[slot] = Some(conn.clone());
    drop(conns);
    let step = ask_session(shard, conn, "", |session, heard| session.opened(heard));
    take_step(shard, conn, step);
    // whatever was sent to it between the roster and now
    shard.flush_one(conn.id.slot);
    shard.come_to_rest();
}

/// The task of a connection: reads when there is something, writes when the socket takes more again.
async fn run(shard: Rc<Shard>, conn: Rc<Conn>, mut rest: Vec<u8>) {
    let mut decoder = Decoder::new();
    let mut kept_bytes = 0;
    loop {
        let (next, waited) = conn.next(!rest.is_empty()).await;
        if !waited {
            yield_now().await; // a client that never stops sending must not be the only one
        }
        let mut input = std::mem::take(&mut rest);
        let done = shard.guarded(conn.id.slot, || match next {
            Next::End => None,
            Next::Write => {
                conn.blocked.set(false);
                shard.flush_one(conn.id.slot);
                Some(input)
            }
            Next::Read => {
                shard.catch_up();
                let fresh = input.is_empty();
                Some(if fresh {
                    read(&shard, &conn, &mut decoder)
                } else {
                    digest(&shard, &conn, &mut decoder, &mut input)
                })
            }
        });
        match done {
            Some(Some(left)) => rest = left,
            Some(None) => return,
            // the connection is about to be closed
            None => {}
        }
        let keeps_bytes = decoder.held_bytes() + rest.capacity() + conn.stream.kept_bytes();
        if kept_bytes != keeps_bytes {
            kept_bytes = keeps_bytes;
            shard.core.borrow_mut().keeps_input(conn.id, kept_bytes);
        }
        shard.come_to_rest();
    }
}

/// Reads what is there, up to what others can wait for; returns what is not decoded because a command is in flight.
fn read(shard: &Rc<Shard>, conn: &Conn, decoder: &mut Decoder) -> Vec<u8> {
    let mut scratch = shard.scratch.take();
    // lost if a panic ended the last read
    scratch.resize(READ_BYTES, 0);
    let mut rest = Vec::new();
    let mut left = READ_BYTES;
    while left > 0 {
        match conn.stream.try_read(&mut scratch[..left]) {
            Ok(0) => {
                shard.core.borrow_mut().close(conn.id.slot, CloseReason::Client);
                break;
            }
            Ok(count) => {
                let mut core = shard.core.borrow_mut();
                core.set_now(shard.now_ms());
                core.heard(conn.id.slot);
                core.stats_mut().bytes_in += count as u64;
                drop(core);
                left -= count;
                rest = digest(shard, conn, decoder, &mut scratch[..count]);
                if !rest.is_empty() || conn.busy.get() || conn.ended.get() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => {
                shard.core.borrow_mut().close(conn.id.slot, CloseReason::Client);
                break;
            }
        }
    }
    shard.scratch.replace(scratch);
    rest
}

/// Decodes bytes and acts on each message, up to the first that must wait for an answer, or to what others can wait for: a
/// thousand times as much may be deflated in them. Returns the bytes after it.
fn digest(shard: &Rc<Shard>, conn: &Conn, decoder: &mut Decoder, input: &mut [u8]) -> Vec<u8> {
    let settings = shard.settings();
    let limits = &settings.limits;
    let accepts = Accepts { message_bytes_max: conn.session().message_bytes_max(limits), deflated: conn.deflated };
    let (mut at, mut heard_bytes) = (0, 0);
    // to the end of the input and once more: only then does the decoder let go of a message that came in pieces
    while !conn.ended.get() {
        if conn.busy.get() || (heard_bytes >= READ_BYTES && at < input.len()) {
            return input[at..].to_vec();
        }
        let decoded = match decoder.decode(&mut input[at..], accepts) {
            Ok(decoded) => decoded,
            Err(violation) => {
                let frame = codec::close_frame(violation.close_code(), violation.reason());
                shard.take_down(conn.id.slot, CloseReason::Violation, Some(frame));
                break;
            }
        };
        at += decoded.consumed;
        match decoded.message {
            Some(message) => {
                heard_bytes += message.bytes();
                hear(shard, conn, message);
            }
            None => break,
        }
        // replies to a row of commands must not pile up beyond what a row of events may
        let is_over = |held: &Connection| held.outbox().exceeds(limits.outbox_bytes_max);
        if shard.core.borrow().connection(conn.id.slot).is_some_and(is_over) {
            shard.flush_one(conn.id.slot);
        }
        // a subscribe whose channels are all at home here has been answered by now
        shard.carry_out_effects();
    }
    Vec::new()
}

fn hear(shard: &Rc<Shard>, conn: &Conn, message: Message<'_>) {
    let slot = conn.id.slot;
    match message {
        Message::Text(text) => hear_text(shard, conn, text),
        Message::Binary(message) if conn.session().reads_binary() => match str::from_utf8(message) {
            Ok(text) => hear_text(shard, conn, text),
            Err(_) => shard.take_down(slot, CloseReason::Violation, Some(codec::close_frame(1007, "not UTF-8"))),
        },
        Message::Binary(message) => {
            if let Some(Some(frame)) = shard.guarded(slot, || conn.session().binary(message)) {
                shard.core.borrow_mut().reply(slot, frame);
            }
        }
        Message::Pong(_) => {}
        Message::Ping(payload) => shard.core.borrow_mut().reply(slot, codec::pong_frame(payload)),
        Message::Close { code, .. } => {
            let frame = codec::close_frame(code.unwrap_or(1000), "");
            shard.take_down(slot, CloseReason::Client, Some(frame));
        }
    }
}

fn hear_text(shard: &Rc<Shard>, conn: &Conn, text: &str) {
    shard.core.borrow_mut().stats_mut().commands += 1;
    let step = ask_session(shard, conn, text, |session, heard| session.text(heard));
    take_step(shard, conn, step);
}

/// What a session makes of something; `None` if it panicked, which is the end of its connection.
fn ask_session(
    shard: &Rc<Shard>,
    conn: &Conn,
    text: &str,
    ask: impl FnOnce(&mut dyn Session, Heard<'_>) -> Step,
) -> Option<Step> {
    let slot = conn.id.slot;
    let step = {
        let core = shard.core.borrow();
        let Some(connection) = core.connection(slot) else { return Some(Step::Nothing) };
        let heard = Heard { text, connection, core: &core, shard };
        survived(|| ask(&mut *conn.session(), heard))
    };
    if step.is_none() {
        let mut core = shard.core.borrow_mut();
        core.stats_mut().panics += 1;
        core.close(slot, CloseReason::Internal);
    }
    step
}

/// Does what a session wants done.
pub(in crate::shard) fn take_step(shard: &Rc<Shard>, conn: &Conn, step: Option<Step>) {
    let slot = conn.id.slot;
    let mut core = shard.core.borrow_mut();
    let say = |core: &mut Core, text: String| core.reply(slot, codec::text_frame(text.as_bytes()));
    match step {
        None | Some(Step::Nothing) => {}
        Some(Step::Reply(text)) => say(&mut core, text),
        Some(Step::Replies(texts)) => texts.into_iter().for_each(|text| say(&mut core, text)),
        Some(Step::Refuse(rejection, text)) => {
            core.rejected(rejection);
            say(&mut core, text);
        }
        Some(Step::Subscribe(grants)) => {
            conn.busy.set(true);
            core.subscribe(slot, grants);
        }
        Some(Step::Unsubscribe { channel, words, flaps }) => {
            core.unsubscribe(slot, &channel, flaps);
            words.into_iter().for_each(|text| say(&mut core, text));
        }
        Some(Step::Publish { channel, event, target }) => {
            if let Err(rejection) = core.publish_from(slot, channel, event, target) {
                drop(core);
                let step = shard.guarded(slot, || conn.session().done(Outcome::Refused(rejection)));
                take_step(shard, conn, step);
            }
        }
        Some(Step::SignIn(user, watched)) => {
            conn.busy.set(true);
            core.sign_in(slot, user, watched);
        }
        Some(Step::Job(job)) => {
            conn.busy.set(true);
            drop(core);
            let done = shard.shared.jobs.submit(job);
            spawn_local(await_job(shard.clone(), conn.id, done));
        }
        Some(Step::Close(Farewell { code, reason })) => {
            drop(core);
            shard.take_down(slot, CloseReason::Violation, Some(codec::close_frame(code, &reason)));
        }
    }
}

async fn await_job(
    shard: Rc<Shard>,
    id: ConnectionId,
    done: oneshot::Receiver<Result<(), crate::hooks::jobs::JobError>>,
) {
    let Ok(result) = done.await else { return };
    let Some(conn) = shard.conn(id.slot).filter(|conn| conn.id == id) else { return };
    if let Some(Some(text)) = shard.guarded(id.slot, || conn.session().job_done(result)) {
        shard.core.borrow_mut().reply(id.slot, codec::text_frame(text.as_bytes()));
    }
    conn.command_ended();
    shard.come_to_rest();
}

/// Sends a connection that was taken down what it is still to be sent, if its socket takes that at once and the client
/// was the one to say goodbye. Returns whether nothing is left to be done.
pub(in crate::shard) fn part_at_once(conn: &Conn, outbox: &mut Outbox, reason: CloseReason) -> bool {
    let written = write_what_goes(conn, outbox);
    // a client that has not said goodbye may still be sending: closing at once would make the kernel throw away what
    // is on its way to it
    let is_done = outbox.is_empty() && conn.stream.held_back_bytes() == 0 && reason == CloseReason::Client;
    if is_done {
        conn.stream.end_at_once();
    }
    written.is_err() || is_done
}

/// Sends a connection that was taken down what it is still to be sent, and waits for it to hang up, both for a
/// bounded time.
pub(in crate::shard) async fn part(conn: Rc<Conn>, mut outbox: Outbox) {
    // whether the peer hung up in time or not, the socket is closed then
    let _ = tokio::time::timeout(CLOSE_LINGER, say_goodbye(&conn.stream, &mut outbox)).await;
}

async fn say_goodbye(stream: &Stream, outbox: &mut Outbox) -> io::Result<()> {
    while !outbox.is_empty() {
        stream.writable().await?;
        write_to(stream, outbox)?;
    }
    stream.shutdown_write().await?;
    let mut left = DISCARDED_BYTES_MAX;
    while left > 0 {
        stream.readable().await?;
        match stream.try_read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(count) => left = left.saturating_sub(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        yield_now().await; // lets the time-out, and others, have their turn
    }
    Ok(())
}

/// Writes until nothing is left or the socket is full. Returns the bytes and calls that it took.
pub(in crate::shard) fn write_what_goes(conn: &Conn, outbox: &mut Outbox) -> io::Result<(u64, u64)> {
    let written = write_to(&conn.stream, outbox)?;
    if !outbox.is_empty() || conn.stream.held_back_bytes() > 0 {
        conn.blocked();
    }
    Ok(written)
}

fn write_to(stream: &Stream, outbox: &mut Outbox) -> io::Result<(u64, u64)> {
    let (mut bytes, mut calls) = (0, 0);
    while !outbox.is_empty() {
        let written = match outbox.only() {
            // the common case, with nothing to gather and the cheaper call
            Some(frame) => stream.try_write(frame),
            None => {
                let mut slices = [IoSlice::new(&[]); WRITE_FRAMES_MAX];
                let filled = outbox.fill(&mut slices);
                stream.try_write_vectored(&slices[..filled])
            }
        };
        match written {
            Ok(written) => {
                outbox.advance(written);
                bytes += written as u64;
                calls += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    stream.flush_what_goes()?;
    Ok((bytes, calls))
}

/// One line about a connection that ends: who, how long, why.
pub(in crate::shard) fn log_end(connection: &Connection, protocol: &'static str, reason: CloseReason, now_ms: u64) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                protocol,
                app = connection.permit().app().as_str(),
                user = connection.user().as_str(),
                socket = %connection.id().to_uuid(),
                address = connection.permit().address().map(tracing::field::display),
                seconds = now_ms.saturating_sub(connection.opened_ms()) as f64 / 1000.0,
                reason = reason.label(),
                "connection ended"
            )
        };
    }
    // a fault of ours is news; what clients do is counted, and not theirs to fill logs with
    match reason {
        CloseReason::Internal => line!(warn),
        _ => line!(debug),
    }
}
