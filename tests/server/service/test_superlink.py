"""What the proxy lets through, and the checks before anything is started; no Flower process."""

import io
import subprocess
import sys
import zipfile

import pytest
from flwr.common.config import get_fab_config
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from live_consortium import wait_until, write_certificates
from spare_ports import free_ports

from fedrx_common.errors import MisuseError
from fedrx_server.gateway.control import SuperLinkAddress, SuperLinkUnusable
from fedrx_server.gateway.limits import GatewayLimits
from fedrx_server.service import parent_death
from fedrx_server.service.grid import empty_bundle, live_run
from fedrx_server.service.process import Child
from fedrx_server.service.proxy import FLEET_CALLS, FUSED_CALLS, Tls, proxy_config
from fedrx_server.service.superlink import Ports, SuperLink


@pytest.fixture
def tls(tmp_path) -> Tls:
    write_certificates(tmp_path / "tls")
    return Tls(*(tmp_path / "tls" / name for name in ("ca.crt", "server.crt", "server.key")))


class TestProxy:
    def test_it_names_every_fleet_call_of_this_flower_but_the_two_that_change_the_roster(self):
        paths = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
        calls = {path.rpartition("/")[2] for path in paths}
        assert set(FLEET_CALLS) == calls - {"register-node", "unregister-node"}

    def test_two_locations_pass_and_all_else_is_refused(self, tls, tmp_path):
        config = proxy_config(tmp_path, tls, listen="127.0.0.1:8443", inner_port=9443)
        assert config.count("proxy_pass ") == 2
        assert config.count("proxy_pass https://superlink/v1/fleet/$call;") == 2
        assert config.count("location ") == 3
        assert f"(?<call>{'|'.join(FUSED_CALLS)})$" in config
        assert "location / { return 404; }" in config
        assert "control" not in config
        assert "runtime" not in config

    def test_a_folder_that_nginx_could_misread(self, tls, tmp_path):
        with pytest.raises(MisuseError, match="choose a folder"):
            proxy_config(tmp_path / 'a";b', tls, listen="127.0.0.1:8443", inner_port=9443)

    def test_a_missing_certificate_is_named(self, tls, tmp_path):
        with pytest.raises(MisuseError, match=r"gone\.crt: is not there"):
            Tls(tls.ca_certificate, tmp_path / "gone.crt", tls.key)


class TestBackstage:
    @pytest.mark.parametrize("address", ["0.0.0.0:9443", "192.168.1.4:9443", "example.org:9443"])
    def test_the_superlink_itself_is_only_on_loopback(self, address):
        with pytest.raises(MisuseError, match="loopback"):
            SuperLinkAddress(address, b"ca", b"secret")

    def test_an_empty_secret(self):
        with pytest.raises(MisuseError, match="secret is empty"):
            SuperLinkAddress("127.0.0.1:9443", b"ca", b"")

    def test_another_flower(self, monkeypatch):
        monkeypatch.setattr("fedrx_server.gateway.control.package_version", "1.42.0")
        with pytest.raises(MisuseError, match=r"1\.41\.0 and found 1\.42\.0"):
            SuperLinkAddress("127.0.0.1:9443", b"ca", b"secret")


def test_the_bundle_is_one_flower_takes_and_holds_no_code():
    bundle = empty_bundle()
    assert bundle == empty_bundle()
    assert "components" in get_fab_config(bundle)["tool"]["flwr"]["app"]
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        assert archive.namelist() == ["pyproject.toml", ".info/CONTENT"]


def test_a_run_without_a_superlink_says_what_to_start(tls):
    superlink_address = SuperLinkAddress(
        f"127.0.0.1:{free_ports(1)[0]}", tls.ca_certificate.read_bytes(), b"secret"
    )
    with (
        pytest.raises(SuperLinkUnusable, match="coordinator start"),
        live_run(superlink_address, "study"),
    ):
        pass


