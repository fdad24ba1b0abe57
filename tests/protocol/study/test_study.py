"""The study file: one meaning one digest, and every mistake in one sentence."""

import copy
import math
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import showable_texts

from fedrx_common.errors import StudyError
from fedrx_protocol.study.study import Study

TOML = """
name = "dose"
title = "Warfarin dose"

[cohort]
patients = 1000
largest_site = 200

[model]
name = "mlp"
hidden = [8]

[training]
rounds = 50

[privacy]
epsilon = 2.0

[[features]]
name = "age"
kind = "number"
unit = "years"
minimum = 0
maximum = 110
mean = 60
scale = 15

[[features]]
name = "genotype"
kind = "category"
values = ["G/G", "A/G", "A/A"]

[[features]]
name = "smoker"
kind = "flag"

[target]
name = "dose"
unit = "mg/week"
minimum = 0
maximum = 400
transform = "sqrt"
mean = 5.4
scale = 1.4
"""
DOCUMENT = tomllib.loads(TOML)
STUDY = Study.parse(TOML)

# Frozen: sites that approved a study before an update must find the same digest after it.
GOLDEN = "aca3a6ed080e4c8a2026c03bf0c7095366bb17fb42d3ca663d8b6157a78465a6"


def changed(path, value):
    """The document with one value replaced; a value of None takes the key out."""
    document = copy.deepcopy(DOCUMENT)
    table = document
    for part in path[:-1]:
        table = table[part] if isinstance(part, int) else table.setdefault(part, {})
    if value is None:
        del table[path[-1]]
    else:
        table[path[-1]] = value
    return document


def finding(path, value) -> str:
    """The sentence for one wrong value."""
    with pytest.raises(StudyError) as raised:
        Study.from_document(changed(path, value), source="study.toml")
    return str(raised.value)


