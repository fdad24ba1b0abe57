"""Whatever cannot be run is refused in one sentence with code 2, and leaves nothing behind."""

import fcntl

import pytest

DATA = ("--data", "patients.csv", "--mapping", "mapping.toml", "--split-by", "site")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("simulate", "--nonsense"), "No such option '--nonsense'"),
        (("nonsense",), "No such command 'nonsense'. `fedrx --help` shows what there is."),
        (("site", "chek"), "No such command 'chek'. Did you mean 'check'? `fedrx site --help`"),
        (("simulate", "--patient", "3"), "Did you mean '--patients'? `fedrx simulate --help`"),
        (("simulate", "study.toml", "other.toml"), "unexpected extra argument (other.toml)"),
        (("simulate", "--output", ""), "an argument is empty, at '--output'"),
        (("simulate", "--output="), "an argument is empty, at '--output'"),
        (("study", "check", ""), "an argument is empty, at 'check'"),
        (("study", "new", "--model", "linear", "--task", "forecast"), "cannot do --task forecast"),
        (("site", "ledger", "zzz"), "zzz: is no site folder; `fedrx site init zzz` makes one"),
        (("site", "audit", "zzz"), "zzz: is no site folder; `fedrx site init zzz` makes one"),
        (("simulate", "--seed", "-1"), "'--seed': -1 is not in the range"),
        (("simulate", "--seed", str(2**63)), f"'--seed': {2**63} is not in the range"),
        (("study", "patients", "study.toml", "--output", "p", "--seed", str(2**64)), "'--seed'"),
        (("simulate", "--seed", "x"), "'--seed': 'x' is not a valid integer"),
        (("simulate", "--dropout"), "'--dropout' requires an argument"),
        (("simulate", "--dropout", "1.5"), "dropout is 1.5: give a chance from 0 to below 1"),
        (("simulate", "--dropout", "nan"), "dropout is nan"),
        (("simulate", "--delay", "-1"), "delay is -1 s"),
        (("simulate", "--delay", "nan"), "delay is nan s"),
        (("simulate", "--delay", "inf"), "delay is inf s"),
        (("simulate", "--patients", "10..5"), "patients is 10..5"),
        (("simulate", "--patients", "0..0"), "patients is 0..0"),
        (("simulate", "--patients", "99999999999"), "a synthetic site has at most 1,000,000"),
        (("simulate", "--patients", "9" * 5000), "give a number, or a range"),
        (("simulate", "--patients", "few"), "--patients is 'few': give a number, or a range"),
        (("simulate", "--patients", "-5"), "--patients is '-5'"),
        (("simulate", "--sites", "0"), "sites is 0"),
        (("simulate", "--sites", "2"), "2 sites are too few"),
        (("simulate", "--sites", "1"), "1 site is too few"),
        (("simulate", "--heterogeneity", "2"), "heterogeneity is 2"),
        (("simulate", "--missingness", "-0.1"), "missingness is -0.1"),
        (("simulate", "--shift", "nan"), "measurement_shift is nan"),
        (("simulate", "--model", "oracle"), "allowed are linear, mlp"),
        (("simulate", "--rounds", "0"), "'training.rounds' is 0"),
        (("simulate", "--rounds", "-1"), "'training.rounds' is -1: it should be greater than"),
        (("simulate", "--epsilon", "-1"), "'privacy.epsilon' is -1.0"),
        (("simulate", "--epsilon", "1e-9"), "no noise keeps epsilon"),
        (("simulate", "--privacy", "trust"), "'privacy.mode' is 'trust'"),
        (("simulate", "--engine", "steam"), "'steam' is not one of 'inprocess', 'flower'"),
        (("simulate", "--sites", "3", "--patients", "1", "--seed", "0"), "no patient is held out"),
        (("simulate", "missing.toml"), "missing.toml: no such study file"),
        (("simulate", "."), ".: cannot be read"),
        (("simulate", "--output", "study.toml"), "study.toml: exists already"),
        (("simulate", "--output", "."), ".: exists already"),
        (("simulate", "--output", "/proc/run"), "/proc/run: the run folder cannot be made"),
        (("simulate", "--data", "patients.csv"), "give --mapping too"),
        (("simulate", "--split-by", "site"), "give --data and --mapping too"),
        (("simulate", *DATA[:4]), "needs --split-by COLUMN, or --sites NUMBER for a table"),
        (("simulate", "study.toml", *DATA, "--sites", "3"), "no sites: give one of the two"),
        (("simulate", "study.toml", *DATA[:4], "--sites", "0"), "sites is 0: use 1 or more"),
        (("simulate", "study.toml", *DATA[:4], "--sites", "99"), "45 patients, too few for 99"),
        (("simulate", "study.toml", *DATA, "--shift", "1"), "--shift cannot be given with --data"),
        (("simulate", "--resume", "nowhere"), "nowhere: is not a run folder"),
        (("simulate", "--resume", "."), ".: is not a run folder"),
        (("simulate", "--resume", "x", "--seed", "1"), "--seed cannot be given with --resume"),
        (
            ("simulate", "--resume", "x", "--output", "y", "--rounds", "9"),
            "--output and --rounds cannot be given with --resume",
        ),
        (("study", "check"), "Missing argument 'STUDY'"),
        (("study", "check", "study.toml", "--sites", "2"), "2 sites are too few"),
        (("study", "check", "study.toml", "--sites", "-5"), "-5 sites are too few"),
        (("study", "new", "--output", "study.toml"), "study.toml: exists already"),
        (("study", "new", "--output", "no/such/study.toml"), "cannot be written"),
    ],
)
def test_a_command_line_that_makes_no_sense(refused, argv, sentence):
    assert sentence in refused(*argv)


