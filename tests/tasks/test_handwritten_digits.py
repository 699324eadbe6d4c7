"""Handwritten digits, from scikit-learn and from IDX files."""

import gzip
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.tasks import HandwrittenDigits
from jaxadd.tasks.handwritten_digits import read_idx

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (30, 5, 5)), np.arange(30) % 10, rng.integers(0, 256, (8, 5, 5)), np.arange(8)]
    for i, (name, array) in enumerate(zip(NAMES, arrays, strict=True)):
        if i % 2:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (tmp_path / name).write_bytes(idx(array))
    return tmp_path, arrays


def test_idx_folder_keeps_its_own_split(mnist):
    folder, arrays = mnist
    task = HandwrittenDigits(folder=str(folder), batch_size=None)
    assert task.sizes.length == 25
    data = task.data([0, 1])
    data = data._replace(lane=jax.tree.map(lambda x: x[1], data.lane))
    train, test = task.train_batch(data, jax.random.key(0), jnp.int32(0)), task.test_batch(data)
    np.testing.assert_allclose(train.inputs, arrays[0].reshape(30, -1) / 255, rtol=1e-6)
    np.testing.assert_array_equal(train.targets[:, 0], arrays[1])
    np.testing.assert_allclose(test.inputs, arrays[2].reshape(8, -1) / 255, rtol=1e-6)
    np.testing.assert_array_equal(test.targets[:, 0], arrays[3])


def test_bundled_digits_split_by_seed():
    data = HandwrittenDigits().data([0, 1])
    assert data.shared["pixels"].shape == (1797, 64)
    train, test = (np.asarray(data.lane[part]) for part in ("train", "test"))
    assert train.shape[1] + test.shape[1] == 1797
    assert not np.array_equal(train[0], train[1])
    assert not set(train[0]) & set(test[0])
    batch = HandwrittenDigits().test_batch(data._replace(lane={"test": data.lane["test"][0]}))
    assert batch.inputs.min() == 0
    assert batch.inputs.max() == 1


@pytest.mark.parametrize("name", NAMES)
def test_missing_file(mnist, name):
    folder, _ = mnist
    for path in folder.glob(f"{name}*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"no file {name} or"):
        HandwrittenDigits(folder=str(folder)).data([0])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG\r\n", "not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0", "truncated inside its header"),
        (idx(np.zeros((4, 3, 3)))[:-1], "should hold 36 bytes"),
        (idx(np.zeros(4)) + b"x", "should hold 4 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "should hold 79228162458924105385300197375 bytes"),
    ],
)
def test_corrupt_file(tmp_path, raw, words):
    (tmp_path / "plain").write_bytes(raw)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(raw))
    for name in ("plain", "zipped.gz"):
        with pytest.raises(ValueError, match=words):
            read_idx(tmp_path / name)


def test_corrupt_gzip(tmp_path):
    whole = gzip.compress(idx(np.arange(200) % 7))
    for raw in (whole[:-9], whole[:30], b"not gzip", whole[:20] + b"\xff" * 20 + whole[40:]):
        (tmp_path / "labels.gz").write_bytes(raw)
        with pytest.raises(ValueError, match="truncated or corrupt gzip"):
            read_idx(tmp_path / "labels.gz")


def test_labels_that_do_not_fit(mnist):
    folder, _ = mnist
    (folder / f"{NAMES[1]}.gz").write_bytes(gzip.compress(idx(np.zeros(29))))
    with pytest.raises(ValueError, match=r"square images \[n, rows, rows\] and labels \[n\]"):
        HandwrittenDigits(folder=str(folder)).data([0])


def test_bad_fields():
    with pytest.raises(ValueError, match="test_fraction"):
        HandwrittenDigits(test_fraction=1.0)
    with pytest.raises(ValueError, match="1438 training examples"):
        HandwrittenDigits(batch_size=1439).data([0])