def leaves(value, path=()):
    """Every single value of a study, by path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from leaves(inner, (*path, position))
    else:
        yield path, value


class TestDigest:
    def test_a_pull_that_is_nothing_is_no_word_of_the_study(self):
        nothing = STUDY.with_(training={"optimizer": {"weight_decay": 0.0}})
        pulled = STUDY.with_(training={"optimizer": {"weight_decay": 0.1}})
        plain = STUDY.with_(training={"optimizer": {}})
        assert nothing.digest == plain.digest != pulled.digest

    def test_no_calibration_is_no_word_of_the_study(self):
        """Studies that were approved before the key existed keep their digest."""
        off = STUDY.with_(metrics={"calibration": False, "calibration_share": 0.5})
        on = STUDY.with_(metrics={"calibration": True})
        more = STUDY.with_(metrics={"calibration": True, "calibration_share": 0.7})
        assert off.digest == STUDY.with_(metrics={}).digest
        assert len({off.digest, on.digest, more.digest}) == 3

    def test_golden_value(self):
        assert STUDY.digest == GOLDEN

    def test_comments_order_and_spelling_do_not_matter(self):
        blocks = TOML.strip().split("\n\n")
        reordered = "\n\n".join(
            [*blocks[:1], *blocks[:0:-1][:1], *blocks[1:5], *blocks[5:8]]
        ).replace("[cohort]", "# whom it is about\n[cohort]")
        assert Study.parse(reordered).digest == GOLDEN
        assert Study.parse(TOML.replace("epsilon = 2.0", "epsilon = 2")).digest == GOLDEN
        assert Study.parse(TOML.replace("mean = 60\n", "mean = 6e1 # years\n")).digest == GOLDEN

    def test_a_default_written_out_is_the_same_study(self):
        document = changed(("privacy", "delta"), 1e-5)
        document["schedule"] = {"attempts": 10}
        assert Study.from_document(document, source="x").digest == GOLDEN

    @pytest.mark.parametrize(
        ("path", "old"),
        [leaf for leaf in leaves(STUDY.model_dump(mode="json")) if leaf[0][-1] != "kind"],
        ids=str,
    )
    def test_every_changed_value_changes_it(self, path, old):
        document = STUDY.model_dump(mode="json")
        table = document
        for part in path[:-1]:
            table = table[part]
        for other in (value for value in others(path, old) if value != old):
            table[path[-1]] = other
            try:
                study = Study.from_document(document, source="x")
            except StudyError:
                continue
            assert study.digest != GOLDEN
            return
        pytest.fail(f"no other value of {path} was admitted")

    def test_the_order_of_features_matters(self):
        document = copy.deepcopy(DOCUMENT)
        document["features"].reverse()
        assert Study.from_document(document, source="x").digest != GOLDEN

    @given(
        epsilon=st.floats(1e-3, 1000),
        rounds=st.integers(5, 100_000),
        rate=st.floats(1e-6, 1),
        title=showable_texts(),
        mode=st.sampled_from(["private", "secure-sum"]),
    )
    @settings(max_examples=60)
    def test_a_study_survives_its_json(self, epsilon, rounds, rate, title, mode):
        study = STUDY.with_(
            privacy={"epsilon": epsilon},
            training={"rounds": rounds, "sample_rate": rate},
            metrics={"mode": mode},
        ).model_copy(update={"title": title})
        again = Study.model_validate_json(study.model_dump_json())
        assert again == study
        assert again.digest == study.digest
        assert Study.from_document(study.model_dump(mode="json"), source="x") == study


def others(path, old):
    """Values that differ from `old`, the first of which the study admits is taken."""
    if isinstance(old, bool):
        return [not old]
    if old is None:
        return [3, 1, 5, "gradient"]
    if isinstance(old, (int, float)):
        return [old + 1, old / 2, old * 2, 0.5]
    known = {
        "mode": ["local", "secure-sum"],
        "decay": ["none", "linear"],
        "transform": ["identity"],
    }
    if path[-1] == "name" and "optimizer" in path:
        return ["adam", "sgd"]
    return [*known.get(path[-1], []), f"{old}_other", "other"]


def test_delta_is_held_against_the_patients_where_it_promises_something():
    assert STUDY.with_(privacy={"delta": 9e-4}).delta_limit == 1e-3
    assert STUDY.with_(privacy={"mode": "none", "delta": 0.09})
    with pytest.raises(StudyError, match=r"use e\.g\. 0\.0001"):
        STUDY.with_(privacy={"delta": 0.09})


def test_an_error_bound_costs_noise_only_where_there_is_some():
    assert STUDY.with_(metrics={"error_bound": 1e9, "mode": "secure-sum"})
    assert STUDY.with_(metrics={"error_bound": 1e9}, privacy={"mode": "none"})


class TestFindings:
    @pytest.mark.parametrize(
        ("path", "value", "sentence"),
        [
            (("privacy", "epsilom"), 1.0, "unknown key 'privacy.epsilom'; allowed here: mode, eps"),
            (("trainin",), {}, "unknown key 'trainin'; allowed here: name, title"),
            (("training", "number"), 3, "unknown key 'training.number'; allowed here: rounds"),
            (("training", "optimizer", "lr"), 1, "'training.optimizer.lr'; allowed here: name, le"),
            (("features", 0, "units"), "a", "'features.0.units'; allowed here: name, kind, unit,"),
            (("features", 2, "values"), [], "'features.2.values'; allowed here: name, kind, missi"),
            (("training", "rounds"), "50", "'training.rounds' is '50': it should be a valid integ"),
            (("training", "rounds"), True, "'training.rounds' is True: it should be a valid integ"),
            (("training", "rounds"), 5.0, "'training.rounds' is 5.0: it should be a valid integer"),
            (("privacy", "epsilon"), "1", "'privacy.epsilon' is '1': it should be a valid number"),
            (("privacy", "epsilon"), 0, "'privacy.epsilon' is 0: it should be greater than 0"),
            (("privacy", "epsilon"), math.nan, "'privacy.epsilon' is nan: it should be a finite"),
            (("privacy", "delta"), 0.5, "'privacy.delta' is 0.5: it should be less than 0.1"),
            (
                ("privacy", "delta"),
                0.09,
                "privacy.delta is 0.09, but with 1000 patients it must be b",
            ),
            (
                ("privacy", "delta"),
                0.001,
                "it must be below 0.001 (1/patients), or the promise may",
            ),
            (("cohort", "patients"), 100_000, "privacy.delta is 1e-05, but with 100000 patients"),
            (
                ("cohort", "largest_site"),
                19,
                "'cohort': minimum_per_site 20 is above largest_site ",
            ),
            (("metrics", "error_bound"), 4001, "no error is above 400, and noise grows with the"),
            (("target", "mean"), 35, "'target': mean 35 must lie between 0 and 20, as minimum and"),
            (("privacy", "mode"), "full", "it should be 'distributed', 'local' or 'none'"),
            (("cohort", "patients"), 10**12, "it should be less than or equal to 1000000000"),
            (("cohort", "patients"), None, "key 'cohort.patients' is missing"),
            (("cohort",), None, "key 'cohort' is missing"),
            (("target",), None, "key 'target' is missing"),
            (("cohort",), 5, "'cohort' is 5: it must be a table of keys and values"),
            (("features",), "age", "'features' is 'age': it must be a list"),
            (("features",), [], "a study needs at least 1 item in features or blocks"),
            (("features", 0), 7, "'features.0' is 7: it must be a table"),
            (("features", 0, "kind"), None, "key 'features.0.kind' is missing: use number, categ"),
            (("features", 0, "kind"), "date", "'features.0.kind' is 'date': use number, category"),
            (("features", 1, "values", 0), 1, "'features.1.values.0' is 1: it should be a valid s"),
            (("features", 1, "name"), "age", "feature names must be unique, but age is repeated"),
            (("name",), "My Study", "'name' is 'My Study': use a-z, 0-9 and _, a letter first"),
            (("title",), 5, "'title' is 5: it should be a valid string"),
            (("training", "steps"), "local", "use 'gradient', or privacy.mode 'local' or 'none'"),
            (("metrics", "evaluations"), 51, "metrics.evaluations is 51, but the study has 50 ro"),
        ],
    )
    def test_one_sentence_names_key_value_and_what_is_allowed(self, path, value, sentence):
        found = finding(path, value)
        assert found.startswith("study.toml: ")
        assert sentence in found
        assert found.endswith(".")
        assert "\n" not in found

    def test_every_finding_is_told(self):
        document = changed(("privacy", "epsilon"), -1)
        document["training"]["rounds"] = 0
        with pytest.raises(StudyError) as raised:
            Study.from_document(document, source="s")
        assert len(str(raised.value).splitlines()) == 2

    def test_a_long_value_is_cut_short(self):
        assert len(finding(("features",), "x" * 1000)) < 150

    def test_local_mode_does_not_send_gradients(self):
        document = changed(("privacy", "mode"), "local")
        document["training"]["steps"] = "gradient"
        with pytest.raises(StudyError, match=r"use 'local', or privacy\.mode 'distributed'"):
            Study.from_document(document, source="s")

    def test_fewer_digits_are_for_studies_without_clipping_and_old_digests_stand(self):
        plain = STUDY.with_(privacy={"mode": "none"})
        mixed = plain.with_(training={"mixed_precision": True})
        assert mixed.digest != plain.digest
        assert "mixed_precision" not in plain.model_dump(mode="json")["training"]
        with pytest.raises(StudyError, match="clipped, which needs float32"):
            STUDY.with_(training={"mixed_precision": True})

    def test_bad_toml_names_the_line(self):
        with pytest.raises(StudyError, match=r"my\.toml: not valid TOML: .*line 2"):
            Study.parse("name = 'x'\nrounds = = 3", source="my.toml")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(StudyError, match=r"none\.toml: no such study file; `fedrx study new`"):
            Study.load(tmp_path / "none.toml")

    def test_a_folder_and_foreign_bytes(self, tmp_path):
        (tmp_path / "latin.toml").write_bytes(TOML.replace("Warfarin", "Dosé").encode("latin-1"))
        for path in (tmp_path, tmp_path / "latin.toml"):
            with pytest.raises(StudyError, match="cannot be read as UTF-8 text"):
                Study.load(path)

    @given(st.text(max_size=80))
    @settings(max_examples=60)
    def test_any_text_is_a_study_or_a_sentence(self, text):
        with pytest.raises(StudyError, match=r"^study\.toml: "):
            Study.parse(text)

    @given(
        st.dictionaries(
            st.sampled_from(["name", "cohort", "model", "features", "target", "privacy", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["name", "kind", "mode", "y"]), inner)
                ),
                max_leaves=6,
            ),
        )
    )
    @settings(max_examples=100)
    def test_any_document_is_a_sentence(self, document):
        with pytest.raises(StudyError, match=r"^s: "):
            Study.from_document(document, source="s")


class TestLoad:
    def test_a_file_is_what_its_text_is(self, tmp_path):
        path = tmp_path / "study.toml"
        path.write_text(TOML, encoding="utf-8")
        assert Study.load(path) == Study.load(str(path)) == STUDY

    def test_a_byte_order_mark_is_no_mistake(self, tmp_path):
        path = tmp_path / "study.toml"
        path.write_bytes(b"\xef\xbb\xbf" + TOML.encode())
        assert Study.load(path) == STUDY

    def test_the_example_is_a_study(self, repository):
        study = Study.load(repository / "examples" / "warfarin" / "study.toml")
        assert (study.privacy.mode, study.privacy.epsilon) == ("distributed", 1.0)


class TestWith:
    def test_keys_are_replaced_and_others_stay(self):
        study = STUDY.with_(privacy={"epsilon": 5.0})
        assert (study.privacy.epsilon, study.privacy.delta) == (5.0, STUDY.privacy.delta)
        assert STUDY.privacy.epsilon == 2.0

    @pytest.mark.parametrize(
        "sections",
        [{"privacy": {"epsilon": -1}}, {"nowhere": {"a": 1}}, {"title": {"a": 1}}],
    )
    def test_the_copy_is_validated(self, sections):
        with pytest.raises(StudyError):
            STUDY.with_(**sections)

    def test_hyper_parameters_can_be_replaced(self):
        assert STUDY.with_(model={"hidden": [4, 4]}).model.parameters == {"hidden": [4, 4]}


class TestDerived:
    def test_steps_rounds_and_optimizer_follow_the_mode(self):
        local = STUDY.with_(
            privacy={"mode": "local"},
            training={"local": {"rounds": 7, "optimizer": {"learning_rate": 0.3}}},
        )
        assert (STUDY.steps, STUDY.rounds, STUDY.optimizer) == (
            "gradient",
            50,
            STUDY.training.optimizer,
        )
        assert (local.steps, local.rounds, local.optimizer.learning_rate) == ("local", 7, 0.3)
        assert local.final_round == 8
        assert (local.optimizer.momentum, local.optimizer.decay) == (0.0, "none")  # as if unsaid
        assert STUDY.with_(privacy={"mode": "local"}).rounds == 50

    @pytest.mark.parametrize(
        ("privacy", "metrics", "private"),
        [
            ("distributed", "private", True),
            ("local", "private", True),
            ("none", "private", False),
            ("distributed", "secure-sum", False),
        ],
    )
    def test_exact_sums_are_opened_unless_both_are_private(self, privacy, metrics, private):
        study = STUDY.with_(privacy={"mode": privacy}, metrics={"mode": metrics})
        assert study.metrics_are_private is private
        assert study.opens_exact_sums is not private

    @given(rounds=st.integers(1, 2000), data=st.data())
    @settings(max_examples=80)
    def test_evaluations_rise_to_the_last_round(self, rounds, data):
        count = data.draw(st.integers(0, min(rounds, 60)))
        study = STUDY.with_(training={"rounds": rounds}, metrics={"evaluations": count})
        found = study.evaluation_rounds
        assert list(found) == sorted(set(found))
        assert found[-1] == study.final_round == rounds + 1
        assert found[0] >= 1
        assert len(found) <= count + 1
        assert set(found[:-1]) <= set(range(1, rounds + 1))

    def test_evaluations_are_denser_at_the_start(self):
        study = STUDY.with_(training={"rounds": 100}, metrics={"evaluations": 5})
        assert study.evaluation_rounds == (4, 12, 26, 45, 70, 101)

    def test_a_study_cannot_be_changed(self):
        with pytest.raises(ValueError, match="frozen"):
            STUDY.privacy.epsilon = 9.0


def test_one_list_is_the_rule_of_live_studies_without_noise_and_never_changes_an_old_digest():
    none = STUDY.with_(privacy={"mode": "none"})
    assert none.opens_one_list(live=True)
    assert not none.opens_one_list(live=False)
    assert not STUDY.opens_one_list(live=True)
    assert "stable_lists" not in str(none.model_dump(mode="json"))
    for asked in (True, False):
        said = none.with_(secure_aggregation={"stable_lists": asked})
        assert said.opens_one_list(live=True) is said.opens_one_list(live=False) is asked
        assert said.digest != none.digest


def test_calibration_needs_an_interval_and_its_share_needs_calibration():
    said = finding(("metrics",), {"calibration_share": 0.3})
    assert "calibration is off: add calibration = true" in said
    document = changed(("metrics",), {"calibration": True})
    document["target"] = {"kind": "binary", "name": "bleeding", "rate": 0.1}
    with pytest.raises(StudyError, match="a binary outcome has no interval to calibrate"):
        Study.from_document(document, source="study.toml")
