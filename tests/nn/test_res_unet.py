import jax
import numpy as np
import pytest
from oracles.torch_models import import_networks

from ad3d_jax.nn.res_unet import ResidualUnit
from ad3d_jax.nn.rows import Rows


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_a_unit_is_torchvisions_basic_block(train, parity):
    torch, torchvision, _ = import_networks()
    BasicBlock = torchvision.models.resnet.BasicBlock
    shortcut = [torch.nn.Conv2d(4, 6, 1, bias=False), torch.nn.BatchNorm2d(6)]
    block = BasicBlock(4, 6, downsample=torch.nn.Sequential(*shortcut))
    rng = np.random.default_rng(0)
    for name, value in block.state_dict().items():
        if "num_batches" not in name:
            drawn = rng.random(value.shape) + (0 if "conv" in name else 0.5)
            value.copy_(torch.from_numpy(drawn - 0.5 * ("conv" in name)))
    block.train(train)
    x = rng.standard_normal((2, 8, 8, 4)).astype(np.float32)

    unit = ResidualUnit(6)
    variables = unit.init(jax.random.key(0), x)
    told = {name: value.numpy() for name, value in block.state_dict().items()}
    places = {"conv_1": "conv1", "conv_2": "conv2", "shortcut": "downsample.0"}
    norms = {"norm_1": "bn1", "norm_2": "bn2", "norm_shortcut": "downsample.1"}
    params, stats = variables["params"], variables["batch_stats"]
    for ours, theirs in places.items():
        params[ours]["kernel"] = told[f"{theirs}.weight"].transpose(2, 3, 1, 0)
        params[ours]["bias"] = np.zeros(6, np.float32)
    for ours, theirs in norms.items():
        of = dict(scale="weight", bias="bias")
        params[ours] = {n: told[f"{theirs}.{p}"].copy() for n, p in of.items()}
        of = dict(mean="running_mean", var="running_var")
        stats[ours] = {n: told[f"{theirs}.{p}"].copy() for n, p in of.items()}
    found = unit.apply(variables, x, Rows(train=train), mutable=train and ["sums"])
    found = found[0] if train else found
    with torch.no_grad():
        expected = block(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    parity("DBRN", torchvision, "residual unit, forward", found, expected)
