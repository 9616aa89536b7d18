"""Calls back as Twilio does: signed by its own SDK. Arguments: the public URL, the server's own address, the auth token, fields as JSON.

Prints the status of each of three requests: with a signature of another token, with one of other fields, and with the right one.
"""

import json
import sys
from urllib.parse import urlsplit

import requests
from twilio.request_validator import RequestValidator

url, address, token, fields = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
parts = urlsplit(url)
own = f"http://{address}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def call(signature):
    return requests.post(own, data=fields, headers={"X-Twilio-Signature": signature}, timeout=10)


sign = RequestValidator(token).compute_signature
answers = [
    call(RequestValidator("another").compute_signature(url, fields)),
    call(sign(url, fields | {"MessageStatus": "failed"})),
    call(sign(url, fields)),
]
print(json.dumps([[answer.status_code, answer.text if answer.ok else answer.json()["code"]] for answer in answers]))
