"""The tests; without a GPU, kernels run in Triton's interpreter, which it must know when it is imported."""

import os
from pathlib import Path

if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"
