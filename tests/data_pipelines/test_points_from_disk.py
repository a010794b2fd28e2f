"""A class of points without images, from files on disk to metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Gather, Scores, State, System
from ad3d_jax.devices import engines
from ad3d_jax.fit.fit import Options, fit
from ad3d_jax.workdir.scores import Row
from data_pipelines.batches import check_batch
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.layout import scan
from data_pipelines.planted import open_planted
from data_pipelines.preprocess import prepare
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import complete_parameters
from data_pipelines.sources import READERS, open_data
from data_pipelines.unlabelled import collate, read_folder
from data_pipelines.validate import validate

POINTS = RECIPES["points"]
HEADER = "ply\nformat binary_little_endian 1.0\nelement vertex {}\n" + "".join(
    f"property float {axis}\n" for axis in "xyz"
)


def ball(seed: int, count: int = 600, dent: bool = False):
    """Returns points [n,3] mm of a ball, and which of them lie in a dent, [n]."""
    random = np.random.default_rng(seed)
    ray = random.standard_normal((count, 3))
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    inside = dent & (ray[:, 2] > 0.9)
    return (ray * np.where(inside, 15.0, 20.0)[:, None]).astype(np.float32), inside


def write_cloud(folder, stem, points, labels=None, name="xyz", ending="ply"):
    (folder / name).mkdir(parents=True, exist_ok=True)
    if ending == "ply":
        head = HEADER.format(len(points)) + "end_header\n"
        (folder / name / f"{stem}.ply").write_bytes(head.encode() + points.tobytes())
    else:
        tifffile.imwrite(folder / name / f"{stem}.tiff", points, photometric="rgb")
    if labels is not None:
        (folder / "gt").mkdir(exist_ok=True)
        np.savetxt(folder / "gt" / f"{stem}.txt", labels, "%g")


@pytest.fixture
def cloud(tmp_path):
    """Returns a class of balls: 4 train, 2 good, 2 with a dent, in millimetres."""
    folder = tmp_path / "data" / "ball"
    for k in range(4):
        write_cloud(folder / "train/good", f"{k:03d}", ball(k, 600 + k)[0])
    for k in range(2):
        write_cloud(folder / "test/good", f"{k:03d}", ball(10 + k)[0])
        points, inside = ball(20 + k, dent=True)
        if k:  # as Real3D-AD has them: the labels' file holds the points that count
            labels = np.c_[points, inside]
            write_cloud(folder / "test/dent", f"{k:03d}", points[::3], labels)
        else:
            write_cloud(folder / "test/dent", f"{k:03d}", points, inside)
    return folder


CHOSEN = {"points": 512, "unit": 0.001}


def neighbours() -> System:
    """Returns a system that scores a point by its distance from the training points."""

    def emit(key, state, batch):
        return {"rows": batch.xyz.reshape(len(batch.xyz), -1, 3)}

    def absorb(key, state, rows):
        bank = rows["rows"].reshape(-1, 3)
        return state._replace(memory={"bank": jnp.asarray(bank)})

    def score(key, state, batch):
        steps = batch.xyz - state.memory["bank"][None, None]  # [B,N,1,3] - [1,1,M,3]
        distance = jnp.sqrt(jnp.min(jnp.sum(steps**2, -1), -1))
        heat = jnp.where(batch.valid[..., 0], distance[..., None], 0)[..., None]
        return Scores(map=heat, image=jnp.max(heat, (1, 2, 3)))

    return System(
        name="neighbours",
        needs_fit=("xyz",),
        needs_score=("xyz", "valid"),
        init=lambda key, batch: State(),
        phases=(Gather("bank", emit, absorb),),
        score=score,
    )


@pytest.mark.parametrize("reader", READERS)
def test_from_files_to_metrics(cloud, tmp_path, reader):
    if reader == "stream":
        pytest.importorskip("tensorflow_datasets")
    assert validate(cloud.parent, "ball") == [
        fault for fault in scan(cloud.parent, "ball").faults if fault.warning
    ]
    manifest, dataset = open_points(cloud, tmp_path, reader)
    assert manifest["fields"].keys() == {"xyz", "valid", "foreground", "mask"}
    first = next(dataset.ordered("train", 2, 0))
    check_batch(first)
    assert first.rgb is None and first.depth is None and first.extras == {}
    assert first.xyz.shape == (2, 512, 1, 3) and first.valid.all()
    np.testing.assert_allclose(np.linalg.norm(first.xyz, axis=-1), 0.02, rtol=1e-5)

    system, engine, key = neighbours(), engines.make_engine("jit"), jax.random.key(0)
    options = Options(batch_size=2, seed=0, progress=False)
    state = fit(system, system.init(key, first), key, dataset, options, engine)
    assert state.memory["bank"].shape == (4 * 512, 3)
    score = evaluation.compile_score(system, engine, key, state)
    scored = evaluation.score_split(score, dataset, 2)
    assert scored.maps.shape == (4, 512, 1)
    rows = [
        Row("ball", s["defect"], s["stem"], s["id"], s["label"])
        for s in manifest["samples"]
        if s["split"] == "test"
    ]
    metrics = evaluation.measure(scored, rows)
    assert metrics["i_auroc"] == 1 and metrics["p_auroc"] > 0.99
    for name in ("aupro_30", "aupro_10", "aupro_05", "aupro_01", "aupro_30_compat"):
        assert metrics[name] is None
        assert "unorganised cloud has no connected regions" in metrics["notes"][name]


def open_points(cloud, tmp_path, reader="resident"):
    data = open_data(
        *(cloud.parent, "ball", "points"),
        parameters=CHOSEN,
        cache=tmp_path / "cache",
        reader=reader,
    )
    return data.manifest, data.dataset


def test_labels_belong_to_the_points_that_were_kept(cloud, tmp_path):
    manifest, dataset = open_points(cloud, tmp_path)
    (batch,) = dataset.ordered("test", 4, 0)
    assert batch.label.tolist() == [1, 1, 0, 0]
    dented = np.linalg.norm(batch.xyz, axis=-1, keepdims=True) < 0.0175
    np.testing.assert_array_equal(batch.mask, dented)
    assert 5 < dented[0].sum() < 60 and 5 < dented[1].sum() < 60
    assert len(set(batch.id.tolist())) == 4
    # Of 600 points 512 are kept, in their order, the same ones in every run.
    points = ball(20, dent=True)[0] * np.float32(0.001)
    place = [int(np.flatnonzero((points == p).all(1))[0]) for p in batch.xyz[0, :, 0]]
    assert place == sorted(set(place))


def test_a_short_cloud_is_filled_up_and_said_so(cloud, tmp_path):
    parameters = {**CHOSEN, "points": 602, "centre": True}
    data = prepare(cloud.parent, "ball", "points", parameters, tmp_path, format="npz")
    assert data.manifest["flags"] == {"filled_up": 6}
    sample = Sample(xyz=ball(0)[0][:, None] + np.float32(100))
    record = POINTS.apply(data.manifest["params"], sample).record
    assert record["valid"].sum() == 600 and not record["valid"][600:].any()
    assert not record["xyz"][600:].any()
    np.testing.assert_allclose(record["xyz"][:600].mean(0), 0, atol=1e-6)


def test_a_scan_in_rows_and_columns_gives_its_measured_points(write, tmp_path):
    rgb, xyz = write.scene(0)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:28, 16:28] = 255
    params = POINTS.fit(complete_parameters("points", {"points": 2000}), iter(()))
    record = POINTS.apply(params, Sample(rgb, xyz, mask)).record
    there = xyz[..., 2] > 0
    np.testing.assert_array_equal(record["xyz"][: there.sum(), 0], xyz[there])
    expected = np.zeros((32, 32), bool)
    expected[8:14, 8:14] = True
    np.testing.assert_array_equal(record["mask"][: there.sum(), 0, 0], expected[there])
    nothing = POINTS.apply(params, Sample(xyz=np.zeros((9, 1, 3), np.float32)))
    assert nothing.flags == ("nothing_measured",) and not nothing.record["valid"].any()


def test_unlabelled_clouds_are_read_alike(cloud, tmp_path):
    manifest, dataset = open_points(cloud, tmp_path)
    (expected,) = dataset.ordered("test", 4, 0)
    found = read_folder(cloud / "test/good", "points", manifest["params"], ("xyz",))
    batch = collate([record for _, record in found], 2)
    np.testing.assert_array_equal(batch.xyz, expected.xyz[2:])
    np.testing.assert_array_equal(batch.id, expected.id[2:])
    assert batch.rgb is None and batch.mask is None
    with pytest.raises(DatasetError, match="no images"):
        read_folder(cloud / "test/good", "points", manifest["params"], ("rgb",))


def test_faults_of_clouds_are_named(cloud, tmp_path):
    arguments = cloud.parent, "ball", "points", CHOSEN, tmp_path / "cache"
    with pytest.raises(DatasetError, match=r"raw expects .*000\.ply is a list"):
        prepare(*arguments[:2], "raw", {"image_size": 16}, tmp_path)
    with pytest.raises(DatasetError, match="unit=0.001"):
        prepare(*arguments[:3], {"points": 9}, tmp_path, format="npz")
    data = prepare(*arguments, format="npz")
    with pytest.raises(DatasetError, match="points in rows and columns"):
        open_planted(cloud.parent, data)
    labels = cloud / "test/dent/gt/000.txt"
    labels.write_text("1\n0\n")
    with pytest.raises(CorruptSampleError, match=r"size \(600, 1\), found \(2, 1\)"):
        prepare(*arguments, format="npz")
    assert [f.kind for f in validate(cloud.parent, "ball") if not f.warning] == [
        "corrupt"
    ]
    labels.unlink()
    faults = scan(cloud.parent, "ball").faults
    assert [f.kind for f in faults if not f.warning] == ["missing_gt"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points": 0}, "points: expected a whole number of 1"),
        ({"unit": 1000}, "unit: expected metres"),
        ({"seed": -1}, "seed"),
        ({"image_size": 8}, "no parameter image_size"),
    ],
)
def test_wrong_parameters_are_named(changes, words):
    with pytest.raises(DatasetError, match=words):
        POINTS.fit(complete_parameters("points", changes), iter(()))
    with pytest.raises(DatasetError, match="needs points"):
        POINTS.apply(POINTS.defaults, Sample(np.zeros((20, 20, 3), np.uint8)))
