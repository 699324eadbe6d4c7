"""How tests are compiled: for meaning, not for speed."""

import os
import re
import subprocess
import sys

# Compiling takes most of the suite's time. Without LLVM's optimisations and XLA's fusion emitters it takes a quarter
# of the time and half of the memory.
QUICK = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": "true",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}


def flags():
    """Return the value of XLA_FLAGS, without the flags that the installed jaxlib does not know.

    XLA ends the process at an unknown flag and offers no list of the known ones, so a child process tries them.
    """
    every = [f"--{name}={value}" for name, value in QUICK.items()]
    start = [sys.executable, "-c", "import jaxlib.xla_client as client; client.make_cpu_client()"]
    tried = subprocess.run(start, env={**os.environ, "XLA_FLAGS": " ".join(every)}, capture_output=True, text=True)
    unknown = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", tried.stderr)
    if tried.returncode and not unknown:
        raise RuntimeError(f"jaxlib does not start: {tried.stderr}")
    return " ".join(flag for flag in every if not unknown or flag not in unknown[1].split())
