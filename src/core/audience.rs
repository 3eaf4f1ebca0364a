//! The subscribers of one channel on one shard, and the events on their way to them.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::ops::{Index, IndexMut};

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use super::admission::tabled;
use super::connection::Connection;
use super::event::{Frames, Ledger};
use super::id::{AppKey, ChannelName, ConnectionId};
use super::message::Target;
use super::{KEPT_PLACES, SLICE_SUBSCRIBERS};

/// Events joined into one batch; with it one write per socket carries up to this many.
const BATCH_EVENTS_MAX: usize = if cfg!(test) { 3 } else { 64 };
/// Bytes joined into one batch, per form; one larger event makes a batch alone.
const BATCH_BYTES_MAX: usize = if cfg!(test) { 512 } else { 256 << 10 };
/// Bytes that one slice of subscribers is handed at most, if it is more than [`SLICE_SUBSCRIBERS_MIN`] of them: the
/// larger a batch, the longer each write takes.
const SLICE_BYTES_MAX: usize = if cfg!(test) { 1024 } else { 512 << 10 };
/// Subscribers that a slice always has.
const SLICE_SUBSCRIBERS_MIN: usize = if cfg!(test) { 1 } else { 16 };
/// Marks a subscriber that left while a batch was on its way.
const GONE: u32 = u32::MAX;

/// All audiences of a shard, found by their app and channel. The names stand in the audiences alone: there may be very
/// many.
#[derive(Default, Debug)]
pub(super) struct Audiences {
    pub(super) all: Slab<Audience>,
    by_name: HashTable<u32>,
    hash: RandomState,
}

impl Audiences {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_name.is_empty()
    }

    pub(super) fn find(&self, app: &AppKey, channel: &ChannelName) -> Option<u32> {
        let is_it = |index: &u32| self[*index].is_of(app, channel);
        self.by_name.find(self.hash.hash_one((app, channel)), is_it).copied()
    }

    pub(super) fn find_or_insert(&mut self, app: &AppKey, channel: &ChannelName) -> u32 {
        self.find(app, channel).unwrap_or_else(|| {
            let index = self.all.insert(Audience::new(app.clone(), channel.clone())) as u32;
            let hash = |index: &u32| self.all[*index as usize].hash(&self.hash);
            self.by_name.insert_unique(hash(&index), index, hash);
            index
        })
    }

    pub(super) fn remove(&mut self, index: u32) {
        let hash = self.all.remove(index as usize).hash(&self.hash);
        if let Ok(entry) = self.by_name.find_entry(hash, |held| *held == index) {
            entry.remove();
        }
    }
}

impl Audiences {
    /// Gives memory back that very many channels took which have gone.
    pub(super) fn give_back(&mut self) {
        if self.all.capacity() > KEPT_PLACES && self.all.len() < self.all.capacity() / 8 {
            self.all.shrink_to_fit();
            let (all, hash) = (&self.all, &self.hash);
            self.by_name.shrink_to_fit(|index| all[*index as usize].hash(hash));
        }
    }
}

impl Index<u32> for Audiences {
    type Output = Audience;

    fn index(&self, index: u32) -> &Audience {
        &self.all[index as usize]
    }
}

impl IndexMut<u32> for Audiences {
    fn index_mut(&mut self, index: u32) -> &mut Audience {
        &mut self.all[index as usize]
    }
}

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
    app: AppKey,
    pub(super) channel: ChannelName,
    /// One is held inline: a channel of one's own is common.
    pub(super) subscribers: SmallVec<[Subscriber; 1]>,
    /// Number of the next event to arrive.
    next: u64,
    /// What is on its way. Boxed: most channels are quiet most of the time, and there may be very many.
    traffic: Option<Box<Traffic>>,
    /// Before that it is not served again, in microseconds of the shard's clock.
    pub(super) rests_until_us: u64,
    /// What the batch under way has taken until now, in microseconds.
    pub(super) took_us: u32,
    /// How many of `subscribers` are [`GONE`].
    gone: u32,
    /// The shard's [schedule](super::schedule) has it.
    pub(super) listed: bool,
}

