"""A site that makes attempts fail burns few of them, is named, and honest sites go on."""

from dataclasses import replace

import pytest
from flwr.app import ConfigRecord, Message
from live_scene import Scene, refused, survivors
from small_consortium import Stage, lost, small_study, staged

from fedrx_common.errors import RunError
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.secure_aggregation import MaskedInput, UnmaskReply
from fedrx_protocol.secagg.blame import ShareFault, Verdict
from fedrx_server.rounds.retry import StudyStopped
from fedrx_server.runs.blame import Blame, EndedAttempt, Failure, read_blame, write_blame
from fedrx_server.runs.folder import RunFolder
from fedrx_server.runs.registry import read_left_out

BAD = "site1"


def forger(kind, forge, site=BAD, when=lambda label: True):
    """Site `site` sends forged answers of this kind."""

    def act(*, site: str, kind: str, label, message, context, call_next, **_):
        if (site, kind) != wanted or not when(label):
            return None
        reply = call_next(message, context)
        if "header" not in reply.content["fedrx"]:
            return reply
        return Message(forge(reply.content), reply_to=message)

    wanted = (site, kind)
    return act


def sealed_wrong(content, **changes):
    """A masked vector with a commitment or shares that cannot be opened."""
    payload = content["payload"]["vector"].data
    masked: MaskedInput = codec.decode_masked(content["fedrx"]["header"], payload)
    shares = changes.pop("shares", lambda holders: masked.shares)(masked.shares)
    forged = replace(masked, shares=shares, **changes)
    content["fedrx"] = ConfigRecord({"header": codec.encode(forged)})
    return content


LIES = {
    "commitment": lambda content: sealed_wrong(content, commitment=bytes(32)),
    "shares": lambda content: sealed_wrong(content, shares=lambda s: dict.fromkeys(s, bytes(49))),
}


def accusing(*owners):
    """An answer to UNMASK that says the shares of these owners do not open."""

    def forge(content):
        reply = codec.decode(content["fedrx"]["header"], UnmaskReply)
        shares = {owner: share for owner, share in reply.shares.items() if owner not in owners}
        named = tuple(owner for owner in owners if owner in reply.shares)
        forged = UnmaskReply(reply.site, reply.context, shares, named)
        content["fedrx"] = ConfigRecord({"header": codec.encode(forged)})
        return content

    return forge


def trained(stage, site):
    return sum(line.purpose == "training" for line in stage.releases(site))


class TestAProvedLiar:
    @pytest.mark.parametrize("lie", LIES)
    def test_burns_two_attempts_and_the_others_finish(self, tmp_path, lie):
        scene = Scene(tmp_path, forger("train.masked", LIES[lie]))
        _, records = scene.run()
        assert [record.round for record in records] == [1, 2, 3, 4, 5]
        assert survivors(records) == [3] * 5
        assert [record.attempt for record in records] == [1, 1, 0, 0, 0]
        assert trained(scene.stage, "site0") == 4 + 2
        left_out = read_left_out(tmp_path / "run")
        assert {site: (one.reason, one.for_good) for site, one in left_out.items()} == {
            BAD: ("ShareInvalid", True)
        }
        assert not [site for site, kind, _ in scene.wire.seen[-8:] if site == BAD]

    def test_a_simulation_leaves_it_out_too(self, tmp_path):
        stage, _ = staged(tmp_path, forger("train.masked", LIES["shares"]))
        _, records = stage.run()
        assert [record.attempt for record in records] == [1, 1, 0, 0, 0]
        assert survivors(records) == [3] * 5

    def test_is_remembered_over_a_crash(self, tmp_path):
        class Killed(BaseException):
            pass

        def kill(record):
            if record.round == 2:
                raise Killed

        scene = Scene(tmp_path, forger("train.masked", LIES["shares"]))
        scene.on_round = kill
        with pytest.raises(Killed):
            scene.run()
        scene.on_round = lambda record: None
        for name in scene.stage.names:
            scene.stage.restart(name)
        _, records = scene.run()
        assert [record.attempt for record in records] == [1, 1, 0, 0, 0]
        assert trained(scene.stage, "site0") == 4 + 2

    def test_a_holder_that_accuses_all_is_named_and_nothing_fails(self, tmp_path):
        scene = Scene(tmp_path, forger("query.unmask", accusing("site0", "site2", "site3")))
        _, records = scene.run()
        assert {record.attempt for record in records} == {0}
        assert survivors(records) == [4, 3, 4, 3, 3]
        assert read_left_out(tmp_path / "run").keys() == {BAD}

    def test_where_no_site_can_be_spared_the_run_ends_and_names_it(self, tmp_path):
        """Three sites, all needed: one attempt is spoiled, and no second one."""
        scene = Scene(
            tmp_path,
            forger("train.masked", lambda c: sealed_wrong(c, context=bytes(32))),
            sizes=(40,) * 3,
        )
        with pytest.raises(
            StudyStopped, match=r"needs 3 of 3 sites.*site1 \(ContextMismatch.*--readmit"
        ):
            scene.run()
        assert trained(scene.stage, "site0") == 1


