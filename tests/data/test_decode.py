import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from helpers.damaged_images import damaged_files, outcome, png, png_chunk, tiff
from verisal.data.decode import decode_image, decode_index_mask, resize_image
from verisal.errors import DataError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> Image.Image:
    """3 wide, 2 high: red green blue over white red green."""
    image = Image.new("RGB", (3, 2))
    image.putdata([RED, GREEN, BLUE, WHITE, RED, GREEN])
    return image


def unit(*pixels: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(pixels, dtype=torch.float32).T / 255


def test_rgb_png_is_read_exactly(tmp_path):
    corners().save(tmp_path / "a.png")
    image = decode_image(tmp_path / "a.png")
    assert image.dtype == torch.float32
    assert image.shape == (3, 2, 3)
    assert torch.equal(image[:, 0], unit(RED, GREEN, BLUE))
    assert torch.equal(image[:, 1], unit(WHITE, RED, GREEN))


def test_every_8_bit_value_is_a_255th(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8)[None]).save(tmp_path / "grey.png")
    image = decode_image(tmp_path / "grey.png")
    expected = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal(image, expected.expand(3, 1, 256))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # What a camera in that position stores, written by hand for each of the eight.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright.T[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    image = decode_image(tmp_path / "a.png")
    assert torch.equal(image[0], torch.from_numpy(upright).float() / 255)


def tags(*entries: tuple[int, int, int, int]) -> bytes:
    """EXIF data: entries of number, type, count, and value or place of the value."""
    block = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + block + bytes(4)


DAMAGED = ((0x10E, 2, 90, 7), (0x10F, 2, 100, 2**32 - 8), (0x110, 99, 1, 0))
"""Text over the end, text from beyond the end, a type that does not exist."""
DAMAGED_TOO = ((0x11A, 5, 1, 2**31), (0x131, 3, 3, 6), (0x8769, 4, 1, 2**31), (0x8825, 2, 2**30, 0))
"""A fraction, three numbers, and the blocks of exposure and place, all from outside."""


def stored(path, exif: bytes) -> None:
    """3 x 2 grey pixels with these tags."""
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    if path.suffix == ".tif":
        entries = tuple(struct.iter_unpack("<HHLL", exif[10:-4]))
        path.write_bytes(tiff(grey[..., None] * np.uint16(257), 1, extra=entries))
    else:
        settings = {"quality": 100} if path.suffix == ".jpg" else {"lossless": True}
        start = b"" if path.suffix == ".png" else b"Exif\0\0"
        Image.fromarray(grey).save(path, exif=start + exif, **settings)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_orientation_is_read_whatever_the_other_tags(tmp_path, ending, orientation):
    path = tmp_path / f"a.{ending}"
    stored(path, tags(*DAMAGED, (0x112, 3, 1, orientation), *DAMAGED_TOO))
    upright = np.rot90(np.arange(6).reshape(2, 3) * 40, {1: 0, 6: -1, 8: 1}[orientation])
    image = decode_image(path)
    assert image.shape[1:] == upright.shape
    assert float((image[0] * 255 - torch.from_numpy(upright.copy())).abs().max()) < 3


@pytest.mark.parametrize(
    ("entry", "height"),
    [
        ((0x112, 4, 1, 6), 3),  # a whole number of 4 bytes
        ((0x112, 3, 1, 0), 2),
        ((0x112, 3, 1, 9), 2),
        ((0x112, 3, 1, 65535), 2),
        ((0x112, 3, 2, 6), 2),  # two of them
        ((0x112, 3, 0, 6), 2),
        ((0x112, 1, 1, 6), 2),  # a byte, text, a fraction, a float, no type
        ((0x112, 2, 2, ord("6")), 2),
        ((0x112, 5, 1, 8), 2),
        ((0x112, 11, 1, 0x40C00000), 2),
        ((0x112, 0, 1, 6), 2),
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_damaged_orientation_is_upright(tmp_path, ending, entry, height):
    stored(tmp_path / f"a.{ending}", tags(entry))
    assert decode_image(tmp_path / f"a.{ending}").shape[1] == height


@pytest.mark.parametrize(
    "exif", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"??*\0" + bytes(20), tags()]
)
def test_exif_data_that_are_none_are_upright(tmp_path, exif):
    stored(tmp_path / "a.png", exif)
    assert decode_image(tmp_path / "a.png").shape == (3, 2, 3)


def test_large_tiff_files_are_turned(tmp_path):
    """A BigTIFF file, which has 8 bytes wherever others have 4."""
    entries = [
        (256, 4, 1, 3),
        (257, 4, 1, 2),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 16),
    ]
    entries += [(0x10F, 2, 100, 2**60), (0x112, 3, 1, 6), (277, 3, 1, 1), (279, 4, 1, 6)]
    block = b"".join(struct.pack("<HHQQ", *entry) for entry in sorted(entries))
    head = b"II+\0" + struct.pack("<HHQ", 8, 0, 22)
    (tmp_path / "a.tif").write_bytes(
        head + bytes(range(6)) + struct.pack("<Q", len(entries)) + block + bytes(8)
    )
    assert (decode_image(tmp_path / "a.tif")[0] * 255).tolist() == [[3, 0], [4, 1], [5, 2]]


