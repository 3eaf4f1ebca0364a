//! What one connection has yet to be sent: whole frames, shared with other connections where they are the same event.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// What a queued frame costs beside its bytes: its handle.
const FRAME_OVERHEAD_BYTES: usize = size_of::<Bytes>();

/// A queue of encoded frames. The first frame is held inline, so that an isolated event allocates nothing.
///
/// Its bound is enforced by the owner after each flush (see [`Outbox::exceeds`]): within a turn the queue may be longer by
/// what events of that turn add, which is shared and about to be written. Replies are flushed as soon as they exceed it.
#[derive(Default, Debug)]
pub struct Outbox {
    front: Bytes,
    rest: VecDeque<Bytes>,
    /// Bytes of `front` that the socket has taken already.
    written: usize,
    /// Bytes not yet taken, with the overhead of each frame.
    weight: usize,
}

impl Outbox {
    /// Nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// Bytes waiting, with 32 more for each frame.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Whether more than `bytes_max` waits. One frame may be larger, if it is alone.
    pub fn exceeds(&self, bytes_max: usize) -> bool {
        self.weight > bytes_max && !self.rest.is_empty()
    }

    /// Bytes that the places of frames take beyond the first, which has its own; frames themselves are not counted.
    pub(super) fn places_bytes(&self) -> usize {
        self.rest.capacity() * FRAME_OVERHEAD_BYTES
    }

    /// Adds a frame at the end. An empty frame is nothing.
    pub fn push(&mut self, frame: Bytes) {
        if frame.is_empty() {
            return;
        }
        self.weight += frame.len() + FRAME_OVERHEAD_BYTES;
        if self.front.is_empty() {
            self.front = frame;
        } else {
            self.rest.push_back(frame);
        }
    }

    /// The waiting bytes, if they are of one frame.
    pub fn only(&self) -> Option<&[u8]> {
        self.rest.is_empty().then(|| &self.front[self.written..])
    }

    /// The waiting bytes as slices for one vectored write; returns how many of `slices` were filled.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        if self.is_empty() {
            return 0;
        }
        let frames = std::iter::once(&self.front[self.written..]).chain(self.rest.iter().map(|frame| &frame[..]));
        let mut filled = 0;
        for (slice, frame) in slices.iter_mut().zip(frames) {
            *slice = IoSlice::new(frame);
            filled += 1;
        }
        filled
    }

    /// The socket took `bytes` more bytes.
    pub fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let left = self.front.len() - self.written;
            if bytes < left {
                self.written += bytes;
                self.weight -= bytes;
                return;
            }
            bytes -= left;
            self.weight -= left + FRAME_OVERHEAD_BYTES;
            self.written = 0;
            self.front = self.rest.pop_front().unwrap_or_default();
        }
        if self.rest.is_empty() && self.rest.capacity() > 8 {
            self.rest = VecDeque::new(); // a burst must not cost memory for ever
        }
    }

    /// Drops every frame of which the socket has taken nothing, so that a close frame can come next without cutting
    /// into a half-written one.
    pub fn keep_only_started(&mut self) {
        let started = std::mem::take(&mut self.front);
        let written = self.written;
        *self = Self::default();
        if written > 0 {
            self.weight = started.len() - written + FRAME_OVERHEAD_BYTES;
            self.front = started;
            self.written = written;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let filled = outbox.fill(&mut slices);
            let chunk: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
            out.extend_from_slice(&chunk);
            outbox.advance(chunk.len());
        }
        out
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_socket_takes() {
        for step in 1..20 {
            let mut outbox = Outbox::default();
            for frame in ["abc", "", "defgh", "i", "jklmnop"] {
                outbox.push(Bytes::from_static(frame.as_bytes()));
            }
            assert_eq!(drain(&mut outbox, step), b"abcdefghijklmnop");
            assert_eq!(outbox.weight(), 0);
        }
    }

    #[test]
    fn one_large_frame_may_stand_alone() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from(vec![0; 1000]));
        assert!(!outbox.exceeds(100));
        outbox.push(Bytes::from_static(b"x"));
        assert!(outbox.exceeds(100));
        assert!(!outbox.exceeds(1001 + 2 * FRAME_OVERHEAD_BYTES));
    }

    #[test]
    fn a_started_frame_is_finished_before_the_close() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"first"));
        outbox.push(Bytes::from_static(b"second"));
        outbox.advance(2);
        outbox.keep_only_started();
        outbox.push(Bytes::from_static(b"close"));
        assert_eq!(drain(&mut outbox, 3), b"rstclose");

        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"first"));
        outbox.keep_only_started();
        assert!(outbox.is_empty());
        assert_eq!(outbox.weight(), 0);
    }
}
