"""Containers: torch's zip, npz and safetensors are read within bounds; other files are named for what they are."""

import importlib
import importlib.util
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import ASSUMED, SMALL, bits, file, mainline, network, refused, sized, string, tensor, zipped
from needs import need

from jaxadd import interop
from jaxadd.interop import archive, pickling
from jaxadd.models import Transformer

ROOT = Path(__file__).parents[2]
COUNTS = {1: "none", 2: "2"}


def _long(number):
    return b"\x8a\x08" + struct.pack("<q", number)


def test_containers_that_torch_does_not_write_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    refused(path, "there is no file")
    refused(tmp_path, "there is no file")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "there is no file")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    refused(path, "it is damaged")
    refused(zipped(path, b"\x80\x02}.", [bytes(10**7)], compression=zipfile.ZIP_DEFLATED), "is compressed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as file:
            for _ in range(2):
                file.writestr("archive/data.pkl", b"\x80\x02}.")
    refused(path, "same name")
    for names in (["x"], ["a/data.pkl", "b/data.pkl"]):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"\x80\x02}.")
        refused(path, f"a zip that torch.save did not write.*this file has {COUNTS[len(names)]}")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr("a/byteorder", b"middle")
    refused(path, "byte order")
    monkeypatch.setattr(archive, "MAX_PICKLE_BYTES", 10)
    refused(zipped(path, b"\x80\x02}" + bytes(20)), "data.pkl has 23 bytes")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    refused(zipped(path, b"\x80\x02}.", [b"x"] * 3), "more than 3 entries")


def test_entries_that_overlap_are_refused(tmp_path):
    """Fifield's bomb: many entries of the directory share the same bytes."""
    path = zipped(tmp_path / "x.pth", b"\x80\x02}.", [bytes(1000)])
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    last = content.rindex(b"PK\x01\x02")
    entries = [content[start:last]]
    entries += [content[last:end].replace(b"data/0", b"data/%d" % i) for i in range(9)]
    directory = b"".join(entries)
    finish = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 10, 10, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + finish)
    refused(path, "have more bytes|it is damaged")


def test_sizes_are_limited(tmp_path):
    path = tmp_path / "x.pth"
    interop.write(path, network(), sized())
    size = path.stat().st_size
    refused(path, f"has {size} bytes, and max_bytes is 1000", max_bytes=1000)
    interop.read(path, max_bytes=size)
    # Many names for one storage: small as a file, large as parameters.
    state = mainline(Transformer(layers=1, d_model=64, heads=1, d_mlp=0), vocabulary=64)
    block = {name: array for name, array in state.items() if name.startswith("blocks.0.")}
    for i in range(1, 200):
        state |= {name.replace("blocks.0", f"blocks.{i}"): array for name, array in block.items()}
    data, storages = pickling.dump(state)
    unique = [i for i, storage in enumerate(storages)]
    kept = storages[:8]
    for i in unique[8:]:
        twin = next(str(j) for j, storage in enumerate(kept) if storage.shape == storages[i].shape)
        data = data.replace(string(str(i)) + string("cpu"), string(twin) + string("cpu"))
    zipped(path, data, [storage.tobytes() for storage in kept])
    assert path.stat().st_size < 500_000
    refused(path, "parameters are more than 1000000 bytes", max_bytes=1_000_000)
    assert interop.read(path).config.layers == 200


