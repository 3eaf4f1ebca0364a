// The steps that a page plays, with pusher-js from a <script>. `config` comes with the page.
import { DATA, Heard, SUCCEEDED, clientOptions, listen, play, subscribe } from "/heard.mjs";

const heard = new Heard();
const clients = {};

const post = async (path, body) => (await fetch(path, { method: "POST", body })).json();
const say = (line) => post("/say", line);
const trigger = (channel, event, data) => post("/trigger", JSON.stringify({ channel, event, data }));

function same(given, expected) {
    // values that came out of JSON have their members in the order in which they were written
    const [text, expectedText] = [JSON.stringify(given), JSON.stringify(expected)];
    if (text !== expectedText) throw new Error(`${text} is not ${expectedText}`);
}

const options = (user) => clientOptions(config.host, config.port, "", user);

async function connect(user) {
    clients[user] = new Pusher(config.key, options(user));
    listen(heard, user, clients[user]);
    await heard.take(user, null, "connected");
}

async function join(who, name) {
    const { channel, event, data } = await subscribe(heard, who, clients[who], name);
    if (event !== SUCCEEDED) throw new Error(`${name}: ${JSON.stringify(data)}`);
    return channel;
}

async function hears(who, channel, event, data) {
    same((await heard.take(who, channel, event)).data, data);
}

// Another document, which goes as a tab does.
function openTab(user, channel) {
    const tab = document.createElement("iframe");
    tab.src = `/tab?user=${user}&channel=${channel}`;
    document.body.append(tab);
    return tab;
}

window.addEventListener("message", ({ data }) => heard.put("tab", data.channel, data.event, data.data));

const steps = {
    "connects": () => connect("alice"),

    "public, private and encrypted channels": async () => {
        for (const name of ["news", "private-x", "private-encrypted-x"]) {
            await join("alice", name);
            await trigger(name, "greeting", DATA);
            await hears("alice", name, "greeting", DATA);
        }
    },

    "a signature that is none": async () => {
        const { data } = await subscribe(heard, "alice", clients.alice, "private-forged");
        same([data.type, data.status], ["AuthError", 401]);
    },

    "presence: a tab opens, says something, and is closed": async () => {
        const room = await join("alice", "presence-room");
        const tab = openTab("bob", "presence-room");
        await hears("alice", "presence-room", "pusher:member_added", { id: "bob", info: { name: "bob" } });
        same((await heard.take("tab", "presence-room", SUCCEEDED)).data, ["alice", "bob"]);
        room.bind("client-hello", (data, { user_id }) => heard.put("alice", "presence-room", "hello of", user_id));
        room.trigger("client-hello", DATA);
        // the tab answers
        await hears("alice", "presence-room", "client-hello", DATA);
        await hears("alice", "presence-room", "hello of", "bob");
        tab.remove();
        await hears("alice", "presence-room", "pusher:member_removed", { id: "bob", info: { name: "bob" } });
        same(room.members.count, 1);
    },

    "signs in": async () => {
        clients.alice.signin();
        await clients.alice.user.signinDonePromise;
        await post("/send", JSON.stringify({ user: "alice", event: "letter", data: DATA }));
        await hears("alice", "the user", "letter", DATA);
    },

    "asks the HTTP API of another origin": async () => {
        const { url } = await post("/sign", "/apps/4711/channels");
        const { channels } = await (await fetch(url)).json();
        same(Object.keys(channels).sort(), ["news", "presence-room", "private-encrypted-x", "private-x"]);
        const response = await fetch(url.replace("channels", "no-such-path"));
        same(response.status, 404);
    },

    "an app for pages of another site": async () => {
        clients.guest = new Pusher("for-another-site", options("guest"));
        listen(heard, "guest", clients.guest);
        const { data } = await heard.take("guest", null, "error");
        same((data.error ?? data).data.code, 4009);
        await heard.take("guest", null, "disconnected");
    },

    "comes back after the server was stopped": async () => {
        heard.forget("alice");
        await say("stop the server");
        await heard.take("alice", null, "connecting");
        await heard.take("alice", null, "connected");
        for (const name of ["news", "private-x", "private-encrypted-x", "presence-room"]) {
            await heard.take("alice", name, SUCCEEDED);
            await trigger(name, "back", DATA);
            await hears("alice", name, "back", DATA);
        }
        await clients.alice.user.signinDonePromise;
        await post("/send", JSON.stringify({ user: "alice", event: "letter", data: "after the restart" }));
        await hears("alice", "the user", "letter", "after the restart");
    },
};

await post("/end", String(await play(say, steps)));
