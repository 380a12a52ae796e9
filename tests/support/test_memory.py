"""What memory is left: the machine's, or less under a limit of either version of cgroups."""

import pytest

from alexnet_dist.support.memory import available_memory

MB = 1 << 20


@pytest.fixture
def machine(tmp_path):
    """A machine with 1000 MB available; machine(path, text) writes one more of its files."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")
        return tmp_path

    write("proc/meminfo", f"MemTotal: 9999999 kB\nMemAvailable: {1000 * 1024} kB")
    return write


def test_this_machine():
    assert available_memory() > 10 * MB


def test_without_cgroups(machine):
    assert available_memory(machine("proc/self/other", "")) == 1000 * MB


def test_the_tightest_limit_of_version_2_counts(machine):
    for folder, limit, used in (("job", 500 * MB, 300 * MB), ("job/step", 400 * MB, 100 * MB), ("", "max", 9)):
        machine(f"sys/fs/cgroup/{folder}/memory.max", limit)
        machine(f"sys/fs/cgroup/{folder}/memory.current", used)
        machine(f"sys/fs/cgroup/{folder}/memory.stat", f"anon 5\ninactive_file {50 * MB}")
    assert available_memory(machine("proc/self/cgroup", "0::/job/step")) == 250 * MB  # of job


def test_in_a_container_the_limit_stands_at_the_mount(machine):
    machine("sys/fs/cgroup/memory.max", 200 * MB)
    machine("sys/fs/cgroup/memory.current", 150 * MB)
    machine("sys/fs/cgroup/memory.stat", "inactive_file 0")
    assert available_memory(machine("proc/self/cgroup", "0::/../outside/of/it")) == 50 * MB


def test_version_1(machine):
    for folder, limit in (("job", 300 * MB), ("", 9223372036854771712)):
        machine(f"sys/fs/cgroup/memory/{folder}/memory.limit_in_bytes", limit)
        machine(f"sys/fs/cgroup/memory/{folder}/memory.usage_in_bytes", 120 * MB)
        machine(f"sys/fs/cgroup/memory/{folder}/memory.stat", f"total_inactive_file {20 * MB}")
    lines = "5:cpu,cpuacct:/job\n4:memory:/job\n0::/"
    assert available_memory(machine("proc/self/cgroup", lines)) == 200 * MB


def test_a_group_over_its_limit_has_nothing_left(machine):
    machine("sys/fs/cgroup/memory.max", 100 * MB)
    machine("sys/fs/cgroup/memory.current", 101 * MB)
    machine("sys/fs/cgroup/memory.stat", "inactive_file 0")
    assert available_memory(machine("proc/self/cgroup", "0::/")) == 0