class TestAnUndecidedFault:
    def test_one_liar_never_has_an_honest_site_left_out_for_good(self, tmp_path):
        """A bare threshold is there, and site1 accuses site0 whenever it can."""
        scene = Scene(tmp_path, forger("query.unmask", accusing("site0")))
        scene.connected = set(scene.nodes) - {1003}
        scene.on_sleep = lambda count: scene.connected.add(1003) if count % 5 == 0 else None
        scene.on_round = lambda record: scene.connected.discard(1003)
        with pytest.raises(StudyStopped) as stopped:
            scene.run()
        assert "site0" in str(stopped.value)
        assert not [one for one in read_left_out(tmp_path / "run").values() if one.for_good]
        assert trained(scene.stage, "site0") <= 3 + 2

    def test_the_accused_is_out_of_one_attempt_and_the_run_waits_for_another(self, tmp_path):
        first = lambda label: label == "1.0"  # noqa: E731
        scene = Scene(tmp_path, forger("query.unmask", accusing("site0"), when=first))
        scene.connected = set(scene.nodes) - {1003}
        scene.on_sleep = lambda count: scene.connected.add(1003) if count == 4 else None
        _, records = scene.run()
        assert [record.attempt for record in records] == [1, 0, 0, 0, 0]
        assert survivors(records) == [3, 4, 4, 4, 4]
        assert "needs 3 sites and 2 can take part; left out: site0" in scene.watch.waits[-1][0]


class TestWithholding:
    def test_the_same_site_failing_again_and_again_is_left_out(self, tmp_path):
        """Three of four are there; site1 trains and then refuses its shares each time."""

        def act(*, site, kind, message, **_):
            return (
                refused(message, "LedgerLocked") if (site, kind) == (BAD, "query.unmask") else None
            )

        scene = Scene(tmp_path, act, small_study(privacy={"reserve_rounds": 10}))
        scene.connected = set(scene.nodes) - {1003}
        scene.on_sleep = lambda count: scene.connected.add(1003) if count == 40 else None
        _, records = scene.run()
        assert [record.attempt for record in records] == [3, 0, 0, 0, 0]
        assert survivors(records) == [3] * 5
        sentence, missing = scene.watch.waits[-1]
        assert "left out: site1 (LedgerLocked, 3 times" in sentence
        assert missing[BAD] == "LeftOut"
        assert trained(scene.stage, "site0") == 4 + 3

    def test_half_of_the_sites_failing_ends_the_run_before_the_reserve_is_spent(self, tmp_path):
        gone = {"site0", BAD}

        def act(*, site, kind, message, **_):
            return lost(message) if site in gone and kind == "train.masked" else None

        scene = Scene(tmp_path, act, small_study(privacy={"reserve_rounds": 10}))
        with pytest.raises(StudyStopped, match=r"round 1 is not tried again.*lost \(5 times\)"):
            scene.run()
        assert trained(scene.stage, "site2") == 5
        with RunFolder.open(tmp_path / "run", durability="process") as folder:
            folder.save_blame(folder.blame.forgiven())
        gone.clear()
        for name in scene.stage.names:
            scene.stage.restart(name)
        _, records = scene.run()
        assert survivors(records) == [4] * 5

    def test_exact_sums_that_cannot_be_repeated_end_the_run_with_the_cause(self, tmp_path):
        may_change = {"secure_aggregation": {"stable_lists": False}}
        scene = Scene(
            tmp_path,
            forger("train.masked", LIES["commitment"]),
            small_study(privacy={"mode": "none"}, **may_change),
        )
        with pytest.raises(StudyStopped, match=r"cannot be repeated.*new run.*site1: ShareInvalid"):
            scene.run()

    def test_where_all_sums_have_one_list_the_run_ends_with_the_name(self, tmp_path):
        forge = forger("train.masked", LIES["commitment"])
        scene = Scene(tmp_path, forge, small_study(privacy={"mode": "none"}))
        with pytest.raises(StudyStopped, match=r"site1 \(ShareInvalid.*is another study"):
            scene.run()


