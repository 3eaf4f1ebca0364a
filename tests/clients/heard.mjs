// What programs in Node and pages have in common: what clients hear is kept until it is asked for; each step is told.

const PATIENCE_MS = 50_000;
const SHOWN_MAX = 15; // of what came last and nobody asked for, where something is missed

export class Heard {
    #left = [];
    #looking = [];

    // `who` is a client, by any name; channel is null for what belongs to none.
    put(who, channel, event, data, more = {}) {
        this.#left.push({ who, channel, event, data, ...more });
        this.#looking = this.#looking.filter((look) => !look());
    }

    // The earliest that was not taken yet, as soon as there is one. One of several events will do.
    take(who, channel, ...events) {
        return new Promise((resolve, reject) => {
            const look = () => {
                const at = this.#left.findIndex(
                    (one) => one.who === who && one.channel === channel && events.includes(one.event),
                );
                if (at < 0) return false;
                clearTimeout(late);
                resolve(this.#left.splice(at, 1)[0]);
                return true;
            };
            const late = setTimeout(() => {
                const wanted = [who, channel ?? "any channel", events.join(" or ")].join(", ");
                const others = this.#left.slice(-SHOWN_MAX).map((one) => `\n  ${JSON.stringify(one)}`);
                reject(new Error(`waited ${PATIENCE_MS / 1000} s for ${wanted}; else there came${others.join("")}`));
            }, PATIENCE_MS);
            if (!look()) this.#looking.push(look);
        });
    }

    // What was heard by that client, of that channel and event, and not taken.
    left(who, channel, event) {
        return this.#left.filter((one) => one.who === who && one.channel === channel && one.event === event);
    }

    // Forgets all that one client has heard so far.
    forget(who) {
        this.#left = this.#left.filter((one) => one.who !== who);
    }
}

// Data that must arrive as it is.
export const DATA = {
    text: "žluťoučký kůň ☃ 👍 \u2028 </script>",
    deep: { list: [1, null, true, { a: [] }], number: 0.5 },
    empty: "",
};

// Of pusher-js. `backend` is the URL of the app's own backend, empty for a page that comes from there.
export const clientOptions = (host, port, backend, user) => ({
    wsHost: host,
    wsPort: Number(port),
    forceTLS: false,
    enabledTransports: ["ws"],
    cluster: "",
    channelAuthorization: { endpoint: `${backend}/auth`, transport: "ajax", params: { user } },
    userAuthentication: { endpoint: `${backend}/user-auth`, transport: "ajax", params: { user } },
});

// Hears what a client of pusher-js tells of its connection and its user.
export function listen(heard, who, client) {
    client.connection.bind("state_change", ({ current }) => heard.put(who, null, current, client.connection.socket_id));
    client.connection.bind("error", (error) => heard.put(who, null, "error", error));
    client.user.bind_global((event, data) => heard.put(who, "the user", event, data));
    client.user.watchlist.bind_global((event, data) => heard.put(who, "the watchlist", event, data.user_ids.sort()));
}

export const SUCCEEDED = "pusher:subscription_succeeded";
export const FAILED = "pusher:subscription_error";

// Hears everything on a channel of pusher-js; of a presence channel's beginning, who is there.
export function listenOn(heard, who, channel) {
    channel.bind_global((event, data) => {
        const members = event === SUCCEEDED && channel.members;
        heard.put(who, channel.name, event, members ? Object.keys(members.members).sort() : data);
    });
}

// Subscribes by pusher-js, and waits for what becomes of it.
export async function subscribe(heard, who, client, name) {
    const channel = client.subscribe(name);
    listenOn(heard, who, channel);
    const { event, data } = await heard.take(who, name, SUCCEEDED, FAILED);
    return { channel, event, data };
}

// Plays steps in their order, and says of each that it came true; false as soon as one does not.
export async function play(say, steps) {
    for (const [name, step] of Object.entries(steps)) {
        try {
            await step();
            await say(`ok      ${name}`);
        } catch (error) {
            await say(`FAILED  ${name}: ${error.stack ?? error}`);
            return false;
        }
    }
    return true;
}
