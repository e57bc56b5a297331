"""Every exception that edge-sdk raises on purpose.

::

    EdgeSdkError
    ├── InputError             (also ValueError)   what the caller passed in
    │   └── DataError                              a data set or a file in it
    ├── MissingExtraError      (also ImportError)  a wheel that is not installed
    ├── KernelError            (also ImportError)  compiled kernels that are missing or do not load
    ├── StorageError           (also OSError)      a folder or disk that cannot be written
    ├── BundleError                                a ``.edge`` bundle
    │   ├── BundleFormatError                      malformed, hostile or too large
    │   ├── BundleVersionError                     made for a newer format or SDK
    │   └── BundleIntegrityError                   bytes differ from the manifest's digests
    ├── ProcessingError                            a processing specification
    │   └── SkewError                              two executors of it disagree
    ├── ModelError                                 a model and its manifest disagree
    │   ├── GoldenError                            golden outputs do not hold
    │   └── ModelClosedError                       used after ``close()``
    ├── CertificateError                           a policy or certificate
    │   └── CannotCertifyError                     too little data, or too much loss
    ├── JournalError                               a journal of decisions
    ├── CompressionError                           training, conversion, export
    ├── ServiceError                               a server or broker of ours
    │   ├── PortInUseError
    │   ├── OverloadedError                        no room or no time for one more request
    │   │   └── RateLimitError                     a caller asks more often than it may
    │   ├── UnknownCallerError                     a call of nobody who is known
    │   ├── NotReadyError                          a model that does not answer now
    │   ├── UnknownModelError  (also LookupError)  a model or version that is not served
    │   └── BrokerError                            no broker, or one that refuses us
    ├── EscalationError                            the cloud did not answer usefully
    └── OtaError                                   an update
        ├── TrustError                             metadata or a target failed verification
        ├── TransferError                          blocks did not arrive
        ├── InstallError                           a slot could not be written or activated
        └── HealthError                            the new version failed its probe

Each message says what was wrong, where, and what to do about it, on one line.
"""

from __future__ import annotations

__all__ = [
    "BrokerError",
    "BundleError",
    "BundleFormatError",
    "BundleIntegrityError",
    "BundleVersionError",
    "CannotCertifyError",
    "CertificateError",
    "CompressionError",
    "DataError",
    "EdgeSdkError",
    "EscalationError",
    "GoldenError",
    "HealthError",
    "InputError",
    "InstallError",
    "JournalError",
    "KernelError",
    "MissingExtraError",
    "ModelClosedError",
    "ModelError",
    "NotReadyError",
    "OtaError",
    "OverloadedError",
    "PortInUseError",
    "ProcessingError",
    "RateLimitError",
    "ServiceError",
    "SkewError",
    "StorageError",
    "TransferError",
    "TrustError",
    "UnknownCallerError",
    "UnknownModelError",
    "one_line",
]


# what a package is imported as -> what it is installed as, where the two differ
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "cv2": "opencv-python-headless",
    "google": "protobuf",
    "grpc": "grpcio",
    "paho": "paho-mqtt",
}


class EdgeSdkError(Exception):
    """Base of every exception that edge-sdk raises on purpose."""


class InputError(EdgeSdkError, ValueError):
    """An argument, array, image or option is not what the call accepts."""


class DataError(InputError):
    """A data set, or a file in it, cannot be used."""


class MissingExtraError(EdgeSdkError, ImportError):
    """A package of an optional extra is not installed.

    Parameters
    ----------
    package
        What could not be imported, by the name it is imported or installed as.
    extra
        Name of the edge-sdk extra that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = _DISTRIBUTIONS.get(package.partition(".")[0], package)
        self.extra = extra
        super().__init__(f"{self.package} is not installed: pip install 'edge-sdk[{extra}]'")


class KernelError(EdgeSdkError, ImportError):
    """The compiled kernels are not there, or this system cannot load them.

    Parameters
    ----------
    cause
        What the import said.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"the compiled kernels do not load ({cause}): reinstall edge-sdk with a C compiler at hand, "
            "or set EDGE_SDK_PURE=1 to compute in NumPy, slower"
        )


class StorageError(EdgeSdkError, OSError):
    """A file or folder cannot be read, written or made durable."""


class BundleError(EdgeSdkError):
    """A ``.edge`` bundle cannot be used."""


class BundleFormatError(BundleError):
    """The archive or its manifest is malformed, hostile or over a limit."""


class BundleVersionError(BundleError):
    """The bundle needs a newer format or SDK than this one."""


class BundleIntegrityError(BundleError):
    """A member's bytes differ from the digest that the manifest names."""


class ProcessingError(EdgeSdkError):
    """A processing specification is invalid or cannot be applied to an input."""


class SkewError(ProcessingError):
    """Two executors of one processing specification disagree beyond tolerance."""


class ModelError(EdgeSdkError):
    """A model cannot be run, or disagrees with its manifest."""


class GoldenError(ModelError):
    """A model does not reproduce the golden outputs of its bundle."""


class ModelClosedError(ModelError):
    """A model was used after it was closed."""


class CertificateError(EdgeSdkError):
    """A policy or certificate is invalid, or does not belong to this model."""


class CannotCertifyError(CertificateError):
    """No threshold can be certified from the calibration data given.

    Parameters
    ----------
    message
        What stood in the way, and what would do.
    needed
        Number of calibration samples that would do, where it can be said.
    """

    def __init__(self, message: str, *, needed: int | None = None) -> None:
        self.needed = needed
        super().__init__(message)


class JournalError(EdgeSdkError):
    """A journal of decisions cannot be read, or cannot answer what is asked of it."""


class CompressionError(EdgeSdkError):
    """Training, conversion or export of a model failed."""


class ServiceError(EdgeSdkError):
    """A service of ours cannot start or go on."""


class PortInUseError(ServiceError):
    """The address a service should listen on is taken."""


class OverloadedError(ServiceError):
    """There is no room, or no time before its deadline, for one more request.

    Attributes
    ----------
    retry_after
        Seconds after which another try may succeed.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class RateLimitError(OverloadedError):
    """A caller asks more often than it may."""


class UnknownCallerError(ServiceError):
    """A call carries neither a token nor a certificate that is known."""


class NotReadyError(ServiceError):
    """A model is there, but does not answer: it hangs, or is being loaded or unloaded."""


class UnknownModelError(ServiceError, LookupError):
    """No such model, or version of it, is served."""


class BrokerError(ServiceError):
    """The MQTT broker cannot be reached, or refuses us."""


class EscalationError(EdgeSdkError):
    """The cloud model gave no usable answer."""


class OtaError(EdgeSdkError):
    """An over-the-air update failed."""


class TrustError(OtaError):
    """Metadata or a target failed verification."""


class TransferError(OtaError):
    """The bytes of an update did not arrive."""


class InstallError(OtaError):
    """A slot could not be written or activated."""


class HealthError(OtaError):
    """A newly installed version failed its health probe."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return what an exception says on one line, of at most ``most`` characters; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