#[derive(Default, Debug)]
struct Traffic {
    queue: VecDeque<Delivery>,
    /// Bytes in `queue`.
    queued_bytes: usize,
    batch: Option<Batch>,
}

#[derive(Debug)]
struct Batch {
    deliveries: Vec<Delivery>,
    /// Bytes that a subscriber gets, at most.
    bytes: usize,
    /// Number of the first delivery.
    first: u64,
    /// All deliveries in one piece, and how many they are, made when a connection of that form is first met.
    joined: Vec<Option<(Bytes, usize)>>,
    /// Connections that some delivery leaves out; `None` if each has to be asked.
    exceptions: Option<Vec<ConnectionId>>,
    /// The next subscriber to serve.
    cursor: usize,
}

impl Audience {
    /// Bytes that a quiet one takes, with its place in the table of names.
    pub(super) const BYTES: usize = size_of::<Self>() + tabled::<u32>();

    fn hash(&self, state: &RandomState) -> u64 {
        state.hash_one((&self.app, &self.channel))
    }

    fn is_of(&self, app: &AppKey, channel: &ChannelName) -> bool {
        self.channel == *channel && self.app == *app
    }

    fn new(app: AppKey, channel: ChannelName) -> Self {
        Self {
            app,
            channel,
            subscribers: SmallVec::new(),
            next: 0,
            traffic: None,
            rests_until_us: 0,
            took_us: 0,
            gone: 0,
            listed: false,
        }
    }

    /// Adds a connection; it gets what arrives from now on. Returns its position.
    pub(super) fn join(&mut self, slot: u32) -> u32 {
        self.subscribers.push(Subscriber { slot, since: self.next });
        (self.subscribers.len() - 1) as u32
    }

    /// Removes the subscriber at `position`. Returns the slot that moved there from the end, if one did.
    pub(super) fn leave(&mut self, position: u32) -> Option<u32> {
        let position = position as usize;
        if self.is_under_way() {
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
        self.gone as usize == self.subscribers.len()
    }

    /// Slots of the connections subscribed.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.subscribers.iter().map(|subscriber| subscriber.slot).filter(|slot| *slot != GONE)
    }

    pub(super) fn queue(&mut self, delivery: Delivery) {
        let traffic = self.traffic.get_or_insert_default();
        traffic.queued_bytes += delivery.weight;
        traffic.queue.push_back(delivery);
        self.next += 1;
    }

    /// A batch is handed out, and some subscribers have yet to get it.
    pub(super) fn is_under_way(&self) -> bool {
        self.traffic.as_ref().is_some_and(|traffic| traffic.batch.is_some())
    }

    /// A full batch waits: resting would gain nothing.
    pub(super) fn is_pressed(&self) -> bool {
        let is_full =
            |waiting: &Traffic| waiting.queue.len() >= BATCH_EVENTS_MAX || waiting.queued_bytes >= BATCH_BYTES_MAX;
        self.traffic.as_deref().is_some_and(is_full)
    }

    pub(super) fn has_work(&self) -> bool {
        self.traffic.is_some()
    }

    /// Hands the current batch, or the next, to what is left of a slice: `push(connection, frame, events)`. A subscriber
    /// to a large batch takes more than one place of it.
    pub(super) fn serve(
        &mut self,
        slice: usize,
        ledger: &Ledger,
        connections: &mut Slab<Connection>,
        mut push: impl FnMut(&mut Connection, Bytes, usize),
    ) -> Served {
        let Some(traffic) = &mut self.traffic else { return Served::default() };
        let Some(batch) = traffic.batch_at_hand(self.next) else { return Served::default() };
        let places = batch.places();
        let end = self.subscribers.len().min(batch.cursor + slice.div_ceil(places));
        let spent = (end - batch.cursor) * places;
        for subscriber in &self.subscribers[batch.cursor..end] {
            let skipped = subscriber.since.saturating_sub(batch.first) as usize;
            if subscriber.slot == GONE || skipped >= batch.deliveries.len() {
                continue;
            }
            let connection = &mut connections[subscriber.slot as usize];
            let form = connection.form.index();
            let gets_all = |exceptions: &Vec<ConnectionId>| !exceptions.contains(&connection.id);
            if skipped == 0 && batch.exceptions.as_ref().is_some_and(gets_all) {
                let (joined, events) = batch.joined[form].get_or_insert_with(|| join(&batch.deliveries, form, ledger));
                push(connection, joined.clone(), *events);
            } else {
                for delivery in &batch.deliveries[skipped..] {
                    if delivery.target.admits(connection) {
                        push(connection, delivery.frames[form].clone(), 1);
                    }
                }
            }
        }
        batch.cursor = end;
        if end < self.subscribers.len() {
            return Served { spent, weight: 0 };
        }
        let weight = batch.deliveries.iter().map(|delivery| delivery.weight).sum();
        traffic.batch = None;
        if traffic.queue.is_empty() {
            self.traffic = None;
        }
        Served { spent, weight }
    }

