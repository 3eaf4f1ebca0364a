//! The subscribers of one channel on one shard, and the events on their way to them.

use std::collections::VecDeque;

use bytes::Bytes;
use slab::Slab;

use super::KEPT_PLACES;
use super::connection::Connection;
use super::event::{Frames, Ledger};
use super::id::{AppKey, ChannelName, ConnectionId};
use super::message::Target;

/// Events joined into one batch; with it one write per socket carries up to this many.
const BATCH_EVENTS_MAX: usize = if cfg!(test) { 3 } else { 64 };
/// Bytes joined into one batch, per dialect; one larger event makes a batch alone.
const BATCH_BYTES_MAX: usize = if cfg!(test) { 512 } else { 256 << 10 };
/// Marks a subscriber that left while a batch was on its way.
const GONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) struct Subscriber {
    /// Slot of the connection, or [`GONE`].
    pub(super) slot: u32,
    /// Number of the first event that it gets.
    since: u64,
}

/// An event on its way to every subscriber here.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) frames: Frames,
    /// What it was counted for in the shard's backlog.
    pub(super) weight: usize,
    pub(super) target: Target,
}

/// Subscribers, and a queue of events that are handed to them batch by batch, each batch in slices.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) app: AppKey,
    pub(super) channel: ChannelName,
    pub(super) subscribers: Vec<Subscriber>,
    /// How many of `subscribers` are [`GONE`].
    gone: usize,
    queue: VecDeque<Delivery>,
    /// Number of the next event to arrive.
    next: u64,
    /// Boxed: most channels are quiet most of the time, and there may be very many.
    batch: Option<Box<Batch>>,
    /// Listed among the shard's audiences with work.
    pub(super) listed: bool,
}

#[derive(Debug)]
struct Batch {
    deliveries: Vec<Delivery>,
    /// Number of the first delivery.
    first: u64,
    /// All deliveries in one piece, and how many they are, made when a connection of that dialect is first met.
    joined: Vec<Option<(Bytes, usize)>>,
    /// Connections that some delivery leaves out; `None` if each has to be asked.
    exceptions: Option<Vec<ConnectionId>>,
    /// The next subscriber to serve.
    cursor: usize,
}

impl Audience {
    pub(super) fn new(app: AppKey, channel: ChannelName) -> Self {
        Self {
            app,
            channel,
            subscribers: Vec::new(),
            gone: 0,
            queue: VecDeque::new(),
            next: 0,
            batch: None,
            listed: false,
        }
    }

    /// Adds a connection; it gets what arrives from now on. Returns its position.
    pub(super) fn join(&mut self, slot: u32) -> u32 {
        if self.subscribers.is_empty() {
            self.subscribers.reserve_exact(1); // a channel of one's own is common
        }
        self.subscribers.push(Subscriber { slot, since: self.next });
        (self.subscribers.len() - 1) as u32
    }

    /// Removes the subscriber at `position`. Returns the slot that moved there from the end, if one did.
    pub(super) fn leave(&mut self, position: u32) -> Option<u32> {
        let position = position as usize;
        if self.batch.is_some() {
            // moving somebody past the cursor would serve them twice or never
            self.subscribers[position].slot = GONE;
            self.gone += 1;
            return None;
        }
        self.subscribers.swap_remove(position);
        self.give_back();
        self.subscribers.get(position).map(|moved| moved.slot)
    }

    /// Nobody is subscribed any more.
    pub(super) fn is_empty(&self) -> bool {
        self.gone == self.subscribers.len()
    }

