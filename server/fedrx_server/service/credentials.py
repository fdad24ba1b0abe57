"""The address of the SuperLink, as the coordinator gives it to a run's process on its input.

Not as an argument and not in the environment, which others on the machine can read.
"""

import json

from fedrx_common.canonical_json import MalformedMessage, from_base64, to_base64
from fedrx_common.documents import read_json
from fedrx_common.errors import MisuseError
from fedrx_server.gateway.control import SuperLinkAddress


def dump_address(superlink_address: SuperLinkAddress) -> str:
    """The line on standard input that says how a worker reaches the SuperLink."""
    return json.dumps(
        {
            "address": superlink_address.address,
            "ca": to_base64(superlink_address.ca_certificate),
            "secret": to_base64(superlink_address.secret),
        }
    )


def parse_address(line: str) -> SuperLinkAddress:
    """Read what `dump_address` wrote.

    Raises:
        MisuseError: it is not such a line.
    """
    try:
        document = read_json(line)
        return SuperLinkAddress(
            document["address"],
            from_base64(document["ca"], source="The CA"),
            from_base64(document["secret"], source="The secret"),
        )
    except (ValueError, KeyError, TypeError, MalformedMessage):
        raise MisuseError("A worker is started by `fedrx coordinator start` only.") from None