TOO_LONG = "x" * 300
COMPARE = ("compare", "--models", "linear,mlp", "--sites", "3", "--patients", "30", "--folds", "2")


@pytest.mark.parametrize("command", [("simulate",), COMPARE], ids=["run", "compare"])
@pytest.mark.parametrize("folder", ["study.toml", "study.toml/x", "/proc/x", TOO_LONG])
def test_a_folder_that_cannot_be_made(refused, command, folder):
    told = refused(*command, "--output", folder)
    assert told.startswith(f"fedrx: {folder}: ")
    assert "name a" in told


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rounds = 3", "rounds = 3\nspeed = 9", "study.toml: unknown key 'training.speed'"),
        ("rounds = 3", 'rounds = "three"', "study.toml: 'training.rounds' is 'three'"),
        ("epsilon = 8.0", "epsilon = 0.0", "study.toml: 'privacy.epsilon' is 0"),
        ("epsilon = 8.0", "delta = 0.09", "privacy.delta is 0.09, but with 60 patients it must be"),
        ("epsilon = 8.0", "delta = 2.0", "study.toml: 'privacy.delta' is 2"),
        ("epsilon = 8.0", "epsilon = 1e-6", "no noise keeps epsilon"),
        ("rounds = 3", "rounds =", "study.toml: not valid TOML"),
        ('"linear"', '"linear"\nhidden = [3]', "study.toml: unknown key 'model.hidden' for model"),
        ('"linear"', '"mlp"\nhidden = [0]', "study.toml: 'model.hidden.0' is 0"),
        ("[metrics]", "[secure_aggregation]\nthreshold = 15\n[metrics]", "threshold"),
        ("largest_site = 40", "largest_site = 10", "allows at most 10 a site"),
        ("minimum_per_site = 5", "minimum_per_site = 39", "at least 39 a site"),
    ],
)
def test_a_study_that_cannot_be_run(refused, place, old, new, sentence):
    text = (place / "study.toml").read_text()
    assert old in text
    (place / "study.toml").write_text(text.replace(old, new))
    assert sentence in refused("simulate", "study.toml", *DATA)


