"""Models side by side: every patient left out once, the tests right, and nothing trained twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
from omics_cohorts import TARGETS, omics_cohort, omics_schema
from scipy import stats

from fedrx.cli.compare import print_comparison
from fedrx.comparison import Comparison
from fedrx.views.comparison import in_words
from fedrx_common.errors import DataError, MisuseError
from fedrx_protocol.study.study import Study
from fedrx_server.runs.files import RunInUse
from fedrx_simulation.comparison import compare as room
from fedrx_simulation.comparison.compare import (
    Cell,
    CellResult,
    ComparisonPlan,
    compare,
    judge,
    patient_numbers,
)
from fedrx_simulation.comparison.statistics import mean_interval, paired_p, tables

SITES, PATIENTS = 4, 24


def study_of(model, kind="continuous", mode="none"):
    document = {
        **omics_schema(kind).model_dump(mode="json"),
        "name": "omics",
        "cohort": {"patients": SITES * PATIENTS, "largest_site": 2 * PATIENTS},
        "model": {"name": model},
        "training": {"rounds": 4, "optimizer": {"learning_rate": 0.1}},
        "privacy": {"mode": mode},
        "metrics": {"evaluations": 0},
    }
    return Study.from_document(document, source="s")


def plan_of(kind="continuous", **options):
    return ComparisonPlan({m: study_of(m, kind) for m in ("linear", "mlp")}, **options)


def cohorts_of(kind="continuous", patients=PATIENTS):
    schema = omics_schema(kind)
    made = [omics_cohort(schema, patients, seed=i, site=f"s{i}") for i in range(SITES)]
    return {cohort.site: cohort for cohort in made}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "kept"
    plan = plan_of(folds=3, leave_one_site_out=True)
    return plan, compare(plan, cohorts_of(), folder), folder


def test_every_patient_is_left_out_once_for_each_model(found):
    plan, results, _ = found
    for model in plan.studies:
        for scheme in ("folds", "sites"):
            cells = [r for c, r in results.items() if (c.model, c.scheme) == (model, scheme)]
            assert sum(len(one.scores) for one in cells) == SITES * PATIENTS
            units = [unit for one in cells for unit in one.units]
            assert sorted(units) == list(range(SITES * PATIENTS))
    sites = [cell.part for cell in results if cell.scheme == "sites" and cell.model == "mlp"]
    assert sites == [f"s{i}" for i in range(SITES)]


def test_a_private_head_at_each_site_is_a_model_of_its_own(tmp_path):
    plan = plan_of(folds=2, personalised=True)
    shifted = {
        site: replace(cohort, target=np.clip(cohort.target + 4 * number, -50, 50))
        for number, (site, cohort) in enumerate(cohorts_of(patients=48).items())
    }
    found = compare(plan, shifted, tmp_path / "c")
    assert compare(plan, shifted, tmp_path / "c") == found
    (table,) = tables(plan, found)
    names = [one.model for one in table.models]
    assert names == ["linear", "linear, personalised", "mlp", "mlp, personalised"]
    personal = table.models[1]
    assert personal.pairs == SITES * 48
    assert personal.difference < -1  # these sites' outcomes differ by 4, and the heads know it
    assert personal.p < 0.001


def test_a_study_that_starts_elsewhere_is_not_compared():
    studies = {m: study_of(m).with_(transfer={"study": "ab" * 32}) for m in ("linear", "mlp")}
    with pytest.raises(MisuseError, match=r"remove \[transfer\]"):
        ComparisonPlan(studies)


def test_folds_do_not_overlap_and_leave_nobody_out():
    cohort = cohorts_of()["s0"]
    parts = [cohort.split(1 / 3, b"salt", fold)[1].patients for fold in range(3)]
    assert sorted(patient for part in parts for patient in part) == sorted(cohort.patients)
    training, held_out = cohort.split(1 / 3, b"salt", 2)
    assert not set(training.patients) & set(held_out.patients)


def test_a_finished_comparison_trains_nothing_again(found, monkeypatch):
    plan, results, folder = found
    monkeypatch.setattr(room, "start", lambda *_: pytest.fail("it trained again"))
    again = compare(plan, cohorts_of(), folder)
    assert again == results


def test_a_comparison_that_was_cut_off_trains_what_is_missing(found, monkeypatch):
    plan, results, folder = found
    lost = Cell("mlp", "folds", 0, "1")
    (folder / "cells" / lost.file).unlink()
    (folder / "running-killed" / "run").mkdir(parents=True)
    told = []
    again = compare(plan, cohorts_of(), folder, lambda cell, *_: told.append(cell))
    assert told == [lost]
    assert again[lost].scores == pytest.approx(results[lost].scores)
    assert sorted(path.name for path in folder.iterdir()) == ["cells", "comparison.json", "lock"]


def test_a_second_comparison_in_the_same_folder_waits_its_turn(found):
    """It would remove the first one's training, which then speaks of a lost ledger."""
    plan, _, folder = found
    refused = []

    def begin_another(cell, *_):
        with pytest.raises(RunInUse, match="another process is using this run folder"):
            compare(plan, cohorts_of(), folder)
        refused.append(cell)

    lost = Cell("mlp", "folds", 0, "2")
    (folder / "cells" / lost.file).unlink()
    compare(plan, cohorts_of(), folder, begin_another)
    assert refused == [lost]
    compare(plan, cohorts_of(), folder)  # and nothing stays locked


