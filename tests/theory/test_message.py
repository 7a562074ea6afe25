import numpy as np
import pytest

from lit_talr.theory.message import Message

MESSAGE = Message(threads=1, rows=64, context=256, text_checksum=0x01020304, sizes=[(5, 0), (0, 3)], words=np.array([0xA0B0C0D0], dtype=np.uint32))
WRITTEN = bytes.fromhex("74616c72 01 01 4000 00010000 04030201 02000000 05000000 00000000 00000000 03000000 d0c0b0a0")


def test_the_format_is_written_down_here_byte_by_byte() -> None:
    assert MESSAGE.pack()[:-4] == WRITTEN


def test_it_is_read_as_it_was_written() -> None:
    found = Message.unpack(MESSAGE.pack())
    assert found[:5] == MESSAGE[:5] and np.array_equal(found.words, MESSAGE.words)


def test_whatever_is_cut_off_or_changed_is_noticed() -> None:
    whole = MESSAGE.pack()
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"is cut or damaged|is not a text coded by lit_talr"):
            Message.unpack(whole[:length])
    for place in range(len(whole)):
        with pytest.raises(ValueError, match=r"is cut or damaged|is not a text coded by lit_talr"):
            Message.unpack(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])


def test_something_else_and_another_format_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="it begins with b'\\\\x1f\\\\x8b\\\\x08' instead of b'talr'"):
        Message.unpack(b"\x1f\x8b\x08")
    monkeypatch.setattr("lit_talr.theory.message.VERSION", 2)
    later = MESSAGE.pack()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 2, and this version of lit_talr reads format 1"):
        Message.unpack(later)


@pytest.mark.parametrize("name", ["threads", "rows", "context"])
def test_a_run_that_cannot_be_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"0 {name}|of 0 tokens"):
        Message.unpack(MESSAGE._replace(**{name: 0}).pack())
