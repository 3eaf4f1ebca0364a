//! Why the core said no, in no protocol's words. The set is closed: each front door maps it in one exhaustive `match`.

use thiserror::Error;

/// A refusal. The text is for logs; a client reads what its protocol makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Error)]
pub enum Rejection {
    /// The connection's credential does not cover the channel.
    #[error("the credential does not cover this channel")]
    NotPermitted,
    /// Empty, or beginning with `#`, which is kept for the server's own channels.
    #[error("the channel name is empty or reserved")]
    ChannelNameReserved,
    /// Longer than `channel_name_bytes_max`.
    #[error("the channel name is too long")]
    ChannelNameTooLong,
    /// `subscriptions_per_connection_max` is reached.
    #[error("too many subscriptions on this connection")]
    TooManySubscriptions,
    /// `permissions_per_connection_max` is reached.
    #[error("too many permitted channels on this connection")]
    TooManyPermissions,
    /// Longer than `user_id_bytes_max`.
    #[error("the user id is too long")]
    UserIdTooLong,
    /// `connections_max` is reached.
    #[error("this node is at its limit of connections")]
    NodeFull,
    /// `connections_per_app_max` is reached.
    #[error("this app is at its limit of connections")]
    AppFull,
    /// `connections_per_ip_max` is reached.
    #[error("this address is at its limit of connections")]
    AddressFull,
    /// `memory_bytes_max` is reached.
    #[error("this node is at its limit of memory")]
    NodeMemory,
    /// The app's `memory_bytes_max` is reached.
    #[error("this app is at its limit of memory")]
    AppMemory,
    /// `backlog_bytes_max` of a shard is reached.
    #[error("events arrive faster than they can be delivered")]
    Overloaded,
    /// The connection is not subscribed to the channel.
    #[error("the connection is not subscribed to this channel")]
    NotSubscribed,
    /// The app's `presence_members_max` is reached.
    #[error("the channel has as many members as it may have")]
    ChannelFull,
    /// What a member says of itself is over the app's `presence_member_bytes_max`.
    #[error("the member's data is too large")]
    MemberTooLarge,
    /// The connection is signed in as somebody else.
    #[error("the connection is signed in as another user")]
    OtherUser,
    /// More in a second than the app may have.
    #[error("too many in too short a time")]
    RateLimited,
    /// The node is shutting down.
    #[error("this node is shutting down")]
    Draining,
}

impl Rejection {
    /// Every variant, in the order of [`Rejection::index`]: for counters and for tests of the protocols' tables.
    pub const ALL: [Rejection; 18] = [
        Rejection::NotPermitted,
        Rejection::ChannelNameReserved,
        Rejection::ChannelNameTooLong,
        Rejection::TooManySubscriptions,
        Rejection::TooManyPermissions,
        Rejection::UserIdTooLong,
        Rejection::NodeFull,
        Rejection::AppFull,
        Rejection::AddressFull,
        Rejection::NodeMemory,
        Rejection::AppMemory,
        Rejection::Overloaded,
        Rejection::NotSubscribed,
        Rejection::ChannelFull,
        Rejection::MemberTooLarge,
        Rejection::OtherUser,
        Rejection::RateLimited,
        Rejection::Draining,
    ];

    /// Place in [`Rejection::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Short name for the `reason` label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Rejection::NotPermitted => "not_permitted",
            Rejection::ChannelNameReserved => "channel_name_reserved",
            Rejection::ChannelNameTooLong => "channel_name_too_long",
            Rejection::TooManySubscriptions => "too_many_subscriptions",
            Rejection::TooManyPermissions => "too_many_permissions",
            Rejection::UserIdTooLong => "user_id_too_long",
            Rejection::NodeFull => "node_full",
            Rejection::AppFull => "app_full",
            Rejection::AddressFull => "address_full",
            Rejection::NodeMemory => "node_memory",
            Rejection::AppMemory => "app_memory",
            Rejection::Overloaded => "overloaded",
            Rejection::NotSubscribed => "not_subscribed",
            Rejection::ChannelFull => "channel_full",
            Rejection::MemberTooLarge => "member_too_large",
            Rejection::OtherUser => "other_user",
            Rejection::RateLimited => "rate_limited",
            Rejection::Draining => "draining",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_order() {
        for (index, rejection) in Rejection::ALL.into_iter().enumerate() {
            assert_eq!(rejection.index(), index);
        }
    }
}
