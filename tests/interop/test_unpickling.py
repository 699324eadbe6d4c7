"""Pickles: plain data and tensors are read, everything else is skipped, and nothing in a file runs."""

import argparse
import datetime
import decimal
import fractions
import functools
import os
import pickle
import signal
import struct
import subprocess
import sys
import types
import uuid
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
from checkpoints import FLOAT, ORDERED, REBUILD, mainline, refused, string, tensor, zipped

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop import opaque, unpickling
from jaxadd.interop.opaque import Skipped
from jaxadd.models import Transformer

ROOT = Path(__file__).parents[2]
TINY = Transformer(d_model=2, heads=1, d_mlp=1)


class _Call:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


class _Built:
    """Pickled as an OrderedDict whose state, were it set, would replace its attributes."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return OrderedDict, (), self.state


def _calls(canary):
    """Pickles that would make the file `canary` if anything in them ran."""
    code, made = f"open({str(canary)!r}, 'w').write('x')", str(canary)
    objects = {
        "system": _Call(os.system, (f"touch {canary}",)),
        "eval": _Call(eval, (code,)),
        "exec": _Call(exec, (code,)),
        "open": _Call(open, (made, "w")),
        "mkdir": _Call(os.mkdir, (made,)),
        "popen": _Call(subprocess.Popen, (["touch", made],)),
        "getattr": _Call(getattr, (OrderedDict, "fromkeys")),
        "method": _Call(Path(made).touch, ()),
        "inside": {"model": [{"x": (1, _Call(exec, (code,)))}]},
        "state": _Built({"__class__": _Call(exec, (code,))}),
        "ordered dict of calls": _Call(OrderedDict, ([("a", _Call(exec, (code,)))],)),
        "a class": os.system,
        "instance": UserError("x"),
        "array of objects": np.array([_Call(exec, (code,)), 1], dtype=object),
    }
    for name, value in objects.items():
        for protocol in (2, 3, 4, 5):
            yield f"{name} {protocol}", pickle.dumps(value, protocol)
    text = string(code)
    calls = {
        "inst": b"(" + text + b"ibuiltins\nexec\n.",
        "obj": b"(cbuiltins\nexec\n" + text + b"o.",
        "newobj": b"cbuiltins\nexec\n" + text + b"\x85\x81.",
        "newobj_ex": b"\x80\x04cbuiltins\nexec\n" + text + b"\x85}\x92.",
        "ext1": b"\x82\x01.",
        "ext2": b"\x83\x01\x00.",
        "ext4": b"\x84\x01\x00\x00\x00.",
        "persid text": b"P" + code.encode() + b"\n.",
        "dotted": string("collections") + string("OrderedDict.__init__.__globals__") + b"\x93.",
        "dotted allowed": string("collections.OrderedDict") + string("__init__") + b"\x93.",
        "dotted torch": string("torch._utils") + string("_rebuild_tensor_v2.__globals__") + b"\x93.",
        "nested module": string("torch.serialization.os") + string("system") + b"\x93.",
        "global of no name": b"}}\x93.",
        "global of spaces": b"cbuiltins exec\nx\n.",
        "called string": text + text + b"\x85R.",
        "called dict": b"}" + text + b"\x85R.",
        "called tensor": tensor() + text + b"\x85R.",
        "ordered dict called": ORDERED + b"]" + text + b"a\x85R.",
        "built string": text + b"}" + text + text + b"sb.",
        "built function": REBUILD + b"}" + string("__code__") + text + b"sb.",
        "built storage": FLOAT + b"}" + string("__class__") + text + b"sb.",
        "built tensor": tensor() + b"}" + string("__class__") + text + b"sb.",
        "pair state": ORDERED + b")R}}" + string("__class__") + text + b"s\x86b.",
        "codec": b"c_codecs\nencode\n" + text + string("rot13") + b"\x86R.",
        "codec of zip": b"c_codecs\nencode\n" + text + string("zip") + b"\x86R.",
        "decode": b"c_codecs\ndecode\n" + text + string("unicode_escape") + b"\x86R.",
        "dtype of objects": b"cnumpy\ndtype\n" + string("O8") + b"\x89\x88\x87R.",
        "dtype of records": b"cnumpy\ndtype\n" + string("f4,O") + b"\x89\x88\x87R.",
        "numpy load": b"cnumpy\nload\n" + string(made) + b"\x85R.",
        "rebuild": b"cnumpy.core.multiarray\n_reconstruct\ncbuiltins\nlist\nK\0\x85C\x01b\x87R.",
        "append to a name": ORDERED + text + b"a.",
        "items of a name": ORDERED + text + text + b"s.",
        "persistent string": text + b"Q.",
        "persistent module": b"(" + string("module") + FLOAT + string("0") + string("cpu") + b"K\x04tQ.",
        "persistent list": b"]" + text + b"aQ.",
        "storage of a call": tensor(kind=ORDERED),
        "storage by path": tensor(name="../../etc/passwd") + b".",
        "storage of a string": tensor(kind=string("torch.FloatStorage")) + b".",
        "storage elsewhere": tensor(kind=b"ctorch.cuda\nFloatStorage\n") + b".",
        "hooks": REBUILD + string("x") * 6 + b"(" + string("x") * 6 + b"tR.",
        "metadata": tensor(tail=b"}" + string("neg") + b"\x88s") + b".",
        "name as data": FLOAT + b".",
        "storage as data": b"(" + string("storage") + FLOAT + string("0") + string("cpu") + b"K\x04tQ.",
        "dtype as data": b"cnumpy\ndtype\n" + string("f8") + b"\x89\x88\x87R.",
    }
    yield from calls.items()


def beside(pickled):
    """A pickle of a network's state dict, and what another pickle holds beside it."""
    body = pickled.removesuffix(b".")
    # A storage of four numbers serves all tensors, which are those of the smallest network.
    weights = b"".join(string(name) + tensor(size=size, stride=stride) for name, size, stride in _shaped(TINY))
    return b"\x80\x02}(" + string("model") + b"}(" + weights + b"u" + string("other") + body + b"u."


