//! The core of one shard, with subscribers whose sockets take everything at once: fan-out without a kernel, threads or
//! a clock, so that it costs the same each time.
#![allow(dead_code, reason = "each user takes the part it needs")]

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use hydrant::core::{
    Admission, AppKey, ChannelName, Core, Deflate, Dialect, Event, Form, Grant, Hello, Ledger, Node, Occupancy,
    Permissions, Publication, Settings, Stats, UserId,
};
use hydrant::limits::Limits;

/// Frames that one write of a shard takes at most.
const WRITE_FRAMES_MAX: usize = 64;

pub(crate) struct Crowd {
    core: Core,
    app: AppKey,
    channel: ChannelName,
    now_us: u64,
    dirty: Vec<u32>,
    /// Calls that a socket would have been written to with.
    pub(crate) writes: u64,
}

impl Crowd {
    /// Connections that read these forms, each subscribed to the same channel.
    pub(crate) fn new(
        dialects: Arc<[Arc<dyn Dialect>]>,
        deflate: Deflate,
        readers: impl Iterator<Item = Form>,
    ) -> Self {
        let node = Node {
            number: 0,
            shards: 1,
            hash_seed: 0,
            dialects,
            deflate,
            admission: Admission::default(),
            ledger: Ledger::default(),
            backlog: Arc::new([AtomicUsize::new(0)]),
            occupancy: Occupancy::default(),
        };
        let settings = Arc::new(Settings { limits: Limits::default(), ..Settings::default() });
        let (app, channel) = (AppKey::from("app"), "news");
        let mut core = Core::new(0, node.clone(), settings.clone());
        for (form, nonce) in readers.zip(0..) {
            let permit = node.admission.admit(&app, None, 1_000, &settings).expect("there is no limit");
            let (user, permissions) = (UserId::from(""), Permissions::default());
            let hello = Hello { permit, user, permissions, form, session: None, must_authorize: false, nonce };
            let id = core.connect(hello).expect("no user's name is too long");
            let grant = Grant::public(channel, 255).expect("anybody may");
            core.subscribe(id.slot, vec![grant]);
            core.take_effects(&mut Vec::new());
        }
        Self { core, app, channel: ChannelName::from(channel), now_us: 0, dirty: Vec::new(), writes: 0 }
    }

    /// Hands in an event for the channel.
    pub(crate) fn publish(&mut self, event: Event) {
        let publication = Publication::new(self.channel.clone(), event);
        self.core.publish(&self.app, publication).expect("there is no backlog");
    }

    /// Turns, as a shard takes them, until everybody has everything.
    pub(crate) fn deliver(&mut self) {
        while let Some(next_us) = if self.core.has_fan_out() { Some(0) } else { self.core.next_fan_out_us() } {
            self.now_us = self.now_us.max(next_us);
            self.core.begin_turn(self.now_us);
            self.core.fan_out();
            self.core.take_dirty(&mut self.dirty);
            for slot in self.dirty.drain(..) {
                let outbox = self.core.outbox_mut(slot).expect("it is connected");
                while !outbox.is_empty() {
                    let bytes = outbox.only().map_or_else(
                        || {
                            let mut slices = [IoSlice::new(&[]); WRITE_FRAMES_MAX];
                            let filled = outbox.fill(&mut slices);
                            slices[..filled].iter().map(|slice| slice.len()).sum()
                        },
                        <[u8]>::len,
                    );
                    outbox.advance(bytes);
                    self.writes += 1;
                }
                self.core.flushed(slot, 0);
            }
            self.core.end_turn(self.now_us);
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.core.stats()
    }
}
