// laravel-echo over pusher-js. Events are named and published as Laravel does: by class, or by a name of their own that
// listeners begin with a dot.
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

import { app, backendUrl, end, host, packages, port, sdk, startBackend } from "./backend.mjs";
import { DATA, FAILED, Heard, SUCCEEDED, play } from "./heard.mjs";

// its build for require() is none: its package says that all of its files are modules
const { default: Echo } = await import(pathToFileURL(`${process.env.NODE_MODULES}/laravel-echo/dist/echo.js`));
const Pusher = packages("pusher-js");
const heard = new Heard();
const echos = {};

// As Laravel's own resources/js/bootstrap.js does, but for the user: here no session says who that is.
function makeEcho(user, broadcaster) {
    const echo = new Echo({
        broadcaster,
        Pusher,
        key: app.key,
        wsHost: host,
        wsPort: Number(port),
        forceTLS: false,
        enabledTransports: ["ws", "wss"],
        cluster: "",
        authEndpoint: `${backendUrl}/auth`,
        auth: { headers: {}, params: { user } },
        bearerToken: "token of the user",
    });
    echo.connector.onConnectionChange((status) => heard.put(user, null, status));
    echos[user] = echo;
}

// Hears under a name what a channel of Echo's hands to listeners.
const put = (who, channel, event) => (data) => heard.put(who, channel, event, data);

async function hears(who, channel, event, data) {
    assert.deepEqual((await heard.take(who, channel, event)).data, data);
}

const came = await play(console.log, {
    "connects, as a client of Reverb's and of Pusher's": async () => {
        await startBackend(heard);
        makeEcho("alice", "reverb");
        makeEcho("bob", "pusher");
        for (const user of ["alice", "bob"]) {
            await heard.take(user, null, "connected");
            assert.equal(echos[user].connectionStatus(), "connected");
            assert.match(echos[user].socketId(), /^\d+\.\d+$/);
        }
    },

    "channel: an event by its class, by a name of its own, and all": async () => {
        const channel = echos.alice.channel("orders");
        channel.listen("OrderShipped", put("alice", "orders", "shipped"));
        channel.listen("\\Other\\Shop\\OrderShipped", put("alice", "orders", "shipped elsewhere"));
        channel.listen(".order.packed", put("alice", "orders", "packed"));
        channel.listenToAll((event, data) => heard.put("alice", "orders", `all: ${event}`, data));
        channel.subscribed(put("alice", "orders", SUCCEEDED));
        await heard.take("alice", "orders", SUCCEEDED);
        await sdk.trigger("orders", "App\\Events\\OrderShipped", DATA);
        await hears("alice", "orders", "shipped", DATA);
        await hears("alice", "orders", "all: OrderShipped", DATA);
        await sdk.trigger("orders", "Other\\Shop\\OrderShipped", { order: 1 });
        await hears("alice", "orders", "shipped elsewhere", { order: 1 });
        await sdk.trigger("orders", "order.packed", { order: 2 });
        await hears("alice", "orders", "packed", { order: 2 });
        await hears("alice", "orders", "all: .order.packed", { order: 2 });
        assert.deepEqual(heard.left("alice", "orders", "shipped"), []);
    },

    "private: a notification, and whispers": async () => {
        const name = "App.Models.User.1";
        for (const who of ["alice", "bob"]) {
            const channel = echos[who].private(name);
            channel.notification(put(who, name, "notification"));
            channel.listenForWhisper("typing", put(who, name, "typing"));
            channel.subscribed(put(who, name, SUCCEEDED));
            await heard.take(who, name, SUCCEEDED);
        }
        const notification = { id: "1", type: "App\\Notifications\\InvoicePaid", invoice: 7 };
        const event = "Illuminate\\Notifications\\Events\\BroadcastNotificationCreated";
        await sdk.trigger(`private-${name}`, event, notification);
        for (const who of ["alice", "bob"]) await hears(who, name, "notification", notification);
        echos.alice.private(name).whisper("typing", { name: "alice" });
        await hears("bob", name, "typing", { name: "alice" });
        assert.deepEqual(heard.left("alice", name, "typing"), []);
    },

    "private: refused": async () => {
        for (const [name, status] of [["not-allowed", 403], ["forged", 401]]) {
            echos.alice.private(name).error(put("alice", name, FAILED));
            assert.equal((await heard.take("alice", name, FAILED)).data.status, status);
        }
    },

    "encrypted": async () => {
        const channel = echos.alice.encryptedPrivate("safe");
        channel.listen("Opened", put("alice", "safe", "opened"));
        channel.subscribed(put("alice", "safe", SUCCEEDED));
        await heard.take("alice", "safe", SUCCEEDED);
        await sdk.trigger("private-encrypted-safe", "App\\Events\\Opened", DATA);
        await hears("alice", "safe", "opened", DATA);
    },

    "join: here, joining, leaving, whispers, events": async () => {
        for (const who of ["alice", "bob"]) {
            const room = echos[who].join("room.1");
            room.here((users) => heard.put(who, "room.1", "here", users.map(({ name }) => name).sort()));
            room.joining(put(who, "room.1", "joining"));
            room.leaving(put(who, "room.1", "leaving"));
            room.listen("Said", put(who, "room.1", "said"));
            room.listenForWhisper("typing", put(who, "room.1", "typing"));
            await hears(who, "room.1", "here", who === "alice" ? ["alice"] : ["alice", "bob"]);
        }
        await hears("alice", "room.1", "joining", { name: "bob" });
        echos.bob.join("room.1").whisper("typing", DATA);
        await hears("alice", "room.1", "typing", DATA);
        await sdk.trigger("presence-room.1", "App\\Events\\Said", { text: "hello" });
        for (const who of ["alice", "bob"]) await hears(who, "room.1", "said", { text: "hello" });
    },

    "broadcast()->toOthers()": async () => {
        const toOthers = { socket_id: echos.alice.socketId() };
        await sdk.trigger("presence-room.1", "App\\Events\\Said", { text: "to others" }, toOthers);
        await sdk.trigger("presence-room.1", "App\\Events\\Said", { text: "to all" });
        await hears("alice", "room.1", "said", { text: "to all" });
        for (const text of ["to others", "to all"]) await hears("bob", "room.1", "said", { text });
    },

    "leave": async () => {
        echos.bob.leave("room.1");
        await hears("alice", "room.1", "leaving", { name: "bob" });
        echos.bob.leave("App.Models.User.1");
        echos.bob.disconnect();
        await heard.take("bob", null, "disconnected");
    },

    "comes back after the server was killed": async () => {
        console.log("kill the server");
        await heard.take("alice", null, "connecting");
        await heard.take("alice", null, "connected");
        await hears("alice", "room.1", "here", ["alice"]);
        await heard.take("alice", "orders", SUCCEEDED);
        await sdk.trigger("orders", "App\\Events\\OrderShipped", DATA);
        await hears("alice", "orders", "shipped", DATA);
        await heard.take("alice", "safe", SUCCEEDED);
        await sdk.trigger("private-encrypted-safe", "App\\Events\\Opened", DATA);
        await hears("alice", "safe", "opened", DATA);
    },
});
end(came);