def test_orientation_in_text_of_other_programs(tmp_path):
    """Hexadecimal EXIF data in a comment, and XMP where there are no EXIF data."""
    settings = PngInfo()
    settings.add_text("Raw profile type exif", f"\nexif\n  26\n{tags((0x112, 3, 1, 6)).hex()}\n")
    corners().save(tmp_path / "a.png", pnginfo=settings)
    settings = PngInfo()
    settings.add_itxt("XML:com.adobe.xmp", '<rdf tiff:Orientation="6"/>')
    corners().save(tmp_path / "b.png", pnginfo=settings)
    for name in "ab":
        assert decode_image(tmp_path / f"{name}.png")[:, :, 1].equal(unit(RED, GREEN, BLUE))


@pytest.mark.parametrize("chunk", ["comment", "profile", "gamma"])
def test_damage_beside_the_pixels_of_a_png_file_does_not_matter(tmp_path, chunk):
    broken = bytearray(png_chunk(b"tEXt", b"Comment\0words"))
    broken[-1] ^= 1
    large = png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2_000_000)))
    extra = {"comment": bytes(broken), "profile": large, "gamma": png_chunk(b"gAMA", b"\0")}[chunk]
    block = png_chunk(b"eXIf", tags((0x112, 3, 1, 6)))
    (tmp_path / "a.png").write_bytes(png(DEEP[..., :3], 2, extra, block))
    assert decode_image(tmp_path / "a.png").shape == (3, 3, 1)


@pytest.mark.parametrize(
    "error",
    [
        *(TypeError, SyntaxError, struct.error, OverflowError, SystemError, RecursionError, AttributeError),
        *(ZeroDivisionError, AssertionError, KeyError, MemoryError, UnicodeDecodeError, zlib.error),
        Image.DecompressionBombError,
    ],
)
@pytest.mark.parametrize("read", [decode_image, decode_index_mask])
def test_whatever_decoding_raises_is_a_data_error_that_names_the_file(tmp_path, monkeypatch, read, error):
    corners().save(tmp_path / "a.png")

    def fails(image):
        raise error(*(("utf-8", b"?", 0, 1, "bad byte") if error is UnicodeDecodeError else ("bad luck",)))

    monkeypatch.setattr(PngImageFile, "load", fails)
    with pytest.raises(DataError, match=r"a\.png: .*(memory|bad luck|bad byte)"):
        read(tmp_path / "a.png")


def test_damaged_files_of_every_format_are_decoded_or_refused(tmp_path, capfd):
    found = Counter()
    for name, content in damaged_files(400):
        path = tmp_path / name
        path.write_bytes(content)
        found[outcome(path)] += 1
    # The libraries of some formats have their own say; nothing of it is ours.
    capfd.readouterr()
    assert found["decoded"] > 100
    assert found["refused"] > 100
    assert found.total() == 400


def test_transparency_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)])
    image.save(tmp_path / "a.png")
    assert torch.allclose(
        decode_image(tmp_path / "a.png")[:, 0], unit(RED, WHITE, (204, 204, 204)), atol=1e-6
    )


