"""permessage-deflate as Python's package `websockets` has it: what it offers, what it inflates, what it deflates itself."""
import json
import random
import string

from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory as Offer
from websockets.sync.client import connect

from heard import HOST, KEY, PORT, make_sdk, play, same

sdk = make_sdk()
dice = random.Random(7692)
CHANNEL = "private-x"
# each with what is to come of it: an agreement or none
OFFERS = [
    ([], False),
    ([Offer()], True),
    ([Offer(client_max_window_bits=None)], True),
    *(([Offer(client_max_window_bits=bits)], True) for bits in range(9, 16)),
    ([Offer(server_no_context_takeover=True, client_no_context_takeover=True)], True),
    ([Offer(server_max_window_bits=15)], True),
    ([Offer(server_max_window_bits=10)], False),
    ([Offer(server_max_window_bits=10), Offer()], True),
    *(([Offer(compress_settings={"level": level, "memLevel": level or 1})], True) for level in range(10)),
]
SIZES = [0, 1, 2, 10, 100, 125, 126, 127, 400, 511, 512, 513, 1000, 1500]
sockets = []


def texts():
    "Three of each size, with much and with little to be saved."
    letters = string.ascii_letters + "áž☃👍\u2028\"\\\n\0"
    for size in SIZES:
        yield "".join(dice.choices(letters, k=size))
        yield "words and words " * (size // 16)
        yield "".join(dice.choices("ab", k=size))


def open_all():
    "every offer is answered, and each agreement is without context takeover"
    for offers, is_agreed in OFFERS:
        url = f"ws://{HOST}:{PORT}/app/{KEY}?protocol=7&client=test"
        # without a bound on what is kept unread, so that pings behind it are read and answered
        socket = connect(url, compression=None, extensions=offers, max_queue=None)
        agreed = socket.protocol.extensions
        same(len(agreed), int(is_agreed))
        for one in agreed:
            same([one.remote_no_context_takeover, one.local_no_context_takeover], [True, True])
            same(one.remote_max_window_bits, 15)
        socket_id = json.loads(json.loads(socket.recv())["data"])["socket_id"]
        signed = sdk.authenticate(CHANNEL, socket_id)
        socket.send(json.dumps({"event": "pusher:subscribe", "data": {"channel": CHANNEL, **signed}}))
        while "subscription_succeeded" not in socket.recv():
            pass
        sockets.append(socket)


def heard_by(socket):
    "The next event but what the channel tells of itself."
    while True:
        message = json.loads(socket.recv())
        if not message["event"].startswith("pusher"):
            return message


def all_hear():
    "events of every size are the same for all"
    for text in texts():
        sdk.trigger(CHANNEL, "event", {"text": text})
        for socket in sockets:
            same(json.loads(heard_by(socket)["data"]), {"text": text})


def all_say():
    "what clients deflate is heard, whole and in fragments"
    for at, socket in enumerate(sockets):
        for text in texts():
            message = json.dumps({"event": "client-event", "channel": CHANNEL, "data": text}, ensure_ascii=False)
            cuts = sorted(dice.choices(range(len(message) + 1), k=dice.randrange(4)))
            parts = [message[start:end] for start, end in zip([0, *cuts], [*cuts, len(message)])]
            socket.send(message if len(parts) == 1 else parts)
            # by one that agreed and one that did not
            for other in {0, 1, 2} - {at}:
                same(heard_by(sockets[other])["data"], text)
        for other in set(range(3, len(sockets))) - {at}:
            for _ in range(3 * len(SIZES)):
                heard_by(sockets[other])


play(open_all, all_hear, all_say)
