"""Which code computes, and where arrays lie: enter here to ask what runs, and how kernels are compiled."""

from .choice import (
    ENGINES,
    TWINNED,
    backward,
    current,
    forward,
    fused,
    gpu_twin,
    here,
    host_twin,
    is_cupy,
    move,
    session,
    set_threads,
    takes,
    twin,
    use,
)
from .memory import expect_room
from .place import ON_GPU, beside, checked, home, is_checked, on_gpu, out_of_memory

__all__ = [
    "ENGINES",
    "ON_GPU",
    "TWINNED",
    "backward",
    "beside",
    "checked",
    "current",
    "expect_room",
    "forward",
    "fused",
    "gpu_twin",
    "here",
    "home",
    "host_twin",
    "is_checked",
    "is_cupy",
    "move",
    "on_gpu",
    "out_of_memory",
    "session",
    "set_threads",
    "takes",
    "twin",
    "use",
]
