"""Says in one line what is missing before a virtual environment is made with this interpreter.

Runs on any Python, old ones too, so that an old one can be told so: no syntax newer than Python 2.7.
"""

import os
import platform
import sys


def find(command):
    """Return the path of a command, or None."""
    for folder in [""] if os.sep in command else os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, command)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def wide_kernel():
    """Return whether the kernel is a 64-bit one, whatever else is."""
    return platform.machine() in ("aarch64", "x86_64")


def problem():
    """Return what stands in the way and what to do about it, or None."""
    version = "%d.%d" % sys.version_info[:2]
    if sys.version_info < (3, 11):
        return "%s is Python %s; edge-sdk needs 3.11 or newer. Say which to use: make PYTHON=python3.11 ..." % (
            sys.executable,
            version,
        )
    if sys.version_info >= (3, 14):
        return (
            "TensorFlow, which the demo and the tests train with, has wheels for Python 3.11 to 3.13 only; "
            "%s is Python %s. Say which to use: make PYTHON=python3.13 ... "
            "(the device part alone works: pip install 'edge-sdk[device]')" % (sys.executable, version)
        )
    if sys.maxsize < 2**32:
        return (
            "this is a 32-bit system (%s%s), for which NumPy, LiteRT and ONNX Runtime have no wheels. Install a 64-bit "
            "one: on a Raspberry Pi 3, 4, 5 or Zero 2, Raspberry Pi OS (64-bit)"
            % (platform.machine(), "; its kernel is a 64-bit one, the rest is not" if wide_kernel() else "")
        )
    import sysconfig

    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return (
            "Python %s cannot make virtual environments. On Debian: apt-get install python3-venv "
            "(or python%s-venv)" % (version, version)
        )
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if find(compiler) is None:
        return "there is no C compiler (%s). On Debian: apt-get install gcc libc6-dev python3-dev" % compiler
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        return "the C headers of Python %s are missing. On Debian: apt-get install python3-dev (or python%s-dev)" % (
            version,
            version,
        )
    return None


if __name__ == "__main__":
    found = problem()
    if found is not None:
        sys.exit("edge-sdk: error: " + found)
