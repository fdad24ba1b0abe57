"""A site in a process whose files may not grow: run by `test_live_site`, never imported.

    PYTHONPATH=tests/helpers python full_disk.py FOLDER ledger|log

Prints what TRAIN of round 1 is answered while that file cannot grow, what TRAIN of round 2 is
answered when there is room again, and which rounds the ledger holds.
"""

import resource
import signal
import sys
from pathlib import Path

from live_hospital import HonestCoordinator, Region, answer_of

from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger


def limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def main(folder: Path, full: str) -> None:
    region = Region(folder)
    region.approve()
    coordinator = HonestCoordinator(region, region.grid())
    coordinator.open()
    coordinator.exchange_keys()
    home = region.home("site0")
    if full == "log":
        region.restart("site0")  # the ledger's journal begins anew, and is the smaller one now
        while (home / "audit.log").stat().st_size < 80_000:
            region.site("site0")._journal.event("start", "x" * 900)
        limit((home / "audit.log").stat().st_size)
    else:
        journal = home / "site.db-wal"
        while journal.stat().st_size < 10 * (home / "audit.log").stat().st_size:
            region.site("site0")._ledger.note_log()
        limit(journal.stat().st_size)
    answers = [answer_of(coordinator.train(coordinator.request(1)))]
    limit(resource.RLIM_INFINITY)
    answers.append(answer_of(coordinator.train(coordinator.request(2))))
    with SiteStore(home / "site.db") as store:
        answers += sorted({str(one.round) for one in Ledger(store).releases()})
    sys.stdout.write(" ".join(answers) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