    /// Forgets those who left during the batch that has just ended; `moved(slot, position)` tells where the others
    /// now stand.
    pub(super) fn tidy(&mut self, mut moved: impl FnMut(u32, u32)) {
        if self.gone == 0 || self.is_under_way() {
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
            self.subscribers.shrink_to_fit();
        }
    }

    /// Drops all work; returns its weight.
    pub(super) fn clear(&mut self) -> usize {
        self.subscribers.clear();
        self.gone = 0;
        let Some(traffic) = self.traffic.take() else { return 0 };
        let batch = traffic.batch.map(|batch| batch.deliveries).unwrap_or_default();
        batch.into_iter().chain(traffic.queue).map(|delivery| delivery.weight).sum()
    }
}

/// What a slice came to.
#[derive(Default, Debug)]
pub(super) struct Served {
    /// Places of the slice.
    pub(super) spent: usize,
    /// Weight of the deliveries that are complete.
    pub(super) weight: usize,
}

impl Batch {
    /// Places of a slice that one subscriber takes.
    fn places(&self) -> usize {
        let places_max = SLICE_SUBSCRIBERS / SLICE_SUBSCRIBERS_MIN;
        (self.bytes.saturating_mul(SLICE_SUBSCRIBERS) / SLICE_BYTES_MAX).clamp(1, places_max)
    }
}

impl Traffic {
    /// The batch under way, or the next; `next`: the number of the next event to arrive.
    fn batch_at_hand(&mut self, next: u64) -> Option<&mut Batch> {
        if self.batch.is_none() {
            self.batch = self.next_batch(next);
        }
        self.batch.as_mut()
    }

    fn next_batch(&mut self, next: u64) -> Option<Batch> {
        let (mut count, mut bytes) = (0, 0);
        for delivery in self.queue.iter().take(BATCH_EVENTS_MAX) {
            let with_it = bytes + delivery.weight.max(1);
            if count > 0 && with_it > BATCH_BYTES_MAX {
                break;
            }
            (count, bytes) = (count + 1, with_it);
        }
        let forms = self.queue.front()?.frames.len();
        let first = next - self.queue.len() as u64;
        let deliveries: Vec<Delivery> = self.queue.drain(..count).collect();
        self.queued_bytes -= deliveries.iter().map(|delivery| delivery.weight).sum::<usize>();
        let exceptions = deliveries.iter().filter_map(|delivery| match delivery.target {
            Target::All => None,
            Target::Except(connection) => Some(Some(connection)),
            Target::Only(_) | Target::Sessions(_) => Some(None),
        });
        let exceptions = exceptions.collect();
        Some(Batch { deliveries, bytes, first, joined: vec![None; forms], exceptions, cursor: 0 })
    }
}

/// All frames of one form in one piece, and how many they are; a single one is shared as it is. A dialect has no frame
/// for what it does not tell of.
fn join(deliveries: &[Delivery], form: usize, ledger: &Ledger) -> (Bytes, usize) {
    match deliveries {
        [only] => (only.frames[form].clone(), 1),
        several => {
            let frames = several.iter().map(|delivery| &delivery.frames[form][..]);
            let frames: Vec<&[u8]> = frames.filter(|frame| !frame.is_empty()).collect();
            (ledger.enter(frames.concat()), frames.len())
        }
    }
}
