"""Plays Amazon SES and SNS by moto, until standard input ends. Reads commands there, one line of JSON each, and answers with one.

First it prints the port. {"verify": address} makes a sender known. {"sent": true} lists what was sent, and what AWS's own SDK
says was sent. {"publish": message} has SNS publish it to a subscriber of HTTP, and tells what the subscriber received, with
the certificate that signed it.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.server import ThreadedMotoServer
from moto.ses.models import ses_backends
from moto.sns.models import sns_backends

REGION = "eu-west-1"
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"


def client(service):
    keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
    return boto3.client(service, region_name=REGION, endpoint_url=url, **keys)


class Subscriber(BaseHTTPRequestHandler):
    received = []

    def do_POST(self):
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def verify(address):
    client("sesv2").create_email_identity(EmailIdentity=address)
    return client("sesv2").get_email_identity(EmailIdentity=address)["VerifiedForSendingStatus"]


def sent(_):
    kept = ses_backends[DEFAULT_ACCOUNT_ID][REGION].sent_messages
    shown = [{"id": m.id, "source": m.source, "subject": m.subject, "body": m.body, "destinations": m.destinations} for m in kept]
    return {"messages": shown, "quota": client("ses").get_send_quota()["SentLast24Hours"]}


def publish(message):
    subscriber = HTTPServer(("127.0.0.1", 0), Subscriber)
    threading.Thread(target=subscriber.serve_forever, daemon=True).start()
    sns = client("sns")
    topic = sns.create_topic(Name="ses-events")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=f"http://127.0.0.1:{subscriber.server_port}/")
    sns.publish(TopicArn=topic, Message=message)
    subscriber.shutdown()
    body = Subscriber.received[-1]
    name = json.loads(body)["SigningCertURL"].rsplit("/", 1)[1]
    return {"topic": topic, "body": body, "certificate": sns_backends[DEFAULT_ACCOUNT_ID][REGION]._message_public_keys[name].decode()}


print(port, flush=True)
for line in sys.stdin:
    [(name, argument)] = json.loads(line).items()
    print(json.dumps({"verify": verify, "sent": sent, "publish": publish}[name](argument)), flush=True)
server.stop()
