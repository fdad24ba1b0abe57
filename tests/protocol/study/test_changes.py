"""How two studies differ: every value, and nothing else."""

from small_consortium import small_study

from fedrx_protocol.study.changes import StudyChange, study_changes
from fedrx_protocol.study.study import Study


def changed(**sections):
    before = small_study()
    return study_changes(before, before.with_(**sections))


def with_features(change):
    document = small_study().model_dump(mode="json")
    document["features"] = change(document["features"])
    return study_changes(small_study(), Study.from_document(document, source="study"))


def test_the_same_study_does_not_differ():
    assert study_changes(small_study(), small_study()) == ()


def test_each_value_is_named_with_both_sides():
    assert changed(privacy={"epsilon": 3.0}, training={"rounds": 50}) == (
        StudyChange("training.rounds", small_study().training.rounds, 50),
        StudyChange("privacy.epsilon", 8.0, 3.0),
    )
    (one,) = changed(privacy={"epsilon": 3.0})
    assert str(one) == "privacy.epsilon: 8 -> 3"


def test_a_models_own_settings_count():
    before = small_study(model={"name": "mlp", "hidden": [8]})
    found = study_changes(before, small_study(model={"name": "mlp", "hidden": [16]}))
    assert [one.where for one in found] == ["model.hidden"]


def test_a_feature_is_compared_with_its_namesake():
    first, *_ = small_study().model_dump(mode="json")["features"]
    (gone,) = with_features(lambda features: features[1:])
    assert (gone.where, gone.after) == (f"features.{first['name']}", None)
    assert "not there" in str(gone)
    other = {**first, "name": "other"}
    new = with_features(lambda features: [*features, other])
    assert [(one.where, one.before) for one in new] == [("features.other", None)]


def test_the_order_of_features_is_part_of_the_agreement():
    (order,) = with_features(lambda features: features[::-1])
    assert order.where == "features, order"
    assert order.before == order.after[::-1]


def test_two_studies_differ_if_and_only_if_their_digests_do():
    for sections in (
        {"metrics": {"evaluations": 4}},
        {"schedule": {"round_deadline_s": 1.0}},
        {"secure_aggregation": {"max_colluding_sites": 1}},
        {"cohort": {"held_out": 0.25}},
    ):
        after = small_study().with_(**sections)
        assert after.digest != small_study().digest
        assert study_changes(small_study(), after)