class TestPorts:
    @pytest.mark.parametrize("ports", [(8443, 8443, 1), (0, 1, 2), (1, 2, 70000)])
    def test_ports_that_cannot_be(self, ports):
        with pytest.raises(MisuseError, match="three different ones"):
            Ports(*ports)

    def test_the_folder_and_the_secret_are_the_coordinators_alone(self, tls, tmp_path):
        first = SuperLink(tmp_path / "run", tls, Ports()).superlink_address.secret
        assert SuperLink(tmp_path / "run", tls, Ports()).superlink_address.secret == first
        assert len(first) == 32
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "run" / "tasks.secret").stat().st_mode & 0o777 == 0o600


class TestChild:
    def child(self, tmp_path, code) -> Child:
        return Child("child", [sys.executable, "-c", code], tmp_path / "log", {})

    def test_a_dead_child_is_started_again_but_not_at_once(self, tmp_path):
        child = self.child(tmp_path, "import sys; sys.exit('out of order')")
        child.start()
        first = child.pid
        wait_until(lambda: not child.alive, 30, "dead")
        child.revive()
        assert child.pid == first
        wait_until(lambda: child.revive() or child.pid != first, 30, "alive again")
        child.stop()
        assert "out of order" in child.log.read_text()

    def test_a_living_child_is_left_alone_and_stops_when_told(self, tmp_path):
        child = self.child(tmp_path, "import time; time.sleep(60)")
        child.start()
        first = child.pid
        child.revive()
        assert child.pid == first
        child.stop()
        assert not child.alive

    def test_a_superlink_that_does_not_come_up_is_reported_with_its_log(self, tls, tmp_path):
        link = SuperLink(tmp_path / "run", tls, Ports(*free_ports(3)))
        link._superlink = self.child(tmp_path, "raise SystemExit('no')")
        with pytest.raises(SuperLinkUnusable, match=f"see {tmp_path}/log"), link.running(10):
            pass


class TestLogs:
    def test_a_log_does_not_grow_without_end(self, tmp_path):
        code = "import sys, time; sys.stdout.write('x' * 5_000_000); sys.stdout.flush()\n"
        child = Child(
            "child", [sys.executable, "-c", code + "time.sleep(60)"], tmp_path / "log", {}
        )
        child.start()
        wait_until(lambda: child.log.stat().st_size == 5_000_000, 30, "a long log")
        child.trim_log()
        assert child.log.stat().st_size == 0
        assert (tmp_path / "log.1").stat().st_size == 5_000_000
        child.stop()

    def test_what_the_child_writes_next_begins_the_new_log(self, tmp_path):
        code = (
            "import sys\nfor line in ('x' * 5_000_000, 'after'):\n"
            "    print(line, flush=True)\n    input()\n"
        )
        log = tmp_path / "log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=output
            )
        wait_until(lambda: log.stat().st_size > 5_000_000, 30, "a long log")
        Child("child", [], log, {}).trim_log()
        child.communicate(b"\n\n", timeout=60)
        assert log.read_text() == "after\n"

    def test_the_log_of_last_time_is_kept(self, tmp_path):
        child = Child("child", [], tmp_path / "log", {})
        child.begin_log()
        child.log.write_text("last time")
        child.begin_log()
        assert not child.log.exists()
        assert (tmp_path / "log.1").read_text() == "last time"


class TestLeash:
    def test_it_becomes_the_program(self, tmp_path):
        child = Child("child", ["/bin/echo", "here"], tmp_path / "log", {})
        child.start()
        wait_until(lambda: not child.alive, 30, "done")
        assert child.log.read_text() == "here\n"

    def test_without_its_parent_it_does_not_start(self):
        command = [sys.executable, parent_death.__file__, "1", "/bin/echo", "here"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "supervisor is gone" in done.stderr


@pytest.mark.parametrize("wrong", [{"objects": 0}, {"wait_s": -1.0}, {"object_bytes": 2**31}])
def test_limits_that_make_no_sense(wrong):
    with pytest.raises(MisuseError, match="limits"):
        GatewayLimits(**wrong)