@pytest.mark.parametrize("options", [{"folds": 2}, {"folds": 3, "seeds": (7,)}])
def test_another_comparison_is_not_mixed_in(found, options):
    _, _, folder = found
    with pytest.raises(MisuseError, match="holds another comparison"):
        compare(plan_of(**{"leave_one_site_out": True, **options}), cohorts_of(), folder)


def test_a_comparison_of_another_format_is_not_misread(found, tmp_path):
    plan, _, folder = found
    begun = json.loads((folder / "comparison.json").read_text())
    del begun["format"]
    (tmp_path / "comparison.json").write_text(json.dumps(begun))
    with pytest.raises(MisuseError, match="another version of FedRx"):
        compare(plan, cohorts_of(), tmp_path)


def test_a_patients_number_does_not_depend_on_the_order_of_rows():
    cohorts = cohorts_of()
    turned = {s: c.select(np.arange(len(c))[::-1]) for s, c in reversed(cohorts.items())}
    numbers = patient_numbers(cohorts)
    assert patient_numbers(turned) == numbers
    assert sorted(numbers.values()) == list(range(SITES * PATIENTS))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MisuseError, match="is not empty and holds no comparison"):
        compare(plan_of(folds=2), cohorts_of(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_cohort_smaller_than_the_folds_is_refused(tmp_path):
    with pytest.raises(DataError, match="has 24 patients, fewer than the 25 folds"):
        compare(plan_of(folds=25), cohorts_of(), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_nobody_is_left_where_the_only_site_is_left_out(tmp_path):
    only = {"s0": cohorts_of()["s0"]}
    with pytest.raises(MisuseError, match="no cohort was given"):
        compare(plan_of(folds=0, leave_one_site_out=True), only, tmp_path / "c")


@pytest.mark.parametrize(("agreed", "expected"), [(96, 72), (32, 24), (9600, 7200)])
def test_without_a_site_a_step_is_as_long_as_with_all(monkeypatch, tmp_path, agreed, expected):
    """The divisor is the agreed size, which is a round number and not that of the table."""
    sized = {m: study_of(m).with_(cohort={"patients": agreed}) for m in ("linear", "mlp")}
    seen = []

    def started(study, *_):
        seen.append(study.cohort.patients)
        raise DataError("enough")

    monkeypatch.setattr(room, "start", started)
    with pytest.raises(DataError, match="enough"):
        compare(
            ComparisonPlan(sized, folds=0, leave_one_site_out=True), cohorts_of(), tmp_path / "c"
        )
    assert seen == [expected]


@pytest.mark.parametrize(
    ("kind", "folds", "words"),
    [
        (
            "binary",
            20,
            r"fold 17, seed 1: of the patients held out, all have the same outcome 'toxic'",
        ),
        ("panel", 24, "fold 16, seed 1: no patient is held out at any site; use fewer folds, or"),
    ],
)
def test_a_fold_that_cannot_be_judged_is_refused_before_anything_is_trained(
    tmp_path, kind, folds, words
):
    plan = plan_of(kind, folds=folds, seeds=(1,))
    with pytest.raises(DataError, match=words):
        compare(plan, cohorts_of(kind), tmp_path / "c", lambda *_: pytest.fail("it trained"))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"studies": {"linear": None}}, "at least two models"),
        ({"studies": {}, "leave_one_site_out": True}, "at least two models"),
        ({"folds": 1}, "--folds is 1"),
        ({"folds": 0}, "nothing to compare on"),
        (
            {"folds": 0, "leave_one_site_out": True, "personalised": True},
            "--personalised needs --folds",
        ),
    ],
)
def test_impossible_plans_are_refused(options, words):
    with pytest.raises(MisuseError, match=words):
        ComparisonPlan(**{"studies": {"linear": None, "mlp": None}, **options})


