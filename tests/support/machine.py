"""machine.py: what a figure was measured on, to stand beside it."""

import os
import platform
import subprocess


def first_match(path, key):
    try:
        with open(path) as f:
            for line in f:
                if line.startswith(key):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown"


def about(top):
    memory = first_match("/proc/meminfo", "MemTotal").split()[0]
    git = subprocess.run(["git", "-C", top, "describe", "--always",
                          "--dirty"], text=True, capture_output=True)
    return {
        "cpu": first_match("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_mb": int(memory) // 1024 if memory.isdigit() else None,
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "mqttc": git.stdout.strip() or "unknown",
    }


def line(a):
    return ("%(cpu)s, %(cores)s cores, %(memory_mb)s MB, Linux %(kernel)s, "
            "load %(load_average).1f; mqttc %(mqttc)s" % a)
