"""The door that sites see: nginx, which passes the fleet paths on to the SuperLink, nothing else.

The SuperLink's Control paths do not check the caller, and its Runtime paths are on the same port.
So the SuperLink listens on loopback, and what comes from outside is compared with a list here; the
path that goes on is built from that list, never copied from the request.

nginx cannot know who has a key. So it keeps nothing of a call but its header: the body streams to
our entry, which asks for the key first. Connections, calls and buffers are counted, and so is what
a stranger can make it hold (docs/decisions/0017-what-a-stranger-can-hold.md).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from fedrx_common.errors import MisuseError
from fedrx_common.tls import AEAD_CIPHERS
from fedrx_server.gateway.limits import DEFAULT_LIMITS

# All that a site's agent, or Flower's own SuperNode, calls. Registering is the coordinator's.
FLEET_CALLS: Final = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)

# Ours, which hand over a whole message in one call; its parts stream through.
FUSED_CALLS: Final = ("take", "give")

# Flower cuts arrays into parts of 5 MiB; a part and its frame fit.
_BODY_LIMIT: Final = DEFAULT_LIMITS.object_bytes + DEFAULT_LIMITS.head_bytes

# Two processes encrypt more than any line carries, and their memory does not grow with the cores.
_WORKERS: Final = 2
_CONNECTIONS_OF_A_WORKER: Final = 2048

# A site has at most two calls under way. Hospitals may share an address: 64 of them fit.
CALLS_OF_AN_ADDRESS: Final = 128
_CALLS: Final = 1024

# A reply's objects, their lengths and its head.
_REPLY_LIMIT: Final = DEFAULT_LIMITS.reply_bytes + DEFAULT_LIMITS.head_bytes + 2**20

# Beside the wait for a message.
_ANSWER_WITHIN_S: Final = 40.0

# A call takes two connections, from the site and to the SuperLink.
_CONFIG: Final = Template("""\
# Written by `fedrx coordinator start`, and again at every start.
daemon off;
worker_processes $workers;
worker_rlimit_nofile 16384;
pid "$folder/nginx.pid";
# At this level it says why a site broke off the TLS handshake, e.g. a certificate it rejects.
error_log stderr info;
events { worker_connections $connections; }
http {
    # Whom it refused, and nothing else.
    map $$status $$refused { ~^[45] 1; default 0; }
    map $$request_uri $$asked { "~^(?<beginning>.{1,80})" $$beginning; }
    log_format refusal '$$time_iso8601 refused $$remote_addr: "$$request_method $$asked" $$status';
    access_log /dev/stderr refusal if=$$refused;
    server_tokens off;
    client_body_temp_path "$folder/body";
    proxy_temp_path "$folder/proxy";
    fastcgi_temp_path "$folder/fastcgi";
    uwsgi_temp_path "$folder/uwsgi";
    scgi_temp_path "$folder/scgi";

    # Where a call is from: an IPv4 address, or the IPv6 network (/64) that one host may have.
    map $$binary_remote_addr $$origin {
        "~^(?s)(?<network>.{8}).{8}$$" $$network;
        default $$binary_remote_addr;
    }
    limit_conn_zone $$origin zone=origins:4m;
    limit_conn_zone $$server_port zone=door:32k;
    limit_conn origins $calls_of_an_address;
    limit_conn door $all_calls;

    # A handshake and a header have ten seconds in all; what comes after them is not kept here.
    client_header_timeout 10s;
    client_header_buffer_size 2k;
    large_client_header_buffers 2 4k;
    client_max_body_size $limit;
    client_body_buffer_size 32k;
    client_body_timeout 30s;
    proxy_request_buffering off;
    lingering_time 5s;
    lingering_timeout 2s;
    send_timeout 30s;
    reset_timedout_connection on;
    proxy_max_temp_file_size 0;
    proxy_buffer_size 16k;
    proxy_buffers 8 64k;
    proxy_busy_buffers_size 128k;
    keepalive_timeout 120s;
    keepalive_requests 100000;

    upstream superlink {
        server 127.0.0.1:$inner_port max_fails=0;
        keepalive 64;
        keepalive_requests 100000;
    }
    server {
        listen $listen ssl;
        ssl_certificate "$certificate";
        ssl_certificate_key "$key";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers $ciphers;
        ssl_session_cache shared:fedrx:4m;

        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header fedrx-address $$remote_addr;
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate "$ca_certificate";
        proxy_ssl_name localhost;
        proxy_ssl_session_reuse on;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
        proxy_ssl_ciphers $ciphers;
        proxy_next_upstream off;
        proxy_read_timeout ${read_timeout_s}s;

        location ~ ^/v1/fleet/(?<call>$calls)$$ {
            limit_except POST { deny all; }
            proxy_pass https://superlink/v1/fleet/$$call;
        }
        location ~ ^/v1/fleet/(?<call>$fused)$$ {
            limit_except POST { deny all; }
            client_max_body_size $reply_limit;
            proxy_pass https://superlink/v1/fleet/$$call;
        }
        location / { return 404; }
    }
}
""")


@dataclass(frozen=True)
class Tls:
    """The files of the coordinator's TLS identity.

    Args:
        ca_certificate: The consortium's CA, PEM.
        certificate: The coordinator's certificate, PEM; names the public host, `localhost` and
            127.0.0.1, because the proxy checks the SuperLink behind it too.
        key: Its private key, PEM.
    """

    ca_certificate: Path
    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        """Check that the files are there.

        Raises:
            MisuseError: Names the missing file.
        """
        for path in (self.ca_certificate, self.certificate, self.key):
            if not path.is_file():
                raise MisuseError(f"{path}: is not there; `fedrx coordinator init` makes it.")


def proxy_config(folder: Path, tls: Tls, *, listen: str, inner_port: int) -> str:
    """The proxy's configuration.

    Args:
        folder: Its own folder, for its pid.
        tls: Certificates.
        listen: Address and port that sites reach, e.g. `0.0.0.0:8443` or `[::]:8443`.
        inner_port: The SuperLink's port on loopback.

    Raises:
        MisuseError: A path that nginx could misread.
    """
    paths = {
        "folder": folder.resolve(),
        "ca_certificate": tls.ca_certificate.resolve(),
        "certificate": tls.certificate.resolve(),
        "key": tls.key.resolve(),
    }
    for path in paths.values():
        if any(letter in str(path) for letter in '"\\$;\n'):
            raise MisuseError(f"{path}: choose a folder without quotes, dollars and semicolons.")
    return _CONFIG.substitute(
        paths,
        workers=_WORKERS,
        connections=_CONNECTIONS_OF_A_WORKER,
        calls_of_an_address=CALLS_OF_AN_ADDRESS,
        all_calls=_CALLS,
        ciphers=AEAD_CIPHERS,
        limit=_BODY_LIMIT,
        listen=listen,
        inner_port=inner_port,
        calls="|".join(FLEET_CALLS),
        fused="|".join(FUSED_CALLS),
        reply_limit=_REPLY_LIMIT,
        read_timeout_s=round(DEFAULT_LIMITS.wait_s + _ANSWER_WITHIN_S),
    )


def find_nginx() -> str:
    """The installed nginx.

    Raises:
        MisuseError: It is not installed.
    """
    found = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
    found = found or shutil.which("nginx")
    if found is None:
        raise MisuseError("nginx is not installed: run `apt-get install nginx-light`.")
    return found
