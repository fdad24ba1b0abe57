"""The door that sites see: nginx, which passes the fleet paths on to the SuperLink, nothing else.

The SuperLink's Control paths ask nobody who he is, and its Runtime paths are on the same port.
So the SuperLink listens on loopback, and what comes from outside is compared with a list here; the
path that goes on is built from that list, never copied from the request.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from fedrx_protocol.errors import MisuseError
from fedrx_server.link.limits import DEFAULT_LIMITS

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

# Flower cuts arrays into parts of 5 MiB; a part and its frame fit, and stay in memory.
_BODY_LIMIT: Final = "16m"

# A reply's objects, their lengths and its head.
_REPLY_LIMIT: Final = DEFAULT_LIMITS.reply_bytes + DEFAULT_LIMITS.head_bytes + 2**20

# Beside the wait for a message.
_ANSWER_WITHIN_S: Final = 40.0

# A site that waits holds two connections, and hundreds wait.
_CONFIG: Final = Template("""\
# Written by `fedrx coordinator start`, and again at every start.
daemon off;
worker_processes auto;
worker_rlimit_nofile 16384;
pid "$folder/nginx.pid";
# At this level it says why a site broke off the TLS handshake, e.g. a certificate it rejects.
error_log stderr info;
events { worker_connections 8192; }
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

    # Updates pass through memory, whole parts at a time; none is left on the proxy's disk.
    client_max_body_size $limit;
    client_body_buffer_size $limit;
    proxy_max_temp_file_size 0;
    proxy_buffer_size 64k;
    proxy_buffers 32 256k;
    proxy_busy_buffers_size 2m;

    client_header_timeout 10s;
    client_body_timeout 60s;
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
        ssl_session_cache shared:fedrx:4m;

        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header fedrx-address $$remote_addr;
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate "$ca_certificate";
        proxy_ssl_name localhost;
        proxy_ssl_session_reuse on;
        proxy_next_upstream off;
        proxy_read_timeout ${read_timeout_s}s;

        location ~ ^/v1/fleet/(?<call>$calls)$$ {
            limit_except POST { deny all; }
            proxy_pass https://superlink/v1/fleet/$$call;
        }
        location ~ ^/v1/fleet/(?<call>$fused)$$ {
            limit_except POST { deny all; }
            client_max_body_size $reply_limit;
            client_body_buffer_size 256k;
            proxy_request_buffering off;
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
        listen: Address and port that sites reach, e.g. `0.0.0.0:8443`.
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