def test_grey_with_alpha(tmp_path):
    image = Image.new("LA", (2, 1))
    image.putdata([(0, 255), (0, 0)])
    image.save(tmp_path / "a.png")
    assert torch.equal(decode_image(tmp_path / "a.png")[:, 0], unit((0, 0, 0), WHITE))


def test_palette_and_transparent_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png")
    assert torch.equal(decode_image(tmp_path / "a.png")[:, 0], unit(RED, BLUE))
    image.save(tmp_path / "b.png", transparency=1)
    assert torch.equal(decode_image(tmp_path / "b.png")[:, 0], unit(RED, WHITE))


def test_one_bit(tmp_path):
    image = Image.new("1", (2, 1))
    image.putdata([0, 255])
    image.save(tmp_path / "a.png")
    assert torch.equal(decode_image(tmp_path / "a.png")[:, 0], unit((0, 0, 0), WHITE))


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (2, 1))
    image.putdata([(0, 255, 255, 0), (0, 0, 0, 255)])
    image.save(tmp_path / "a.tif")
    assert torch.equal(decode_image(tmp_path / "a.tif")[:, 0], unit(RED, (0, 0, 0)))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_wrapped(tmp_path, ending):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    image = decode_image(tmp_path / f"a.{ending}")
    assert torch.allclose(image[1, 0], torch.tensor([0, 255, 256, 32768, 65535]) / 65535, atol=1e-7)


# Red and green in 16 bits, blue, opacity: opaque, clear, and 30 000 of 65 535.
DEEP = np.array(
    [[[65535, 0, 300, 65535], [1000, 2000, 3000, 0], [256, 65535, 32768, 30000]]], dtype=np.uint16
)
OPAQUE = DEEP / 65535
ON_WHITE = OPAQUE[..., :3] * OPAQUE[..., 3:] + 1 - OPAQUE[..., 3:]
GREY_ON_WHITE = np.repeat(OPAQUE[..., 2:3] * OPAQUE[..., 3:] + 1 - OPAQUE[..., 3:], 3, axis=2)


