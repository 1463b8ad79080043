"""Which machine this is and its state: processor, accelerator, clocks, threads, driver, software, commit.

Nothing that names a person, a host or a path is recorded. Whatever the system doesn't tell is None.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src import schema, timing

SIMD = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "asimd", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16", "sme",
)  # fmt: skip
"""Vector and matrix instruction sets that bear on speed, as /proc/cpuinfo names them on x86 and Arm."""

STEERING_VARIABLES = re.compile(
    r"^(OMP_|MKL_|KMP_|GOMP_|DNNL_|ONEDNN_|OPENBLAS_|BLIS_|ATEN_|TORCH(INDUCTOR)?_|PYTORCH_|CUDA_LAUNCH|CUDA_DEVICE|"
    r"CUDA_MODULE|CUBLAS_|CUDNN_|NVIDIA_TF32|MALLOC_|GLIBC_TUNABLES)"
)
"""Environment variables that change speed. Values that hold a path are not recorded."""

BUSY_STEAL_SHARE = 0.02
BUSY_OTHER_LOAD = 0.10
"""More steal than this share of processor time, or more processors than this kept busy by others, per processor that
is used, and a case is marked as measured on a busy machine."""

DRIFT_LIMIT = 0.05
"""The reference case may differ by this share between start, middle and end before a run counts as drifting."""


# Processor


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def cpuinfo(text: str | None = None) -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty where there is no such file."""
    text = _read("/proc/cpuinfo") if text is None else text
    entries: dict[str, str] = {}
    for line in (text or "").splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() not in entries:
            entries[name.strip()] = value.strip()
    return entries


def _sysctl(name: str) -> str | None:
    if sys.platform != "darwin":
        return None
    return _output(["sysctl", "-n", name])


def _output(command: Sequence[str], timeout_s: float = 20.0) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def processor_name(entries: Mapping[str, str]) -> str:
    """The processor as the system names it."""
    name = entries.get("model name") or _sysctl("machdep.cpu.brand_string") or entries.get("Hardware")
    if name is None and "CPU part" in entries:
        name = f"Arm implementer {entries.get('CPU implementer')} part {entries['CPU part']}"
    return re.sub(r"\s+", " ", name or platform.processor() or platform.machine()).strip()


def _integer(text: str | None) -> int | None:
    try:
        return int(text, 0) if text else None
    except ValueError:
        return None


def _topology(root: Path = Path("/sys/devices/system/cpu")) -> dict[str, int | None]:
    cores = set()
    packages = set()
    for folder in root.glob("cpu[0-9]*/topology"):
        package, core = _read(folder / "physical_package_id"), _read(folder / "core_id")
        packages.add(package)
        cores.add((package, core))
    physical = len(cores) or _integer(_sysctl("hw.physicalcpu"))
    return {"sockets": len(packages) or None, "physical_cores": physical}


def caches(root: Path = Path("/sys/devices/system/cpu")) -> list[dict]:
    """Each cache level and type: bytes of one, and how many there are. Sorted by level."""
    found: dict[tuple[int, str, int], set[str]] = {}
    for folder in root.glob("cpu[0-9]*/cache/index[0-9]*"):
        level, kind = _read(folder / "level"), _read(folder / "type")
        size, shared = _read(folder / "size"), _read(folder / "shared_cpu_list")
        match = re.fullmatch(r"(\d+)([KMG]?)", size or "")
        if not (level and kind and match and shared):
            continue
        size_byte = int(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]]
        found.setdefault((int(level), kind, size_byte), set()).add(shared)
    if not found:
        for level, kind, name in ((1, "Data", "hw.l1dcachesize"), (2, "Unified", "hw.l2cachesize")):
            if size := _integer(_sysctl(name)):
                found[(level, kind, size)] = {name}
    return [
        {"level": level, "type": kind, "size_byte": size, "count": len(shared)}
        for (level, kind, size), shared in sorted(found.items())
    ]


