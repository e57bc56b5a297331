"""Root folders of a Debian for 64-bit ARM: of 12 (bookworm), on which Raspberry Pi OS stands, and of newer ones.

A private apt fetches the packages and what they depend on, and they are unpacked; what their scripts would set up is
not. Nothing of them is installed here, and apt's own lists and archives are left alone.
"""

import hashlib
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from bytecode import compile_modules

__all__ = ["BOOKWORM", "COMPILING", "KEYS", "MINE", "NEWER", "System", "make_root"]

MINE = "opt/edge-sdk"  # our own wheel, apart from those of others
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LEAST = (
    *("base-files", "coreutils", "dash", "libc-bin", "ca-certificates"),
    "libstdc++6",  # which wheels take for granted
)


@dataclass(frozen=True)
class System:
    """A release of Debian with its Python.

    Attributes
    ----------
    release
        Debian's name of it.
    python
        Version of its Python, such as "3.11".
    packages
        What is unpacked, beside what it depends on.
    """

    release: str
    python: str
    packages: tuple[str, ...]

    @property
    def source(self):
        """What apt is told."""
        return f"deb [signed-by={KEYS}] http://deb.debian.org/debian {self.release} main\n"

    @property
    def site(self):
        """The folder there where Python looks for packages of others."""
        return f"usr/local/lib/python{self.python}/dist-packages"


BOOKWORM = System(
    "bookworm",
    "3.11",
    (
        *LEAST,
        *("python3", "libpython3.11-dev"),  # the second has the headers that our own package is compiled with
        *("mosquitto", "mount"),  # which tests start
    ),
)
COMPILING = replace(BOOKWORM, packages=(*BOOKWORM.packages, "gcc", "libc6-dev"))
NEWER = (  # no release of Debian has Python 3.12
    System("trixie", "3.13", (*LEAST, "python3.13")),
    System("forky", "3.14", (*LEAST, "python3.14")),
)


def make_root(cache, system=BOOKWORM):
    """Return the folder, made in ``cache`` where it is not there yet."""
    recipe = "\n".join((system.source, *system.packages, Path(__file__).read_text())).encode()
    root = cache / f"root-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if not root.exists():
        archives = fetch(cache / "apt" / system.release, system)
        being_made = root.with_suffix(".part")
        shutil.rmtree(being_made, ignore_errors=True)
        unpack(archives, being_made)
        settle(being_made, system)
        library = f"usr/lib/python{system.python}"
        compile_modules(being_made / library, library, system.python)
        being_made.rename(root)
    return root


def fetch(home, system):
    """Fetch the packages and their dependencies; return the archives."""
    for folder in ("etc/preferences.d", "etc/apt.conf.d", "state/lists/partial", "cache/archives/partial"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "etc/sources.list").write_text(system.source)
    (home / "state/status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::Cache": home / "cache",
        "Dir::Etc": home / "etc",
        "Dir::State": home / "state",
        "Dir::State::status": home / "state/status",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    subprocess.run([*apt, "update"], check=True)
    command = [*apt, "install", "--yes", "--download-only", *system.packages]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    listed = subprocess.run([*command, "--print-uris", "-oDir::Cache=/nowhere"], check=True, stdout=subprocess.PIPE)
    names = [line.split()[1] for line in listed.stdout.decode().splitlines()]
    return [home / "cache/archives" / name for name in names]


def unpack(archives, root):
    """Unpack archives of packages into a new folder whose /bin and /lib are those of /usr."""
    (root / "usr").mkdir(parents=True)
    for name in ("bin", "lib", "sbin"):
        (root / "usr" / name).mkdir()
        (root / name).symlink_to(f"usr/{name}")
    for archive in archives:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as reading:
            command = ["tar", "-x", "-C", root, "--keep-directory-symlink", "--no-same-owner"]
            subprocess.run(command, stdin=reading.stdout, check=True)
        if reading.returncode:
            raise subprocess.CalledProcessError(reading.returncode, reading.args)


def settle(root, system):
    """Write what the packages' scripts would, as far as anything here needs it."""
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    # there is but one user in the namespace, whom mosquitto would leave for another
    broker = root / "usr/local/sbin/mosquitto"
    broker.parent.mkdir(parents=True, exist_ok=True)
    broker.write_text('#!/bin/sh\necho "user root" >> "$2"\nexec /usr/sbin/mosquitto "$@"\n')
    broker.chmod(0o755)
    (root / "etc/hosts").write_text("127.0.0.1 localhost raspberrypi\n::1 localhost\n")
    (root / "etc/hostname").write_text("raspberrypi\n")
    (root / system.site).mkdir(parents=True, exist_ok=True)
    python = root / "usr/bin/python3"  # that of a package that may be for another version
    if not python.exists():
        python.symlink_to(f"python{system.python}")
    shared = root / "usr/lib/python3/dist-packages"
    shared.mkdir(parents=True, exist_ok=True)
    (shared / "edge-sdk.pth").write_text(f"/{MINE}\n")
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle.write_text("".join(path.read_text() for path in certificates))
