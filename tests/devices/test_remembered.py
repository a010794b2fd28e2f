import os
import subprocess
import sys

import jax
import pytest

from ad3d_jax.devices import remembered

PROGRAM = """
import jax, jax.numpy as jnp
from pathlib import Path
from ad3d_jax.devices import remembered
remembered.LEAST_SECONDS = 0
remembered.remember_programs()
print(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 3)))[0, 0])
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.fixture
def nowhere():
    """Lets a test set the place that programs are kept in."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_next_process_takes_what_the_first_one_compiled(tmp_path):
    unset = {"JAX_COMPILATION_CACHE_DIR"}
    own = {k: v for k, v in os.environ.items() if k not in unset}
    own["XDG_CACHE_HOME"] = str(tmp_path)
    told, written = [], []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=own, capture_output=True, check=True
        )
        told.append(done.stdout)
        files = [p for p in tmp_path.rglob("*-cache") if p.is_file()]
        written.append({p: p.stat().st_mtime_ns for p in files})
    assert told[0] == told[1] and str(tmp_path).encode() in told[0]
    assert written[0] and written[0] == written[1]
    (kind,) = (tmp_path / "ad3d_jax" / "compiled").iterdir()
    assert kind.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_is_not_used(tmp_path, nowhere, caplog):
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    remembered.remember_programs(open_folder)
    assert jax.config.jax_compilation_cache_dir is None
    (tmp_path / "file").write_text("")
    remembered.remember_programs(tmp_path / "file" / "below")
    assert jax.config.jax_compilation_cache_dir is None
    assert "others may write" in caplog.text and "not kept" in caplog.text


def test_a_place_that_was_set_stays(tmp_path, nowhere):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "set"))
    remembered.remember_programs(tmp_path / "other")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "set")
    assert not (tmp_path / "other").exists()
