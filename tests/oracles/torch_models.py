"""The public networks of torchvision and timm, where torch is installed."""

import pytest


def import_networks():
    """Returns the modules (torch, torchvision, timm), or skips.

    torchvision declares shapes of operators that its build for another torch release
    may lack, and does not import then; those declarations are skipped.
    """
    torch = pytest.importorskip("torch")
    from torch import library

    declare = library.register_fake

    def declare_others(name, *arguments, **options):
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return declare(name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "register_fake", declare_others)
        torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
        timm = pytest.importorskip("timm", exc_type=ImportError)
    return torch, torchvision, timm


def randomised(torch, network, seed):
    """Returns a network in inference mode with weights and statistics drawn by torch.

    Convolutions keep their initialisation; batch norms, which begin as identities, get
    scales about 1, shifts, means and variances.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(part.weight)
            elif isinstance(part, torch.nn.BatchNorm2d):
                part.weight.uniform_(0.3, 0.9)
                part.bias.normal_(0.0, 0.2)
                part.running_mean.normal_(0.0, 0.3)
                part.running_var.uniform_(0.5, 2.0)
    return network.eval()
