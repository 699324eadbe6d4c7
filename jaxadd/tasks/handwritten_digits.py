"""Handwritten digits, a check of the pipeline: MNIST's files from a folder, or scikit-learn's 8×8 digits."""

import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.tasks.sampling import check_batch_size, choose
from jaxadd.tasks.task import Task
from jaxadd.types import Batch, Data, Sizes

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class _Images(NamedTuple):
    pixels: np.ndarray  # uint8 [n, features]
    labels: np.ndarray  # uint8 [n]
    brightest: float  # The pixel value of full ink.
    train: int | None  # The first `train` images are the train set; None where the data has no split.


@dataclass(frozen=True)
class HandwrittenDigits(Task):
    """Classify images of digits; pixels are scaled to [0, 1]."""

    folder: str | None = None
    """folder of MNIST's four IDX files, plain or .gz; None takes the 8×8 digits that come with scikit-learn"""
    test_fraction: float = 0.2
    """fraction of the 8×8 digits held out as the test set; MNIST has a test set already"""
    batch_size: int | None = 64
    """examples per step; None takes the full train set"""

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise UserError(f"test_fraction must be between 0 and 1, got {self.test_fraction}")

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        return {} if self.folder is None else {"test_fraction": "the bundled digits, without a folder"}

    @property
    def sizes(self) -> Sizes:
        """The sizes that a model for this task is built from; reads the images."""
        return Sizes(length=self._images.pixels.shape[1], classes=10)

    @property
    def _images(self) -> _Images:
        return _bundled() if self.folder is None else _mnist(self.folder)

    @property
    def title(self) -> str:
        """The task in a few words, for figures."""
        return f"handwritten digits, {'the bundled 8×8' if self.folder is None else self.folder}"

    def data(self, seeds: Sequence[int]) -> Data:
        """Load the images once and split them for each lane.

        Returns:
          `shared` holds "pixels" uint8 `[n, features]` and "labels" int32 `[n]`; `lane` holds the indices of images
          "train" int32 `[S, ·]` and "test" int32 `[S, ·]`.
        """
        images = self._images
        n = len(images.labels)
        if images.train is None:
            train = n - round(self.test_fraction * n)
            order = np.stack([jax.random.permutation(jax.random.key(s), n) for s in seeds])
        else:
            train, order = images.train, np.tile(np.arange(n), (len(seeds), 1))
        if not 0 < train < n:
            raise UserError(f"test_fraction {self.test_fraction} of {n} images leaves an empty train or test set")
        check_batch_size(self.batch_size, train)
        order = jnp.asarray(order, jnp.int32)
        shared = {"pixels": jnp.asarray(images.pixels), "labels": jnp.asarray(images.labels, jnp.int32)}
        return Data(shared, {"train": order[:, :train], "test": order[:, train:]})

    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        """Draw the batch of one step: inputs float32 `[B, features]`, targets `[B, 1]`."""
        return self._batch(choose(data.lane["train"], key, step, self.batch_size), data.shared)

    def test_batch(self, data: Data) -> Batch:
        """Return the held-out images: inputs float32 `[·, features]`, targets `[·, 1]`."""
        return self._batch(data.lane["test"], data.shared)

    def _batch(self, indices: jax.Array, shared: dict[str, jax.Array]) -> Batch:
        pixels = shared["pixels"][indices].astype(jnp.float32) / self._images.brightest
        return Batch(pixels, shared["labels"][indices][:, None])

    def describe(self, inputs: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> str:
        """Describe one prediction, with the image drawn in characters."""
        side = round(len(inputs) ** 0.5)
        rows = np.asarray(inputs).reshape(side, -1)
        drawing = "\n".join("    " + "".join(" .:-=+*#%@"[int(v * 9.99)] * 2 for v in row) for row in rows)
        return f"a {target[0]} read as {'nothing' if prediction[0] < 0 else f'a {prediction[0]}'}:\n{drawing}"


@lru_cache(maxsize=1)
def _bundled() -> _Images:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise UserError(
            "the bundled digits come with scikit-learn, which is not installed; "
            "install jaxadd[digits], or set folder to a folder of MNIST's IDX files"
        ) from error
    digits = load_digits()
    return _Images(digits.data.astype(np.uint8), digits.target.astype(np.uint8), 16.0, None)


@lru_cache(maxsize=2)
def _mnist(folder: str) -> _Images:
    parts = {}
    for part, (image_name, label_name) in _IDX_FILES.items():
        pixels, labels = read_idx(_find(folder, image_name)), read_idx(_find(folder, label_name))
        if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels) or len(set(pixels.shape[1:])) > 1:
            raise UserError(
                f"{image_name} and {label_name} in {folder} must hold square images [n, rows, rows] and labels [n], "
                f"got {list(pixels.shape)} and {list(labels.shape)}"
            )
        if labels.size == 0 or labels.max() > 9:
            raise UserError(f"{label_name} in {folder} must hold labels from 0 to 9 and at least one of them")
        parts[part] = pixels, labels
    if parts["train"][0].shape[1:] != parts["test"][0].shape[1:]:
        raise UserError(f"the train and test images in {folder} differ in size")
    pixels, labels = (np.concatenate([parts["train"][i], parts["test"][i]]) for i in (0, 1))
    return _Images(pixels.reshape(len(pixels), -1), labels, 255.0, len(parts["train"][1]))


def _find(folder: str, name: str) -> Path:
    for path in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"no file {name} or {name}.gz in {folder}; a folder of MNIST's four IDX files was expected")


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or gzipped.

    Args:
      path: the file; a name that ends in `.gz` means gzipped.

    Returns:
      uint8 array of the shape in the header of the file.

    Raises:
      UserError: the file is not of that format, is truncated, or is longer than its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is a truncated or corrupt gzip file ({error}); fetch it again") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or not 1 <= raw[3] <= 3:
        raise UserError(f"{path} is not an IDX file of unsigned bytes: it begins with {raw[:4].hex()!r}")
    header = 4 + 4 * raw[3]
    if len(raw) < header:
        raise UserError(f"{path} is truncated inside its header; fetch it again")
    shape = struct.unpack(f">{raw[3]}I", raw[4:header])
    # In Python integers, so that the sizes in a corrupt header do not overflow into a plausible one.
    size = 1
    for length in shape:
        size *= length
    if len(raw) != header + size:
        raise UserError(f"{path} should hold {size} bytes of data by its header, and holds {len(raw) - header}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
