"""What hospital IT reads and runs: every file of deploy/ is held to the tool that uses it.

The tools stand in `.venv/tools` after `.ci/deploy-tools`; a test whose tool is missing is skipped
and says so. No container engine runs here: the image's own commands run as plain processes.
"""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from command_lines import complaint

from fedrx_client.connection.agent import Health

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "fedrx"
UNITS = DEPLOY / "systemd"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SITES = ("charite", "mayo", "osaka")
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), ROOT / ".ci" / "run", ROOT / ".ci" / "deploy-tools"])
KUBERNETES = ("1.27", "1.31", "1.35")
A_SITE = {
    "site.enabled": "true",
    "site.name": "charite",
    "site.coordinator.host": "fl.example.org",
    "site.coordinator.address": "192.0.2.10/32",
    "site.passphrase.secretName": "charite",
    "site.cohort.persistentVolumeClaim.claimName": "warfarin",
}


def tool(name):
    """The path of a program, or a skip that names it."""
    own = Path(sys.prefix) / "tools" / "bin" / name
    found = str(own) if own.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} IS MISSING, so what it checks is UNCHECKED: run .ci/deploy-tools")
    return found


def run(*command, **options):
    return subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, timeout=120, **options
    )


def check(*command, **options):
    """Run a checker; whatever it complains about is the test's message."""
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class TestTheContainer:
    def test_the_linter_has_nothing_to_say(self):
        check(tool("hadolint"), DEPLOY / "Containerfile")

    def test_every_room_is_copied_and_reaches_the_builder(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        rooms = {package.split("/")[0] for package in packages}
        copied = re.findall(r"^COPY (\w+) \1$", (DEPLOY / "Containerfile").read_text(), re.M)
        sent = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
        assert set(copied) == rooms
        assert {f"!{room}" for room in rooms} < set(sent)
        assert "*" in sent

    def test_it_ends_without_root(self):
        lines = (DEPLOY / "Containerfile").read_text().splitlines()
        assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]

    def test_an_unknown_variant_is_one_sentence(self, tmp_path):
        guard = re.search(r"RUN (case .*?esac)", (DEPLOY / "Containerfile").read_text(), re.S)
        script = guard.group(1).replace("\\\n", "\n")
        for variant, index, code in (
            ("cpu", "", 2),
            ("gpu", "x", 2),
            ("cpu", "x", 0),
            ("cuda", "", 0),
        ):
            done = run("sh", "-c", script, env={"VARIANT": variant, "TORCH_INDEX": index})
            assert done.returncode == code, (variant, done.stderr)
            assert bool(done.stderr) == bool(code)

    def test_the_probe_tells_ready_from_not_ready_and_from_nobody(self):
        def probe(*arguments, **env):
            clean = {key: value for key, value in os.environ.items() if "FEDRX" not in key}
            command = [sys.executable, DEPLOY / "probe.py", *arguments]
            return run(*command, env=clean | env).returncode

        health = Health()
        with health.served(0) as port:
            assert probe(port) == 1
            health.set(serving=True)
            assert probe(port) == 0
            assert probe(FEDRX_HEALTH_PORT=str(port)) == 0
        assert probe(port) == 1
        assert probe() == 2
        assert probe("localhost") == 2


class TestTheComposeFile:
    @pytest.fixture
    def services(self):
        return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    def test_it_keeps_the_published_schema(self):
        check(
            tool("check-jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"),
        )

    def test_no_service_has_more_rights_than_it_needs(self, services):
        for name, service in services.items():
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["image"] == f"fedrx:{VERSION}", name
            root = name == "volumes"
            assert service["user"] == ("0:0" if root else "10001:10001"), name
            assert service.get("cap_add", []) == (["CHOWN"] if root else []), name

    def test_a_site_reaches_the_coordinator_and_nobody_else(self, services):
        networks = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["networks"]
        assert all(network["internal"] for network in networks.values())
        assert not any("ports" in service for service in services.values())
        for site in SITES:
            (own,) = services[site]["networks"]
            users = {name for name, one in services.items() if own in one.get("networks", [])}
            assert users == {site, "coordinator"}
            assert services[site]["volumes"] == [f"{site}:/data/{site}"]
            assert services[site]["secrets"] == [site]
        for name in ("volumes", "bootstrap"):
            assert services[name]["network_mode"] == "none"

    def test_its_commands_exist(self, services):
        for name in ("coordinator", *SITES):
            assert complaint(services[name]["command"]) is None

    def test_the_passphrases_are_made_once_and_kept_from_others(self, tmp_path):
        folder = tmp_path / "secrets"
        script = DEPLOY / "demo" / "secrets.sh"
        check("sh", script, folder)
        first = {path.name: path.read_text() for path in folder.iterdir()}
        assert set(first) == {"coordinator", *SITES, ".gitignore"}
        assert len({first[site] for site in SITES}) == len(SITES)
        assert all(re.fullmatch("[0-9a-f]{48}", first[site]) for site in SITES)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        check("sh", script, folder)
        assert {path.name: path.read_text() for path in folder.iterdir()} == first


class TestScriptsAndYaml:
    def test_shell_scripts(self):
        check(tool("shellcheck"), *SCRIPTS)

    def test_yaml(self):
        rules = "{extends: relaxed, rules: {line-length: {max: 110}}}"
        plain = [DEPLOY / "compose.yaml", CHART / "Chart.yaml", CHART / "values.yaml"]
        check(tool("yamllint"), "--strict", "-d", rules, *plain)


