// pusher-js, built for browsers, in headless Chromium. The page (page.mjs) plays the steps; this program is the site that
// it comes from, and does for it what a page cannot.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { app, backendUrl, end, host, packages, port, sdk, startBackend } from "./backend.mjs";
import { Heard } from "./heard.mjs";

const FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-breakpad", "--disable-dev-shm-usage",
];

const script = (path) => () => ({ type: "text/javascript", text: readFileSync(path, "utf8") });
const here = (name) => new URL(name, import.meta.url);
const config = JSON.stringify({ host, port: Number(port), key: app.key });
const page = (module) => () => ({
    type: "text/html",
    text: `<!doctype html><meta charset="utf-8"><title>Hydrant</title><script src="/pusher.js"></script>
        <script>const config = ${config};</script><script type="module" src="/${module}"></script>`,
});

const profile = mkdtempSync(join(tmpdir(), "chromium-"));
let chromium;

function finish(cameTrue) {
    if (chromium) {
        chromium.removeAllListeners();
        // with all its children, which are of its group
        chromium.once("exit", () => {
            rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
            end(cameTrue);
        });
        process.kill(-chromium.pid, "SIGKILL");
    } else end(cameTrue);
}

await startBackend(new Heard(), {
    "GET /": page("page.mjs"),
    "GET /tab": page("tab.mjs"),
    "GET /page.mjs": script(here("page.mjs")),
    "GET /tab.mjs": script(here("tab.mjs")),
    "GET /heard.mjs": script(here("heard.mjs")),
    "GET /pusher.js": script(packages.resolve("pusher-js/dist/web/pusher-with-encryption.min.js")),
    "GET /favicon.ico": () => ({ type: "text/plain", text: "" }),
    "POST /trigger": async (body) => {
        const { channel, event, data } = JSON.parse(body);
        await sdk.trigger(channel, event, data);
        return {};
    },
    "POST /send": async (body) => {
        const { user, event, data } = JSON.parse(body);
        await sdk.sendToUser(user, event, data);
        return {};
    },
    // a query of the HTTP API, signed, for the page to make
    "POST /sign": (path) => {
        const signed = sdk.createSignedQueryString({ method: "GET", path, params: {} });
        return { url: `http://${host}:${port}${path}?${signed}` };
    },
    "POST /say": (line) => {
        console.log(line);
        return {};
    },
    "POST /end": (cameTrue) => {
        setImmediate(() => finish(cameTrue === "true"));
        return {};
    },
});

// The two further pipes are its debugger's: it ends by itself when this end of them is closed, whatever ends this program.
const stdio = ["ignore", "ignore", "pipe", "pipe", "pipe"];
const words = [...FLAGS, "--remote-debugging-pipe", `--user-data-dir=${profile}`, `${backendUrl}/`];
chromium = spawn("chromium", words, { stdio, detached: true });
let complaints = "";
chromium.stderr.setEncoding("utf8").on("data", (text) => (complaints = (complaints + text).slice(-4000)));
chromium.once("error", (error) => {
    console.log(`FAILED  chromium: ${error}`);
    end(false);
});
chromium.once("exit", (code, signal) => {
    console.log(`FAILED  chromium ended (${code ?? signal}): ${complaints}`);
    end(false);
});
