//! Small scenarios in every order there is, and what their clients hear.

use super::*;

/// What somebody does.
pub(super) type Action<'a> = &'a dyn Fn(&mut World);

/// Runs a scenario in every order in which its actions, each after the one before it, and its messages can come. Each
/// is checked once it has come to rest, and must leave nothing behind. Returns how many orders there are.
pub(super) fn in_every_order(new: impl Fn() -> World, actions: &[Action<'_>], check: impl Fn(&mut World)) -> usize {
    let (mut orders, mut path) = (0, Vec::new());
    loop {
        let (mut world, mut taken, mut choices) = (new(), 0, Vec::new());
        loop {
            let mailed = world.mailed();
            let count = mailed.len() + usize::from(taken < actions.len());
            if count == 0 {
                break;
            }
            if path.len() == choices.len() {
                path.push(0);
            }
            match mailed.get(path[choices.len()]) {
                Some((from, to)) => assert!(world.deliver(*from, *to)),
                None => {
                    actions[taken](&mut world);
                    taken += 1;
                }
            }
            choices.push(count);
        }
        world.settle();
        check(&mut world);
        world.end();
        orders += 1;
        while let Some(last) = path.pop() {
            if last + 1 < choices[path.len()] {
                path.push(last + 1);
                break;
            }
        }
        if path.is_empty() {
            return orders;
        }
    }
}

impl World {
    /// A name that is at home on a shard.
    pub(super) fn name_at(&self, app: &str, prefix: &str, shard: ShardIndex) -> String {
        let mut names = (0..).map(|number| format!("{prefix}{number}"));
        names.find(|name| self.cores[0].home(app, name) == shard).unwrap()
    }

    /// The name of a person who is at home on a shard, and whose own channel is at home on another.
    pub(super) fn person_at(&self, shard: ShardIndex, own_channel_shard: ShardIndex) -> &'static str {
        let home = |name: &str| self.cores[0].home("two", name);
        let mut names = (0..).map(|number| format!("p{number}"));
        let is_there = |name: &String| {
            (home(name), home(own_channel(&name.as_str().into()).as_str())) == (shard, own_channel_shard)
        };
        String::leak(names.find(is_there).unwrap())
    }

    /// Somebody without a user, who reads notices and may use every channel of app `two`.
    pub(super) fn guest(&mut self, shard: usize) -> usize {
        self.connect(shard, "two", "", 0, &["*"])
    }

    /// Several of them, on these shards.
    pub(super) fn guests<const N: usize>(&mut self, shards: [usize; N]) -> [usize; N] {
        shards.map(|shard| self.guest(shard))
    }

    /// What a client has been sent: `+members` and `-` for the beginning and the end of a subscription, numbers of
    /// events, with the member who said it; the other lines as they are, without the channel.
    pub(super) fn heard_by(&mut self, who: usize) -> Vec<String> {
        if !self.clients[who].gone {
            self.flush(who, usize::MAX);
        }
        let short = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["event", _, _, _, number, "-"] => number.into(),
            ["event", _, _, _, number, user] => format!("{number} {user}"),
            ["+", _, _, _] => "+".into(),
            ["+", _, _, _, members] => format!("+{}", members.trim_start_matches('=')),
            ["-", _] => "-".into(),
            ["added", _, user, _] => format!("added {user}"),
            ["removed", _, user] => format!("removed {user}"),
            ["count", _, count] => format!("count {count}"),
            _ => line.into(),
        };
        str::from_utf8(&self.clients[who].read).unwrap().lines().map(short).collect()
    }

    /// Lets a connection break off.
    pub(super) fn break_off(&mut self, who: usize) {
        self.disconnect(who);
        self.settle();
    }

    /// Lets time pass for those who answer pings.
    pub(super) fn wait(&mut self, ms: u64) {
        self.tick(ms);
        for who in self.live() {
            self.heard(who);
        }
        self.settle();
    }
}
