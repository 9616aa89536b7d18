"""Drives Twilio's own SDK against a simulator, whose base URL is the first argument. Prints what it saw as JSON."""

import json
import sys

from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

ACCOUNT = "AC00000000000000000000000000000001"
SERVICE = "MG00000000000000000000000000000002"
# The SDK appends the version to its base URL itself.
HOST = sys.argv[1].removesuffix("/2010-04-01")


def client(token):
    made = Client(ACCOUNT, token)
    made.api.base_url = HOST
    return made


def fields(message):
    names = ("sid", "account_sid", "status", "to", "from_", "messaging_service_sid", "body", "num_segments", "price", "price_unit", "error_code", "uri")
    return {name: getattr(message, name) for name in names}


def refusal(call):
    try:
        call()
    except TwilioRestException as error:
        return {"status": error.status, "code": error.code, "msg": error.msg}
    return None


twilio = client("good")
seen = {}
sent = twilio.messages.create(to="+254711000000", from_="+15005550006", body="Habari ✓ & karibu")
seen["sent"] = fields(sent)
seen["fetched"] = fields(twilio.messages(sent.sid).fetch())
seen["service"] = fields(twilio.messages.create(to="+254711000001", messaging_service_sid=SERVICE, body="Hello"))
seen["account"] = twilio.api.accounts(ACCOUNT).fetch().status
seen["invalid"] = refusal(lambda: twilio.messages.create(to="+15005550001", from_="+15005550006", body="Hello"))
seen["opted_out"] = refusal(lambda: twilio.messages.create(to="+15005550004", from_="+15005550006", body="Hello"))
seen["no_sender"] = refusal(lambda: twilio.messages.create(to="+254711000000", body="Hello"))
seen["too_long"] = refusal(lambda: twilio.messages.create(to="+254711000000", from_="+15005550006", body="x" * 1601))
seen["throttled"] = refusal(lambda: twilio.messages.create(to="+254711000429", from_="+15005550006", body="Hello"))
seen["unknown"] = refusal(lambda: twilio.messages("SM" + "f" * 32).fetch())
seen["unauthorized"] = refusal(lambda: client("wrong").messages.create(to="+254711000000", from_="+15005550006", body="Hello"))
print(json.dumps(seen))
