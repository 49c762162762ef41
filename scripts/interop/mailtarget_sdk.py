#!/usr/bin/env python3
"""Sends one mail with the vendor's own client (PyPI `mailtarget_sdk`) to the sandbox.

usage: mailtarget_sdk.py URL [API_KEY]

URL is where the sandbox's Transmission API listens, like http://127.0.0.1:8091. Exit status 0: the
send was accepted, and the transmission id is printed. 1: refused, with the reason. 2: wrong usage, or
the package is missing.
"""

import os
import sys

# This file bears the package's name: without this, Python would import the file itself.
sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != os.path.dirname(os.path.abspath(__file__))]

try:
    from mailtarget_sdk.layang import Layang, MailtargetAPIError
    from mailtarget_sdk.message import Message
    from mailtarget_sdk.message_component import Address
except ImportError as error:
    print(f"{error}: run scripts/interop/install first", file=sys.stderr)
    sys.exit(2)


def main(arguments):
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    Layang.APIBase = arguments[0].rstrip("/")
    client = Layang(arguments[1] if len(arguments) == 2 else "sandbox")
    message = Message(
        subject="Your proposal is ready",
        from_address=Address(email="sales@sandbox.example.com", name="Sales"),
        to=[Address(email="ana@example.com", name="Ana")],
        body_text="It is ready.",
        body_html='<p>It is <a href="https://shop.example.com/offer">ready</a>.</p>',
        metadata={"crm_contact_id": "12", "crm_owner": "alice@example.com"},
    )
    try:
        answer = client.send(message)
    except MailtargetAPIError as error:
        print(f"refused with {error.status_code} {error.error}: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"not sent: {error}", file=sys.stderr)
        return 1
    transmission = answer.get("transmissionId")
    if not isinstance(transmission, str) or not transmission:
        print(f"the answer names no transmissionId: {answer}", file=sys.stderr)
        return 1
    print(transmission)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
