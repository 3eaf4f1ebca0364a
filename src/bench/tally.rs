//! Which messages a phase has, how they are known again, and what has become of them.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Delays are kept in microseconds, up to ten minutes, to three digits.
const DELAY_US_MAX: u64 = 600_000_000;
const DELAY_DIGITS: u8 = 3;

/// Nanoseconds since one instant that all threads of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that stands at 0 now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start (584 years fit).
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// An empty histogram of microseconds.
pub fn delays() -> Histogram<u32> {
    // fails only for bounds that are none
    Histogram::new_with_bounds(1, DELAY_US_MAX, DELAY_DIGITS)
        .unwrap_or_else(|_| unreachable!("the bounds are constant"))
}

/// Milliseconds that so many percent of all values do not exceed; 0 of none.
pub fn percentile_ms(delays: &Histogram<u32>, percent: f64) -> f64 {
    delays.value_at_quantile(percent / 100.0) as f64 / 1e3
}

/// What an event's data begins with, in whatever form a protocol carries it: letters and digits only, which no protocol
/// escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the message within the run against one server.
    pub message: u32,
    /// Number of the channel that it was published to.
    pub channel: u32,
}

const MARK: &[u8] = b"hyb";

impl Stamp {
    /// Length as text: the mark, and two numbers of 8 hex digits.
    pub const BYTES: usize = MARK.len() + 16;

    /// The text form.
    pub fn text(self) -> String {
        format!("hyb{:08x}{:08x}", self.message, self.channel)
    }

    fn at(event: &[u8], start: usize) -> Option<Self> {
        let digits = event.get(start..start + Self::BYTES)?.strip_prefix(MARK)?;
        let number = digits.iter().try_fold(0u64, |number, digit| {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            Some(number << 4 | u64::from(digit))
        })?;
        Some(Self { message: (number >> 32) as u32, channel: number as u32 })
    }
}

/// Finds stamps. It first looks where the last one was: a server writes equal events equally.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finder {
    last_start: usize,
}

impl Finder {
    /// The stamp in an event's text, if there is one.
    pub fn find(&mut self, event: &[u8]) -> Option<Stamp> {
        if let Some(stamp) = Stamp::at(event, self.last_start) {
            return Some(stamp);
        }
        let start = event.windows(MARK.len()).position(|window| window == MARK)?;
        let stamp = Stamp::at(event, start)?;
        self.last_start = start;
        Some(stamp)
    }
}

/// A row of messages, equal but for their stamps.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of the first message.
    pub first_message: u32,
    /// How many.
    pub messages: u32,
    /// From one message's due time to the next one's; zero: all are due at once.
    pub interval: Duration,
    /// Size of the WebSocket frame that a subscriber gets in Pusher's words, header included.
    pub frame_bytes: usize,
    /// Number of the first channel.
    pub first_channel: u32,
    /// Channels that take turns, at least 1.
    pub channels: u32,
}

impl Plan {
    /// Messages to the channel 0 only.
    pub fn to_one_channel(first_message: u32, messages: u32, interval: Duration, frame_bytes: usize) -> Self {
        Self { first_message, messages, interval, frame_bytes, first_channel: 0, channels: 1 }
    }

    /// From the first message's due time to the end of the last one's turn.
    pub fn duration(&self) -> Duration {
        self.interval * self.messages
    }

    /// When the message is due, if the phase began at `began_ns`; messages are counted from 0 here.
    pub fn due_ns(&self, began_ns: u64, index: u32) -> u64 {
        began_ns + self.interval.as_nanos() as u64 * u64::from(index)
    }

    /// What the message with this index carries.
    pub fn stamp(&self, index: u32) -> Stamp {
        Stamp { message: self.first_message + index, channel: self.first_channel + index % self.channels }
    }
}

/// What has arrived of the messages of one phase.
#[derive(Debug)]
pub struct Tally {
    /// The messages.
    pub plan: Plan,
    /// When the first is due, by the run's [`Clock`].
    pub began_ns: u64,
    /// Each message of the phase.
    pub messages: Vec<Arrival>,
    /// From the time it was due to its arrival, for each delivery, in microseconds.
    pub delays: Histogram<u32>,
    /// Deliveries of all messages together, those that came twice or to the wrong connection not included.
    pub deliveries: u64,
    /// When the last of them came, by the run's [`Clock`].
    pub last_arrival_ns: u64,
    /// Deliveries of a message to a connection that had it already.
    pub duplicates: u64,
    /// Deliveries to connections that are not subscribed to the message's channel, and messages that cannot be inflated.
    pub wrong: u64,
    /// Length of the frames with these messages as they came.
    pub wire_bytes: u64,
    /// The same, inflated.
    pub clear_bytes: u64,
    /// Notices of members that came or went.
    pub notices: u64,
    /// Connections that the server closed, stalled ones not included.
    pub closed: usize,
    /// One bit for each message and connection.
    seen: Vec<u64>,
    words_per_connection: usize,
}

