"""Damaged files: random bytes and mutated checkpoints end in a UserError, or are read as a network."""

import io
import pickle
import pickletools
import random
import zipfile

import jax
import numpy as np
import pytest
from checkpoints import bits, file, mainline, network, quick, refused, sized, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop import unpickling
from jaxadd.models import Transformer

TINY = Transformer(d_model=2, heads=1, d_mlp=1)
SIZES = {"length": 2, "vocabulary": 2, "classes": 2}
fuzzed = settings(quick, max_examples=150)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """The smallest network that has everything, as the bytes of a file."""
    path = tmp_path_factory.mktemp("tiny") / "x.pth"
    params = network(TINY, **SIZES)
    optimizer = interop.Adam(params, params, 3)
    interop.write(path, params, sized(TINY, **SIZES), optimizer=optimizer, rest={"losses": [0.5], "epoch": 1})
    return path.read_bytes()


def _survives(path):
    """Read a damaged file; what is not refused must be a checkpoint."""
    try:
        found = interop.read(path)
    except UserError:
        return False
    assert isinstance(found, interop.Checkpoint)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found.params))
    return True


def test_a_truncated_file_is_refused(tmp_path, tiny_file):
    path = tmp_path / "x.pth"
    path.write_bytes(tiny_file)
    assert _survives(path)
    for end in range(0, len(tiny_file), 41):
        path.write_bytes(tiny_file[:end])
        assert not _survives(path), end


def _mutated(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randrange(1, 8)]
            case 3:
                start = rng.randrange(len(data))
                data[at:at] = data[start : start + rng.randrange(1, 16)]
    return bytes(data)


def _contents(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def fuzz(data, path, seed, rounds):
    """Mutate a file's bytes, and in turn its pickle, put back into a sound container; count what was read."""
    rng, contents = random.Random(seed), _contents(data)
    read = 0
    for i in range(rounds):
        if i % 2:
            path.write_bytes(_mutated(data, rng))
        else:
            with zipfile.ZipFile(path, "w") as file:
                for name, content in contents.items():
                    file.writestr(name, _mutated(content, rng) if name.endswith("data.pkl") else content)
        read += _survives(path)
    return read


def test_random_damage_is_refused_or_harmless(tmp_path, tiny_file):
    assert fuzz(tiny_file, tmp_path / "x.pth", seed=0, rounds=600) < 400


def test_no_weight_of_a_changed_file_passes_unseen(tmp_path, tiny_file):
    """A flipped bit in a storage is found by its checksum."""
    start = tiny_file.index(network(TINY, **SIZES)["embed"]["W_E"].T.tobytes())
    path = tmp_path / "x.pth"
    path.write_bytes(tiny_file[:start] + bytes([tiny_file[start] ^ 1]) + tiny_file[start + 1 :])
    refused(path, "damaged")


def test_numbers_in_either_byte_order_are_read(tmp_path, tiny_file):
    contents = _contents(tiny_file)
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            if "/data/" in name:
                content = np.frombuffer(content, np.uint32).byteswap().tobytes()
            file.writestr(name, b"big" if name.endswith("byteorder") else content)
    (tmp_path / "y.pth").write_bytes(tiny_file)
    assert bits(interop.read(path).params) == bits(interop.read(tmp_path / "y.pth").params)


def test_a_name_in_a_file_cannot_write_on_the_terminal(tmp_path):
    path = file(tmp_path, {"model": mainline() | {"\x1b[2J\n" * 1000: np.ones(1)}})
    with pytest.raises(UserError) as caught:
        interop.read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.fixture(scope="module")
def tiny_pickle(tiny_file):
    return _contents(tiny_file)["archive/data.pkl"]


@fuzzed
@given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{", b"<html"]))
def test_random_bytes_are_refused(tmp_path, data, start):
    path = tmp_path / "x.pth"
    path.write_bytes(start + data)
    assert not _survives(path)


@fuzzed
@given(st.binary(max_size=200))
def test_a_pickle_of_random_bytes_is_refused(tmp_path, data):
    assert not _survives(zipped(tmp_path / "x.pth", b"\x80\x02" + data + b".", [bytes(16)]))


@fuzzed
@given(st.data())
def test_a_pickle_of_random_operations_is_refused_or_harmless(tmp_path, tiny_file, tiny_pickle, data):
    """Operations of all kinds, at the end of a sound pickle or anywhere in it."""
    operations = st.sampled_from([operation.code.encode("latin1") for operation in pickletools.opcodes])
    odd = st.lists(st.one_of(operations, st.binary(max_size=4)), max_size=12).map(b"".join)
    at = data.draw(st.integers(0, len(tiny_pickle)))
    changed = tiny_pickle[:at] + data.draw(odd) + tiny_pickle[at + data.draw(st.integers(0, 3)) :]
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in _contents(tiny_file).items():
            file.writestr(name, changed if name.endswith("data.pkl") else content)
    _survives(path)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5))
    | st.one_of(st.sets(st.integers()), st.complex_numbers(), st.dates(), st.fractions()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


@fuzzed
@given(VALUES, st.integers(0, 5))
def test_every_pickle_of_python_is_read(value, protocol):
    found, skipped = unpickling.load(pickle.dumps({"x": value}, protocol), None)
    assert set(found) == {"x"}
    if not skipped:
        assert pickle.dumps(found["x"]) == pickle.dumps(value) or found["x"] == value
