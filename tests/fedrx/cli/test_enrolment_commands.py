"""A coordinator and two hospitals come together by commands alone, as people would type them."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import typer

from fedrx.cli import coordinator as coordinator_commands
from fedrx.cli import main as main_command
from fedrx.cli import passphrase
from fedrx.cli import site as site_commands
from fedrx_client.records.audit_log import AuditLog
from fedrx_protocol.trust.roster import SignedRoster

PASSPHRASE = "a long enough passphrase"
FINGERPRINT = re.compile(r"([A-Z2-7]{4}-){7}[A-Z2-7]{4}")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDRX_PASSPHRASE", raising=False)


@pytest.fixture
def fedrx(monkeypatch, capsys):
    """`fedrx("coordinator roster c")` is exit code, standard output, standard error."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.add_typer(coordinator_commands.app, name="coordinator")
    app.add_typer(site_commands.app, name="site")
    monkeypatch.setattr(main_command, "app", app)

    def run(line, *more):
        monkeypatch.setattr(sys, "argv", ["fedrx", *line.split(), *more])
        with pytest.raises(SystemExit) as caught:
            main_command.main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


@pytest.fixture
def done(fedrx):
    """The same, for commands that must succeed; gives the standard output."""

    def run(line, *more):
        code, out, err = fedrx(line, *more)
        assert code == 0, err
        return out

    return run


@pytest.fixture
def refused(fedrx):
    """The same, for commands that must be refused; gives the sentence."""

    def run(line, *more):
        code, _, err = fedrx(line, *more)
        assert code == 2, err
        assert err.startswith("fedrx: ")
        assert err.count("\n") == 1
        assert err.rstrip().endswith((".", "there is."))
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture
def consortium(done):
    out = done("coordinator init c --host fl.example.org --name", "Warfarin study")
    return FINGERPRINT.search(out)[0]


@pytest.fixture
def enrolled(done, consortium):
    for site in ("charite", "mayo"):
        done(f"site init {site} --site {site} --name", f"Hospital {site}")
    done("coordinator enroll c charite/enrolment-request.json mayo/enrolment-request.json --yes")
    return consortium


@pytest.fixture
def joined(done, enrolled):
    for site in ("charite", "mayo"):
        done(f"site join {site} --roster c/roster.json --ca c/ca.crt --fingerprint", enrolled)
    return enrolled


def roster():
    return SignedRoster.from_json(Path("c/roster.json").read_bytes())


def test_the_whole_story(done, joined):
    described = json.loads(done("coordinator roster c --json"))
    assert described["fingerprint"] == joined
    assert [site["site"] for site in described["sites"]] == ["charite", "mayo"]
    assert described["sites"][0]["supernode"].startswith("ecdsa-sha2-nistp384 ")
    assert described["hosts"] == ["fl.example.org"]
    shown = json.loads(done("site show charite --json"))
    assert shown["consortium"] == joined
    assert shown["sites"] == ["charite", "mayo"]
    assert shown["identity"] == described["sites"][0]["identity"]
    assert roster().verify(joined, int(time.time())).serial == 1


def test_rotation_by_commands(done, joined):
    before = json.loads(done("site show charite --json"))["identity"]
    out = done("site rotate charite")
    new = FINGERPRINT.search(out)[0]
    assert json.loads(done("site show charite --json"))["next_identity"] == new != before
    out = done("coordinator enroll c charite/enrolment-request.json --rotate --yes")
    assert new in out
    out = done("site join charite --roster c/roster.json")
    assert f"keys rotated to {new}" in out
    shown = json.loads(done("site show charite --json"))
    assert (shown["identity"], shown["serial"]) == (new, 2)
    assert "next_identity" not in shown
    done("site join mayo --roster c/roster.json")


