//! Publishes that may be asked for again: within a window, a request with the `Idempotency-Key` of an earlier one gets that
//! one's answer, and publishes nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::core::AppKey;

/// Bytes of answers kept at most; beyond it the oldest are forgotten.
const ANSWERS_BYTES_MAX: usize = if cfg!(test) { 1_000 } else { 64 << 20 };

/// What was answered on this node. Shared between shards under a lock, which only requests that carry a key take.
#[derive(Default, Debug)]
pub struct Idempotency(Mutex<Kept>);

#[derive(Default, Debug)]
struct Kept {
    requests: HashMap<Key, Request>,
    /// Oldest first.
    ages: VecDeque<(u64, Key)>,
    /// Bytes of all answers.
    answers_bytes: usize,
}

type Key = (AppKey, Box<str>);

#[derive(Debug)]
struct Request {
    began_ms: u64,
    fingerprint: u128,
    /// `None` while it is under way.
    answer: Option<Bytes>,
}

/// What is known of a key.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Nothing: the request is to be carried out, and its end to be told.
    New,
    /// The first request is still under way.
    UnderWay,
    /// The key was used for something else.
    OtherRequest,
    /// The first request was answered so.
    Answered(Bytes),
}

impl Idempotency {
    /// Looks a key up, and notes it if it is new. `fingerprint` tells requests apart. When `keys_max` are kept, or their
    /// answers are too many bytes, the oldest is forgotten before its time.
    pub(super) fn begin(
        &self,
        app: &AppKey,
        key: &str,
        fingerprint: u128,
        now_ms: u64,
        (window_ms, keys_max): (u64, usize),
    ) -> Known {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |began_ms: u64| began_ms + window_ms <= now_ms;
        while kept.ages.front().is_some_and(|(began_ms, _)| is_over(*began_ms)) {
            kept.forget_oldest();
        }
        let key = (app.clone(), key.into());
        match kept.requests.get(&key) {
            Some(request) if request.fingerprint != fingerprint => Known::OtherRequest,
            Some(Request { answer: Some(answer), .. }) => Known::Answered(answer.clone()),
            Some(_) => Known::UnderWay,
            None => {
                while kept.ages.len() >= keys_max.max(1) || kept.answers_bytes > ANSWERS_BYTES_MAX {
                    kept.forget_oldest();
                }
                kept.requests.insert(key.clone(), Request { began_ms: now_ms, fingerprint, answer: None });
                kept.ages.push_back((now_ms, key));
                Known::New
            }
        }
    }

    /// Tells how a request ended: with an answer to be given again, or in a way that makes it worth another try, unless it
    /// had been answered before.
    pub(super) fn end(&self, app: &AppKey, key: &str, answer: Option<Bytes>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (app.clone(), key.into());
        match answer {
            Some(answer) => {
                let Kept { requests, answers_bytes, .. } = &mut *kept;
                if let Some(request) = requests.get_mut(&key) {
                    *answers_bytes += answer.len();
                    *answers_bytes -= request.answer.replace(answer).map_or(0, |before| before.len());
                }
            }
            None if kept.requests.get(&key).is_some_and(|request| request.answer.is_none()) => {
                kept.requests.remove(&key);
            }
            None => {}
        }
    }
}

impl Kept {
    fn forget_oldest(&mut self) {
        let Some((began_ms, key)) = self.ages.pop_front() else { return };
        if self.requests.get(&key).is_some_and(|request| request.began_ms == began_ms)
            && let Some(request) = self.requests.remove(&key)
        {
            self.answers_bytes -= request.answer.map_or(0, |answer| answer.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_again_for_a_while() {
        let store = Idempotency::default();
        let (app, other) = (AppKey::from("a"), AppKey::from("b"));
        let begin = |app: &AppKey, key, print, now_ms| store.begin(app, key, print, now_ms, (1_000, 3));
        assert_eq!(begin(&app, "k", 1, 0), Known::New);
        assert_eq!(begin(&app, "k", 1, 1), Known::UnderWay);
        assert_eq!(begin(&other, "k", 1, 1), Known::New);
        store.end(&app, "k", Some("{}".into()));
        assert_eq!(begin(&app, "k", 1, 999), Known::Answered("{}".into()));
        assert_eq!(begin(&app, "k", 2, 999), Known::OtherRequest);
        assert_eq!(begin(&app, "k", 2, 1_000), Known::New);
        store.end(&app, "k", None);
        assert_eq!(begin(&app, "k", 3, 1_001), Known::New);
        // the oldest make room
        for (key, now_ms) in [("l", 1_002), ("m", 1_003), ("n", 1_004)] {
            assert_eq!(begin(&app, key, 1, now_ms), Known::New);
        }
        // those that are asked for again do not
        for key in ["l", "m", "n"] {
            assert_eq!(begin(&app, key, 1, 1_005), Known::UnderWay);
        }
        let kept = store.0.lock().unwrap();
        assert!(kept.requests.len() <= 3 && kept.ages.len() <= 4, "{kept:?}");
    }

    #[test]
    fn long_answers_are_not_kept_without_end() {
        let store = Idempotency::default();
        let app = AppKey::from("a");
        let begin = |key: &str, now_ms| store.begin(&app, key, 1, now_ms, (1_000, 100));
        for number in 0..10 {
            assert_eq!(begin(&number.to_string(), number), Known::New);
            store.end(&app, &number.to_string(), Some("{}".into()));
            store.end(&app, &number.to_string(), Some(vec![b' '; 600].into()));
        }
        assert!(store.0.lock().unwrap().answers_bytes <= ANSWERS_BYTES_MAX + 600);
        assert!(matches!(begin("9", 10), Known::Answered(_)));
        assert_eq!(begin("0", 10), Known::New);
        assert_eq!(begin("last", 2_000), Known::New);
        assert_eq!(store.0.lock().unwrap().answers_bytes, 0);
    }
}
