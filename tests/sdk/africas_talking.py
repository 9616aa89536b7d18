"""Drives Africa's Talking's own SDK against a simulator, whose base URL is the first argument. Prints what it saw as JSON."""

import json
import sys

import africastalking
from africastalking.Service import AfricasTalkingException

BASE = sys.argv[1]


def client(username, api_key):
    africastalking.initialize(username, api_key)
    for service in (africastalking.SMS, africastalking.Application):
        # The only setting of the SDK that says where it calls.
        service._baseUrl = BASE
    return africastalking.SMS


seen = {}
sms = client("acme", "atsk_good")
seen["one"] = sms.send("Habari ✓ & karibu", ["+254711000000"], "ACME")
seen["two"] = sms.send("Hello", ["+254711000001", "+254711000002"], enqueue=True)
seen["bad_sender"] = sms.send("Hello", ["+254711000003"], "much too long a sender")
seen["refused"] = sms.send("Hello", ["+254711000406"])
seen["account"] = africastalking.Application.fetch_application_data()
for name, recipient in (("throttled", "+254711000429"), ("broken", "+254711000500")):
    try:
        sms.send("Hello", [recipient])
    except AfricasTalkingException as error:
        seen[name] = str(error)
try:
    client("acme", "atsk_wrong").send("Hello", ["+254711000000"])
except AfricasTalkingException as error:
    seen["unauthorized"] = str(error)
print(json.dumps(seen))
