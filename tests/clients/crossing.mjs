// One set of channels for every protocol: pusher-js, websocat on a raw socket of Push1ST's and a plain WebSocket client on
// gusher's hear what is published through each of the three APIs, and what each other say.
//
// Further arguments: HOST:PORT of the trusted listener, a user's JWT for gusher, and where websocat is.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

import { app, backendUrl, end, host, packages, port, sdk, startBackend } from "./backend.mjs";
import { DATA, Heard, SUCCEEDED, clientOptions, listen, play, subscribe } from "./heard.mjs";

const PusherJs = packages("pusher-js");
const WebSocket = packages("ws");
const [trusted, jwt, websocat] = process.argv.slice(7);
const CHANNELS = ["news", "private-x"];
// beyond what JavaScript's numbers hold
const LARGE = '{"large":12345678901234567890,"precise":0.10000000000000000555}';

const heard = new Heard();
let pusher, raw, gusher;

async function post(url, body, type = "application/json") {
    const answer = await fetch(url, { method: "POST", body, headers: { "Content-Type": type } });
    const text = await answer.text();
    assert.equal(answer.status, 200, `${url}: ${text}`);
    return text;
}
const form = (url, fields) => post(url, new URLSearchParams(fields), "application/x-www-form-urlencoded");

function put(who, text) {
    const { channel = null, event, data, ...more } = JSON.parse(text);
    heard.put(who, channel, event, data, { text, more });
}

async function startRaw() {
    const given = { origin: "*", channel: "*", ttl: 600 };
    const token = await post(`http://${trusted}/apps/${app.id}/token/access/`, JSON.stringify(given));
    const url = `ws://${host}:${port}/ws/app/${app.key}/${CHANNELS.join("/")}?session=cat&token=${token}`;
    // ends with this program, which holds its input
    raw = spawn(websocat, ["-t", url], { stdio: ["pipe", "pipe", "inherit"] });
    createInterface({ input: raw.stdout }).on("line", (line) => put("raw", line));
    raw.once("exit", (code) => heard.put("raw", null, "ended", code));
}

async function startGusher() {
    const { token } = JSON.parse(await form(`http://${host}:${port}/gcs/auth`, { jwt }));
    gusher = new WebSocket(`ws://${host}:${port}/gcs/ws/${app.key}?token=${token}`);
    gusher.on("message", (text) => put("gusher", String(text)));
    await new Promise((resolve) => gusher.once("open", resolve));
    gusher.send(JSON.stringify({ event: "gusher.multi_subscribe", data: { multi_channel: CHANNELS } }));
    await heard.take("gusher", null, "gusher.multi_subscribe_succeeded");
}

const publishers = {
    pusher: (channel, event, json) => sdk.trigger(channel, event, json),
    push1st: (channel, event, json) =>
        post(`http://${trusted}/apps/${app.id}/events`, `{"name":"${event}","channel":"${channel}","data":${json}}`),
    gusher: (channel, event, json) => form(`http://${trusted}/api/push/${app.key}/${channel}/${event}`, { data: json }),
};

const came = await play(console.log, {
    "pusher-js": async () => {
        await startBackend(heard);
        pusher = new PusherJs(app.key, clientOptions(host, port, backendUrl, "alice"));
        listen(heard, "pusher", pusher);
        await heard.take("pusher", null, "connected");
        for (const name of CHANNELS) assert.equal((await subscribe(heard, "pusher", pusher, name)).event, SUCCEEDED);
    },

    "websocat on a raw socket": async () => {
        await startRaw();
        // it has subscribed once both are counted
        for (const name of CHANNELS) {
            while ((await heard.take("pusher", name, "pusher:subscription_count")).data.subscription_count < 2);
        }
    },

    "gusher": startGusher,

    "what is published through any API is heard by all": async () => {
        for (const [api, publish] of Object.entries(publishers)) {
            for (const channel of CHANNELS) {
                await publish(channel, `by-${api}`, JSON.stringify(DATA));
                assert.deepEqual((await heard.take("pusher", channel, `by-${api}`)).data, DATA);
                assert.deepEqual((await heard.take("gusher", channel, `by-${api}`)).data, DATA);
                const { data, more } = await heard.take("raw", channel, `by-${api}`);
                // a Pusher publisher's data is a text, and a raw socket hears it as one
                assert.deepEqual(api === "pusher" ? JSON.parse(data) : data, DATA);
                assert.deepEqual(["#msg-from", "#msg-id", "#msg-time"].map((name) => name in more), [true, true, true]);
            }
        }
    },

    "numbers keep every digit": async () => {
        for (const [api, publish] of Object.entries(publishers)) {
            await publish("news", `large-${api}`, LARGE);
            assert.ok((await heard.take("gusher", "news", `large-${api}`)).text.includes(LARGE));
            const { text } = await heard.take("raw", "news", `large-${api}`);
            assert.ok(text.includes(api === "pusher" ? JSON.stringify(LARGE) : LARGE), text);
            await heard.take("pusher", "news", `large-${api}`);
        }
    },

    "what a raw socket says is heard by the others": async () => {
        for (const channel of CHANNELS) {
            raw.stdin.write(`${JSON.stringify({ event: "hello", channel, data: DATA })}\n`);
            assert.deepEqual((await heard.take("pusher", channel, "hello")).data, DATA);
            assert.deepEqual((await heard.take("gusher", channel, "hello")).data, DATA);
        }
    },

    "what pusher-js says is heard by the others": async () => {
        pusher.channel("private-x").trigger("client-hello", DATA);
        assert.deepEqual((await heard.take("raw", "private-x", "client-hello")).data, DATA);
        assert.deepEqual((await heard.take("gusher", "private-x", "client-hello")).data, DATA);
        assert.deepEqual(heard.left("raw", "private-x", "hello"), []);
    },

    "each API counts all of them": async () => {
        const { subscription_count } = await (
            await sdk.get({ path: "/channels/news", params: { info: "subscription_count" } })
        ).json();
        assert.equal(subscription_count, 3);
        const answer = JSON.parse(await publishers.push1st("news", "counted", "{}"));
        assert.deepEqual(answer.channels, { news: 3 });
        for (const who of ["pusher", "raw", "gusher"]) await heard.take(who, "news", "counted");
    },

    "a raw socket that leaves is not counted any more": async () => {
        raw.stdin.end();
        await heard.take("raw", null, "ended");
        while ((await heard.take("pusher", "news", "pusher:subscription_count")).data.subscription_count !== 2);
    },
});
end(came);
