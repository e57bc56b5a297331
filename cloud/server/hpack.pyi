__all__ = ["TABLE_BYTES", "Decoder"]

TABLE_BYTES: int

class Decoder:
    malformed: bool
    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]: ...
