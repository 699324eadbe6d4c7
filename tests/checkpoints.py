"""Networks and files for the tests of `interop`: parameters of random bits, pickles and containers made by hand."""

import functools
import struct
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop import pickling
from jaxadd.models import Transformer
from jaxadd.types import Sizes

FLOAT = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
SMALL = Transformer(layers=2, d_model=4, heads=2, d_mlp=3)
ASSUMED = "not stated, and assumed as in Nanda et al.: activation relu"  # Of `mainline` without a config.

quick = settings(
    max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@functools.cache
def sized(config=SMALL, length=3, vocabulary=6, classes=5):
    """The model of a config, read at the last position."""
    return config.build(Sizes(length=length, classes=classes, vocabulary=vocabulary, read=(length - 1,)))


@functools.cache
def _shapes(model):
    return model.shapes()


def network(config=SMALL, length=3, vocabulary=6, classes=5, seed=0, wild=False):
    """Parameters of a network; wild ones are any 32 bits, NaN and infinity among them."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if wild:
            return rng.integers(2**32, size=leaf.shape, dtype=np.uint32).view(np.float32)
        return rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(draw, _shapes(sized(config, length, vocabulary, classes)))


def mainline(config=SMALL, seed=0, **sizes):
    """The state dict of a network in the layout of Nanda et al."""
    return interop.to_mainline(network(config, seed=seed, **sizes), sized(config, **sizes))


def lens(config=SMALL, seed=0, **sizes):
    """The state dict of a network in that of TransformerLens."""
    return interop.to_transformer_lens(network(config, seed=seed, **sizes), sized(config, **sizes))


def bits(tree):
    return jax.tree.map(lambda x: (np.asarray(x).dtype, np.asarray(x).shape, np.asarray(x).tobytes()), tree)


def zipped(path, pickled, storages=(), **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", pickled)
        for i, storage in enumerate(storages):
            file.writestr(f"archive/data/{i}", storage)
    return path


def file(folder, content):
    """A checkpoint of plain data and arrays."""
    data, storages = pickling.dump(content)
    return zipped(folder / "made.pth", data, [storage.tobytes() for storage in storages])


def string(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def tensor(offset=b"K\0", size=b"K\x01\x85", stride=b"K\x01\x85", count=b"K\x04", name="0", kind=FLOAT, tail=b""):
    reference = b"(" + string("storage") + kind + string(name) + string("cpu") + count + b"tQ"
    return REBUILD + b"(" + reference + offset + size + stride + b"\x89" + ORDERED + b")R" + tail + b"tR"


def refused(path, message, **options):
    """Check that a file is refused in one line that names it; returns the line."""
    with pytest.raises(UserError, match=message) as caught:
        interop.read(path, **options)
    line = str(caught.value)
    assert str(path) in line
    assert line.isprintable()
    return line
