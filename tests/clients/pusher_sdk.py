"""Pusher's server SDK for Python. Who listens speaks the protocol through the package `websockets`."""
import json
import threading

import pusher
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from heard import APP_ID, DATA, HOST, KEY, PORT, Heard, make_sdk, play, receive_webhooks, refused, same

sdk = make_sdk()
heard = Heard()
listeners = {}


class Listener:
    """Subscribes to whatever the SDK authorizes."""

    def __init__(self, who):
        self.who = who
        self.socket = connect(f"ws://{HOST}:{PORT}/app/{KEY}?protocol=7&client=test")
        self.id = json.loads(json.loads(self.socket.recv())["data"])["socket_id"]
        listeners[who] = self
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        try:
            for text in self.socket:
                message = json.loads(text)
                data = message.get("data")
                try:
                    data = json.loads(data) if isinstance(data, str) else data
                except ValueError:
                    pass  # a text that is no JSON
                heard.put(self.who, message.get("channel"), message["event"], data)
        except ConnectionClosed:
            pass
        heard.put(self.who, None, "closed", self.socket.close_code)

    def send(self, event, data, **more):
        self.socket.send(json.dumps({"event": event, "data": data, **more}))

    def join(self, channel):
        signed = {}
        if channel.startswith("presence-"):
            signed = sdk.authenticate(channel, self.id, {"user_id": self.who, "user_info": {"name": self.who}})
        elif channel.startswith("private-"):
            signed = sdk.authenticate(channel, self.id)
        self.send("pusher:subscribe", {"channel": channel, **signed})
        return heard.take(self.who, channel, "pusher_internal:subscription_succeeded")


def hears(who, channel, event, data):
    same(heard.take(who, channel, event), data)


def begins():
    "an id that is a number, and listeners"
    receive_webhooks(heard, sdk)
    assert sdk.channels_info() == {"channels": {}}
    for who in ["alice", "bob"]:
        Listener(who)


def authenticates():
    "authenticate: private and presence channels"
    for channel in ["news", "private-x"]:
        listeners["alice"].join(channel)
    listeners["alice"].join("presence-room")
    presence = listeners["bob"].join("presence-room")["presence"]
    same(presence["hash"], {"alice": {"name": "alice"}, "bob": {"name": "bob"}})
    hears("alice", "presence-room", "pusher_internal:member_added", {"user_id": "bob", "user_info": {"name": "bob"}})


def triggers():
    "trigger: one channel, many, all but one connection, as an object and as text"
    same(sdk.trigger("news", "object", DATA), {})
    hears("alice", "news", "object", DATA)
    sdk.trigger("news", "text", "plain")
    hears("alice", "news", "text", "plain")
    sdk.trigger(["private-x", "presence-room"], "both", [1, 2], listeners["bob"].id)
    for channel in ["private-x", "presence-room"]:
        hears("alice", channel, "both", [1, 2])
    sdk.trigger("presence-room", "for all", {})
    hears("bob", "presence-room", "for all", {})
    same(heard.count("bob", "presence-room", "both"), 0)


def triggers_encrypted():
    "trigger: an encrypted channel"
    sealing = make_sdk(encryption_master_key_base64="bWFzdGVyIGtleW1hc3RlciBrZXltYXN0ZXIga2V5bWE=")
    name = "private-encrypted-x"
    signed = sealing.authenticate(name, listeners["alice"].id)
    listeners["alice"].send("pusher:subscribe", {"channel": name, "auth": signed["auth"]})
    heard.take("alice", name, "pusher_internal:subscription_succeeded")
    sealing.trigger(name, "sealed", DATA)
    same(sorted(heard.take("alice", name, "sealed")), ["ciphertext", "nonce"])


