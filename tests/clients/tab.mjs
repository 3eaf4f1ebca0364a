// A tab beside the page: subscribes, tells the page what it hears, and answers a client event with its like.
import { SUCCEEDED, clientOptions } from "/heard.mjs";

const given = new URLSearchParams(location.search);
const client = new Pusher(config.key, clientOptions(config.host, config.port, "", given.get("user")));
const channel = client.subscribe(given.get("channel"));
channel.bind_global((event, data) => {
    const members = event === SUCCEEDED && Object.keys(channel.members.members).sort();
    parent.postMessage({ channel: channel.name, event, data: members || data });
    if (event.startsWith("client-")) channel.trigger(event, data);
});