@pytest.mark.parametrize("kind", TARGETS)
def test_each_kind_has_scores_of_which_fewer_is_better(kind):
    target = omics_schema(kind).target
    cohort = omics_cohort(omics_schema(kind), 200)
    rng = np.random.default_rng(0)
    if kind == "survival":
        good = (cohort.target[:, :1] > np.array([[3, 6, 12, 24]])) * 0.8 + 0.1
        bad = np.full((200, 4), 0.5)
    elif kind == "binary":
        good, bad = cohort.target * 0.8 + 0.1, np.full(200, 0.4)
    else:
        good = np.nan_to_num(cohort.target)
        bad = good + rng.normal(0, 3, good.shape)
    scores = [judge(target, one, cohort.target, range(200)) for one in (good, bad)]
    values = [np.array([s for s in one.scores if s is not None]) for one in scores]
    assert len(scores[0].scores) == (4 if kind == "panel" else 200)
    assert values[0].mean() < values[1].mean()
    assert scores[0].metrics


def test_who_leaves_early_does_not_make_pessimism_pay():
    """Patients who leave count as far as they were seen: no wrong hazard beats the true 0.2."""
    target, n = omics_schema("survival").target, 50_000
    edges, rng = np.array(target.edges), np.random.default_rng(0)
    event, leaves = rng.geometric(0.2, n), rng.geometric(0.3, n)  # bins, from 1
    last = np.minimum(leaves, len(edges))
    actual = np.stack([edges[np.minimum(event, last) - 1], event <= last], axis=1).astype(float)
    means = {}
    for hazard in (0.1, 0.15, 0.2, 0.25, 0.35):
        curves = np.tile(np.cumprod(np.full(len(edges), 1 - hazard)), (n, 1))
        scores = judge(target, curves, actual, range(n)).scores
        assert None not in scores
        means[hazard] = np.mean(scores)
    assert min(means, key=means.get) == 0.2


def test_a_site_of_one_class_has_scores_but_no_auc():
    found = judge(omics_schema("binary").target, np.array([0.2, 0.4]), np.zeros(2), [0, 1])
    assert found.metrics == {}
    assert found.scores == pytest.approx([0.04, 0.16])