def test_the_number_that_can_take_part_is_right_before_there_are_keys(tmp_path):
    scene = Scene(tmp_path)
    scene.connected = {1000, 1001}
    scene.on_sleep = lambda count: scene.connected.add(1002) if count == 3 else None
    scene.run()
    assert scene.watch.waits[0][0] == "round 1 needs 3 sites and 2 can take part"


def ended(attempt=0, **changes):
    values = {"round": 1, "opened": False, "participants": 4, "fallen": {}, "charged": True}
    return EndedAttempt(
        attempt=attempt, verdict=changes.pop("verdict", Verdict()), **{**values, **changes}
    )


LATE = Failure("lost", lost=True)


class TestTheRecord:
    def test_a_fault_counts_once_an_attempt(self):
        proof = ended(fallen={BAD: Failure("VectorInvalid", proved=True)})
        once = Blame((), ()).judged(proof, 1)
        assert once.judged(proof, 1) == once
        assert not once.left_out((1, 0))[BAD].for_good
        assert once.left_out((1, 1)) == {}
        twice = once.judged(replace(proof, attempt=1), 1)
        assert twice.left_out((9, 9))[BAD].for_good

    def test_an_absence_counts_where_it_made_the_attempt_fail_and_few_lacked(self):
        for change, faults in (
            ({}, 1),
            ({"opened": True}, 0),
            ({"charged": False}, 0),
            ({"participants": 2}, 1),
        ):
            blame = Blame((), ()).judged(ended(fallen={BAD: LATE}, **change), 1)
            assert len(blame.faults) == faults
        many = Blame((), ()).judged(ended(fallen={BAD: LATE, "site2": LATE}), 1)
        assert [fault.sites for fault in many.faults] == [()]

    def test_proofs_and_absences_add_up(self):
        blame = Blame((), ()).judged(
            ended(0, fallen={BAD: Failure("VectorInvalid", proved=True)}), 1
        )
        for attempt in (1, 2):
            blame = blame.judged(ended(attempt, fallen={BAD: LATE}), 1)
        assert blame.left_out((9, 9))[BAD].for_good
        assert blame.forgiven().left_out((9, 9)) == {}
        assert blame.forgiven([BAD]) == Blame((), ())

    def test_pairs_add_up_over_attempts(self):
        blame = Blame((), ())
        for attempt, owner in enumerate(("site0", "site0", "site2")):
            verdict = Verdict(faults=(ShareFault(owner, BAD),))
            blame = blame.judged(ended(attempt, opened=True, verdict=verdict), 1)
        assert blame.left_out((1, 2)).keys() == {BAD}

    def test_doubts_end_the_run(self):
        blame = Blame((), ())
        for attempt in range(3):
            assert not blame.futile(2, reserve=10)
            verdict = Verdict(doubtful=frozenset({BAD}))
            blame = blame.judged(ended(attempt, verdict=verdict), 1)
        assert blame.futile(2, reserve=10)
        assert "site1, or a site that holds shares of it: ShareInvalid (3 times)" in blame.causes()

    def test_it_is_read_as_it_was_written(self, tmp_path):
        verdict = Verdict(doubtful=frozenset({BAD}), faults=(ShareFault("site0", BAD),))
        blame = Blame((), ()).judged(ended(verdict=verdict, fallen={"site2": LATE}), 1)
        write_blame(tmp_path, blame)
        assert read_blame(tmp_path) == blame

    @pytest.mark.parametrize("text", ["", "{}", '{"faults": [{}], "pairs": []}', '{"faults": 1}'])
    def test_a_damaged_record_is_refused(self, tmp_path, text):
        stage = Stage(tmp_path)
        stage.run_folder().close()
        (tmp_path / "run" / "blame.json").write_text(text)
        with pytest.raises(RunError, match=r"blame\.json"):
            stage.run_folder()