def _shaped(config):
    def numbers(values):
        return b"(" + b"".join(b"K" + bytes([n]) for n in values) + b"t"

    for name, array in mainline(config, length=2, vocabulary=2, classes=2).items():
        if not name.endswith("mask"):
            yield name, numbers(array.shape), numbers(stride // array.itemsize for stride in array.strides)


def test_no_pickle_runs_anything(tmp_path):
    """Reads them in a process whose audit hook dies of what running code needs, and looks for what it would leave."""
    canary, folder = tmp_path / "canary", tmp_path / "hostile"
    folder.mkdir()
    names = []
    for i, (name, data) in enumerate(_calls(canary)):
        names.append(name)
        zipped(folder / f"{i}.pth", beside(data), [bytes(16)])
    script = """
import os, sys
from pathlib import Path
from jaxadd import interop
from jaxadd.errors import UserError

folder, count = Path(sys.argv[1]), int(sys.argv[2])
def audit(event, arguments):
    forbidden = ("pickle.", "exec", "compile", "import", "os.", "subprocess.", "ctypes", "marshal", "socket")
    wrote = event == "open" and arguments[1] not in ("r", "rb")
    if event.startswith(forbidden) or wrote:
        print("RAN", event, arguments, flush=True)
        os._exit(1)
try:  # Whatever reading imports lazily.
    interop.read(folder / "0.pth")
except UserError as error:
    print(error)
    raise
sys.addaudithook(audit)
for i in range(count):
    try:
        found = interop.read(folder / f"{i}.pth")
    except UserError as error:
        print("refused", i, error)
    else:
        print("read", i, *found.notes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(len(names))], cwd=ROOT, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    # Beside weights nothing is refused but pickles that are no pickles.
    assert [line.split()[1] for line in lines] == [str(i) for i in range(len(names))]
    broken = {name for name, line in zip(names, lines, strict=True) if line.startswith("refused")}
    assert broken == {"append to a name", "items of a name", "storage by path"}
    said = dict(zip(names, lines, strict=True))
    assert "posix.system" in said["system 2"]
    assert "collections.OrderedDict.__init__.__globals__" in said["dotted"]
    assert not canary.exists()


def test_the_canary_would_have_shown(tmp_path):
    """Where pickles are trusted they do run, so the test above can fail."""
    for name, data in _calls(tmp_path / "canary"):
        if name == "mkdir 4":
            pickle.loads(data)
    assert (tmp_path / "canary").exists()


def _long(number):
    return b"\x8a\x08" + struct.pack("<q", number)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (tensor(size=b"K\x05\x85"), "larger than its storage"),
        (tensor(offset=b"K\x04"), "larger than its storage"),
        (tensor(offset=b"J\xff\xff\xff\xff"), "impossible shape"),
        (tensor(stride=b"J\xff\xff\xff\xff\x85", size=b"K\x02\x85"), "impossible shape"),
        (tensor(size=b"J\xff\xff\xff\xff\x85"), "impossible shape"),
        (tensor(stride=b"K\0\x85", size=b"J\xff\xff\xff\x7f\x85"), "larger than its storage"),
        (tensor(size=b"(" + _long(2**40) * 3 + b"t", stride=b"(" + b"K\0" * 3 + b"t"), "larger than its storage"),
        (tensor(size=b"(" + _long(2**62) * 4 + b"t", stride=b"(" + _long(2**62) * 4 + b"t"), "larger than its"),
        (tensor(size=b"K\x02\x85", stride=_long(2**63 - 1) + b"\x85"), "larger than its storage"),
        (tensor(size=b"(" + _long(2**62) * 4 + b"K\0t", stride=b"(" + b"K\x01" * 5 + b"t"), "damaged"),
        (tensor(size=b"(" + b"K\x01" * 9 + b"t", stride=b"(" + b"K\x01" * 9 + b"t"), "impossible shape"),
        (tensor(size=b"K\x01K\x01\x86"), "impossible shape"),
        (tensor(size=b"\x88\x85"), "impossible shape"),
        (tensor(size=b"G" + bytes(8) + b"\x85"), "impossible shape"),
        (tensor(offset=b"N"), "impossible shape"),
        (tensor(count=b"K\x05"), "16 bytes, which are not 5 numbers"),
        (tensor(count=_long(2**62)), "which are not"),
        (tensor(count=b"J\xff\xff\xff\xff"), "which are not"),
        (tensor(name="1"), "lacks the storage '1'"),
        (b"]" + tensor() + b"a" + tensor(kind=b"ctorch\nIntStorage\n") + b"a", "both float32 and int32"),
        (b"\x8b\x09\0\0\0" + bytes(8) + b"\x01", "an integer of more than 64 bits"),
        (b"\x8b\xff\xff\xff\x7f", "damaged"),
        (b"\x8e" + b"\xff" * 8, "damaged"),
        (b"\x8d" + b"\xff" * 7 + b"\x7f", "damaged"),
        (b"h\x05", "damaged"),
        (b"t", "damaged"),
        (b"(", "ends in the middle"),
        (b"K\x01", None),
        (b"", "damaged|ends in the middle"),
    ],
)
def test_impossible_tensors_and_numbers_are_refused(tmp_path, tensor, message):
    path = zipped(tmp_path / "x.pth", b"\x80\x02" + tensor + b".", [bytes(16)])
    refused(path, message or "should hold a state dict")


def test_a_view_of_everything_in_a_storage_is_read():
    """The bounds above are the right ones: the last number is still inside."""
    numbers = np.arange(4, dtype=np.float32)
    within = tensor(offset=b"K\x01", size=b"K\x02K\x01\x86", stride=b"K\x02" + _long(2**62) + b"\x86")
    value, skipped = unpickling.load(b"\x80\x02" + within + b".", lambda *_: numbers)
    assert value.tolist() == [[1], [3]]
    assert not skipped


def test_sharing_that_doubles_at_every_level_is_cut_at_once():
    """2⁴⁰ parts in 200 bytes."""
    laughs = b"(" + b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40)) + b"t."
    value, skipped = unpickling.load(laughs, None)
    assert "a value of more than 2000000 parts" in skipped
    assert isinstance(value, tuple | Skipped)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"]q\0h\0a.", "a value inside itself"),
        (b"}q\0K\x01h\0s.", "a value inside itself"),
        (b")" + b"\x85" * 51 + b".", "more than 50 levels"),
        (b")" + b"\x85" * 50_000 + b".", "more than 50 levels"),
        (b"]" * 50_000 + b"a" * 49_999 + b".", "more than 50 levels"),
        (b"(" + b")" + b"\x85" * 30 + b"q\0" + b"\x85" * 10 + b"h\0" + b"\x85" * 30 + b"t.", "more than 50 levels"),
        (b"cm\nA\n)\x81q\0}" + string("x") + b"h\0sb.", "a value inside itself"),
    ],
)
def test_cycles_and_depth_are_cut(data, name):
    value, skipped = unpickling.load(data, None)
    assert any(name in kind for kind in skipped)
    assert len(repr(value)) < 1000
    list(opaque.walk(value))


def test_depth_is_allowed_up_to_the_limit():
    value, skipped = unpickling.load(b")" + b"\x85" * 49 + b".", None)
    for _ in range(49):
        (value,) = value
    assert (value, skipped) == ((), {})


def test_a_deep_key_is_never_hashed():
    value, skipped = unpickling.load(b"})" + b"\x85" * 100_000 + b"Ns.", None)
    assert list(skipped) == list(value) == ["an item of a dictionary whose key is no string or number"]


def test_the_number_of_operations_is_limited(monkeypatch):
    monkeypatch.setattr(unpickling, "MAX_OPERATIONS", 100)
    assert unpickling.load(b"](" + b"N" * 50 + b"e.", None)[0] == [None] * 50
    with pytest.raises(UserError, match="more than 100 operations"):
        unpickling.load(b"](" + b"N" * 100 + b"e.", None)


# --- what stands beside the weights ------------------------------------------------------------------------------


class Odd:
    """Of no library; it would say so if it were ever built."""

    def __init__(self, state=None):
        self.state = state

    def __setstate__(self, state):
        raise AssertionError("built")


PLAIN = {
    "int": 3, "bytes": b"\0\xff", "bool": True, "none": None, "nested": [(1, 2.5), {"a": "é"}],
    "default": defaultdict(list, a=[1]), "counter": Counter("aab"), "ordered": OrderedDict(a=1), 3: "three",
    None: "none", True: "true", "array": np.arange(6.0).reshape(2, 3), "fortran": np.ones((2, 3), order="F"),
    "scalar": np.float64(0.5), "big endian": np.arange(3, dtype=">i4"), "unsigned": np.arange(3, dtype=np.uint32),
    "empty": np.zeros((0, 2), np.float32),
}  # fmt: skip
ODD = {
    "set": {1, 2}, "frozenset": frozenset({3}), "path": Path("/tmp/x"), "date": datetime.datetime(2026, 1, 2),
    "namespace": argparse.Namespace(lr=1e-3, n_heads=4), "simple": types.SimpleNamespace(a=1), "class": Odd,
    "object": Odd({"a": 1}), "function": os.system, "partial": functools.partial(print, 1), "complex": 1j,
    "strings": np.array(["a", "bc"]), "records": np.zeros(2, [("a", "f4")]), "objects": np.array([{}], object),
    "dates": np.array(["2026-01-02"], "M8[D]"), "random": np.random.default_rng(0), "range": range(3),
    "old random": np.random.RandomState(0).get_state(), "large": 2**200, "uuid": uuid.UUID(int=3), ("a", 1): "tuple",
    "enum": signal.SIGINT, "decimal": decimal.Decimal("1.5"), "fraction": fractions.Fraction(1, 3),
}  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_and_everything_else_is_named(protocol):
    value, skipped = unpickling.load(pickle.dumps(PLAIN, protocol), None)
    assert not skipped
    expected = {name: dict(v) if isinstance(v, dict) else v for name, v in PLAIN.items()}
    assert list(value) == list(expected)
    for name, item in expected.items():
        if isinstance(item, np.ndarray):
            np.testing.assert_array_equal(value[name], item)
        else:
            assert value[name] == item
    assert value["big endian"].dtype == np.int32
    value, skipped = unpickling.load(pickle.dumps(PLAIN | ODD, protocol), None)
    assert len(value) >= len(PLAIN) + len(ODD) - 1
    assert sum(skipped.values()) >= len(ODD) - 2
    for name in ("argparse.Namespace", "decimal.Decimal", "fractions.Fraction", f"{__name__}.Odd"):
        assert name in skipped, skipped
    assert value["namespace"].state == {"lr": 1e-3, "n_heads": 4}
    line = opaque.note(skipped)
    assert line.startswith("skipped beside the weights, without running anything: ")
    assert len(line) < 600


def test_what_stands_beside_the_weights_refuses_no_file(tmp_path):
    for name, value in ODD.items():
        data = pickle.dumps({"x": value} if isinstance(name, str) else {name: value}, 2)
        found = interop.read(zipped(tmp_path / "x.pth", beside(data[2:]), [bytes(16)]))
        assert len(found.notes) == (1 if name == "old random" else 2)
        assert all(note.isprintable() for note in found.notes)


def test_a_config_that_is_an_object_states_the_architecture(tmp_path):
    data = pickle.dumps(argparse.Namespace(act_fn="GeLU", n_heads=1), 2)[2:]
    pickled = beside(data).replace(string("other"), string("config"))
    found = interop.read(zipped(tmp_path / "x.pth", pickled, [bytes(16)]))
    assert found.config.activation == "gelu"
    assert found.rest["config"].name == "argparse.Namespace"
    assert found.notes == ("skipped beside the weights, without running anything: argparse.Namespace",)


def test_a_pickled_module_is_named(tmp_path):
    module = b"cmodels\nNet\n)\x81}(" + string("_parameters") + b"}" + string("_modules") + b"}ub."
    refused(zipped(tmp_path / "x.pth", b"\x80\x02" + module), r"a pickled module, .*save model\.state_dict\(\)")