def test_revocation_by_commands(done, refused, joined):
    out = done("coordinator revoke c mayo --reason", "stolen laptop")
    assert "mayo is revoked" in out
    assert "1 site" in out
    done("site join charite --roster c/roster.json")
    assert "No key of site 'mayo'" in refused("site join mayo --roster c/roster.json")
    again = refused("coordinator enroll c mayo/enrolment-request.json --yes")
    assert "revoked or replaced" in again
    assert "mayo: stolen laptop" in done("coordinator log c")


def test_what_people_read(done, consortium):
    out = done("site init charite --site charite --name Charité --valid-days 10")
    told = FINGERPRINT.search(out)[0]
    out = done("coordinator enroll c charite/enrolment-request.json --yes")
    assert told in out
    assert "Charité" in out
    assert "hand out c/roster.json (and c/ca.crt)" in out
    out = done("coordinator roster c")
    assert "Warfarin study: roster 1, 1 site" in out
    assert consortium in out


def test_a_roster_that_ends_soon_is_said_before_it_does(fedrx, done, consortium):
    done("site init charite --site charite --name Charité --valid-days 10")
    done("coordinator enroll c charite/enrolment-request.json --yes")
    _, _, err = fedrx("coordinator roster c")
    assert "charite is valid until" in err
    assert "TLS" not in err


def test_renewal_of_the_tls_certificate(done, consortium):
    before = Path("c/tls/server.crt").read_bytes()
    out = done("coordinator renew c --host new.example.org --host 10.0.0.7")
    assert "new.example.org, 10.0.0.7" in out
    assert Path("c/tls/server.crt").read_bytes() != before
    assert done("coordinator renew c").startswith("TLS certificate for new.example.org, 10.0.0.7")


def test_the_logs(done, fedrx, refused, joined):
    _, out, err = fedrx("coordinator log c")
    assert [line.split()[2] for line in out.splitlines()] == ["init", "enrol"]
    assert err.startswith("2 lines, unchanged; head 2:")
    out = done("site audit charite")
    assert "keys made" in out
    assert "roster 1 believed, sites: charite, mayo" in out
    head = done("site audit charite --verify").rsplit(" ", 1)[1].strip()
    assert done(f"site audit charite --head {head}")
    assert "COUNT:HASH" in refused("site audit charite --head 12")
    assert "replaced" in refused(f"site audit charite --head 1:{'0' * 64}")
    log = Path("charite/audit.log")
    log.write_text(log.read_text().replace("keys made", "keys sold"))
    assert "line 1 was changed" in refused("site audit charite --verify")


def test_a_passphrase_from_a_file_and_from_the_environment(done, refused, monkeypatch):
    Path("secret").write_text(PASSPHRASE + "\n")
    done("coordinator init c --name W --host a.example --passphrase-file secret")
    out = done("site init s --site s --name S --passphrase-file secret")
    assert "not encrypted" not in out
    enroll = "coordinator enroll c s/enrolment-request.json --yes"
    assert "no terminal" in refused(enroll)
    monkeypatch.setenv("FEDRX_PASSPHRASE", "another passphrase")
    assert "passphrase is wrong" in refused(enroll)
    monkeypatch.setenv("FEDRX_PASSPHRASE", PASSPHRASE)
    done(enroll)
    monkeypatch.delenv("FEDRX_PASSPHRASE")
    done("coordinator renew c --passphrase-file secret")
    done("site request s --passphrase-file secret")
    assert "no terminal" in refused("coordinator revoke c s --reason x")
    assert "no terminal" in refused("site request s")


def test_a_passphrase_from_a_person(done, monkeypatch):
    asked = []

    def prompt(text, **options):
        asked.append((text, options["hide_input"], options.get("confirmation_prompt", False)))
        return PASSPHRASE

    monkeypatch.setattr(passphrase.typer, "prompt", prompt)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    done("coordinator init c --name W --host a.example --ask-passphrase")
    done("coordinator renew c")
    assert asked == [("New passphrase", True, True), ("Passphrase", True, False)]
    done("site init s --site s --name S")  # none asked for, none asked
    assert len(asked) == 2


