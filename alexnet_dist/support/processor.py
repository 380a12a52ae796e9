"""Which processor this is."""

import platform


def processor() -> str:
    """Its model as the kernel names it: `AMD EPYC 9V74 80-Core Processor`; its architecture where it has no name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