def test_memory_is_bounded(tmp_path):
    """Bombs are refused, not met with a dead process, in an address space of 128 MiB beside what JAX takes.

    The number of operations is a tenth of what it is, to be quick, and so is the space that they may take.
    """
    bombs = {
        "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
        "dicts": b"\x80\x02(" + b"}" * 300_000 + b"t.",
        "tuples": b"\x80\x02)" + b"\x85" * 300_000 + b".",
        "memos": b"\x80\x04}" + b"\x94" * 300_000 + b".",
        "marks": b"\x80\x02" + b"(" * 300_000 + b".",
        "long": b"\x80\x02\x8b" + struct.pack("<i", 2**23) + b"\x7f" * 2**23 + b".",
        "huge": b"\x80\x02" + tensor(size=_long(2**60) + b"\x85", stride=b"K\0\x85") + b".",
        "empty": b"\x80\x02" + tensor(size=_long(2**60) + b"K\0\x86", stride=b"K\0K\0\x86") + b".",
    }
    for name, data in bombs.items():
        zipped(tmp_path / f"{name}.pth", data, [bytes(16)])
    script = """
import resource, sys
from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop import unpickling
unpickling.MAX_OPERATIONS = 200_000
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27,) * 2)
for path in sys.argv[1:]:
    try:
        interop.read(path)
    except UserError as error:
        print(error)
"""
    paths = [str(tmp_path / f"{name}.pth") for name in bombs]
    done = subprocess.run([sys.executable, "-c", script, *paths], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(lines) == len(bombs), done.stdout
    assert not any("not enough memory" in line for line in lines), done.stdout


# --- what a file is ----------------------------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (LFS, "a Git LFS pointer, not the file itself; fetch the real file with `git lfs pull`"),
        (b"\n<!DOCTYPE html>\n<html><head>", "it is a web page"),
        (b"<HTML>", "it is a web page"),
        (b'{"d_model": 3}', "it is JSON"),
        (b"hello\n", "it is plain text"),
        ("é".encode() * 3000, "it is plain text"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "an older checkpoint, load it with torch and save it again"),
        (pickle.dumps({"a": 1}), "it is a pickle and not the zip"),
        (b"PK\x05\x06" + bytes(18), "a zip that is empty or cut off"),
        (b"\x1f\x8b\x08\0", "it is compressed; unpack it first"),
        (b"\x93NUMPY\x01\0", "one array of NumPy without a name"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\xfe\xed\0\x01", "not the zip that torch.save writes"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content, message):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    refused(path, message)


def test_a_truncated_checkpoint_is_damaged(tmp_path):
    path = file(tmp_path, {"model": mainline()})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "it is damaged .*; copy it again")


def test_what_is_no_network_is_listed_by_tensor(tmp_path):
    line = refused(file(tmp_path, {"net": {"W_1": np.zeros((2, 3)), "W_2": np.zeros(4)}}), "no network is known")
    assert "net.W_1 (2, 3), net.W_2 (4,)" in line
    assert "embed.W_E, blocks.0.attn.W_Q … (Nanda et al., TransformerLens)" in line
    refused(file(tmp_path, {"epoch": 3}), "should hold a state dict of tensors, and holds a dict without any")


# --- npz and safetensors -------------------------------------------------------------------------------------------


def test_an_npz_file_is_read_without_pickles(tmp_path):
    path, state = tmp_path / "x.npz", mainline()
    np.savez(path, **{f"module.{name}": array.astype(">f4") for name, array in state.items()})
    found = interop.read(path)
    assert bits(found.params) == bits(network())
    assert (found.config, found.notes) == (SMALL, (ASSUMED,))
    np.savez(path, **state, objects=np.array([{}], object), names=np.array(["a"]))
    found = interop.read(path)
    assert bits(found.params) == bits(network())
    note, _ = found.notes
    assert note.endswith("an array of Python objects, an array of <U1")
    np.savez_compressed(path, zeros=np.zeros(10**6))
    refused(path, "its arrays have more than 1000000 bytes", max_bytes=10**6)


def test_a_safetensors_file_needs_its_library(tmp_path, monkeypatch):
    need("safetensors", importlib.util.find_spec("safetensors") is not None, "safetensors is not installed")
    numpy = importlib.import_module("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    numpy.save_file(mainline(), path)
    assert bits(interop.read(path).params) == bits(network())
    path.write_bytes(path.read_bytes()[:-4])
    refused(path, "its safetensors data is damaged")
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(path, r"needs the safetensors library: install jaxadd\[safetensors\]")


# --- prefixes, nesting, configs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.model."])
@pytest.mark.parametrize("path", [(), ("model",), ("a", "b", "c", "state_dict")])
def test_prefixes_and_nesting_do_not_matter(tmp_path, prefix, path):
    content = {f"{prefix}{name}": array for name, array in mainline().items()}
    for name in reversed(path):
        content = {name: content, "epoch": 3}
    found = interop.read(file(tmp_path, content))
    assert bits(found.params) == bits(network())
    assert not path or found.rest["epoch"] == 3


def test_half_precision_is_converted(tmp_path):
    exact = {name: np.round(array * 4) / 4 for name, array in mainline().items()}
    for dtype in (np.float16, "bfloat16", np.float64):
        state = {name: array.astype(dtype) for name, array in exact.items()}
        found = interop.read(file(tmp_path, {"model": state}))
        assert bits(interop.to_mainline(found.params, sized())) == bits(exact)


def test_a_config_inside_or_beside_the_file_states_the_architecture(tmp_path):
    config = {"act_fn": "GeLU", "n_heads": 2, "attention_dir": "bidirectional", "normalization_type": None}
    state = {name: array for name, array in mainline().items() if not name.endswith("mask")}
    expected = replace(SMALL, activation="gelu", attention="bidirectional")
    assert interop.read(file(tmp_path, {"state": state, "hyper_parameters": {"cfg": config}})).config == expected
    path = file(tmp_path, {"state": state, "config": {"act_fn": "silu"}})
    path.with_suffix(".json").write_text(json.dumps(config | {"other": [1]}))
    assert interop.read(path).config == replace(expected, activation="silu")  # What is inside wins.
    assert interop.read(path, fields={"activation": "relu"}).config == replace(expected, activation="relu")
    for text, message in (
        ("[1]", "holds no config"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
    ):
        path.with_suffix(".json").write_text(text)
        assert interop.read(path).notes == (f"made.json {message}, and was not read",)
    unknown = (("act_fn", "tanh"), ("normalization_type", "batchnorm"), ("norm_where", "sandwich"))
    for name, value in (*unknown, ("parallel_attn_mlp", True), ("rope_scaling", {"factor": 2})):
        refused(file(tmp_path, {"state": state, "config": {name: value}}), f"its config states {name} ")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_heads": 4}, "states heads 4, .* with heads 2;"),
        ({"n_layers": 3}, "states layers 3, .* with layers 2;"),
        ({"d_mlp": 7}, "states d_mlp 7, .* with d_mlp "),
        ({"attn_only": True}, "states d_mlp 0, "),
        ({"head_dim": 3}, "states d_head 3, "),
        ({"attn_scale": 8.0}, r"states attn_scale 8, and this model has 1\.41"),
        ({"rotary_dim": 1}, "states rotary_dim 1, and this model has 2"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4}}, "states rope_type yarn"),
        ({"query_pre_attn_scalar": 256}, "states query_pre_attn_scalar 256, and this model has 2"),
        ({"model_type": "gemma2"}, "states model_type gemma2, whose networks this model does not describe"),
        ({"sliding_window": 2, "model_type": "mistral"}, "states sliding_window 2"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "states layer_types "),
        ({"final_rms": True, "normalization_type": "LN"}, "states final_rms beside LayerNorm"),
        ({"clip_qkv": 1.0}, "states clip_qkv 1.0"),
        ({"eps": 1e999, "normalization_type": "LN"}, "norm_epsilon must be above 0 and finite, got inf"),
        ({"use_qk_norm": True}, r"lacks blocks\.0\.attn\.k_norm\.w"),
        ({"gated_mlp": True}, "states mlp gated, .* with mlp plain"),
    ],
)
def test_a_config_of_another_network_is_refused(tmp_path, config, message):
    """Its other fields, such as the activation function, would be used and be wrong."""
    refused(file(tmp_path, {"model": mainline(), "config": config}), message)
    path = file(tmp_path, mainline())
    path.with_suffix(".json").write_text(json.dumps(config))
    refused(path, message)


