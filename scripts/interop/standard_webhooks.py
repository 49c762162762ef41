#!/usr/bin/env python3
"""Signs and verifies with the Python packages of Standard Webhooks and Svix.

usage: standard_webhooks.py sign   LIBRARY SECRET [BODY [ID [SECONDS]]]
       standard_webhooks.py verify LIBRARY SECRET < request.json

LIBRARY is `standardwebhooks` or `svix`, SECRET is `whsec_…`. `sign` prints
{"headers": {"webhook-id": …, "webhook-timestamp": …, "webhook-signature": …}, "body": "…"}; the time is
now where none is given. `verify` reads the same shape. Exit status 0: signed or verified. 1: not
verified. 2: wrong usage, or a package is missing.
"""

import json
import sys
import time
from datetime import datetime, timezone


def webhook(library, secret):
    if library == "standardwebhooks":
        from standardwebhooks.webhooks import Webhook
    elif library == "svix":
        from svix.webhooks import Webhook
    else:
        raise SystemExit(usage())
    return Webhook(secret)


def usage():
    print(__doc__, file=sys.stderr)
    return 2


def sign(library, secret, body='{"type":"email.opened","data":{"n":9007199254740993,"who":"chloé"}}',
         message_id="msg_interop_1", seconds=None):
    # The packages take a time without a zone for UTC.
    at = datetime.fromtimestamp(int(seconds or time.time()), tz=timezone.utc)
    signature = webhook(library, secret).sign(message_id, at, body)
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }
    print(json.dumps({"headers": headers, "body": body}))
    return 0


def verify(library, secret):
    request = json.load(sys.stdin)
    try:
        webhook(library, secret).verify(request["body"], request["headers"])
    except ImportError:
        raise
    except Exception as error:  # Each package has an error type of its own.
        print(f"not verified: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("verified")
    return 0


def main(arguments):
    try:
        match arguments:
            case ["sign", library, secret, *rest] if len(rest) <= 3:
                return sign(library, secret, *rest)
            case ["verify", library, secret]:
                return verify(library, secret)
            case _:
                return usage()
    except ImportError as error:
        print(f"{error}: run scripts/interop/install first", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
