// pusher-js, built for Node, and Pusher's server SDK for Node.
import assert from "node:assert/strict";

import { app, backendUrl, end, host, makeSdk, packages, port, sdk, startBackend } from "./backend.mjs";
import { DATA, FAILED, Heard, SUCCEEDED, clientOptions, listen, play, subscribe } from "./heard.mjs";

const PusherJs = packages("pusher-js");
const heard = new Heard();
const clients = {};

function makeClient(who, user = who, more = {}) {
    const { key = app.key, ...options } = more;
    clients[who] = new PusherJs(key, { ...clientOptions(host, port, backendUrl, user), ...options });
    listen(heard, who, clients[who]);
    return clients[who];
}

async function connect(who, user, more) {
    const client = makeClient(who, user, more);
    const { data } = await heard.take(who, null, "connected");
    assert.match(data, /^\d+\.\d+$/);
    return client;
}

// Subscribes, which must succeed.
async function join(who, name) {
    const { channel, event, data } = await subscribe(heard, who, clients[who], name);
    assert.equal(event, SUCCEEDED, JSON.stringify(data));
    return { channel, data };
}

async function hears(who, channel, event, data) {
    assert.deepEqual((await heard.take(who, channel, event)).data, data);
}

const webhook = async (channel, event, more = {}) => hears("webhook", channel, event, { name: event, channel, ...more });
const answer = async (request) => (await request).json();
const get = (path, params) => answer(sdk.get({ path, params }));

// Client events know the member that they come from.
function listenForClientEvents(who, channel, event) {
    channel.bind(event, (data, { user_id }) => heard.put(who, channel.name, `${event} of`, user_id));
}