/// How often and how late one message has arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// Deliveries seen.
    pub deliveries: u32,
    /// From the time it was due to the last delivery, in nanoseconds.
    pub last_ns: u64,
}

impl Tally {
    /// A tally of these messages, the first of which is due at `began_ns`, for so many connections.
    pub fn new(plan: Plan, began_ns: u64, connections: usize) -> Self {
        let words_per_connection = (plan.messages as usize).div_ceil(64);
        Self {
            plan,
            began_ns,
            messages: vec![Arrival::default(); plan.messages as usize],
            delays: delays(),
            deliveries: 0,
            last_arrival_ns: began_ns,
            duplicates: 0,
            wrong: 0,
            wire_bytes: 0,
            clear_bytes: 0,
            notices: 0,
            closed: 0,
            seen: vec![0; words_per_connection * connections],
            words_per_connection,
        }
    }

    /// A tally of nothing: for reading what is no message.
    pub fn empty() -> Self {
        Self::new(Plan::to_one_channel(0, 0, Duration::ZERO, 0), 0, 0)
    }

    /// Notes an arrival on a connection that is subscribed to `channel`.
    pub fn note(&mut self, connection: usize, channel: Option<u32>, stamp: Stamp, now_ns: u64) {
        let Some(index) = stamp.message.checked_sub(self.plan.first_message) else { return };
        let Some(arrival) = self.messages.get_mut(index as usize) else { return };
        if channel != Some(stamp.channel) {
            self.wrong += 1;
            return;
        }
        let (word, bit) = (connection * self.words_per_connection + index as usize / 64, 1 << (index % 64));
        let Some(seen) = self.seen.get_mut(word) else { return };
        if *seen & bit != 0 {
            self.duplicates += 1;
            return;
        }
        *seen |= bit;
        let delay_ns = now_ns.saturating_sub(self.plan.due_ns(self.began_ns, index));
        arrival.deliveries += 1;
        arrival.last_ns = delay_ns;
        self.delays.saturating_record(delay_ns / 1000);
        self.deliveries += 1;
        self.last_arrival_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_an_event_of_any_protocol() {
        let stamp = Stamp { message: 0xdead_beef, channel: 7 };
        let text = stamp.text();
        assert_eq!(text.len(), Stamp::BYTES);
        let mut finder = Finder::default();
        let mut check = |event: String, expected| assert_eq!(finder.find(event.as_bytes()), expected, "{event}");
        check(format!(r#"{{"channel":"c","event":"e","data":"{text}xxx"}}"#), Some(stamp));
        check(format!(r#"{{"channel":"c","event":"e","data":"{text}yyy"}}"#), Some(stamp)); // at the same place
        check(format!(r##"{{"#msg-id":1,"data":"{text}"}}"##), Some(stamp));
        check(format!(r#"{{"data":"\"{text}\""}}"#), Some(stamp));
        check(format!(r#"{{"data":"{}"}}"#, &text[..Stamp::BYTES - 1]), None);
        check(r#"{"event":"gusher.subscribe_succeeded","data":{"channel":"c"}}"#.to_owned(), None);
        check(String::new(), None);
    }

    fn tally(messages: u32, channels: u32) -> Tally {
        let interval = Duration::from_nanos(1000);
        Tally::new(
            Plan { first_message: 10, messages, interval, frame_bytes: 120, first_channel: 0, channels },
            5000,
            3,
        )
    }

    #[test]
    fn a_tally_counts_its_own_messages_only() {
        let mut tally = tally(2, 1);
        let mut note = |connection, message, now_ns| {
            tally.note(connection, Some(0), Stamp { message, channel: 0 }, now_ns);
        };
        note(0, 9, 6000); // of an earlier phase
        note(0, 10, 6000);
        note(1, 10, 8000);
        note(0, 12, 9000); // of none
        note(0, u32::MAX, 9000);
        assert_eq!((tally.deliveries, tally.messages[0].deliveries, tally.messages[0].last_ns), (2, 2, 3000));
        assert_eq!((tally.messages[1].deliveries, tally.last_arrival_ns), (0, 8000));
        assert_eq!((tally.delays.len(), tally.delays.max()), (2, 3));
    }

    #[test]
    fn what_comes_twice_or_to_the_wrong_connection_is_no_delivery() {
        let mut tally = tally(100, 2);
        let stamp = |message| Stamp { message, channel: message % 2 };
        for message in [10, 80, 80] {
            tally.note(2, Some(0), stamp(message), 9000);
        }
        tally.note(1, Some(1), stamp(80), 9000);
        tally.note(1, None, stamp(80), 9000);
        assert_eq!((tally.deliveries, tally.duplicates, tally.wrong), (2, 1, 2));
    }

    #[test]
    fn a_plan_gives_channels_their_turns() {
        let plan = tally(5, 2).plan;
        assert_eq!(plan.stamp(3), Stamp { message: 13, channel: 1 });
        assert_eq!((plan.due_ns(5000, 3), plan.duration()), (8000, Duration::from_nanos(5000)));
    }
}