def test_a_config_of_the_same_network_in_the_words_of_others_is_read(tmp_path):
    config = {"n_layers": SMALL.layers, "n_embd": SMALL.d_model, "num_heads": SMALL.heads, "d_head": SMALL.head_width}
    config |= {"d_mlp": SMALL.d_mlp, "attention_dir": "causal", "attn_only": False, "n_kv_heads": None}
    config |= {"attn_scale": SMALL.head_width**0.5, "rotary_dim": SMALL.head_width, "final_logit_softcapping": None}
    same = replace(SMALL, d_head=SMALL.head_width)
    assert interop.read(file(tmp_path, {"model": mainline(), "config": config})).config == same
    wrong = {"model": mainline(), "config": config | {"num_heads": 7}}
    assert interop.read(file(tmp_path, wrong), fields={"heads": SMALL.heads}).config == same


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"d_model": "four"}, "its config states d_model 'four', which is not a value of "),
        ({"heads": 2.5}, "its config states heads 2.5, which is not a value of "),
        ({"qk_norm": "no"}, "its config states qk_norm 'no', which is not a value of "),
        (
            {"act_fn": ["relu"]},
            "its config states act_fn ['relu'], which is not a value of activation and is ignored",
        ),
        ({"tie_word_embeddings": "no"}, "its config states tie_word_embeddings 'no', which is not a value of tie"),
        ({"act_fn": 3}, "its config states act_fn 3, which is not a value of "),
        ({"eps": True}, "its config states eps True, which is not a value of "),
        ({"attention": "flash"}, "its config states attention 'flash', which is not a value of "),
        ({"d_vocab": 7}, "its config states d_vocab 7, and its tensors are for 6 tokens; the config may be of"),
        ({"d_vocab_out": 6}, "its config states d_vocab_out 6, and its tensors are for 5 classes; the config"),
        ({"n_ctx": 5}, "its config states n_ctx 5, and its tensors are for 3 positions; the config may be of"),
    ],
)
def test_what_a_config_states_and_is_not_used_is_noted(tmp_path, config, note):
    """It may have several meanings, so the file is read without it."""
    found = interop.read(file(tmp_path, {"model": mainline(), "config": config}))
    assert (found.config, found.notes[0][: len(note)]) == (SMALL, note)