def usable_cores() -> int:
    """Logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _hypervisor(entries: Mapping[str, str]) -> tuple[bool | None, str | None]:
    """Whether a hypervisor shows itself (the processor's flag, or the firmware's vendor), and its name if known."""
    if not entries:
        return None, None
    flags = entries.get("flags", entries.get("Features", "")).split()
    vendor = _read("/sys/class/dmi/id/sys_vendor") or ""
    name = _read("/sys/hypervisor/type")
    lscpu = _output(["lscpu"]) or ""
    if match := re.search(r"^Hypervisor vendor:\s*(.+)$", lscpu, re.MULTILINE):
        name = match[1]
    is_virtual = "hypervisor" in flags or name is not None or bool(re.search(r"QEMU|VMware|Xen|Amazon EC2", vendor))
    return is_virtual, name


def _memory_byte() -> float:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float(_integer(_sysctl("hw.memsize")) or 2**30)


def available_memory_byte() -> float | None:
    """Memory that can be allocated now without swapping, in byte; None where the system doesn't tell."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _read("/proc/meminfo") or "", re.MULTILINE)
    return float(match[1]) * 1024 if match else None


def clock_seen_hz() -> float | None:
    """The highest clock that the system reports over the cores, in Hz.

    Under a hypervisor this is often the nominal clock whatever the real one is: see `clock_estimated_hz`.
    """
    scaling = [_integer(_read(path)) for path in Path("/sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_cur_freq")]
    if known := [value for value in scaling if value]:
        return max(known) * 1e3
    seen = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return max(map(float, seen)) * 1e6 if seen else None


_ADD_CHAIN_X86 = bytes.fromhex("b840420f00") + bytes.fromhex("4883c101") * 64 + bytes.fromhex("ffc8") + b"\x0f\x85"
_ADD_CHAIN_COUNT = 64 * 1_000_000


def clock_estimated_hz() -> float | None:
    """The clock one core runs at under load, in Hz: a chain of dependent additions, which take a cycle each.

    64 million ``add rcx, 1`` run as machine code, the best of three. Only on x86-64 Linux; None elsewhere or where code
    in memory may not be run. Cores that fold such additions at rename (Intel since Golden Cove) would look faster than
    they are, so an estimate above 7 GHz is dropped.
    """
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return None
    import mmap

    jump = -(len(_ADD_CHAIN_X86) + 4 - 5)
    code = _ADD_CHAIN_X86 + jump.to_bytes(4, "little", signed=True) + b"\xc3"
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(None)(address)
    best = min(_seconds(function) for _ in range(3))
    estimate = _ADD_CHAIN_COUNT / best
    return estimate if 1e8 < estimate < 7e9 else None


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _clock_policy() -> str | None:
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    boost = _read("/sys/devices/system/cpu/cpufreq/boost")
    no_turbo = _read("/sys/devices/system/cpu/intel_pstate/no_turbo")
    parts = [governor, f"boost {boost}" if boost else None, f"no_turbo {no_turbo}" if no_turbo else None]
    return ", ".join(part for part in parts if part) or None


def _numbers(release: str) -> str:
    """The major and minor number of a release: patches and builders' suffixes don't bear on speed."""
    match = re.match(r"\d+(\.\d+)?", release)
    return match[0] if match else release


def _processor() -> dict[str, object]:
    entries = cpuinfo()
    flags = set(entries.get("flags", entries.get("Features", "")).split())
    is_virtual, hypervisor = _hypervisor(entries)
    return {
        "system": f"{platform.system()} {_numbers(platform.release())}",
        "architecture": platform.machine(),
        "processor": processor_name(entries),
        "processor_vendor": entries.get("vendor_id"),
        "processor_family": _integer(entries.get("cpu family")),
        "processor_model": _integer(entries.get("model")),
        "processor_stepping": _integer(entries.get("stepping")),
        **_topology(),
        "logical_cores": usable_cores(),
        "caches": caches(),
        "simd": " ".join(name for name in SIMD if name in flags),
        "memory_byte": float(round(_memory_byte() / 2**30) or 1) * 2**30,
        "is_virtual": is_virtual,
        "hypervisor": hypervisor,
    }


# Accelerator

_SMI_FIELDS = ("driver_version", "power.limit", "clocks.max.sm", "clocks.sm", "temperature.gpu", "power.draw")
_SMI_THROTTLE = ("clocks_throttle_reasons.hw_slowdown", "clocks_throttle_reasons.sw_thermal_slowdown",
                 "clocks_throttle_reasons.sw_power_cap", "clocks_throttle_reasons.hw_thermal_slowdown")  # fmt: skip


