"""Pysher, a client for Python. It speaks protocol 6, and asks for a sign of life before it is greeted."""
import json

import pysher

from heard import DATA, HOST, KEY, PORT, SECRET, Heard, make_sdk, play, same

sdk = make_sdk()
heard = Heard()
clients = {}
CHANNELS = ["news", "private-x", "presence-room"]
SUCCEEDED = "pusher_internal:subscription_succeeded"
JOINED, LEFT = "pusher_internal:member_added", "pusher_internal:member_removed"
EVENTS = [SUCCEEDED, JOINED, LEFT, "greeting", "client-hello", "marker", "back"]


def begin(who):
    """Subscribes whenever it is connected, as its makers' example does."""
    client = pysher.Pusher(
        KEY, secret=SECRET, custom_host=HOST, port=int(PORT), secure=False, reconnect_interval=0.2,
        user_data={"user_id": who, "user_info": {"name": who}},
    )

    def connected(_):
        heard.put(who, None, "connected")
        for name in CHANNELS:
            channel = client.subscribe(name)
            for event in EVENTS:
                channel.bind(event, heard_by(who, name, event))

    client.connection.bind("pusher:connection_established", connected)
    client.connection.bind("pusher:pong", lambda _: heard.put(who, None, "pong"))
    client.connection.bind("pusher:error", lambda error: heard.put(who, None, "error", error))
    client.connect()
    clients[who] = client


def heard_by(who, name, event):
    def put(data):
        # Pysher does not look into it
        heard.put(who, name, event, json.loads(data) if isinstance(data, str) else data)

    return put


def joined(who):
    heard.take(who, None, "connected")
    return [heard.take(who, name, SUCCEEDED) for name in CHANNELS]


def everybody_hears(event):
    for name in CHANNELS:
        sdk.trigger(name, event, DATA)
        for who in clients:
            same(heard.take(who, name, event), DATA)


def connects():
    "connects, and is answered"
    begin("alice")
    heard.take("alice", None, "pong")
    *_, room = joined("alice")
    same(room["presence"], {"count": 1, "ids": ["alice"], "hash": {"alice": {"name": "alice"}}})


def meets():
    "presence"
    begin("bob")
    *_, room = joined("bob")
    same(room["presence"]["hash"], {"alice": {"name": "alice"}, "bob": {"name": "bob"}})
    same(heard.take("alice", "presence-room", JOINED), {"user_id": "bob", "user_info": {"name": "bob"}})


def hears():
    "public, private and presence channels"
    everybody_hears("greeting")


def says():
    "client events, to others only"
    for name in ["private-x", "presence-room"]:
        clients["alice"].channel(name).trigger("client-hello", DATA)
        same(heard.take("bob", name, "client-hello"), DATA)
        sdk.trigger(name, "marker", 1)
        heard.take("alice", name, "marker")
        same(heard.count("alice", name, "client-hello"), 0)


def is_killed():
    "comes back after the server was killed"
    print("kill the server")
    for who in clients:
        joined(who)
    everybody_hears("back")


def is_stopped():
    "comes back after the server was stopped"
    print("stop the server")
    for who in clients:
        joined(who)
    everybody_hears("back")


def leaves():
    "leaves"
    clients["bob"].unsubscribe("presence-room")
    same(heard.take("alice", "presence-room", LEFT), {"user_id": "bob"})
    same([heard.count(who, None, "error") for who in clients], [0, 0])
    # not waited for: its thread does not always notice that another one has closed its socket
    clients["bob"].disconnect(timeout=0)


play(connects, meets, hears, says, is_killed, is_stopped, leaves)