const came = await play(console.log, {
    "connects": async () => {
        await startBackend(heard);
        await connect("alice");
    },

    "connects below /pusher too": async () => {
        const client = await connect("elsewhere", "alice", { wsPath: "/pusher" });
        client.disconnect();
    },

    "connects with TLS, as the SDK does": async () => {
        const [wsHost, wssPort] = process.env.SECURE.split(":");
        const transports = { forceTLS: true, enabledTransports: ["ws", "wss"] };
        const client = await connect("secure", "alice", { wsHost, wssPort: Number(wssPort), ...transports });
        await join("secure", "safe");
        await makeSdk({ host: wsHost, port: wssPort, useTLS: true }).trigger("safe", "object", DATA);
        await hears("secure", "safe", "object", DATA);
        client.disconnect();
        for (const event of ["channel_occupied", "channel_vacated"]) await webhook("safe", event);
    },

    "public channel: object, text, number, nothing": async () => {
        await join("alice", "news");
        for (const [event, data] of [["object", DATA], ["text", "plain"], ["number", 42], ["nothing", {}]]) {
            await sdk.trigger("news", event, data);
            await hears("alice", "news", event, data);
        }
        await webhook("news", "channel_occupied");
    },

    "many channels at once": async () => {
        await join("alice", "sport");
        await sdk.trigger(["news", "sport", "empty"], "goal", { score: [1, 0] });
        await hears("alice", "news", "goal", { score: [1, 0] });
        await hears("alice", "sport", "goal", { score: [1, 0] });
    },

    "subscription count": async () => {
        await hears("alice", "news", "pusher:subscription_count", { subscription_count: 1 });
        await connect("bob");
        await join("bob", "news");
        await hears("alice", "news", "pusher:subscription_count", { subscription_count: 2 });
        await hears("bob", "news", "pusher:subscription_count", { subscription_count: 2 });
        clients.bob.unsubscribe("news");
        await hears("alice", "news", "pusher:subscription_count", { subscription_count: 1 });
        assert.equal(clients.alice.channel("news").subscriptionCount, 1);
        for (const subscription_count of [1, 2, 1]) await webhook("news", "subscription_count", { subscription_count });
    },

    "private channel": async () => {
        await join("alice", "private-x");
        await sdk.trigger("private-x", "secret", DATA);
        await hears("alice", "private-x", "secret", DATA);
    },

    "signed with an earlier secret": async () => {
        const previous = makeSdk({ secret: "previous secret" });
        await previous.trigger("private-x", "rotated", 1);
        await hears("alice", "private-x", "rotated", 1);
    },

    "refused by the app's backend": async () => {
        const { event, data } = await subscribe(heard, "alice", clients.alice, "private-not-allowed");
        assert.deepEqual([event, data.type, data.status], [FAILED, "AuthError", 403]);
    },

    "refused by the server: signatures that are none": async () => {
        const kinds = ["private-", "private-encrypted-", "presence-"].flatMap((kind) => [kind, `${kind}cache-`]);
        for (const kind of kinds) {
            const { event, data } = await subscribe(heard, "alice", clients.alice, `${kind}forged`);
            assert.deepEqual([event, data.type, data.status], [FAILED, "AuthError", 401], kind);
            clients.alice.unsubscribe(`${kind}forged`);
        }
        assert.equal(clients.alice.connection.state, "connected");
    },

    "encrypted channels": async () => {
        for (const name of ["private-encrypted-x", "private-encrypted-cache-x"]) {
            await join("alice", name);
            clients.alice.connection.bind("message", ({ channel, event, data }) => {
                if (channel === name && event === "sealed") heard.put("alice", name, "on the wire", data);
            });
            await sdk.trigger(name, "sealed", DATA);
            await hears("alice", name, "sealed", DATA);
            const { data } = await heard.take("alice", name, "on the wire");
            assert.deepEqual(Object.keys(data).sort(), ["ciphertext", "nonce"]);
        }
    },

    "cache channels: a miss, then the last event": async () => {
        for (const name of ["cache-x", "private-cache-x", "presence-cache-x"]) {
            await join("alice", name);
            await heard.take("alice", name, "pusher:cache_miss");
            await webhook(name, "cache_miss");
            await sdk.trigger(name, "first", 1);
            await sdk.trigger(name, "last", DATA);
            await hears("alice", name, "last", DATA);
            await join("bob", name);
            await hears("bob", name, "last", DATA);
            assert.deepEqual(heard.left("bob", name, "pusher:cache_miss"), []);
        }
        await join("bob", "private-encrypted-cache-x");
        await hears("bob", "private-encrypted-cache-x", "sealed", DATA);
    },

    "presence: a member is a user, not a tab": async () => {
        assert.deepEqual((await join("bob", "presence-room")).data, ["bob"]);
        assert.deepEqual((await join("alice", "presence-room")).data, ["alice", "bob"]);
        await hears("bob", "presence-room", "pusher:member_added", { id: "alice", info: { name: "alice" } });
        await connect("alice's other tab", "alice");
        const { channel } = await join("alice's other tab", "presence-room");
        assert.equal(channel.members.count, 2);
        assert.deepEqual(channel.members.me, { id: "alice", info: { name: "alice" } });
        assert.deepEqual(channel.members.get("bob"), { id: "bob", info: { name: "bob" } });
        await webhook("presence-room", "member_added", { user_id: "bob" });
        await webhook("presence-room", "member_added", { user_id: "alice" });
    },

    "presence: an id that is a number": async () => {
        await connect("7");
        assert.deepEqual((await join("7", "presence-room")).data, ["7", "alice", "bob"]);
        await hears("bob", "presence-room", "pusher:member_added", { id: "7", info: { name: "7" } });
        clients["7"].disconnect();
        await hears("bob", "presence-room", "pusher:member_removed", { id: "7", info: { name: "7" } });
    },

    "client events say which member they come from": async () => {
        listenForClientEvents("bob", clients.bob.channel("presence-room"), "client-typing");
        clients.alice.channel("presence-room").trigger("client-typing", DATA);
        await hears("bob", "presence-room", "client-typing", DATA);
        await hears("bob", "presence-room", "client-typing of", "alice");
        await hears("alice's other tab", "presence-room", "client-typing", DATA);
        const { data } = await heard.take("webhook", "presence-room", "client_event");
        const { socket_id } = clients.alice.connection;
        assert.deepEqual({ ...data, data: JSON.parse(data.data) }, {
            name: "client_event", channel: "presence-room", event: "client-typing", data: DATA, socket_id, user_id: "alice",
        });
    },

    "client events on a private channel, and not to their sender": async () => {
        await join("bob", "private-x");
        clients.bob.channel("private-x").trigger("client-hello", { from: "bob" });
        await hears("alice", "private-x", "client-hello", { from: "bob" });
        await sdk.trigger("private-x", "later", {});
        await hears("bob", "private-x", "later", {});
        assert.deepEqual(heard.left("bob", "private-x", "client-hello"), []);
        assert.deepEqual(heard.left("alice", "presence-room", "client-typing"), []);
    },

    "client events that are refused": async () => {
        clients.alice.channel("news").trigger("client-hello", {});
        const { data } = await heard.take("alice", null, "error");
        assert.deepEqual([data.data.code, data.data.message], [
            null, "Client events are only for private and presence channels, which news is not",
        ]);
        await connect("flood", "alice");
        const { channel } = await join("flood", "private-flood");
        // more than two seconds' worth
        for (let number = 0; number < 25; number += 1) channel.trigger("client-number", number);
        assert.equal((await heard.take("flood", null, "error")).data.data.code, 4301);
        assert.equal(clients.flood.connection.state, "connected");
        clients.flood.disconnect();
    },

    "presence: the last tab that leaves takes its member along": async () => {
        clients["alice's other tab"].unsubscribe("presence-room");
        clients["alice's other tab"].disconnect();
        clients.alice.channel("presence-room").trigger("client-typing", "still here");
        await hears("bob", "presence-room", "client-typing", "still here");
        clients.alice.unsubscribe("presence-room");
        await hears("bob", "presence-room", "pusher:member_removed", { id: "alice", info: { name: "alice" } });
        await sdk.trigger("presence-room", "marker", {});
        await hears("bob", "presence-room", "marker", {});
        assert.deepEqual(heard.left("bob", "presence-room", "pusher:member_removed"), []);
        await webhook("presence-room", "member_added", { user_id: "7" });
        const gone = [await heard.take("webhook", "presence-room", "member_removed")];
        gone.push(await heard.take("webhook", "presence-room", "member_removed"));
        assert.deepEqual(gone.map(({ data }) => data.user_id).sort(), ["7", "alice"]);
    },

    "signs in, and hears what is sent to the user, in every tab": async () => {
        await connect("alice's other tab", "alice");
        for (const who of ["alice", "alice's other tab"]) {
            clients[who].signin();
            await clients[who].user.signinDonePromise;
            assert.deepEqual(clients[who].user.user_data.id, "alice");
            await hears(who, "the watchlist", "offline", ["bob", "carol"]);
        }
        await sdk.sendToUser("alice", "letter", DATA);
        await hears("alice", "the user", "letter", DATA);
        await hears("alice's other tab", "the user", "letter", DATA);
    },

    "presence: whoever is signed in is a member by that": async () => {
        const { channel, data } = await join("alice", "presence-signed-in");
        assert.deepEqual(data, ["alice"]);
        assert.deepEqual(channel.members.me, { id: "alice", info: { name: "alice" } });
        clients.alice.unsubscribe("presence-signed-in");
    },

    "watchlist": async () => {
        clients.bob.signin();
        await hears("alice", "the watchlist", "online", ["bob"]);
        await connect("bob's other tab", "bob");
        clients["bob's other tab"].signin();
        await clients["bob's other tab"].user.signinDonePromise;
        clients["bob's other tab"].disconnect();
        await connect("carol");
        clients.carol.signin();
        await hears("alice", "the watchlist", "online", ["carol"]);
        clients.carol.disconnect();
        await hears("alice", "the watchlist", "offline", ["carol"]);
        // bob's second tab came and went without a word
        assert.deepEqual(heard.left("alice", "the watchlist", "online"), []);
        assert.deepEqual(heard.left("alice", "the watchlist", "offline"), []);
    },

    "a forged sign-in": async () => {
        await connect("mallory");
        clients.mallory.signin();
        assert.equal((await heard.take("mallory", null, "error")).data.data.code, 4009);
        clients.mallory.disconnect();
    },

    "batch, and counts with it": async () => {
        const batch = [
            { channel: "news", name: "one", data: { number: 1 }, info: "subscription_count" },
            { channel: "presence-room", name: "two", data: "text", info: "user_count,subscription_count" },
            { channel: "private-encrypted-x", name: "three", data: DATA },
        ];
        assert.deepEqual(await answer(sdk.triggerBatch(batch)), {
            batch: [{ subscription_count: 1 }, { user_count: 1, subscription_count: 1 }, {}],
        });
        await hears("alice", "news", "one", { number: 1 });
        await hears("bob", "presence-room", "two", "text");
        await hears("alice", "private-encrypted-x", "three", DATA);
        const info = "user_count,subscription_count";
        assert.deepEqual(await answer(sdk.trigger(["news", "presence-room"], "four", {}, { info })), {
            channels: { "news": { subscription_count: 1 }, "presence-room": { user_count: 1, subscription_count: 1 } },
        });
    },

    "socket_id: everybody but the sender's own connection": async () => {
        const { socket_id } = clients.alice.connection;
        await sdk.trigger("private-x", "not for alice", {}, { socket_id });
        await sdk.triggerBatch([{ channel: "private-x", name: "nor this", data: {}, socket_id }]);
        await sdk.trigger("private-x", "for all", {});
        for (const event of ["not for alice", "nor this", "for all"]) await hears("bob", "private-x", event, {});
        await hears("alice", "private-x", "for all", {});
        for (const event of ["not for alice", "nor this"]) assert.deepEqual(heard.left("alice", "private-x", event), []);
    },

    "queries": async () => {
        const { channels } = await get("/channels");
        for (const name of ["news", "private-x", "presence-room", "cache-x"]) assert.deepEqual(channels[name], {}, name);
        assert.deepEqual(await get("/channels", { filter_by_prefix: "presence-", info: "user_count" }), {
            channels: { "presence-room": { user_count: 1 }, "presence-cache-x": { user_count: 2 } },
        });
        const info = "user_count,subscription_count,cache";
        const { cache, ...counts } = await get("/channels/presence-cache-x", { info });
        assert.deepEqual(counts, { occupied: true, user_count: 2, subscription_count: 2 });
        assert.deepEqual(JSON.parse(cache.data), DATA);
        assert.equal((await get("/channels/nobody-here")).occupied, false);
        const { users } = await get("/channels/presence-cache-x/users");
        assert.deepEqual(users.map(({ id }) => id).sort(), ["alice", "bob"]);
    },

    "requests that are refused": async () => {
        const status = (expected) => ({ name: "PusherRequestError", status: expected });
        await assert.rejects(makeSdk({ secret: "not the secret" }).trigger("news", "no", {}), status(401));
        await assert.rejects(makeSdk({ key: "no-such-key" }).trigger("news", "no", {}), status(401));
        await assert.rejects(makeSdk({ appId: "0" }).trigger("news", "no", {}), status(404));
        await assert.rejects(sdk.trigger("news", "no", "x".repeat(10_241)), status(413));
        const batch = Array.from({ length: 11 }, () => ({ channel: "news", name: "no", data: "" }));
        await assert.rejects(sdk.triggerBatch(batch), status(400));
        await assert.rejects(sdk.get({ path: "/channels/news/users" }), status(400));
        await sdk.trigger("news", "yes", "x".repeat(10_240));
        await hears("alice", "news", "yes", "x".repeat(10_240));
        assert.deepEqual(heard.left("alice", "news", "no"), []);
    },

    "a key that nobody has": async () => {
        makeClient("nobody", "nobody", { key: "no-such-key" });
        const { data } = await heard.take("nobody", null, "error");
        assert.equal((data.error ?? data).data.code, 4001);
        await heard.take("nobody", null, "disconnected");
    },

    "an app whose connections must be authorized": async () => {
        const key = "for-the-authorized";
        const elsewhere = makeSdk({ key });
        const customHandler = ({ socketId, channelName }, done) => {
            done(null, elsewhere.authorizeChannel(socketId, channelName));
        };
        await connect("member", "member", { key, channelAuthorization: { customHandler } });
        await join("member", "private-x");
        await connect("stranger", "stranger", { key });
        await join("stranger", "news");
        const { data } = await heard.take("stranger", null, "error");
        assert.equal((data.error ?? data).data.code, 4009);
        await heard.take("stranger", null, "disconnected");
        assert.equal(clients.member.connection.state, "connected");
    },

    "asks after a silence whether the server is there": async () => {
        clients.alice.connection.bind("message", ({ event }) => heard.put("alice", null, event));
        await heard.take("alice", null, "pusher:pong");
        await heard.take("alice", null, "pusher:pong");
        assert.equal(clients.alice.connection.state, "connected");
    },

    "terminated connections, of one user only": async () => {
        assert.deepEqual(await answer(sdk.terminateUserConnections("bob")), {});
        const { data } = await heard.take("bob", null, "error");
        assert.equal((data.error ?? data).data.code, 4009);
        await heard.take("bob", null, "disconnected");
        await hears("alice", "the watchlist", "offline", ["bob"]);
        clients.bob.connect();
        await heard.take("bob", null, "connected");
        await hears("alice", "the watchlist", "online", ["bob"]);
        assert.deepEqual((await heard.take("bob", "presence-room", SUCCEEDED)).data, ["bob"]);
    },

    "comes back after the server was killed": async () => {
        const socket = clients.alice.connection.socket_id;
        heard.forget("alice");
        heard.forget("bob");
        console.log("kill the server");
        for (const who of ["alice", "bob"]) await heard.take(who, null, "connecting");
        for (const who of ["alice", "bob"]) await heard.take(who, null, "connected");
        assert.notEqual(clients.alice.connection.socket_id, socket);
        for (const name of ["news", "private-x", "private-encrypted-x", "presence-cache-x"]) {
            await heard.take("alice", name, SUCCEEDED);
            await sdk.trigger(name, "back", DATA);
            await hears("alice", name, "back", DATA);
        }
        await heard.take("bob", "presence-room", SUCCEEDED);
        await clients.alice.user.signinDonePromise;
        await sdk.sendToUser("alice", "letter", "after the restart");
        await hears("alice", "the user", "letter", "after the restart");
    },

    "leaves": async () => {
        heard.forget("webhook");
        clients.alice.unsubscribe("sport");
        for (const client of Object.values(clients)) client.disconnect();
        for (const name of ["sport", "news", "presence-room"]) await webhook(name, "channel_vacated");
        assert.deepEqual((await get("/channels")).channels, {});
    },
});
end(came);
