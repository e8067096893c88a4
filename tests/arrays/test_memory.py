"""Free memory: that of the machine, of control groups and of the process's own limits, and how it reads."""

import subprocess
import sys

import numpy as np
import pytest

from cases import CASES
from specop.arrays import memory
from specop.arrays.memory import free_host_memory, in_bytes


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts(limit):
    pytest.importorskip("resource")
    code = (
        "import resource, numpy\nfrom specop.arrays.memory import free_host_memory\n"
        f"resource.setrlimit(resource.{limit}, (4 * 2**30, 4 * 2**30))\n"
        "free = free_host_memory(); held = numpy.ones(2**27 // 8 * 4)\nprint(free, free_host_memory())\n"
        "try:\n    numpy.empty(int(1.1 * free) // 8)\nexcept MemoryError:\n    print('full')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    before, after, full = done.stdout.split()
    assert int(before) < 4 * 2**30
    assert int(before) - int(after) == pytest.approx(2**29, rel=0.1)
    assert full == "full"


@pytest.mark.parametrize(
    ("line", "folder", "files"),
    [
        ("0::/user/job", "user", {"memory.max": "5000000", "memory.current": "4000000"}),
        ("4:memory:/job", "memory", {"memory.limit_in_bytes": "5000000", "memory.usage_in_bytes": "4000000"}),
    ],
)
def test_a_control_group_counts_and_so_do_those_around_it(monkeypatch, tmp_path, line, folder, files):
    (tmp_path / "cgroup").write_text(f"1:cpu:/elsewhere\n{line}\n")
    (tmp_path / folder).mkdir()
    for name, text in {**files, "memory.stat": "inactive_file 100000\nanon 1"}.items():
        (tmp_path / folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", tmp_path)
    assert free_host_memory() == 1_100_000
    limit = next(iter(files))
    (tmp_path / folder / limit).write_text("max\n")
    assert free_host_memory() > 1_100_000


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_backend_says_what_is_free_and_what_a_vector_takes(case):
    layout = case.layout(1000)
    free = case.backend.free_memory(layout)
    assert 0 < free <= 2**50
    assert case.backend.row_bytes(layout) == 1000 * case.dtype.itemsize
    assert free == pytest.approx(free_host_memory(), rel=0.2) or "cpu" not in str(layout.device).lower()


def test_bytes_read_well():
    assert [in_bytes(size) for size in (0, 999, 1000, 497_759_232, 2e10, 3.2e14, 999_600)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "498 MB",
        "20 GB",
        "320 TB",
        "1 MB",
    ]
    assert in_bytes(float(np.float64(12.0))) == "12 bytes"