def triggers_batch():
    "trigger_batch"
    batch = [
        {"channel": "news", "name": "one", "data": DATA},
        {"channel": "presence-room", "name": "two", "data": "text", "socket_id": listeners["bob"].id},
        {"channel": "presence-room", "name": "three", "data": {}},
    ]
    same(sdk.trigger_batch(batch), {})
    hears("alice", "news", "one", DATA)
    hears("alice", "presence-room", "two", "text")
    hears("bob", "presence-room", "three", {})
    same(heard.count("bob", "presence-room", "two"), 0)


def queries():
    "channels_info, channel_info, users_info"
    same(sorted(sdk.channels_info()["channels"]), ["news", "presence-room", "private-encrypted-x", "private-x"])
    counted = sdk.channels_info(prefix_filter="presence-", attributes=["user_count"])
    same(counted, {"channels": {"presence-room": {"user_count": 2}}})
    info = sdk.channel_info("presence-room", ["user_count", "subscription_count"])
    same(info, {"occupied": True, "user_count": 2, "subscription_count": 2})
    same(sdk.channel_info("nobody-here")["occupied"], False)
    same(sorted(user["id"] for user in sdk.users_info("presence-room")["users"]), ["alice", "bob"])
    refused(lambda: sdk.channels_info(attributes=["user_count"]), pusher.errors.PusherBadRequest)
    refused(lambda: sdk.users_info("news"), pusher.errors.PusherBadRequest)


def is_refused():
    "requests that are signed wrongly"
    refused(lambda: make_sdk(secret="not the secret").trigger("news", "no", {}), pusher.errors.PusherBadAuth)
    refused(lambda: make_sdk(key="no-such-key").trigger("news", "no", {}), pusher.errors.PusherBadAuth)
    refused(lambda: make_sdk(app_id="9" + APP_ID).trigger("news", "no", {}), pusher.errors.PusherBadStatus)
    make_sdk(secret="previous secret").trigger("news", "yes", {})
    hears("alice", "news", "yes", {})
    same(heard.count("alice", "news", "no"), 0)


def webhooks():
    "validate_webhook: every kind of event"
    listeners["alice"].send("client-hello", DATA, channel="presence-room")
    hears("bob", "presence-room", "client-hello", DATA)
    told = heard.take("webhook", "presence-room", "client_event")
    same((told["event"], told["socket_id"], told["user_id"]), ("client-hello", listeners["alice"].id, "alice"))
    same(json.loads(told["data"]), DATA)
    for channel in ["news", "private-x", "presence-room", "private-encrypted-x"]:
        hears("webhook", channel, "channel_occupied", {"name": "channel_occupied", "channel": channel})
    for user in ["alice", "bob"]:
        same(heard.take("webhook", "presence-room", "member_added")["user_id"], user)
    same(heard.take("webhook", "news", "subscription_count")["subscription_count"], 1)
    listeners["bob"].join("cache-x")
    hears("webhook", "cache-x", "cache_miss", {"name": "cache_miss", "channel": "cache-x"})
    listeners["bob"].socket.close()
    same(heard.take("webhook", "presence-room", "member_removed")["user_id"], "bob")
    hears("webhook", "cache-x", "channel_vacated", {"name": "channel_vacated", "channel": "cache-x"})


def terminates():
    "authenticate_user, terminate_user_connections"
    signed = sdk.authenticate_user(listeners["alice"].id, {"id": "alice"})
    listeners["alice"].send("pusher:signin", signed)
    user_data = heard.take("alice", None, "pusher:signin_success")["user_data"]
    same(json.loads(user_data), {"id": "alice"})
    sdk.trigger("#server-to-user-alice", "letter", DATA)
    hears("alice", "#server-to-user-alice", "letter", DATA)
    Listener("carol")
    same(sdk.terminate_user_connections("alice"), {})
    same(heard.take("alice", None, "closed"), 4009)
    listeners["carol"].join("news")
    sdk.trigger("news", "still here", {})
    hears("carol", "news", "still here", {})


play(
    begins, authenticates, triggers, triggers_encrypted, triggers_batch, queries, is_refused, webhooks, terminates,
)
