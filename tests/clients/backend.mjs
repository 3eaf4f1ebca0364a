// What programs in Node have in common: the packages, the app, and its own backend, which says who its users are and is
// told what happens (webhooks).
//
// Environment: NODE_MODULES, where the packages are. Arguments: HOST:PORT of the server, HOST:PORT for the backend, and
// the app's id, key and secret. On standard output, "kill the server" and "stop the server" ask that it be started again
// after such an end.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_MODULES + "/");
export const packages = require;
const Sdk = require("pusher");

const [server, backend, id, key, secret] = process.argv.slice(2);
export const [host, port] = server.split(":");
export const app = { id, key, secret };
const [backendHost, backendPort] = backend.split(":");
export const backendUrl = `http://${backend}`;

// The app's server SDK; `more` makes it another one.
export const makeSdk = (more = {}) =>
    new Sdk({ appId: id, key, secret, host, port, useTLS: false, encryptionMasterKeyBase64: MASTER_KEY, ...more });
const MASTER_KEY = Buffer.alloc(32, "master key").toString("base64");
export const sdk = makeSdk();
const forger = makeSdk({ secret: "not the secret" });

// Who wants to know of whom whether they are there.
const WATCHLISTS = { alice: ["bob", "carol"] };

function authorize({ socket_id, channel_name, user }) {
    if (channel_name.includes("not-allowed")) return null;
    const signer = channel_name.includes("forged") ? forger : sdk;
    const user_id = /^\d+$/.test(user) ? Number(user) : user;
    // whoever is signed in needs no other identity
    const isNamed = channel_name.startsWith("presence-") && !channel_name.includes("signed-in");
    const member = isNamed ? { user_id, user_info: { name: user } } : undefined;
    return signer.authorizeChannel(socket_id, channel_name, member);
}

function authenticate({ socket_id, user }) {
    const signer = user === "mallory" ? forger : sdk;
    return signer.authenticateUser(socket_id, { id: user, user_info: { name: user }, watchlist: WATCHLISTS[user] });
}

// Starts it. What webhooks tell is heard by "webhook"; `pages` are answers to other paths, by method and path.
export async function startBackend(heard, pages = {}) {
    const answers = {
        "POST /auth": (form) => authorize(Object.fromEntries(new URLSearchParams(form))),
        "POST /user-auth": (form) => authenticate(Object.fromEntries(new URLSearchParams(form))),
        "POST /hook": (rawBody, { headers }) => {
            const webhook = sdk.webhook({ headers, rawBody });
            const isForged = sdk.webhook({ headers, rawBody: rawBody.replace("{", "{ ") }).isValid();
            if (!webhook.isValid() || isForged || Math.abs(Date.now() - webhook.getTime()) > 60_000) return null;
            for (const event of webhook.getEvents()) heard.put("webhook", event.channel, event.name, event);
            return {};
        },
        ...pages,
    };
    const listener = createServer(async (request, response) => {
        let body = "";
        for await (const part of request.setEncoding("utf8")) body += part;
        const answer = answers[`${request.method} ${request.url.split("?")[0]}`];
        const said = answer ? await answer(body, request) : null;
        if (said === null) response.writeHead(answer ? 403 : 404).end();
        else if (said.type) response.writeHead(200, { "Content-Type": said.type }).end(said.text);
        else response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(said));
    });
    await new Promise((resolve) => listener.listen(Number(backendPort), backendHost, resolve));
}

export function end(cameTrue) {
    process.exit(cameTrue ? 0 : 1);
}