def test_an_empty_study(refused, place):
    (place / "study.toml").write_text("# nothing yet\n")
    assert "study.toml: is empty; `fedrx study new` writes" in refused(
        "study", "check", "study.toml"
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('column = "weight"', 'column = "mass"', "'mass'"),
        ('unit = "kg"', 'unit = "furlong"', "furlong"),
        ('TT = "A/A"', 'TT = "T/T"', "T/T"),
        (', TT = "A/A"', "", "patients.csv"),
        ('kind = "number"', 'kind = "numeral"', "numeral"),
        ('patient = "id"', 'patient = "pid"', "'pid'"),
        ('[target]\ncolumn = "dose"\nunit = "mg/week"', "", "target"),
    ],
)
def test_a_mapping_that_does_not_fit(refused, place, old, new, sentence):
    text = (place / "mapping.toml").read_text()
    assert old in text
    (place / "mapping.toml").write_text(text.replace(old, new))
    assert sentence in refused("simulate", "study.toml", *DATA)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace(",", ";"), "patients.csv"),
        (lambda text: text.replace("p3,", "p2,"), "patient 'p2' is already on line 4"),
        (lambda text: text.replace("51,CT", "511,CT"), "line 3"),
        (lambda text: text.replace("51,CT", "heavy,CT"), "'heavy'"),
        (lambda text: text.replace("51,CT", "51,XX"), "line 3"),
        (lambda text: text.replace("hospital-A", "", 1), "line 2, column 'site'"),
        (lambda text: text.splitlines()[0] + "\n", "patients.csv"),
        (lambda text: "", "patients.csv"),
        (lambda text: text.replace("p3,", "P2,"), "patient 'P2' may be 'p2' of line 4"),
        (lambda text: text.replace("hospital-A", "HOSPITAL-A", 1), "site 'hospital-A' may be"),
        (lambda text: "\n".join(text.splitlines()[:31]) + "\n", "2 sites are too few"),
    ],
)
def test_a_table_that_cannot_be_used(refused, place, change, sentence):
    (place / "patients.csv").write_text(change((place / "patients.csv").read_text()))
    assert sentence in refused("simulate", "study.toml", *DATA)


def test_a_table_in_another_encoding(refused, place):
    text = (place / "patients.csv").read_text().replace("hospital-A", "Hôpital")
    (place / "patients.csv").write_bytes(text.encode("latin-1"))
    assert "patients.csv" in refused("simulate", "study.toml", *DATA)


@pytest.mark.parametrize("name", ["patients.csv", "mapping.toml"])
def test_a_file_that_is_not_there(refused, place, name):
    (place / name).unlink()
    assert f"{name}: " in refused("simulate", "study.toml", *DATA)


def test_no_such_column_to_split_by(refused):
    assert "'town'" in refused("simulate", "study.toml", *DATA[:4], "--split-by", "town")


def test_real_patients_need_a_study_with_their_features(refused):
    assert "mapping" in refused("simulate", *DATA)


@pytest.fixture
def finished(fedrx):
    ran = fedrx("simulate", "study.toml", *DATA, "--seed", "1", "--output", "run", "--no-baselines")
    assert ran.code == 0, ran.err
    return "run"


def test_a_run_folder_that_cannot_be_resumed(refused, place, finished):
    assert "run: exists already" in refused("simulate", "study.toml", *DATA, "--output", finished)
    with (place / "run" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is using this run folder" in refused("simulate", "--resume", "run")
    other = (place / "study.toml").read_text().replace("small_dose", "other_dose")
    (place / "other.toml").write_text(other)
    sentence = refused("simulate", "other.toml", "--resume", "run")
    assert "belongs to study 'small_dose'" in sentence
    assert "not to 'other_dose'" in sentence


def test_a_run_of_other_patients(refused, place, finished):
    (place / "patients.csv").write_text((place / "patients.csv").read_text().replace("p7,", "q7,"))
    assert "the patients of site 'hospital-A' are not those" in refused(
        "simulate", "--resume", "run"
    )
    (place / "patients.csv").unlink()
    assert "patients.csv" in refused("simulate", "--resume", "run")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("meta.json", '{"format": 1, "meta": {}}', "holds no simulation"),
        ("meta.json", '{"format": 9, "meta": {}}', "format 9"),
        ("meta.json", "{", "damaged"),
        ("study.json", "{}", "damaged"),
        ("checkpoints/round-0004.safetensors", "x", "damaged"),
        ("rounds.jsonl", "nonsense\n", "damaged"),
    ],
)
def test_a_damaged_run_folder(refused, place, finished, name, content, sentence):
    (place / "run" / name).write_text(content)
    assert sentence in refused("simulate", "--resume", "run")


def test_an_edited_study_is_another_study(refused, place, finished):
    path = place / "run" / "study.json"
    path.write_text(path.read_text().replace('"epsilon": 8.0', '"epsilon": 80.0'))
    assert "was changed" in refused("simulate", "--resume", "run")
