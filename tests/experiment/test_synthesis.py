"""The gallery of anomalies, on a small system of the test's own and on DBRN."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from reference_systems import restorer
from test_run import tiny

from ad3d_jax.base import fold_each
from ad3d_jax.experiment import synthesis
from ad3d_jax.experiment.state import key_of
from ad3d_jax.testing import MemoryDataset, make_batch
from experiments.configs import padim


def squares(keys, state, batch):
    """Returns a maker that whitens two fifths of every second sample."""
    assert batch.mask is None and len(fold_each(keys, 1)) == len(batch.id)
    rows = jnp.arange(len(batch.id)) % 2 == 0
    left = jnp.arange(10) < 4
    mask = (rows[:, None, None, None] & left[None, None, :, None]) * jnp.ones(
        (1, 10, 1, 1)
    )
    return {
        "clean_rgb": batch.rgb,
        "altered_rgb": jnp.maximum(batch.rgb, mask),
        "mask": mask.astype(jnp.float32),
    }


def test_draws_are_those_of_the_system_row_by_row(tmp_path):
    config = tiny(tmp_path)
    batch = make_batch(4, size=10)
    batch = next(MemoryDataset({"train": batch}).ordered("train", 4, 0))
    system = restorer()._replace(synthesise=squares)
    state = system.init(key_of(config, "init"), batch)
    names = ["one", "two", "three"]
    made = list(synthesis.draw_all(config, system, state, batch, names, 2))
    assert [draw.title for draw in made] == [
        f"{name}, draw {number}" for name in names for number in (1, 2)
    ]
    areas = [draw.area for draw in made]
    np.testing.assert_allclose(areas, [0.4, 0.4, 0, 0, 0.4, 0.4])
    np.testing.assert_array_equal(made[2].images["clean_rgb"], batch.rgb[1])


def test_a_page_of_dbrn(tmp_path):
    config = tiny(tmp_path / "cache")
    page = synthesis.draw_anomalies(config, str(tmp_path / "out"), count=3, draws=2)
    words = page.read_text(encoding="utf-8")
    assert words.count('class="sample"') == 6 and words.count("<img") == 30
    assert "of 6 draws are anomalous" in words
    assert "probability_normal" in words and "variant" in words
    with Image.open(page.parent / "sheet.png") as image:
        assert image.size[1] > 6 * 100


def test_a_system_without_a_maker_says_so(tmp_path):
    with pytest.raises(ValueError, match="padim trains without artificial anomalies"):
        synthesis.draw_anomalies(padim.get_config(), str(tmp_path / "out"))


@pytest.mark.slow
def test_the_command_ends_with_a_sentence(tmp_path):
    command = [sys.executable, "-m", "experiments.synthesis"]
    command += ["--config=experiments/configs/padim.py", f"--output={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: padim trains without")
    done = subprocess.run(
        [*command, "--draws=0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "draws" in done.stderr
