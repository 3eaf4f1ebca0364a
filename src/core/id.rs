//! Names and identities.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The shared text, without a copy.
            pub fn into_shared(self) -> Arc<str> {
                self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name! {
    /// The public key of an app (a tenant). Everything else is looked up inside one app.
    AppKey
}
name! {
    /// The name of a channel inside one app.
    ChannelName
}
name! {
    /// A user of one app; empty for a client that did not say who it is.
    UserId
}

/// Which thread of the node: 0 to K−1.
pub type ShardIndex = u16;

/// One live connection, for ever: an id is never used again.
///
/// It carries where the connection lives, so that a push to one socket goes straight to its shard, and a nonce by which
/// an id of a connection that has gone is told from its slot's next tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionId {
    /// Random; only the low 48 bits are ever set, so that every wire form of the id can hold them.
    pub nonce: u64,
    /// Place in the shard's table of connections.
    pub slot: u32,
    /// Owner thread; below 1,024.
    pub shard: ShardIndex,
    /// Process; 0 on a node that runs alone.
    pub node: u16,
}

impl ConnectionId {
    /// The bits of a nonce that count.
    pub const NONCE_MASK: u64 = (1 << 48) - 1;

    /// The id in the form of a version 4 UUID: `slot-node-4shard-8000-nonce`, all hexadecimal.
    pub fn to_uuid(self) -> Uuid {
        Uuid::from_u128(
            u128::from(self.slot) << 96
                | u128::from(self.node) << 80
                | (0x4000 | u128::from(self.shard)) << 64
                | 0x8000 << 48
                | u128::from(self.nonce & Self::NONCE_MASK),
        )
    }

    /// The id as two numbers below 2^53 with a dot between them: what Pusher's libraries take for a `socket_id`.
    pub fn to_dotted(self) -> String {
        let place = u64::from(self.node) << 42 | u64::from(self.shard) << 32 | u64::from(self.slot);
        format!("{}.{}", (self.nonce & Self::NONCE_MASK) << 5 | place >> 53, place & Self::DOTTED_MASK)
    }

    /// Reads what [`to_dotted`](Self::to_dotted) made; `None` for any other text.
    pub fn from_dotted(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('.')?;
        let (high, low): (u64, u64) = (high.parse().ok()?, low.parse().ok()?);
        let place = (high & 0x1f) << 53 | low & Self::DOTTED_MASK;
        let id = Self {
            nonce: high >> 5 & Self::NONCE_MASK,
            slot: place as u32,
            shard: (place >> 32) as u16 & 0x03ff,
            node: (place >> 42) as u16,
        };
        (id.to_dotted() == text).then_some(id)
    }

    /// The bits of a number that a double holds exactly.
    const DOTTED_MASK: u64 = (1 << 53) - 1;

    /// Reads what [`to_uuid`](Self::to_uuid) made; `None` for any other UUID.
    pub fn from_uuid(uuid: Uuid) -> Option<Self> {
        let bits = uuid.as_u128();
        let id = Self {
            slot: (bits >> 96) as u32,
            node: (bits >> 80) as u16,
            shard: (bits >> 64) as u16 & 0x03ff,
            nonce: bits as u64 & Self::NONCE_MASK,
        };
        (id.to_uuid() == uuid).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_survives_its_wire_forms() {
        for id in [
            ConnectionId { node: 0, shard: 0, slot: 0, nonce: 0 },
            ConnectionId { node: 7, shard: 1023, slot: u32::MAX, nonce: ConnectionId::NONCE_MASK },
        ] {
            let uuid = id.to_uuid();
            assert_eq!(uuid.get_version_num(), 4);
            assert_eq!(ConnectionId::from_uuid(uuid), Some(id));
            let dotted = id.to_dotted();
            assert_eq!(ConnectionId::from_dotted(&dotted), Some(id));
            assert!(dotted.split('.').all(|half| half.parse::<u64>().unwrap() < 1 << 53), "{dotted}");
        }
        for other in ["", ".", "1", "1.", "01.2", "1.+2", "1.2.3", "9007199254740992.1", "1.9007199254740992", " 1.2"] {
            assert_eq!(ConnectionId::from_dotted(other), None, "{other}");
        }
        assert_eq!(ConnectionId::from_uuid(Uuid::from_u128(u128::MAX)), None);
    }
}