def with_white(column: int, channels: int) -> np.ndarray:
    """The colours, with one pixel that is transparent."""
    seen = np.broadcast_to(OPAQUE[..., :channels], (1, 3, 3)).copy()
    seen[:, column] = 1
    return seen


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rgb.png", png(DEEP[..., :3], 2), OPAQUE[..., :3]),
        ("rgba.png", png(DEEP, 6), ON_WHITE),
        ("grey and opacity.png", png(DEEP[..., 2:], 4), GREY_ON_WHITE),
        ("clear grey.png", png(DEEP[..., :1], 0, png_chunk(b"tRNS", b"\x03\xe8")), with_white(1, 1)),
        (
            "clear colour.png",
            png(DEEP[..., :3], 2, png_chunk(b"tRNS", struct.pack(">3H", *DEEP[0, 2, :3]))),
            with_white(2, 3),
        ),
        (
            # Another colour with the same high bytes.
            "no colour clear.png",
            png(DEEP[..., :3], 2, png_chunk(b"tRNS", struct.pack(">3H", *(DEEP[0, 2, :3] ^ 1)))),
            OPAQUE[..., :3],
        ),
        *(
            (f"{order} {name}.tif", tiff(*rest, order=order), expected)
            for order in "<>"
            for name, rest, expected in (
                ("rgb", (DEEP[..., :3], 2), OPAQUE[..., :3]),
                ("rgba", (DEEP, 2), ON_WHITE),
                ("grey", (DEEP[..., :1], 1), np.repeat(OPAQUE[..., :1], 3, axis=2)),
                ("white is 0", (DEEP[..., :1], 0), 1 - np.repeat(OPAQUE[..., :1], 3, axis=2)),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_16_bits_are_scaled_not_wrapped_and_transparency_is_laid_over_white(
    tmp_path, name, content, expected
):
    (tmp_path / name).write_bytes(content)
    image = decode_image(tmp_path / name)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_16_bit_colour_is_turned(tmp_path, colour):
    pixels = DEEP[..., {2: slice(3), 4: slice(2, 4), 6: slice(4)}[colour]]
    (tmp_path / "a.png").write_bytes(png(pixels, colour, png_chunk(b"eXIf", tags((0x112, 3, 1, 6)))))
    (tmp_path / "b.png").write_bytes(png(pixels, colour))
    turned, stored = decode_image(tmp_path / "a.png"), decode_image(tmp_path / "b.png")
    assert turned.shape == (3, 3, 1)
    assert turned[:, :, 0].equal(stored[:, 0])


def packed(values: list[int], bits: int) -> np.ndarray:
    """One row of values of fewer than 8 bits, as bytes."""
    text = "".join(f"{value:0{bits}b}" for value in values)
    return np.array([[[int(text[at : at + 8].ljust(8, "0"), 2)] for at in range(0, len(text), 8)]])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_and_its_transparent_value(tmp_path, bits):
    last = 2**bits - 1
    values = [0, last, 1, 0]
    content = bytearray(png(packed(values, bits), 0, png_chunk(b"tRNS", struct.pack(">H", 1)), bits=8))
    # Width and bits of the header, and its checksum.
    content[16:20], content[24] = struct.pack(">I", len(values)), bits
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    grey = decode_image(tmp_path / "a.png")
    assert grey[0, 0].tolist() == [0.0, 1.0, 1.0, 0.0]
    assert grey.equal(grey[:1].expand(3, -1, -1))
    assert decode_index_mask(tmp_path / "a.png").tolist() == [values]


def test_float_grey_in_range_is_kept_and_out_of_range_is_refused(tmp_path):
    Image.fromarray(np.array([[0.25, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert torch.equal(decode_image(tmp_path / "a.tif")[0], torch.tensor([[0.25, 1.0]]))
    for wrong in (1.5, float("nan")):
        Image.fromarray(np.array([[0.25, wrong]], dtype=np.float32)).save(tmp_path / "b.tif")
        with pytest.raises(DataError, match=r"b\.tif: grey values from"):
            decode_image(tmp_path / "b.tif")


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(decode_image(tmp_path / "a.gif")[:, 0], unit(RED, RED))


def test_odd_paths(tmp_path):
    path = tmp_path / "мои снимки" / "ein Bild #1 %20 [x]\n.PNG"
    path.parent.mkdir()
    corners().save(path, format="PNG")
    assert decode_image(str(path)).shape == (3, 2, 3)


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "tif", "bmp", "webp"])
def test_truncated_at_every_tenth(tmp_path, ending):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    formats = {"jpg": "JPEG", "tif": "TIFF"}
    picture = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    picture.save(buffer, formats.get(ending, ending.upper()))
    content = buffer.getvalue()
    for tenth in range(1, 9):
        path = tmp_path / f"cut{tenth}.{ending}"
        path.write_bytes(content[: len(content) * tenth // 10])
        with pytest.raises(DataError, match=f"cut{tenth}"):
            decode_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes"), (b"hello, this is text", "not an image"), (b"\x89PNG\r\n\x1a\n", "empty.dat: ")],
)
def test_not_an_image(tmp_path, content, message):
    path = tmp_path / "empty.dat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        decode_image(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        decode_image(tmp_path / "no\0name.png")
    with pytest.raises(DataError, match=r"nowhere\.png: cannot be read"):
        decode_image(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="cannot be read"):
        decode_image(tmp_path)


def test_too_many_pixels_for_us(tmp_path):
    corners().save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", max_pixels=6).shape == (3, 2, 3)
    with pytest.raises(DataError, match=r"a\.png: 3 x 2 pixels, but at most 5"):
        decode_image(tmp_path / "a.png", max_pixels=5)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bomb_is_refused_before_its_pixels_are_made(tmp_path, side):
    # A bitmap header alone: 10 000 pixels a side only warns in Pillow, 20 000 is refused there.
    header = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(header + info)
    with pytest.raises(DataError, match=r"bomb\.bmp: .*shrink"):
        decode_image(tmp_path / "bomb.bmp")


def test_resize_keeps_an_image_of_the_right_size():
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_image(image, 8), image)


def test_resize_crops_the_middle():
    image = torch.zeros(3, 4, 8)
    image[:, :, 2:6] = 1.0
    assert torch.equal(resize_image(image, 4), torch.ones(3, 4, 4))
    assert torch.equal(resize_image(image.transpose(1, 2), 4), torch.ones(3, 4, 4))


def test_resize_is_antialiased():
    # Columns 0 1 0 1 ...: picking pixels would give a constant 0 or 1, averaging gives one half.
    image = torch.arange(64).remainder(2).float().expand(3, 64, 64)
    small = resize_image(image, 8)
    assert torch.allclose(small[:, 2:-2, 2:-2], torch.full((3, 4, 4), 0.5), atol=0.02)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (7, 3), (3, 1000)])
def test_resize_of_any_shape(shape):
    small = resize_image(torch.full((3, *shape), 0.25), 5)
    assert torch.allclose(small, torch.full((3, 5, 5), 0.25))


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 0, 4), (3, 4)])
def test_resize_refuses_what_is_no_image(shape):
    with pytest.raises(DataError, match="image must be"):
        resize_image(torch.zeros(shape), 4)


