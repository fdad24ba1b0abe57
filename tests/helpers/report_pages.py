"""A report with every part in it, one with none, and what a page says once it is read."""

import re
from dataclasses import replace
from html.parser import HTMLParser

from fedrx_server.report.page import page
from fedrx_server.report.write import (
    DoseGroups,
    EpsilonCurve,
    GroupErrors,
    LearningCurve,
    Predictions,
    PrivacyStatement,
    ReportData,
    ResultRow,
    RunCost,
)

ATTACK = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>"


def row(key, label, *values, **ends):
    """A line of the table, from MAE, R² and the share within 20 % as far as they are given.

    `ends` are those of the MAE's intervals.
    """
    known = dict(zip(("mae", "r2", "within_20_percent"), values, strict=False))
    return ResultRow(key, label, {**known, **ends})


BARE = ReportData(
    title="Warfarin dose", study="dose", study_digest="ab" * 32, run="r1", finished="today"
)
PRIVACY = PrivacyStatement(
    mode="distributed",
    epsilon=0.998,
    delta=1e-5,
    promised_epsilon=1.0,
    assumption="if at least 15 of 21 sites are honest and take part",
    training_epsilon=0.998,
    metrics_epsilon=0.75,
    collusion=[(0, 0.84), (8, 1.08)],
)
FULL = replace(
    BARE,
    simulation=True,
    description="A study of the weekly dose.",
    rows=(
        row("pooled", "All patients pooled", 8.22, 0.447, 46.9),
        row("federated", "Federated", 8.34, 0.437, 46.3),
        row("site_alone", "Each site alone", 9.61, 0.31, 40.2),
        row("fixed", "Fixed dose", 13.2),
    ),
    reported=row("federated", "As reported", 8.51, 0.42, 45.1, mae_low=7.99, mae_high=9.03),
    privacy=PRIVACY,
    curve=LearningCurve(
        [1, 101], [14.2, 8.5], [(12.8, 15.6), (8.0, 9.0)], [1, 50, 101], [14.0, 9.0, 8.3]
    ),
    predictions=Predictions([20.0, 35.0], [25.0, 33.0]),
    groups=DoseGroups(
        ["≤ 21", "> 21"], [GroupErrors("Federated", [6.0, 9.0], "federated")], [300, 700]
    ),
    epsilon_curve=EpsilonCurve([1, 100], [0.1, 0.998]),
    cost=RunCost(101, 21, 14.2, 3_210_000, 12_400_000, [0, 2, 1], 1),
    details=[("Seed", "3")],
)


class Outline(HTMLParser):
    """Tags, what they point at, and the words between them."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self._words: list[str] = []
        self._hidden = 0
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._hidden += tag in {"script", "style"}
        for name, value in attrs:
            if name in {"src", "href", "action", "data", "srcset", "poster"}:
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag):
        self._hidden -= tag in {"script", "style"}

    def handle_data(self, data):
        if not self._hidden:
            self._words.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self._words))


def outline(data: ReportData) -> Outline:
    return Outline(page(data))
