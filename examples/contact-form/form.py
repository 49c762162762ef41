#!/usr/bin/env python3
"""The server of a third party's form. It serves the page and passes on what a visitor fills in.

The visitor's browser talks to this server alone. The hub's API key stays here: a key in a page is everybody's, so the
hub refuses requests that come from a browser.
"""

import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HUB = os.environ.get("HUB_URL", "https://hub.example.com")
KEY = os.environ.get("HUB_KEY", "")
PORT = int(os.environ.get("FORM_PORT", "8082"))

# The same for every visitor: in the URL.
FIXED = {"sync_mode": "1", "doi": "true", "src": "shop", "subscription_page": "footer"}
# What a visitor may fill in: in the body. A parameter in the body wins over the URL, so nothing else is passed on.
VISITORS = ("email", "standard_FIRSTNAME", "standard_LASTNAME")
BODY_BYTES_MAX = 16_384
WAIT_SECONDS = 10

PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Newsletter</title>
<form method="post">
<label>E-mail <input type="email" name="email" required></label>
<label>First name <input name="standard_FIRSTNAME"></label>
<label>Last name <input name="standard_LASTNAME"></label>
<button>Subscribe</button>
</form></html>
"""


def subscribe(visitor):
    """The hub's status for this visitor; 502 where it cannot be reached."""
    url = f"{HUB}/webhooks/contacts/email?{urllib.parse.urlencode({'key': KEY, **FIXED})}"
    body = urllib.parse.urlencode({name: visitor[name] for name in VISITORS if name in visitor})
    try:
        with urllib.request.urlopen(url, body.encode(), WAIT_SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 502


class Form(BaseHTTPRequestHandler):
    timeout = WAIT_SECONDS

    def do_GET(self):
        self.answer(200, "text/html; charset=utf-8", PAGE)

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            return self.answer(413, "text/plain", b"too long")
        text = self.rfile.read(int(length)).decode("utf-8", "replace")
        status = subscribe(dict(urllib.parse.parse_qsl(text, max_num_fields=50)))
        if status == 200:
            return self.answer(200, "text/plain", b"Please look into your mail and confirm.")
        if status == 400:
            return self.answer(400, "text/plain", b"Please look at your address once more.")
        # 401, 403 and 5xx are ours to mend, not the visitor's.
        print(f"the hub answered {status}", file=sys.stderr)
        return self.answer(502, "text/plain", b"Please come again later.")

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Addresses of visitors are in no log."""


if __name__ == "__main__":
    if not KEY:
        sys.exit("set HUB_KEY: `mailspan keys create --scope contacts:write` makes one")
    ThreadingHTTPServer(("127.0.0.1", PORT), Form).serve_forever()
