"""Where a site computes: picking a device, its failures, and that sums do not depend on it."""

import numpy as np
import pytest
import torch
from small_consortium import Stage, small_study

from fedrx_client.training.device import CPU, DeviceFailed, devices, pick_device
from fedrx_common.errors import MisuseError
from fedrx_protocol.fixed_point import from_ring


def test_the_fastest_device_is_picked_and_a_missing_one_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert [device.type for device in devices()] == ["cuda", "cpu"]
    assert pick_device().type == pick_device("cuda").type == "cuda"
    assert pick_device("cpu") == CPU
    with pytest.raises(MisuseError, match="'mps' is not here; this machine has cuda, cpu"):
        pick_device("mps")


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_device_that_fails_is_a_refusal_and_costs_nothing(tmp_path, monkeypatch, failure):
    stage = Stage(tmp_path)
    stage.new_epoch()

    def fail(*_, **__):
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr("fedrx_client.participation.compute.clipped_gradient_sum", fail)
        with pytest.raises(DeviceFailed, match="--device cpu"):
            stage.site("site0").train(stage.request(1), stage.start)
    assert stage.releases("site0") == []
    stage.site("site0").train(stage.request(1), stage.start)  # and answers when it is well again
    assert len(stage.releases("site0")) == 1


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO CUDA DEVICE: sums on a GPU are not tested here"
)
@pytest.mark.parametrize("mode", ["distributed", "local", "none"])
def test_sums_on_a_gpu_are_those_of_the_cpu(tmp_path, mode):
    totals = []
    for device in (CPU, torch.device("cuda")):
        (tmp_path / device.type).mkdir()
        stage = Stage(tmp_path / device.type, small_study(privacy={"mode": mode}))
        for name in stage.names:
            stage.sites[name] = stage.open(name, device=device)
        stage.new_epoch()
        totals.append(from_ring(stage.total(2)).astype(np.float64))
    scale = stage.plan.round(2, 0).by_name["training"].scale
    exact = 1e-2 if mode == "none" else 1e-4  # TF32, where nothing is clipped
    np.testing.assert_allclose(totals[1] / scale, totals[0] / scale, rtol=exact, atol=exact)