class TestStatistics:
    def test_the_interval_covers_the_mean_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        ends = [mean_interval(rng.normal(3, 1, 8), 0.0) for _ in range(1000)]
        assert 930 <= sum(low <= 3 <= high for low, high in ends) <= 970

    def test_overlapping_training_sets_widen_it(self):
        values = np.arange(5.0)
        low, high = mean_interval(values, 0.25)
        spread = values.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4)
        assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 4) * spread)
        assert mean_interval(values[:1], 0.0) is None

    def test_the_paired_test_is_of_the_mean(self):
        differences = np.random.default_rng(1).normal(0.3, 1, 60)
        assert paired_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
        assert paired_p(np.full(4, 0.5)) < 0.001
        for none in (np.zeros(5), np.zeros(0), np.ones(1)):
            assert paired_p(none) is None

    def test_word_and_p_answer_the_same_question(self, capsys, tmp_path):
        """A rare outcome: most patients favour one constant, and the mean favours the other."""
        target, rng = omics_schema("binary").target, np.random.default_rng(0)
        actual = (rng.random(160) < 0.1).astype(float)
        results = {
            Cell(model, "folds", 0, "0"): judge(target, np.full(160, p), actual, range(160))
            for model, p in (("linear", 0.1), ("mlp", 0.02))
        }
        (table,) = tables(plan_of("binary", folds=2), results)
        second = table.models[1]
        low, high = second.difference_interval
        assert (low > 0 or high < 0) == (second.p < 0.05)
        found = replace(second, p=0.049)
        assert in_words(found, table) == "worse, p = 0.049 (160 patients)"
        chance = replace(second, p=0.405)
        assert in_words(chance, table) == "no clear difference, p = 0.405 (160 patients)"
        assert in_words(second, table).endswith(f"p = {second.p:.3f} (160 patients)")
        study = study_of("linear", "binary", mode="distributed")
        print_comparison(
            Comparison(
                study,
                (replace(table, models=[table.models[0], chance]),),
                4,
                tmp_path,
            )
        )
        # A file has no edge, as a terminal has, at which words would be cut.
        shown = capsys.readouterr().out
        assert "no clear difference, p = 0.405" in shown
        cost = f"at most ε = {4 * study.privacy.epsilon:g} at δ = {4 * study.privacy.delta:g}"
        assert f"4 trainings on the same patients, and together they cost more: {cost}" in shown

    def test_the_table_pairs_patients_and_says_who_is_better(self):
        plan = plan_of(folds=2)
        rng, results = np.random.default_rng(2), {}
        for fold in ("0", "1"):
            base = rng.random(30)
            for model, shift in (("linear", 0.0), ("mlp", -0.2)):
                scores = [None if i == 3 else float(s + shift) for i, s in enumerate(base)]
                metrics = {"mae": 1 + shift + 0.1 * int(fold), "r2": 0.5}
                units = list(range(30 * int(fold), 30 * int(fold) + 30))
                results[Cell(model, "folds", 0, fold)] = CellResult(metrics, scores, units)
        (table,) = tables(plan, results)
        first, second = table.models
        assert (table.headline.key, table.unit, second.pairs) == ("mae", "patients", 58)
        assert first.difference is None
        assert second.difference == pytest.approx(-0.2)
        assert second.p < 0.001
        assert first.means["mae"] == pytest.approx(1.05)
        assert 0 <= first.interval[0] < 1.05 < first.interval[1]

    @pytest.mark.parametrize("scheme", ["folds", "sites"])
    def test_a_repeat_makes_no_new_patients(self, scheme):
        """The same figures again, dealt otherwise: test and site interval stay as they were."""
        rng, parts = np.random.default_rng(3), 5
        scores = {"linear": rng.random(60), "mlp": rng.random(60)}
        plan = plan_of(folds=parts)

        def line(repeats):
            results = {}
            for seed in range(repeats):
                order = np.arange(60) if scheme == "sites" else rng.permutation(60)
                for part, who in enumerate(np.array_split(order, parts)):
                    for model, all_of_them in scores.items():
                        own = all_of_them[who]
                        cell = Cell(model, scheme, seed, str(part))
                        results[cell] = CellResult({"mae": own.mean()}, own.tolist(), who.tolist())
            (table,) = tables(plan, results)
            return table.models[1]

        once, often = line(1), line(10)
        assert often.pairs == once.pairs == 60
        assert often.p == pytest.approx(once.p)
        assert often.difference_interval == pytest.approx(once.difference_interval)
        if scheme == "sites":
            assert often.interval == pytest.approx(once.interval)

    def test_a_panel_is_paired_by_drug_over_all_cells(self):
        plan = plan_of("panel", folds=2)
        results = {
            Cell(model, "folds", 0, fold): CellResult(
                {"correlation": 0.4}, [0.5 + shift, 0.6 + shift, None, 0.7], range(4)
            )
            for fold in ("0", "1")
            for model, shift in (("linear", 0.0), ("mlp", -0.1))
        }
        (table,) = tables(plan, results)
        assert (table.unit, table.headline.key) == ("drugs", "correlation")
        assert table.models[1].pairs == 3
        assert table.models[1].difference == pytest.approx(-0.2 / 3)


def test_cells_are_plain_numbers(found):
    _, _, folder = found
    for path in (folder / "cells").iterdir():
        content = json.loads(path.read_text())
        assert set(content) == {"metrics", "scores", "units", "personal"}
        assert not any("s0" in str(value) for value in content.values())
