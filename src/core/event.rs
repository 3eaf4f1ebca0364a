//! Events, and how each protocol writes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::id::{ChannelName, UserId};
use super::observation::SessionName;
use crate::limits::Limits;

/// Which protocol's words a connection reads: its place in the node's list of dialects.
pub type DialectIndex = u8;

/// In what form a connection is sent events: in whose words, and whether deflated where that is worth it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Form(u8);

impl Form {
    /// The dialect's words, `deflated` or plain.
    pub const fn new(dialect: DialectIndex, deflated: bool) -> Self {
        Self(dialect << 1 | deflated as u8)
    }

    /// Whose words.
    pub const fn dialect(self) -> DialectIndex {
        self.0 >> 1
    }

    /// Place in [`Frames`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Deflates a finished frame; `None` if that is not worth it, by the limits or because it becomes no smaller.
pub type Deflate = fn(&[u8], &Limits) -> Option<Vec<u8>>;

/// An event travelling to a channel.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its name, as the publisher wrote it.
    pub name: Arc<str>,
    /// What it says.
    pub data: Data,
    /// Number of the event, for protocols that show one: nanoseconds since 1970 when it was accepted, its last digits
    /// changed where two would be the same.
    pub id: u64,
    /// What only some publishers say.
    pub about: Option<Arc<About>>,
}

/// What an event says: one JSON value each, byte for byte as the publisher wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// The value itself.
    Value(Bytes),
    /// A JSON string whose content is the data: text, or a value that was encoded before it was put into the string.
    Encoded(Bytes),
    /// What a client said to other clients of its protocol, a string or any other value.
    AsSent(Bytes),
}

impl Data {
    /// The JSON value as it was written.
    pub fn json(&self) -> &Bytes {
        match self {
            Data::Value(json) | Data::Encoded(json) | Data::AsSent(json) => json,
        }
    }
}

/// What only some publishers say of an event.
#[derive(Clone, Default, Debug)]
pub struct About {
    /// The connection that published it, if a client did.
    pub session: Option<SessionName>,
    /// The member of the channel that the publishing connection is.
    pub user: Option<UserId>,
    /// Push1ST's `headers`: one JSON value; empty if there are none.
    pub headers: Bytes,
}

impl Event {
    /// An event of a backend that says no more than this.
    pub fn new(name: impl Into<Arc<str>>, data: Data, id: u64) -> Self {
        Self { name: name.into(), data, id, about: None }
    }

    /// A copy that keeps nothing alive of the request that it came in.
    pub(super) fn detached(&self) -> Self {
        let copy = Bytes::copy_from_slice;
        let data = match &self.data {
            Data::Value(json) => Data::Value(copy(json)),
            Data::Encoded(json) => Data::Encoded(copy(json)),
            Data::AsSent(json) => Data::AsSent(copy(json)),
        };
        let about = self.about.as_deref().map(|about| About { headers: copy(&about.headers), ..about.clone() });
        Self { name: self.name.clone(), data, id: self.id, about: about.map(Arc::new) }
    }

    /// What it weighs while it waits, in bytes.
    pub fn weight(&self) -> usize {
        let headers = self.about.as_ref().map_or(0, |about| about.headers.len());
        self.name.len() + self.data.json().len() + headers
    }
}

/// How one protocol writes an event for its sockets.
pub trait Dialect: Send + Sync {
    /// The finished frame, ready for the wire. Called once per event, however many connections get it.
    fn encode(&self, channel: &ChannelName, event: &Event) -> Vec<u8>;

    /// The finished frame of a notice; empty, if the protocol has no such thing.
    fn notice(&self, _notice: &Notice<'_>) -> Vec<u8> {
        Vec::new()
    }
}

/// What the server itself has to say to connections.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// To a channel: a user is a member now.
    MemberAdded(&'a ChannelName, &'a Member),
    /// To a channel: a user is a member no more.
    MemberRemoved(&'a ChannelName, &'a UserId),
    /// To a channel: so many connections are subscribed.
    SubscriptionCount(&'a ChannelName, u64),
    /// To a connection: a user that it watches is online, or is not.
    UserState {
        /// The user.
        user: &'a UserId,
        /// Signed in on at least one connection.
        online: bool,
    },
}

/// A distinct user on a presence channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// `user_info`: one JSON value; empty if there is none.
    pub info: Bytes,
}

/// Counts bytes of encoded events that are alive anywhere in the node: each once, however many outboxes hold it.
#[derive(Clone, Default, Debug)]
pub struct Ledger(Arc<AtomicUsize>);

impl Ledger {
    /// Bytes alive now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Hands out `frame` for sharing; it counts until its last holder lets go.
    pub fn enter(&self, frame: Vec<u8>) -> Bytes {
        if frame.is_empty() {
            return Bytes::new();
        }
        self.0.fetch_add(frame.len(), Ordering::Relaxed);
        Bytes::from_owner(Entry { frame, ledger: self.clone() })
    }
}

struct Entry {
    frame: Vec<u8>,
    ledger: Ledger,
}

impl AsRef<[u8]> for Entry {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.0.fetch_sub(self.frame.len(), Ordering::Relaxed);
    }
}

/// One event in every form that has a subscriber, by [`Form::index`]. Where deflating is not worth it, both forms of a
/// dialect are the same bytes.
pub type Frames = Arc<[Bytes]>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_counts_a_shared_frame_once() {
        let ledger = Ledger::default();
        let frame = ledger.enter(vec![1; 100]);
        let copies = vec![frame.clone(), frame.slice(10..)];
        assert_eq!(ledger.bytes(), 100);
        drop(frame);
        assert_eq!(ledger.bytes(), 100);
        drop(copies);
        assert_eq!(ledger.bytes(), 0);
    }
}
