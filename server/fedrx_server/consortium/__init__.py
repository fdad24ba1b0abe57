"""The coordinator's side of trust: the consortium's keys, its certificates, and who belongs.

Everything stands in one folder, the consortium folder; no patient data ever does.
"""

from fedrx_server.consortium.consortium import Consortium, Member
from fedrx_server.consortium.enrolment import EnrolmentRefused, SiteUnknown
from fedrx_server.consortium.keys import ConsortiumDamaged, ConsortiumFiles

__all__ = [
    "Consortium",
    "ConsortiumDamaged",
    "ConsortiumFiles",
    "EnrolmentRefused",
    "Member",
    "SiteUnknown",
]
