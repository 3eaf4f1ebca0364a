"""What programs in Python have in common: what clients hear is kept until it is asked for; each step is told.

Arguments: HOST:PORT of the server, HOST:PORT for the app's own backend, and the app's id, key and secret. On standard
output, "kill the server" and "stop the server" ask that it be started again after such an end.
"""
import json
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pusher

PATIENCE_S = 50
SHOWN_MAX = 15  # of what came last and nobody asked for, where something is missed

SERVER, BACKEND, APP_ID, KEY, SECRET = sys.argv[1:]
HOST, PORT = SERVER.split(":")

# Data that must arrive as it is.
DATA = {
    "text": "žluťoučký kůň ☃ 👍 \u2028 </script>",
    "deep": {"list": [1, None, True, {"a": []}], "number": 0.5},
    "empty": "",
}


def make_sdk(**more):
    """Pusher's server SDK; `more` makes it that of another app."""
    about = {"app_id": APP_ID, "key": KEY, "secret": SECRET, "host": HOST, "port": int(PORT), "ssl": False}
    return pusher.Pusher(**{**about, **more})


class Heard:
    """What clients hear, kept until it is taken."""

    def __init__(self):
        self.left = []
        self.changed = threading.Condition()

    def put(self, who, channel, event, data=None):
        """`channel` is None for what belongs to none."""
        with self.changed:
            self.left.append((who, channel, event, data))
            self.changed.notify_all()

    def take(self, who, channel, event):
        """The data of the earliest that was not taken yet, as soon as there is one."""
        wanted = (who, channel, event)

        def came():
            return any(one[:3] == wanted for one in self.left)

        with self.changed:
            if not self.changed.wait_for(came, PATIENCE_S):
                others = "".join(f"\n  {one}" for one in self.left[-SHOWN_MAX:])
                raise TimeoutError(f"waited {PATIENCE_S} s for {wanted}; else there came{others}")
            at = next(at for at, one in enumerate(self.left) if one[:3] == wanted)
            return self.left.pop(at)[3]

    def count(self, who, channel, event):
        """How many were heard and not taken."""
        with self.changed:
            return sum(one[:3] == (who, channel, event) for one in self.left)

    def forget(self, who):
        """Whatever that client has heard so far."""
        with self.changed:
            self.left = [one for one in self.left if one[0] != who]


def receive_webhooks(heard, sdk):
    """What webhooks tell is heard by "webhook"; the SDK must find them genuine, and not if they are changed."""

    class Hook(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            key, signature = self.headers["X-Pusher-Key"], self.headers["X-Pusher-Signature"]
            told = sdk.validate_webhook(key, signature, body)
            forged = sdk.validate_webhook(key, signature, body.replace("{", "{ ", 1))
            is_genuine = told is not None and forged is None and self.headers["Content-Type"] == "application/json"
            for event in told["events"] if is_genuine else []:
                heard.put("webhook", event["channel"], event["name"], event)
            self.send_response(200 if is_genuine else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    host, port = BACKEND.split(":")
    threading.Thread(target=ThreadingHTTPServer((host, int(port)), Hook).serve_forever, daemon=True).start()


def same(given, expected):
    assert given == expected, f"{json.dumps(given, ensure_ascii=False)} is not {json.dumps(expected, ensure_ascii=False)}"


def refused(call, error):
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def play(*steps):
    """Plays steps in their order, tells of each that it came true, and ends the program. A step's name is its docstring."""
    for step in steps:
        try:
            step()
            print("ok     ", step.__doc__)
        except BaseException:
            print("FAILED ", f"{step.__doc__}: {traceback.format_exc()}")
            sys.exit(1)
    sys.exit(0)
