//! Who may connect: counts of live connections per node, app and address.
//!
//! The only state that shards share. It is touched twice in the life of a connection, never on the data path, and must
//! be exact across shards at the moment of the handshake; a lock is the plainest thing that does that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::id::AppKey;
use super::rejection::Rejection;
use super::settings::Settings;

/// Counts of live connections; clones share them.
#[derive(Clone, Default, Debug)]
pub struct Admission(Arc<Mutex<Counts>>);

#[derive(Default, Debug)]
struct Counts {
    node: usize,
    apps: HashMap<AppKey, usize>,
    addresses: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Counts one more connection, or says which limit is reached.
    ///
    /// # Errors
    /// [`Rejection::NodeFull`], [`Rejection::AppFull`], [`Rejection::AddressFull`].
    pub fn admit(&self, app: &AppKey, address: Option<IpAddr>, settings: &Settings) -> Result<Permit, Rejection> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = |count: Option<&usize>, max: usize| max > 0 && count.is_some_and(|count| *count >= max);
        let (limits, of_app) = (&settings.limits, counts.apps.get(app));
        if counts.node >= limits.connections_max {
            return Err(Rejection::NodeFull);
        }
        if reached(of_app, limits.connections_per_app_max) || reached(of_app, settings.app(app).connections_max) {
            return Err(Rejection::AppFull);
        }
        if address.is_some_and(|address| reached(counts.addresses.get(&address), limits.connections_per_ip_max)) {
            return Err(Rejection::AddressFull);
        }
        counts.node += 1;
        *counts.apps.entry(app.clone()).or_default() += 1;
        if let Some(address) = address {
            *counts.addresses.entry(address).or_default() += 1;
        }
        Ok(Permit { admission: self.clone(), app: app.clone(), address })
    }

    /// Live connections of every app that has one.
    pub fn per_app(&self) -> Vec<(AppKey, usize)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.apps.iter().map(|(app, count)| (app.clone(), *count)).collect()
    }

    /// Live connections of the node.
    pub fn total(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).node
    }
}

/// The right to one connection; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Admission,
    app: AppKey,
    address: Option<IpAddr>,
}

impl Permit {
    /// The app it was given for.
    pub fn app(&self) -> &AppKey {
        &self.app
    }

    /// The client's address, where it is known.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.node -= 1;
        if let Some(count) = counts.apps.get_mut(&self.app) {
            *count -= 1;
            if *count == 0 {
                counts.apps.remove(&self.app);
            }
        }
        if let Some(address) = self.address
            && let Some(count) = counts.addresses.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                counts.addresses.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::settings::AppSettings;
    use crate::limits::Limits;

    #[test]
    fn each_limit_at_its_edge_and_back() {
        let limits =
            Limits { connections_max: 3, connections_per_app_max: 2, connections_per_ip_max: 1, ..Limits::default() };
        let small = AppSettings { connections_max: 1, ..AppSettings::DEFAULT };
        let settings = Settings { limits, apps: [(AppKey::from("small"), small)].into() };
        let admission = Admission::default();
        let (a, b) = (AppKey::from("a"), AppKey::from("b"));
        let ip = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        let only = admission.admit(&AppKey::from("small"), None, &settings).unwrap();
        assert_eq!(admission.admit(&AppKey::from("small"), None, &settings).unwrap_err(), Rejection::AppFull);
        drop(only);
        let first = admission.admit(&a, ip(1), &settings).unwrap();
        assert_eq!(admission.admit(&b, ip(1), &settings).unwrap_err(), Rejection::AddressFull);
        let second = admission.admit(&a, ip(2), &settings).unwrap();
        assert_eq!(admission.admit(&a, ip(3), &settings).unwrap_err(), Rejection::AppFull);
        let third = admission.admit(&b, None, &settings).unwrap();
        assert_eq!(admission.admit(&b, ip(4), &settings).unwrap_err(), Rejection::NodeFull);
        assert_eq!(admission.total(), 3);
        drop((first, second, third));
        assert_eq!(admission.total(), 0);
        assert!(admission.per_app().is_empty());
        assert!(admission.0.lock().unwrap().addresses.is_empty());
    }
}
