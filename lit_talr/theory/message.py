"""The format of a coded text: a header, the words of the arithmetic coder, and a checksum of both."""

import struct
import zlib
from typing import NamedTuple

import numpy as np

MAGIC, VERSION = b"talr", 1
HEADER = struct.Struct("<4sBBHIII")  # magic, version, threads, rows, context, checksum of the text, number of pieces
PIECE = struct.Struct("<II")  # numbers of tokens and of raw bytes, one of them 0
CHECKSUM = struct.Struct("<I")  # CRC-32 of everything before it


class Message(NamedTuple):
    """A coded text, and how its model was run; numbers are little-endian."""

    threads: int  # of PyTorch
    rows: int  # blocks that ran in one batch
    context: int  # tokens of a block
    text_checksum: int  # CRC-32 of the text's bytes
    sizes: list[tuple[int, int]]  # tokens and raw bytes of each piece
    words: np.ndarray  # uint32, from the range coder

    def pack(self) -> bytes:
        header = HEADER.pack(MAGIC, VERSION, self.threads, self.rows, self.context, self.text_checksum, len(self.sizes))
        body = header + b"".join(PIECE.pack(*size) for size in self.sizes) + self.words.astype("<u4").tobytes()
        return body + CHECKSUM.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes) -> "Message":
        """Reads a message.

        Raises:
            ValueError: For data that are no message, of another version, or not whole.
        """
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError(f"This is not a text coded by lit_talr: it begins with {data[: len(MAGIC)]!r} instead of {MAGIC!r}.")
        body = data[: -CHECKSUM.size]
        if len(body) < HEADER.size or CHECKSUM.pack(zlib.crc32(body)) != data[-CHECKSUM.size :]:
            raise ValueError(f"The coded text is cut or damaged: the checksum at the end of its {len(data)} bytes does not fit; fetch it again.")
        _, version, threads, rows, context, text_checksum, num_pieces = HEADER.unpack_from(body)
        if version != VERSION:
            raise ValueError(f"The coded text has format {version}, and this version of lit_talr reads format {VERSION}; decode it with the one that wrote it.")
        if 0 in (threads, rows, context):
            raise ValueError(f"The coded text claims to be coded by {threads} threads in {rows} rows of {context} tokens, which cannot be; fetch it again.")
        end = HEADER.size + num_pieces * PIECE.size
        sizes = [(tokens, raw) for tokens, raw in PIECE.iter_unpack(body[HEADER.size : end])]
        return cls(threads, rows, context, text_checksum, sizes, np.frombuffer(body[end:], "<u4").astype(np.uint32))
