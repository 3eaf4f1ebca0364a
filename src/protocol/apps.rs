//! Apps as the Pusher and Push1ST doors know them: found by key or id, each with its secrets and options.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

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
    /// What it has become in the configuration that came after its own.
    next: OnceLock<Arc<App>>,
}

/// What an app has taken on this node.
#[derive(Default)]
pub struct Rates {
    pub(super) publishes: Rate,
    pub(super) reads: Rate,
}

impl Apps {
    /// Apps of a configuration. Rates of apps that were there `before` go on.
    pub fn new(apps: &[config::App], before: &Apps) -> Self {
        let mut all = Self::default();
        for options in apps {
            let key = AppKey::from(&*options.key);
            let secrets = options.secret.iter().chain(&options.previous_secrets).map(config::Secret::expose);
            let app = Arc::new(App {
                secrets: AppSecrets::new(&options.key, secrets.clone()),
                access: AccessKey::new(&options.key, secrets),
                rates: before.by_key(&options.key).map(|app| app.rates.clone()).unwrap_or_default(),
                options: options.clone(),
                key: key.clone(),
                next: OnceLock::new(),
            });
            all.by_id.insert(options.id.as_str().into(), app.clone());
            all.by_key.insert(key, app);
        }
        all
    }

    /// Puts the apps `after` these into force for whoever holds one of these: see [`App::renew`]. To be called once.
    pub fn replaced_by(&self, after: &Apps) {
        for (key, app) in &self.by_key {
            if let Some(next) = after.by_key.get(key).filter(|next| !Arc::ptr_eq(next, app)) {
                let _ = app.next.set(next.clone()); // the first counts
            }
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
    /// Goes on to what the app is in the configuration in force. One that is in it no more stays as it was.
    pub fn renew(app: &mut Arc<App>) {
        while let Some(next) = app.next.get().cloned() {
            *app = next;
        }
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
    fn who_holds_an_app_goes_on_to_what_it_becomes() {
        let apps = |secret: Option<&str>, before: &Apps| {
            let secret = secret.map(config::Secret::new);
            let app = config::App { key: "k".into(), secret: secret.clone(), ..config::App::blank() };
            Apps::new(&secret.map(|_| app).into_iter().collect::<Vec<_>>(), before)
        };
        let one = apps(Some("one"), &Apps::default());
        let mut held = one.by_key("k").unwrap().clone();
        let two = apps(Some("two"), &one);
        App::renew(&mut held);
        assert!(Arc::ptr_eq(&held, one.by_key("k").unwrap()), "not in force yet");
        one.replaced_by(&two);
        let three = apps(Some("three"), &two);
        two.replaced_by(&three);
        App::renew(&mut held);
        assert!(Arc::ptr_eq(&held, three.by_key("k").unwrap()));
        assert!(Arc::ptr_eq(&held.rates, &one.by_key("k").unwrap().rates));
        three.replaced_by(&apps(None, &three));
        App::renew(&mut held);
        assert!(Arc::ptr_eq(&held, three.by_key("k").unwrap()), "it is removed");
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