def nvidia_smi(fields: Sequence[str], index: int = 0) -> dict[str, str]:
    """Values of ``nvidia-smi --query-gpu``; empty where the program is missing. Unreadable fields are left out."""
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    values = (_output(command) or "").splitlines()[:1]
    cells = [cell.strip() for cell in values[0].split(",")] if values else []
    if len(cells) != len(fields):
        return {}
    pairs = zip(fields, cells, strict=True)
    return {name: cell for name, cell in pairs if not re.search(r"N/A|Not Supported|Unknown", cell)}


def _scaled(values: Mapping[str, str], name: str, scale: float = 1.0) -> float | None:
    try:
        return float(values[name]) * scale
    except (KeyError, ValueError):
        return None


def _accelerator(device: str) -> dict[str, object]:
    if device == "mps":
        return {"accelerator": f"{processor_name(cpuinfo())} GPU"}
    if device != "cuda":
        return {}
    import torch

    properties = torch.cuda.get_device_properties(0)
    smi = nvidia_smi(_SMI_FIELDS)
    return {
        "accelerator": properties.name,
        "accelerator_memory_byte": float(round(properties.total_memory / 2**30)) * 2**30,
        "accelerator_units": properties.multi_processor_count,
        "accelerator_driver": smi.get("driver_version"),
        "accelerator_power_limit_w": _scaled(smi, "power.limit"),
        "accelerator_clock_max_hz": _scaled(smi, "clocks.max.sm", 1e6),
        "accelerator_clock_hz": _scaled(smi, "clocks.sm", 1e6),
        "accelerator_temperature_c": _scaled(smi, "temperature.gpu"),
    }


def default_device() -> str:
    """The accelerator that torch can use, or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    mps = getattr(torch.backends, "mps", None)
    return "mps" if mps is not None and mps.is_available() else "cpu"


# Software


def _build_values(text: str) -> dict[str, str | None]:
    def found(pattern: str) -> str | None:
        match = re.search(pattern, text)
        return match[1].strip() if match else None

    mkl = found(r"(oneAPI Math Kernel Library Version [\w.\-]+)")
    return {
        "blas": mkl or found(r"BLAS_INFO=(\w+)"),
        "onednn_version": found(r"MKL-DNN (v[\w.]+)"),
        "openmp_version": found(r"(OpenMP \d+)"),
        "build_flags": "; ".join(
            part for part in (found(r"(GCC [\d.]+)"), found(r"(clang [\d.]+)"), found(r"(BLAS_INFO=\w+)"),
                              found(r"(USE_MKLDNN=\w+)"), found(r"(PERF_WITH_AVX512=\w+)"), found(r"(-O\d)\b")) if part
        ) or None,
    }  # fmt: skip


def _software() -> dict[str, object]:
    import numpy
    import torch

    try:
        from importlib.metadata import version

        torchvision_version: str | None = version("torchvision")
    except Exception:
        torchvision_version = None
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    capability = getattr(torch.backends.cpu, "get_cpu_capability", lambda: None)()
    return {
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "torch_version": str(torch.__version__),
        "torchvision_version": torchvision_version,
        "numpy_version": numpy.__version__,
        **_build_values(torch.__config__.show()),
        "cuda_version": torch.version.cuda if torch.cuda.is_available() else None,
        "cudnn_version": str(cudnn) if cudnn is not None and torch.cuda.is_available() else None,
        "cpu_capability": capability,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "precision_settings": f"matmul TF32 {torch.backends.cuda.matmul.allow_tf32}, "
        f"cuDNN TF32 {torch.backends.cudnn.allow_tf32}, default dtype {torch.get_default_dtype()}",
    }


def commit(root: Path = schema.ROOT) -> str | None:
    """The commit that is checked out, with + if tracked files of src/ differ from it; None outside of Git."""
    name = _output(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    if name is None:
        return None
    changed = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no", "--", "src"])
    return f"{name}+" if changed else name


def slug(name: str) -> str:
    """A folder name: lower case letters, digits and hyphens."""
    name = re.sub(r"\((r|tm|c)\)|\bcpu\b|\bprocessor\b|@.*$|\d+-core", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def machine_name(environment: Mapping[str, object]) -> str:
    """The short name of the machine that an environment describes: its accelerator, or its processor and cores.

    A hypervisor may hide the processor's model number; family and model then stand in for it.
    """
    if accelerator := environment.get("accelerator"):
        return slug(str(accelerator))
    processor = str(environment["processor"])
    name = slug(processor)
    if not re.search(r"\d", processor) and environment.get("processor_family") is not None:
        name += f"-family-{environment['processor_family']}-model-{environment['processor_model']}"
    cores = environment["logical_cores"]
    return f"{name}-{cores}-core{'s' if cores != 1 else ''}"


def describe(device: str | None = None, *, with_clock: bool = True) -> dict[str, object]:
    """The environment as it is now: the columns of `schema.ENVIRONMENTS` except its identifier.

    ``device`` says which accelerator takes part, by default the one that torch finds. ``with_clock`` allows the tenth
    of a second that estimating the processor's clock takes.
    """
    device = default_device() if device is None else device
    variables = sorted(name for name in os.environ if STEERING_VARIABLES.match(name))
    set_ = [f"{name}={os.environ[name]}" for name in variables if "/" not in os.environ[name]]
    found = {
        "method_version": timing.METHOD_VERSION,
        **_processor(),
        **_accelerator(device),
        **_software(),
        "recorded_at": time.time(),
        "commit": commit(),
        "clock_seen_hz": clock_seen_hz(),
        "clock_estimated_hz": clock_estimated_hz() if with_clock else None,
        "clock_policy": _clock_policy(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "available_memory_byte": available_memory_byte(),
        "environment_variables": " ".join(set_) or None,
    }
    found["machine"] = machine_name(found)
    return {column.name: found.get(column.name) for column in (*schema.IDENTITY, *schema.STATE)}


# What else the machine does meanwhile


@dataclass(frozen=True)
class Usage:
    """Processor time of the whole machine and of given processes since the start, in s."""

    total_s: float
    idle_s: float
    steal_s: float
    own_s: float
    at_s: float


@dataclass(frozen=True)
class Busyness:
    """What happened between two looks: the share of time stolen, and processors kept busy by others."""

    steal_share: float | None
    other_load: float | None

    def is_busy(self, cores: int) -> bool:
        """Whether other work took more of the machine than the limits."""
        steal, load = self.steal_share or 0.0, self.other_load or 0.0
        return steal > BUSY_STEAL_SHARE or load > BUSY_OTHER_LOAD * cores


def usage(pids: Sequence[int] = ()) -> Usage | None:
    """Processor time so far: the machine's, and that of this process and of ``pids``; None without /proc."""
    stat = _read("/proc/stat")
    if stat is None:
        return None
    tick = os.sysconf("SC_CLK_TCK")
    fields = [int(value) / tick for value in stat.splitlines()[0].split()[1:9]]
    user, nice, system, idle, wait, irq, soft, steal = (*fields, *[0.0] * 8)[:8]
    own = sum(_process_s(pid, tick) for pid in {os.getpid(), *pids})
    return Usage(user + nice + system + idle + wait + irq + soft + steal, idle + wait, steal, own, time.monotonic())


