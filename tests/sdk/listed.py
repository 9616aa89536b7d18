"""Drives a provider's own SDK against a simulator. Arguments: the provider, the simulator's base URL, the credentials as JSON.

Sends to the recipients that it reads from standard input, a JSON list, the last one with wrong credentials, and prints as JSON
what the SDK returned or raised for each.
"""

import json
import sys

from requests.adapters import HTTPAdapter

SUBJECT, TEXT, HTML = "Karibu ✓", "Habari ✓ & karibu", "<p>Habari</p>"
FROM = "hello@acme.example"


class ToSimulator(HTTPAdapter):
    """For SDKs that allow no host but their own: what they send to it reaches the simulator."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def send(self, request, **options):
        request.url = self.base + request.path_url
        return super().send(request, **options)


def sendgrid(base, api_key):
    import sendgrid as sdk
    from sendgrid.helpers.mail import Attachment, CustomArg, Header, Mail, ReplyTo

    client = sdk.SendGridAPIClient(api_key, host=base.removesuffix("/v3"))

    def send(to):
        mail = Mail(from_email=(FROM, "Acme"), to_emails=to, subject=SUBJECT, plain_text_content=TEXT, html_content=HTML)
        mail.reply_to = ReplyTo("support@acme.example", "Support")
        mail.attachment = Attachment("aGVsbG8=", "a.txt", "text/plain", "attachment")
        mail.header = Header("X-Campaign", "autumn")
        mail.custom_arg = CustomArg("order", "A-17")
        sent = client.send(mail)
        assert sent.status_code == 202, sent
        return sent.headers["X-Message-Id"]

    return send


def resend(base, api_key):
    import resend as sdk

    sdk.api_url, sdk.api_key = base, api_key

    def send(to):
        mail = {"from": f"Acme <{FROM}>", "to": [to], "subject": SUBJECT, "text": TEXT, "html": HTML, "reply_to": "support@acme.example",
                "headers": {"X-Campaign": "autumn"}, "tags": [{"name": "order", "value": "A-17"}],
                "attachments": [{"filename": "a.txt", "content": list(b"hello")}]}
        return sdk.Emails.send(mail, {"idempotency_key": f"welcome/{to}"})["id"]

    return send


def postmark(base, server_token):
    from postmark.sync import ServerClient

    client = ServerClient(server_token, retries=0, base_url=base)

    def send(to):
        mail = {"From": f"Acme <{FROM}>", "To": to, "Subject": SUBJECT, "TextBody": TEXT, "HtmlBody": HTML, "Tag": "receipt",
                "Metadata": {"order": "A-17"}, "Headers": [{"Name": "X-Campaign", "Value": "autumn"}], "MessageStream": "outbound",
                "Attachments": [{"Name": "a.txt", "Content": "aGVsbG8=", "ContentType": "text/plain"}]}
        return client.outbound.send(mail).message_id

    return send


def mailgun(base, api_key):
    from mailgun.client import Client

    client = Client(auth=("api", api_key), api_url=base.removesuffix("/v3"))

    def send(to):
        data = {"from": f"Acme <{FROM}>", "to": to, "subject": SUBJECT, "text": TEXT, "html": HTML, "o:tag": ["receipt", "autumn"],
                "h:X-Campaign": "autumn", "v:order": "A-17"}
        answer = client.messages.create(data=data, files=[("attachment", ("a.txt", b"hello"))], domain="mg.acme.example")
        answer.raise_for_status()
        return answer.json()["id"]

    return send


def mailjet(base, api_key, api_secret):
    from mailjet_rest import Client

    client = Client(auth=(api_key, api_secret), version="v3.1")
    client.session.mount("https://", ToSimulator(base))

    def send(to):
        mail = {"From": {"Email": FROM, "Name": "Acme"}, "To": [{"Email": to}], "Subject": SUBJECT, "TextPart": TEXT, "HTMLPart": HTML,
                "CustomID": "order-A-17", "Headers": {"X-Campaign": "autumn"},
                "Attachments": [{"ContentType": "text/plain", "Filename": "a.txt", "Base64Content": "aGVsbG8="}]}
        sent = client.send.create(data={"Messages": [mail]}).json()["Messages"][0]
        assert sent["Status"] == "success" and sent["CustomID"] == "order-A-17", sent
        return str(sent["To"][0]["MessageID"])

    return send


def brevo(base, api_key):
    from brevo import Brevo
    from brevo.transactional_emails import SendTransacEmailRequestSender, SendTransacEmailRequestToItem

    client = Brevo(api_key=api_key, base_url=base, max_retries=0)

    def send(to):
        return client.transactional_emails.send_transac_email(
            sender=SendTransacEmailRequestSender(email=FROM, name="Acme"), to=[SendTransacEmailRequestToItem(email=to)], subject=SUBJECT,
            text_content=TEXT, html_content=HTML, headers={"X-Mailin-custom": "A-17"}, tags=["receipt"]).message_id

    return send


def vonage(base, api_key, api_secret):
    from vonage_http_client import Auth, HttpClient
    from vonage_sms import Sms, SmsMessage

    client = HttpClient(Auth(api_key=api_key, api_secret=api_secret))
    client._session.mount("https://", ToSimulator(base))

    def send(to):
        sent = Sms(client).send(SmsMessage(to=to, from_="ACME", text=TEXT, type="unicode", client_ref="A-17"))
        return sent.messages[0].message_id

    return send


def messagebird(base, access_key):
    import messagebird as sdk
    from messagebird.http_client import HttpClient

    client = sdk.Client(access_key, HttpClient(f"{base}/", access_key, "SDK"))

    def send(to):
        sent = client.message_create("ACME", to, TEXT, {"reference": "A-17", "datacoding": "unicode"})
        item = sent.recipients["items"][0]
        assert (item.status, item.recipient, sent.reference) == ("sent", int(to), "A-17"), sent
        return sent.id

    return send


def plivo(base, auth_id, auth_token):
    import plivo as sdk

    sdk.rest.client.PLIVO_API_BASE_URI = f"{base}/Account"
    client = sdk.RestClient(auth_id, auth_token)

    def send(to):
        return client.messages.create(src="14152828726", dst=to, text=TEXT, url="https://acme.example/reports").message_uuid[0]

    return send


def infobip(base, api_key):
    from infobip_api_client import ApiClient, Configuration, SmsDestination, SmsMessage, SmsMessageContent, SmsRequest, SmsTextContent
    from infobip_api_client.api.sms_api import SmsApi

    client = ApiClient(Configuration(host=base, api_key={"APIKeyHeader": api_key}, api_key_prefix={"APIKeyHeader": "App"}))

    def send(to):
        content = SmsMessageContent(actual_instance=SmsTextContent(text=TEXT))
        message = SmsMessage(sender="ACME", destinations=[SmsDestination(to=to, message_id=f"order-{to}")], content=content)
        sent = SmsApi(client).send_sms_messages(SmsRequest(messages=[message])).messages[0]
        assert sent.status.group_name == "PENDING", sent
        return sent.message_id

    return send


def whatsapp_cloud(base, access_token):
    from pywa import WhatsApp

    client = WhatsApp(phone_id="106540352242922", token=access_token)
    client.api._session.base_url = base

    def send(to):
        return client.send_message(to=to, text=TEXT, tracker="A-17").id

    return send


def fcm(base, service_account):
    from firebase_admin import credentials, initialize_app, messaging

    account = json.loads(service_account) | {"token_uri": f"{base}/token"}
    app = initialize_app(credentials.Certificate(account))
    service = messaging._get_messaging_service(app)
    service._fcm_url = f"{base}/projects/{account['project_id']}/messages:send"

    def send(to):
        shown = messaging.Notification(title=SUBJECT, body=TEXT)
        android = messaging.AndroidConfig(priority="high", ttl=3600, collapse_key="table-7")
        return messaging.send(messaging.Message(token=to, notification=shown, data={"order": "A-17"}, android=android), app=app)

    return send


def termii(base, api_key):
    from termii.messaging import Messaging

    client = Messaging()
    client.authenticate_direct(api_key, base, "ACME")

    def send(to):
        answer = client.send_message([to], TEXT)
        if answer["code"] != "ok":
            raise ValueError(f"{answer['code']}: {answer['message']}")
        return answer["message_id"]

    return send


def tried(send, to):
    try:
        return {"id": send(to)}
    except Exception as error:
        status = next((getattr(error, name) for name in ("status_code", "http_status", "status") if hasattr(error, name)), None)
        answer = getattr(error, "response", None)
        body = getattr(error, "body", None)
        text = " ".join(str(part) for part in (error, body, getattr(answer, "text", "")) if part)
        return {"raised": type(error).__name__, "status": status or getattr(answer, "status_code", None), "text": text}


provider, base, given = globals()[sys.argv[1]], sys.argv[2], json.loads(sys.argv[3])
recipients = json.load(sys.stdin)
good = provider(base, *given)
seen = [tried(good, to) for to in recipients[:-1]]
if sys.argv[1] == "fcm":
    import firebase_admin

    account = json.loads(given[0]) | {"client_email": "somebody@else.iam.gserviceaccount.com"}
    firebase_admin.delete_app(firebase_admin.get_app())
    wrong = provider(base, json.dumps(account))
else:
    wrong = provider(base, *given[:-1], given[-1][::-1])
print(json.dumps([*seen, tried(wrong, recipients[-1])]))
