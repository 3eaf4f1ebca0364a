//! Users that sign in on a connection, and those who watch them.

use super::channel::own_channel;
use super::connection::{CloseReason, Outcome, Pending, SignedIn};
use super::event::{Member, Notice};
use super::id::{AppKey, ConnectionId, UserId};
use super::message::Letter;
use super::rejection::Rejection;
use super::{Core, Effect};

impl Core {
    /// Signs a connection in as a user who watches others: from then on it is subscribed to the user's own channel, and
    /// told when one of the watched comes or goes. Ends with [`Effect::Outcome`]. To sign in again as the same user
    /// changes nothing.
    ///
    /// The caller has verified who the user is, and starts no other command of the connection before the end.
    pub fn sign_in(&mut self, slot: u32, who: Member, watched: Vec<UserId>) {
        let Member { user, info } = who;
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        debug_assert!(!connection.is_busy(), "one command in flight per connection");
        let refused = match connection.signed_in() {
            _ if user.as_str().len() > self.settings.limits.user_id_bytes_max => Some(Rejection::UserIdTooLong),
            Some(signed_in) if *signed_in != user => Some(Rejection::OtherUser),
            Some(_) => {
                let outcome = Outcome::SignedIn { online: Vec::new(), offline: Vec::new() };
                self.effects.push(Effect::Outcome(slot, outcome));
                return;
            }
            None => None,
        };
        if let Some(rejection) = refused {
            let refused = self.rejected(rejection);
            self.effects.push(Effect::Outcome(slot, Outcome::Refused(refused)));
            return;
        }
        let (id, app, who) = (connection.id, connection.permit.app().clone(), connection.subscriber());
        connection.command = connection.command.wrapping_add(1);
        let command = connection.command;
        connection.pending = Some(Box::new(Pending::SignIn {
            waiting: 2 + watched.len(),
            online: Vec::new(),
            offline: Vec::new(),
            joined: false,
            signed_in: SignedIn { user: user.clone(), info, watched: watched.clone() },
        }));
        let channel = own_channel(&user);
        let home = self.channel_home(&app, &channel);
        self.send(home, Letter::Join { who, command, app: app.clone(), channel, member: None });
        for watched in watched {
            let home = self.user_home(&app, &watched);
            self.send(home, Letter::Watch { connection: id, command, app: app.clone(), user: watched });
        }
        // last: whoever watches itself finds itself offline first, and is then told that it came
        self.send(self.user_home(&app, &user), Letter::SignIn { connection: id, command, app, user });
        self.settle();
    }

    /// Ends every connection that is signed in as the user. The user may come back.
    pub fn terminate(&mut self, app: &AppKey, user: UserId) {
        self.send(self.user_home(app, &user), Letter::Terminate { app: app.clone(), user });
        self.settle();
    }

    /// One of the homes that a sign-in waits for has confirmed.
    pub(super) fn sign_in_confirmed(&mut self, id: ConnectionId, command: u32, note: impl FnOnce(&mut Pending)) {
        let Some(connection) = self.connections.get_mut(id.slot as usize).filter(|held| held.id == id) else { return };
        let Some(pending) = connection.pending.as_deref_mut().filter(|_| connection.command == command) else { return };
        note(pending);
        let Pending::SignIn { waiting, .. } = pending else { return };
        *waiting -= 1;
        if *waiting > 0 {
            return;
        }
        let Some(Pending::SignIn { online, offline, signed_in, .. }) = connection.pending.take().map(|done| *done)
        else {
            return;
        };
        let (app, channel) = (connection.permit.app().clone(), own_channel(&signed_in.user));
        connection.must_authorize = false;
        connection.permit.charge(signed_in.held_bytes());
        connection.signed_in = Some(Box::new(signed_in));
        self.begin_subscription(id.slot, &app, &channel);
        self.effects.push(Effect::Outcome(id.slot, Outcome::SignedIn { online, offline }));
    }

    pub(super) fn sign_in_here(&mut self, connection: ConnectionId, command: u32, app: &AppKey, user: UserId) {
        if self.signed_in.sign_in(app, user.clone(), connection) {
            self.tell_watchers(app, &user, true);
        }
        self.send(connection.shard, Letter::SignedIn { connection, command });
    }

    pub(super) fn sign_out_here(&mut self, connection: ConnectionId, app: &AppKey, user: &UserId) {
        if self.signed_in.sign_out(app, user, connection) {
            self.tell_watchers(app, user, false);
        }
    }

    fn tell_watchers(&mut self, app: &AppKey, user: &UserId, online: bool) {
        for connection in self.signed_in.watchers(app, user).to_vec() {
            self.send(connection.shard, Letter::UserState { connection, user: user.clone(), online });
        }
    }

    /// A watched user came or went. While the watcher's own sign-in is under way that becomes part of what it finds.
    pub(super) fn receive_user_state(&mut self, id: ConnectionId, user: UserId, is_online: bool) {
        let Some(connection) = self.connections.get_mut(id.slot as usize).filter(|held| held.id == id) else { return };
        if let Some(Pending::SignIn { online, offline, .. }) = connection.pending.as_deref_mut() {
            online.retain(|held| *held != user);
            offline.retain(|held| *held != user);
            if is_online { online } else { offline }.push(user);
            return;
        }
        let dialect = usize::from(connection.form.dialect());
        let frame = self.node.dialects[dialect].notice(&Notice::UserState { user: &user, online: is_online });
        self.reply(id.slot, frame);
    }

    /// A connection that has signed in, or is about to, has gone.
    pub(super) fn sign_out(&mut self, id: ConnectionId, app: &AppKey, signed_in: SignedIn) {
        for user in signed_in.watched {
            let home = self.user_home(app, &user);
            self.send(home, Letter::Unwatch { connection: id, app: app.clone(), user });
        }
        let home = self.user_home(app, &signed_in.user);
        self.send(home, Letter::SignOut { connection: id, app: app.clone(), user: signed_in.user });
    }

    pub(super) fn terminate_here(&mut self, app: &AppKey, user: &UserId) {
        for connection in self.signed_in.connections(app, user).to_vec() {
            self.send(connection.shard, Letter::Close { connection, reason: CloseReason::Terminated });
        }
    }
}