class TestTheUnits:
    @pytest.fixture
    def installed(self, tmp_path):
        """The units as if installed, with the `fedrx` of this environment."""
        fedrx = str(Path(sys.executable).parent / "fedrx")
        paths = []
        for unit in sorted(UNITS.glob("*.service")):
            path = tmp_path / unit.name.replace("@", "@charite")
            path.write_text(unit.read_text().replace("/opt/fedrx/bin/fedrx", fedrx))
            paths.append(path)
        drop_in = tmp_path / "fedrx-site@charite.service.d" / "gpu.conf"
        drop_in.parent.mkdir()
        shutil.copy(UNITS / "gpu.conf", drop_in)
        return paths

    def test_systemd_understands_every_line(self, installed):
        done = run(tool("systemd-analyze"), "verify", *installed)
        assert (done.returncode, done.stderr) == (0, "")

    def test_they_are_shut_in_as_far_as_works(self, installed):
        analyze = tool("systemd-analyze")
        options = ("security", "--offline=yes", "--no-pager")
        site = installed[-1]
        check(analyze, *options, "--threshold=13", site)  # with a GPU
        shutil.rmtree(site.with_name(f"{site.name}.d"))
        for unit in installed:
            check(analyze, *options, "--threshold=11", unit)

    def test_the_linter_can_fail(self, installed):
        for unit in installed:
            drop_in = unit.with_name(f"{unit.name}.d") / "gpu.conf"
            wrong = drop_in if drop_in.exists() else unit
            text = wrong.read_text()
            wrong.write_text(re.sub("Private(Tmp|Devices)=(yes|no)", r"Private\1=perhaps", text))
            assert "perhaps" in run(tool("systemd-analyze"), "verify", unit).stderr

    def test_their_commands_exist(self):
        for unit in UNITS.glob("*.service"):
            (command,) = re.findall(
                r"^ExecStart=/opt/fedrx/bin/fedrx (.*)$", unit.read_text(), re.M
            )
            assert complaint(shlex.split(command)) is None


class TestTheChart:
    def template(self, values):
        options = [f"--set={key}={value}" for key, value in values.items()]
        return run(tool("helm"), "template", "try", CHART, *options)

    def documents(self, values):
        done = self.template(values)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    @pytest.mark.parametrize("values", [{"coordinator.enabled": "true"}, A_SITE], ids=["c", "s"])
    def test_lint(self, values):
        options = [f"--set={key}={value}" for key, value in values.items()]
        check(tool("helm"), "lint", "--strict", CHART, *options)

    @pytest.mark.parametrize("version", KUBERNETES)
    def test_kubernetes_takes_it(self, version, tmp_path):
        rendered = tmp_path / "rendered.yaml"
        rendered.write_text(self.template(A_SITE | {"coordinator.enabled": "true"}).stdout)
        said = check(tool("kubernetes-validate"), "-k", version, "--strict", rendered)
        assert said or rendered.read_text().count("kind: StatefulSet") == 2

    def test_the_release_is_the_packages(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)

    @pytest.mark.parametrize(
        ("values", "complaint"),
        [
            ({}, "anyOf"),
            (A_SITE | {"site.passphrase.secretName": ""}, "secretName"),
            (A_SITE | {"site.coordinator.host": ""}, "host"),
            (A_SITE | {"site.name": "two words"}, "name"),
            (A_SITE | {"site.storage.size": "plenty"}, "size"),
            (A_SITE | {"site.replicas": "2"}, "replicas"),
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, values, complaint):
        done = self.template(values)
        assert done.returncode
        assert complaint in done.stderr

    def test_pods_are_shut_in(self):
        sets = [
            one
            for one in self.documents(A_SITE | {"coordinator.enabled": "true"})
            if one["kind"] == "StatefulSet"
        ]
        assert len(sets) == 2
        for one in sets:
            pod = one["spec"]["template"]["spec"]
            assert one["spec"]["replicas"] == 1
            assert pod["securityContext"]["runAsNonRoot"]
            assert not pod["automountServiceAccountToken"]
            for container in [*pod["initContainers"], *pod["containers"]]:
                security = container["securityContext"]
                assert security["readOnlyRootFilesystem"]
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert not security["allowPrivilegeEscalation"]

    def test_nobody_reaches_a_site_and_it_reaches_the_coordinator_only(self):
        (policy,) = [one for one in self.documents(A_SITE) if one["kind"] == "NetworkPolicy"]
        assert policy["spec"]["ingress"] == []
        door, names = policy["spec"]["egress"]
        assert door == {
            "ports": [{"port": 8443, "protocol": "TCP"}],
            "to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}],
        }
        assert {port["port"] for port in names["ports"]} == {53}
        assert not [one for one in self.documents(A_SITE) if one["kind"] in {"Service", "Secret"}]

    def test_its_commands_exist(self):
        for one in self.documents(A_SITE | {"coordinator.enabled": "true"}):
            if one["kind"] == "StatefulSet":
                (container,) = one["spec"]["template"]["spec"]["containers"]
                assert complaint(container["args"]) is None


def test_the_image_holds_every_room():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rooms = {
        package.split("/")[0]
        for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    steps = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8").splitlines()
    let_in = (ROOT / "deploy" / "Containerfile.dockerignore").read_text(encoding="utf-8")
    assert {room for room in rooms if f"COPY {room} {room}" not in steps} == set()
    assert {room for room in rooms if f"!{room}" not in let_in.splitlines()} == set()