def _process_s(pid: int, tick: int) -> float:
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / tick


def busyness(before: Usage | None, after: Usage | None) -> Busyness:
    """What others did between two looks at `usage` of the same processes; unknown within a twentieth of a second."""
    if before is None or after is None or after.at_s - before.at_s < 0.05 or after.total_s <= before.total_s:
        return Busyness(None, None)
    busy = (after.total_s - after.idle_s - after.steal_s) - (before.total_s - before.idle_s - before.steal_s)
    others = max(0.0, busy - (after.own_s - before.own_s))
    share = max(0.0, after.steal_s - before.steal_s) / (after.total_s - before.total_s)
    return Busyness(share, others / (after.at_s - before.at_s))


def accelerator_state() -> dict[str, float | bool | None]:
    """The NVIDIA accelerator's clock, temperature, power and whether it lowered its clock; None where unreadable."""
    smi = nvidia_smi(("clocks.sm", "temperature.gpu", "power.draw"))
    throttle = nvidia_smi(_SMI_THROTTLE)
    return {
        "clock_hz": _scaled(smi, "clocks.sm", 1e6) or None,
        "temperature_c": _scaled(smi, "temperature.gpu"),
        "power_w": _scaled(smi, "power.draw"),
        "is_throttled": any(cell == "Active" for cell in throttle.values()) if throttle else None,
    }


def main(arguments: list[str] | None = None) -> int:
    """Print which machine this is, as it would be recorded."""
    parser = argparse.ArgumentParser(prog="python -m src.machine", description=main.__doc__)
    parser.add_argument("--device", choices=schema.DEVICES, help="default: the accelerator if torch finds one")
    options = parser.parse_args(arguments)
    print(json.dumps(describe(options.device), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
