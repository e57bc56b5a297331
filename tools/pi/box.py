"""Runs one command in a folder that holds a Linux for 64-bit ARM, on a processor that QEMU emulates.

Nothing of this machine is changed: files, processes, the network and the table of binary formats are those of
namespaces, which end with the command. It sees no network but loopback of its own. Reads a description as JSON
from the file named on the command line, or with --probe only says whether all of this may be done here.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path

__all__ = ["CPUINFO", "QEMU", "cpuinfo"]

QEMU = "qemu-aarch64-static"

# /usr/share/binfmts/qemu-aarch64; F: QEMU is opened now, not where the folder has none; P: programs keep their name
BINFMT = (
    rb":qemu-aarch64:M:0:\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    rb":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:%b:FP"
)

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}

# what Linux says of the processors of Raspberry Pi 3, 4 and 5, whose features libraries look up; QEMU hands out this
# machine's own file
CPUINFO = {
    "cortex-a53": ("Raspberry Pi 3 Model B Plus Rev 1.3", "0xd03", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a72": ("Raspberry Pi 4 Model B Rev 1.4", "0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "Raspberry Pi 5 Model B Rev 1.0",
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}

_libc = ctypes.CDLL(None, use_errno=True)


def cpuinfo(processor):
    """Return what /proc/cpuinfo of a Raspberry Pi with four cores of this processor says."""
    model, part, features = CPUINFO[processor]
    core = (
        f"processor\t: {{}}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n\n"
    )
    return "".join(map(core.format, range(4))) + f"Model\t\t: {model}\n"


def call(name, *arguments):
    """Call a function of the C library that returns 0 where it worked."""
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def mount(source, target, kind=None, flags=0):
    """Mount; ``kind`` is a file system, or None for another place of something that is mounted already."""
    kind = None if kind is None else kind.encode()
    call("mount", str(source).encode(), str(target).encode(), kind, ctypes.c_ulong(flags), None)


def separate():
    """Put this process, as root, into namespaces of its own; its children will be the first of their processes."""
    user, group = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH", b"lo", IFF_UP | IFF_RUNNING))


def emulate():
    """Let QEMU run what is built for 64-bit ARM."""
    mount("binfmt_misc", "/proc/sys/fs/binfmt_misc", "binfmt_misc")  # since Linux 6.7, one for each user namespace
    Path("/proc/sys/fs/binfmt_misc/register").write_bytes(BINFMT % shutil.which(QEMU).encode())


def furnish(root, binds, processor):
    """Mount what programs expect into the folder that will be their root."""
    mount(root, root, flags=MS_BIND | MS_REC)
    mount("proc", root / "proc", "proc")
    mount("/sys", root / "sys", flags=MS_BIND | MS_REC)
    for name in DEVICES:
        (root / "dev" / name).touch()
        mount(Path("/dev") / name, root / "dev" / name, flags=MS_BIND)
    for name, target in LINKS.items():
        with contextlib.suppress(FileExistsError):
            (root / "dev" / name).symlink_to(target)
    (root / "dev/shm").mkdir(exist_ok=True)
    for folder in ("tmp", "dev/shm"):
        mount("tmpfs", root / folder, "tmpfs")
    said = root / "tmp/.cpuinfo"
    said.write_text(cpuinfo(processor))
    mount(said, root / "proc/cpuinfo", flags=MS_BIND)
    for source, target in binds:
        place = root / target.lstrip("/")
        if Path(source).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        mount(source, place, flags=MS_BIND)
        with contextlib.suppress(OSError):  # where this machine's own mount has options that have to be repeated
            mount(source, place, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def first_process(work):
    """Run ``work`` as a child of the first process of its namespace, which ends all others with it; its exit code."""
    first = os.fork()
    if first:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who types it means the command
        return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = 1
    try:
        command = os.fork()
        if not command:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            work()
        ended = status = None
        while ended != command:
            ended, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
    except BaseException as error:  # noqa: BLE001 - this process must not return into its parent's code
        print(f"edge-sdk: error: {error}", file=sys.stderr)
    finally:
        os._exit(code if code >= 0 else 128 - code)


def run(description):
    """Run the command of a description in its root; return its exit code."""
    root = Path(description["root"])
    separate()

    def work():
        emulate()
        furnish(root, description["binds"], description["processor"])
        os.chroot(root)
        os.chdir(description["folder"])
        command = description["command"]
        os.execvpe(command[0], command, {"QEMU_CPU": description["processor"], **description["environment"]})  # noqa: S606

    return first_process(work)


def probe():
    """Do what needs rights, and nothing else; return an exit code."""
    separate()

    def work():
        emulate()
        mount("proc", "/proc", "proc")
        os.chroot("/")
        os._exit(0)

    return first_process(work)


def main():
    """Run what the command line says."""
    try:
        return probe() if sys.argv[1:] == ["--probe"] else run(json.loads(Path(sys.argv[1]).read_text()))
    except OSError as error:
        print(f"edge-sdk: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