def test_numbers_of_a_mask_are_not_colours(tmp_path):
    numbers = np.array([[0, 1, 7], [255, 2, 0]], dtype=np.uint8)
    grey = Image.fromarray(numbers)
    palette = Image.new("P", (3, 2))
    palette.putdata(numbers.ravel().tolist())
    palette.putpalette([value for index in range(256) for value in (255 - index, 3, index)])
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = Image.fromarray(np.ascontiguousarray(numbers[::-1, ::-1]))
    for name, image, settings in (
        ("grey", grey, {}),
        ("palette", palette, {}),
        ("transparent", palette, {"transparency": 1}),
        ("turned", turned, {"exif": exif}),
    ):
        image.save(tmp_path / f"{name}.png", **settings)
        found = decode_index_mask(tmp_path / f"{name}.png")
        assert found.dtype == np.int64
        assert found.tolist() == numbers.tolist()


def test_numbers_of_1_and_16_bits(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    assert decode_index_mask(tmp_path / "one.png").tolist() == [[1, 0]]
    Image.fromarray(np.array([[65535, 300]], dtype=np.uint16)).save(tmp_path / "many.png")
    assert decode_index_mask(tmp_path / "many.png").tolist() == [[65535, 300]]


def test_a_picture_in_colour_is_no_mask(tmp_path):
    corners().save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: a mask must have one channel or a palette, found mode RGB"):
        decode_index_mask(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: 3 x 2 pixels, but at most 5"):
        decode_index_mask(tmp_path / "a.png", max_pixels=5)


def test_a_mask_in_jpeg_is_refused(tmp_path):
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a.jpg: a mask in JPEG, which changes numbers at edges"):
        decode_index_mask(tmp_path / "a.jpg")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extra", [(), ("unassalpha",)])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_16_bits_with_one_channel_after_another(tmp_path, order, extra, tile):
    values = np.random.default_rng(0).integers(0, 65536, (3 + len(extra), 20, 30), dtype=np.uint16)
    settings = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": extra, "tile": tile}
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=order, **settings)
    expected = torch.from_numpy(values / 65535).float()
    if extra:
        expected = expected * expected[3] + 1 - expected[3]
    torch.testing.assert_close(decode_image(tmp_path / "a.tif"), expected[:3], atol=1e-6, rtol=0)


def test_no_other_program_is_started_whatever_the_suffix(tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(DataError, match=r"a.jpg: not an image that Pillow knows"):
        decode_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS: fetch the file itself"),
        (b"\n<!DOCTYPE html><html>", "a web page, as a failed download leaves it"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC picture of a phone: convert it"),
        (b"<svg></svg>", "remove it or convert it to PNG"),
    ],
)
def test_what_is_often_taken_for_an_image_is_called_what_it_is(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"a.jpg: not an image that Pillow knows .*{words}"):
        decode_image(tmp_path / "a.jpg")


def test_the_middle_of_other_proportions_is_never_squashed():
    image = torch.zeros(1, 40, 100)
    image[:, 10:30, 40:60] = 1  # a square in the middle
    small = resize_image(image, (20, 30))
    assert small.shape == (1, 20, 30)
    assert small[0].gt(0.5).sum(dim=0).max() == small[0].gt(0.5).sum(dim=1).max() == 10
    assert resize_image(image, (40, 100)).equal(image)
    assert resize_image(image, (16, 16)).equal(resize_image(image, 16))
