"""An SMTP server for tests. The first argument is a JSON object; standard output says the port; mail goes to a file of JSON lines.

It ends with its parent, whose end of standard input closes.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys
import time
import zlib

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

OPTIONS = json.loads(sys.argv[1])
STARTTLS = OPTIONS["security"] == "starttls"
IMPLICIT = OPTIONS["security"] == "implicit"


class Mailbox:
    """Keeps every mail, its header fields and parts as Python's own parser reads them."""

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        reply = OPTIONS["replies"].get(address)
        if reply:
            return reply
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server, session, envelope):
        parsed = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        leaves = [part for part in parsed.walk() if not part.is_multipart()]
        record = {
            "at": time.time(),
            "mailFrom": envelope.mail_from,
            "rcptTos": envelope.rcpt_tos,
            "username": getattr(session, "username", None),
            "tls": IMPLICIT or session.ssl is not None,
            "headers": [[name, str(value)] for name, value in parsed.items()],
            "contentType": parsed.get_content_type(),
            "parts": [{"contentType": part.get_content_type(), "text": part.get_content()} for part in leaves],
            "defects": [repr(defect) for part in parsed.walk() for defect in part.defects],
        }
        with open(OPTIONS["mail"], "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return "250 2.0.0 Ok: queued as %08X" % zlib.crc32(envelope.original_content)


def authenticate(server, session, envelope, mechanism, data):
    if isinstance(data, LoginPassword):
        given = (data.login.decode(), data.password.decode())
        if given == (OPTIONS["username"], OPTIONS["password"]):
            session.username = given[0]
            return AuthResult(success=True)
    return AuthResult(success=False, handled=False)


def tls_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(OPTIONS["certificate"], OPTIONS["key"])
    return context


def connection(loop):
    return SMTP(
        Mailbox(),
        loop=loop,
        hostname="simulated.example",
        enable_SMTPUTF8=True,
        authenticator=authenticate if OPTIONS["username"] else None,
        auth_required=bool(OPTIONS["username"]),
        auth_require_tls=STARTTLS,
        tls_context=tls_context() if STARTTLS else None,
        require_starttls=STARTTLS,
    )


async def serve():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: connection(loop), "127.0.0.1", OPTIONS["port"], ssl=tls_context() if IMPLICIT else None
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


asyncio.run(serve())
