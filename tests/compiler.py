"""How tests are compiled: for meaning, not for speed."""

import importlib.util
import mmap
from pathlib import Path

# Compiling takes most of the suite's time. Without LLVM's optimisations and XLA's fusion emitters it takes a quarter
# of the time and half of the memory.
QUICK = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": "true",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}


def flags():
    """Return the value of XLA_FLAGS; XLA ends the process at a flag it does not know, so those are left out."""
    return " ".join(f"--{name}={value}" for name, value in QUICK.items() if in_jaxlib(name))


def in_jaxlib(text):
    """Whether the binaries of the installed jaxlib contain a text, such as the name of a flag."""
    folder = Path(importlib.util.find_spec("jaxlib").origin).parent
    for path in folder.glob("*.so"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
            if binary.find(text.encode()) >= 0:
                return True
    return False
