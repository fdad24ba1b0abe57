"""`fedrx site check, approve, approvals, ledger`: what a hospital types before it takes part."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedrx.study_templates import template
from fedrx.views.site import study_page
from fedrx_client.approvals.approval import cohort_key
from fedrx_client.approvals.study_files import StudyFiles
from fedrx_client.checks.study import planned_releases
from fedrx_client.data.mapping import TableMapping
from fedrx_client.participation.settings import only_agent
from fedrx_client.records.audit_log import AuditLog
from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger
from fedrx_models.planning import make_plan
from fedrx_protocol.study.study import Study

FILES = ("study.toml", "--data", "patients.csv", "--mapping", "mapping.toml")


def refusal(fedrx, *argv):
    ran = fedrx(*argv)
    assert (ran.code, ran.out) == (2, ""), ran
    assert ran.err.startswith("fedrx: ")
    assert len(ran.err.strip().splitlines()) == 1
    return ran.err


def test_an_outcome_that_is_yes_or_no_is_called_so():
    agreed = Study.parse(template("toxicity"))
    page = study_page(make_plan(agreed, 3), patients=40)
    assert f"and the target {agreed.target.name} (yes or no)." in page


def test_the_page_says_what_the_study_would_do(approved):
    for words in (
        "Patients: 40 of this site, 30% of them held out",
        "Reads: weight_kg, vkorc1; and the target dose (mg/week).",
        "Model: linear with 7 weights, 3 rounds.",
        "epsilon 8 at delta 1e-05, if at least 3 of 3 sites are honest and take part.",
        "Metrics: sums of errors",
        "Leaves the building: each round a masked sum of gradients",
        "Never leaves: a patient's record",
        "Approved;",
    ):
        assert words in approved


class TestWhatALyingCoordinatorCouldGet:
    """The page that a hospital signs says it, for each kind of study."""

    def page(self, **sections):
        return study_page(make_plan(Study.parse(template("dose")).with_(**sections), 5), 40)

    def test_exact_sums_of_one_list_say_what_they_would_give_and_that_a_round_waits(self):
        page = self.page(privacy={"mode": "none"})
        assert "get this site's exact number of patients, gradient and metrics. In this" in page
        assert "a round waits until every site is there" in page
        assert "how many patients it brings" not in page

    def test_exact_sums_of_changing_lists_say_that_nothing_prevents_it(self):
        may = {"secure_aggregation": {"stable_lists": False}}
        page = self.page(privacy={"mode": "none"}, **may)
        assert "exact number of patients, gradient and metrics. Nothing in this study" in page

    def test_exact_metrics_are_named(self):
        page = self.page(metrics={"mode": "secure-sum"})
        assert "this site's exact metrics and number of held-out patients" in page

    def test_noise_hides_a_patient_and_not_how_many_there_are(self):
        page = self.page(privacy={"epsilon": 1.0})
        assert "how many patients this site brings to within about 7" in page
        assert "(each single patient stays protected). Nothing in this study prevents" in page
        assert "within about" not in self.page(privacy={"mode": "local"})

    @pytest.mark.parametrize(("epsilon", "twice"), [(1.0, "2.16"), (8.0, "19.13")])
    def test_a_patient_at_two_hospitals_is_told_the_epsilon(self, epsilon, twice):
        page = self.page(privacy={"epsilon": epsilon})
        assert f"promised epsilon {twice}, not {epsilon:g}." in page
        assert "At two hospitals" not in self.page(privacy={"mode": "none"})

    def test_a_start_from_another_study_adds_up(self):
        page = self.page(transfer={"study": "ab" * 32})
        assert "Adds up: patients who were in that study too lose what both studies spend" in page


def test_check_before_and_after_an_approval(fedrx, joined):
    before = fedrx("site", "check", "a", *FILES)
    assert before.code == 2
    assert re.findall(r"^NOT  (.*?):", before.out, re.MULTILINE) == ["approval"]
    assert "-> Run `fedrx site approve`" in before.out
    joined("site", "approve", "a", *FILES, "--max-epsilon", "9", "--yes")
    after = joined("site", "check", "a", *FILES, "--json").json
    assert after["ok"]
    assert [line["name"] for line in after["lines"]] == [
        "keys and roster",
        "disk",
        "data",
        "quality",
        "cohort size",
        "training",
        "approval",
        "privacy budget",
    ]


def test_a_changed_table_is_red(fedrx, approved, place):
    lines = (place / "patients.csv").read_text().splitlines()
    (place / "patients.csv").write_text("\n".join(lines[:-1]) + "\n")
    ran = fedrx("site", "check", "a", *FILES, "--json")
    red = [line["name"] for line in ran.json["lines"] if not line["ok"]]
    assert (ran.code, red) == (2, ["approval"])


def test_a_table_that_cannot_be_read_is_red(fedrx, approved, place):
    (place / "patients.csv").write_text("id,dose\n")
    ran = fedrx("site", "check", "a", *FILES)
    assert ran.code == 2
    assert "NOT  data:" in ran.out


def test_approvals_are_listed_and_taken_back(fedrx, approved, joined):
    assert "in force" in joined("site", "approvals", "a").out
    joined("site", "approve", "a", "--revoke", "study.toml", "--by", "DPO")
    (one,) = joined("site", "approvals", "a", "--json").json["approvals"]
    assert (one["state"], one["name"], one["by"]) == ("revoked", "small_dose", "DPO")
    assert one["cap"]["epsilon"] == 9
    log = joined("site", "audit", "a").out
    assert "approval" in log
    assert "taken back by DPO" in log
    ran = fedrx("site", "check", "a", *FILES)
    assert ran.code == 2
    assert "was taken back" in ran.out


def test_a_site_without_approvals_says_so(joined):
    assert joined("site", "approvals", "a").out == "This site has approved no study.\n"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((*FILES, "--max-epsilon", "2", "--yes"), "the cap is epsilon 2"),
        ((*FILES, "--max-epsilon", "-1", "--yes"), "positive number"),
        ((*FILES, "--max-epsilon", "9", "--min-patients", "41", "--yes"), "more patients"),
        ((*FILES, "--max-epsilon", "9", "--no-cap", "--yes"), "either --max-epsilon"),
        ((*FILES, "--yes"), "--max-epsilon"),
        ((*FILES, "--no-cap", "--yes"), "--max-epsilon"),
        ((*FILES, "--max-epsilon", "9", "--days", "9999", "--yes"), "between 1 and"),
        (("study.toml", "--max-epsilon", "9"), "--data"),
        (("--revoke", "small_dose"), "no approval is called"),
        (("study.toml", "--revoke", "small_dose"), "--revoke takes only"),
    ],
)
def test_what_cannot_be_approved(fedrx, joined, more, says):
    assert says in refusal(fedrx, "site", "approve", "a", *more)
    assert not Path("a/approvals").exists()


def test_a_site_that_never_joined_approves_nothing(fedrx, joined):
    said = refusal(fedrx, "site", "approve", "b", *FILES, "--max-epsilon", "9", "--yes")
    assert "joined no consortium" in said


def test_a_no_at_the_question_approves_nothing(fedrx, joined, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert fedrx("site", "approve", "a", *FILES, "--max-epsilon", "9").code != 0
    assert not Path("a/approvals").exists()


def test_a_study_of_the_same_name_is_shown_with_every_difference(joined, place):
    given = ("site", "approve", "a", *FILES, "--max-epsilon", "9", "--yes")
    assert "Differs from" not in joined(*given).out
    assert "Differs from" not in joined(*given).out  # the very same study once more
    text = (place / "study.toml").read_text()
    (place / "study.toml").write_text(text.replace("epsilon = 8.0", "epsilon = 4.0"))
    told = joined(*given).out
    assert "Differs from study 'small_dose'" in told
    assert "  privacy.epsilon: 8 -> 4\n" in told


def test_sums_without_noise_need_a_plain_yes(fedrx, joined, place):
    text = (place / "study.toml").read_text().replace("epsilon = 8.0", 'mode = "none"')
    (place / "study.toml").write_text(text)
    said = refusal(fedrx, "site", "approve", "a", *FILES, "--max-epsilon", "9", "--yes")
    assert "without noise" in said
    page = joined("site", "approve", "a", *FILES, "--no-cap", "--yes").out
    assert "no differential privacy" in page
    assert "no cap" in joined("site", "approvals", "a").out


def released(place, study=None):
    agreed = Study.load(place / "study.toml")
    approval = json.loads(next(Path("a/approvals").iterdir()).read_text())["approval"]
    log = AuditLog(place / "a" / "audit.log")
    with SiteStore(place / "a" / "site.db", log_head=lambda: log.head) as store:
        for one in planned_releases(make_plan(agreed, 3), cohort_key(approval["cohort_name"])):
            Ledger(store).append(replace(one, study=study or agreed.digest))


def test_the_ledger_tells_what_was_spent_and_what_is_left(approved, joined, place):
    assert joined("site", "ledger", "a").out == "Nothing was released.\n"
    released(place)
    told = joined("site", "ledger", "a", "--json").json
    (study,) = told["studies"]
    assert (study["name"], study["cap"], study["releases"]) == ("small_dose", 9, told["lines"])
    assert 0 < study["spent"]["total"] <= 8
    assert study["left"] == pytest.approx(9 - study["spent"]["total"])
    assert told["in_all"]["total"] == study["spent"]["total"]
    out = joined("site", "ledger", "a").out
    assert "(small_dose)" in out
    assert "honest" in out


def test_another_study_spends_from_the_same_cap(approved, joined, place):
    released(place)
    released(place, study="cd" * 32)
    first, other = joined("site", "ledger", "a", "--json").json["studies"]
    assert first["left"] < 9 - first["spent"]["total"]
    assert (other["name"], other["cap"], other["left"]) == (None, None, None)


def test_a_table_with_a_row_less_does_not_begin_a_new_count(approved, joined, place):
    released(place)
    lines = (place / "patients.csv").read_text().splitlines()
    (place / "patients.csv").write_text("\n".join(lines[:-1]) + "\n")
    page = joined("site", "approve", "a", *FILES, "--max-epsilon", "9", "--yes").out
    assert re.search(r"Counted as: 'patients', of which epsilon [5-7]\.\d+ is spent so far", page)
    (study,) = joined("site", "ledger", "a", "--json").json["studies"]
    assert study["left"] == pytest.approx(9 - study["spent"]["total"])
    other = ("--max-epsilon", "9", "--cohort", "children", "--yes")
    assert "a new count" in joined("site", "approve", "a", *FILES, *other).out
    assert joined("site", "ledger", "a", "--json").json["studies"][0]["left"] == 9


def test_a_cohort_needs_a_plain_name(fedrx, joined):
    said = refusal(
        fedrx, "site", "approve", "a", *FILES, "--max-epsilon", "9", "--cohort", "a/b", "--yes"
    )
    assert "cannot name a cohort" in said


def test_what_start_needs_is_kept_with_the_approval(approved, place):
    kept = StudyFiles(place / "a").load(Study.load(place / "study.toml").digest)
    assert kept.study == Study.load(place / "study.toml")
    assert kept.table == place / "patients.csv"
    assert kept.mapping == TableMapping.load(place / "mapping.toml")


def test_a_site_starts_only_when_it_knows_where_to(fedrx, joined):
    assert "--coordinator" in refusal(fedrx, "site", "start", "a")
    assert "joined no consortium" in refusal(fedrx, "site", "start", "b", "--coordinator", "x:1")
    assert "HOST:PORT" in refusal(fedrx, "site", "start", "a", "--coordinator", "x")


def test_one_agent_a_folder(fedrx, joined, place):
    with only_agent(place / "a"):
        said = refusal(fedrx, "site", "start", "a", "--coordinator", "localhost:1")
    assert "running already" in said


def test_an_offered_roster_is_shown_and_then_believed(fedrx, joined, place):
    joined("site", "init", "e", "--site", "e", "--name", "Hospital E")
    joined("coordinator", "enroll", "c", "e/enrolment-request.json", "--yes")
    joined("coordinator", "revoke", "c", "b", "--reason", "moved")
    aside = place / "a" / "roster.offered.json"
    assert "nothing to join" in refusal(fedrx, "site", "join", "a", "--offered")
    aside.write_bytes((place / "c" / "roster.json").read_bytes())
    page = joined("site", "join", "a", "--offered", "--yes").out
    assert "goes:  b (b)" in page
    assert "comes: e (Hospital E)" in page
    assert not aside.exists()
    assert joined("site", "show", "a", "--json").json["sites"] == ["a", "d", "e"]
    for given in (("--offered", "--roster", "c/roster.json"), ()):
        assert "--roster" in refusal(fedrx, "site", "join", "a", *given)


def test_the_audit_log_as_json(approved, joined):
    told = joined("site", "audit", "a", "--json").json
    assert told["count"] == len(told["lines"])
    assert told["lines"][-1]["kind"] == "approval"
    assert joined("site", "audit", "a", "--verify", "--json").json["head"] == told["head"]


def test_check_looks_at_the_network_where_a_coordinator_is_named(fedrx, approved):
    ran = fedrx("site", "check", "a", *FILES, "--coordinator", "localhost:1", "--json")
    red = [line["name"] for line in ran.json["lines"] if not line["ok"]]
    assert (ran.code, red) == (2, ["coordinator", "certificate", "clock", "admitted"])


@pytest.mark.parametrize("address", ["host", "host:abc", ":1", "h:99999999"])
def test_check_refuses_what_is_no_address_before_joining_too(fedrx, joined, address):
    assert "is no HOST:PORT" in refusal(
        fedrx, "site", "check", "b", *FILES, "--coordinator", address
    )


@pytest.mark.parametrize("verb", ["check", "start"])
def test_an_ipv6_address_without_brackets_is_answered_with_them(fedrx, approved, verb):
    files = FILES if verb == "check" else ()
    said = refusal(fedrx, "site", verb, "a", *files, "--coordinator", "::1:37691")
    assert "[::1]:37691" in said


def test_an_address_may_be_written_as_a_url(fedrx, approved):
    for address in ("https://localhost:1", "https://[::1]:1/"):
        ran = fedrx("site", "check", "a", *FILES, "--coordinator", address, "--json")
        [line] = [line for line in ran.json["lines"] if line["name"] == "coordinator"]
        assert "does not answer on port 1" in line["text"]


@pytest.mark.parametrize("verb", ["check", "start"])
def test_a_proxy_that_cannot_be_used_is_said_before_anything_begins(
    fedrx, approved, verb, monkeypatch
):
    monkeypatch.setenv("https_proxy", "socks5://jo:secret@proxy:1080")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    files = FILES if verb == "check" else ()
    said = refusal(fedrx, "site", verb, "a", *files, "--coordinator", "fl.example.org:1")
    assert "https_proxy" in said
    assert "secret" not in said


def test_a_changed_ledger_is_found(fedrx, approved, joined, place):
    released(place)
    ran = joined("site", "ledger", "a", "--verify")
    assert re.fullmatch(r"\d+ lines, unchanged; head \d+:[0-9a-f]{64}\n", ran.out)
    with SiteStore(place / "a" / "site.db") as store:
        store.write("DELETE FROM ledger WHERE sequence = 2")
    assert "line 2 was removed" in refusal(fedrx, "site", "ledger", "a", "--verify")