def test_no_secret_is_ever_printed(fedrx, joined):
    secrets = [
        *(Path(path).read_text().splitlines()[1] for path in ("c/consortium.key", "c/ca.key")),
        *(path.read_text().splitlines()[2] for path in Path().glob("*/keys-*/*.key")
          if len(path.read_text().splitlines()) > 3),
    ]  # fmt: skip
    said = ""
    for line in ("coordinator roster c --json", "coordinator log c", "coordinator renew c",
                 "site show charite --json", "site rotate mayo", "site request mayo",
                 "site audit charite"):  # fmt: skip
        _, out, err = fedrx(line)
        said += out + err
    assert len(secrets) >= 4
    assert not [secret for secret in secrets if secret in said]


def test_a_person_compares_fingerprints(fedrx, refused, consortium, done, monkeypatch):
    done("site init s --site s --name S")
    enroll = "coordinator enroll c s/enrolment-request.json"
    assert "by telephone" in refused(enroll)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(coordinator_commands.typer, "confirm", lambda _: False)
    assert "Nothing was signed" in refused(enroll)
    assert roster().roster.serial == 0
    monkeypatch.setattr(coordinator_commands.typer, "confirm", lambda _: True)
    done(enroll)
    assert roster().roster.ids == ("s",)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("coordinator init c --name W --host a.b", "exists already"),
        ("coordinator init d --name W --host https://a.b", "--host"),
        ("coordinator init d --name W", "--host"),
        ("coordinator init d --name W --host a.b --passphrase-file nowhere", "cannot be read"),
        ("coordinator init d --name W --host a.b --passphrase-file empty", "first line is empty"),
        ("coordinator init d --name W --host a.b --passphrase-file short", "12 characters"),
        ("coordinator init d --name W --host a.b --ask-passphrase", "no terminal"),
        ("coordinator enroll c nowhere.json --yes", "nowhere.json: cannot be read"),
        ("coordinator enroll c empty --yes", "empty: The enrolment request"),
        ("coordinator enroll c mayo/enrolment-request.json --yes", "this key already"),
        ("coordinator enroll c forged.json --yes", "not signed by both keys"),
        ("coordinator enroll nowhere forged.json --yes", "consortium.json"),
        ("coordinator revoke c nobody --reason x", "the sites are: charite, mayo"),
        ("coordinator revoke c mayo", "--reason"),
        ("coordinator renew c --host a_b", "--host"),
        ("coordinator roster nowhere", "cannot be read"),
        ("site init mayo --site m --name M", "exists already"),
        ("site init m --site m/n --name M", "Site id"),
        ("site init m --site m --name M --valid-days 9999", "validity"),
        ("site init m --site m --name M --valid-days 0", "--valid-days"),
        ("site join mayo --roster c/roster.json", "--fingerprint"),
        ("site join mayo --roster nowhere", "nowhere: cannot be read"),
        ("site join mayo --roster c/roster.json --ca empty --fingerprint GOOD", "one PEM"),
        ("site join mayo --roster empty --ca c/ca.crt --fingerprint GOOD", "roster is refused"),
        ("site join mayo --roster c/roster.json --ca c/ca.crt --fingerprint AAAA", "no fingerp"),
        ("site init z --site z --name Z --ask-passphrase --passphrase-file pw", "not both"),
        ("site show nowhere", "nowhere: is no site folder"),
        ("site audit nowhere", "nowhere: is no site folder"),
    ],
)
def test_every_refusal_is_one_sentence_and_exit_code_2(refused, enrolled, line, says):
    Path("empty").touch()
    Path("short").write_text("short")
    good = Path("mayo/enrolment-request.json").read_text()
    Path("forged.json").write_text(good.replace("Hospital mayo", "Hospital eve"))
    assert says in refused(line.replace("GOOD", enrolled))
    assert not Path("d").exists()


def test_the_site_s_own_log_says_what_changed(joined):
    kinds = [line.entry.kind for line in AuditLog(Path("charite/audit.log")).lines()]
    assert kinds == ["identity", "identity"]