def test_sizes_as_stated_and_values_that_leave_a_field_open_are_not_noted(tmp_path):
    config = {"d_vocab": 6, "vocab_size": 6, "d_vocab_out": -1, "n_ctx": 3, "d_head": 0, "kv_heads": None}
    config |= {"d_model": 4.0, "n_heads": "2", "mlp": {"width": 3}, "clip_qkv": None}
    config |= {"sliding_window": 32, "use_sliding_window": False, "layer_types": ["full_attention"]}
    found = interop.read(file(tmp_path, {"model": mainline(), "config": config}))
    assert (found.config, found.notes) == (SMALL, (ASSUMED,))


@pytest.mark.parametrize("dtype", ["complex64", "longdouble", "O", "V2"])
def test_an_array_that_holds_no_numbers_is_named(tmp_path, dtype):
    path, state = tmp_path / "x.npz", mainline()
    np.savez(path, **state | {"embed.W_E": np.zeros(state["embed.W_E"].shape, dtype)})
    refused(path, "'embed.W_E' in its state dict is no tensor but an array of")


def test_missing_positions_are_named(tmp_path):
    state = {name: array for name, array in mainline().items() if not name.endswith(("W_pos", "mask"))}
    refused(file(tmp_path, state), r"lacks pos_embed\.W_pos .*; where it has none, state the field positions")


def test_a_pair_of_names_of_the_pizza_repository(tmp_path):
    path = file(tmp_path, mainline()).rename(tmp_path / "model_ab12.pt")
    (tmp_path / "config_ab12.json").write_text('{"attn_coeff": 0.25, "attention_dir": "casual", "act_fn": "ReLU"}')
    assert interop.read(path).config == replace(SMALL, attention="bidirectional", attention_mix=0.25)
