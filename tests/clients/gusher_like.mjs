// A client that behaves as gusher's browser library does: it opens `{url}?token=`, subscribes to everything in groups of
// ten, finds channels by `channel` and by the array `data.channel`, and three seconds after any end opens again with the
// token it has. Runs a conversation with a server and exits with 0 if all of it came true.
//
// Arguments: the socket's URL, gusher's client prefix, its master prefix, the app key, a user's JWT for channels room-*.
// After "restart me" on standard output it expects the server to be restarted.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createRequire } from "node:module";

const WebSocket = createRequire(process.env.NODE_MODULES + "/")("ws"); // with the interface of a browser's
const [socketUrl, clientUrl, masterUrl, app, jwt] = process.argv.slice(2);
const RECONNECT_MS = 3000;
const PATIENCE_MS = 30_000;

class Client {
    constructor(url, token) {
        Object.assign(this, { url, token, channels: new Map(), heard: [], waiting: [], opened: 0 });
    }

    subscribe(name) {
        this.channels.set(name, { subscribed: false, events: [] });
    }

    connect() {
        this.socket = new WebSocket(`${this.url}?token=${this.token}`);
        this.socket.onopen = () => {
            this.opened += 1;
            const names = [...this.channels.keys()];
            for (let at = 0; at < names.length; at += 10) {
                this.send("gusher.multi_subscribe", { multi_channel: names.slice(at, at + 10) });
            }
        };
        this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
        this.socket.onerror = () => {};
        this.socket.onclose = ({ code }) => {
            this.closeCode = code;
            for (const channel of this.channels.values()) channel.subscribed = false;
            if (!this.leaving) setTimeout(() => this.connect(), RECONNECT_MS);
        };
    }

    send(event, data) {
        this.socket.send(JSON.stringify({ event, data }));
    }

    take(message) {
        const to = message?.channel === undefined ? [] : [message.channel];
        if (Array.isArray(message?.data?.channel)) to.push(...message.data.channel);
        for (const name of to) {
            const channel = this.channels.get(name);
            if (!channel) continue;
            if (message.event === "gusher.multi_subscribe_succeeded") channel.subscribed = true;
            else channel.events.push(message);
        }
        this.heard.push(message);
        this.waiting = this.waiting.filter((check) => !check());
    }

    // Resolves once the condition holds, looked at after each message.
    until(what, condition) {
        return new Promise((resolve, reject) => {
            if (condition()) return resolve();
            const last = () => JSON.stringify(this.heard.slice(-5));
            const late = setTimeout(() => reject(new Error(`not in time: ${what}; last heard ${last()}`)), PATIENCE_MS);
            this.waiting.push(() => condition() && (clearTimeout(late), resolve(), true));
        });
    }

    allSubscribed() {
        return this.until("all channels are subscribed", () => [...this.channels.values()].every((one) => one.subscribed));
    }
}

async function post(url, fields) {
    const answer = await fetch(url, { method: "POST", body: new URLSearchParams(fields) });
    const text = await answer.text();
    assert.equal(answer.status, 200, `${url}: ${text}`);
    return JSON.parse(text);
}

const { token } = await post(`${clientUrl}auth`, { jwt });
const client = new Client(socketUrl, token);
const names = Array.from({ length: 25 }, (_, number) => `room-with-a-longer-name-${number}`);
names.forEach((name) => client.subscribe(name));

// Each channel gets its own event, and no other's.
let round = 0;
async function everyChannelHears() {
    await client.allSubscribed();
    round += 1;
    for (const channel of client.channels.values()) channel.events = [];
    for (const name of names) await post(`${masterUrl}push/${app}/${name}/greeting`, { data: JSON.stringify({ name, round }) });
    await client.until("each channel's event", () => [...client.channels.values()].every(({ events }) => events.length > 0));
    for (const [name, { events }] of client.channels) {
        assert.deepEqual(events, [{ channel: name, event: "greeting", data: { name, round } }]);
    }
}

client.connect();
await everyChannelHears();
assert.equal(client.heard.filter(({ event }) => event === "gusher.multi_subscribe_succeeded").length, 3);

// A push to the user is a bare value: no event, no channel.
await post(`${masterUrl}push/user/${app}/alice`, { data: "42" });
await client.until("a bare value", () => client.heard.includes(42));

// The server ends the connection: the client comes back by itself, with the token that it has.
client.send("gusher.subscribe", { channel: "x".repeat(600) });
await client.until("it has come back", () => client.opened === 2);
assert.equal(client.closeCode, 1009);
await everyChannelHears();

// So it does when the server goes away for a while.
console.log("restart me");
await client.until("it has come back", () => client.opened > 2);
await everyChannelHears();

client.leaving = true;
client.socket.close();
await once(client.socket, "close");
console.log("all came true");
process.exit(0);