    /// Slots of the connections subscribed.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.subscribers.iter().map(|subscriber| subscriber.slot).filter(|slot| *slot != GONE)
    }

    pub(super) fn queue(&mut self, delivery: Delivery) {
        self.queue.push_back(delivery);
        self.next += 1;
    }

    /// A batch is under way, or a full one is there: waiting would gain nothing.
    pub(super) fn has_batch(&self) -> bool {
        self.batch.is_some() || self.queue.len() >= BATCH_EVENTS_MAX
    }

    pub(super) fn has_work(&self) -> bool {
        self.batch.is_some() || !self.queue.is_empty()
    }

    /// Hands the current batch, or the next, to at most `slice` subscribers: `push(connection, frame, events)`.
    /// Returns how many subscribers were looked at, and the weight of the deliveries that are complete.
    pub(super) fn serve(
        &mut self,
        slice: usize,
        ledger: &Ledger,
        connections: &mut Slab<Connection>,
        mut push: impl FnMut(&mut Connection, Bytes, usize),
    ) -> (usize, usize) {
        if self.batch.is_none() {
            self.batch = self.next_batch().map(Box::new);
        }
        let Some(batch) = &mut self.batch else { return (0, 0) };
        let end = self.subscribers.len().min(batch.cursor + slice);
        let looked_at = end - batch.cursor;
        for subscriber in &self.subscribers[batch.cursor..end] {
            let skipped = subscriber.since.saturating_sub(batch.first) as usize;
            if subscriber.slot == GONE || skipped >= batch.deliveries.len() {
                continue;
            }
            let connection = &mut connections[subscriber.slot as usize];
            let dialect = usize::from(connection.dialect);
            let gets_all = |exceptions: &Vec<ConnectionId>| !exceptions.contains(&connection.id);
            if skipped == 0 && batch.exceptions.as_ref().is_some_and(gets_all) {
                let (joined, events) =
                    batch.joined[dialect].get_or_insert_with(|| join(&batch.deliveries, dialect, ledger));
                push(connection, joined.clone(), *events);
            } else {
                for delivery in &batch.deliveries[skipped..] {
                    if delivery.target.admits(connection) {
                        push(connection, delivery.frames[dialect].clone(), 1);
                    }
                }
            }
        }
        batch.cursor = end;
        if end < self.subscribers.len() {
            return (looked_at, 0);
        }
        let weight = batch.deliveries.iter().map(|delivery| delivery.weight).sum();
        self.batch = None;
        (looked_at, weight)
    }

    /// Forgets those who left during the batch that has just ended; `moved(slot, position)` tells where the others
    /// now stand.
    pub(super) fn tidy(&mut self, mut moved: impl FnMut(u32, u32)) {
        if self.gone == 0 || self.batch.is_some() {
            return;
        }
        self.gone = 0;
        self.subscribers.retain(|subscriber| subscriber.slot != GONE);
        for (position, subscriber) in self.subscribers.iter().enumerate() {
            moved(subscriber.slot, position as u32);
        }
        self.give_back();
    }

    /// Lets go of the places of a crowd that has gone.
    fn give_back(&mut self) {
        if self.subscribers.capacity() > KEPT_PLACES && self.subscribers.len() < self.subscribers.capacity() / 8 {
            self.subscribers.shrink_to(2 * self.subscribers.len());
        }
    }

    /// Drops all work; returns its weight.
    pub(super) fn clear(&mut self) -> usize {
        self.subscribers.clear();
        self.gone = 0;
        let batch = self.batch.take().map(|batch| batch.deliveries).unwrap_or_default();
        batch.into_iter().chain(std::mem::take(&mut self.queue)).map(|delivery| delivery.weight).sum()
    }

    fn next_batch(&mut self) -> Option<Batch> {
        let mut bytes = 0;
        let count = self
            .queue
            .iter()
            .take(BATCH_EVENTS_MAX)
            .take_while(|delivery| {
                let first = bytes == 0;
                bytes += delivery.weight.max(1);
                first || bytes <= BATCH_BYTES_MAX
            })
            .count();
        let dialects = self.queue.front()?.frames.len();
        let first = self.next - self.queue.len() as u64;
        let deliveries: Vec<Delivery> = self.queue.drain(..count).collect();
        if self.queue.is_empty() && self.queue.capacity() > BATCH_EVENTS_MAX {
            self.queue = VecDeque::new(); // a burst must not cost memory for ever
        }
        let exceptions = deliveries.iter().filter_map(|delivery| match delivery.target {
            Target::All => None,
            Target::Except(connection) => Some(Some(connection)),
            Target::Only(_) | Target::Sessions(_) => Some(None),
        });
        let exceptions = exceptions.collect();
        Some(Batch { deliveries, first, joined: vec![None; dialects], exceptions, cursor: 0 })
    }
}

/// All frames of one dialect in one piece, and how many they are; a single one is shared as it is. A dialect has no frame
/// for what it does not tell of.
fn join(deliveries: &[Delivery], dialect: usize, ledger: &Ledger) -> (Bytes, usize) {
    match deliveries {
        [only] => (only.frames[dialect].clone(), 1),
        several => {
            let frames = several.iter().map(|delivery| &delivery.frames[dialect][..]);
            let frames: Vec<&[u8]> = frames.filter(|frame| !frame.is_empty()).collect();
            (ledger.enter(frames.concat()), frames.len())
        }
    }
}
