"""TLS as every party of a consortium uses it: one CA, and authenticated encryption only."""

import ssl
from typing import Final

# For TLS 1.2, in OpenSSL's names; TLS 1.3 has no other ciphers.
AEAD_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


def trusting(ca_certificate: bytes) -> ssl.SSLContext:
    """Make a client's context that trusts this CA (PEM) and no other, whatever the system trusts.

    Raises:
        ssl.SSLError: It is not a certificate.
        UnicodeDecodeError: It is not PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(AEAD_CIPHERS)
    context.load_verify_locations(cadata=ca_certificate.decode("ascii"))
    return context
