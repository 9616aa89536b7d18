"""Reads what adapters for push send, with libraries that are not ours. Standard input: JSON of what was sent, and of whose keys.

Prints what a browser decrypts, whether the push service takes the VAPID header, and the claims of the tokens for Google and Apple
after the signature was checked.
"""

import base64
import json
import sys

import http_ece
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import jwt as google_jwt
from py_vapid import Vapid02


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def public_half(pem):
    return serialization.load_pem_private_key(pem.encode(), None).public_key()


def browser(given):
    secret = int.from_bytes(unpadded(given["private_key"]), "big")
    key = ec.derive_private_key(secret, ec.SECP256R1())
    plain = http_ece.decrypt(unpadded(given["body"]), private_key=key, auth_secret=unpadded(given["auth"]), version="aes128gcm")
    # py_vapid reads the parameters without the space that RFC 8292 writes between them.
    header = given["authorization"].replace(", ", ",")
    token = header.removeprefix("vapid t=").split(",")[0]
    changed = header.replace(token, token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB"))
    claims = jwt.decode(token, options={"verify_signature": False})
    return {"plain": json.loads(plain), "vapid": Vapid02.verify(header), "changed": Vapid02.verify(changed), "claims": claims}


def google(given):
    pem = public_half(given["private_key"]).public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = jwt.get_unverified_header(given["assertion"])
    # Google's library looks at the clock; what was signed is older, and its times are compared by the test.
    google_jwt._verify_iat_and_exp = lambda payload, clock_skew_in_seconds=0: None
    return {"head": head, "claims": google_jwt.decode(given["assertion"], certs={head["kid"]: pem}, audience=given["audience"])}


def apple(given):
    head = jwt.get_unverified_header(given["token"])
    claims = jwt.decode(given["token"], public_half(given["private_key"]), algorithms=["ES256"], options={"verify_iat": False})
    return {"head": head, "claims": claims}


given = json.load(sys.stdin)
print(json.dumps({"browsers": [browser(one) for one in given["browsers"]], "google": google(given["google"]), "apple": apple(given["apple"])}))
