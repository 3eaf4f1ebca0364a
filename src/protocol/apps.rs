//! Apps as the Pusher and Push1ST doors know them: found by key or id, each with its secrets and options.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyper::header::{self, HeaderMap};

use crate::config::{self, ChannelKind};
use crate::core::{Access, AppKey, matches_pattern};
use crate::credential::access::AccessKey;
use crate::credential::signature::AppSecrets;

use super::rate::Rate;

/// All configured apps.
#[derive(Default)]
pub struct Apps {
    by_key: HashMap<AppKey, Arc<App>>,
    by_id: HashMap<Box<str>, Arc<App>>,
}

/// One app.
pub struct App {
    /// Its key.
    pub key: AppKey,
    /// What the operator says of it.
    pub options: config::App,
    /// What its backends sign with.
    pub secrets: AppSecrets,
    /// Makes and checks access tokens.
    pub access: AccessKey,
    /// How much it has taken of what it may take; outlives a change of the options.
    pub(super) rates: Arc<Rates>,
    /// Which of the app's successive forms this is, and the one in force.
    number: u64,
    in_force: Arc<InForce>,
}

/// The form of an app that is in force, for those who hold an earlier one.
#[derive(Default)]
struct InForce {
    number: AtomicU64,
    app: Mutex<Weak<App>>,
}

/// What an app has taken on this node.
#[derive(Default)]
pub struct Rates {
    pub(super) publishes: Rate,
    pub(super) reads: Rate,
}

impl Apps {
    /// Apps of a configuration. Rates of apps that were there `before` go on; who holds one of those learns of its successor
    /// when that [comes into force](Self::come_into_force).
    pub fn new(apps: &[config::App], before: &Apps) -> Self {
        let mut all = Self::default();
        for options in apps {
            let key = AppKey::from(&*options.key);
            let earlier = before.by_key(&options.key);
            let secrets = options.secret.iter().chain(&options.previous_secrets).map(config::Secret::expose);
            let app = Arc::new(App {
                secrets: AppSecrets::new(&options.key, secrets.clone()),
                access: AccessKey::new(&options.key, secrets),
                rates: earlier.map(|app| app.rates.clone()).unwrap_or_default(),
                number: earlier.map_or(0, |app| app.number + 1),
                in_force: earlier.map(|app| app.in_force.clone()).unwrap_or_default(),
                options: options.clone(),
                key: key.clone(),
            });
            all.by_id.insert(options.id.as_str().into(), app.clone());
            all.by_key.insert(key, app);
        }
        all
    }

    /// From now on these apps count, for connections that came before, too.
    pub fn come_into_force(&self) {
        for app in self.by_key.values() {
            *app.in_force.app.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(app);
            app.in_force.number.store(app.number, Ordering::Release);
        }
    }

    /// The app of a key, enabled or not.
    pub fn by_key(&self, key: &str) -> Option<&Arc<App>> {
        self.by_key.get(key)
    }

    /// The app of an id, enabled or not.
    pub fn by_id(&self, id: &str) -> Option<&Arc<App>> {
        self.by_id.get(id)
    }
}

impl App {
    /// The form in force, if that is another.
    pub fn successor(&self) -> Option<Arc<App>> {
        if self.in_force.number.load(Ordering::Acquire) == self.number {
            return None;
        }
        self.in_force.app.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Whether a page may open sockets: any page, unless the app names origins. What is no browser sends no `Origin`,
    /// and is not kept out by a header that it could make up.
    pub fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let origins = &self.options.origins;
        let Some(origin) = headers.get(header::ORIGIN).filter(|_| !origins.is_empty()) else { return true };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let host = origin.split_once("://").map_or("", |(_, rest)| rest);
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        origins.iter().map(|allowed| allowed.to_ascii_lowercase()).any(|allowed| {
            let candidates = if allowed.contains("://") { [&*origin, &*origin] } else { [host, name] };
            candidates.iter().any(|candidate| matches_pattern(&allowed, candidate))
        })
    }

    /// Whether clients may use channels of that kind.
    pub fn allows_channel(&self, access: Access) -> bool {
        kind_of(access).is_some_and(|kind| self.options.channels.contains(&kind))
    }

    /// Whether raw sockets may push to channels of that kind.
    pub fn allows_socket_push(&self, access: Access) -> bool {
        kind_of(access).is_some_and(|kind| self.options.socket_push.contains(&kind))
    }
}

/// The configuration's word for who may use a channel; the server's own channels have none.
fn kind_of(access: Access) -> Option<ChannelKind> {
    match access {
        Access::Public => Some(ChannelKind::Public),
        Access::Private => Some(ChannelKind::Private),
        Access::Presence => Some(ChannelKind::Presence),
        Access::Protected => Some(ChannelKind::Protected),
        Access::Reserved => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_an_app_learns_of_the_one_in_force() {
        let of = |secret: &str, before: &Apps| {
            let options =
                config::App { key: "k".into(), secret: Some(config::Secret::new(secret)), ..config::App::blank() };
            Apps::new(&[options], before)
        };
        let apps = of("a", &Apps::default());
        let held = apps.by_key("k").unwrap().clone();
        assert!(held.successor().is_none());
        let refused = of("b", &apps);
        assert!(held.successor().is_none());
        let next = of("c", &refused);
        next.come_into_force();
        let successor = held.successor().unwrap();
        assert!(Arc::ptr_eq(&successor, next.by_key("k").unwrap()) && successor.successor().is_none());
    }

    #[test]
    fn origins() {
        let check = |origins: &[&str], origin: Option<&str>, expected: bool| {
            let options = config::App {
                key: "k".into(),
                origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
                ..config::App::blank()
            };
            let apps = Apps::new(&[options], &Apps::default());
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(apps.by_key("k").unwrap().allows_origin(&headers), expected, "{origins:?} {origin:?}");
        };
        check(&[], Some("https://evil.example"), true);
        check(&["shop.example"], None, true);
        check(&["shop.example"], Some("https://shop.example"), true);
        check(&["Shop.example"], Some("https://SHOP.example:8443"), true);
        check(&["shop.example"], Some("https://evil.example"), false);
        check(&["shop.example"], Some("https://shop.example.evil"), false);
        check(&["shop.example"], Some("null"), false);
        check(&["*.shop.example"], Some("https://a.shop.example"), true);
        check(&["*.shop.example"], Some("https://shop.example"), false);
        check(&["https://shop.example"], Some("https://shop.example"), true);
        check(&["https://shop.example"], Some("http://shop.example"), false);
        check(&["*"], Some("http://any"), true);
    }
}
